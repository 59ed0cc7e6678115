//! How long a method takes, and how many of its calls to put into one batch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::protocol::MAX_BATCH_CALLS;

/// How long the calls of one batch may take together. One worker runs them one after another even
/// if others are idle.
const BUDGET: Duration = Duration::from_millis(1);

/// One day, in nanoseconds. Longer durations count as this one.
const LONGEST: u64 = 86_400 * 1_000_000_000;

/// The recent mean duration of a method in nanoseconds. Zero until a run is recorded.
#[derive(Debug, Default)]
pub(crate) struct RecentDuration(AtomicU64);

impl RecentDuration {
    /// Adds the duration of a run.
    pub(crate) fn record(&self, time: Duration) {
        // At least 1, because zero means that there was no run.
        let time = u64::try_from(time.as_nanos())
            .unwrap_or(LONGEST)
            .clamp(1, LONGEST);
        // If two runs end at the same time, one of them may be lost. That does no harm.
        let mean = match self.0.load(Ordering::Relaxed) {
            0 => time,
            // Each run has the weight of an eighth. One that is far slower than the others was
            // probably preempted, so it is capped. If the method has become slower, more such runs
            // follow.
            previous => (7 * previous + time.min(8 * previous)).div_ceil(8),
        };
        self.0.store(mean, Ordering::Relaxed);
    }

    /// Returns the recent mean duration. `None` if no run was recorded.
    pub(crate) fn mean(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            mean => Some(Duration::from_nanos(mean)),
        }
    }

    /// Returns how many calls to put into one batch. `None` if no run was recorded.
    pub(crate) fn batch_size(&self) -> Option<u16> {
        let mean = u128::from(self.0.load(Ordering::Relaxed));
        // Fails if the mean is zero: no run was recorded.
        let batch_size = BUDGET.as_nanos().checked_div(mean)?;
        Some(u16::try_from(batch_size.clamp(1, MAX_BATCH_CALLS as u128)).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_methods_get_large_batches_and_slow_ones_single_calls() {
        let recent = RecentDuration::default();
        assert_eq!(recent.batch_size(), None);
        recent.record(Duration::from_micros(100));
        assert_eq!(recent.batch_size(), Some(10));
        let slow = RecentDuration::default();
        slow.record(Duration::from_millis(10));
        assert_eq!(slow.batch_size(), Some(1));
        let instant = RecentDuration::default();
        instant.record(Duration::ZERO);
        assert_eq!(usize::from(instant.batch_size().unwrap()), MAX_BATCH_CALLS);
        slow.record(Duration::from_secs(3600));
        assert_eq!(slow.batch_size(), Some(1));
    }

    #[test]
    fn one_slow_run_changes_little_and_many_of_them_change_everything() {
        let recent = RecentDuration::default();
        recent.record(Duration::from_micros(2));
        recent.record(Duration::from_millis(20));
        assert!(recent.batch_size() > Some(200));
        for _ in 0..100 {
            recent.record(Duration::from_millis(20));
        }
        assert_eq!(recent.batch_size(), Some(1));
        for _ in 0..100 {
            recent.record(Duration::from_micros(2));
        }
        assert!(recent.batch_size() > Some(100), "{:?}", recent.batch_size());
    }
}
