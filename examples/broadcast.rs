//! One call to all workers of a queue: they drop what they have cached, and the caller learns what
//! each of them did.
//!
//! ```sh
//! cargo run --example broadcast                            # within the process
//! AMQP_URL=amqp://localhost cargo run --example broadcast  # over RabbitMQ
//! ```

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::discovery::Worker;
use rpc_runtime::{Broker, CallError, Gathered, RunningServer, Server, service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("the cache is being filled")]
struct Busy;

#[service(queue = "example.cache")]
trait Cache {
    /// Drops the entries with this prefix in every worker. Each worker returns how many it had.
    #[rpc(broadcast)]
    async fn clear(&self, prefix: &str) -> Result<usize, Busy>;

    /// Adds an entry to the cache of every worker. No worker answers.
    #[rpc(broadcast, oneway)]
    async fn fill(&self);
}

struct Entries {
    entries: Mutex<Vec<&'static str>>,
    is_busy: bool,
}

impl Entries {
    fn new(entries: impl Into<Vec<&'static str>>) -> Self {
        Self {
            entries: Mutex::new(entries.into()),
            is_busy: false,
        }
    }

    /// A cache that is being filled, so nothing can be dropped from it.
    fn busy() -> Self {
        Self {
            entries: Mutex::default(),
            is_busy: true,
        }
    }
}

impl Cache for Entries {
    async fn clear(&self, prefix: &str) -> Result<usize, Busy> {
        if self.is_busy {
            return Err(Busy);
        }
        let mut entries = self.entries.lock().expect("no holder panics");
        let before = entries.len();
        entries.retain(|entry| !entry.starts_with(prefix));
        Ok(before - entries.len())
    }

    async fn fill(&self) {
        self.entries.lock().expect("no holder panics").push("users/3");
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    // Each worker has its own entries.
    let workers = [
        start(&broker, "east", Entries::new(["users/1", "users/2", "orders/1"])).await?,
        start(&broker, "west", Entries::new(["users/1"])).await?,
        start(&broker, "busy", Entries::busy()).await?,
    ];
    let cache = CacheClient::new(&broker);

    // Gathering ends with the third answer, or half a minute after the sending began.
    let answers = cache
        .clear("users/")
        .expect_workers(3)
        .limit(Duration::from_secs(30))
        .send()
        .await?;
    print(answers.collect().await);

    // Returns once the broker has put the request into the queue of each worker.
    cache.fill().await?;

    for worker in workers {
        worker.stop().await?;
    }
    match cache.clear("users/").send().await {
        Err(error) => println!("without workers: {error}"),
        Ok(_) => println!("somebody is there"),
    }
    broker.close().await;
    Ok(())
}

async fn start(broker: &Broker, name: &str, entries: Entries) -> anyhow::Result<RunningServer> {
    let server = Server::new(broker).worker_name(name);
    Ok(server.serve(CacheServer::new(entries)).start().await?)
}

fn print(gathered: Gathered<usize, Busy>) {
    let name = |worker: &Worker| worker.name.clone().unwrap_or_default();
    // In the order of names, not of arrival.
    let answers: BTreeMap<_, _> = gathered
        .answers
        .iter()
        .map(|(worker, answer)| (name(worker), answer))
        .collect();
    for (worker, answer) in answers {
        match answer {
            Ok(dropped) => println!("{worker}: dropped {dropped}"),
            // The method's own error.
            Err(CallError::Service(error)) => println!("{worker}: {error}"),
            // A fault instead of the method's answer, or one that cannot be read.
            Err(error) => println!("{worker}: no answer: {error}"),
        }
    }
    // A number, because the caller expects one of workers.
    println!("missing: {}", gathered.missing.unwrap_or_default());
}
