//! Which deliveries are done with, and how few acknowledgements say so. Pure: decisions over data.
//!
//! RabbitMQ numbers the deliveries of a channel from one, and takes one acknowledgement for a delivery and all before it
//! ([`multiple`](https://www.rabbitmq.com/docs/confirms#consumer-acks-multiple-parameter)). A rejected delivery is told by itself, and
//! before any acknowledgement: one of several deliveries would acknowledge it too.

use std::collections::BTreeMap;

/// The settled deliveries of a channel: settled one by one, or always all up to one.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// All that are settled, from the first to the last of each unbroken row: as many rows as some are not, at the most.
    rows: BTreeMap<u64, u64>,
    /// Those that are done with and that the broker was not told of.
    untold: Vec<u64>,
    /// Those that are rejected and that the broker was not told of.
    rejected: Vec<u64>,
    /// The last up to which all are settled, and up to which the broker was told so.
    all: u64,
    all_told: u64,
}

/// What the broker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    /// This delivery is done with; with `multiple`, all deliveries up to it are.
    Ack { tag: u64, multiple: bool },
    /// This delivery is rejected and does not return to its queue.
    Reject { tag: u64 },
}

impl Settling {
    /// The delivery is done with.
    pub(super) fn settle(&mut self, tag: u64) {
        self.add_to_rows(tag);
        self.untold.push(tag);
    }

    /// The delivery is rejected.
    pub(super) fn reject(&mut self, tag: u64) {
        self.add_to_rows(tag);
        self.rejected.push(tag);
    }

    fn add_to_rows(&mut self, tag: u64) {
        let before = self
            .rows
            .range(..tag)
            .next_back()
            .map(|(first, last)| (*first, *last));
        let last = self.rows.remove(&(tag + 1)).unwrap_or(tag);
        let first = match before {
            Some((first, end)) if end + 1 == tag => first,
            _ => tag,
        };
        self.rows.insert(first, last);
    }

    /// Settles all up to this one.
    pub(super) fn settle_up_to(&mut self, tag: u64) {
        self.all = self.all.max(tag);
    }

    /// How many are settled and the broker was not told of.
    pub(super) fn untold(&self) -> u64 {
        (self.untold.len() + self.rejected.len()) as u64 + (self.all - self.all_told)
    }

    /// What to tell the broker, in this order.
    pub(super) fn take(&mut self) -> Vec<Settlement> {
        let rejected = self.rejected.drain(..).map(|tag| Settlement::Reject { tag });
        let mut settlements: Vec<_> = rejected.collect();
        if self.all > self.all_told {
            self.all_told = self.all;
            settlements.push(Settlement::Ack {
                tag: self.all,
                multiple: true,
            });
            return settlements;
        }
        let all_up_to = self.rows.get(&1).copied().unwrap_or(0);
        let (together, singly): (Vec<_>, Vec<_>) = self.untold.drain(..).partition(|tag| *tag <= all_up_to);
        // RabbitMQ closes the channel over a tag that it was told of before: the last that it was not told of names all.
        let together = together
            .into_iter()
            .max()
            .map(|tag| Settlement::Ack { tag, multiple: true });
        let singly = singly
            .into_iter()
            .map(|tag| Settlement::Ack { tag, multiple: false });
        settlements.extend(together);
        settlements.extend(singly);
        settlements
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_in_a_row_is_told_at_once() {
        let mut settling = Settling::default();
        for tag in [3, 1, 2] {
            settling.settle(tag);
        }
        let all = Settlement::Ack {
            tag: 3,
            multiple: true,
        };
        assert_eq!(settling.take(), [all]);
        assert_eq!(settling.take(), []);
    }

    #[test]
    fn all_up_to_one_are_told_once() {
        let mut settling = Settling::default();
        settling.settle_up_to(3);
        settling.settle_up_to(7);
        assert_eq!(settling.untold(), 7);
        let all = Settlement::Ack {
            tag: 7,
            multiple: true,
        };
        assert_eq!(settling.take(), [all]);
        assert_eq!((settling.take(), settling.untold()), (vec![], 0));
    }

    #[test]
    fn one_that_takes_long_holds_up_no_other() {
        let mut settling = Settling::default();
        settling.settle(2);
        settling.settle(4);
        let alone = |tag| Settlement::Ack { tag, multiple: false };
        assert_eq!(settling.take(), [alone(2), alone(4)]);
        settling.settle(1);
        // Not 2, which the broker was told of.
        let all = Settlement::Ack {
            tag: 1,
            multiple: true,
        };
        assert_eq!(settling.take(), [all]);
    }

    #[test]
    fn a_rejected_delivery_is_told_before_an_acknowledgement_that_would_include_it() {
        let mut settling = Settling::default();
        settling.settle(1);
        settling.reject(2);
        settling.settle(3);
        assert_eq!(settling.untold(), 3);
        let all = Settlement::Ack {
            tag: 3,
            multiple: true,
        };
        assert_eq!(settling.take(), [Settlement::Reject { tag: 2 }, all]);
        // The broker closes the channel over a tag that it does not wait for.
        settling.reject(4);
        assert_eq!(settling.take(), [Settlement::Reject { tag: 4 }]);
        assert_eq!((settling.take(), settling.untold()), (vec![], 0));
    }

    proptest! {
        /// In whatever order deliveries are settled, rejected and told: the broker is told of each
        /// once and as it was meant, and what is remembered does not grow with what is done.
        #[test]
        fn all_that_is_settled_is_told_and_nothing_else(
            order in Just((1..=60u64).collect::<Vec<_>>()).prop_shuffle(),
            takes in prop::collection::vec(any::<bool>(), 60),
            rejects in prop::collection::vec(prop::bool::weighted(0.2), 60),
        ) {
            let mut settling = Settling::default();
            let (mut settled, mut acked, mut rejected) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for ((tag, take), reject) in order.iter().zip(&takes).zip(&rejects) {
                match reject {
                    true => settling.reject(*tag),
                    false => settling.settle(*tag),
                }
                settled.insert(*tag);
                if *take {
                    for settlement in settling.take() {
                        let (Settlement::Ack { tag, .. } | Settlement::Reject { tag }) = settlement;
                        prop_assert!(!acked.contains(&tag) && !rejected.contains(&tag), "{tag} twice");
                        match settlement {
                            Settlement::Ack { multiple: true, .. } => {
                                acked.extend((1..=tag).filter(|tag| !rejected.contains(tag)));
                            }
                            Settlement::Ack { multiple: false, .. } => { acked.insert(tag); }
                            Settlement::Reject { .. } => { rejected.insert(tag); }
                        }
                    }
                    let told: BTreeSet<_> = acked.union(&rejected).copied().collect();
                    prop_assert_eq!(&told, &settled);
                    for (tag, reject) in order.iter().zip(&rejects) {
                        prop_assert_eq!(rejected.contains(tag), *reject && settled.contains(tag));
                    }
                }
                let open = (1..=60).filter(|tag| !settled.contains(tag)).count();
                prop_assert!(settling.rows.len() <= open + 1);
            }
        }
    }
}
