//! Decides exactly once whether a message is sent or withdrawn. The task that sends the message and
//! the call that gives it up may race.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OwnedSemaphorePermit;

/// The state of the latest of several messages that are sent one after another. All earlier
/// messages count as withdrawn, even if they were claimed. At first, the latest one is number 0,
/// and waits.
///
/// The lower two bits are the state of the latest message, and the others are its number.
#[derive(Debug, Default)]
pub(crate) struct LatestSend(AtomicU32);

const WAITING: u32 = 0;
const CLAIMED: u32 = 1;
const WITHDRAWN: u32 = 2;

const STATE_BITS: u32 = 2;

impl LatestSend {
    /// Begins another message, and returns its number. The previous message counts as withdrawn
    /// from now on. Must not be called by two tasks at once: both could get the same number.
    pub(crate) fn begin(&self) -> u32 {
        let latest = self.0.load(Ordering::Acquire) >> STATE_BITS;
        // The shifts clear the two bits for which there is no room, so the number wraps around.
        let number = latest.wrapping_add(1) << STATE_BITS >> STATE_BITS;
        self.0.store(number << STATE_BITS | WAITING, Ordering::Release);
        number
    }

    /// Claims the message for writing. Returns `false` if it was withdrawn, and must not be
    /// written. Returns `true` also if it was claimed before.
    pub(crate) fn claim(&self, number: u32) -> bool {
        self.decide(number, CLAIMED) == CLAIMED
    }

    /// Withdraws the message. Returns `false` only if it is the latest one and was claimed.
    pub(crate) fn withdraw(&self, number: u32) -> bool {
        self.decide(number, WITHDRAWN) == WITHDRAWN
    }

    /// Whether the latest message was claimed.
    pub(crate) fn is_claimed(&self) -> bool {
        let latest = self.0.load(Ordering::Acquire);
        Self::state_of(latest >> STATE_BITS, latest) == CLAIMED
    }

    /// Whether a message was withdrawn, or is not the latest one.
    pub(crate) fn is_withdrawn(&self, number: u32) -> bool {
        Self::state_of(number, self.0.load(Ordering::Acquire)) == WITHDRAWN
    }

    /// Sets the state if the message still waits. Returns the state that the message has
    /// afterwards.
    fn decide(&self, number: u32, state: u32) -> u32 {
        let (waiting, decided) = (number << STATE_BITS | WAITING, number << STATE_BITS | state);
        match self
            .0
            .compare_exchange(waiting, decided, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => state,
            Err(latest) => Self::state_of(number, latest),
        }
    }

    /// The state of a message, given the value of the latest one.
    fn state_of(number: u32, latest: u32) -> u32 {
        if latest >> STATE_BITS == number {
            latest & ((1 << STATE_BITS) - 1)
        } else {
            WITHDRAWN
        }
    }
}

/// The owner of messages that are sent one after another.
pub(crate) trait HasLatestSend: Debug + Send + Sync {
    fn latest_send(&self) -> &LatestSend;
}

impl HasLatestSend for LatestSend {
    fn latest_send(&self) -> &LatestSend {
        self
    }
}

/// The owner of a token that also holds a permit.
#[derive(Debug)]
struct PermitHolder {
    latest_send: LatestSend,
    _permit: OwnedSemaphorePermit,
}

impl HasLatestSend for PermitHolder {
    fn latest_send(&self) -> &LatestSend {
        &self.latest_send
    }
}

/// The right to send one message, or to withdraw it.
#[derive(Debug, Clone)]
pub(crate) struct SendToken {
    owner: Arc<dyn HasLatestSend>,
    number: u32,
}

impl SendToken {
    pub(crate) fn new(owner: Arc<dyn HasLatestSend>, number: u32) -> Self {
        Self { owner, number }
    }

    /// A token that holds a permit until it, its clones and its [`next`](Self::next) tokens are
    /// dropped: until the messages with them are confirmed, or lost with their channels.
    pub(crate) fn holding(permit: OwnedSemaphorePermit) -> Self {
        let holder = PermitHolder {
            latest_send: LatestSend::default(),
            _permit: permit,
        };
        Self::new(Arc::new(holder), 0)
    }

    /// A token of the same owner for its next message; see [`LatestSend::begin`].
    pub(crate) fn next(&self) -> Self {
        Self::new(Arc::clone(&self.owner), self.owner.latest_send().begin())
    }

    /// Like [`LatestSend::claim`].
    pub(crate) fn claim(&self) -> bool {
        self.owner.latest_send().claim(self.number)
    }

    /// Like [`LatestSend::withdraw`].
    pub(crate) fn withdraw(&self) -> bool {
        self.owner.latest_send().withdraw(self.number)
    }
}

impl Default for SendToken {
    /// A token for the only message of its owner.
    fn default() -> Self {
        Self::new(Arc::new(LatestSend::default()), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_either_claimed_or_withdrawn() {
        let send_token = SendToken::default();
        assert!(send_token.clone().claim());
        assert!(!send_token.withdraw());
        assert!(send_token.claim());

        let send_token = SendToken::default();
        assert!(send_token.clone().withdraw());
        assert!(!send_token.claim());
    }

    #[test]
    fn several_messages_are_claimed_or_withdrawn_independently() {
        let latest_send = LatestSend::default();
        let first = latest_send.begin();
        assert!(latest_send.claim(first) && latest_send.is_claimed());
        let second = latest_send.begin();
        assert!(!latest_send.is_withdrawn(second));
        let third = latest_send.begin();
        assert!(!latest_send.is_claimed());
        // The second message still waited.
        assert!(latest_send.is_withdrawn(second) && !latest_send.claim(second));
        assert!(latest_send.withdraw(third) && latest_send.is_withdrawn(third));
    }

    #[test]
    fn message_numbers_wrap_around() {
        let latest_send = LatestSend(AtomicU32::new(u32::MAX - 3));
        let next = latest_send.begin();
        assert!(!latest_send.is_withdrawn(next) && latest_send.claim(next));
    }
}
