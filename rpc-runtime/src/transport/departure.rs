//! Decides once whether a message is sent or withdrawn. Its sender and the call that waits for it
//! race.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The state of the latest of several messages that are sent one after another.
///
/// The upper bits are the number of the latest message, and the lower two bits are its state.
#[derive(Debug, Default)]
pub(crate) struct Departures(AtomicU32);

const WAITING: u32 = 0;
const LEFT: u32 = 1;
const WITHDRAWN: u32 = 2;

const BITS: u32 = 2;

impl Departures {
    /// Begins another message, and returns its number. Withdraws the previous message if it still
    /// waits.
    pub(crate) fn begin(&self) -> u32 {
        let number = (self.0.load(Ordering::Acquire) >> BITS).wrapping_add(1) << BITS >> BITS;
        self.0.store(number << BITS | WAITING, Ordering::Release);
        number
    }

    /// Claims the message for writing. Returns `false` if it was withdrawn, and must not be
    /// written.
    pub(crate) fn leave(&self, number: u32) -> bool {
        self.settle(number, LEFT) == LEFT
    }

    /// Withdraws the message. Returns `false` if it was claimed for writing.
    pub(crate) fn withdraw(&self, number: u32) -> bool {
        self.settle(number, WITHDRAWN) == WITHDRAWN
    }

    pub(crate) fn is_withdrawn(&self, number: u32) -> bool {
        Self::state_of(number, self.0.load(Ordering::Acquire)) == WITHDRAWN
    }

    /// Sets the state if the message still waits. Returns the state that the message has
    /// afterwards.
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
            // Another message was begun since then.
            false => WITHDRAWN,
        }
    }
}

/// Sends messages one after another.
pub(crate) trait Departs: Debug + Send + Sync {
    fn departures(&self) -> &Departures;
}

impl Departs for Departures {
    fn departures(&self) -> &Departures {
        self
    }
}

/// The right to send one message, or to withdraw it.
#[derive(Debug, Clone)]
pub(crate) struct Departure {
    of: Arc<dyn Departs>,
    number: u32,
}

impl Departure {
    /// The right to send the message with this number.
    pub(crate) fn of(of: Arc<dyn Departs>, number: u32) -> Self {
        Self { of, number }
    }

    /// Like [`Departures::leave`].
    pub(crate) fn leave(&self) -> bool {
        self.of.departures().leave(self.number)
    }

    /// Like [`Departures::withdraw`].
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
    fn several_messages_leave_or_are_withdrawn_independently() {
        let departures = Departures::default();
        let first = departures.begin();
        assert!(departures.leave(first));
        let second = departures.begin();
        assert!(!departures.is_withdrawn(second));
        let third = departures.begin();
        // The second message still waited.
        assert!(departures.is_withdrawn(second) && !departures.leave(second));
        assert!(departures.withdraw(third) && departures.is_withdrawn(third));
    }

    #[test]
    fn message_numbers_wrap_around() {
        let departures = Departures(AtomicU32::new(u32::MAX - 3));
        let next = departures.begin();
        assert!(!departures.is_withdrawn(next) && departures.leave(next));
    }
}
