//! [tower](https://docs.rs/tower) layers around calls and around a worker's methods: concurrency
//! and rate limits, load shedding, timeouts, and retries with a budget and a policy of our own.
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
    /// Runs until the page is taken away.
    async fn print(&self, page: u32) -> u32;

    /// Never ends.
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

/// The pause before a retry, unless the worker asks for another one.
const PAUSE: Duration = Duration::from_millis(10);

/// Retries a call up to three times, if that is safe and does not make an overload worse.
#[derive(Clone)]
struct Patience {
    /// How often this call may be retried from now on. Each call has its own clone of the policy.
    retries_left: u32,
    /// Shared by all calls: it limits retries to a share of the recent successes, beside a fixed
    /// number.
    budget: Arc<TpsBudget>,
    /// The retries of all calls, for the example's output.
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
        // Either the method did not run and another attempt may help, or it may run twice.
        let is_safe = error.is_retryable() || call.is_idempotent();
        // An overloaded worker says when another attempt is worth it.
        let pause = error.retry_after().unwrap_or(PAUSE);
        if !is_safe || pause >= call.remaining() {
            return None;
        }
        self.retries_left = self.retries_left.checked_sub(1)?;
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

    // The worker prints one page at a time. It refuses other requests at once, so that their
    // callers can go elsewhere.
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
        other => anyhow::bail!("the printer is busy, but: {other:?}"),
    }
    office.taken_away.notify_one();
    println!("page {} is printed", first.await??);

    // A caller that does not give up at once. Layers belong to the client; a `ServiceBuilder`
    // combines several into one.
    let retries = Arc::<AtomicU32>::default();
    let patience = Patience {
        retries_left: 3,
        // In ten seconds, one retry for every five successful calls, and ten more.
        budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 1, 0.2)),
        retries: Arc::clone(&retries),
    };
    let patient = PrinterClient::builder(&broker)
        .layer(
            ServiceBuilder::new()
                .layer(MapRequestLayer::new(|mut call: OutgoingCall| {
                    // It is an error if the header does not fit: then it is omitted.
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

    // Nothing succeeds, so the budget is soon spent. Most of these calls have one attempt.
    let spent = retries.load(Ordering::Relaxed);
    for page in 5..25 {
        anyhow::ensure!(patient.print(page).await.is_err(), "page {page} is printed");
    }
    let more = retries.load(Ordering::Relaxed) - spent;
    println!("20 more pages are refused, after {more} retries in all");
    office.taken_away.notify_one();
    println!("page {} is printed", third.await??);

    // If a layer gives up on a call, the error says that the method may have run.
    let hasty = PrinterClient::builder(&broker)
        .layer(TimeoutLayer::new(Duration::from_millis(100)))
        .build();
    match hasty.calibrate().await {
        Err(error) => println!("{}; it ran: {:?}", Chain(&error), error.executed()),
        Ok(()) => anyhow::bail!("calibrate never ends"),
    }

    // Does not wait for the calibration, which may not have been cancelled yet.
    drop(server);
    broker.close().await;
    Ok(())
}
