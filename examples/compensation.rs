//! A method that undoes its first step when a later one fails, even after its caller's deadline.
//!
//! ```sh
//! cargo run --example compensation                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example compensation       # over RabbitMQ
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{CallError, Server, service};
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum StockError {
    #[error("{item} is sold out")]
    SoldOut { item: String },
}

#[service(queue = "example.compensation.stock")]
trait Stock {
    async fn reserve(&self, item: &str) -> Result<(), StockError>;
    /// Undoes `reserve`.
    async fn release(&self, item: &str);
    #[rpc(idempotent)]
    async fn left(&self) -> u32;
}

#[service(queue = "example.compensation.payments")]
trait Payments {
    async fn charge(&self, cents: u64);
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum OrderError {
    #[error(transparent)]
    Stock(StockError),
    #[error("another service failed: {0}")]
    Unavailable(String),
}

/// Lets `?` turn a failed call of `Stock` into the method's own error.
impl From<CallError<StockError>> for OrderError {
    fn from(error: CallError<StockError>) -> Self {
        match error {
            CallError::Service(error) => Self::Stock(error),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[service(queue = "example.compensation.orders")]
trait Orders {
    async fn order(&self, item: &str) -> Result<(), OrderError>;
}

/// Counts what is left, whatever the item.
struct Shelf(AtomicU32);

impl Stock for Shelf {
    async fn reserve(&self, item: &str) -> Result<(), StockError> {
        let take = |left: u32| left.checked_sub(1);
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(StockError::SoldOut { item: item.into() }),
        }
    }

    async fn release(&self, _item: &str) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    async fn left(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Takes longer than any caller waits.
struct SlowBank;

impl Payments for SlowBank {
    async fn charge(&self, _cents: u64) {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

struct Shop {
    stock: StockClient,
    payments: PaymentsClient,
}

impl Orders for Shop {
    async fn order(&self, item: &str) -> Result<(), OrderError> {
        self.stock.reserve(item).await?;
        let Err(error) = self.payments.charge(199).await else {
            return Ok(());
        };
        // The caller's deadline may have passed, and this method's calls inherit it. A detached
        // call does not. A charge that timed out may still be made: a real shop would refund it.
        if let Err(error) = self.stock.release(item).detached().await {
            eprintln!("{item} is still reserved: {error}");
        }
        Err(OrderError::Unavailable(error.to_string()))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let stock = StockClient::new(&broker);
    let server = Server::new(&broker)
        // The charge still runs when this example ends.
        .drain_timeout(Duration::ZERO)
        .serve(StockServer::new(Shelf(AtomicU32::new(1))))
        .serve(PaymentsServer::new(SlowBank))
        .serve(OrdersServer::new(Shop {
            stock: stock.clone(),
            payments: PaymentsClient::new(&broker),
        }))
        .start()
        .await?;

    let orders = OrdersClient::new(&broker);
    let ordered = orders.order("bread").timeout(Duration::from_millis(300)).await;
    println!("ordered: {}", ordered.is_ok());
    while stock.left().await? == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("left in stock: {}", stock.left().await?);

    // Fails, because the charge does not end within the drain timeout.
    let _ = server.stop().await;
    broker.close().await;
    Ok(())
}
