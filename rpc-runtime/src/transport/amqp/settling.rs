//! Which deliveries are done with, and how few acknowledgements say so. Pure: decisions over data.
//!
//! RabbitMQ numbers the deliveries of a channel from one, and takes one acknowledgement for a delivery and all before it
//! ([`multiple`](https://www.rabbitmq.com/docs/confirms#consumer-acks-multiple-parameter)).

use std::collections::BTreeMap;

/// The settled deliveries of a channel: settled one by one, or always all up to one.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// All that are settled, from the first to the last of each unbroken row: as many rows as some are not, at the most.
    rows: BTreeMap<u64, u64>,
    /// Those that the broker was not told of.
    untold: Vec<u64>,
    /// The last up to which all are settled, and up to which the broker was told so.
    all: u64,
    all_told: u64,
}

/// What the broker is told: that this delivery is settled, or all up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    pub(super) multiple: bool,
}

impl Settling {
    pub(super) fn settle(&mut self, tag: u64) {
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
        self.untold.push(tag);
    }

    /// Settles all up to this one.
    pub(super) fn settle_up_to(&mut self, tag: u64) {
        self.all = self.all.max(tag);
    }

    /// How many are settled and the broker was not told of.
    pub(super) fn untold(&self) -> u64 {
        self.untold.len() as u64 + (self.all - self.all_told)
    }

    /// What to tell the broker.
    pub(super) fn take(&mut self) -> Vec<Ack> {
        if self.all > self.all_told {
            self.all_told = self.all;
            return vec![Ack {
                tag: self.all,
                multiple: true,
            }];
        }
        let all_up_to = self.rows.get(&1).copied().unwrap_or(0);
        let (together, singly): (Vec<_>, Vec<_>) = self.untold.drain(..).partition(|tag| *tag <= all_up_to);
        // RabbitMQ closes the channel over a tag that it was told of before: the last that it was not told of names all.
        let together = together.into_iter().max().map(|tag| Ack { tag, multiple: true });
        let singly = singly.into_iter().map(|tag| Ack { tag, multiple: false });
        together.into_iter().chain(singly).collect()
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
        let all = Ack {
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
        let all = Ack {
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
        let alone = |tag| Ack { tag, multiple: false };
        assert_eq!(settling.take(), [alone(2), alone(4)]);
        settling.settle(1);
        // Not 2, which the broker was told of.
        let all = Ack {
            tag: 1,
            multiple: true,
        };
        assert_eq!(settling.take(), [all]);
    }

    proptest! {
        /// In whatever order deliveries are settled and told: the broker is told of each that is settled, and of no other, and
        /// what is remembered does not grow with what is done.
        #[test]
        fn all_that_is_settled_is_told_and_nothing_else(
            order in Just((1..=60u64).collect::<Vec<_>>()).prop_shuffle(),
            takes in prop::collection::vec(any::<bool>(), 60),
        ) {
            let mut settling = Settling::default();
            let (mut settled, mut told) = (BTreeSet::new(), BTreeSet::new());
            for (tag, take) in order.iter().zip(&takes) {
                settling.settle(*tag);
                settled.insert(*tag);
                if *take {
                    for Ack { tag, multiple } in settling.take() {
                        prop_assert!(!told.contains(&tag), "{tag} twice");
                        match multiple {
                            true => told.extend(1..=tag),
                            false => { told.insert(tag); }
                        }
                    }
                    prop_assert!(told.is_subset(&settled) && settled.is_subset(&told));
                }
                let open = (1..=60).filter(|tag| !settled.contains(tag)).count();
                prop_assert!(settling.rows.len() <= open + 1);
            }
        }
    }
}
