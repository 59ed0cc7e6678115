//! The program under test, and workers for it.

use std::process::{Output, Stdio};
use std::time::Instant;

use rpc_examples::{Directory, UserDirectoryServer};
use rpc_runtime::{Broker, RequestQueue, RunningServer, Server, service};
use rpc_tests::programs::{LIMIT, example, run, text};
use rpc_tests::rabbit::Vhost;
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// The output and the exit code of the program.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Printed {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Returns the output of a program that succeeded without notes.
    #[track_caller]
    pub(crate) fn result(&self) -> &str {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        &self.stdout
    }

    /// Returns the output of such a program as JSON on one line.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let result = self.result();
        assert_eq!(result.matches('\n').count(), 1, "{result}");
        serde_json::from_str(result).unwrap()
    }

    /// Returns the output of such a program as lines of JSON.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let lines = self.result().lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the error output of a program that printed no result and ended with this code.
    #[track_caller]
    pub(crate) fn failure(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        &self.stderr
    }

    /// Whether no worker answered the program's search. `list` succeeds then.
    fn found_nobody(&self) -> bool {
        let told = ["no worker answered", "no worker was found"];
        matches!(self.code, 0 | 3) && told.iter().any(|told| self.stderr.contains(told))
    }
}

/// Returns the program in an environment without its variables.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rpc"));
    command.args(arguments).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name == "AMQP_URL" || name == "RUST_LOG" || name.starts_with("RPC_RUNTIME_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Runs the program with this address, and again while it finds no worker: a search ends without
/// workers that do not answer in time, and a server may be started before it can be found.
pub(crate) async fn rpc_at(url: &str, arguments: &[&str]) -> Printed {
    let run = async || rpc_at_once(url, arguments).await;
    repeat(run, |printed| !printed.found_nobody()).await
}

pub(crate) async fn rpc(vhost: &Vhost, arguments: &[&str]) -> Printed {
    rpc_at(&vhost.url(), arguments).await
}

/// Runs the program once, even if it finds no worker.
pub(crate) async fn rpc_once(vhost: &Vhost, arguments: &[&str]) -> Printed {
    rpc_at_once(&vhost.url(), arguments).await
}

/// Runs the program until it has found what it has to, or the [`LIMIT`] is over. Returns its last
/// output. For searches for several workers, each of which may leave one out.
pub(crate) async fn rpc_until(
    vhost: &Vhost,
    arguments: &[&str],
    has_found: impl Fn(&Printed) -> bool,
) -> Printed {
    repeat(async || rpc_once(vhost, arguments).await, has_found).await
}

/// Runs the program with this standard input, and again while it finds no worker.
pub(crate) async fn rpc_with_input(vhost: &Vhost, arguments: &[&str], input: &str) -> Printed {
    let run = async || rpc_with_input_once(vhost, arguments, input).await;
    repeat(run, |printed| !printed.found_nobody()).await
}

/// Runs a program until its output is complete, or the [`LIMIT`] is over. Returns the last output.
async fn repeat(run: impl AsyncFn() -> Printed, is_complete: impl Fn(&Printed) -> bool) -> Printed {
    let begun = Instant::now();
    loop {
        let printed = run().await;
        if is_complete(&printed) || begun.elapsed() >= LIMIT {
            return printed;
        }
    }
}

async fn rpc_at_once(url: &str, arguments: &[&str]) -> Printed {
    Printed::new(&run(program(arguments).env("AMQP_URL", url)).await)
}

async fn rpc_with_input_once(vhost: &Vhost, arguments: &[&str], input: &str) -> Printed {
    let mut program = program(arguments)
        .env("AMQP_URL", vhost.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    // It may end before it has read this.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = tokio::time::timeout(LIMIT, program.wait_with_output()).await;
    Printed::new(&ended.expect("it ends").unwrap())
}

/// Interrupts a process like Ctrl-C.
pub(crate) async fn interrupt(pid: u32) {
    signal("INT", pid).await;
}

/// Asks a process to end, as Docker does.
pub(crate) async fn terminate(pid: u32) {
    signal("TERM", pid).await;
}

async fn signal(name: &str, pid: u32) {
    // The shell's own `kill`: not every machine has the program.
    let mut kill = Command::new("/bin/sh");
    assert!(
        run(kill.args(["-c", &format!("kill -{name} {pid}")]))
            .await
            .status
            .success()
    );
}

/// Starts the example `directory_server` as a process, which ends with the handle.
pub(crate) async fn directory_server(vhost: &Vhost) -> Child {
    let worker = example("directory_server")
        .await
        .env("AMQP_URL", vhost.url())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    until("the worker declares its queue", LIMIT, async || {
        Ok(peer.queue_depth("rpc_queue").await?.is_some())
    })
    .await
    .unwrap();
    // Who looks for it finds it from now on.
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    until("the worker is found", LIMIT, async || {
        Ok(!broker.discover().workers().await?.workers.is_empty())
    })
    .await
    .unwrap();
    broker.close().await;
    worker
}

#[service(queue = "books")]
pub(crate) trait Library {
    /// Lends a book.
    async fn lend(&self, title: &str, days: Option<u32>) -> u32;
    /// Does not end within a test.
    #[rpc(idempotent)]
    async fn search(&self);
    #[rpc(oneway)]
    async fn note(&self, text: &str);
    async fn bytes(&self) -> Vec<u8>;
    /// Returns a header and the priority.
    async fn aside(&self, #[rpc(context)] cx: &rpc_runtime::Context) -> (Option<String>, Option<u8>);
    async fn burn(&self);
}

pub(crate) struct Shelf;

impl Library for Shelf {
    async fn lend(&self, _title: &str, days: Option<u32>) -> u32 {
        days.unwrap_or(14)
    }

    async fn search(&self) {
        std::future::pending::<()>().await;
    }

    async fn note(&self, _text: &str) {}

    async fn bytes(&self) -> Vec<u8> {
        vec![1, 2, 255]
    }

    async fn aside(&self, cx: &rpc_runtime::Context) -> (Option<String>, Option<u8>) {
        (cx.headers().get("tenant").map(str::to_owned), cx.priority())
    }

    async fn burn(&self) {
        panic!("it does not burn")
    }
}

/// Whether this tells that [`Library::search`] did not end within 5 s. Its worker abandons it a
/// second later, which a slow caller may learn first.
pub(crate) fn is_late(told: &str) -> bool {
    ["no reply within 5s", "abandoned"]
        .iter()
        .any(|reason| told.contains(reason))
}

/// Starts a worker of the library in the test process.
pub(crate) async fn library(vhost: &Vhost) -> RunningServer {
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = Server::new(&broker).worker_name("librarian").version("2.3.1");
    server.serve(LibraryServer::new(Shelf)).start().await.unwrap()
}

/// Starts a worker of the directory on this queue in the test process.
pub(crate) async fn directory_on(vhost: &Vhost, queue: &str) -> RunningServer {
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let directory = UserDirectoryServer::new(Directory::default());
    let server = Server::new(&broker).serve_on(RequestQueue::new(queue), directory);
    server.start().await.unwrap()
}
