//! A worker's process that dies takes nothing along but what may not run twice; and a request that
//! kills its workers does not kill them for ever.

use std::env;
use std::time::Duration;

use rpc_runtime::{Broker, CallError, RequestQueue, Server};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use tokio::time::Instant;

use rpc_tests::gate::{Gate, SOON};
use rpc_tests::ledger::{
    Book, Ledger, LedgerClient, LedgerServer, assert_interrupted, client, outcome, serve,
};

use crate::children::{self, ChildProcess};

/// What tells the other process where to serve.
const URL: &str = "RPC_TESTS_WORKER_URL";
const QUEUE: &str = "RPC_TESTS_WORKER_QUEUE";
const DELIVERY_LIMIT: &str = "RPC_TESTS_WORKER_DELIVERY_LIMIT";

/// Entries that kill their worker; all others are held for ever.
const POISON: &str = "poison";

/// A ledger that no request survives.
struct Grave;

impl Grave {
    async fn run(&self, entry: &str) {
        eprintln!("began {entry}");
        if entry == POISON {
            std::process::abort();
        }
        std::future::pending::<()>().await;
    }
}

impl Ledger for Grave {
    async fn read(&self, entry: &str) {
        self.run(entry).await;
    }

    async fn write(&self, entry: &str) {
        self.run(entry).await;
    }

    async fn produce(&self, _: usize) -> Vec<u8> {
        Vec::new()
    }

    async fn consume(&self, _: &[u8]) {}

    async fn look_at(&self, _: &[u8]) {}
}

/// A quorum queue, where it is to count how often requests come back.
fn request_queue(name: &str, delivery_limit: Option<u16>) -> RequestQueue {
    let queue = RequestQueue::new(name);
    match delivery_limit {
        Some(limit) => queue.quorum().delivery_limit(limit),
        None => queue,
    }
}

/// Not a test: the worker that the others run in a process of its own, and kill.
#[tokio::test]
#[ignore = "is there to be killed"]
async fn is_a_worker() {
    let Ok(url) = env::var(URL) else { return };
    let limit = env::var(DELIVERY_LIMIT).ok().map(|limit| limit.parse().unwrap());
    let queue = request_queue(&env::var(QUEUE).unwrap(), limit);
    let broker = Broker::connect(&url).await.unwrap();
    let server = Server::new(&broker)
        .serve_on(queue, LedgerServer::new(Grave))
        .start()
        .await
        .unwrap();
    children::is_ready().await;
    server.stop().await.unwrap();
}

/// Starts a worker in a process of its own.
async fn start(queue: &str, delivery_limit: Option<u16>) -> ChildProcess {
    let limit = delivery_limit.map(|limit| limit.to_string());
    let limit = limit.as_deref().map(|limit| (DELIVERY_LIMIT, limit));
    let settings = [(URL, shared().await), (QUEUE, queue)].into_iter().chain(limit);
    ChildProcess::start("processes::is_a_worker", settings).await
}

#[tokio::test]
async fn calls_of_a_killed_worker_run_again_if_idempotent_and_fail_at_once_otherwise() {
    let queue = unique("processes");
    let mut victim = start(&queue, None).await;
    let caller = Broker::connect(shared().await).await.unwrap();
    let ledger = client(&caller, &queue);
    let read = tokio::spawn(ledger.read("held"));
    victim.says("began held").await;
    let write = tokio::spawn(ledger.write("held"));
    victim.says("began held").await;

    let book = Book::behind(Gate::open());
    let broker = Broker::connect(shared().await).await.unwrap();
    let survivor = serve(&broker, RequestQueue::new(&queue), &book).await;
    victim.process.kill().await.unwrap();
    let killed = Instant::now();
    assert_interrupted(outcome(write).await);
    outcome(read).await.unwrap();
    assert!(killed.elapsed() < SOON / 3, "that was not at once");
    survivor.stop().await.unwrap();
    assert_eq!(book.runs("held"), 1, "the read alone");
}

/// Has workers run a request that kills them, each replaced by another, until the call ends.
/// Answers with its outcome, and with the number of workers that died.
async fn poisoned(queue: &str, limit: Option<u16>, call: Call) -> (Result<(), CallError>, usize) {
    let caller = Broker::connect(shared().await).await.unwrap();
    let ledger = LedgerClient::builder(&caller)
        .queue(queue)
        .timeout(SOON)
        .wait_for_server(true)
        .build();
    let mut outcome = Box::pin(call(&ledger));
    let mut dead = 0;
    loop {
        let mut worker = start(queue, limit).await;
        tokio::select! {
            outcome = &mut outcome => {
                worker.stop().await;
                return (outcome, dead);
            }
            _ = worker.process.wait() => dead += 1,
        }
    }
}

type Call = fn(&LedgerClient) -> rpc_runtime::Call<()>;

/// Now that it has no worker who could hold a message.
async fn assert_empty(queue: &str) {
    let peer = RawPeer::connect(shared().await).await.unwrap();
    peer.wait_until_empty(queue, Duration::from_secs(10))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_poisonous_request_that_may_not_run_again_kills_one_worker() {
    let queue = unique("processes");
    let (outcome, dead) = poisoned(&queue, None, |ledger| ledger.write(POISON)).await;
    assert_interrupted(outcome);
    assert_eq!(dead, 1);
    assert_empty(&queue).await;
}

#[tokio::test]
async fn a_poisonous_request_kills_no_more_workers_than_its_queue_allows() {
    let queue = unique("processes");
    let (outcome, dead) = poisoned(&queue, Some(2), |ledger| ledger.read(POISON)).await;
    assert_interrupted(outcome);
    assert_eq!(dead, 2);
    assert_empty(&queue).await;
}
