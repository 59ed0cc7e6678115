//! How often a job is retried.

use std::time::Duration;

/// How often a job is retried after it failed, and after how long. Set with
/// `#[rpc(retry = "5 times, 1s to 5m")]`.
///
/// The delays grow by the same factor each time, from the first to the last. They shrink if
/// `min_delay` is longer than `max_delay`, which the attribute does not allow. If there is only one
/// retry, or `min_delay` is zero, every delay is `min_delay`.
///
/// A failure that would repeat, such as the fault `bad_request`, is not retried.
///
/// A delay is at most 30 days. Each wait is up to a fifth shorter or longer than its delay, so that
/// jobs that failed together are not all retried together. It is then rounded up to a tenth of a
/// second and to two digits: 1234 ms become 1300 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many times it is retried. The first attempt does not count. With zero, the job goes to
    /// the dead-letter queue as soon as it has failed.
    pub times: u16,
    /// The delay before the first retry.
    pub min_delay: Duration,
    /// The delay before the last retry, if there are several.
    pub max_delay: Duration,
}

impl RetryPolicy {
    /// Creates a policy.
    #[must_use]
    pub const fn new(times: u16, min_delay: Duration, max_delay: Duration) -> Self {
        Self {
            times,
            min_delay,
            max_delay,
        }
    }

    /// The delay before a retry. The first retry has the number 1. A number above `times` counts as
    /// the last.
    pub(crate) fn delay(&self, number: u32) -> Duration {
        let last_step = u32::from(self.times).saturating_sub(1);
        if last_step == 0 || self.min_delay.is_zero() {
            return self.min_delay;
        }
        let step = number.saturating_sub(1).min(last_step);
        let total_growth = self.max_delay.as_secs_f64() / self.min_delay.as_secs_f64();
        let growth = total_growth.powf(f64::from(step) / f64::from(last_step));
        let delay = self.min_delay.as_secs_f64() * growth;
        Duration::try_from_secs_f64(delay).unwrap_or(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_from_the_first_to_the_last() {
        let policy = RetryPolicy::new(5, Duration::from_secs(1), Duration::from_secs(10_000));
        let delays: Vec<_> = (1..=6)
            .map(|number| policy.delay(number).as_secs_f64().round())
            .collect();
        assert_eq!(delays, [1.0, 10.0, 100.0, 1000.0, 10_000.0, 10_000.0]);
        let once = RetryPolicy::new(1, Duration::from_secs(3), Duration::from_secs(3));
        assert_eq!(once.delay(1), Duration::from_secs(3));
    }
}
