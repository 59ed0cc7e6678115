//! Assigns returns to published messages, and decides the outcome of each message.
//!
//! RabbitMQ sends a message's return before its confirm. lapin attaches a return to the confirm
//! that arrives next, which may be another message's. This module does not see lapin's confirms in
//! the order in which they arrived. So a confirm without the message's own return leaves the
//! message undecided, until its return is seen or can no longer be seen.
//!
//! When a message is confirmed, the number of returns that wait in lapin is at most the number of
//! unconfirmed messages, and each confirm takes one return. The message waits for two moments:
//!
//! 1. All messages that were in flight when it was confirmed are confirmed. Then its return was
//!    attached to some confirm: of one of those messages, or of a message that was sent later but
//!    confirmed before the last of them. That later confirm was seen already, or its message still
//!    counts as in flight here.
//! 2. All messages that were in flight at the first moment are confirmed too. If its return was not
//!    seen by then, there is none.
//!
//! A message that is never confirmed must not leave others undecided forever: a quorum queue
//! without a majority confirms nothing. So a message also counts as routed after [`MAX_WAIT`].
//! Unroutable messages are confirmed at once, and confirms that arrived are seen soon.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::protocol::ShortStr;
use crate::transport::Published;

/// Identifies the message of a return by its queue and an id. The id is the token in the
/// [`COPY_HEADER`](crate::protocol::COPY_HEADER), which copies of requests and messages with a
/// caller's items have, or else the correlation id. It is unique among the requests of this
/// process, and a request is sent again only after the outcome of its last message. The messages
/// of a stream that answers a request share an id: a return counts for the last of them.
pub(super) type ReturnKey = (ShortStr, ShortStr);

/// The messages that were published and whose outcome is not decided yet.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    next: u64,
    /// The messages that are not confirmed yet.
    in_flight: BTreeSet<u64>,
    /// The keys of the messages that can be returned and have no outcome yet.
    keys: HashMap<u64, ReturnKey, RandomState>,
    /// The inverse of `keys`.
    sequences: HashMap<ReturnKey, u64, RandomState>,
    /// The messages whose return arrived with another message's confirm, before their own confirm.
    returned_early: HashSet<u64, RandomState>,
    /// The messages that were confirmed without their own return.
    undecided: HashSet<u64, RandomState>,
    /// The undecided messages that wait for the first moment, in order. Decided ones are removed
    /// later.
    first: Waiting,
    /// Like `first`, for the second moment.
    second: Waiting,
}

/// Messages that each wait until all messages before `before` are confirmed. They are in order of
/// `before` and of the time since which they wait.
type Waiting = VecDeque<Undecided>;

#[derive(Debug, Clone, Copy)]
struct Undecided {
    sequence: u64,
    /// The first message that this one does not wait for.
    before: u64,
    since: Instant,
}

/// After this time, an undecided message counts as routed.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The broker's confirm of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirm {
    Ack,
    Nack,
}

/// How many messages were published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) count: u64,
    /// How many of them precede the first message that is unconfirmed.
    pub(super) confirmed: u64,
}

/// Decided messages and their outcomes.
pub(super) type Decided = Vec<(u64, Published)>;

impl Confirms {
    /// Adds a message that is about to be published, and returns its sequence number. `key` is set
    /// if the message can be returned.
    pub(super) fn add(&mut self, key: Option<ReturnKey>) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.in_flight.insert(sequence);
        if let Some(key) = key {
            self.keys.insert(sequence, key.clone());
            self.sequences.insert(key, sequence);
        }
        sequence
    }

    /// Returns how many messages were added.
    pub(super) fn sent(&self) -> Sent {
        Sent {
            count: self.next,
            confirmed: self.in_flight.first().copied().unwrap_or(self.next),
        }
    }

    /// Removes a message that will not be confirmed. Returns the outcomes that waited for it.
    pub(super) fn forget(&mut self, sequence: u64) -> Decided {
        self.in_flight.remove(&sequence);
        self.returned_early.remove(&sequence);
        self.forget_key(sequence);
        let mut decided = Decided::new();
        self.decide(&mut decided);
        decided
    }

    /// Processes a message's confirm and the return that lapin attached to it.
    pub(super) fn confirm(
        &mut self,
        sequence: u64,
        confirm: Confirm,
        attached_return: Option<ReturnKey>,
        now: Instant,
    ) -> Decided {
        let mut decided = Decided::new();
        self.in_flight.remove(&sequence);
        let returned = attached_return.and_then(|key| self.sequences.get(&key).copied());
        if let Some(returned) = returned {
            if self.undecided.remove(&returned) {
                self.push(returned, Published::Returned, &mut decided);
            } else {
                self.returned_early.insert(returned);
            }
        }
        match (self.returned_early.remove(&sequence), confirm) {
            (true, _) => self.push(sequence, Published::Returned, &mut decided),
            (false, Confirm::Nack) => self.push(sequence, Published::Refused, &mut decided),
            (false, Confirm::Ack) if self.keys.contains_key(&sequence) => {
                self.undecided.insert(sequence);
                self.first.push_back(Undecided {
                    sequence,
                    before: self.next,
                    since: now,
                });
            }
            (false, Confirm::Ack) => self.push(sequence, Published::Confirmed, &mut decided),
        }
        self.decide(&mut decided);
        decided
    }

    /// Decides about the messages whose return can no longer be seen: they were routed.
    fn decide(&mut self, decided: &mut Decided) {
        let oldest = self.in_flight.first().copied().unwrap_or(self.next);
        while let Some(passed) = pop_if(&mut self.first, |undecided| undecided.before <= oldest) {
            self.second.push_back(Undecided {
                before: self.next,
                ..passed
            });
        }
        while let Some(passed) = pop_if(&mut self.second, |undecided| undecided.before <= oldest) {
            self.decide_routed(passed.sequence, decided);
        }
    }

    /// When [`decide_overdue`](Self::decide_overdue) has to be called. `None` if no message waits.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        let oldest = [self.first.front(), self.second.front()].into_iter().flatten();
        Some(oldest.map(|undecided| undecided.since).min()? + MAX_WAIT)
    }

    /// Decides about the messages that have waited for [`MAX_WAIT`].
    pub(super) fn decide_overdue(&mut self, now: Instant) -> Decided {
        let mut decided = Decided::new();
        let is_overdue = |undecided: &Undecided| now >= undecided.since + MAX_WAIT;
        while let Some(overdue) = pop_if(&mut self.second, is_overdue) {
            self.decide_routed(overdue.sequence, &mut decided);
        }
        while let Some(overdue) = pop_if(&mut self.first, is_overdue) {
            self.decide_routed(overdue.sequence, &mut decided);
        }
        decided
    }

    /// Decides about all confirmed messages, because no more confirms will arrive.
    pub(super) fn end(&mut self) -> Decided {
        let mut decided = Decided::new();
        for sequence in std::mem::take(&mut self.undecided) {
            self.push(sequence, Published::Confirmed, &mut decided);
        }
        decided
    }

    fn decide_routed(&mut self, sequence: u64, decided: &mut Decided) {
        // It may have been decided already.
        if self.undecided.remove(&sequence) {
            self.push(sequence, Published::Confirmed, decided);
        }
    }

    /// Adds the outcome of a message, which a return cannot change any more.
    fn push(&mut self, sequence: u64, published: Published, decided: &mut Decided) {
        self.forget_key(sequence);
        decided.push((sequence, published));
    }

    fn forget_key(&mut self, sequence: u64) {
        // The messages of a stream share a key. It belongs to the last one.
        if let Some(key) = self.keys.remove(&sequence)
            && self.sequences.get(&key) == Some(&sequence)
        {
            self.sequences.remove(&key);
        }
    }
}

/// Takes the next waiting message if `condition` accepts it.
fn pop_if(waiting: &mut Waiting, condition: impl Fn(&Undecided) -> bool) -> Option<Undecided> {
    let next = *waiting.front()?;
    condition(&next).then(|| waiting.pop_front())?
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn key(sequence: u64) -> ReturnKey {
        (
            ShortStr::from_static("q"),
            ShortStr::new(sequence.to_string()).unwrap(),
        )
    }

    /// The confirms of this many published messages.
    fn published(messages: u64) -> Confirms {
        let mut confirms = Confirms::default();
        for n in 0..messages {
            confirms.add(Some(key(n)));
        }
        confirms
    }

    fn kinds(decided: Vec<(u64, Published)>) -> Vec<(u64, &'static str)> {
        let name = |published| match published {
            Published::Confirmed => "routed",
            Published::Returned => "returned",
            Published::Refused => "refused",
            Published::Failed { .. } | Published::Withdrawn => "failed",
        };
        decided
            .into_iter()
            .map(|(sequence, published)| (sequence, name(published)))
            .collect()
    }

    #[test]
    fn a_messages_own_return_decides_at_once() {
        let mut confirms = published(1);
        assert_eq!(
            kinds(confirms.confirm(0, Confirm::Ack, Some(key(0)), *NOW)),
            [(0, "returned")]
        );
    }

    #[test]
    fn a_key_belongs_to_the_last_message_that_has_it() {
        let mut confirms = Confirms::default();
        let [first, second] = [(); 2].map(|()| confirms.add(Some(key(7))));
        let nacked = confirms.confirm(first, Confirm::Nack, None, *NOW);
        assert!(matches!(nacked[..], [(0, Published::Refused)]));
        assert_eq!(
            kinds(confirms.confirm(second, Confirm::Ack, Some(key(7)), *NOW)),
            [(1, "returned")]
        );
    }

    #[test]
    fn another_messages_return_waits_for_its_message() {
        let mut confirms = published(2);
        // 1 was returned, and its return is attached to 0's confirm.
        assert_eq!(kinds(confirms.confirm(0, Confirm::Ack, Some(key(1)), *NOW)), []);
        assert_eq!(
            kinds(confirms.confirm(1, Confirm::Ack, None, *NOW)),
            [(1, "returned"), (0, "routed")]
        );
    }

    #[test]
    fn swapped_returns_find_their_messages() {
        let mut confirms = published(2);
        assert_eq!(kinds(confirms.confirm(0, Confirm::Ack, Some(key(1)), *NOW)), []);
        assert_eq!(
            kinds(confirms.confirm(1, Confirm::Ack, Some(key(0)), *NOW)),
            [(0, "returned"), (1, "returned")]
        );
    }

    #[test]
    fn a_return_may_be_seen_after_the_confirm_of_its_message() {
        let mut confirms = published(2);
        // 0 was returned. 1's confirm arrived first, with the return, but is seen last.
        assert_eq!(kinds(confirms.confirm(0, Confirm::Ack, None, *NOW)), []);
        assert_eq!(
            kinds(confirms.confirm(1, Confirm::Ack, Some(key(0)), *NOW)),
            [(0, "returned"), (1, "routed")]
        );
    }

    #[test]
    fn a_missing_confirm_delays_others_only_for_a_limited_time() {
        let mut confirms = published(3);
        // 0 is never confirmed, and 2 is not confirmed yet.
        assert_eq!(kinds(confirms.confirm(1, Confirm::Ack, None, *NOW)), []);
        let overdue = confirms.next_overdue().unwrap();
        assert_eq!(
            kinds(confirms.decide_overdue(overdue - Duration::from_millis(1))),
            []
        );
        assert_eq!(kinds(confirms.decide_overdue(overdue)), [(1, "routed")]);
        assert!(confirms.next_overdue().is_none());
        // When the channel ends, confirmed messages were routed.
        assert_eq!(kinds(confirms.confirm(2, Confirm::Ack, None, *NOW)), []);
        assert_eq!(kinds(confirms.end()), [(2, "routed")]);
    }

    #[test]
    fn a_single_message_in_flight_is_decided_at_once() {
        let mut confirms = Confirms::default();
        for n in 0..2 {
            confirms.add(Some(key(n)));
            assert_eq!(
                kinds(confirms.confirm(n, Confirm::Ack, None, *NOW)),
                [(n, "routed")]
            );
        }
    }

    /// Simulates lapin: messages to confirm, returns that wait for a confirm, and confirms that the
    /// publisher has not seen yet.
    #[derive(Default)]
    struct SimulatedLapin {
        outstanding: Vec<u64>,
        waiting: VecDeque<ReturnKey>,
        unseen: Vec<(u64, Option<ReturnKey>)>,
    }

    impl SimulatedLapin {
        /// A confirm arrives, and takes the return that has waited longest.
        fn confirm(&mut self, pick: prop::sample::Index) {
            if !self.outstanding.is_empty() {
                let sequence = self.outstanding.remove(pick.index(self.outstanding.len()));
                self.unseen.push((sequence, self.waiting.pop_front()));
            }
        }

        /// The publisher sees one of the confirms that arrived.
        fn see(&mut self, pick: prop::sample::Index, confirms: &mut Confirms) -> Decided {
            match self.unseen.is_empty() {
                true => Decided::new(),
                false => {
                    let (sequence, returned) = self.unseen.remove(pick.index(self.unseen.len()));
                    confirms.confirm(sequence, Confirm::Ack, returned, *NOW)
                }
            }
        }
    }

    proptest! {
        /// Each message gets its own outcome, in whatever order confirms arrive and are seen.
        #[test]
        fn every_message_gets_its_own_outcome(
            returned in prop::collection::vec(any::<bool>(), 1..40),
            picks in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4), 200),
        ) {
            let mut confirms = Confirms::default();
            let mut lapin = SimulatedLapin::default();
            let mut outcomes: HashMap<u64, &'static str> = HashMap::new();
            let mut record = |decided| for (sequence, kind) in kinds(decided) {
                assert!(outcomes.insert(sequence, kind).is_none(), "two outcomes of {sequence}");
            };
            let mut to_send = (0u64..).zip(&returned);
            // First in a random order, and then the rest.
            let rest = std::iter::repeat_n((picks[0].0, 0), returned.len())
                .chain(std::iter::repeat_n((picks[0].0, 1), returned.len()))
                .chain(std::iter::repeat_n((picks[0].0, 2), returned.len()));
            for (pick, act) in picks.iter().copied().chain(rest) {
                match act {
                    0 => if let Some((n, is_returned)) = to_send.next() {
                        let sequence = confirms.add(Some(key(n)));
                        lapin.outstanding.push(sequence);
                        // The return arrives after the message was sent, and before its own
                        // confirm.
                        if *is_returned {
                            lapin.waiting.push_back(key(sequence));
                        }
                    },
                    1 => lapin.confirm(pick),
                    _ => record(lapin.see(pick, &mut confirms)),
                }
            }
            for (sequence, is_returned) in (0u64..).zip(&returned) {
                let expected = if *is_returned { "returned" } else { "routed" };
                prop_assert_eq!(outcomes.get(&sequence).copied(), Some(expected), "message {}", sequence);
            }
            prop_assert!(confirms.keys.is_empty() && confirms.sequences.is_empty() && confirms.undecided.is_empty());
            prop_assert!(confirms.returned_early.is_empty() && confirms.in_flight.is_empty());
        }
    }
}
