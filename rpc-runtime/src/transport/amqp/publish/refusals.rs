//! Detects queues that nack everything that a channel sends them. Pure: no I/O.
//!
//! On RabbitMQ 3.10, a channel may send its first message to a quorum queue that has no leader at
//! that moment. The channel then keeps asking the node that is gone, and nacks every message to
//! this queue until that node is back (`rabbit_fifo_client:enqueue`). A new channel finds the new
//! leader.
//!
//! A full queue nacks messages too. So does a quorum queue without a leader: RabbitMQ 4 then nacks
//! one message each 65 seconds. A new channel does not help then, and costs something: a message
//! that is not confirmed on the old channel within five seconds is published again, while the
//! broker may keep it. So a channel is kept while it has messages that were unconfirmed all the
//! time. Otherwise it is replaced at most every ten seconds, for as long as the queue is full.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::ShortStr;

/// How many messages a channel has published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) count: u64,
    /// How many of them precede the first one that is unconfirmed.
    pub(super) confirmed_up_to: u64,
}

/// If a queue nacks everything for this long, the channel may be the reason.
const MAX_REFUSAL: Duration = Duration::from_secs(10);

/// At most this many queues are tracked. A worker's callers choose the queues of its replies, so
/// the number of queues is not bounded otherwise.
const MAX_QUEUES: usize = 256;

/// Since when each queue has nacked everything.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    since: HashMap<ShortStr, FirstNack>,
}

#[derive(Debug, Clone, Copy)]
struct FirstNack {
    at: Instant,
    /// How many messages the channel had sent before the nack arrived, to any queue.
    sent: u64,
}

impl Refusals {
    /// Records the confirm of a message to this queue. Returns whether the channel should be given
    /// up: the queue has nacked everything from it for [`MAX_REFUSAL`], and all messages that were
    /// sent before its first nack are confirmed.
    pub(super) fn record_and_should_give_up(
        &mut self,
        queue: &ShortStr,
        is_ack: bool,
        sent: Sent,
        now: Instant,
    ) -> bool {
        if is_ack {
            self.since.remove(queue);
            return false;
        }
        if !self.since.contains_key(queue) && !self.make_room(now) {
            // The queue is not tracked.
            return false;
        }
        let first = *self.since.entry(queue.clone()).or_insert(FirstNack {
            at: now,
            sent: sent.count,
        });
        let are_earlier_confirmed = sent.confirmed_up_to >= first.sent;
        now.saturating_duration_since(first.at) >= MAX_REFUSAL && are_earlier_confirmed
    }

    /// Makes room for another queue if all room is taken. Returns whether there is room then.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.since.len() >= MAX_QUEUES {
            // A first nack that is older has not ended the channel: no nack came after
            // `MAX_REFUSAL`, or earlier messages stayed unconfirmed. The time of such a queue
            // begins anew with its next nack, which does no harm.
            let is_recent = |first: &FirstNack| now.saturating_duration_since(first.at) <= 2 * MAX_REFUSAL;
            self.since.retain(|_, first| is_recent(first));
        }
        self.since.len() < MAX_QUEUES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ShortStr = ShortStr::from_static("a");
    const B: ShortStr = ShortStr::from_static("b");

    /// Everything is confirmed.
    const NONE_UNCONFIRMED: Sent = Sent {
        count: 7,
        confirmed_up_to: 7,
    };

    fn ends_channel(refusals: &mut Refusals, queue: &ShortStr, is_ack: bool, now: Instant) -> bool {
        refusals.record_and_should_give_up(queue, is_ack, NONE_UNCONFIRMED, now)
    }

    #[test]
    fn a_queue_that_nacks_everything_for_long_ends_the_channel() {
        let mut refusals = Refusals::default();
        let begun = Instant::now();
        assert!(!ends_channel(&mut refusals, &A, false, begun));
        assert!(!ends_channel(&mut refusals, &A, false, begun + MAX_REFUSAL / 2));
        assert!(!ends_channel(&mut refusals, &B, false, begun + MAX_REFUSAL));
        assert!(!ends_channel(&mut refusals, &B, true, begun + MAX_REFUSAL));
        assert!(ends_channel(&mut refusals, &A, false, begun + MAX_REFUSAL));
    }

    /// They would be published again each time.
    #[test]
    fn a_channel_with_messages_that_stay_unconfirmed_is_kept() {
        let mut refusals = Refusals::default();
        let mut nack = |confirmed_up_to, count, now| {
            let sent = Sent {
                count,
                confirmed_up_to,
            };
            refusals.record_and_should_give_up(&A, false, sent, now)
        };
        let begun = Instant::now();
        assert!(!nack(3, 7, begun));
        assert!(!nack(6, 9, begun + MAX_REFUSAL));
        assert!(nack(7, 9, begun + 2 * MAX_REFUSAL));
    }

    #[test]
    fn the_number_of_tracked_queues_is_limited() {
        let mut refusals = Refusals::default();
        for n in 0..10 * MAX_QUEUES {
            let queue = ShortStr::new(format!("rpc.reply.{n}")).unwrap();
            ends_channel(&mut refusals, &queue, false, Instant::now());
        }
        assert_eq!(refusals.since.len(), MAX_QUEUES);
        let later = Instant::now() + 3 * MAX_REFUSAL;
        ends_channel(&mut refusals, &A, false, later);
        assert_eq!(refusals.since.len(), 1);
    }

    #[test]
    fn an_ack_restarts_the_time() {
        let mut refusals = Refusals::default();
        let begun = Instant::now();
        ends_channel(&mut refusals, &A, false, begun);
        ends_channel(&mut refusals, &A, true, begun + MAX_REFUSAL / 2);
        assert!(!ends_channel(&mut refusals, &A, false, begun + MAX_REFUSAL));
        assert!(ends_channel(&mut refusals, &A, false, begun + 2 * MAX_REFUSAL));
    }
}
