//! An outbox: a call that is sent if and only if the transaction commits in which it was written.
//! Whenever the process is killed, each order is shipped once after the next start.
//!
//! ```sh
//! cargo run --example outbox                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example outbox       # over RabbitMQ
//! ```
//!
//! With `AMQP_URL` and `DATABASE=shop.sqlite` it continues where it was killed. Otherwise the
//! process takes its jobs or its orders with it.

use std::time::Duration;

use rpc_examples::{Database, broker, crash_point, log_to_stderr};
use rpc_runtime::{Broker, Context, EncodedCall, Server, service};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS orders (item TEXT PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY, call BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS shipments (request_id TEXT PRIMARY KEY, item TEXT NOT NULL);
";

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("not shipped: {0}")]
struct NotShipped(String);

#[service(queue = "example.warehouse")]
trait Warehouse {
    #[rpc(oneway, idempotent, retry = "5 times, 100ms to 1s")]
    async fn ship(&self, #[rpc(context)] cx: &Context, item: &str) -> Result<(), NotShipped>;
}

/// The worker. A real one would have a database of its own.
struct Shelf(Database);

impl Warehouse for Shelf {
    async fn ship(&self, cx: &Context, item: &str) -> Result<(), NotShipped> {
        let id = cx
            .request_id()
            .ok_or_else(|| NotShipped("no request id".into()))?;
        let item = item.to_owned();
        let shipped = self.0.run(move |connection| {
            // Changes nothing if the request has been here before.
            let inserted = connection.execute(
                "INSERT INTO shipments (request_id, item) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![id.to_string(), item],
            );
            crash_point("shipped");
            inserted
        });
        shipped
            .await
            .map(drop)
            .map_err(|error| NotShipped(error.to_string()))
    }
}

/// Places an order, and writes the call into the outbox in the same transaction. Changes nothing if
/// the order exists.
async fn order(database: &Database, warehouse: &WarehouseClient, item: &'static str) -> anyhow::Result<()> {
    let call = warehouse.ship(item).encode()?;
    let statements = move |connection: &mut rusqlite::Connection| {
        let transaction = connection.transaction()?;
        let inserted = transaction.execute(
            "INSERT INTO orders (item) VALUES (?1) ON CONFLICT DO NOTHING",
            [item],
        )?;
        if inserted == 1 {
            transaction.execute("INSERT INTO outbox (call) VALUES (?1)", [call.to_bytes()])?;
        }
        crash_point("before commit");
        transaction.commit()
    };
    database.run(statements).await?;
    crash_point("after commit");
    Ok(())
}

/// Sends the oldest call of the outbox, and then deletes it. Returns `false` if there is none.
async fn send_next(database: &Database, broker: &Broker) -> anyhow::Result<bool> {
    let next = database.run(|connection| {
        let query = "SELECT number, call FROM outbox ORDER BY number LIMIT 1";
        let columns = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?));
        connection.query_row(query, [], columns).optional()
    });
    let Some((number, call)) = next.await? else {
        return Ok(false);
    };
    // Returns once the broker has confirmed the job. RabbitMQ has it on disk then.
    broker.send(&EncodedCall::from_bytes(&call)?).await?;
    crash_point("sent");
    let delete = move |connection: &mut rusqlite::Connection| {
        connection.execute("DELETE FROM outbox WHERE number = ?1", [number])
    };
    database.run(delete).await?;
    crash_point("deleted");
    Ok(true)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let database = Database::open(TABLES)?;
    let server = Server::new(&broker)
        .serve(WarehouseServer::new(Shelf(database.clone())))
        .start()
        .await?;

    let warehouse = WarehouseClient::new(&broker);
    for item in ["bread", "butter", "jam"] {
        order(&database, &warehouse, item).await?;
    }
    // A program would have a task that does this all the time, and waits after an error.
    while send_next(&database, &broker).await? {}

    let orders = database.number("SELECT count(*) FROM orders").await?;
    while database
        .number("SELECT count(DISTINCT item) FROM shipments")
        .await?
        < orders
    {
        sleep(Duration::from_millis(10)).await;
    }
    server.stop().await?;
    broker.close().await;
    let shipments = database.number("SELECT count(*) FROM shipments").await?;
    let waiting = database.number("SELECT count(*) FROM outbox").await?;
    println!("{orders} orders, {shipments} shipments, {waiting} calls in the outbox");
    Ok(())
}
