//! The counts of a method of a worker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::describe::MethodStats;
use crate::telemetry::Outcome;

/// The counts of a method since its server started.
///
/// Each count is exact once every [`Tally`] is flushed. While requests end, some counts may already
/// include them and others not.
#[derive(Debug)]
pub(crate) struct MethodCounters {
    /// The requests whose method has ended, or was dropped, and those that a layer has answered.
    calls: AtomicU64,
    /// Those of `calls` that ended with an error or a fault, and not because the caller no longer
    /// waited.
    failures: AtomicU64,
    /// Those of `failures` that ended with the method's own error.
    errors: AtomicU64,
    /// The requests that run now. A request of a batch counts only if it does not end at once.
    in_flight: AtomicU64,
    /// The requests that were refused because their time was up or their method would not end in
    /// time.
    shed: AtomicU64,
    /// The requests whose method did not run, or was dropped, because the caller no longer waited.
    /// Those that ran are in `calls`.
    cancelled: AtomicU64,
    /// The sum of all durations, in nanoseconds.
    total: AtomicU64,
    /// How many durations are in each bucket.
    histogram: [AtomicU64; BUCKETS],
}

/// The number of histogram buckets for each doubling of the duration, so that a bucket is at most
/// an eighth of its shortest duration wide.
const PER_DOUBLING: u64 = 8;

/// The number of buckets. The last one also counts the durations that are too long for the
/// histogram: those over 137 seconds.
const BUCKETS: usize = 35 * PER_DOUBLING as usize;

impl Default for MethodCounters {
    fn default() -> Self {
        Self {
            calls: AtomicU64::default(),
            failures: AtomicU64::default(),
            errors: AtomicU64::default(),
            in_flight: AtomicU64::default(),
            shed: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            total: AtomicU64::default(),
            histogram: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl MethodCounters {
    /// Counts a request as in flight until the returned guard is dropped.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// Counts a request that was refused because it could not be answered in time.
    pub(crate) fn count_shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that did not run because its caller no longer waited.
    pub(crate) fn count_cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts at this moment, under these names.
    pub(crate) fn snapshot(&self, service: &str, method: &str) -> MethodStats {
        let calls = self.calls.load(Ordering::Relaxed);
        let total_ns = self.total.load(Ordering::Relaxed);
        let durations = self.durations();
        MethodStats {
            service: service.to_owned(),
            method: method.to_owned(),
            calls,
            failures: self.failures.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            shed: self.shed.load(Ordering::Relaxed),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            mean_ns: total_ns.checked_div(calls).unwrap_or(0),
            total_ns,
            p99_ns: percentile(&durations, 99),
            durations,
        }
    }

    /// Returns the upper end of each bucket that has requests, in nanoseconds, and their number.
    fn durations(&self) -> Vec<(u64, u64)> {
        let counts = self.histogram.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets = counts.enumerate().filter(|(_, count)| *count > 0);
        buckets
            .map(|(bucket, count)| (upper_end(bucket), count))
            .collect()
    }
}

/// Returns the duration within which this percentage of the requests ended, in nanoseconds, rounded
/// up to the end of its bucket, or cut to that of the last one. Zero if there were none.
/// `durations` is as in [`MethodStats::durations`].
fn percentile(durations: &[(u64, u64)], percent: u64) -> u64 {
    let all: u64 = durations.iter().map(|(_, count)| count).sum();
    let wanted = (all * percent).div_ceil(100);
    let mut counted = 0;
    let bucket = durations.iter().find(|(_, count)| {
        counted += count;
        counted >= wanted
    });
    bucket.map_or(0, |(longest, _)| *longest)
}

/// Returns the bucket of a duration in nanoseconds. The position of its highest bit and the three
/// bits below it select the bucket.
fn bucket_of(nanos: u64) -> usize {
    if nanos < PER_DOUBLING {
        return nanos as usize;
    }
    let doublings = u64::from(nanos.ilog2() - PER_DOUBLING.ilog2());
    let eighth = (nanos >> doublings) - PER_DOUBLING;
    (((doublings + 1) * PER_DOUBLING + eighth) as usize).min(BUCKETS - 1)
}

/// Returns the upper end of a bucket, in nanoseconds. The last bucket may hold longer durations.
fn upper_end(bucket: usize) -> u64 {
    let (group, eighth) = (bucket as u64 / PER_DOUBLING, bucket as u64 % PER_DOUBLING);
    match group {
        // Durations below `PER_DOUBLING` have a bucket each.
        0 => eighth,
        _ => ((PER_DOUBLING + eighth + 1) << (group - 1)) - 1,
    }
}

/// Counts requests that run one after another.
///
/// Consecutive requests of one method and one bucket are added up here, and reach the counts of the
/// method together: at the first request that differs, at a [`flush`](Self::flush), or when this is
/// dropped. Several threads count the same method, and the cache line of its counts would move
/// between them with each request.
#[derive(Debug, Default)]
pub(crate) struct Tally<'a> {
    /// The method of the requests that are added up. `None` if there are none.
    stats: Option<&'a MethodCounters>,
    /// Their bucket.
    bucket: usize,
    calls: u64,
    failures: u64,
    errors: u64,
    cancelled: u64,
    nanos: u64,
}

impl<'a> Tally<'a> {
    /// Adds a request whose method ended, was dropped, or was answered for by a layer.
    pub(crate) fn add(&mut self, stats: &'a MethodCounters, took: Duration, outcome: Outcome) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket_of(nanos);
        let is_alike = self.bucket == bucket && self.stats.is_some_and(|known| std::ptr::eq(known, stats));
        if !is_alike {
            self.flush();
            (self.stats, self.bucket) = (Some(stats), bucket);
        }
        self.calls += 1;
        self.failures += u64::from(!matches!(outcome, Outcome::Ok | Outcome::Cancelled));
        self.errors += u64::from(outcome == Outcome::Error);
        self.cancelled += u64::from(outcome == Outcome::Cancelled);
        self.nanos = self.nanos.saturating_add(nanos);
    }

    /// Moves the sums to the counts of their method.
    pub(crate) fn flush(&mut self) {
        let Some(stats) = self.stats.take() else { return };
        let counts = [
            &mut self.calls,
            &mut self.failures,
            &mut self.errors,
            &mut self.cancelled,
            &mut self.nanos,
        ];
        let [calls, failures, errors, cancelled, nanos] = counts.map(std::mem::take);
        stats.calls.fetch_add(calls, Ordering::Relaxed);
        stats.total.fetch_add(nanos, Ordering::Relaxed);
        stats.histogram[self.bucket].fetch_add(calls, Ordering::Relaxed);
        if failures > 0 {
            stats.failures.fetch_add(failures, Ordering::Relaxed);
            stats.errors.fetch_add(errors, Ordering::Relaxed);
        }
        if cancelled > 0 {
            stats.cancelled.fetch_add(cancelled, Ordering::Relaxed);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A request that counts as in flight.
#[derive(Debug)]
pub(crate) struct InFlight<'a>(&'a MethodCounters);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(stats: &MethodCounters) -> MethodStats {
        stats.snapshot("Store", "read")
    }

    fn ended(stats: &MethodCounters, took: Duration, outcome: Outcome) {
        Tally::default().add(stats, took, outcome);
    }

    #[test]
    fn a_method_is_counted() {
        let stats = MethodCounters::default();
        let none = snapshot(&stats);
        assert_eq!((none.calls, none.mean_ns, none.p99_ns), (0, 0, 0));
        stats.count_shed();
        let running = stats.begin();
        assert_eq!(snapshot(&stats).in_flight, 1);
        drop(running);
        for _ in 0..98 {
            ended(&stats, Duration::from_micros(100), Outcome::Ok);
        }
        ended(&stats, Duration::from_millis(50), Outcome::Error);
        ended(&stats, Duration::from_millis(50), Outcome::Fault("panicked"));
        stats.count_cancelled();
        let counted = snapshot(&stats);
        assert_eq!(counted.cancelled, 1);
        assert_eq!((counted.calls, counted.failures, counted.errors), (100, 2, 1));
        assert_eq!((counted.in_flight, counted.shed), (0, 1));
        assert_eq!((counted.mean_ns, counted.total_ns), (1_098_000, 109_800_000));
        let p99 = counted.p99();
        let (least, most) = (Duration::from_millis(50), Duration::from_millis(57));
        assert!(least <= p99 && p99 <= most, "{p99:?}");
        let [(fast, 98), (slow, 2)] = counted.durations[..] else {
            panic!("{:?}", counted.durations)
        };
        assert!((100_000..=112_500).contains(&fast), "{fast}");
        assert_eq!(slow, counted.p99_ns);
    }

    #[test]
    fn a_tally_counts_each_request_once() {
        let (read, write) = (MethodCounters::default(), MethodCounters::default());
        let mut tally = Tally::default();
        for (stats, micros, outcome) in [
            (&read, 5, Outcome::Ok),
            (&read, 5, Outcome::Error),
            (&write, 5, Outcome::Ok),
            (&read, 900, Outcome::Ok),
        ] {
            tally.add(stats, Duration::from_micros(micros), outcome);
        }
        // The last one is counted at the latest when the tally is dropped.
        assert_eq!((snapshot(&read).calls, snapshot(&write).calls), (2, 1));
        drop(tally);
        let read = snapshot(&read);
        assert_eq!((read.calls, read.failures), (3, 1));
        assert_eq!(read.mean_ns, 910_000 / 3);
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_an_eighth_wide(nanos in 0_u64..(2 << 36)) {
            let longest = upper_end(bucket_of(nanos));
            prop_assert!(longest >= nanos && longest - nanos <= nanos / 8, "{nanos} {longest}");
        }

        #[test]
        fn every_duration_has_a_bucket(nanos: u64) {
            prop_assert!(bucket_of(nanos) < BUCKETS);
        }
    }
}
