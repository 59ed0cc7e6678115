//! A method that calls another service. The nested call inherits what is left of the caller's time.
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
    /// Returns how many there are. The context parameter describes the request.
    #[rpc(idempotent)]
    async fn count(&self, #[rpc(context)] cx: &Context, item: &str) -> u32;
}

#[service(queue = "example.shop")]
trait Shop {
    /// Returns whether the shop sells an item. Asks the stock.
    #[rpc(idempotent)]
    async fn sells(&self, item: &str) -> Result<bool, String>;
}

struct Shelf;

impl Stock for Shelf {
    async fn count(&self, cx: &Context, item: &str) -> u32 {
        let left = cx.remaining().unwrap_or_default();
        // The shop's `StockClient` has a timeout of 30 seconds, but the shop's caller does not wait
        // as long.
        println!(
            "stock: asked for {item}, with at most 2 seconds left: {}",
            left <= Duration::from_secs(2)
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
        .serve(StockServer::new(Shelf))
        .serve(ShopServer::new(CornerShop {
            stock: StockClient::new(&broker),
        }))
        .start()
        .await?;

    let shop = ShopClient::builder(&broker)
        .timeout(Duration::from_secs(2))
        .build();
    for item in ["bread", "something rare"] {
        match shop.sells(item).await {
            Ok(sells) => println!("caller: the shop sells {item}: {sells}"),
            // Both calls have the same deadline. If the nested one ends first, the shop still
            // answers, with its own error.
            Err(CallError::TimedOut { .. } | CallError::Service(_)) => {
                println!("caller: no answer about {item} in time");
            }
            Err(error) => anyhow::bail!("{error:?}"),
        }
    }

    // The search for the rare item was cancelled with its call, so it holds nothing up.
    server.stop().await?;
    broker.close().await;
    Ok(())
}
