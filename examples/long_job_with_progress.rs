//! A method that runs for long and reports its progress: a stream whose last item is the result.
//! The worker stops in the middle, and another one goes on after the last item that the caller got.
//!
//! ```sh
//! cargo run --example long_job_with_progress                            # within the process
//! AMQP_URL=amqp://localhost cargo run --example long_job_with_progress  # over RabbitMQ
//! ```

use std::time::Duration;

use anyhow::bail;
use futures_util::{Stream, StreamExt, stream};
use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{Broker, RunningServer, Server, ServerError, service};
use serde::{Deserialize, Serialize};

/// What the caller gets while the method runs, and at its end.
#[derive(Debug, Serialize, Deserialize)]
enum Progress {
    Page { done: u32, total: u32 },
    Done(Report),
}

#[derive(Debug, Serialize, Deserialize)]
struct Report {
    year: u16,
    pages: u32,
}

#[service(queue = "example.yearly_reports")]
trait Reports {
    /// Writes the report of a year, or what comes after the item `after`.
    #[rpc(idempotent)]
    fn write(&self, year: u16, #[rpc(resume)] after: Option<Progress>) -> impl Stream<Item = Progress>;
}

const PAGES: u32 = 4;

struct Writer {
    name: &'static str,
    /// After this page, the writer waits for ever.
    last_page: u32,
}

impl Reports for Writer {
    fn write(&self, year: u16, after: Option<Progress>) -> impl Stream<Item = Progress> {
        let written = match after {
            None => 0,
            Some(Progress::Page { done, .. }) => done,
            Some(Progress::Done(_)) => PAGES,
        };
        println!("{}: goes on after page {written}", self.name);
        let pages = stream::iter(written + 1..=PAGES).then(async |page| {
            if page > self.last_page {
                std::future::pending::<()>().await;
            }
            Progress::Page {
                done: page,
                total: PAGES,
            }
        });
        let report = Report { year, pages: PAGES };
        pages.chain(stream::iter([Progress::Done(report)]))
    }
}

async fn start(broker: &Broker, writer: Writer, drain: Duration) -> Result<RunningServer, ServerError> {
    Server::new(broker)
        .drain_timeout(drain)
        .serve(ReportsServer::new(writer))
        .start()
        .await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let first = Writer {
        name: "first worker",
        last_page: 2,
    };
    let first = start(&broker, first, Duration::ZERO).await?;
    let reports = ReportsClient::new(&broker);

    // Each page may take as long as the timeout.
    let mut progress = reports.write(2026, None).timeout(Duration::from_secs(60));
    let (mut first, mut second) = (Some(first), None);
    let report = loop {
        match progress.next().await.transpose()? {
            Some(Progress::Page { done, total }) => {
                println!("caller: {done} of {total} pages");
                if done == 2
                    && let Some(first) = first.take()
                {
                    let writer = Writer {
                        name: "second worker",
                        last_page: PAGES,
                    };
                    second = Some(start(&broker, writer, Duration::from_secs(10)).await?);
                    // Fails, because the method does not end within the drain timeout.
                    let _ = first.stop().await;
                }
            }
            Some(Progress::Done(report)) => break report,
            None => bail!("the progress ends without a report"),
        }
    };
    println!("caller: the report of {} has {} pages", report.year, report.pages);
    if let Some(second) = second {
        second.stop().await?;
    }
    broker.close().await;
    Ok(())
}
