//! Which published message a confirm or a return speaks of.
//!
//! RabbitMQ sends a message's return before its confirm. lapin hands a return to whichever confirm
//! comes next, which may be another message's, and its confirms are not seen here in the order in
//! which they came. So a confirm without the message's own return leaves the message undecided,
//! until its return is seen or can no longer be.
//!
//! When a message is confirmed, at most as many returns still wait as messages are unconfirmed, and
//! each confirm takes one along. So once all that were in flight at that moment are confirmed, the
//! message's return was taken along by some confirm: by one of those, or by that of a message sent
//! later, which came earlier than the last of those. That one was seen by then, or is in flight as
//! far as is known here. So once all that are in flight at that second moment are confirmed too,
//! there was no return. Nor is there one after a while, should one of them never be confirmed (a
//! quorum queue without a majority confirms nothing): unroutable messages are confirmed at once,
//! and what came is seen soon.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::protocol::ShortStr;
use crate::transport::Published;

/// What a return can be recognised by: its queue and its correlation id, which is unique among our
/// requests.
pub(super) type Key = (ShortStr, ShortStr);

/// The messages that were published and not yet decided about.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    next: u64,
    /// Sent, and not yet confirmed.
    in_flight: BTreeSet<u64>,
    /// The messages that can be returned, until they are decided about.
    keys: HashMap<u64, Key, RandomState>,
    sequences: HashMap<Key, u64, RandomState>,
    /// Returned on another message's confirm, before their own.
    returned_early: HashSet<u64, RandomState>,
    /// Confirmed without their own return.
    undecided: HashSet<u64, RandomState>,
    /// Those of them, and perhaps others, that wait for the first moment, in order.
    first: Waiting,
    /// And for the second.
    second: Waiting,
}

/// Messages that wait until all before another one are confirmed, in order of both.
type Waiting = VecDeque<Undecided>;

#[derive(Debug, Clone, Copy)]
struct Undecided {
    sequence: u64,
    /// The message that is not waited for any more.
    before: u64,
    since: Instant,
}

/// After so long a message is taken for routed whatever else is in flight.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The broker's word on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirm {
    Ack,
    Nack,
}

/// The messages decided about, and how.
pub(super) type Decided = Vec<(u64, Published)>;

impl Confirms {
    /// Enters a message that is about to be published; with its key, if it can be returned.
    pub(super) fn publish(&mut self, key: Option<Key>) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.in_flight.insert(sequence);
        if let Some(key) = key {
            self.keys.insert(sequence, key.clone());
            self.sequences.insert(key, sequence);
        }
        sequence
    }

    /// Takes back a message about which no confirm will come.
    pub(super) fn forget(&mut self, sequence: u64) -> Decided {
        self.in_flight.remove(&sequence);
        self.returned_early.remove(&sequence);
        self.forget_key(sequence);
        let mut decided = Decided::new();
        self.decide(&mut decided);
        decided
    }

    /// Takes in a message's confirm and the return that rode on it.
    pub(super) fn confirm(
        &mut self,
        sequence: u64,
        confirm: Confirm,
        returned: Option<Key>,
        now: Instant,
    ) -> Decided {
        let mut decided = Decided::new();
        self.in_flight.remove(&sequence);
        let rode_along = returned.and_then(|key| self.sequences.get(&key).copied());
        if let Some(returned) = rode_along {
            match self.undecided.remove(&returned) {
                true => self.push(returned, Published::Returned, &mut decided),
                false => {
                    self.returned_early.insert(returned);
                }
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
            (false, Confirm::Ack) => self.push(sequence, Published::Routed, &mut decided),
        }
        self.decide(&mut decided);
        decided
    }

    /// Decides about the messages whose return can no longer come: they were routed.
    fn decide(&mut self, decided: &mut Decided) {
        let oldest = self.in_flight.first().copied().unwrap_or(self.next);
        while let Some(over) = pop_if(&mut self.first, |undecided| undecided.before <= oldest) {
            self.second.push_back(Undecided {
                before: self.next,
                ..over
            });
        }
        while let Some(over) = pop_if(&mut self.second, |undecided| undecided.before <= oldest) {
            self.take_for_routed(over.sequence, decided);
        }
    }

    /// When [`overdue`](Self::overdue) has something to decide; never, where nothing waits.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        let oldest = [self.first.front(), self.second.front()].into_iter().flatten();
        Some(oldest.map(|undecided| undecided.since).min()? + LONGEST_WAIT)
    }

    /// Decides about those that have waited long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Decided {
        let mut decided = Decided::new();
        let is_overdue = |undecided: &Undecided| now >= undecided.since + LONGEST_WAIT;
        while let Some(overdue) = pop_if(&mut self.second, is_overdue) {
            self.take_for_routed(overdue.sequence, &mut decided);
        }
        while let Some(overdue) = pop_if(&mut self.first, is_overdue) {
            self.take_for_routed(overdue.sequence, &mut decided);
        }
        decided
    }

    /// Decides about all that were confirmed: no more confirms come.
    pub(super) fn end(&mut self) -> Decided {
        let mut decided = Decided::new();
        for sequence in std::mem::take(&mut self.undecided) {
            self.push(sequence, Published::Routed, &mut decided);
        }
        decided
    }

    fn take_for_routed(&mut self, sequence: u64, decided: &mut Decided) {
        // It may have been decided about meanwhile.
        if self.undecided.remove(&sequence) {
            self.push(sequence, Published::Routed, decided);
        }
    }

    fn push(&mut self, sequence: u64, published: Published, decided: &mut Decided) {
        self.forget_key(sequence);
        decided.push((sequence, published));
    }

    fn forget_key(&mut self, sequence: u64) {
        if let Some(key) = self.keys.remove(&sequence) {
            self.sequences.remove(&key);
        }
    }
}

/// Takes the next message that waits, if its waiting is over.
fn pop_if(waiting: &mut Waiting, is_over: impl Fn(&Undecided) -> bool) -> Option<Undecided> {
    let next = *waiting.front()?;
    is_over(&next).then(|| waiting.pop_front())?
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn key(sequence: u64) -> Key {
        (
            ShortStr::from_static("q"),
            ShortStr::new(sequence.to_string()).unwrap(),
        )
    }

    fn kinds(decided: Vec<(u64, Published)>) -> Vec<(u64, &'static str)> {
        let name = |published| match published {
            Published::Routed => "routed",
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
    fn its_own_return_decides_at_once() {
        let mut confirms = Confirms::default();
        let sequence = confirms.publish(Some(key(0)));
        assert_eq!(
            kinds(confirms.confirm(sequence, Confirm::Ack, Some(key(0)), *NOW)),
            [(0, "returned")]
        );
    }

    #[test]
    fn a_foreign_return_waits_for_its_own_message() {
        let mut confirms = Confirms::default();
        for n in 0..2 {
            confirms.publish(Some(key(n)));
        }
        // 1 was returned, and rides on 0's confirm.
        assert_eq!(kinds(confirms.confirm(0, Confirm::Ack, Some(key(1)), *NOW)), []);
        assert_eq!(
            kinds(confirms.confirm(1, Confirm::Ack, None, *NOW)),
            [(1, "returned"), (0, "routed")]
        );
    }

    #[test]
    fn swapped_returns_find_their_messages() {
        let mut confirms = Confirms::default();
        for n in 0..2 {
            confirms.publish(Some(key(n)));
        }
        assert_eq!(kinds(confirms.confirm(0, Confirm::Ack, Some(key(1)), *NOW)), []);
        assert_eq!(
            kinds(confirms.confirm(1, Confirm::Ack, Some(key(0)), *NOW)),
            [(0, "returned"), (1, "returned")]
        );
    }

    #[test]
    fn a_return_may_be_seen_after_the_confirm_of_its_message() {
        let mut confirms = Confirms::default();
        for n in 0..2 {
            confirms.publish(Some(key(n)));
        }
        // 0 was returned. 1's confirm came first and took that along, and is seen last.
        assert_eq!(kinds(confirms.confirm(0, Confirm::Ack, None, *NOW)), []);
        assert_eq!(
            kinds(confirms.confirm(1, Confirm::Ack, Some(key(0)), *NOW)),
            [(0, "returned"), (1, "routed")]
        );
    }

    #[test]
    fn a_confirm_that_never_comes_holds_up_others_for_a_moment_only() {
        let mut confirms = Confirms::default();
        for n in 0..3 {
            confirms.publish(Some(key(n)));
        }
        // 0 is never confirmed, and 2 is on its way.
        assert_eq!(kinds(confirms.confirm(1, Confirm::Ack, None, *NOW)), []);
        let overdue = confirms.next_overdue().unwrap();
        assert_eq!(kinds(confirms.overdue(overdue - Duration::from_millis(1))), []);
        assert_eq!(kinds(confirms.overdue(overdue)), [(1, "routed")]);
        assert!(confirms.next_overdue().is_none());
        // When the channel ends, what was confirmed is known to be.
        assert_eq!(kinds(confirms.confirm(2, Confirm::Ack, None, *NOW)), []);
        assert_eq!(kinds(confirms.end()), [(2, "routed")]);
    }

    #[test]
    fn what_is_alone_in_flight_is_decided_at_once() {
        let mut confirms = Confirms::default();
        for n in 0..2 {
            confirms.publish(Some(key(n)));
            assert_eq!(
                kinds(confirms.confirm(n, Confirm::Ack, None, *NOW)),
                [(n, "routed")]
            );
        }
    }

    /// Messages on their way: those to confirm, the returns that wait for a confirm, and what lapin
    /// has and the publisher did not see yet.
    #[derive(Default)]
    struct Way {
        outstanding: Vec<u64>,
        waiting: VecDeque<Key>,
        unseen: Vec<(u64, Option<Key>)>,
    }

    impl Way {
        /// A confirm comes, and takes along the return that waits longest.
        fn confirm(&mut self, pick: prop::sample::Index) {
            if !self.outstanding.is_empty() {
                let sequence = self.outstanding.remove(pick.index(self.outstanding.len()));
                self.unseen.push((sequence, self.waiting.pop_front()));
            }
        }

        /// The publisher sees one of those that came.
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
        /// Whatever the order in which confirms come and are seen, with returns handed out as lapin
        /// does, each message gets its own verdict.
        #[test]
        fn every_message_gets_its_own_verdict(
            returned in prop::collection::vec(any::<bool>(), 1..40),
            picks in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4), 200),
        ) {
            let mut confirms = Confirms::default();
            let mut way = Way::default();
            let mut verdicts: HashMap<u64, &'static str> = HashMap::new();
            let mut note = |decided| for (sequence, kind) in kinds(decided) {
                assert!(verdicts.insert(sequence, kind).is_none(), "two verdicts on {sequence}");
            };
            let mut to_send = (0u64..).zip(&returned);
            // In any order, and then the rest.
            let rest = std::iter::repeat_n((picks[0].0, 0), returned.len())
                .chain(std::iter::repeat_n((picks[0].0, 1), returned.len()))
                .chain(std::iter::repeat_n((picks[0].0, 2), returned.len()));
            for (pick, act) in picks.iter().copied().chain(rest) {
                match act {
                    0 => if let Some((n, is_returned)) = to_send.next() {
                        let sequence = confirms.publish(Some(key(n)));
                        way.outstanding.push(sequence);
                        // The broker's return comes before the message's own confirm, and after it
                        // was sent.
                        if *is_returned {
                            way.waiting.push_back(key(sequence));
                        }
                    },
                    1 => way.confirm(pick),
                    _ => note(way.see(pick, &mut confirms)),
                }
            }
            for (sequence, is_returned) in (0u64..).zip(&returned) {
                let expected = if *is_returned { "returned" } else { "routed" };
                prop_assert_eq!(verdicts.get(&sequence).copied(), Some(expected), "message {}", sequence);
            }
            prop_assert!(confirms.keys.is_empty() && confirms.sequences.is_empty() && confirms.undecided.is_empty());
            prop_assert!(confirms.returned_early.is_empty() && confirms.in_flight.is_empty());
        }
    }
}
