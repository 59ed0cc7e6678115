//! Work without a caller that waits: the call returns once the broker has the request. A worker
//! runs it now, or when one starts. The example `jobs` shows requests that are also retried.
//!
//! ```sh
//! cargo run --example oneway_jobs                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example oneway_jobs       # over RabbitMQ
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{Server, service};

#[service(queue = "example.mail")]
trait Mail {
    /// Sends a mail later. If the worker dies meanwhile, the request is rejected rather than run
    /// twice, and is lost unless the queue has a dead-letter queue. With `#[rpc(oneway,
    /// idempotent)]` it would run again.
    #[rpc(oneway)]
    async fn send(&self, to: &str);
}

#[derive(Clone, Default)]
struct Postman {
    sent: Arc<AtomicUsize>,
}

impl Mail for Postman {
    async fn send(&self, _to: &str) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.sent.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let postman = Postman::default();
    let server = |postman: &Postman| {
        Server::new(&broker)
            .concurrency(4)
            .serve(MailServer::new(postman.clone()))
            .start()
    };

    // The first worker declares the queue, which outlives it.
    server(&postman).await?.stop().await?;

    // Without a worker, requests wait in the queue. RabbitMQ keeps them on disk.
    let mail = MailClient::new(&broker);
    for n in 0..20 {
        mail.send(&format!("user-{n}@example.com")).await?;
    }
    println!(
        "the broker has 20 jobs, {} are done",
        postman.sent.load(Ordering::Relaxed)
    );

    let server = server(&postman).await?;
    let done = async {
        while postman.sent.load(Ordering::Relaxed) < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), done).await?;
    println!("with a worker, {} are done", postman.sent.load(Ordering::Relaxed));

    server.stop().await?;
    broker.close().await;
    Ok(())
}
