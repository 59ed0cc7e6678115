//! Jobs: how many are confirmed a second, and how many are done a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::bench::Bench;
use crate::load::{Caller, Load};
use crate::report::ratios::{Ratio, Ratios, order};
use crate::scenario::BASE;

mod by_hand;
mod framework;
mod job_queue;

use job_queue::{Done, JobQueue, LIMIT};

/// How many jobs wait in the queue when a worker begins to do them.
const JOBS: u64 = 50_000;

/// Jobs a second.
#[derive(Debug, Clone, Copy)]
struct Rates {
    /// While a worker does them.
    confirmed: f64,
    /// Of those that wait in the queue when a worker starts.
    done: f64,
}

/// Measures the ratios of jobs.
pub(crate) async fn run_quick(bench: &Bench, rounds: usize, ratios: &mut Ratios) -> anyhow::Result<()> {
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
        // `order` is its own inverse.
        let [framework, by_hand] = order(round, [rates[0], rates[1]]);
        publish.push(framework.confirmed / by_hand.confirmed);
        done.push(framework.done / by_hand.done);
    }
    ratios.add("jobs-publish", Ratio::of(&publish));
    ratios.add("jobs-done", Ratio::of(&done));
    Ok(())
}

async fn measure<Q: JobQueue>(name: &str, broker: &str, load: &Load) -> anyhow::Result<Rates> {
    let done = Arc::new(Done::default());
    let mut queue = Q::open(broker, &done).await?;
    let caller = queue.caller();
    queue.start_worker().await?;
    let confirmed = load.run(&caller).await?.calls_per_second;
    // The callers were stopped, perhaps after a job was sent and before it was confirmed. The
    // worker may still have to do it.
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

/// Sends [`JOBS`] jobs from this many tasks, and waits until the broker has confirmed them.
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
