//! Decides which calls in flight count towards a reduced limit. Pure.
//!
//! The limit bounds the calls that wait in the request queue. A call whose slow method is running
//! no longer waits there. If it counted, it would only keep quick calls from being sent. The client
//! cannot see where a call is, but request queues are first in, first out. Once a call is answered,
//! calls that were sent before it, and more than [`MIN_LENGTH`] ago, have most likely left the
//! queue.
//!
//! Each call therefore belongs to a generation. Once a call of the current generation is answered
//! and the generation has lasted for [`MIN_LENGTH`], the next one begins. Then the calls of the one
//! that has ended still count, and those of earlier ones no longer do.

use std::time::Duration;

use tokio::time::Instant;

/// How long a generation lasts at least. Concurrent workers and handlers rarely reorder calls by
/// more time than that.
const MIN_LENGTH: Duration = Duration::from_secs(1);

/// A number of calls, and how many of them are important: their priority is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    pub(super) all: usize,
    pub(super) important: usize,
}

/// The numbers of calls that count towards the limit, by generation.
#[derive(Debug)]
pub(super) struct Generations {
    /// The current generation.
    number: u32,
    began: Instant,
    /// The calls of the current generation.
    current: Count,
    /// The calls of earlier generations that still count.
    previous: Count,
    /// The oldest generation that `previous` includes.
    oldest: u32,
}

impl Generations {
    /// Begins the first generation of a reduced limit. At first, all calls in flight count.
    pub(super) fn new(number: u32, in_flight: Count, now: Instant) -> Self {
        Self {
            number,
            began: now,
            current: Count::default(),
            previous: in_flight,
            oldest: 0,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Returns how many calls in flight count towards the limit.
    pub(super) fn counted(&self) -> Count {
        Count {
            all: self.current.all + self.previous.all,
            important: self.current.important + self.previous.important,
        }
    }

    /// Records that a call of the current generation got its permit, and is sent with it.
    pub(super) fn record_sent(&mut self, is_important: bool) {
        self.current.all += 1;
        self.current.important += usize::from(is_important);
    }

    /// Records that a call of this generation has ended, or that its stream has begun.
    pub(super) fn record_finished(&mut self, generation: u32, is_important: bool) {
        let count = if generation == self.number {
            &mut self.current
        } else if generation >= self.oldest {
            &mut self.previous
        } else {
            return;
        };
        // `new` may have got a number that no longer includes this call.
        count.all = count.all.saturating_sub(1);
        count.important = count.important.saturating_sub(usize::from(is_important));
    }

    /// Records that a call of this generation was answered, which may begin the next generation.
    pub(super) fn record_answered(&mut self, generation: u32, is_important: bool, now: Instant) {
        let counted = self.counted();
        // An important call overtakes ordinary ones, so its reply says nothing about them.
        let has_overtaken = is_important && counted.all != counted.important;
        let is_over = now.saturating_duration_since(self.began) >= MIN_LENGTH;
        if generation == self.number && !has_overtaken && is_over {
            self.oldest = self.number;
            self.number += 1;
            self.began = now;
            self.previous = std::mem::take(&mut self.current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: usize, important: usize) -> Count {
        Count { all, important }
    }

    #[test]
    fn calls_stop_counting_once_a_call_that_was_sent_long_after_them_is_answered() {
        let now = Instant::now();
        let mut generations = Generations::new(7, of(20, 2), now);
        generations.record_sent(false);
        assert_eq!(generations.counted(), of(21, 2));
        generations.record_answered(7, false, now + MIN_LENGTH / 2);
        assert_eq!(generations.counted(), of(21, 2));
        generations.record_answered(6, false, now + MIN_LENGTH);
        assert_eq!(generations.counted(), of(21, 2));
        generations.record_answered(7, false, now + MIN_LENGTH);
        assert_eq!(generations.counted(), of(1, 0));
        // The next generation lasts as long.
        generations.record_answered(8, false, now + MIN_LENGTH);
        assert_eq!(generations.counted(), of(1, 0));
    }

    #[test]
    fn finished_calls_are_counted_once() {
        let now = Instant::now();
        let mut generations = Generations::new(7, of(3, 1), now);
        generations.record_sent(true);
        generations.record_finished(2, false);
        generations.record_finished(6, true);
        assert_eq!(generations.counted(), of(2, 1));
        generations.record_answered(7, true, now + MIN_LENGTH);
        assert_eq!(generations.counted(), of(2, 1), "an important call overtakes");
        generations.record_sent(false);
        generations.record_answered(7, false, now + MIN_LENGTH);
        generations.record_finished(6, false);
        assert_eq!(generations.counted(), of(2, 1));
        generations.record_finished(7, true);
        generations.record_finished(7, false);
        generations.record_finished(7, false);
        assert_eq!(generations.counted(), of(0, 0));
    }
}
