//! The load: calls that start when they are due, whatever happened to earlier ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::method::Method;
use super::plan::{DEADLINE, Phase, Setting, as_f64, due_times};
use super::record::{End, Ended, Ran, Record};
use super::systems::{Call, Running};

/// The limit of unfinished calls. If there are more, the rate is too high, or the system under load
/// does not keep deadlines.
const UNFINISHED_LIMIT: usize = 200_000;

/// How long after its deadline the last call may end.
const GRACE: Duration = Duration::from_secs(10);

/// One call in this many is important. The number is coprime to the usual numbers of callers, so
/// that every caller has important calls.
const IMPORTANT_OF: usize = 11;

/// Calls in flight for each place while the capacity is measured.
const IN_FLIGHT_PER_PLACE: usize = 4;

const CAPACITY_WARM_UP: Duration = Duration::from_millis(700);

/// The capacity is the best rate of this many windows: other activity of the machine is not a limit
/// of the system.
const CAPACITY_WINDOWS: usize = 2;

/// The deadline of calls while the capacity is measured, too long to matter.
const CAPACITY_DEADLINE: Duration = Duration::from_secs(30);

/// What happens to calls that have not ended when the load is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    Await,
    /// They are aborted and not recorded.
    Drop,
}

/// Starts the calls of the phases when they are due, and returns what became of them. `method` is
/// the one that the workers run.
///
/// # Errors
///
/// Fails if there are too many unfinished calls, or if calls do not end after their deadline.
pub(crate) async fn offer(
    running: &Arc<dyn Running>,
    setting: &Setting,
    method: &Method,
    phases: &[Phase],
    capacity: f64,
    tail: Tail,
) -> anyhow::Result<Record> {
    // A little later, so that the pacer runs before the first call is due.
    let begin = Instant::now() + Duration::from_millis(20);
    let due = due_times(phases, capacity, setting.arrivals);
    let pacing = tokio::task::spawn_blocking({
        let pacer = Pacer {
            running: Arc::clone(running),
            setting: *setting,
            begin,
            due: due.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        move || pacer.run()
    });
    let (mut ended, mut unfinished, greatest_lag) = pacing.await??;
    let finishing = async {
        if tail == Tail::Drop {
            unfinished.shutdown().await;
        }
        while let Some(call) = unfinished.join_next().await {
            ended.push(call?);
        }
        anyhow::Ok(())
    };
    timeout(DEADLINE + GRACE, finishing)
        .await
        .with_context(|| format!("calls did not end within {GRACE:?} after their deadline"))??;
    let runs = method.runs();
    let runs = runs.iter().filter_map(|run| {
        let at = run.ended.checked_duration_since(begin)?;
        let is_wasted = run.is_wasted;
        Some(Ran { at, is_wasted })
    });
    Ok(Record {
        deadline: DEADLINE,
        due,
        calls: ended,
        runs: runs.collect(),
        greatest_lag,
    })
}

/// Starts calls on a thread of its own: the timers of tokio count milliseconds.
struct Pacer {
    running: Arc<dyn Running>,
    setting: Setting,
    begin: Instant,
    due: Vec<Duration>,
    runtime: tokio::runtime::Handle,
}

impl Pacer {
    /// Starts all calls. Returns those that ended meanwhile, the tasks of the others, and the
    /// greatest lag: how late a call was started.
    fn run(self) -> anyhow::Result<(Vec<Ended>, JoinSet<Ended>, Duration)> {
        let mut ended = Vec::with_capacity(self.due.len());
        let mut unfinished = JoinSet::new();
        let mut greatest_lag = Duration::ZERO;
        for (index, &due) in self.due.iter().enumerate() {
            let at = self.begin + due;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            greatest_lag = greatest_lag.max(at.elapsed());
            unfinished.spawn_on(self.call(index, due), &self.runtime);
            while let Some(call) = unfinished.try_join_next() {
                ended.push(call?);
            }
            if unfinished.len() > UNFINISHED_LIMIT {
                bail!("more than {UNFINISHED_LIMIT} calls have not ended: give a lower --factor");
            }
        }
        Ok((ended, unfinished, greatest_lag))
    }

    fn call(&self, index: usize, due: Duration) -> impl Future<Output = Ended> + Send + 'static {
        let begin = self.begin;
        let is_important = self.setting.important && index.is_multiple_of(IMPORTANT_OF);
        let caller = self.setting.caller_of(index);
        let is_modest = self.setting.is_modest(caller);
        let call = Call {
            caller,
            deadline: begin + due + DEADLINE,
            is_important,
        };
        let running = Arc::clone(&self.running);
        async move {
            let end = running.call(call).await;
            Ended {
                due,
                at: begin.elapsed(),
                end,
                is_important,
                is_modest,
            }
        }
    }
}

/// Returns how many calls a second are answered while plenty are in flight, in the best of
/// [`CAPACITY_WINDOWS`] windows of this length.
///
/// # Errors
///
/// Fails if no call is answered in these windows.
pub(crate) async fn capacity(
    running: &Arc<dyn Running>,
    setting: &Setting,
    window: Duration,
) -> anyhow::Result<f64> {
    let answered = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for index in 0..setting.all_places() * IN_FLIGHT_PER_PLACE {
        let (running, answered) = (Arc::clone(running), Arc::clone(&answered));
        // Calls that are refused at once must not keep the machine busy.
        let pause = setting.method.max(Duration::from_millis(5)) / 4;
        let caller = index % setting.callers;
        callers.spawn(async move {
            loop {
                let call = Call {
                    caller,
                    deadline: Instant::now() + CAPACITY_DEADLINE,
                    is_important: false,
                };
                match running.call(call).await {
                    End::Answered => {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => sleep(pause).await,
                }
            }
        });
    }
    sleep(CAPACITY_WARM_UP).await;
    let mut capacity: f64 = 0.0;
    for _ in 0..CAPACITY_WINDOWS {
        let before = answered.load(Ordering::Relaxed);
        let begin = Instant::now();
        sleep(window).await;
        let count = answered.load(Ordering::Relaxed) - before;
        capacity = capacity.max(as_f64(count) / begin.elapsed().as_secs_f64());
    }
    callers.shutdown().await;
    ensure!(
        capacity > 0.0,
        "no call was answered while the capacity of {setting} was measured"
    );
    Ok(capacity)
}
