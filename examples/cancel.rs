//! A call that is dropped stops its method, which would otherwise work for nobody. A method that
//! must not be stopped can learn that nobody waits.
//!
//! ```sh
//! cargo run --example cancel                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example cancel       # over RabbitMQ
//! ```

use std::sync::Arc;

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{Context, Server, service};
use tokio::sync::Semaphore;

#[service(queue = "example.reports")]
trait Reports {
    /// May be stopped at any `.await`. So may an `idempotent` method, which does not need `cancel`.
    #[rpc(cancel)]
    async fn render(&self, year: u16) -> String;

    /// Runs to its end, and decides itself when that is. Returns the number of finished pages.
    async fn archive(&self, #[rpc(context)] cx: &Context, year: u16) -> u32;
}

#[derive(Clone)]
struct Office {
    /// A permit for each run that has begun and waits to be cancelled.
    begun: Arc<Semaphore>,
    /// A permit for each of these runs that has stopped.
    stopped: Arc<Semaphore>,
}

/// What a method owns is dropped with it.
struct Draft<'a> {
    year: u16,
    office: &'a Office,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        println!("worker: throws the draft of {} away", self.year);
        self.office.stopped.add_permits(1);
    }
}

impl Reports for Office {
    async fn render(&self, year: u16) -> String {
        if year < 2000 {
            return format!("{year}: from the archive");
        }
        let draft = Draft { year, office: self };
        self.begun.add_permits(1);
        // The work, which takes very long.
        std::future::pending::<()>().await;
        drop(draft);
        String::new()
    }

    async fn archive(&self, cx: &Context, year: u16) -> u32 {
        self.begun.add_permits(1);
        cx.cancelled().await;
        println!("worker: finishes a page of {year}, and leaves the others");
        self.stopped.add_permits(1);
        1
    }
}

impl Office {
    /// Waits until the method has begun. Then `select!` drops the call.
    async fn until_begun(&self, year: u16) -> anyhow::Result<()> {
        self.begun.acquire().await?.forget();
        println!("caller: no longer waits for {year}");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let office = Office {
        begun: Arc::new(Semaphore::new(0)),
        stopped: Arc::new(Semaphore::new(0)),
    };
    let server = Server::new(&broker)
        .serve(ReportsServer::new(office.clone()))
        .start()
        .await?;
    let reports = ReportsClient::new(&broker);

    // `select!` drops the call once the other branch is ready.
    tokio::select! {
        report = reports.render(2024) => println!("{report:?}"),
        begun = office.until_begun(2024) => begun?,
    }
    office.stopped.acquire().await?.forget();

    // The worker does not stop this method, but tells it.
    tokio::select! {
        pages = reports.archive(2025) => println!("{pages:?}"),
        begun = office.until_begun(2025) => begun?,
    }
    office.stopped.acquire().await?.forget();

    println!("caller: {}", reports.render(1999).await?);

    server.stop().await?;
    broker.close().await;
    Ok(())
}
