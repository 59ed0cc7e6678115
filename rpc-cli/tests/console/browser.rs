//! The page in headless Chromium, which a script of `tests/console` drives.
//!
//! `RPC_TESTS_SCREENSHOTS=docs/images` also makes the pictures of the documentation, in this
//! folder.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rpc_runtime::Broker;
use rpc_tests::gate::SOON;
use rpc_tests::programs::printed;
use rpc_tests::rabbit::Vhost;
use rpc_tests::until;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::console::Console;
use crate::services::{MailClient, OrdersClient, Shop};

/// How long a step of the script may take.
const STEP_LIMIT: Duration = Duration::from_secs(120);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the folder with the packages of npm.
fn packages() -> PathBuf {
    let prepared =
        env::var_os("RPC_TESTS_CONSOLE").map_or_else(|| repository().join("target/console"), PathBuf::from);
    assert!(
        prepared.join("node_modules").exists(),
        "run tests/run once, it prepares target/console: {} is missing",
        prepared.display()
    );
    prepared
}

/// Returns the browser's program.
fn browser() -> PathBuf {
    if let Some(path) = env::var_os("RPC_TESTS_CHROMIUM") {
        return path.into();
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    let programs = env::split_paths(&folders)
        .flat_map(|folder| ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name)));
    let found = programs.into_iter().find(|program| program.exists());
    found.expect("run tests/run once, it installs Chromium: no program chromium is in PATH")
}

/// A script that drives a browser. It prints a line after each of its steps, and goes on with the
/// next one when it gets a line.
struct Script {
    process: Child,
    steps: Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
}

impl Script {
    fn start(name: &str, console: &Console) -> Self {
        let mut process = Command::new("node")
            .arg(repository().join("tests/console").join(name))
            .arg(&console.address)
            .env("RPC_TESTS_CONSOLE", packages())
            .env("RPC_TESTS_CHROMIUM", browser())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("tests/run installs Node.js");
        let stdout = process.stdout.take().expect("it is piped");
        Self {
            steps: BufReader::new(stdout).lines(),
            stdin: process.stdin.take().expect("it is piped"),
            process,
        }
    }

    /// Waits for the end of a step, of which the script prints the name.
    async fn has_done(&mut self, step: &str) {
        let line = timeout(STEP_LIMIT, self.steps.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{step:?} takes too long"));
        let line = line.expect("the script's output can be read");
        assert_eq!(
            line.as_deref(),
            Some(step),
            "the script has failed: see its errors above"
        );
    }

    async fn go_on(&mut self) {
        self.stdin.write_all(b"\n").await.expect("the script reads");
    }

    async fn end(mut self) {
        drop(self.stdin);
        let ended = timeout(STEP_LIMIT, self.process.wait()).await;
        assert!(ended.expect("the script ends").expect("a status").success());
    }
}

/// Calls methods as long as the handle lives, so that there is something to see.
fn traffic(broker: &Broker) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for caller in 0..4_u64 {
        let orders = OrdersClient::new(broker);
        callers.spawn(async move {
            for number in 0.. {
                // Some of the orders do not exist.
                let _ = orders.get(number * 4 + caller).await;
                sleep(Duration::from_millis(20 + number % 40)).await;
            }
        });
    }
    callers
}

async fn dead_mails(broker: &Broker, to: &[&str]) {
    let mail = MailClient::new(broker);
    for to in to {
        mail.send(to, "Your order is on its way").await.unwrap();
    }
    until("the mails are dead letters", SOON, async || {
        // The queue may not be there yet.
        let depth = broker.queue_depth("mail.dead").await;
        Ok(depth.is_some_and(|depth| depth.messages as usize == to.len()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_page_keeps_all_digits_of_json() {
    let script = repository().join("tests/console/json.mjs");
    printed(Command::new("node").arg(script)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_finds_calls_streams_stops_and_retries() {
    let vhost = Vhost::new().await;
    let shop = Shop::new();
    let (broker, _server) = shop.start(&vhost.url(), "shop-1").await;
    dead_mails(&broker, &["alice@example.com"]).await;
    let console = Console::start(&vhost.url(), &[]).await;

    let mut script = Script::start("use.mjs", &console);
    script.has_done("answer after three clicks").await;
    script.go_on().await;
    script.has_done("all digits").await;
    script.go_on().await;
    script.has_done("its own error").await;
    script.go_on().await;

    script.has_done("items arrive").await;
    assert_eq!(shop.streams.load(Ordering::SeqCst), 1);
    script.go_on().await;
    script.has_done("stopped").await;
    // The page is still open, so only the button can have cancelled it.
    until("the worker has dropped the stream", SOON, async || {
        Ok(shop.streams.load(Ordering::SeqCst) == 0)
    })
    .await
    .unwrap();
    script.go_on().await;

    script.has_done("keyboard").await;
    shop.has_route.send_replace(true);
    assert_eq!(shop.mails.load(Ordering::SeqCst), 0);
    script.go_on().await;
    script.has_done("letter retried").await;
    until("the mail is sent", SOON, async || {
        Ok(shop.mails.load(Ordering::SeqCst) == 1)
    })
    .await
    .unwrap();

    let second = Shop::new().start(&vhost.url(), "shop-2").await;
    script.go_on().await;
    script.has_done("worker came").await;
    second.1.stop().await.unwrap();
    script.go_on().await;
    script.has_done("worker went").await;
    script.go_on().await;
    script.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_schema_has_a_form() {
    let vhost = Vhost::new().await;
    let console = Console::start(&vhost.url(), &[]).await;
    let mut script = Script::start("forms.mjs", &console);
    script.has_done("forms").await;
    script.go_on().await;
    script.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_retry_is_told_and_controls_are_escaped() {
    let vhost = Vhost::new().await;
    let console = Console::start(&vhost.url(), &[]).await;
    let mut script = Script::start("letters.mjs", &console);
    script.has_done("failures").await;
    script.go_on().await;
    script.has_done("controls").await;
    script.go_on().await;
    script.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_page_has_no_buttons_that_change_something() {
    let vhost = Vhost::new().await;
    let shop = Shop::new();
    let (broker, _server) = shop.start(&vhost.url(), "shop-1").await;
    dead_mails(&broker, &["alice@example.com"]).await;
    let console = Console::start(&vhost.url(), &["--read-only"]).await;
    let mut script = Script::start("read_only.mjs", &console);
    script.has_done("only looks").await;
    script.go_on().await;
    script.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_fits_phones_and_dark_rooms() {
    let vhost = Vhost::new().await;
    let shop = Shop::new();
    let (broker, _server) = shop.start(&vhost.url(), "shop-1").await;
    let (_other_broker, _other_server) = shop.start(&vhost.url(), "shop-2").await;
    let to = ["ada@example.com", "grace@example.com", "alan@example.com"];
    dead_mails(&broker, &to).await;
    let _traffic = traffic(&broker);
    let console = Console::start(&vhost.url(), &["--interval", "500ms"]).await;
    let mut script = Script::start("looks.mjs", &console);
    script.has_done("fits").await;
    script.go_on().await;
    script.end().await;
}
