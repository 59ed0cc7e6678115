//! Layers of [tower](https://docs.rs/tower) around calls and around a worker's methods, unchanged: limits of concurrency and rate, load
//! shedding, time limits, retries with a budget; and a layer of one's own.
//!
//! ```sh
//! cargo run --example middleware                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example middleware       # over RabbitMQ
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::middleware::{CallReply, OutgoingCall};
use rpc_runtime::{CallError, Chain, FaultCode, Server, service};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};
use tower::ServiceBuilder;
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::retry::budget::{Budget, TpsBudget};
use tower::retry::{Policy, RetryLayer};
use tower::timeout::TimeoutLayer;
use tower::util::MapRequestLayer;

#[service(queue = "example.printer")]
trait Printer {
    /// Takes until the page is taken away.
    async fn print(&self, page: u32) -> u32;

    /// Takes for ever, and may do so twice.
    #[rpc(idempotent)]
    async fn calibrate(&self);
}

#[derive(Clone, Default)]
struct Office {
    began: Arc<Notify>,
    taken_away: Arc<Notify>,
}

impl Printer for Office {
    async fn print(&self, page: u32) -> u32 {
        self.began.notify_one();
        self.taken_away.notified().await;
        page
    }

    async fn calibrate(&self) {
        std::future::pending::<()>().await;
    }
}

/// The pause before a call is made again, unless the worker says another one.
const PAUSE: Duration = Duration::from_millis(10);

/// Makes a call again, up to three times, if that is safe and does not make an overload worse.
#[derive(Clone)]
struct Patience {
    attempts: u32,
    /// Shared by all calls: it bounds retries to a share of the calls that succeeded lately.
    budget: Arc<TpsBudget>,
    retries: Arc<AtomicU32>,
}

impl Policy<OutgoingCall, CallReply, CallError> for Patience {
    type Future = Sleep;

    fn retry(
        &mut self,
        call: &mut OutgoingCall,
        outcome: &mut Result<CallReply, CallError>,
    ) -> Option<Sleep> {
        let error = match outcome {
            Ok(_) => {
                self.budget.deposit();
                return None;
            }
            Err(error) => error,
        };
        // The method did not run and may the next time; or it may run twice.
        let is_safe = error.is_retryable() || call.method().is_idempotent;
        // An overloaded worker says when another try is worth it.
        let pause = error.retry_after().unwrap_or(PAUSE);
        if !is_safe || pause >= call.remaining() {
            return None;
        }
        self.attempts = self.attempts.checked_sub(1)?;
        if !self.budget.withdraw() {
            return None;
        }
        self.retries.fetch_add(1, Ordering::Relaxed);
        Some(sleep(pause))
    }

    fn clone_request(&mut self, call: &OutgoingCall) -> Option<OutgoingCall> {
        Some(call.clone())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;

    // The worker prints one page at a time. What comes meanwhile is refused at once, so that its caller can go elsewhere.
    let office = Office::default();
    let server = Server::new(&broker)
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .serve(PrinterServer::new(office.clone()))
        .start()
        .await?;

    let printer = PrinterClient::new(&broker);
    let first = tokio::spawn(printer.print(1));
    office.began.notified().await;
    match printer.print(2).await {
        Err(CallError::Fault(fault)) if fault.code == FaultCode::Rejected => {
            println!("page 2 is refused: {}", fault.message);
        }
        other => anyhow::bail!("the printer is busy, and yet: {other:?}"),
    }
    office.taken_away.notify_one();
    println!("page {} is printed", first.await??);

    // A caller that does not give up at once. The layers are the client's; several can be built into one.
    let retries = Arc::<AtomicU32>::default();
    let patience = Patience {
        attempts: 3,
        // One retry for each five calls that succeed, and ten for a start.
        budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 1, 0.2)),
        retries: Arc::clone(&retries),
    };
    let patient = PrinterClient::builder(&broker)
        .layer(
            ServiceBuilder::new()
                .layer(MapRequestLayer::new(|mut call: OutgoingCall| {
                    // What does not fit is left out.
                    let _ = call.insert_header("department", "accounting");
                    call
                }))
                .layer(RateLimitLayer::new(100, Duration::from_secs(1)))
                .into_inner(),
        )
        .layer(RetryLayer::new(patience))
        .build();
    let third = tokio::spawn(printer.print(3));
    office.began.notified().await;
    match patient.print(4).await {
        Err(_) => println!("page 4 is refused {} times", 1 + retries.load(Ordering::Relaxed)),
        Ok(page) => anyhow::bail!("page {page} is printed, although the printer is busy"),
    }

    // While nothing succeeds, the budget is spent soon. Most of these are refused once.
    let spent = retries.load(Ordering::Relaxed);
    for page in 5..25 {
        anyhow::ensure!(patient.print(page).await.is_err(), "page {page} is printed");
    }
    let more = retries.load(Ordering::Relaxed) - spent;
    println!("20 more pages are refused, and tried {more} times again");
    office.taken_away.notify_one();
    println!("page {} is printed", third.await??);

    // A layer that gives up says of no call that its method did not run, where it may have.
    let hasty = PrinterClient::builder(&broker)
        .layer(TimeoutLayer::new(Duration::from_millis(100)))
        .build();
    match hasty.calibrate().await {
        Err(error) => println!("{}; it ran: {:?}", Chain(&error), error.executed()),
        Ok(()) => anyhow::bail!("it takes for ever"),
    }

    // What still runs would be waited for.
    drop(server);
    broker.close().await;
    Ok(())
}
