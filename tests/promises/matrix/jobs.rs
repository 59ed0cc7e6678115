//! Each fault that a network has, at each step of a job: it is published, it is acknowledged, its
//! copy for a retry is published, and so is its dead letter. A job that was confirmed is done or
//! dead, and nothing else is left.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use lapin::types::AMQPValue;
use rpc_runtime::discovery::{dead_queue, retry_queues};
use rpc_runtime::{Broker, CallError, Context, RequestQueue, RunningServer, Server, service};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Direction, Proxy, Sight, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::until;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{MOMENT, Trouble, longest_recovery, network_troubles, proxied};

/// How often a job may run, or die, because of one fault.
const MOST: usize = 2;

/// How long messages may take that a fault had held back.
const LATE: Duration = Duration::from_secs(5);

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct PlannedError;

/// The first attempt of an entry that begins with `failing` fails.
#[service]
trait Jobs {
    #[rpc(oneway, idempotent, retry = "1 time, 100ms")]
    async fn retried(&self, #[rpc(context)] cx: &Context, entry: &str) -> Result<(), PlannedError>;

    #[rpc(oneway, idempotent)]
    async fn tried_once(&self, #[rpc(context)] cx: &Context, entry: &str) -> Result<(), PlannedError>;
}

/// Records the attempts of each entry, which wait at a gate.
#[derive(Clone)]
struct Runs {
    gate: Gate,
    began: Arc<Mutex<HashMap<String, Vec<u32>>>>,
    done: Arc<Mutex<Vec<String>>>,
}

impl Runs {
    async fn run(&self, cx: &Context, entry: &str) -> Result<(), PlannedError> {
        let attempt = cx.attempt();
        let began = || self.began.lock().unwrap();
        began().entry(entry.to_owned()).or_default().push(attempt);
        self.gate.pass().await;
        if entry.starts_with("failing") && attempt == 1 {
            return Err(PlannedError);
        }
        self.done.lock().unwrap().push(entry.to_owned());
        Ok(())
    }

    fn is_done(&self, entry: &str) -> bool {
        self.done.lock().unwrap().iter().any(|done| done == entry)
    }

    /// The attempts of an entry, in order.
    fn attempts(&self, entry: &str) -> Vec<u32> {
        let mut attempts = self.began.lock().unwrap().get(entry).cloned().unwrap_or_default();
        attempts.sort_unstable();
        attempts
    }
}

impl Jobs for Runs {
    async fn retried(&self, cx: &Context, entry: &str) -> Result<(), PlannedError> {
        self.run(cx, entry).await
    }

    async fn tried_once(&self, cx: &Context, entry: &str) -> Result<(), PlannedError> {
        self.run(cx, entry).await
    }
}

/// The step of a job during which the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Publish,
    Settle,
    RetryCopy,
    DeadLetter,
}

const STEPS: [Step; 4] = [Step::Publish, Step::Settle, Step::RetryCopy, Step::DeadLetter];

#[derive(Debug, Clone, Copy)]
struct Cell {
    trouble: Trouble,
    step: Step,
    is_quorum: bool,
}

impl Cell {
    /// The connection's name, by the end that has a proxy.
    fn target(self) -> Target {
        Target::Named(match self.step {
            Step::Settle => "rpc consume",
            Step::Publish | Step::RetryCopy | Step::DeadLetter => "rpc publish",
        })
    }

    /// A request and its copy both name their content type, and the name of their queue comes
    /// before it.
    fn in_frame(self) -> Sight {
        let content_type = "application/msgpack";
        match self.step {
            Step::Settle => Sight::from_broker(content_type),
            Step::Publish | Step::RetryCopy | Step::DeadLetter => Sight::to_broker(content_type),
        }
    }

    /// The jobs that are sent before and during the fault.
    fn entries(self) -> [&'static str; 2] {
        match self.step {
            Step::Publish | Step::Settle => ["before", "during"],
            Step::RetryCopy | Step::DeadLetter => ["failing before", "failing during"],
        }
    }

    fn must_die(self, entry: &str) -> bool {
        self.step == Step::DeadLetter && entry.starts_with("failing")
    }
}

/// A caller and a worker, one of them behind a proxy.
struct Scene {
    cell: Cell,
    queue: String,
    runs: Runs,
    proxy: Proxy,
    client: JobsClient,
    peer: RawPeer,
    server: RunningServer,
    /// The connections of the worker and of the caller.
    _brokers: [Broker; 2],
}

impl Scene {
    async fn new(cell: Cell) -> Self {
        let queue = unique("matrix");
        let runs = Runs {
            gate: Gate::closed(),
            began: Arc::default(),
            done: Arc::default(),
        };
        let (proxy, [caller_url, worker_url]) = proxied(cell.trouble, cell.step == Step::Publish).await;
        let worker = Broker::connect(&worker_url).await.unwrap();
        let requests = match cell.is_quorum {
            true => RequestQueue::new(&queue).quorum(),
            false => RequestQueue::new(&queue),
        };
        let server = Server::new(&worker).serve_on(requests, JobsServer::new(runs.clone()));
        let server = server.start().await.unwrap();
        let caller = Broker::connect(&caller_url).await.unwrap();
        let scene = Self {
            cell,
            client: JobsClient::builder(&caller).queue(&queue).timeout(SOON).build(),
            peer: RawPeer::connect(shared().await).await.unwrap(),
            _brokers: [worker, caller],
            queue,
            runs,
            proxy,
            server,
        };
        // Once, so that all connections and queues are there.
        scene.runs.gate.let_go(1);
        soon("a job is confirmed", scene.send("first"))
            .await
            .unwrap()
            .unwrap();
        scene.runs.gate.began(1).await;
        scene
    }

    fn send(&self, entry: &'static str) -> JoinHandle<Result<(), CallError>> {
        tokio::spawn(match self.cell.step {
            Step::DeadLetter => self.client.tried_once(entry).into_future(),
            _ => self.client.retried(entry).into_future(),
        })
    }

    async fn until_done(&self, entry: &str) {
        until("a job is done", SOON, async || Ok(self.runs.is_done(entry)))
            .await
            .unwrap();
    }

    /// Waits until a queue has as many messages.
    async fn until_depth(&self, queue: &str, is_right: fn(u32) -> bool) {
        until(&format!("{queue} has its messages"), SOON, async || {
            Ok(self.peer.queue_depth(queue).await?.is_none_or(is_right))
        })
        .await
        .unwrap();
    }
}

/// Plays one cell.
async fn play(cell: Cell) {
    let scene = Scene::new(cell).await;
    let [before, during] = cell.entries();
    let struck = scene.proxy.open(cell.target());
    assert!(!struck.is_empty());
    let mut sent = Vec::new();
    if cell.step != Step::Publish {
        sent.push(scene.send(before));
        scene.runs.gate.began(1).await;
    }
    let cut =
        (cell.trouble == Trouble::CutInFrame).then(|| scene.proxy.cut_before(cell.target(), cell.in_frame()));
    let mut since = Instant::now();
    let mut faults = cell.trouble.strike(&scene.proxy, cell.target(), &struck).await;
    if cell.step == Step::Publish {
        sent.push(scene.send(before));
    }
    sent.push(scene.send(during));
    // The step is taken now.
    scene.runs.gate.let_all_go();
    if let Some(cut) = cut {
        cut.happened(SOON).await.unwrap();
        since = Instant::now();
    }
    if cell.trouble.heals() && !faults.is_empty() {
        sleep(MOMENT).await;
        since = Instant::now();
        for fault in faults.drain(..) {
            fault.heal().await;
        }
    }
    let after = soon("a job after all that", scene.send("after")).await;
    after.unwrap().unwrap();
    scene.until_done("after").await;
    let recovery = since.elapsed();

    for sent in sent {
        let confirmed = soon("a call ends", sent).await.unwrap();
        assert!(confirmed.is_ok(), "{confirmed:?}");
    }
    for entry in [before, during].into_iter().filter(|entry| !cell.must_die(entry)) {
        scene.until_done(entry).await;
    }
    let dead = dead_queue(&scene.queue);
    if cell.step == Step::DeadLetter {
        scene.until_depth(&dead, |messages| messages >= 2).await;
    }
    drop(faults);
    if !cell.trouble.heals() {
        // What was held back reaches the broker now, and may be the same job again.
        sleep(LATE).await;
    }
    let longest = longest_recovery(cell.trouble);
    assert!(recovery < longest, "it took {recovery:?} to recover");
    assert_nothing_is_left(scene).await;
}

/// Checks that each job ran and died as often as it may, and that no message is left.
async fn assert_nothing_is_left(scene: Scene) {
    for queue in retry_queues(&scene.queue).chain([scene.queue.clone()]) {
        scene.until_depth(&queue, |messages| messages == 0).await;
    }
    let Scene {
        cell,
        queue,
        runs,
        peer,
        server,
        ..
    } = scene;
    soon("the worker stops", server.stop()).await.unwrap();
    for queue in retry_queues(&queue).chain([queue.clone()]) {
        let left = peer.queue_depth(&queue).await.unwrap();
        assert!(matches!(left, None | Some(0)), "{left:?} are left in {queue}");
    }
    let letters = letters(&peer, &dead_queue(&queue)).await;
    let entries = cell.entries();
    for entry in entries.into_iter().chain(["first", "after"]) {
        let attempts = runs.attempts(entry);
        let last = if cell.step == Step::RetryCopy && entries.contains(&entry) {
            2
        } else {
            1
        };
        for attempt in 1..=last {
            let ran = attempts.iter().filter(|it| **it == attempt).count();
            assert!(
                (1..=MOST).contains(&ran),
                "attempt {attempt} of {entry}: {attempts:?}"
            );
        }
        assert_eq!(attempts.last(), Some(&last), "{entry}");
        let died = letters.iter().filter(|letter| letter.contains(entry)).count();
        if cell.must_die(entry) {
            assert!((1..=MOST).contains(&died), "{entry} died {died} times");
            assert!(!runs.is_done(entry), "{entry} is done and dead");
        } else {
            assert_eq!(died, 0, "{entry} is done and dead");
        }
    }
}

/// Returns the bodies of all dead letters, as text.
async fn letters(peer: &RawPeer, dead: &str) -> Vec<String> {
    let count = peer.queue_depth(dead).await.unwrap().unwrap();
    let mut consumer = peer.consume(dead).await.unwrap();
    let mut letters = Vec::new();
    for _ in 0..count {
        let letter = next(&mut consumer, SOON).await.unwrap().expect("a letter");
        let headers = letter.properties.headers().as_ref().unwrap().inner();
        let attempts = headers.get("rpc-attempts");
        assert_eq!(attempts, Some(&AMQPValue::LongString("1".into())));
        letters.push(String::from_utf8_lossy(&letter.data).into_owned());
    }
    letters
}

/// Plays all cells of one fault at once.
async fn play_all(_: &'static str, trouble: Trouble) {
    let cells = STEPS.iter().flat_map(|&step| {
        [false, true].map(|is_quorum| Cell {
            trouble,
            step,
            is_quorum,
        })
    });
    let plays = cells.map(async |cell| {
        if let Err(panic) = AssertUnwindSafe(play(cell)).catch_unwind().await {
            eprintln!("that was in {cell:?}");
            resume_unwind(panic)
        }
    });
    join_all(plays).await;
}

network_troubles!(play_all);
