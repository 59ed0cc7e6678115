//! Whether a message leaves or is withdrawn: settled once, between who sends it and who gave it to be sent.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What became of the last of the messages that somebody gives to be sent, one after another.
///
/// A number that counts them, and below it, in two bits, what became of that one.
#[derive(Debug, Default)]
pub(crate) struct Departures(AtomicU32);

const WAITING: u32 = 0;
const LEFT: u32 = 1;
const WITHDRAWN: u32 = 2;

const BITS: u32 = 2;

impl Departures {
    /// Another message is to be sent; one before it that still waits is withdrawn. Answers with its number.
    pub(crate) fn begin(&self) -> u32 {
        let number = (self.0.load(Ordering::Acquire) >> BITS).wrapping_add(1) << BITS >> BITS;
        self.0.store(number << BITS | WAITING, Ordering::Release);
        number
    }

    /// The message is about to be written. `false`: it was withdrawn, and must not be.
    pub(crate) fn leave(&self, number: u32) -> bool {
        self.settle(number, LEFT) == LEFT
    }

    /// Nobody waits for the message any more. `false`: it has left.
    pub(crate) fn withdraw(&self, number: u32) -> bool {
        self.settle(number, WITHDRAWN) == WITHDRAWN
    }

    pub(crate) fn is_withdrawn(&self, number: u32) -> bool {
        Self::state_of(number, self.0.load(Ordering::Acquire)) == WITHDRAWN
    }

    /// Settles it so, unless it is settled; answers how.
    fn settle(&self, number: u32, state: u32) -> u32 {
        let (waiting, settled) = (number << BITS | WAITING, number << BITS | state);
        match self
            .0
            .compare_exchange(waiting, settled, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => state,
            Err(known) => Self::state_of(number, known),
        }
    }

    fn state_of(number: u32, known: u32) -> u32 {
        match known >> BITS == number {
            true => known & ((1 << BITS) - 1),
            // Another one was begun since.
            false => WITHDRAWN,
        }
    }
}

/// Who gives messages to be sent.
pub(crate) trait Departs: Debug + Send + Sync {
    fn departures(&self) -> &Departures;
}

impl Departs for Departures {
    fn departures(&self) -> &Departures {
        self
    }
}

/// Whether one message leaves or is withdrawn.
#[derive(Debug, Clone)]
pub(crate) struct Departure {
    of: Arc<dyn Departs>,
    number: u32,
}

impl Departure {
    /// Of the message that somebody began with this number.
    pub(crate) fn of(somebody: Arc<dyn Departs>, number: u32) -> Self {
        Self { of: somebody, number }
    }

    /// As [`Departures::leave`].
    pub(crate) fn leave(&self) -> bool {
        self.of.departures().leave(self.number)
    }

    /// As [`Departures::withdraw`].
    pub(crate) fn withdraw(&self) -> bool {
        self.of.departures().withdraw(self.number)
    }
}

impl Default for Departure {
    fn default() -> Self {
        Self::of(Arc::new(Departures::default()), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_leaves_or_is_withdrawn() {
        let departure = Departure::default();
        assert!(departure.clone().leave());
        assert!(!departure.withdraw());
        assert!(departure.leave());

        let departure = Departure::default();
        assert!(departure.clone().withdraw());
        assert!(!departure.leave());
    }

    #[test]
    fn each_of_several_messages_leaves_or_is_withdrawn_by_itself() {
        let departures = Departures::default();
        let first = departures.begin();
        assert!(departures.leave(first));
        let second = departures.begin();
        assert!(!departures.is_withdrawn(second));
        let third = departures.begin();
        // It still waited.
        assert!(departures.is_withdrawn(second) && !departures.leave(second));
        assert!(departures.withdraw(third) && departures.is_withdrawn(third));
    }

    #[test]
    fn numbers_begin_anew_when_they_are_used_up() {
        let departures = Departures(AtomicU32::new(u32::MAX - 3));
        let next = departures.begin();
        assert!(!departures.is_withdrawn(next) && departures.leave(next));
    }
}
