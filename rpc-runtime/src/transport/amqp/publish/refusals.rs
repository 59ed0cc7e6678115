//! Queues that refuse all that a channel sends them. Pure: decisions over data.
//!
//! A channel of RabbitMQ 3.10 whose first message meets a quorum queue in the moment without a
//! leader goes on asking the node that is gone, and refuses every message for this queue until that
//! node is back (`rabbit_fifo_client:enqueue`). Another channel finds the new leader.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::confirms::Confirm;
use crate::protocol::ShortStr;

/// For how long a queue has to refuse everything before the channel is taken to be the reason. A
/// queue that is full refuses too, and then another channel is of no use: not to be opened too
/// often.
const LONGEST_REFUSAL: Duration = Duration::from_secs(10);

/// How many queues are told apart. A worker's replies go to queues of its callers' choice: those
/// beyond this many are not looked at.
const MOST_QUEUES: usize = 256;

/// Since when each queue refuses what it is sent.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    since: HashMap<ShortStr, Instant>,
}

impl Refusals {
    /// Takes in the broker's word on a message. `true`: the channel is of no more use for this
    /// queue.
    pub(super) fn confirmed(&mut self, queue: &ShortStr, confirm: Confirm, now: Instant) -> bool {
        match confirm {
            Confirm::Ack => {
                self.since.remove(queue);
                false
            }
            Confirm::Nack => {
                if self.since.len() >= MOST_QUEUES && !self.since.contains_key(queue) {
                    // Had it been the channel's fault, the channel would be gone by now.
                    let is_recent =
                        |since: &Instant| now.saturating_duration_since(*since) <= 2 * LONGEST_REFUSAL;
                    self.since.retain(|_, since| is_recent(since));
                    if self.since.len() >= MOST_QUEUES {
                        return false;
                    }
                }
                let since = *self.since.entry(queue.clone()).or_insert(now);
                now.saturating_duration_since(since) >= LONGEST_REFUSAL
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
    fn a_queue_that_refuses_everything_for_long_ends_the_channel() {
        let mut refusals = Refusals::default();
        let begun = Instant::now();
        assert!(!refusals.confirmed(&A, Confirm::Nack, begun));
        assert!(!refusals.confirmed(&A, Confirm::Nack, begun + LONGEST_REFUSAL / 2));
        assert!(!refusals.confirmed(&B, Confirm::Nack, begun + LONGEST_REFUSAL));
        assert!(!refusals.confirmed(&B, Confirm::Ack, begun + LONGEST_REFUSAL));
        assert!(refusals.confirmed(&A, Confirm::Nack, begun + LONGEST_REFUSAL));
    }

    #[test]
    fn peers_cannot_make_it_grow() {
        let mut refusals = Refusals::default();
        for n in 0..10 * MOST_QUEUES {
            let queue = ShortStr::new(format!("rpc.reply.{n}")).unwrap();
            refusals.confirmed(&queue, Confirm::Nack, Instant::now());
        }
        assert_eq!(refusals.since.len(), MOST_QUEUES);
        refusals.confirmed(&A, Confirm::Nack, Instant::now() + 3 * LONGEST_REFUSAL);
        assert_eq!(refusals.since.len(), 1);
    }

    #[test]
    fn a_queue_that_takes_something_refuses_anew() {
        let mut refusals = Refusals::default();
        let begun = Instant::now();
        refusals.confirmed(&A, Confirm::Nack, begun);
        refusals.confirmed(&A, Confirm::Ack, begun + LONGEST_REFUSAL / 2);
        assert!(!refusals.confirmed(&A, Confirm::Nack, begun + LONGEST_REFUSAL));
        assert!(refusals.confirmed(&A, Confirm::Nack, begun + 2 * LONGEST_REFUSAL));
    }
}
