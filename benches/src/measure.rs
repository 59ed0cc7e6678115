//! The cost of a run: time, CPU time, allocations and memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use procfs::WithCurrentSystemInfo as _;
use procfs::process::Process;
use serde::{Deserialize, Serialize};

use crate::memory::{Allocations, allocations};

/// The results of one run of one contender.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) calls_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// CPU time of this process, which is the caller, and also the worker unless that has a process
    /// of its own.
    pub(crate) own_cpu_us_per_call: f64,
    /// CPU time of the worker's own process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) worker_cpu_us_per_call: Option<f64>,
    pub(crate) broker_cpu_us_per_call: f64,
    pub(crate) allocations_per_call: f64,
    /// Resident memory of this process at the end of the window.
    pub(crate) resident_mib: f64,
}

/// Returns one figure of a run.
pub(crate) type Figure = fn(&Measured) -> f64;

/// Returns the median: the mean of the middle two if the number of figures is even, NaN if there
/// are none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => figures[length / 2],
        length => f64::midpoint(figures[length / 2 - 1], figures[length / 2]),
    }
}

impl Measured {
    /// Returns the median of each figure. That of the worker's process is `None` unless all rounds
    /// have it.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let of = |figure: Figure| median(rounds.iter().map(figure).collect());
        Self {
            calls_per_second: of(|it| it.calls_per_second),
            p50_us: of(|it| it.p50_us),
            p99_us: of(|it| it.p99_us),
            p999_us: of(|it| it.p999_us),
            own_cpu_us_per_call: of(|it| it.own_cpu_us_per_call),
            worker_cpu_us_per_call: rounds
                .iter()
                .map(|it| it.worker_cpu_us_per_call)
                .collect::<Option<Vec<_>>>()
                .filter(|rounds| !rounds.is_empty())
                .map(median),
            broker_cpu_us_per_call: of(|it| it.broker_cpu_us_per_call),
            allocations_per_call: of(|it| it.allocations_per_call),
            resident_mib: of(|it| it.resident_mib),
        }
    }
}

/// Reads the counters of the processes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Meter {
    /// The broker's process id.
    pub(crate) broker: i32,
    /// The id of the worker's process, if it has one of its own.
    pub(crate) worker: Option<i32>,
}

/// The counters at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    at: Instant,
    own_cpu: Duration,
    worker_cpu: Option<Duration>,
    broker_cpu: Duration,
    allocations: Allocations,
    pub(crate) resident: u64,
}

impl Meter {
    pub(crate) fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let own = Process::myself()?.stat()?;
        let broker = Process::new(self.broker)
            .and_then(|broker| broker.stat())
            .context("the broker is gone: look for a core dump, or for what killed it")?;
        let worker = self
            .worker
            .map(|worker| Process::new(worker).and_then(|worker| worker.stat()))
            .transpose()
            .context("the worker is gone")?;
        // Child processes that have ended.
        let children = broker.cutime.max(0).unsigned_abs() + broker.cstime.max(0).unsigned_abs();
        Ok(Snapshot {
            at: Instant::now(),
            own_cpu: ticks(own.utime + own.stime),
            worker_cpu: worker.map(|worker| ticks(worker.utime + worker.stime)),
            broker_cpu: ticks(broker.utime + broker.stime + children),
            allocations: allocations(),
            resident: own.rss_bytes().get(),
        })
    }
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_micros(ticks * 1_000_000 / procfs::ticks_per_second())
}

/// How many calls, or items of a stream, there are a second, and the cost of each.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    pub(crate) per_second: f64,
    /// CPU time of this process: see [`Measured::own_cpu_us_per_call`].
    pub(crate) own_cpu_us: f64,
    pub(crate) broker_cpu_us: f64,
    pub(crate) allocations: f64,
}

impl Cost {
    /// Computes the cost of each of `count` between two moments. Costs are NaN if `count` is 0.
    pub(crate) fn between(before: &Snapshot, after: &Snapshot, count: u64) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let count = count as f64;
        let each = |total: f64| if count > 0.0 { total / count } else { f64::NAN };
        let micros = |time: Duration| each(time.as_secs_f64() * 1e6);
        let allocations = after.allocations.count.wrapping_sub(before.allocations.count);
        #[allow(clippy::cast_precision_loss)]
        Self {
            per_second: count / (after.at - before.at).as_secs_f64(),
            own_cpu_us: micros(after.own_cpu - before.own_cpu),
            broker_cpu_us: micros(after.broker_cpu - before.broker_cpu),
            allocations: each(allocations as f64),
        }
    }

    /// Returns the median of each figure.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure).collect());
        Self {
            per_second: of(|it| it.per_second),
            own_cpu_us: of(|it| it.own_cpu_us),
            broker_cpu_us: of(|it| it.broker_cpu_us),
            allocations: of(|it| it.allocations),
        }
    }
}

/// Computes the figures between two moments. Latencies are in nanoseconds.
pub(crate) fn between(before: &Snapshot, after: &Snapshot, latencies: &Histogram<u64>) -> Measured {
    // Calls count if they ended between the two moments, whenever they began.
    let cost = Cost::between(before, after, latencies.len());
    #[allow(clippy::cast_precision_loss)]
    let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    #[allow(clippy::cast_precision_loss)]
    let calls = latencies.len() as f64;
    let worker_cpu = before.worker_cpu.zip(after.worker_cpu);
    #[allow(clippy::cast_precision_loss)]
    Measured {
        calls_per_second: cost.per_second,
        p50_us: micros(0.5),
        p99_us: micros(0.99),
        p999_us: micros(0.999),
        own_cpu_us_per_call: cost.own_cpu_us,
        worker_cpu_us_per_call: worker_cpu
            .map(|(before, after)| (after - before).as_secs_f64() * 1e6 / calls),
        broker_cpu_us_per_call: cost.broker_cpu_us,
        allocations_per_call: cost.allocations,
        resident_mib: after.resident as f64 / f64::from(1 << 20),
    }
}

/// The number of histograms, so that threads rarely wait for each other. Not one for each caller,
/// because a histogram is larger than a call.
const LANES: usize = 8;

/// Longer latencies are recorded as this one.
const LONGEST: Duration = Duration::from_secs(120);

/// Records latencies while a window is open.
#[derive(Debug)]
pub(crate) struct Recorder {
    is_open: AtomicBool,
    is_over: AtomicBool,
    answered: AtomicUsize,
    lanes: Vec<Mutex<Histogram<u64>>>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            is_open: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            lanes: (0..LANES).map(|_| Mutex::new(empty())).collect(),
        })
    }

    /// Counts this many more callers that have had their first reply. In an open loop, each call
    /// counts as one.
    pub(crate) fn warmed_up(&self, callers: usize) {
        self.answered.fetch_add(callers, Ordering::Relaxed);
    }

    /// Returns how many callers have had a reply.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Records the latency of a call that ends now, if the window is open. Concurrent calls should
    /// have different lanes; any number is one.
    pub(crate) fn record(&self, lane: usize, latency: Duration) {
        if self.is_open.load(Ordering::Relaxed) {
            let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
            let mut lane = self.lanes[lane % LANES]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            lane.saturating_record(nanos);
        }
    }

    /// Opens or closes the window.
    pub(crate) fn open(&self, open: bool) {
        self.is_open.store(open, Ordering::Relaxed);
    }

    /// Tells callers to stop: those that ask [`is_over`](Self::is_over).
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Returns everything that was recorded, in nanoseconds.
    pub(crate) fn latencies(&self) -> Histogram<u64> {
        let mut all = empty();
        for lane in &self.lanes {
            let lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&*lane).expect("all have the same bounds");
        }
        all
    }
}

fn empty() -> Histogram<u64> {
    let longest = u64::try_from(LONGEST.as_nanos()).expect("it is two minutes");
    Histogram::new_with_max(longest, 3).expect("the bounds make sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(at: Instant, cpu: Duration) -> Snapshot {
        Snapshot {
            at,
            own_cpu: cpu,
            worker_cpu: Some(cpu * 3),
            broker_cpu: cpu * 2,
            allocations: Allocations {
                count: 0,
                live_bytes: 0,
            },
            resident: 3 << 20,
        }
    }

    #[test]
    fn a_median_is_between_the_middle_two() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn only_calls_of_the_window_count() {
        let recorder = Recorder::new();
        recorder.record(0, Duration::from_secs(1));
        recorder.open(true);
        for millis in 1..=100 {
            recorder.record(usize::try_from(millis).unwrap(), Duration::from_millis(millis));
        }
        recorder.open(false);
        recorder.record(0, Duration::from_secs(1));

        let begin = Instant::now();
        let before = snapshot(begin, Duration::ZERO);
        let after = snapshot(begin + Duration::from_secs(2), Duration::from_millis(10));
        let measured = between(&before, &after, &recorder.latencies());
        let close = |figure: f64, expected: f64| (figure / expected - 1.0).abs() < 0.002;
        assert!(close(measured.calls_per_second, 50.0));
        assert!(close(measured.p50_us, 50_000.0));
        assert!(close(measured.p99_us, 99_000.0));
        assert!(close(measured.p999_us, 100_000.0));
        assert!(close(measured.own_cpu_us_per_call, 100.0));
        assert!(close(measured.worker_cpu_us_per_call.unwrap(), 300.0));
        assert!(close(measured.broker_cpu_us_per_call, 200.0));
        assert!(close(measured.resident_mib, 3.0));
    }
}
