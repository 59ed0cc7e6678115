//! Decides which items a call sends, and when again. Pure: no I/O.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::protocol::{
    Asks, IncomingGrant, ItemWriter, MAX_CREDIT, MAX_INCOMING_BYTES, MAX_ITEMS, MAX_UNTAKEN_BYTES, Volume,
};

/// The items of one call that its method has not taken, and what was sent of them. They are kept
/// because they may have to be sent again.
#[derive(Debug, Default)]
pub(super) struct ItemSender {
    /// The items from the number `taken` on.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    /// How many items the caller's stream has yielded.
    count: u64,
    /// How many items the method has taken.
    taken: u64,
    /// The number of the item to send next.
    next: u64,
    /// How many items may be sent in total.
    credit: u64,
    /// Whether the caller's stream has ended.
    has_ended: bool,
    /// Whether the end was sent.
    is_end_sent: bool,
    /// Whether the worker wants no more items: it has all of them, or its method takes no more.
    is_done: bool,
}

/// A message to the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct ItemMessage {
    /// The number of the first item.
    pub(in crate::client) first: u64,
    pub(in crate::client) items: ItemWriter,
    /// What may be sent in total.
    pub(in crate::client) credit: Volume,
    /// How many items the caller's stream had, if the message is the end.
    pub(in crate::client) end: Option<u64>,
}

impl ItemSender {
    /// Whether the caller's stream may be polled for another item.
    pub(super) fn may_pull(&self) -> bool {
        !self.is_done && !self.has_ended && self.count < self.credit && self.kept_bytes < MAX_UNTAKEN_BYTES
    }

    /// Whether the worker wants no more items.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether the caller's stream is over: it has ended, or the worker wants no more items.
    pub(super) fn is_stream_over(&self) -> bool {
        self.has_ended || self.is_done
    }

    /// Adds an item of the caller's stream.
    pub(super) fn push(&mut self, item: Bytes) {
        self.kept_bytes += item.len();
        self.kept.push_back(item);
        self.count += 1;
    }

    /// Records that the caller's stream has ended.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Learns the credit, how many items the method has taken, and what the worker asks for.
    /// Returns whether the method has taken items since the last grant.
    ///
    /// # Errors
    ///
    /// If the method took items that the caller's stream has not yielded.
    pub(super) fn grant(&mut self, grant: IncomingGrant) -> Result<bool, &'static str> {
        let IncomingGrant { credit, taken, asks } = grant;
        let has_taken_items = taken > self.taken;
        if taken > self.count {
            return Err("the method took items that were not sent");
        }
        if self.is_done {
            // No item is kept any more. But the method may still take some: if all have arrived,
            // the worker is done before the method takes them.
            self.taken = self.taken.max(taken);
            return Ok(has_taken_items);
        }
        while self.taken < taken
            && let Some(item) = self.kept.pop_front()
        {
            self.kept_bytes -= item.len();
            self.taken += 1;
        }
        // Items that were to be sent again need not be, if the method has taken them.
        self.next = self.next.max(self.taken);
        // What exceeds the largest credit that a worker may grant is ignored.
        let credit = credit.min(self.taken.saturating_add(MAX_CREDIT));
        self.credit = self.credit.max(credit);
        match asks {
            Asks::Nothing => {}
            Asks::Again => self.go_back(0),
            Asks::Enough => {
                self.is_done = true;
                self.kept.clear();
            }
        }
        Ok(has_taken_items)
    }

    /// Lets the kept items from this number on, and the end, be sent again: some may have been
    /// lost.
    pub(super) fn go_back(&mut self, first: u64) {
        self.next = self.next.min(first).max(self.taken);
        self.is_end_sent = false;
    }

    /// Returns the next message, which counts as sent: items, or once all were sent, the end.
    /// `None` if there is nothing to send.
    pub(super) fn next_message(&mut self) -> Option<ItemMessage> {
        if self.is_done {
            return None;
        }
        let first = self.next;
        let mut items = ItemWriter::expecting(self.kept_bytes.min(MAX_INCOMING_BYTES));
        let mut bytes = 0;
        // How many of the kept items were sent already.
        let sent = usize::try_from(first - self.taken).unwrap_or(usize::MAX);
        for item in self.kept.iter().skip(sent) {
            bytes += item.len();
            // A single item may be larger.
            if items.len() >= MAX_ITEMS || (bytes > MAX_INCOMING_BYTES && !items.is_empty()) {
                break;
            }
            items.push(item);
        }
        self.next += items.volume().items;
        let is_end = items.is_empty() && self.has_ended && !self.is_end_sent;
        self.is_end_sent |= is_end;
        (is_end || !items.is_empty()).then(|| self.message(first, items))
    }

    /// Returns a message that shows that the caller is still there, and how much it has sent.
    pub(super) fn keep_alive(&self) -> ItemMessage {
        self.message(self.next, ItemWriter::default())
    }

    /// Builds a message. One without items is the end, or repeats it, if `is_end_sent`.
    fn message(&self, first: u64, items: ItemWriter) -> ItemMessage {
        let end = (items.is_empty() && self.is_end_sent).then_some(self.count);
        // Workers limit only the number of items.
        let credit = Volume {
            items: self.credit,
            bytes: u64::MAX,
        };
        ItemMessage {
            first,
            items,
            credit,
            end,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grant(credit: u64, taken: u64, asks: Asks) -> IncomingGrant {
        IncomingGrant { credit, taken, asks }
    }

    fn push(sender: &mut ItemSender, count: u64) {
        for _ in 0..count {
            let number = sender.count;
            sender.push(Bytes::copy_from_slice(&number.to_be_bytes()));
        }
    }

    /// The number of the first item, how many there are, and the end.
    fn next(sender: &mut ItemSender) -> Option<(u64, usize, Option<u64>)> {
        let ItemMessage {
            first, items, end, ..
        } = sender.next_message()?;
        for (number, item) in (first..).zip(items.iter()) {
            assert_eq!(item, number.to_be_bytes());
        }
        Some((first, items.len(), end))
    }

    #[test]
    fn items_are_sent_until_the_worker_has_them() {
        let mut sender = ItemSender::default();
        assert!(!sender.may_pull());
        sender.grant(grant(3, 0, Asks::Nothing)).unwrap();
        push(&mut sender, 2);
        assert_eq!(next(&mut sender), Some((0, 2, None)));
        assert_eq!(next(&mut sender), None);
        push(&mut sender, 1);
        assert!(!sender.may_pull());
        assert_eq!(next(&mut sender), Some((2, 1, None)));
        sender.grant(grant(6, 1, Asks::Again)).unwrap();
        assert_eq!(next(&mut sender), Some((1, 2, None)));
        sender.grant(grant(5, 0, Asks::Nothing)).unwrap();
        assert_eq!((sender.credit, sender.taken), (6, 1), "an earlier one");
        sender.end();
        assert_eq!(next(&mut sender), Some((3, 0, Some(3))));
        assert_eq!(next(&mut sender), None);
        assert_eq!(sender.keep_alive().end, Some(3));
        sender.go_back(2);
        assert_eq!(next(&mut sender), Some((2, 1, None)));
        sender.go_back(0);
        assert_eq!(next(&mut sender), Some((1, 2, None)));
        // The worker had them.
        sender.grant(grant(6, 3, Asks::Nothing)).unwrap();
        assert_eq!(next(&mut sender), Some((3, 0, Some(3))));
        sender.grant(grant(6, 3, Asks::Enough)).unwrap();
        sender.go_back(0);
        assert!(sender.is_done() && next(&mut sender).is_none());
    }

    #[test]
    fn a_method_may_take_its_last_items_after_all_have_arrived() {
        let mut sender = ItemSender::default();
        sender.grant(grant(3, 0, Asks::Nothing)).unwrap();
        push(&mut sender, 3);
        sender.end();
        assert_eq!(next(&mut sender), Some((0, 3, None)));
        assert_eq!(next(&mut sender), Some((3, 0, Some(3))));
        sender.grant(grant(4, 1, Asks::Enough)).unwrap();
        sender.grant(grant(6, 3, Asks::Enough)).unwrap();
        assert!(sender.is_done() && next(&mut sender).is_none());
    }

    #[test]
    fn what_is_kept_has_a_size() {
        let mut sender = ItemSender::default();
        sender.grant(grant(u64::MAX, 0, Asks::Nothing)).unwrap();
        assert_eq!(sender.credit, MAX_CREDIT);
        let mut pulled = 0;
        while sender.may_pull() {
            sender.push(Bytes::from(vec![0; MAX_UNTAKEN_BYTES / 4]));
            pulled += 1;
        }
        assert_eq!(pulled, 4);
        assert_eq!(next_len(&mut sender), 1);
        sender.grant(grant(u64::MAX, 1, Asks::Nothing)).unwrap();
        assert!(sender.may_pull());
        sender.grant(grant(u64::MAX, 5, Asks::Nothing)).unwrap_err();
    }

    fn next_len(sender: &mut ItemSender) -> usize {
        sender.next_message().unwrap().items.len()
    }

    proptest! {
        /// A worker that loses messages gets all items in the end.
        #[test]
        fn every_item_arrives(
            total in 0u64..3000,
            losses in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut sender = ItemSender::default();
            let (mut arrived, mut losses) = (0, losses.into_iter());
            let mut is_ended = false;
            while !is_ended {
                sender.grant(grant(arrived + 1024, arrived, Asks::Again)).unwrap();
                while sender.may_pull() && sender.count < total {
                    push(&mut sender, 1);
                }
                if sender.count == total {
                    sender.end();
                }
                while let Some((first, count, end)) = next(&mut sender) {
                    let is_lost = losses.next().unwrap_or(false);
                    if !is_lost && first <= arrived {
                        arrived = arrived.max(first + count as u64);
                        is_ended |= end == Some(arrived);
                    }
                }
            }
            prop_assert_eq!(arrived, total);
        }
    }
}
