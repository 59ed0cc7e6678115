//! Which calls in flight count for a reduced limit. Pure.
//!
//! The limit is about calls that wait in the request queue. A call whose method is slow does not
//! wait there: it would only keep quick calls from being sent. The client cannot see where a call
//! is, but request queues are first in, first out. Once a call is answered, calls that were sent
//! long before it have left the queue.
//!
//! Calls therefore belong to generations of at least [`SHORTEST`]. Once a call of the current
//! generation is answered, all calls that are older than the generation stop counting.

use std::time::Duration;

use tokio::time::Instant;

/// How long a generation lasts at least. Several workers, and the places of one worker, overtake
/// each other by less than that.
const SHORTEST: Duration = Duration::from_secs(1);

/// A number of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    pub(super) all: usize,
    pub(super) important: usize,
}

/// The calls that count, by when they were sent.
#[derive(Debug)]
pub(super) struct Generations {
    number: u32,
    began: Instant,
    current: Count,
    previous: Count,
    /// The first generation that `previous` counts.
    first: u32,
}

impl Generations {
    /// All calls in flight count, and a new generation begins.
    pub(super) fn new(number: u32, in_flight: Count, now: Instant) -> Self {
        Self {
            number,
            began: now,
            current: Count::default(),
            previous: in_flight,
            first: 0,
        }
    }

    /// The current generation.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// How many calls in flight count.
    pub(super) fn counted(&self) -> Count {
        Count {
            all: self.current.all + self.previous.all,
            important: self.current.important + self.previous.important,
        }
    }

    /// A call of the current generation was sent.
    pub(super) fn sent(&mut self, is_important: bool) {
        self.current.all += 1;
        self.current.important += usize::from(is_important);
    }

    /// A call of this generation is not in flight any more.
    pub(super) fn left(&mut self, generation: u32, is_important: bool) {
        let count = if generation == self.number {
            &mut self.current
        } else if generation >= self.first {
            &mut self.previous
        } else {
            return;
        };
        count.all = count.all.saturating_sub(1);
        count.important = count.important.saturating_sub(usize::from(is_important));
    }

    /// A call of this generation was answered.
    pub(super) fn answered(&mut self, generation: u32, is_important: bool, now: Instant) {
        let counted = self.counted();
        // An important call overtakes others in the queue.
        let is_last_in_queue = !is_important || counted.all == counted.important;
        let is_over = now.saturating_duration_since(self.began) >= SHORTEST;
        if generation == self.number && is_last_in_queue && is_over {
            self.first = self.number;
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
        generations.sent(false);
        assert_eq!(generations.counted(), of(21, 2));
        generations.answered(7, false, now + SHORTEST / 2);
        assert_eq!(generations.counted(), of(21, 2));
        generations.answered(6, false, now + SHORTEST);
        assert_eq!(generations.counted(), of(21, 2));
        generations.answered(7, false, now + SHORTEST);
        assert_eq!(generations.counted(), of(1, 0));
        // The next generation lasts as long.
        generations.answered(8, false, now + SHORTEST);
        assert_eq!(generations.counted(), of(1, 0));
    }

    #[test]
    fn calls_that_leave_are_counted_once() {
        let now = Instant::now();
        let mut generations = Generations::new(7, of(3, 1), now);
        generations.sent(true);
        generations.left(2, false);
        generations.left(6, true);
        assert_eq!(generations.counted(), of(2, 1));
        generations.answered(7, true, now + SHORTEST);
        assert_eq!(generations.counted(), of(2, 1), "an important call overtakes");
        generations.sent(false);
        generations.answered(7, false, now + SHORTEST);
        generations.left(6, false);
        assert_eq!(generations.counted(), of(2, 1));
        generations.left(7, true);
        generations.left(7, false);
        generations.left(7, false);
        assert_eq!(generations.counted(), of(0, 0));
    }
}
