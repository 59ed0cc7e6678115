//! Makes the calls.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use rpc_runtime::{CallError, DynamicClient, MethodError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use super::pace::{Pace, Start};
use super::tally::Tally;
use crate::output::Output;
use crate::progress::progress_bar;
use crate::units::per_second;

/// A call that starts up to this long after it was due is not late. Tokio's timer has a resolution
/// of 1 ms.
const TIMER_ERROR: Duration = Duration::from_millis(2);

/// The call that a run makes again and again.
#[derive(Debug)]
pub(super) struct RepeatedCall {
    pub(super) client: DynamicClient,
    pub(super) method: String,
    pub(super) arguments: String,
    pub(super) timeout: Option<Duration>,
    pub(super) is_streaming: bool,
}

/// What a run has measured.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) tally: Tally,
    /// The time from the start until the last call ended, or the run was interrupted.
    pub(super) time: Duration,
    /// Calls that were due and never started.
    pub(super) missed: u64,
    pub(super) is_interrupted: bool,
}

/// What all caller tasks share.
#[derive(Debug)]
struct Shared {
    call: RepeatedCall,
    pace: Pace,
    run_begun: Instant,
    /// The number of the next call.
    next: AtomicU64,
    started: AtomicU64,
    ended: AtomicU64,
    /// Shared, because a histogram per task would take too much memory.
    tally: Mutex<Tally>,
}

impl RepeatedCall {
    /// Makes one call, and reads all items if it is answered with a stream. Returns the number of
    /// items: 0 without a stream.
    pub(super) async fn call_once(&self) -> Result<u64, CallError<MethodError<String>>> {
        if self.is_streaming {
            return self.read_stream().await;
        }
        let mut call = self.client.call_json(&self.method, &self.arguments);
        if let Some(timeout) = self.timeout {
            call = call.timeout(timeout);
        }
        call.await.map(|_| 0)
    }

    async fn read_stream(&self) -> Result<u64, CallError<MethodError<String>>> {
        let mut stream = self.client.stream_json(&self.method, &self.arguments);
        if let Some(timeout) = self.timeout {
            stream = stream.timeout(timeout);
        }
        let mut items = 0;
        while let Some(item) = stream.next().await {
            item?;
            items += 1;
        }
        Ok(items)
    }

    /// Makes the calls from `callers` tasks, until the pace allows no more or Ctrl-C.
    pub(super) async fn run(self, pace: Pace, callers: usize, output: &Output) -> Run {
        let shared = Arc::new(Shared {
            call: self,
            pace,
            run_begun: Instant::now(),
            next: AtomicU64::new(0),
            started: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            tally: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            tasks.spawn(Arc::clone(&shared).make_calls(stopped.clone()));
        }
        // `show` sets the length at each update.
        let bar = progress_bar(output, 1);
        let mut updates = tokio::time::interval(Duration::from_millis(100));
        updates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut is_interrupted = false;
        loop {
            tokio::select! {
                task = tasks.join_next() => match task {
                    Some(Ok(())) => {}
                    Some(Err(_)) => shared.with_tally(Tally::add_panic),
                    None => break,
                },
                _ = updates.tick() => shared.show(&bar),
                _ = &mut interrupted, if !is_interrupted => {
                    is_interrupted = true;
                    // An error means that all tasks have ended.
                    let _ = stop.send(true);
                }
            }
        }
        bar.finish_and_clear();
        let time = shared.run_begun.elapsed();
        let started = shared.started.load(Ordering::Relaxed);
        Run {
            tally: shared.with_tally(mem::take),
            time,
            missed: pace.due_before(time).saturating_sub(started),
            is_interrupted,
        }
    }
}

impl Shared {
    /// Makes one call after another until the pace allows no more. A call in flight when `stopped`
    /// becomes true is dropped and not counted.
    async fn make_calls(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let calls = async {
            loop {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let timed_from = match self.pace.start(number, self.run_begun.elapsed()) {
                    Start::Never => return,
                    Start::Now => Instant::now(),
                    Start::At(due) => wait_until_due(self.run_begun + due).await,
                };
                self.started.fetch_add(1, Ordering::Relaxed);
                let answer = self.call.call_once().await;
                let time = timed_from.elapsed();
                self.with_tally(|tally| tally.add(answer, time));
                self.ended.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::select! {
            () = calls => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    fn with_tally<T>(&self, act: impl FnOnce(&mut Tally) -> T) -> T {
        // The counts stay valid if a task panics.
        act(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn show(&self, bar: &ProgressBar) {
        let (ended, time) = (self.ended.load(Ordering::Relaxed), self.run_begun.elapsed());
        let (done, all) = self.pace.progress(ended, time);
        bar.set_length(all);
        bar.set_position(done);
        bar.set_message(format!(
            "{ended} calls, {:.0} per second",
            per_second(ended, time)
        ));
    }
}

/// Waits until a call is due. Returns the instant from which its latency counts: from now, or from
/// when it was due if it starts late.
async fn wait_until_due(due: Instant) -> Instant {
    sleep_until(due).await;
    let now = Instant::now();
    let is_late = now.duration_since(due) > TIMER_ERROR;
    if is_late { due } else { now }
}
