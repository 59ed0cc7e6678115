//! What becomes of a call when the way of its request or of its reply is lost. Pure: decisions over data.
//!
//! The rules are those of the reliability guide: what was never written is sent; a call that is `idempotent` is sent
//! again wherever its request or its reply may be lost; any other waits where its reply can still come, and ends
//! where it cannot, or where nobody knows whether the broker has the request.

/// Which reply address a link has, and the how manieth consumer of it.
///
/// Replies to calls made at another address are lost. Replies that came to the same address while nobody consumed from it
/// wait there, unless the broker itself was restarted meanwhile and lost them, or the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    pub(super) address: u64,
    pub(super) consumer: u64,
}

/// What a call does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for its reply.
    Wait,
    /// It is sent, under the same correlation id, once there is a link.
    Send,
    /// It ends: its method may have run.
    End,
}

/// How often a request is sent at the most where the broker closed the channel over what was sent: it may be this
/// very request that the broker does not take.
const MAX_CHANNELS_LOST: u32 = 2;

/// A request could not be sent, or the broker's word on it was lost.
pub(super) fn unconfirmed(idempotent: bool, written: bool, channels_lost: u32) -> Fate {
    match written {
        false => Fate::Send,
        true if idempotent && channels_lost < MAX_CHANNELS_LOST => Fate::Send,
        true => Fate::End,
    }
}

/// The broker did not take the request: its queue is full, or has lost its leader and will have another.
pub(super) fn refused(idempotent: bool) -> Fate {
    match idempotent {
        true => Fate::Send,
        // A queue that failed refuses even what it had delivered.
        false => Fate::End,
    }
}

/// The broker has the request, which was sent at one position; the link is at another now, or the same.
pub(super) fn confirmed(idempotent: bool, sent: Position, now: Position) -> Fate {
    if sent == now {
        return Fate::Wait;
    }
    match (idempotent, sent.address == now.address) {
        (true, _) => Fate::Send,
        (false, true) => Fate::Wait,
        (false, false) => Fate::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Position = Position {
        address: 1,
        consumer: 1,
    };
    const SAME_ADDRESS: Position = Position { consumer: 2, ..SENT };
    const ANOTHER_ADDRESS: Position = Position {
        address: 2,
        consumer: 2,
    };

    #[test]
    fn what_was_never_written_is_sent() {
        assert_eq!(unconfirmed(false, false, 7), Fate::Send);
        assert_eq!(unconfirmed(true, false, 7), Fate::Send);
    }

    #[test]
    fn only_idempotent_requests_are_sent_twice() {
        assert_eq!(unconfirmed(true, true, 0), Fate::Send);
        assert_eq!(unconfirmed(false, true, 0), Fate::End);
        assert_eq!(refused(true), Fate::Send);
        assert_eq!(refused(false), Fate::End);
        assert_eq!(confirmed(true, SENT, SAME_ADDRESS), Fate::Send);
        assert_eq!(confirmed(true, SENT, ANOTHER_ADDRESS), Fate::Send);
    }

    #[test]
    fn a_request_that_channels_are_closed_over_is_not_sent_for_ever() {
        assert_eq!(unconfirmed(true, true, MAX_CHANNELS_LOST - 1), Fate::Send);
        assert_eq!(unconfirmed(true, true, MAX_CHANNELS_LOST), Fate::End);
    }

    #[test]
    fn a_confirmed_call_waits_as_long_as_its_reply_can_come() {
        for idempotent in [true, false] {
            assert_eq!(confirmed(idempotent, SENT, SENT), Fate::Wait);
        }
        assert_eq!(confirmed(false, SENT, SAME_ADDRESS), Fate::Wait);
        assert_eq!(confirmed(false, SENT, ANOTHER_ADDRESS), Fate::End);
    }
}
