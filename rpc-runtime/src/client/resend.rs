//! Decides whether a request is sent again. Pure.
//!
//! These are the rules of the reliability guide. A request that was never written is sent again.
//! The request of an idempotent method is also sent again if the broker refused it, if its reply
//! may have been lost, or if the request itself may have been lost. In the last case, that ends
//! once the broker has closed [`MAX_CHANNELS_CLOSED`] channels on which the request was sent: the
//! request may be the reason. The call of any other method waits while its reply can still arrive.
//! It fails if the reply cannot arrive, or if the broker refused the request or may not have it.
//!
//! `broker_call` decides about a request that the broker returned, and gives up after an error that
//! does not go away.

/// Numbers the reply address and the reply consumer of a session. Later sessions of the same handle
/// have higher numbers if they have another address, or another consumer.
///
/// With a new address, the replies to earlier requests are lost. A new consumer of the same address
/// receives the replies that arrived meanwhile, unless the broker has restarted and lost them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ReplyEpoch {
    pub(super) address: u64,
    pub(super) consumer: u64,
}

/// What a call does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResendDecision {
    /// Wait for the reply.
    Wait,
    /// Send the request under the same correlation id, once there is a session.
    Resend,
    /// Fail: the method may have run.
    Fail,
}

/// After this many closed channels, a request that was written is not sent again. The request may
/// be the reason why the broker closes them.
const MAX_CHANNELS_CLOSED: u32 = 2;

/// Decides after the request could not be sent, or the broker's confirm was lost. `written` is
/// whether the broker may have got the request. `channels_closed` is how often the broker has
/// closed the channel of a request of this call.
pub(super) fn after_failed_publish(idempotent: bool, written: bool, channels_closed: u32) -> ResendDecision {
    if !written || (idempotent && channels_closed < MAX_CHANNELS_CLOSED) {
        ResendDecision::Resend
    } else {
        ResendDecision::Fail
    }
}

/// Decides after the broker has refused the request: its queue is full, has lost its leader, or is
/// on a node that is down.
pub(super) fn after_refusal(idempotent: bool) -> ResendDecision {
    if idempotent {
        ResendDecision::Resend
    } else {
        // A queue that has lost its leader may refuse a request that it has delivered.
        ResendDecision::Fail
    }
}

/// Decides after the broker has confirmed the request, which was sent in the epoch `sent`. `now` is
/// the current epoch.
pub(super) fn after_confirm(idempotent: bool, sent: ReplyEpoch, now: ReplyEpoch) -> ResendDecision {
    if sent == now {
        ResendDecision::Wait
    } else if idempotent {
        ResendDecision::Resend
    } else if sent.address == now.address {
        ResendDecision::Wait
    } else {
        ResendDecision::Fail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: ReplyEpoch = ReplyEpoch {
        address: 1,
        consumer: 1,
    };
    const SAME_ADDRESS: ReplyEpoch = ReplyEpoch { consumer: 2, ..SENT };
    const ANOTHER_ADDRESS: ReplyEpoch = ReplyEpoch {
        address: 2,
        consumer: 2,
    };

    #[test]
    fn a_request_that_was_never_written_is_sent() {
        assert_eq!(after_failed_publish(false, false, 7), ResendDecision::Resend);
        assert_eq!(after_failed_publish(true, false, 7), ResendDecision::Resend);
    }

    #[test]
    fn only_idempotent_requests_are_sent_twice() {
        assert_eq!(after_failed_publish(true, true, 0), ResendDecision::Resend);
        assert_eq!(after_failed_publish(false, true, 0), ResendDecision::Fail);
        assert_eq!(after_refusal(true), ResendDecision::Resend);
        assert_eq!(after_refusal(false), ResendDecision::Fail);
        assert_eq!(after_confirm(true, SENT, SAME_ADDRESS), ResendDecision::Resend);
        assert_eq!(after_confirm(true, SENT, ANOTHER_ADDRESS), ResendDecision::Resend);
    }

    #[test]
    fn a_request_that_closes_channels_is_not_sent_forever() {
        let after = |channels_closed| after_failed_publish(true, true, channels_closed);
        assert_eq!(after(MAX_CHANNELS_CLOSED - 1), ResendDecision::Resend);
        assert_eq!(after(MAX_CHANNELS_CLOSED), ResendDecision::Fail);
    }

    #[test]
    fn a_confirmed_call_waits_as_long_as_its_reply_can_arrive() {
        for idempotent in [true, false] {
            assert_eq!(after_confirm(idempotent, SENT, SENT), ResendDecision::Wait);
        }
        assert_eq!(after_confirm(false, SENT, SAME_ADDRESS), ResendDecision::Wait);
        assert_eq!(after_confirm(false, SENT, ANOTHER_ADDRESS), ResendDecision::Fail);
    }
}
