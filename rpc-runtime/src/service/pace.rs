//! How long a method's handler takes, and so how many of its calls are wanted in one message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::protocol::MAX_BATCH_CALLS;

/// How much work one message may bring: a message goes to one worker, and while that runs its calls one after another, others may
/// be idle.
const BUDGET: Duration = Duration::from_millis(1);

/// A handler that takes longer, in nanoseconds, counts as one that takes a day.
const LONGEST: u64 = 86_400 * 1_000_000_000;

/// The mean time that a method's handlers took lately, in nanoseconds; zero before the first.
#[derive(Debug, Default)]
pub(crate) struct Pace(AtomicU64);

impl Pace {
    /// A handler took this long.
    pub(crate) fn ran(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos())
            .unwrap_or(LONGEST)
            .clamp(1, LONGEST);
        // Two that end at once may count as one, which does no harm.
        let mean = self.0.load(Ordering::Relaxed);
        let mean = match mean {
            0 => time,
            // One that is far slower than the others was interrupted; if it was not, more of them will follow.
            mean => (7 * mean + time.min(8 * mean)).div_ceil(8),
        };
        self.0.store(mean, Ordering::Relaxed);
    }

    /// How long the method took lately. `None` if it has not run yet.
    pub(crate) fn mean(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            mean => Some(Duration::from_nanos(mean)),
        }
    }

    /// How many calls are wanted in one message; nothing where that is not known.
    pub(crate) fn wanted(&self) -> Option<u16> {
        let mean = u128::from(self.0.load(Ordering::Relaxed));
        let wanted = BUDGET.as_nanos().checked_div(mean)?;
        Some(u16::try_from(wanted.clamp(1, MAX_BATCH_CALLS as u128)).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_methods_want_many_calls_and_slow_ones_one() {
        let pace = Pace::default();
        assert_eq!(pace.wanted(), None);
        pace.ran(Duration::from_micros(100));
        assert_eq!(pace.wanted(), Some(10));
        let slow = Pace::default();
        slow.ran(Duration::from_millis(10));
        assert_eq!(slow.wanted(), Some(1));
        let instant = Pace::default();
        instant.ran(Duration::ZERO);
        assert_eq!(usize::from(instant.wanted().unwrap()), MAX_BATCH_CALLS);
        slow.ran(Duration::from_secs(3600));
        assert_eq!(slow.wanted(), Some(1));
    }

    #[test]
    fn one_that_was_interrupted_changes_little_and_a_change_of_pace_all() {
        let pace = Pace::default();
        pace.ran(Duration::from_micros(2));
        pace.ran(Duration::from_millis(20));
        assert!(pace.wanted() > Some(200));
        for _ in 0..100 {
            pace.ran(Duration::from_millis(20));
        }
        assert_eq!(pace.wanted(), Some(1));
        for _ in 0..100 {
            pace.ran(Duration::from_micros(2));
        }
        assert!(pace.wanted() > Some(100), "{:?}", pace.wanted());
    }
}
