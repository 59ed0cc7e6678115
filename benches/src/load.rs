//! The load: the same generator for every contender, and the window in which calls count.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::measure::{Measured, Meter, Recorder, between};
use crate::scenario::Scenario;

/// The window opens once each caller has had a reply, but no earlier than this. It may open at
/// [`WARM_UP_LIMIT`] without that.
const WARM_UP: Duration = Duration::from_millis(150);

/// The window opens no later than this, if there was any reply: ten thousand slow calls need not
/// all have ended once.
const WARM_UP_LIMIT: Duration = Duration::from_millis(1500);

/// How long a contender may take to produce the first reply, after [`WARM_UP_LIMIT`].
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// The limit of calls in flight in an open loop. At a rate that is too high, their number would
/// grow forever.
const OPEN_LOOP_LIMIT: usize = 100_000;

/// A scenario to run, and how to measure it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) scenario: Scenario,
    /// How long it is measured.
    pub(crate) window: Duration,
    pub(crate) meter: Meter,
}

/// A contender's caller.
pub(crate) trait Caller: Clone + Send + Sync + 'static {
    /// Sends the payload, waits for the reply, and returns its size.
    fn call(&self, payload: Bytes) -> impl Future<Output = anyhow::Result<usize>> + Send;
}

impl Load {
    /// Makes the calls of the scenario until the window is over, and measures them.
    pub(crate) async fn run<C: Caller>(&self, caller: &C) -> anyhow::Result<Measured> {
        match self.scenario.open_loop {
            None => self.closed_loop(caller).await,
            Some(rate) => self.open_loop(caller, rate).await,
        }
    }

    /// A closed loop: as many callers as calls in flight, each of which makes one call after the
    /// other.
    async fn closed_loop<C: Caller>(&self, caller: &C) -> anyhow::Result<Measured> {
        let recorder = Recorder::new();
        let payload = Bytes::from(vec![b'x'; self.scenario.payload]);
        let mut callers = JoinSet::new();
        for lane in 0..self.scenario.in_flight {
            let (caller, recorder, payload) = (caller.clone(), Arc::clone(&recorder), payload.clone());
            callers.spawn(async move {
                timed_call(&caller, &payload, &recorder, lane, Instant::now()).await?;
                recorder.warmed_up(1);
                loop {
                    timed_call(&caller, &payload, &recorder, lane, Instant::now()).await?;
                }
            });
        }
        let failure = async {
            match callers.join_next().await {
                Some(Ok(ended)) => match ended {
                    Ok(()) => unreachable!("callers call until they are stopped"),
                    Err(error) => error,
                },
                Some(Err(panicked)) => panicked.into(),
                None => std::future::pending().await,
            }
        };
        let measured = self.watch(&recorder, self.scenario.in_flight, failure).await;
        callers.shutdown().await;
        measured
    }

    /// An open loop: calls start when they are due. A call's latency counts from then, even if it
    /// started later, so that the waiting time that a slow contender causes is included.
    async fn open_loop<C: Caller>(&self, caller: &C, rate: u32) -> anyhow::Result<Measured> {
        ensure!(
            rate > 0,
            "an open loop needs a rate of one call a second at least"
        );
        let recorder = Recorder::new();
        let pacing = tokio::task::spawn_blocking({
            let (caller, recorder) = (caller.clone(), Arc::clone(&recorder));
            let payload = Bytes::from(vec![b'x'; self.scenario.payload]);
            let runtime = tokio::runtime::Handle::current();
            move || pace(&caller, &payload, &recorder, rate, &runtime)
        });
        let failure = async {
            match pacing.await {
                Ok(Ok(())) => unreachable!("calls are begun until the end"),
                Ok(Err(error)) => error,
                Err(panicked) => panicked.into(),
            }
        };
        let measured = self.watch(&recorder, 1, failure).await;
        recorder.end();
        measured
    }

    /// Waits until this many callers have had their first reply, or for a limited time if one has.
    /// Then measures what the recorder records in the window. `failure` completes only if the load
    /// fails.
    ///
    /// # Errors
    ///
    /// Fails if the load fails, no call gets a reply, or the counters of a process cannot be read.
    pub(crate) async fn watch(
        &self,
        recorder: &Recorder,
        callers: usize,
        failure: impl Future<Output = anyhow::Error>,
    ) -> anyhow::Result<Measured> {
        let measuring = async {
            let begun = Instant::now();
            sleep(WARM_UP).await;
            while recorder.answered() < callers && begun.elapsed() < WARM_UP_LIMIT {
                sleep(Duration::from_millis(10)).await;
            }
            let silent = async {
                while recorder.answered() == 0 {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(SILENCE_LIMIT, silent)
                .await
                .with_context(|| format!("no call was answered within {SILENCE_LIMIT:?}"))?;

            let before = self.meter.snapshot()?;
            recorder.open(true);
            sleep(self.window).await;
            recorder.open(false);
            let after = self.meter.snapshot()?;
            Ok(between(&before, &after, &recorder.latencies()))
        };
        tokio::select! {
            biased;
            error = failure => Err(error.context("the load failed")),
            measured = measuring => measured,
        }
    }
}

/// Makes a call, and records the time from `due` to its end. Fails if the reply has another size.
async fn timed_call<C: Caller>(
    caller: &C,
    payload: &Bytes,
    recorder: &Recorder,
    lane: usize,
    due: Instant,
) -> anyhow::Result<()> {
    let size = caller.call(payload.clone()).await?;
    recorder.record(lane, due.elapsed());
    ensure!(
        size == payload.len(),
        "the reply to {} bytes has {size}",
        payload.len()
    );
    Ok(())
}

/// Starts calls at a fixed rate until the recorder is over, and then aborts those that have not
/// ended. Blocks its thread, because the timers of tokio count milliseconds.
fn pace<C: Caller>(
    caller: &C,
    payload: &Bytes,
    recorder: &Arc<Recorder>,
    rate: u32,
    runtime: &tokio::runtime::Handle,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut calls: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for index in 0_u32.. {
        if recorder.is_over() {
            break;
        }
        let due = begin + Duration::from_secs_f64(f64::from(index) / f64::from(rate));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (caller, payload, recorder) = (caller.clone(), payload.clone(), Arc::clone(recorder));
        let call = async move {
            timed_call(&caller, &payload, &recorder, index as usize, due).await?;
            recorder.warmed_up(1);
            Ok(())
        };
        calls.spawn_on(call, runtime);
        while let Some(ended) = calls.try_join_next() {
            ended??;
        }
        if calls.len() > OPEN_LOOP_LIMIT {
            bail!("more than {OPEN_LOOP_LIMIT} calls wait at {rate} calls/s: give a lower --open-loop rate");
        }
    }
    Ok(())
}
