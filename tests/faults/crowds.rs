//! Memory stays bounded, however many call and nobody answers.

use std::env;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rpc_runtime::{Broker, CallError, RequestQueue};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use rpc_tests::gate::{Gate, SOON};
use rpc_tests::ledger::{Book, LedgerClient, serve};

/// Where the crowd calls.
const URL: &str = "RPC_TESTS_CROWD_URL";

const CALLERS: usize = 100_000;

/// How many calls of a client are in flight at the most, by default.
const IN_FLIGHT: u32 = 10_000;

/// How much memory each caller may take in a debug build, its task and all: a multiple of what it
/// does.
const BYTES_EACH: usize = 8 * 1024;

const PATIENCE: Duration = Duration::from_secs(15);

/// The memory of this process, in bytes.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let resident = pages
        .split(' ')
        .nth(1)
        .expect("the second number is the resident size");
    resident.parse::<usize>().unwrap() * 4096
}

/// Not a test: the crowd, in a process of its own whose memory can be measured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes the memory of a process of its own"]
async fn is_a_crowd() {
    let Ok(url) = env::var(URL) else { return };
    let queue = unique("crowd");
    let broker = Broker::connect(&url).await.unwrap();
    let book = Book::behind(Gate::open());
    serve(&broker, RequestQueue::new(&queue), &book)
        .await
        .stop()
        .await
        .unwrap();

    let ledger = LedgerClient::builder(&broker)
        .queue(&queue)
        .timeout(PATIENCE)
        .build();
    let before = resident();
    let mut crowd = JoinSet::new();
    for _ in 0..CALLERS {
        crowd.spawn(ledger.write("into the void"));
    }
    let since = Instant::now();
    let peer = RawPeer::connect(&url).await.unwrap();
    until("as many requests are sent as may be", SOON, async || {
        Ok(peer.queue_depth(&queue).await? == Some(IN_FLIGHT))
    })
    .await
    .unwrap();
    let sent = since.elapsed();
    let most = resident() - before;
    assert_eq!(crowd.len(), CALLERS, "nobody has given up yet");
    assert!(most < CALLERS * BYTES_EACH, "{CALLERS} callers take {most} bytes");

    let (mut sent_in_vain, mut never_sent) = (0, 0);
    while let Some(outcome) = timeout(SOON, crowd.join_next()).await.expect("all end in time") {
        match outcome.unwrap().unwrap_err() {
            CallError::TimedOut { .. } => sent_in_vain += 1,
            CallError::TooManyCalls { .. } | CallError::Overloaded { .. } => never_sent += 1,
            other => panic!("{other:?}"),
        }
    }
    // Places become free when the first calls give up, and go to those that give up a little later:
    // on a slow machine those may be all.
    assert_eq!(sent_in_vain + never_sent, CALLERS);
    eprintln!(
        "the crowd took {} bytes each; {IN_FLIGHT} requests were sent within {sent:?}",
        most / CALLERS
    );
    peer.channel()
        .queue_delete(queue.into(), Default::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn calls_without_replies_take_no_more_memory_than_their_limit() {
    let crowd = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crowds::is_a_crowd", "--ignored", "--nocapture"])
        .env(URL, shared().await)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let crowd = timeout(4 * SOON, crowd).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&crowd.stderr);
    assert!(crowd.status.success(), "{said}");
    assert!(said.contains("the crowd took"), "{said}");
    eprint!("{said}");
}
