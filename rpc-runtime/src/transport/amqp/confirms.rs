//! Which published message a confirm or a return speaks of.
//!
//! RabbitMQ sends a message's return before its confirm. lapin hands a return to whichever confirm comes next, which may
//! be another message's. So a confirm that carries a foreign return leaves its own message undecided: its own return
//! may still wait to ride on a later confirm. It is decided by its return, or once every message that was in flight at
//! that moment is confirmed: each of their confirms takes one waiting return along, and there were no more of those.

use std::collections::{BTreeSet, HashMap};

use super::super::Published;
use crate::protocol::ShortStr;

/// What a return can be recognised by: its queue and its correlation id.
pub(super) type Key = (ShortStr, Option<ShortStr>);

/// The messages that were published and not yet decided about.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    next: u64,
    /// Sent, and not yet confirmed.
    in_flight: BTreeSet<u64>,
    keys: HashMap<u64, Key>,
    /// Returned on another message's confirm, before their own.
    returned_early: Vec<Key>,
    undecided: Vec<Undecided>,
}

#[derive(Debug)]
struct Undecided {
    sequence: u64,
    /// The messages before this one were in flight when it was confirmed, or decided already.
    before: u64,
}

/// The broker's word on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirm {
    Ack,
    Nack,
}

impl Confirms {
    /// Enters a message that is about to be published.
    pub(super) fn publish(&mut self, key: Key) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.in_flight.insert(sequence);
        self.keys.insert(sequence, key);
        sequence
    }

    /// Takes back a message about which no confirm will come.
    pub(super) fn forget(&mut self, sequence: u64) -> Vec<(u64, Published)> {
        self.in_flight.remove(&sequence);
        self.keys.remove(&sequence);
        self.decide()
    }

    /// Takes in a message's confirm and the return that rode on it. Answers with the messages decided by that.
    pub(super) fn confirm(
        &mut self,
        sequence: u64,
        confirm: Confirm,
        returned: Option<Key>,
    ) -> Vec<(u64, Published)> {
        self.in_flight.remove(&sequence);
        let mut decided = Vec::new();
        let carried_foreign = match returned {
            Some(key) if self.keys.get(&sequence) != Some(&key) => {
                self.returned(key, &mut decided);
                true
            }
            Some(_) => {
                self.keys.remove(&sequence);
                decided.push((sequence, Published::Returned));
                decided.append(&mut self.decide());
                return decided;
            }
            None => false,
        };
        let early = self
            .keys
            .get(&sequence)
            .and_then(|key| self.returned_early.iter().position(|early| early == key));
        match (early, confirm) {
            (Some(position), _) => {
                self.returned_early.swap_remove(position);
                self.keys.remove(&sequence);
                decided.push((sequence, Published::Returned));
            }
            (None, Confirm::Nack) => {
                self.keys.remove(&sequence);
                decided.push((sequence, Published::Refused));
            }
            (None, Confirm::Ack) if carried_foreign => {
                self.undecided.push(Undecided {
                    sequence,
                    before: self.next,
                });
            }
            (None, Confirm::Ack) => {
                self.keys.remove(&sequence);
                decided.push((sequence, Published::Routed));
            }
        }
        decided.append(&mut self.decide());
        decided
    }

    /// A return that rode on another message's confirm.
    fn returned(&mut self, key: Key, decided: &mut Vec<(u64, Published)>) {
        let waiting = self
            .undecided
            .iter()
            .position(|undecided| self.keys.get(&undecided.sequence) == Some(&key));
        match waiting {
            Some(position) => {
                let undecided = self.undecided.swap_remove(position);
                self.keys.remove(&undecided.sequence);
                decided.push((undecided.sequence, Published::Returned));
            }
            // Only what is in flight can be meant; anything else was forgotten, and so is its return.
            None if self
                .in_flight
                .iter()
                .any(|sequence| self.keys.get(sequence) == Some(&key)) =>
            {
                self.returned_early.push(key);
            }
            None => {}
        }
    }

    /// The undecided messages whose return can no longer come: they were routed.
    fn decide(&mut self) -> Vec<(u64, Published)> {
        let oldest = self.in_flight.first().copied().unwrap_or(self.next);
        let keys = &mut self.keys;
        let mut decided = Vec::new();
        self.undecided.retain(|undecided| {
            let routed = undecided.before <= oldest;
            if routed {
                keys.remove(&undecided.sequence);
                decided.push((undecided.sequence, Published::Routed));
            }
            !routed
        });
        decided
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn key(sequence: u64) -> Key {
        (
            ShortStr::from_static("q"),
            Some(ShortStr::new(sequence.to_string()).unwrap()),
        )
    }

    fn kinds(decided: Vec<(u64, Published)>) -> Vec<(u64, &'static str)> {
        let name = |published| match published {
            Published::Routed => "routed",
            Published::Returned => "returned",
            Published::Refused => "refused",
            Published::Failed { .. } => "failed",
        };
        decided
            .into_iter()
            .map(|(sequence, published)| (sequence, name(published)))
            .collect()
    }

    #[test]
    fn its_own_return_decides_at_once() {
        let mut confirms = Confirms::default();
        let sequence = confirms.publish(key(0));
        assert_eq!(
            kinds(confirms.confirm(sequence, Confirm::Ack, Some(key(0)))),
            [(0, "returned")]
        );
    }

    #[test]
    fn a_foreign_return_waits_for_its_own_message() {
        let mut confirms = Confirms::default();
        for n in 0..2 {
            confirms.publish(key(n));
        }
        // 1 was returned, and rides on 0's confirm.
        assert_eq!(kinds(confirms.confirm(0, Confirm::Ack, Some(key(1)))), []);
        assert_eq!(
            kinds(confirms.confirm(1, Confirm::Ack, None)),
            [(1, "returned"), (0, "routed")]
        );
    }

    #[test]
    fn swapped_returns_find_their_messages() {
        let mut confirms = Confirms::default();
        for n in 0..2 {
            confirms.publish(key(n));
        }
        assert_eq!(kinds(confirms.confirm(0, Confirm::Ack, Some(key(1)))), []);
        assert_eq!(
            kinds(confirms.confirm(1, Confirm::Ack, Some(key(0)))),
            [(0, "returned"), (1, "returned")]
        );
    }

    proptest! {
        /// Whatever the order of confirms, with returns handed out as lapin does, each message gets its own verdict.
        #[test]
        fn every_message_gets_its_own_verdict(
            returned in prop::collection::vec(any::<bool>(), 1..40),
            seed in prop::collection::vec(any::<prop::sample::Index>(), 40),
            window in 1usize..10,
        ) {
            let mut confirms = Confirms::default();
            let mut verdicts: HashMap<u64, &'static str> = HashMap::new();
            let mut outstanding: Vec<u64> = Vec::new();
            let mut waiting: VecDeque<Key> = VecDeque::new();
            let mut picks = seed.iter().cycle();
            let mut settle = |outstanding: &mut Vec<u64>, waiting: &mut VecDeque<Key>, confirms: &mut Confirms| {
                let position = picks.next().unwrap().index(outstanding.len());
                let sequence = outstanding.remove(position);
                for (sequence, kind) in kinds(confirms.confirm(sequence, Confirm::Ack, waiting.pop_front())) {
                    let twice = verdicts.insert(sequence, kind);
                    assert!(twice.is_none(), "two verdicts on {sequence}");
                }
            };
            for is_returned in &returned {
                let n = confirms.next;
                let sequence = confirms.publish(key(n));
                outstanding.push(sequence);
                // The broker's return comes before the message's own confirm, and after it was sent.
                if *is_returned {
                    waiting.push_back(key(sequence));
                }
                if outstanding.len() >= window {
                    settle(&mut outstanding, &mut waiting, &mut confirms);
                }
            }
            while !outstanding.is_empty() {
                settle(&mut outstanding, &mut waiting, &mut confirms);
            }
            for (sequence, is_returned) in (0u64..).zip(&returned) {
                let expected = if *is_returned { "returned" } else { "routed" };
                prop_assert_eq!(verdicts.get(&sequence).copied(), Some(expected), "message {}", sequence);
            }
            prop_assert!(confirms.keys.is_empty() && confirms.undecided.is_empty());
            prop_assert!(confirms.returned_early.is_empty() && confirms.in_flight.is_empty());
        }
    }
}
