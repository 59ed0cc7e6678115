//! Processes that a test starts and may kill: the test's own program, which runs an ignored test.

use std::env;
use std::io::Read as _;
use std::process::Stdio;

use rpc_tests::gate::soon;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

/// What a child prints when it is ready.
const READY: &str = "ready";

/// Tells the parent that this process is ready, and waits until the parent stops it or is gone.
pub(crate) async fn is_ready() {
    eprintln!("{READY}");
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await.unwrap().unwrap();
}

/// A process that is killed when this is dropped.
pub(crate) struct ChildProcess {
    pub(crate) process: Child,
    /// The child runs as long as this is open. tokio would close it when it waits for the process.
    lifeline: ChildStdin,
    says: Lines<BufReader<ChildStderr>>,
}

impl ChildProcess {
    /// Starts a process that runs this ignored test with these environment variables. Returns once
    /// it [is ready](is_ready).
    pub(crate) async fn start<'a>(
        test: &str,
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut child = Self {
            lifeline: process.stdin.take().unwrap(),
            process,
            says,
        };
        child.says(READY).await;
        child
    }

    /// Lets the process end by itself, and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.lifeline);
        let ended = soon("the process ends", self.process.wait()).await.unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// Waits until the process prints this.
    pub(crate) async fn says(&mut self, what: &str) {
        let said = async { while self.says.next_line().await.unwrap().expect("it still runs") != what {} };
        soon(what, said).await;
    }
}
