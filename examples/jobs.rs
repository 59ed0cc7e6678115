//! Jobs that are done or kept: a failed one is retried with growing delays, and one that fails for
//! good is kept in a dead-letter queue with the reason.
//!
//! ```sh
//! cargo run --example jobs                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example jobs       # over RabbitMQ
//! ```

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{Context, Server, service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("there is no mailbox {0}")]
struct NoMailbox(String);

#[service(queue = "example.jobs")]
trait Mail {
    /// Sends a mail. If it fails, it is retried at most twice: after about a tenth of a second, and
    /// then after about a fifth.
    #[rpc(oneway, idempotent, retry = "2 times, 100ms to 200ms")]
    async fn send(&self, #[rpc(context)] cx: &Context, to: &str) -> Result<(), NoMailbox>;
}

#[derive(Default)]
struct Postman {
    /// A line for each attempt, in the order in which they ran.
    log: Mutex<Vec<String>>,
}

impl Mail for Arc<Postman> {
    async fn send(&self, cx: &Context, to: &str) -> Result<(), NoMailbox> {
        // The mailbox of bob exists from the second attempt on, that of carol never.
        let exists = match to {
            "bob" => cx.attempt() > 1,
            name => name == "alice",
        };
        let outcome = if exists { "sent" } else { "failed" };
        let line = format!("{to}, attempt {}: {outcome}", cx.attempt());
        self.log.lock().expect("no holder panics").push(line);
        if exists {
            Ok(())
        } else {
            Err(NoMailbox(to.to_owned()))
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let postman = Arc::new(Postman::default());
    let server = Server::new(&broker)
        .serve(MailServer::new(Arc::clone(&postman)))
        .start()
        .await?;

    // Each call returns once the broker has the job.
    let mail = MailClient::new(&broker);
    mail.send("alice").await?;
    mail.send("bob").await?;
    mail.send("carol").await?;

    // Carol's mail ends in the dead-letter queue.
    let begun = Instant::now();
    let dead = async || {
        broker
            .queue_depth("example.jobs.dead")
            .await
            .map(|depth| depth.messages)
    };
    while dead().await != Some(1) && begun.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await?;
    broker.close().await;

    let mut log = std::mem::take(&mut *postman.log.lock().expect("no holder panics"));
    log.sort();
    for line in log {
        println!("{line}");
    }
    Ok(())
}
