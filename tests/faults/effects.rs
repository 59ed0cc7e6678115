//! Effects that happen exactly once, and calls that are sent if a transaction commits: the examples
//! `effects_once` and `outbox`, whose processes are killed at each step.

use std::path::PathBuf;
use std::time::Duration;

use rpc_runtime::{Broker, CallError, FaultCode, service};
use rpc_tests::asking::depth;
use rpc_tests::gate::{SOON, soon};
use rpc_tests::programs::{example, printed, run};
use rpc_tests::rabbit::Vhost;
use rpc_tests::until;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

/// As in the example `effects_once`.
#[service(queue = "example.bank")]
trait Bank {
    #[rpc(oneway, idempotent)]
    async fn deposit(&self, cents: i64);
    async fn withdraw(&self, cents: i64) -> Result<i64, serde_json::Value>;
}

/// An example, its database and its broker.
struct Example {
    name: &'static str,
    vhost: Vhost,
    folder: TempDir,
}

impl Example {
    async fn new(name: &'static str) -> Self {
        // Builds it, before any call waits for it.
        example(name).await;
        Self {
            name,
            vhost: Vhost::new().await,
            folder: TempDir::new().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("database.sqlite")
    }

    async fn command(&self) -> Command {
        let mut command = example(self.name).await;
        command
            .env("AMQP_URL", self.vhost.url())
            .env("DATABASE", self.path());
        command
    }

    /// Runs the example until it crashes at this step.
    async fn crash_at(&self, step: &str) {
        let output = run(self.command().await.env("CRASH_AT", step)).await;
        assert!(output.status.code().is_none(), "{step}: {output:?}");
    }

    /// Returns the number that a query selects.
    fn number(&self, query: &str) -> i64 {
        let database = Connection::open(self.path()).unwrap();
        database.query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// Returns the number of payments; 0 as long as there is no table.
    fn payments(&self) -> i64 {
        let database = Connection::open(self.path()).unwrap();
        let count = database.query_row("SELECT count(*) FROM payments", [], |row| row.get(0));
        count.unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_has_its_effect_once_whenever_its_worker_is_killed() {
    const JOBS: i64 = 60;
    let example = Example::new("effects_once").await;
    let broker = Broker::connect(&example.vhost.url()).await.unwrap();
    let bank = BankClient::builder(&broker).wait_for_server(true).build();
    // The first worker declares the queue.
    let worker = example.command().await.spawn().unwrap();
    for _ in 0..JOBS / 2 {
        soon("the broker has it", bank.deposit(1)).await.unwrap();
    }
    drop(worker);
    for _ in JOBS / 2..JOBS {
        soon("the broker has it", bank.deposit(1)).await.unwrap();
    }
    for step in ["before commit", "after commit", "before commit", "after commit"] {
        example.crash_at(step).await;
    }
    until("a job comes back that had its effect", SOON, async || {
        let waiting = broker.queue_depth("example.bank").await;
        let waiting = waiting.map_or(0, |depth| i64::from(depth.messages));
        Ok(waiting + example.payments() > JOBS)
    })
    .await
    .unwrap();
    // At any moment.
    for _ in 0..4 {
        let before = example.payments();
        let mut worker = example.command().await.spawn().unwrap();
        let grew = async {
            while example.payments() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // None may be left.
        let _ = timeout(Duration::from_secs(2), grew).await;
        worker.kill().await.unwrap();
    }
    let mut worker = example.command().await.spawn().unwrap();
    until("all jobs are done", SOON, async || Ok(example.payments() == JOBS))
        .await
        .unwrap();
    until("they are acknowledged", SOON, async || {
        let depth = broker.queue_depth("example.bank").await;
        Ok(depth.is_some_and(|depth| depth.messages == 0))
    })
    .await
    .unwrap();
    worker.kill().await.unwrap();
    assert_eq!(example.number("SELECT sum(cents) FROM payments"), JOBS);
    assert_eq!(depth(&broker, "example.bank.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_worker_was_killed_is_answered_if_its_outcome_was_stored() {
    let example = Example::new("effects_once").await;
    let broker = Broker::connect(&example.vhost.url()).await.unwrap();
    let bank = BankClient::builder(&broker).wait_for_server(true).build();

    let call = tokio::spawn(bank.withdraw(1));
    example.crash_at("outcome stored").await;
    let mut worker = example.command().await.spawn().unwrap();
    assert_eq!(soon("the answer", call).await.unwrap().unwrap(), -1);
    worker.kill().await.unwrap();
    // Otherwise the broker may still deliver the next call to this worker.
    until("the worker is gone", SOON, async || {
        let depth = broker.queue_depth("example.bank").await;
        Ok(depth.is_some_and(|depth| depth.consumers == 0))
    })
    .await
    .unwrap();

    let call = tokio::spawn(bank.withdraw(1));
    example.crash_at("after commit").await;
    let mut worker = example.command().await.spawn().unwrap();
    match soon("the fault", call).await.unwrap() {
        Err(CallError::Fault(fault)) => assert_eq!(fault.code, FaultCode::Interrupted),
        other => panic!("{other:?}"),
    }
    worker.kill().await.unwrap();
    assert_eq!(example.payments(), 2);
}

#[tokio::test]
async fn a_call_in_an_outbox_is_sent_whenever_its_program_is_killed() {
    let example = Example::new("outbox").await;
    for step in ["before commit", "after commit", "sent", "deleted", "shipped"] {
        example.crash_at(step).await;
    }
    assert_eq!(
        printed(&mut example.command().await).await,
        "3 orders, 3 shipments, 0 calls in the outbox\n"
    );
}
