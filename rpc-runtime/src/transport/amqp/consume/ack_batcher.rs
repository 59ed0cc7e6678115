//! Decides which deliveries to acknowledge, in as few frames as possible. Pure: no I/O.
//!
//! RabbitMQ numbers the deliveries of a channel from one. One acknowledgement can cover a delivery
//! and all before it ([`multiple`]). A reject covers one delivery, and is sent before any
//! acknowledgement, because one with `multiple` would acknowledge the rejected delivery too.
//!
//! [`multiple`]: https://www.rabbitmq.com/docs/confirms#consumer-acks-multiple-parameter

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::super::wire::Acknowledgement;

/// The deliveries of a channel that were acknowledged or rejected.
///
/// A subscription uses either [`ack`](Self::ack) and [`reject`](Self::reject), or
/// [`ack_up_to`](Self::ack_up_to).
#[derive(Debug, Default)]
pub(super) struct AckBatcher {
    /// All deliveries passed to [`ack`](Self::ack) and [`reject`](Self::reject), as ranges from
    /// first (key) to last (value). There is at most one range more than unsettled deliveries.
    ranges: BTreeMap<u64, u64>,
    /// Acknowledgements that were not sent yet.
    unsent_acks: Vec<u64>,
    /// Rejects that were not sent yet.
    unsent_rejects: Vec<u64>,
    /// [`ack_up_to`](Self::ack_up_to) acknowledged all deliveries up to this one.
    acked_up_to: u64,
    /// The `acked_up_to` that [`take`](Self::take) returned last. Zero at first.
    sent_up_to: u64,
}

impl AckBatcher {
    /// Acknowledges a delivery.
    pub(super) fn ack(&mut self, tag: u64) {
        self.add_to_ranges(tag);
        self.unsent_acks.push(tag);
    }

    /// Rejects a delivery.
    pub(super) fn reject(&mut self, tag: u64) {
        self.add_to_ranges(tag);
        self.unsent_rejects.push(tag);
    }

    /// Adds a delivery to the ranges, and merges it with the range that ends directly before it and
    /// with the one that begins directly after it.
    fn add_to_ranges(&mut self, tag: u64) {
        let before = self.ranges.range(..tag).next_back();
        let first = match before {
            Some((first, last)) if last + 1 == tag => *first,
            _ => tag,
        };
        let last = self.ranges.remove(&(tag + 1)).unwrap_or(tag);
        self.ranges.insert(first, last);
    }

    /// Acknowledges all deliveries up to this one.
    pub(super) fn ack_up_to(&mut self, tag: u64) {
        self.acked_up_to = self.acked_up_to.max(tag);
    }

    /// How many acknowledged or rejected deliveries were not yet reported to the broker.
    pub(super) fn unsent(&self) -> u64 {
        (self.unsent_acks.len() + self.unsent_rejects.len()) as u64 + (self.acked_up_to - self.sent_up_to)
    }

    /// Takes what is to be sent: the rejects, and then the acknowledgements.
    pub(super) fn take(&mut self) -> SmallVec<[Acknowledgement; 2]> {
        let rejects = self.unsent_rejects.drain(..);
        let mut taken: SmallVec<_> = rejects.map(|tag| Acknowledgement::Reject { tag }).collect();
        // A subscription that uses `ack_up_to` has no other acknowledgements.
        if self.acked_up_to > self.sent_up_to {
            self.sent_up_to = self.acked_up_to;
            taken.push(Acknowledgement::Ack {
                tag: self.acked_up_to,
                multiple: true,
            });
            return taken;
        }
        // All deliveries up to this one are settled: it ends the range that begins with the first.
        let settled_up_to = self.ranges.get(&1).copied().unwrap_or(0);
        let unsent = self.unsent_acks.iter().copied();
        // RabbitMQ closes the channel because of a tag that was already acknowledged. So the tag of
        // the last unsent one is used, and not `settled_up_to`.
        let together = unsent.clone().filter(|tag| *tag <= settled_up_to).max();
        let singly = unsent.filter(|tag| *tag > settled_up_to);
        taken.extend(together.map(|tag| Acknowledgement::Ack { tag, multiple: true }));
        taken.extend(singly.map(|tag| Acknowledgement::Ack { tag, multiple: false }));
        self.unsent_acks.clear();
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn up_to(tag: u64) -> Acknowledgement {
        Acknowledgement::Ack { tag, multiple: true }
    }

    #[test]
    fn consecutive_deliveries_are_acknowledged_together() {
        let mut batcher = AckBatcher::default();
        for tag in [3, 1, 2] {
            batcher.ack(tag);
        }
        assert_eq!(batcher.take().to_vec(), [up_to(3)]);
        assert_eq!(batcher.take().to_vec(), []);
    }

    #[test]
    fn deliveries_up_to_a_tag_are_acknowledged_once() {
        let mut batcher = AckBatcher::default();
        batcher.ack_up_to(3);
        batcher.ack_up_to(7);
        assert_eq!(batcher.unsent(), 7);
        assert_eq!(batcher.take().to_vec(), [up_to(7)]);
        assert_eq!((batcher.take().to_vec(), batcher.unsent()), (vec![], 0));
    }

    #[test]
    fn a_slow_delivery_does_not_delay_others() {
        let mut batcher = AckBatcher::default();
        batcher.ack(2);
        batcher.ack(4);
        let alone = |tag| Acknowledgement::Ack { tag, multiple: false };
        assert_eq!(batcher.take().to_vec(), [alone(2), alone(4)]);
        batcher.ack(1);
        // Not 2, which was already acknowledged.
        assert_eq!(batcher.take().to_vec(), [up_to(1)]);
    }

    #[test]
    fn a_reject_is_sent_before_an_acknowledgement_that_would_include_it() {
        let mut batcher = AckBatcher::default();
        batcher.ack(1);
        batcher.reject(2);
        batcher.ack(3);
        assert_eq!(batcher.unsent(), 3);
        assert_eq!(
            batcher.take().to_vec(),
            [Acknowledgement::Reject { tag: 2 }, up_to(3)]
        );
        // The broker closes the channel because of an unknown tag.
        batcher.reject(4);
        assert_eq!(batcher.take().to_vec(), [Acknowledgement::Reject { tag: 4 }]);
        assert_eq!((batcher.take().to_vec(), batcher.unsent()), (vec![], 0));
    }

    proptest! {
        /// In any order of acknowledging, rejecting and sending, each delivery is sent once and as
        /// it was meant, and memory does not grow with the number of deliveries.
        #[test]
        fn each_delivery_is_acknowledged_or_rejected_once(
            order in Just((1..=60u64).collect::<Vec<_>>()).prop_shuffle(),
            takes in prop::collection::vec(any::<bool>(), 60),
            rejects in prop::collection::vec(prop::bool::weighted(0.2), 60),
        ) {
            let mut batcher = AckBatcher::default();
            let (mut done, mut acked, mut rejected) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for ((tag, take), reject) in order.iter().zip(&takes).zip(&rejects) {
                if *reject {
                    batcher.reject(*tag);
                } else {
                    batcher.ack(*tag);
                }
                done.insert(*tag);
                if *take {
                    for acknowledgement in batcher.take() {
                        let (Acknowledgement::Ack { tag, .. } | Acknowledgement::Reject { tag }) = acknowledgement;
                        prop_assert!(!acked.contains(&tag) && !rejected.contains(&tag), "{tag} twice");
                        match acknowledgement {
                            Acknowledgement::Ack { multiple: true, .. } => {
                                acked.extend((1..=tag).filter(|tag| !rejected.contains(tag)));
                            }
                            Acknowledgement::Ack { multiple: false, .. } => { acked.insert(tag); }
                            Acknowledgement::Reject { .. } => { rejected.insert(tag); }
                        }
                    }
                    let sent: BTreeSet<_> = acked.union(&rejected).copied().collect();
                    prop_assert_eq!(&sent, &done);
                    for (tag, reject) in order.iter().zip(&rejects) {
                        prop_assert_eq!(rejected.contains(tag), *reject && done.contains(tag));
                    }
                }
                let open = (1..=60).filter(|tag| !done.contains(tag)).count();
                prop_assert!(batcher.ranges.len() <= open + 1);
            }
        }
    }
}
