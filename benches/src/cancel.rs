//! Cancellation: how long a method runs after its call was dropped.

use std::future::pending;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rpc_runtime::{Broker, Server, service};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::bench::Bench;
use crate::report::ratios::{Ratio, Ratios};

/// How many calls of each kind a round makes.
const CALLS: usize = 200;

/// How long to wait for an [`Event`].
const LIMIT: Duration = Duration::from_secs(10);

#[service(queue = "bench.cancel")]
trait Tasks {
    async fn return_at_once(&self);

    #[rpc(cancel)]
    async fn run_forever(&self);
}

/// What happens to a method that runs forever.
#[derive(Debug, Clone, Copy)]
enum Event {
    Begun,
    Dropped(Instant),
}

struct Worker(UnboundedSender<Event>);

/// Lives as long as its method runs, and reports when the method is dropped.
struct Running<'a>(&'a UnboundedSender<Event>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // The receiver is gone if the benchmark failed.
        let _ = self.0.send(Event::Dropped(Instant::now()));
    }
}

impl Tasks for Worker {
    async fn return_at_once(&self) {}

    async fn run_forever(&self) {
        let _running = Running(&self.0);
        let _ = self.0.send(Event::Begun);
        pending::<()>().await;
    }
}

/// Measures how long a method runs after its call was dropped ÷ how long a call takes, by the
/// medians of a round.
pub(crate) async fn run_quick(bench: &Bench, rounds: usize, ratios: &mut Ratios) -> anyhow::Result<()> {
    let (sender, mut events) = unbounded_channel();
    let worker = Broker::connect(bench.broker()).await?;
    let server = Server::new(&worker).serve(TasksServer::new(Worker(sender)));
    let server = server.start().await?;
    let caller = Broker::connect(bench.broker()).await?;
    let client = TasksClient::new(&caller);
    let mut of_rounds = Vec::new();
    for _ in 0..rounds {
        let (mut calls, mut stops) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            let begun = Instant::now();
            client.return_at_once().await?;
            calls.push(begun.elapsed());
            stops.push(stop_time(&client, &mut events).await?);
        }
        let (call, stop) = (median(&mut calls), median(&mut stops));
        eprintln!("a call takes {call:.0?}, and a method stops {stop:.0?} after its call was dropped");
        of_rounds.push(stop.div_duration_f64(call));
    }
    ratios.add("cancel-stop", Ratio::of(&of_rounds));
    server.stop().await?;
    caller.close().await;
    worker.close().await;
    Ok(())
}

/// Makes a call, and aborts its task once the method runs. Returns the time from then to the drop
/// of the method.
async fn stop_time(client: &TasksClient, events: &mut UnboundedReceiver<Event>) -> anyhow::Result<Duration> {
    let mut next = async || {
        timeout(LIMIT, events.recv())
            .await
            .context("nothing happened")?
            .context("no worker")
    };
    let call = tokio::spawn(client.run_forever());
    anyhow::ensure!(matches!(next().await?, Event::Begun), "it was dropped early");
    let aborted = Instant::now();
    call.abort();
    match next().await? {
        Event::Dropped(at) => Ok(at - aborted),
        Event::Begun => anyhow::bail!("it ran twice"),
    }
}

/// Sorts the times. Returns the median: the longer of the middle two if their number is even.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
