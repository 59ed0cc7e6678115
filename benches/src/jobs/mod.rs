//! Jobs: how many are confirmed a second, and how many are done a second.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::bench::Bench;
use crate::load::{Caller, Load};
use crate::report::ratios::{Ratio, order};
use crate::scenario::BASE;

mod by_hand;
mod framework;

/// How many jobs wait in the queue when a worker begins to do them.
const JOBS: u64 = 50_000;

/// How long the jobs may take to be done.
const LIMIT: Duration = Duration::from_secs(60);

/// Counts the jobs that were done.
#[derive(Debug, Default)]
pub(super) struct Done(AtomicU64);

impl Done {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until this many jobs were done.
    async fn reaches(&self, jobs: u64) -> anyhow::Result<()> {
        let waiting = async {
            while self.get() < jobs {
                sleep(Duration::from_micros(200)).await;
            }
        };
        timeout(LIMIT, waiting)
            .await
            .with_context(|| format!("{} of {jobs} jobs were done within {LIMIT:?}", self.get()))
    }
}

/// A way to hand out jobs and to do them. Its queue and its jobs survive a restart of the broker.
trait JobQueue: Sized {
    /// Sends a job and waits until the broker has confirmed it.
    type Caller: Caller;

    /// Connects to the broker and declares a queue.
    fn open(broker: &str, done: &Arc<Done>) -> impl Future<Output = anyhow::Result<Self>>;

    fn caller(&self) -> Self::Caller;

    /// Starts the worker, which acknowledges each job once it is done.
    fn start_worker(&mut self) -> impl Future<Output = anyhow::Result<()>>;

    fn stop_worker(&mut self) -> impl Future<Output = anyhow::Result<()>>;

    /// Deletes the queue and closes the connections.
    fn close(self) -> impl Future<Output = anyhow::Result<()>>;
}

/// Jobs a second.
#[derive(Debug, Clone, Copy)]
struct Rates {
    confirmed: f64,
    done: f64,
}

/// Measures the ratios of jobs and prints them.
pub(crate) async fn run_quick(bench: &Bench, rounds: usize) -> anyhow::Result<()> {
    let mut publish = Vec::new();
    let mut done = Vec::new();
    for round in 0..rounds {
        let mut rates = Vec::new();
        for is_framework in order(round, [true, false]) {
            let load = bench.load(BASE);
            let measured = match is_framework {
                true => measure::<framework::Framework>("framework", bench.broker(), &load).await?,
                false => measure::<by_hand::ByHand>("lapin by hand", bench.broker(), &load).await?,
            };
            rates.push(measured);
        }
        let [of, to] = order(round, [rates[0], rates[1]]);
        publish.push(of.confirmed / to.confirmed);
        done.push(of.done / to.done);
    }
    println!("{}", Ratio::of(&publish).line("jobs-publish"));
    println!("{}", Ratio::of(&done).line("jobs-done"));
    Ok(())
}

async fn measure<Q: JobQueue>(name: &str, broker: &str, load: &Load) -> anyhow::Result<Rates> {
    let done = Arc::new(Done::default());
    let mut queue = Q::open(broker, &done).await?;
    let caller = queue.caller();
    queue.start_worker().await?;
    let confirmed = load.run(&caller).await?.calls_per_second;
    // The callers were stopped, perhaps after a job was sent and before it was confirmed.
    settle(&done).await?;
    queue.stop_worker().await?;

    let before = done.get();
    fill(&caller, load.scenario.in_flight).await?;
    let begun = Instant::now();
    queue.start_worker().await?;
    done.reaches(before + JOBS).await?;
    #[allow(clippy::cast_precision_loss)]
    let per_second = JOBS as f64 / begun.elapsed().as_secs_f64();
    queue.stop_worker().await?;
    ensure!(done.get() == before + JOBS, "a job was done twice");
    queue.close().await?;
    eprintln!("{name:<24}{confirmed:>9.0} jobs/s confirmed{per_second:>9.0} jobs/s done");
    Ok(Rates {
        confirmed,
        done: per_second,
    })
}

/// Sends the jobs that the worker will do.
async fn fill<C: Caller>(caller: &C, tasks: usize) -> anyhow::Result<()> {
    let payload = Bytes::from(vec![b'x'; BASE.payload]);
    let left = Arc::new(AtomicU64::new(JOBS));
    let mut sending = JoinSet::new();
    for _ in 0..tasks {
        let (caller, payload, left) = (caller.clone(), payload.clone(), Arc::clone(&left));
        sending.spawn(async move {
            let take = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                caller.call(payload.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(())
}

/// Waits until no job was done for a while.
async fn settle(done: &Done) -> anyhow::Result<()> {
    const QUIET: Duration = Duration::from_millis(300);
    let settling = async {
        let mut before = done.get();
        loop {
            sleep(QUIET).await;
            let now = done.get();
            if now == before {
                return;
            }
            before = now;
        }
    };
    timeout(LIMIT, settling)
        .await
        .context("jobs are still being done")
}
