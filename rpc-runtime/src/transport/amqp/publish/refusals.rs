//! Detects queues that nack everything that a channel sends them. Pure: no I/O.
//!
//! On RabbitMQ 3.10, a channel may send its first message to a quorum queue that has no leader at
//! that moment. The channel then keeps asking the node that is gone, and nacks every message to
//! this queue until that node is back (`rabbit_fifo_client:enqueue`). A new channel finds the new
//! leader.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::confirms::Confirm;
use crate::protocol::ShortStr;

/// If a queue nacks everything for this long, the channel is assumed to be the reason. A full queue
/// nacks messages too, and a new channel does not help then, so channels must not be opened too
/// often.
const MAX_REFUSAL: Duration = Duration::from_secs(10);

/// At most this many queues are tracked. A worker's callers choose the queues of its replies, so
/// the number of queues is not bounded otherwise.
const MAX_QUEUES: usize = 256;

/// Since when each queue has nacked everything.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    since: HashMap<ShortStr, Instant>,
}

impl Refusals {
    /// Records a confirm. Returns whether the channel should be given up, as it is no longer of use
    /// for this queue.
    pub(super) fn record_and_should_give_up(
        &mut self,
        queue: &ShortStr,
        confirm: Confirm,
        now: Instant,
    ) -> bool {
        match confirm {
            Confirm::Ack => {
                self.since.remove(queue);
                false
            }
            Confirm::Nack => {
                if self.since.len() >= MAX_QUEUES && !self.since.contains_key(queue) {
                    // If the channel were the reason, it would have been closed by now.
                    let is_recent =
                        |since: &Instant| now.saturating_duration_since(*since) <= 2 * MAX_REFUSAL;
                    self.since.retain(|_, since| is_recent(since));
                    if self.since.len() >= MAX_QUEUES {
                        return false;
                    }
                }
                let since = *self.since.entry(queue.clone()).or_insert(now);
                now.saturating_duration_since(since) >= MAX_REFUSAL
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ShortStr = ShortStr::from_static("a");
    const B: ShortStr = ShortStr::from_static("b");

    #[test]
    fn a_queue_that_nacks_everything_for_long_ends_the_channel() {
        let mut refusals = Refusals::default();
        let begun = Instant::now();
        assert!(!refusals.record_and_should_give_up(&A, Confirm::Nack, begun));
        assert!(!refusals.record_and_should_give_up(&A, Confirm::Nack, begun + MAX_REFUSAL / 2));
        assert!(!refusals.record_and_should_give_up(&B, Confirm::Nack, begun + MAX_REFUSAL));
        assert!(!refusals.record_and_should_give_up(&B, Confirm::Ack, begun + MAX_REFUSAL));
        assert!(refusals.record_and_should_give_up(&A, Confirm::Nack, begun + MAX_REFUSAL));
    }

    #[test]
    fn the_number_of_tracked_queues_is_limited() {
        let mut refusals = Refusals::default();
        for n in 0..10 * MAX_QUEUES {
            let queue = ShortStr::new(format!("rpc.reply.{n}")).unwrap();
            refusals.record_and_should_give_up(&queue, Confirm::Nack, Instant::now());
        }
        assert_eq!(refusals.since.len(), MAX_QUEUES);
        refusals.record_and_should_give_up(&A, Confirm::Nack, Instant::now() + 3 * MAX_REFUSAL);
        assert_eq!(refusals.since.len(), 1);
    }

    #[test]
    fn an_ack_restarts_the_time() {
        let mut refusals = Refusals::default();
        let begun = Instant::now();
        refusals.record_and_should_give_up(&A, Confirm::Nack, begun);
        refusals.record_and_should_give_up(&A, Confirm::Ack, begun + MAX_REFUSAL / 2);
        assert!(!refusals.record_and_should_give_up(&A, Confirm::Nack, begun + MAX_REFUSAL));
        assert!(refusals.record_and_should_give_up(&A, Confirm::Nack, begun + 2 * MAX_REFUSAL));
    }
}
