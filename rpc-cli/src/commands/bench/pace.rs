//! Decides when calls are due. It has no clock.

use std::time::Duration;

/// When each call is due, and when no more calls start. Times count from the start of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    rate: Option<u32>,
    duration: Option<Duration>,
    count: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// At once.
    Now,
    /// At this time, or at once if it has passed.
    At(Duration),
    /// Not at all: the run is over.
    Never,
}

impl Pace {
    /// Creates a pace of `rate` calls per second, or of as many as possible, until `duration` has
    /// passed or `count` calls have started. Without both, it has no end.
    pub(super) fn new(rate: Option<u32>, duration: Option<Duration>, count: Option<u64>) -> Self {
        Self {
            rate,
            duration,
            count,
        }
    }

    /// Returns when the call with this number, counted from 0, starts.
    pub(super) fn start(&self, number: u64, now: Duration) -> Start {
        let is_over = |time| self.duration.is_some_and(|duration| time >= duration);
        if self.count.is_some_and(|count| number >= count) || is_over(now) {
            return Start::Never;
        }
        match self.due(number) {
            None => Start::Now,
            Some(due) if is_over(due) => Start::Never,
            Some(due) => Start::At(due),
        }
    }

    /// Returns when a call is due. `None` if there is no rate.
    fn due(&self, number: u64) -> Option<Duration> {
        let rate = u128::from(self.rate?);
        let nanos = u128::from(number) * 1_000_000_000 / rate;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Returns how many calls are due before this time: none without a rate.
    pub(super) fn due_before(&self, time: Duration) -> u64 {
        let Some(rate) = self.rate else {
            return 0;
        };
        let time = self.duration.map_or(time, |duration| duration.min(time));
        let due = (time.as_nanos() * u128::from(rate)).div_ceil(1_000_000_000);
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.count.map_or(due, |count| count.min(due))
    }

    /// Returns how much is done and the total: in calls or in milliseconds, by the limit that is
    /// closer. `(0, 1)` without a limit.
    pub(super) fn progress(&self, ended: u64, now: Duration) -> (u64, u64) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let by_count = self.count.map(|count| (ended.min(count), count));
        let by_time = self
            .duration
            .map(|duration| (millis(now.min(duration)), millis(duration)));
        let share = |(done, all): (u64, u64)| done as f64 / all.max(1) as f64;
        match (by_count, by_time) {
            (Some(count), Some(time)) if share(time) > share(count) => time,
            (Some(count), _) => count,
            (None, Some(time)) => time,
            (None, None) => (0, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn without_a_rate_calls_start_at_once_until_a_limit() {
        let pace = Pace::new(None, Some(ms(100)), Some(3));
        assert_eq!(pace.start(0, ms(0)), Start::Now);
        assert_eq!(pace.start(2, ms(99)), Start::Now);
        assert_eq!(pace.start(3, ms(0)), Start::Never);
        assert_eq!(pace.start(0, ms(100)), Start::Never);
        assert_eq!(pace.due_before(ms(100)), 0);
    }

    #[test]
    fn with_a_rate_each_call_has_a_due_time() {
        let pace = Pace::new(Some(100), Some(ms(1000)), None);
        assert_eq!(pace.start(0, ms(0)), Start::At(ms(0)));
        assert_eq!(pace.start(7, ms(500)), Start::At(ms(70)));
        assert_eq!(pace.start(99, ms(0)), Start::At(ms(990)));
        assert_eq!(pace.start(100, ms(0)), Start::Never);
        assert_eq!(pace.due_before(ms(5000)), 100);
        assert_eq!(pace.due_before(ms(995)), 100);
        assert_eq!(pace.due_before(ms(15)), 2);
        assert_eq!(Pace::new(Some(100), None, Some(5)).due_before(ms(5000)), 5);
    }

    #[test]
    fn progress_is_that_of_the_closer_limit() {
        assert_eq!(
            Pace::new(None, Some(ms(200)), None).progress(9, ms(50)),
            (50, 200)
        );
        assert_eq!(Pace::new(None, None, Some(10)).progress(4, ms(50)), (4, 10));
        let both = Pace::new(None, Some(ms(200)), Some(10));
        assert_eq!(both.progress(4, ms(50)), (4, 10));
        assert_eq!(both.progress(4, ms(150)), (150, 200));
    }
}
