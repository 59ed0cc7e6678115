//! Effects that happen exactly once, although requests may be delivered twice: the id of the
//! request is written in the same transaction as the effect, and a layer answers a repeated call
//! with the stored outcome.
//!
//! ```sh
//! cargo run --example effects_once                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example effects_once       # over RabbitMQ
//! ```
//!
//! With `DATABASE=bank.sqlite` and `AMQP_URL` it is a worker that serves until it is killed.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rpc_examples::{Database, broker, crash_point, log_to_stderr};
use rpc_runtime::middleware::{BoxError, Idempotency, IdempotencyStore, StoredOutcome};
use rpc_runtime::{Broker, Context, RequestId, RunningServer, Server, ServerError, service};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS payments (request_id TEXT PRIMARY KEY, cents INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS outcomes (request_id TEXT PRIMARY KEY, outcome BLOB NOT NULL);
";

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum BankError {
    #[error("the caller sent no UUID as the correlation id")]
    NoRequestId,
    #[error("the database failed: {0}")]
    Database(String),
}

impl From<rusqlite::Error> for BankError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.to_string())
    }
}

#[service(queue = "example.bank")]
trait Bank {
    /// Deposits money. A job, which may be delivered more than once.
    #[rpc(oneway, idempotent, retry = "5 times, 100ms to 1s")]
    async fn deposit(&self, #[rpc(context)] cx: &Context, cents: i64) -> Result<(), BankError>;

    /// Withdraws money and returns what is left. Runs at most once.
    async fn withdraw(&self, #[rpc(context)] cx: &Context, cents: i64) -> Result<i64, BankError>;
}

struct Account {
    database: Database,
}

impl Account {
    /// Changes the balance, once for each request. Returns the current balance, also if the request
    /// has come before.
    async fn pay(&self, cx: &Context, cents: i64) -> Result<i64, BankError> {
        let id = cx.request_id().ok_or(BankError::NoRequestId)?.to_string();
        let statements = move |connection: &mut rusqlite::Connection| {
            let transaction = connection.transaction()?;
            // Changes nothing if the request has paid before.
            transaction.execute(
                "INSERT INTO payments (request_id, cents) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![id, cents],
            )?;
            let left = transaction.query_row("SELECT sum(cents) FROM payments", [], |row| row.get(0))?;
            crash_point("before commit");
            transaction.commit()?;
            crash_point("after commit");
            Ok(left)
        };
        Ok(self.database.run(statements).await?)
    }
}

impl Bank for Account {
    async fn deposit(&self, cx: &Context, cents: i64) -> Result<(), BankError> {
        self.pay(cx, cents).await.map(drop)
    }

    async fn withdraw(&self, cx: &Context, cents: i64) -> Result<i64, BankError> {
        self.pay(cx, -cents).await
    }
}

/// Keeps the outcomes of requests in the database.
struct Outcomes {
    database: Database,
    /// If set, it is notified once an outcome is stored, and the request gets no reply. For the
    /// demonstration of a worker that is lost at the worst moment.
    then_lost: Option<Arc<Notify>>,
}

impl IdempotencyStore for Outcomes {
    async fn load(&self, id: RequestId) -> Result<Option<StoredOutcome>, BoxError> {
        let statement = move |connection: &mut rusqlite::Connection| {
            let query = "SELECT outcome FROM outcomes WHERE request_id = ?1";
            let row = connection.query_row(query, [id.to_string()], |row| row.get::<_, Vec<u8>>(0));
            row.optional()
        };
        let bytes = self.database.run(statement).await?;
        Ok(bytes.map(|bytes| StoredOutcome::from_bytes(&bytes)).transpose()?)
    }

    async fn save(&self, id: RequestId, outcome: StoredOutcome) -> Result<(), BoxError> {
        let statement = move |connection: &mut rusqlite::Connection| {
            connection.execute(
                "INSERT INTO outcomes (request_id, outcome) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![id.to_string(), outcome.to_bytes()],
            )
        };
        self.database.run(statement).await?;
        crash_point("outcome stored");
        if let Some(stored) = &self.then_lost {
            stored.notify_one();
            pending::<()>().await;
        }
        Ok(())
    }
}

async fn serve(
    broker: &Broker,
    database: &Database,
    then_lost: Option<Arc<Notify>>,
) -> Result<RunningServer, ServerError> {
    let outcomes = Outcomes {
        database: database.clone(),
        then_lost,
    };
    let account = Account {
        database: database.clone(),
    };
    Server::new(broker)
        // A deposit has no reply, so it needs no stored outcome.
        .layer(Idempotency::new(outcomes).only(["Bank.withdraw"]))
        .serve(BankServer::new(account))
        .start()
        .await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let database = Database::open(TABLES)?;
    if std::env::var_os("DATABASE").is_some() {
        let _server = serve(&broker, &database, None).await?;
        return pending().await;
    }

    // A job that is sent twice, with one request id, and another job.
    let server = serve(&broker, &database, None).await?;
    let bank = BankClient::new(&broker);
    let deposit = bank.deposit(5000).encode()?;
    broker.send(&deposit).await?;
    broker.send(&deposit).await?;
    bank.deposit(100).await?;
    while database.number("SELECT count(*) FROM payments").await? < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await?;
    let cents = database.number("SELECT sum(cents) FROM payments").await?;
    println!("of three deliveries of two deposits, {cents} cents are there");

    // A call whose worker is lost before it can answer.
    let stored = Arc::new(Notify::new());
    let lost = serve(&broker, &database, Some(Arc::clone(&stored))).await?;
    let withdrawal = tokio::spawn(bank.withdraw(1000));
    stored.notified().await;
    drop(lost);
    let server = serve(&broker, &database, None).await?;
    println!("the next worker answers: {} cents are left", withdrawal.await??);

    server.stop().await?;
    broker.close().await;
    Ok(())
}
