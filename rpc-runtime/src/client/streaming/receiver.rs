//! Puts the items of a stream into order, and decides how many more may be sent. Pure: no I/O.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use super::run::{Origin, origin};
use crate::protocol::{ItemList, Items, Volume};

/// The receiver of one stream. `R` is the reply that ends the stream.
#[derive(Debug)]
pub(super) struct Receiver<R> {
    /// The items in order that the reader has not taken.
    ready: VecDeque<ItemList>,
    /// How many items the reader has taken: the number of the first item in `ready`.
    taken: u64,
    /// The number of the item that follows those in `ready`. It has not arrived.
    next: u64,
    /// Items that arrived although items before them are missing, by number. Each list has one
    /// item.
    early: BTreeMap<u64, ItemList>,
    /// How much may be on its way or wait for the reader.
    window: Volume,
    /// How many bytes the window may grow to.
    max_window_bytes: u64,
    /// Whether, since the last grant, the worker has used up the credit that it knew.
    is_worker_short: bool,
    /// Whether, since the last grant, the reader has waited for an item.
    has_reader_waited: bool,
    /// What the worker may send in total.
    granted: Volume,
    /// The bytes of the items that have arrived.
    arrived: u64,
    /// The bytes of the largest message. The worker may exceed the credit for bytes by one item,
    /// which has no more.
    largest: u64,
    /// The run of the method that sends the stream, as its messages identify it. `None` before the
    /// stream begins.
    run: Option<String>,
    /// Whether the stream may begin anew, as long as the reader has not taken an item.
    may_begin_anew: bool,
    /// How many items the stream has, and the reply that ends it. `None` until that reply arrives.
    /// The reply waits here while items are missing.
    end: Option<(u64, R)>,
}

/// What a message means for the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<R> {
    /// Nothing: it is another worker's, which no one reads, or nobody knows whose.
    Foreign,
    /// Nothing: it is late, from a run that has ended.
    Late,
    /// The stream cannot go on: its worker runs the method again.
    Interrupted,
    /// The stream goes on.
    Continues,
    /// This reply ends the stream: all items have arrived, or it is a failure that does not wait
    /// for them.
    Ends(R),
}

/// Why a stream cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadStream(pub(super) &'static str);

impl<R> Receiver<R> {
    /// A receiver whose window has this size.
    #[cfg(test)]
    fn new(window: Volume) -> Self {
        Self::growing(window, window.bytes)
    }

    /// A receiver whose window has this size at first. While the worker waits for credit and the
    /// reader for items, the bytes of the window grow to up to `max_window_bytes`.
    pub(super) fn growing(window: Volume, max_window_bytes: u64) -> Self {
        Self {
            max_window_bytes,
            is_worker_short: false,
            has_reader_waited: false,
            ready: VecDeque::new(),
            taken: 0,
            next: 0,
            early: BTreeMap::new(),
            window,
            granted: window,
            arrived: 0,
            largest: 0,
            run: None,
            may_begin_anew: true,
            end: None,
        }
    }

    pub(super) fn window(&self) -> Volume {
        self.window
    }

    /// Sets the window, before the call begins, and keeps it from growing.
    pub(super) fn set_window(&mut self, window: Volume) {
        (self.window, self.granted) = (window, window);
        self.max_window_bytes = window.bytes;
    }

    /// Keeps the stream from beginning anew: the worker gets items too, which are sent to one run
    /// only, or layers have seen items of this run.
    pub(super) fn forbid_new_beginning(&mut self) {
        self.may_begin_anew = false;
    }

    /// Begins with the window that another receiver has now, before the call begins.
    pub(super) fn continue_window(&mut self, before: &Self) {
        self.set_window(before.window);
        self.max_window_bytes = before.max_window_bytes;
    }

    /// Whether a message has arrived, other than a reply that ended the stream at once.
    pub(super) fn has_begun(&self) -> bool {
        self.run.is_some()
    }

    /// What the worker may send in total.
    pub(super) fn granted(&self) -> Volume {
        self.granted
    }

    /// Whether an item before this number has not arrived.
    pub(super) fn misses_before(&self, number: u64) -> bool {
        self.next < number
    }

    /// Receives items, which may arrive twice and in any order. `run` is the header that identifies
    /// the worker and its run of the method.
    ///
    /// # Errors
    ///
    /// If the worker sent more than it was granted, or an item after the end.
    pub(super) fn receive(&mut self, run: &str, items: Items) -> Result<Received<R>, BadStream> {
        if let Some(unread) = self.receive_header(run) {
            return Ok(unread);
        }
        let Items { first, items, credit } = items;
        let after_last = first.saturating_add(items.volume().items);
        if !items.is_empty() {
            if after_last > self.granted.items {
                return Err(BadStream("the worker sent more items than it was granted"));
            }
            if self.end.as_ref().is_some_and(|(count, _)| after_last > *count) {
                return Err(BadStream("the worker sent an item after the end"));
            }
        }
        self.largest = self.largest.max(items.volume().bytes);
        if first > self.next {
            self.receive_early(first, items);
        } else if after_last > self.next {
            self.receive_next(items, after_last);
        }
        if self.arrived > self.granted.bytes.saturating_add(self.largest) {
            return Err(BadStream("the worker sent more bytes than it was granted"));
        }
        // `credit` is what the worker knew when it sent the message.
        self.is_worker_short |= !credit.allows_more_than(Volume {
            items: after_last,
            bytes: self.arrived,
        });
        Ok(self.end_if_complete())
    }

    /// Receives the header of a message that is not the end. The first one begins the stream.
    /// Returns `None` if its run sends the stream, and otherwise what the message means.
    pub(super) fn receive_header(&mut self, run: &str) -> Option<Received<R>> {
        let unread = self.choose_run(Some(run));
        if unread.is_none() {
            self.run.get_or_insert_with(|| run.to_owned());
        }
        unread
    }

    /// Records that the reader waits for an item.
    pub(super) fn record_wait(&mut self) {
        self.has_reader_waited = true;
    }

    /// Receives the reply that ends the stream after `count` items, or at once if `count` is
    /// `None`: then the reply is a failure, and items before it may be missing. `run` is `None` if
    /// the reply does not say who sent it.
    ///
    /// Before the first message, the reply of any worker is taken: it may have refused the request.
    /// Later, only that of the [chosen run](Self::choose_run) is. Another worker that gets the same
    /// request cannot know that the stream goes on.
    ///
    /// # Errors
    ///
    /// If `count` is less than the number of items that the worker has sent, or more than it was
    /// granted. If items are still to come, and the reply does not say of which worker.
    pub(super) fn end(
        &mut self,
        run: Option<&str>,
        count: Option<u64>,
        reply: R,
    ) -> Result<Received<R>, BadStream> {
        if let Some(unread) = self.choose_run(run) {
            return Ok(unread);
        }
        let Some(count) = count else {
            return Ok(Received::Ends(reply));
        };
        let last_early = self.early.last_key_value();
        let sent = last_early.map_or(self.next, |(number, _)| number + 1);
        if count < sent {
            return Err(BadStream("the worker sent more items than it counted"));
        }
        if count > self.granted.items {
            return Err(BadStream("the worker counted more items than it was granted"));
        }
        if run.is_none() && count > self.next {
            return Err(BadStream(
                "the end of the stream does not say which worker sent it",
            ));
        }
        // A second end is the first one, sent again.
        self.end.get_or_insert((count, reply));
        let ended = self.end_if_complete();
        // A refusal, or an empty stream, has not begun: the call may be made again.
        if self.run.is_none() && matches!(ended, Received::Continues) {
            self.run = run.map(str::to_owned);
        }
        Ok(ended)
    }

    /// How many of the items that the reader has not taken have a number below this one.
    pub(super) fn ready_before(&self, number: u64) -> usize {
        usize::try_from(number.saturating_sub(self.taken)).unwrap_or(usize::MAX)
    }

    /// The items in order that have arrived and that the reader has not taken.
    pub(super) fn ready(&self) -> impl Iterator<Item = &[u8]> {
        self.ready.iter().flat_map(ItemList::iter)
    }

    /// Moves the items in order that have arrived to the end of `items`, for the reader. None of
    /// the lists is empty.
    pub(super) fn take(&mut self, items: &mut VecDeque<ItemList>) {
        self.taken = self.next;
        if items.is_empty() {
            std::mem::swap(items, &mut self.ready);
        } else {
            items.append(&mut self.ready);
        }
    }

    /// Raises the credit, now that the reader has consumed `consumed`, and grows the window if both
    /// the worker and the reader had to wait. Returns what the worker may send in total, or `None`
    /// if more than half of the window is left: then nothing changes.
    pub(super) fn grant(&mut self, consumed: Volume) -> Option<Volume> {
        let left = self.granted.minus(consumed);
        if left.allows_more_than(self.window.half()) {
            return None;
        }
        let is_short = std::mem::take(&mut self.is_worker_short);
        let has_waited = std::mem::take(&mut self.has_reader_waited);
        if is_short && has_waited && self.window.bytes < self.max_window_bytes {
            let grown = self.window.bytes.saturating_mul(2);
            self.window.bytes = grown.min(self.max_window_bytes);
        }
        self.granted = self.granted.max(consumed.plus(self.window));
        Some(self.granted)
    }

    /// Returns `None` if a message of this run is to be read, and otherwise what it means.
    ///
    /// The first message decides which run sends the stream. If its worker runs the method again,
    /// that run has ended. Then the stream begins anew with the message, or is interrupted if its
    /// reader has items of that run, or if it may not begin anew.
    pub(super) fn choose_run(&mut self, run: Option<&str>) -> Option<Received<R>> {
        let begun = self.run.as_deref()?;
        match run.map_or(Origin::OtherWorker, |run| origin(run, begun)) {
            Origin::SameRun => None,
            Origin::OtherWorker => Some(Received::Foreign),
            Origin::EarlierRun => Some(Received::Late),
            Origin::LaterRun if self.taken == 0 && self.may_begin_anew => {
                self.begin_anew(run);
                None
            }
            Origin::LaterRun => Some(Received::Interrupted),
        }
    }

    /// Forgets the items that have arrived, and begins with those of another run. The reader has
    /// taken none, so the credit is still that of the request.
    fn begin_anew(&mut self, run: Option<&str>) {
        let mut receiver = Self::growing(self.window, self.max_window_bytes);
        receiver.run = run.map(str::to_owned);
        *self = receiver;
    }

    /// Receives items that continue the stream up to the number before `after_last`. Those with
    /// numbers below `next` have arrived before.
    fn receive_next(&mut self, mut items: ItemList, after_last: u64) {
        let size = items.volume().bytes;
        let duplicates = items.volume().items - (after_last - self.next);
        for _ in 0..duplicates {
            items.drop_first();
        }
        self.arrived = self.arrived.saturating_add(items.volume().bytes);
        // All items of a message share its memory. If most of it holds items that arrived before,
        // the others are copied, so that it is freed.
        if items.volume().bytes < size / 2 {
            items.detach();
        }
        self.ready.push_back(items);
        self.next = after_last;
        while let Some(early) = self.early.first_entry().filter(|early| *early.key() <= self.next) {
            let (number, item) = early.remove_entry();
            if number == self.next {
                self.ready.push_back(item);
                self.next += 1;
            } else {
                // It has arrived twice.
                self.arrived = self.arrived.saturating_sub(item.volume().bytes);
            }
        }
    }

    /// Receives items before which others are missing, and ignores those that have arrived already.
    /// Each is copied, so that it does not keep its message in memory.
    fn receive_early(&mut self, first: u64, mut items: ItemList) {
        let lists = std::iter::from_fn(|| items.split_first());
        for (mut item, number) in lists.zip(first..) {
            if let Entry::Vacant(place) = self.early.entry(number) {
                item.detach();
                self.arrived = self.arrived.saturating_add(item.volume().bytes);
                place.insert(item);
            }
        }
    }

    /// Returns [`Received::Ends`] with the reply that ends the stream, if that and all items have
    /// arrived, and otherwise [`Received::Continues`].
    fn end_if_complete(&mut self) -> Received<R> {
        match self.end.take_if(|(count, _)| *count == self.next) {
            Some((_, reply)) => Received::Ends(reply),
            None => Received::Continues,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(first: u64, numbers: impl IntoIterator<Item = u64>) -> Items {
        let item = |number: u64| number.to_be_bytes();
        Items {
            first,
            items: numbers.into_iter().map(item).collect(),
            credit: Volume::default(),
        }
    }

    fn window(items: u64) -> Volume {
        Volume { items, ..Volume::MAX }
    }

    fn consumed(items: u64) -> Volume {
        Volume { items, bytes: 0 }
    }

    fn message(first: u64, count: u64) -> Items {
        items(first, first..first + count)
    }

    fn taken(receiver: &mut Receiver<()>) -> Vec<u64> {
        let mut taken = VecDeque::new();
        receiver.take(&mut taken);
        let number = |item: &[u8]| u64::from_be_bytes(item.try_into().unwrap());
        taken.iter().flat_map(ItemList::iter).map(number).collect()
    }

    #[test]
    fn the_window_grows_while_the_worker_waits_for_credit_and_the_reader_for_items() {
        const BYTES: u64 = 80;
        let first = Volume {
            bytes: BYTES,
            ..Volume::MAX
        };
        let mut receiver = Receiver::<()>::growing(first, 3 * BYTES);
        // A message that uses up the credit, and its reader.
        let mut exchange = |uses_up: bool, waits: bool| {
            let granted = receiver.granted();
            let sent = receiver.next;
            let count = (granted.bytes / 8).saturating_sub(sent);
            let mut message = message(sent, count);
            message.credit = if uses_up { granted } else { Volume::MAX };
            receiver.receive("a", message).unwrap();
            taken(&mut receiver);
            if waits {
                receiver.record_wait();
            }
            let consumed = Volume {
                items: receiver.next,
                bytes: receiver.arrived,
            };
            let granted = receiver.grant(consumed).unwrap();
            granted.bytes - consumed.bytes
        };
        // A worker that computes its items slowly, and a slow reader.
        assert_eq!(exchange(false, true), BYTES);
        assert_eq!(exchange(true, false), BYTES);
        assert_eq!(
            exchange(false, true),
            BYTES,
            "it did not wait since the last grant"
        );
        assert_eq!(exchange(true, true), 2 * BYTES);
        assert_eq!(exchange(true, true), 3 * BYTES);
        assert_eq!(exchange(true, true), 3 * BYTES);
        let mut next = Receiver::<()>::growing(first, 3 * BYTES);
        next.continue_window(&receiver);
        assert_eq!(next.granted().bytes, 3 * BYTES);
        // A window that was chosen does not grow.
        receiver.set_window(first);
        assert_eq!(receiver.max_window_bytes, BYTES);
    }

    proptest! {
        #[test]
        fn items_are_in_order_whatever_the_order_of_the_messages(
            sizes in prop::collection::vec(0u64..5, 0..12),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            (ends_at, take_at) in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let total: u64 = sizes.iter().sum();
            let mut messages = Vec::new();
            let mut first = 0;
            for size in sizes {
                messages.push(message(first, size));
                first += size;
            }
            let mut receiver = Receiver::new(window(total.max(1)));
            let mut arrivals: Vec<_> = order
                .iter()
                .filter(|_| !messages.is_empty())
                .map(|index| Some(index.get(&messages).clone()))
                .collect();
            arrivals.insert(ends_at.index(arrivals.len() + 1), None);
            // Then all that did not arrive.
            arrivals.extend(messages.into_iter().map(Some));
            let take_at = take_at.index(arrivals.len());
            let (mut read, mut ends) = (Vec::new(), 0);
            for (index, arrival) in arrivals.into_iter().enumerate() {
                let received = match arrival {
                    Some(items) => receiver.receive("a", items),
                    None => receiver.end(Some("a"), Some(total), ()),
                };
                ends += usize::from(received.unwrap() == Received::Ends(()));
                if index == take_at {
                    read.extend(taken(&mut receiver));
                }
                if ends > 0 {
                    break;
                }
            }
            read.extend(taken(&mut receiver));
            prop_assert_eq!(ends, 1);
            prop_assert_eq!(read, (0..total).collect::<Vec<_>>());
        }

        #[test]
        fn no_more_items_are_kept_than_were_granted(
            max_items in 1u64..20,
            messages in prop::collection::vec((0u64..60, 0u64..10, any::<bool>()), 0..60),
        ) {
            let mut receiver = Receiver::<()>::new(window(max_items));
            let mut read_items = 0;
            for (first, count, reads) in messages {
                if receiver.receive("a", message(first, count)).is_err() {
                    break;
                }
                prop_assert!((receiver.ready().count() + receiver.early.len()) as u64 <= max_items);
                if reads {
                    let read = taken(&mut receiver);
                    prop_assert!(read.into_iter().eq(read_items..receiver.next));
                    read_items = receiver.next;
                    receiver.grant(consumed(read_items));
                    let granted = receiver.granted.items;
                    prop_assert!(granted > read_items && granted <= read_items + max_items);
                }
            }
        }
    }

    #[test]
    fn an_end_waits_for_the_items_before_it() {
        let mut receiver = Receiver::new(window(8));
        assert_eq!(receiver.receive("a", message(2, 1)), Ok(Received::Continues));
        assert_eq!(receiver.end(Some("a"), Some(3), "end"), Ok(Received::Continues));
        assert_eq!(receiver.end(Some("a"), Some(3), "again"), Ok(Received::Continues));
        assert_eq!(receiver.receive("a", message(0, 2)), Ok(Received::Ends("end")));
    }

    #[test]
    fn only_the_worker_that_sends_the_stream_continues_and_ends_it() {
        let mut receiver = Receiver::new(window(8));
        assert_eq!(receiver.receive("a", message(0, 1)), Ok(Received::Continues));
        assert_eq!(receiver.receive("b", message(0, 4)), Ok(Received::Foreign));
        assert_eq!(receiver.end(Some("b"), Some(1), ()), Ok(Received::Foreign));
        assert_eq!(receiver.end(None, Some(1), ()), Ok(Received::Foreign));
        assert_eq!(receiver.end(Some("a"), Some(1), ()), Ok(Received::Ends(())));
        let mut failed = Receiver::new(window(8));
        assert_eq!(failed.receive("a", message(1, 1)), Ok(Received::Continues));
        assert_eq!(failed.end(Some("b"), None, ()), Ok(Received::Foreign));
        assert_eq!(failed.end(Some("a"), None, ()), Ok(Received::Ends(())));
        let anonymous = Receiver::new(window(8)).end(None, Some(2), ()).unwrap_err();
        assert!(anonymous.0.contains("which worker"));
        // Before the first item, any worker may refuse the request.
        assert_eq!(
            Receiver::new(window(8)).end(None, Some(0), ()),
            Ok(Received::Ends(()))
        );
    }

    #[test]
    fn a_stream_has_the_items_of_one_run() {
        let run = |run: u64| format!(r#"{{"id":"a","run":{run}}}"#);
        let [first, second, third] = [1, 2, 3].map(run);
        let mut receiver = Receiver::<()>::new(window(8));
        // The first message of the first run was lost.
        assert_eq!(receiver.receive(&first, items(1, [101])), Ok(Received::Continues));
        assert_eq!(
            receiver.receive(&second, items(0, [200])),
            Ok(Received::Continues)
        );
        assert_eq!(receiver.receive(&first, items(0, [100])), Ok(Received::Late));
        assert_eq!(receiver.end(Some(&first), Some(2), ()), Ok(Received::Late));
        assert_eq!(taken(&mut receiver), [200]);
        // The reader has an item of the second one.
        assert_eq!(
            receiver.receive(&third, items(0, [300])),
            Ok(Received::Interrupted)
        );
        assert_eq!(receiver.end(Some(&third), Some(0), ()), Ok(Received::Interrupted));
        assert_eq!(receiver.end(Some(&second), Some(1), ()), Ok(Received::Ends(())));
    }

    #[test]
    fn a_stream_that_begins_anew_has_the_credit_of_its_request() {
        let [first, second] = [r#"{"id":"a","run":1}"#, r#"{"id":"a","run":2}"#];
        let mut receiver = Receiver::<()>::new(window(2));
        assert_eq!(receiver.receive(first, message(0, 2)), Ok(Received::Continues));
        assert_eq!(receiver.end(Some(second), Some(2), ()), Ok(Received::Continues));
        assert_eq!(receiver.receive(second, message(0, 2)), Ok(Received::Ends(())));
        assert!(receiver.receive(second, message(2, 1)).is_err());
        assert_eq!(taken(&mut receiver), [0, 1]);
        // Items that the caller sends go to one run only.
        let mut sending = Receiver::<()>::new(window(2));
        sending.forbid_new_beginning();
        assert_eq!(sending.receive(first, message(0, 0)), Ok(Received::Continues));
        assert_eq!(sending.receive(second, message(0, 0)), Ok(Received::Interrupted));
    }

    #[test]
    fn a_stream_that_cannot_be_is_refused() {
        let mut receiver = Receiver::<()>::new(window(8));
        assert_eq!(receiver.receive("a", message(0, 3)), Ok(Received::Continues));
        let refused = |receiver: &mut Receiver<()>, items| receiver.receive("a", items).unwrap_err().0;
        assert!(refused(&mut receiver, message(8, 1)).contains("granted"));
        assert!(refused(&mut receiver, items(u64::MAX, [1, 2])).contains("granted"));
        assert_eq!(
            receiver.receive("a", items(u64::MAX, [])),
            Ok(Received::Continues)
        );
        assert!(
            receiver
                .end(Some("a"), Some(2), ())
                .unwrap_err()
                .0
                .contains("counted")
        );
        assert!(
            receiver
                .end(Some("a"), Some(9), ())
                .unwrap_err()
                .0
                .contains("granted")
        );
        assert_eq!(receiver.end(Some("a"), Some(4), ()), Ok(Received::Continues));
        assert!(refused(&mut receiver, message(4, 1)).contains("after the end"));
    }

    #[test]
    fn credit_is_granted_once_half_of_the_items_are_consumed() {
        let mut receiver = Receiver::<()>::new(window(8));
        let mut grant = |items| Some(receiver.grant(consumed(items))?.items);
        assert_eq!([1, 2, 3].map(&mut grant), [None; 3]);
        assert_eq!(grant(4), Some(12));
        assert_eq!(grant(7), None);
        assert_eq!(grant(8), Some(16));
        let mut single = Receiver::<()>::new(window(1));
        let mut grant = |items| Some(single.grant(consumed(items))?.items);
        assert_eq!((grant(1), grant(2)), (Some(2), Some(3)));
    }

    #[test]
    fn credit_is_granted_once_half_of_the_bytes_are_consumed() {
        let mut receiver = Receiver::<()>::new(Volume {
            items: 100,
            bytes: 1000,
        });
        let mut grant = |items, bytes| receiver.grant(Volume { items, bytes });
        assert_eq!(grant(1, 499), None);
        let granted = Volume {
            items: 102,
            bytes: 1500,
        };
        assert_eq!(grant(2, 500), Some(granted));
        assert_eq!(grant(3, 999), None);
        // An item may be larger than the window.
        assert_eq!(grant(4, 5000).unwrap().bytes, 6000);
    }

    #[test]
    fn a_worker_may_exceed_the_credit_for_bytes_by_one_message() {
        let large = |first, size| Items {
            items: [vec![0; size]].iter().collect(),
            ..items(first, [])
        };
        let mut receiver = Receiver::<()>::new(Volume {
            items: 100,
            bytes: 1000,
        });
        assert!(receiver.receive("a", large(0, 900)).is_ok());
        assert!(receiver.receive("a", large(1, 4000)).is_ok());
        assert!(
            receiver.receive("a", large(1, 4000)).is_ok(),
            "it is no other item"
        );
        let refused = receiver.receive("a", large(2, 100)).unwrap_err();
        assert!(refused.0.contains("bytes"));
    }

    #[test]
    fn an_item_that_arrives_twice_counts_once() {
        let large = |first, count| Items {
            items: vec![vec![0; 300]; count].iter().collect(),
            ..items(first, [])
        };
        let mut receiver = Receiver::<()>::new(Volume {
            items: 100,
            bytes: 2000,
        });
        receiver.receive("a", large(1, 2)).unwrap();
        receiver.receive("a", large(2, 1)).unwrap();
        receiver.receive("a", large(0, 3)).unwrap();
        receiver.receive("a", large(1, 2)).unwrap();
        assert_eq!(receiver.arrived, 3 * Volume::of(&[0; 300]).bytes);
        assert_eq!(receiver.ready().count(), 3);
    }

    #[test]
    fn a_new_item_does_not_keep_those_that_came_before_in_memory() {
        let body: ItemList = [&[7; 999][..], &[7]].iter().collect();
        let mut receiver = Receiver::<()>::new(window(8));
        let both = |first| Items {
            items: body.clone(),
            ..items(first, [])
        };
        receiver.receive("a", both(0)).unwrap();
        receiver.receive("a", both(1)).unwrap();
        receiver.receive("a", both(4)).unwrap();
        receiver.receive("a", both(2)).unwrap();
        let in_body: Vec<_> = receiver.ready().map(|item| body.holds(item)).collect();
        assert_eq!(in_body, [true, true, false, false, false, false]);
    }
}
