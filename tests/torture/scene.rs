//! The broker and the child processes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rpc_tests::hostile::Hostile;
use rpc_tests::proxy::Proxy;
use rpc_tests::rabbit::Node;
use rpc_tests::trace::Trace;
use rpc_tests::until;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::args::{Args, Seat};
use crate::child::UNFINISHED;
use crate::plan::{self, Member};
use crate::service::{QUEUE, TRAP};

/// In seconds. Shorter than the runtime's default of 10, so that it matters in a run of a minute.
const HEARTBEAT: u16 = 3;

/// How long a worker may take until it handles signals.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a worker may take to stop: its drain timeout plus the time to close.
const STOP_LIMIT: Duration = Duration::from_secs(75);

/// Everything that a run needs.
pub(crate) struct Scene {
    args: Args,
    folder: TempDir,
    node: Node,
    /// Held during a fault of the broker: two at once would be a different fault.
    broker: Mutex<()>,
    workers: Vec<Place>,
    callers: Vec<Place>,
    /// `None` if there is none, or it was stopped.
    hostile: StdMutex<Option<Hostile>>,
    /// Failures other than broken promises.
    complaints: StdMutex<Vec<String>>,
}

/// A place for a process. A process that a fault has killed or stopped is replaced by another one,
/// behind the same proxy.
struct Place {
    member: Member,
    proxy: Proxy,
    process: Mutex<Process>,
}

struct Process {
    name: String,
    journal: PathBuf,
    child: Child,
    /// Kept apart from the child, which would close it in `wait`.
    orders: ChildStdin,
    /// 1 for the first process in its place.
    generation: usize,
}

impl Scene {
    /// Starts the broker, the workers, a hostile peer unless `args` excludes it, and the callers.
    /// The peer and the callers start once the request queue is declared and survives a kill.
    pub(crate) async fn start(args: &Args) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("rpc-torture-").tempdir()?;
        let node = Node::start().await?;
        let mut workers = Vec::new();
        for index in 0..args.workers {
            workers.push(place(&node, &folder, args, Member::Worker(index)).await?);
        }
        // A kill could lose a durable queue that was declared shortly before, and a call would
        // report a missing queue.
        until_declared(&node).await?;
        node.flush().await?;
        let hostile = match args.stranger {
            true => Some(Hostile::start(node.url(), QUEUE, TRAP, args.seed).await?),
            false => None,
        };
        let mut callers = Vec::new();
        for index in 0..args.callers {
            callers.push(place(&node, &folder, args, Member::Caller(index)).await?);
        }
        Ok(Self {
            args: args.clone(),
            folder,
            node,
            broker: Mutex::new(()),
            workers,
            callers,
            hostile: StdMutex::new(hostile),
            complaints: StdMutex::default(),
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn proxy(&self, member: Member) -> &Proxy {
        &self.place(member).proxy
    }

    /// Returns the broker, once no other fault of it is under way. Keep the guard until the fault
    /// is healed.
    pub(crate) async fn broker(&self) -> (&Node, tokio::sync::MutexGuard<'_, ()>) {
        let turn = self.broker.lock().await;
        (&self.node, turn)
    }

    /// Waits until a worker has declared the request queue and it survives a kill.
    pub(crate) async fn wait_for_queue(&self) -> anyhow::Result<()> {
        until_declared(&self.node).await?;
        self.node.flush().await
    }

    /// Sends SIGKILL, then starts another process in its place.
    pub(crate) async fn kill(&self, member: Member) -> anyhow::Result<()> {
        let place = self.place(member);
        let mut process = place.process.lock().await;
        self.must_run(&mut process);
        process.child.kill().await?;
        self.replace(place, &mut process).map(drop)
    }

    /// Sends SIGTERM to a worker, once it handles signals, and at once starts another in its place.
    /// Returns after the first has ended. Complains if that takes too long, or its status is bad.
    pub(crate) async fn stop_worker(&self, index: usize) -> anyhow::Result<()> {
        let place = &self.workers[index];
        let mut process = place.process.lock().await;
        until_it_handles_signals(&mut process).await?;
        self.must_run(&mut process);
        let id = process.child.id().context("the worker has ended")?.to_string();
        let mut signal = Command::new("/bin/sh");
        let told = signal.args(["-c", "kill -TERM \"$0\"", &id]).status().await?;
        ensure!(told.success(), "no signal to process {id}: {told}");
        let mut old = self.replace(place, &mut process)?;
        drop(process);
        match timeout(STOP_LIMIT, old.child.wait()).await {
            Ok(Ok(status)) if status.success() || status.code() == Some(UNFINISHED.into()) => {}
            Ok(status) => self.complain(format!("worker {} stopped with {status:?}", old.name)),
            Err(_) => self.complain(format!(
                "worker {} has not stopped within {STOP_LIMIT:?}",
                old.name
            )),
        }
        Ok(())
    }

    /// Tells the callers that all faults are healed. Waits until they have made their last calls
    /// and have exited. Complains if a process has ended by itself, or a caller has failed.
    pub(crate) async fn finish_callers(&self) -> anyhow::Result<()> {
        for place in &self.workers {
            self.must_run(&mut *place.process.lock().await);
        }
        for place in &self.callers {
            let mut process = place.process.lock().await;
            // A caller that is not running is reported below.
            let _ = process.orders.write_all(b"calm\n").await;
        }
        for place in &self.callers {
            let mut process = place.process.lock().await;
            let status = process.child.wait().await?;
            if !status.success() {
                self.complain(format!("caller {} ended with {status}", process.name));
            }
        }
        Ok(())
    }

    /// Stops the hostile peer, if there is one, and returns how many messages it has sent.
    pub(crate) fn stop_hostile_peer(&self) -> usize {
        let mut hostile = self.hostile.lock().unwrap_or_else(PoisonError::into_inner);
        hostile.take().map_or(0, |hostile| hostile.sent())
    }

    /// Starts to count the messages that are published to each queue.
    pub(crate) async fn trace(&self) -> anyhow::Result<Trace> {
        self.node.ctl(&["trace_on"]).await?;
        Trace::of(self.node.url()).await
    }

    /// Returns the failures other than broken promises.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.clone()
    }

    /// Stops everything. Deletes the journals and logs, unless `keep_files` is set.
    pub(crate) async fn stop(self, keep_files: bool) -> anyhow::Result<()> {
        if keep_files {
            println!(
                "torture: journals and logs are in {}",
                self.folder.keep().display()
            );
        }
        // Dropping the processes kills them.
        drop((self.workers, self.callers));
        self.node.stop().await
    }

    fn place(&self, member: Member) -> &Place {
        match member {
            Member::Worker(index) => &self.workers[index],
            Member::Caller(index) => &self.callers[index],
        }
    }

    /// Complains if this process has ended by itself. No fault but a signal may end it.
    fn must_run(&self, process: &mut Process) {
        if let Ok(Some(status)) = process.child.try_wait() {
            self.complain(format!("{} ended by itself, with {status}", process.name));
        }
    }

    /// Adds a failure other than a broken promise.
    pub(crate) fn complain(&self, what: String) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.push(what);
    }

    /// Starts the next process in this place and returns the previous one, which it does not stop.
    fn replace(&self, place: &Place, process: &mut Process) -> anyhow::Result<Process> {
        let generation = process.generation + 1;
        let Self { folder, args, .. } = self;
        let next = start(folder.path(), args, place.member, place.proxy.url(), generation)?;
        Ok(std::mem::replace(process, next))
    }
}

/// Starts a proxy, and the first process of a member behind it.
async fn place(node: &Node, folder: &TempDir, args: &Args, member: Member) -> anyhow::Result<Place> {
    let proxy = Proxy::start(node.url()).await?;
    let process = start(folder.path(), args, member, proxy.url(), 1)?;
    Ok(Place {
        member,
        proxy,
        process: Mutex::new(process),
    })
}

/// Starts this program as a worker or as a caller.
fn start(
    folder: &Path,
    args: &Args,
    member: Member,
    url: &str,
    generation: usize,
) -> anyhow::Result<Process> {
    let name = format!("{member}.{generation}");
    let file = |extension: &str| -> PathBuf { folder.join(format!("{name}.{extension}")) };
    let journal = file("journal");
    let seat = Seat {
        name: name.clone(),
        url: format!("{url}?heartbeat={HEARTBEAT}"),
        journal: journal.clone(),
        seed: args.seed,
        rate: args.rate,
        workers: args.workers,
        batching: plan::batches(args, member),
        jobs: args.jobs.is_some(),
        quorum: args.quorum,
    };
    let role = match member {
        Member::Worker(_) => "worker",
        Member::Caller(_) => "caller",
    };
    let log = File::create(file("log"))?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(role)
        .args(seat.to_words())
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{name} does not start"))?;
    Ok(Process {
        name,
        journal,
        orders: child.stdin.take().context("it is a pipe")?,
        child,
        generation,
    })
}

/// Waits until a worker has created its journal, before which it handles signals, or has ended.
async fn until_it_handles_signals(worker: &mut Process) -> anyhow::Result<()> {
    until("a worker creates its journal", START_LIMIT, async || {
        Ok(worker.journal.exists() || worker.child.try_wait()?.is_some())
    })
    .await
}

async fn until_declared(node: &Node) -> anyhow::Result<()> {
    until(
        "a worker declares the request queue",
        Duration::from_secs(60),
        async || {
            let queues = node.ctl(&["list_queues", "--no-table-headers", "name"]).await?;
            Ok(queues.lines().any(|line| line == QUEUE))
        },
    )
    .await
}
