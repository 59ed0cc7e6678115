//! A method that calls another service: the time that its own caller still waits passes on, and shrinks on the way, without a line
//! of code.
//!
//! ```sh
//! cargo run --example nested_calls                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example nested_calls       # over RabbitMQ
//! ```

use std::time::Duration;

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{CallError, Context, Server, service};

#[service(queue = "example.stock")]
trait Stock {
    /// How many there are. With a parameter marked as context, a method knows of the request that it serves.
    #[rpc(idempotent)]
    async fn count(&self, #[rpc(context)] cx: &Context, item: &str) -> u32;
}

#[service(queue = "example.shop")]
trait Shop {
    /// Whether an item can be sold. Asks the stock.
    #[rpc(idempotent)]
    async fn sells(&self, item: &str) -> Result<bool, String>;
}

struct Shelf;

impl Stock for Shelf {
    async fn count(&self, cx: &Context, item: &str) -> u32 {
        let left = cx.remaining().unwrap_or_default();
        // The shop's client would wait for 30 seconds. Its caller does not.
        println!(
            "stock: asked for {item}, with less than a second left: {}",
            left < Duration::from_secs(1)
        );
        if item == "something rare" {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        3
    }
}

struct CornerShop {
    stock: StockClient,
}

impl Shop for CornerShop {
    async fn sells(&self, item: &str) -> Result<bool, String> {
        match self.stock.count(item).await {
            Ok(count) => Ok(count > 0),
            Err(error) => Err(format!("the stock does not answer: {error}")),
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let server = Server::new(&broker)
        // The rare item is still looked for when this ends.
        .drain_limit(Duration::ZERO)
        .serve(StockServer::new(Shelf))
        .serve(ShopServer::new(CornerShop {
            stock: StockClient::new(&broker),
        }))
        .start()
        .await?;

    let shop = ShopClient::builder(&broker)
        .timeout(Duration::from_millis(800))
        .build();
    for item in ["bread", "something rare"] {
        match shop.sells(item).await {
            Ok(sells) => println!("caller: the shop sells {item}: {sells}"),
            // Whichever of the two gives up first: they have the same deadline.
            Err(CallError::TimedOut { .. } | CallError::Service(_)) => {
                println!("caller: no answer about {item} in time");
            }
            Err(error) => anyhow::bail!("{error:?}"),
        }
    }

    // It did not end by itself.
    let _ = server.stop().await;
    broker.close().await;
    Ok(())
}
