//! The calls themselves.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rpc_runtime::{CallError, DynamicClient};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use super::pace::{Pace, Turn};
use super::tally::Tally;
use crate::output::Output;
use crate::units::rate;

/// How late a call may begin and still count from its beginning: what tokio's timer, which knows milliseconds, makes of it.
const TIMER: Duration = Duration::from_millis(2);

/// What is called.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) client: DynamicClient,
    pub(super) method: String,
    pub(super) arguments: String,
    pub(super) timeout: Option<Duration>,
}

/// What came of all of it.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) tally: Tally,
    pub(super) time: Duration,
    pub(super) missed: u64,
    pub(super) is_interrupted: bool,
}

/// What all callers share.
#[derive(Debug)]
struct Shared {
    load: Load,
    pace: Pace,
    begin: Instant,
    next: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// One for all: its histogram is larger than all else that a caller has.
    tally: Mutex<Tally>,
}

impl Load {
    /// One call.
    pub(super) async fn call(&self) -> Result<String, CallError<String>> {
        let mut call = self.client.call_json(&self.method, &self.arguments);
        if let Some(timeout) = self.timeout {
            call = call.timeout(timeout);
        }
        call.await
    }

    /// All of them, by so many callers; until they are over, or Ctrl-C.
    pub(super) async fn run(self, pace: Pace, callers: usize, output: &Output) -> Ran {
        let shared = Arc::new(Shared {
            load: self,
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
            tasks.spawn(Arc::clone(&shared).calls(stopped.clone()));
        }
        let bar = progress_bar(output);
        let mut looks = tokio::time::interval(Duration::from_millis(100));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                _ = looks.tick() => shared.show(&bar),
                _ = &mut interrupted, if !is_interrupted => {
                    is_interrupted = true;
                    // The tasks are there as long as they are waited for.
                    let _ = stop.send(true);
                }
            }
        }
        bar.finish_and_clear();
        let time = shared.begin.elapsed();
        let begun = shared.begun.load(Ordering::Relaxed);
        Ran {
            tally: shared.tally(mem::take),
            time,
            missed: pace.due_until(time).saturating_sub(begun),
            is_interrupted,
        }
    }
}

impl Shared {
    /// Makes one call after another.
    async fn calls(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let calls = async {
            loop {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let begun = match self.pace.turn(number, self.begin.elapsed()) {
                    Turn::Over => return,
                    Turn::Now => Instant::now(),
                    Turn::At(due) => self.wait(self.begin + due).await,
                };
                self.begun.fetch_add(1, Ordering::Relaxed);
                let answer = self.load.call().await;
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
        // Counts that a panic left are counts all the same.
        with(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a call is due, and tells from when it counts.
    async fn wait(&self, due: Instant) -> Instant {
        sleep_until(due).await;
        let now = Instant::now();
        match now.duration_since(due) > TIMER {
            true => due,
            false => now,
        }
    }

    fn show(&self, bar: &ProgressBar) {
        let (ended, time) = (self.ended.load(Ordering::Relaxed), self.begin.elapsed());
        let (done, all) = self.pace.progress(ended, time);
        bar.set_length(all);
        bar.set_position(done);
        bar.set_message(format!("{ended} calls, {:.0} a second", rate(ended, time)));
    }
}

/// Drawn where people look, and nowhere else.
fn progress_bar(output: &Output) -> ProgressBar {
    let target = match output.json {
        true => ProgressDrawTarget::hidden(),
        // It draws in terminals only.
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(Some(1), target);
    let style = ProgressStyle::with_template("{wide_bar} {percent}% {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
