//! A worker that stops without losing a call: it takes no more requests, finishes and answers those
//! that it has, and leaves the rest to the next worker.
//!
//! ```sh
//! cargo run --example graceful_shutdown                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example graceful_shutdown       # over RabbitMQ
//! ```
//!
//! A worker that is its own program passes its process manager's signal to `run_until`, as
//! `directory_server` does.

use std::time::Duration;

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{Server, service};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

#[service(queue = "example.kitchen")]
trait Kitchen {
    /// Returns the name of the worker.
    async fn cook(&self, dish: u32) -> String;
}

struct Cook {
    name: &'static str,
}

impl Kitchen for Cook {
    async fn cook(&self, _dish: u32) -> String {
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.name.to_owned()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let server = |name| {
        Server::new(&broker)
            .concurrency(3)
            // Longer than any method takes. Methods that still run after it are stopped.
            .drain_timeout(Duration::from_secs(10))
            .serve(KitchenServer::new(Cook { name }))
    };

    let (shutdown, stopped) = oneshot::channel::<()>();
    let first = tokio::spawn(server("the first worker").run_until(async {
        let _ = stopped.await;
    }));

    // Ten calls: three run, seven wait in the queue.
    let kitchen = KitchenClient::builder(&broker).wait_for_server(true).build();
    let mut calls = JoinSet::new();
    for dish in 0..10 {
        let kitchen = kitchen.clone();
        calls.spawn(async move { kitchen.cook(dish).await });
    }
    let answered_by = calls.join_next().await.expect("ten calls were spawned")??;
    println!("answered by {answered_by}, which now stops");
    let _ = shutdown.send(());
    first.await??;
    println!("it has stopped, and lost nothing");

    let second = server("the second worker").start().await?;
    let (mut answered, mut last) = (1, answered_by);
    while let Some(by) = calls.join_next().await {
        last = by??;
        answered += 1;
    }
    println!("{answered} of 10 calls were answered, the last by {last}");

    second.stop().await?;
    broker.close().await;
    Ok(())
}
