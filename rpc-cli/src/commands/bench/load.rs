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

/// How late a call may start and still be measured from its start. Tokio's timer has a resolution
/// of 1 ms.
const TIMER_ERROR: Duration = Duration::from_millis(2);

/// The call to repeat.
#[derive(Debug)]
pub(super) struct RepeatedCall {
    pub(super) client: DynamicClient,
    pub(super) method: String,
    pub(super) arguments: String,
    pub(super) timeout: Option<Duration>,
}

/// The outcome of a run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) tally: Tally,
    pub(super) time: Duration,
    pub(super) missed: u64,
    pub(super) is_interrupted: bool,
}

/// What all caller tasks share.
#[derive(Debug)]
struct Shared {
    call: RepeatedCall,
    pace: Pace,
    begin: Instant,
    /// The number of the next call.
    next: AtomicU64,
    /// How many calls have started.
    begun: AtomicU64,
    /// How many calls have ended.
    ended: AtomicU64,
    /// Shared, because a histogram per task would take too much memory.
    tally: Mutex<Tally>,
}

impl RepeatedCall {
    /// Makes one call.
    pub(super) async fn call_once(&self) -> Result<String, CallError<MethodError<String>>> {
        let mut call = self.client.call_json(&self.method, &self.arguments);
        if let Some(timeout) = self.timeout {
            call = call.timeout(timeout);
        }
        call.await
    }

    /// Makes all calls from this many tasks, until the end or Ctrl-C.
    pub(super) async fn run(self, pace: Pace, callers: usize, output: &Output) -> Run {
        let shared = Arc::new(Shared {
            call: self,
            pace,
            begin: Instant::now(),
            next: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            tally: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            tasks.spawn(Arc::clone(&shared).make_calls(stopped.clone()));
        }
        let bar = progress_bar(output, 1);
        let mut updates = tokio::time::interval(Duration::from_millis(100));
        updates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut is_interrupted = false;
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(Ok(())) => {}
                    Some(Err(_)) => shared.tally(Tally::add_panic),
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
        let time = shared.begin.elapsed();
        let begun = shared.begun.load(Ordering::Relaxed);
        Run {
            tally: shared.tally(mem::take),
            time,
            missed: pace.due_until(time).saturating_sub(begun),
            is_interrupted,
        }
    }
}

impl Shared {
    /// Makes one call after another until the end.
    async fn make_calls(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let calls = async {
            loop {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let begun = match self.pace.start(number, self.begin.elapsed()) {
                    Start::Never => return,
                    Start::Now => Instant::now(),
                    Start::At(due) => self.wait(self.begin + due).await,
                };
                self.begun.fetch_add(1, Ordering::Relaxed);
                let answer = self.call.call_once().await;
                let time = begun.elapsed();
                self.tally(|tally| tally.add(answer, time));
                self.ended.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::select! {
            () = calls => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    fn tally<T>(&self, with: impl FnOnce(&mut Tally) -> T) -> T {
        // The counts stay valid if a task panics.
        with(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a call is due. Returns the instant from which its latency counts.
    async fn wait(&self, due: Instant) -> Instant {
        sleep_until(due).await;
        let now = Instant::now();
        if now.duration_since(due) > TIMER_ERROR {
            due
        } else {
            now
        }
    }

    fn show(&self, bar: &ProgressBar) {
        let (ended, time) = (self.ended.load(Ordering::Relaxed), self.begin.elapsed());
        let (done, all) = self.pace.progress(ended, time);
        bar.set_length(all);
        bar.set_position(done);
        bar.set_message(format!(
            "{ended} calls, {:.0} per second",
            per_second(ended, time)
        ));
    }
}
