//! Decides which items are sent in one batch. Pure, except for [`receive_more`].
//!
//! An item is a request, or a group of replies that stay together. Each belongs to a lane, whose
//! items may share a message: requests to one queue, or replies to one caller, with equal
//! properties. An item is never delayed to wait for others: it is sent at once unless [`WINDOW`]
//! messages of its lane are in flight. Items that queue up behind those are sent together. A
//! message of requests has at most a [`fair_share`] of the calls in flight, so that broker and
//! worker have work at the same time.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio::sync::mpsc::UnboundedReceiver;

use super::message::{MAX_BATCH_BYTES, MAX_BATCH_CALLS};

/// How many messages of a lane may be in flight before items queue up: one that is being written,
/// one on its way to the broker, one that the broker routes, and one whose confirm is on its way.
const WINDOW: usize = 4;

/// The smallest [`fair_share`], in calls. Smaller messages cost the broker more than what their
/// sender and receiver gain by working at the same time.
const MIN_FAIR_SHARE: usize = 128;

/// The capacity of a message, in fixed-point shares: with a batch size of `n`, a request has the
/// share `FULL / n`. For any `n` up to [`MAX_BATCH_CALLS`], exactly `n` such requests fit.
const FULL: u32 = 1 << 30;

/// The maximum size of the array header with the number of items in a message, in bytes.
const COUNT_BYTES: usize = 5;

/// How much of a message an item takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    bytes: usize,
    /// Its part of [`FULL`], given how many requests or replies the receiver takes in a message.
    share: u32,
}

impl Load {
    /// The load of a group of replies. The receiver accepts [`MAX_BATCH_CALLS`] of them in a
    /// message.
    pub(crate) fn of_replies(bytes: usize, replies: usize) -> Self {
        let replies = u32::try_from(replies).unwrap_or(u32::MAX);
        Self {
            bytes,
            share: replies.saturating_mul(FULL / MAX_BATCH_CALLS as u32),
        }
    }

    /// The load of a request of `bytes` bytes, if the receiver asks for at most `batch_size`
    /// requests in a message. Zero counts as one.
    pub(crate) fn new(bytes: usize, batch_size: u16) -> Self {
        Self {
            bytes,
            share: FULL / u32::from(batch_size.max(1)),
        }
    }
}

/// The items that wait to be sent, by lane. Items of one lane can be sent in one message.
#[derive(Debug)]
pub(crate) struct Batcher<K, T> {
    /// The maximum total size of the items in a message with more than one item, in bytes.
    max_bytes: usize,
    lanes: HashMap<K, Lane<T>>,
    /// The lanes with items that may be sent now. Each is listed once.
    ready: VecDeque<K>,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<(T, Load)>,
    /// If more items than this wait, the `keep` of [`Batcher::push_all`] decides which of them
    /// stay. At least twice as many as stayed the last time, so that items are rarely checked.
    prune_above: usize,
    /// How many of its messages are in flight.
    in_flight: usize,
    /// Whether the lane is listed in [`Batcher::ready`].
    is_ready: bool,
}

impl<K: Eq + Hash + Clone, T> Batcher<K, T> {
    /// A batcher for messages of at most `max_sent_bytes` or [`MAX_BATCH_BYTES`] bytes, whichever
    /// is less. Only an item that is larger makes a larger message.
    pub(crate) fn new(max_sent_bytes: usize) -> Self {
        Self {
            max_bytes: max_sent_bytes.min(MAX_BATCH_BYTES).saturating_sub(COUNT_BYTES),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Adds an item to the lane `key`.
    pub(crate) fn push(&mut self, key: K, item: T, load: Load) {
        self.push_all(key, [(item, load)], |_| true);
    }

    /// Adds several items to the lane `key`. `keep` says whether an item is still wanted: its
    /// caller may have given up. Drops unwanted items only if many items then wait in the lane.
    pub(crate) fn push_all(
        &mut self,
        key: K,
        items: impl IntoIterator<Item = (T, Load)>,
        keep: impl Fn(&T) -> bool,
    ) {
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            prune_above: MAX_BATCH_CALLS,
            in_flight: 0,
            is_ready: false,
        });
        lane.waiting.extend(items);
        if lane.waiting.len() > lane.prune_above {
            lane.waiting.retain(|(item, _)| keep(item));
            lane.prune_above = MAX_BATCH_CALLS.max(2 * lane.waiting.len());
        }
        if lane.mark_ready() {
            self.ready.push_back(key);
        } else {
            // If no items were added, or `keep` dropped all of them, the lane may be idle.
            self.remove_if_idle(&key);
        }
    }

    /// Whether [`take_message`](Self::take_message) may return a message now. It may return `None`
    /// nevertheless, if `keep` has dropped the items.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the items of the next message, at least one. `None` if none may be sent now.
    /// `max_items` limits their number, given their lane and how many items wait in it. The message
    /// is in flight until [`done`](Self::done) is called.
    pub(crate) fn take_message(&mut self, max_items: impl Fn(&K, usize) -> usize) -> Option<(K, Vec<T>)> {
        while let Some(key) = self.ready.pop_front() {
            let Some(lane) = self.lanes.get_mut(&key) else {
                continue;
            };
            lane.is_ready = false;
            let message = lane.take_items(max_items(&key, lane.waiting.len()), self.max_bytes);
            if message.is_empty() {
                // All items of the lane were dropped after it became ready.
                self.remove_if_idle(&key);
                continue;
            }
            lane.in_flight += 1;
            if lane.mark_ready() {
                self.ready.push_back(key.clone());
            }
            return Some((key, message));
        }
        None
    }

    /// Must be called when a message of this lane is no longer in flight.
    pub(crate) fn done(&mut self, key: &K) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if lane.mark_ready() {
            self.ready.push_back(key.clone());
        } else {
            self.remove_if_idle(key);
        }
    }

    /// Removes a lane in which nothing waits or is in flight. A lane that is listed in `ready`
    /// stays until it is taken from there.
    fn remove_if_idle(&mut self, key: &K) {
        let is_idle = |lane: &Lane<T>| lane.in_flight == 0 && lane.waiting.is_empty() && !lane.is_ready;
        if self.lanes.get(key).is_some_and(is_idle) {
            self.lanes.remove(key);
        }
    }
}

impl<T> Lane<T> {
    /// Marks the lane as ready if items may be sent and it is not marked yet. Returns whether it
    /// did: then the lane must be listed in [`Batcher::ready`].
    fn mark_ready(&mut self) -> bool {
        if self.is_ready || self.in_flight >= WINDOW || self.waiting.is_empty() {
            return false;
        }
        self.is_ready = true;
        true
    }

    /// Takes the first items, as many as fit into one message of `max_items` items and `max_bytes`
    /// bytes, and at least one if any wait.
    fn take_items(&mut self, max_items: usize, max_bytes: usize) -> Vec<T> {
        let (mut total_bytes, mut total_share) = (0, 0_u32);
        let still_fits = |(_, load): &&(T, Load)| {
            total_bytes += load.bytes;
            total_share = total_share.saturating_add(load.share);
            total_bytes <= max_bytes && total_share <= FULL
        };
        let fitting = self.waiting.iter().take(max_items).take_while(still_fits);
        // An item that is too large for a batch is sent alone.
        let count = fitting.count().max(1).min(self.waiting.len());
        self.waiting.drain(..count).map(|(item, _)| item).collect()
    }
}

/// How many calls may share a message if a client has `in_flight` calls. Many calls are spread over
/// several messages, so that caller, broker and worker work at the same time. Otherwise messages
/// would merge until the three took turns, because callers whose replies arrive together make their
/// next calls together.
pub(crate) fn fair_share(in_flight: usize) -> usize {
    (in_flight / WINDOW).clamp(MIN_FAIR_SHARE, MAX_BATCH_CALLS)
}

/// Yields so that other tasks can send more items, and adds these to `received`, until a yield
/// brings none or there are at least [`MAX_BATCH_CALLS`]. It uses no timer, and returns at once if
/// no other task is ready to run.
pub(crate) async fn receive_more<T>(inbox: &mut UnboundedReceiver<T>, received: &mut Vec<T>) {
    while received.len() < MAX_BATCH_CALLS {
        tokio::task::yield_now().await;
        let before = received.len();
        while let Ok(item) = inbox.try_recv() {
            received.push(item);
        }
        if received.len() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn most(_: &impl Sized, _: usize) -> usize {
        MAX_BATCH_CALLS
    }

    fn small() -> Load {
        Load::new(10, 100)
    }

    #[test]
    fn a_single_item_is_sent_at_once() {
        let mut batcher = Batcher::new(usize::MAX);
        for n in 0..WINDOW {
            batcher.push("q", n, small());
            assert_eq!(batcher.take_message(most), Some(("q", vec![n])));
            assert_eq!(batcher.take_message(most), None);
        }
    }

    #[test]
    fn items_behind_a_full_window_are_sent_together() {
        let mut batcher = Batcher::new(usize::MAX);
        for n in 0..WINDOW {
            batcher.push("q", n, small());
            batcher.take_message(most).unwrap();
        }
        batcher.push("q", 10, small());
        batcher.push("q", 11, small());
        assert_eq!(batcher.take_message(most), None);
        // Another lane is not delayed.
        batcher.push("r", 12, small());
        assert_eq!(batcher.take_message(most), Some(("r", vec![12])));
        batcher.done(&"q");
        assert_eq!(batcher.take_message(most), Some(("q", vec![10, 11])));
    }

    #[test]
    fn a_message_has_as_many_items_as_the_batch_size() {
        for batch_size in 1..=1024_u16 {
            let mut batcher = Batcher::new(usize::MAX);
            batcher.push_all("q", (0..1100).map(|n| (n, Load::new(1, batch_size))), |_| true);
            let (_, message) = batcher.take_message(most).unwrap();
            assert_eq!(message.len(), usize::from(batch_size));
        }
    }

    #[test]
    fn a_message_has_no_more_items_than_the_batch_size() {
        let mut batcher = Batcher::new(usize::MAX);
        for n in 0..5 {
            batcher.push("q", n, Load::new(10, 2));
        }
        assert_eq!(batcher.take_message(most), Some(("q", vec![0, 1])));
        assert_eq!(batcher.take_message(most), Some(("q", vec![2, 3])));
        assert_eq!(batcher.take_message(most), Some(("q", vec![4])));
        // An item with a batch size of one is sent alone, and so is a large one.
        batcher.push("r", 0, Load::new(10, 1));
        batcher.push("r", 1, Load::new(MAX_BATCH_BYTES + 1, 1000));
        batcher.push("r", 2, Load::new(10, 1000));
        assert_eq!(batcher.take_message(most), Some(("r", vec![0])));
        assert_eq!(batcher.take_message(most), Some(("r", vec![1])));
        assert_eq!(batcher.take_message(most), Some(("r", vec![2])));
    }

    #[test]
    fn a_message_is_no_larger_than_may_be_sent() {
        let mut batcher = Batcher::new(100);
        for n in 0..5 {
            batcher.push("q", n, Load::new(40, 1000));
        }
        batcher.push("q", 5, Load::new(1000, 1000));
        assert_eq!(batcher.take_message(most), Some(("q", vec![0, 1])));
        assert_eq!(batcher.take_message(most), Some(("q", vec![2, 3])));
        assert_eq!(batcher.take_message(most), Some(("q", vec![4])));
        batcher.done(&"q");
        assert_eq!(batcher.take_message(most), Some(("q", vec![5])));
    }

    #[test]
    fn many_calls_in_flight_share_several_messages() {
        assert_eq!([0, 64, 512].map(fair_share), [MIN_FAIR_SHARE; 3]);
        assert_eq!(
            [1000, 4096, 100_000].map(fair_share),
            [250, MAX_BATCH_CALLS, MAX_BATCH_CALLS]
        );
        let mut batcher = Batcher::new(usize::MAX);
        batcher.push_all("q", (0..1000).map(|n| (n, Load::new(10, 1024))), |_| true);
        let share = fair_share(1000);
        let messages = std::iter::from_fn(|| batcher.take_message(|_, _| share));
        assert!(messages.map(|(_, items)| items.len()).eq([250; WINDOW]));
    }

    #[test]
    fn a_lane_whose_items_were_all_dropped_sends_nothing() {
        let mut batcher = Batcher::new(usize::MAX);
        batcher.push("q", 0, small());
        batcher.push_all("q", (1..=MAX_BATCH_CALLS).map(|n| (n, small())), |_| false);
        assert_eq!(batcher.take_message(most), None);
        assert!(batcher.lanes.is_empty() && batcher.ready.is_empty());
        // The lane can be used again, and does not delay another one.
        batcher.push_all("q", (0..=MAX_BATCH_CALLS).map(|n| (n, small())), |_| false);
        batcher.push("r", 1, small());
        batcher.push("q", 2, small());
        assert_eq!(batcher.take_message(most), Some(("r", vec![1])));
        assert_eq!(batcher.take_message(most), Some(("q", vec![2])));
        assert_eq!(batcher.take_message(most), None);
    }

    #[test]
    fn dropped_items_do_not_accumulate() {
        let mut batcher = Batcher::new(usize::MAX);
        for _ in 0..WINDOW {
            batcher.push("q", 0, small());
            batcher.take_message(most).unwrap();
        }
        // No message is done, and only the first ten items are kept.
        for n in 0..100 * MAX_BATCH_CALLS {
            batcher.push_all("q", [(n, small())], |n| *n < 10);
            assert!(batcher.lanes["q"].waiting.len() <= MAX_BATCH_CALLS);
        }
        batcher.done(&"q");
        let (_, kept) = batcher.take_message(most).unwrap();
        assert_eq!(kept[..10], (0..10).collect::<Vec<_>>());
    }

    proptest! {
        /// In any order of events, no message is empty and the batcher is empty in the end.
        #[test]
        fn items_that_are_dropped_leave_nothing_behind(
            steps in prop::collection::vec((0u8..4, 0u8..3, 1usize..3), 1..60),
        ) {
            let mut batcher = Batcher::new(usize::MAX);
            let mut in_flight = VecDeque::new();
            for (act, key, many) in steps {
                match act {
                    0 => batcher.push(key, (), small()),
                    // Often so many items that `keep` is called.
                    1 => batcher.push_all(key, (0..many * MAX_BATCH_CALLS).map(|_| ((), small())), |()| false),
                    2 => if let Some((key, items)) = batcher.take_message(most) {
                        prop_assert!(!items.is_empty());
                        in_flight.push_back(key);
                    },
                    _ => if let Some(key) = in_flight.pop_front() {
                        batcher.done(&key);
                    },
                }
            }
            loop {
                while let Some((key, items)) = batcher.take_message(most) {
                    prop_assert!(!items.is_empty());
                    in_flight.push_back(key);
                }
                match in_flight.pop_front() {
                    Some(key) => batcher.done(&key),
                    None => break,
                }
            }
            prop_assert!(batcher.lanes.is_empty() && batcher.ready.is_empty());
        }

        /// In any order of events, each item is sent once, the items of a lane are sent in order,
        /// no message is too large, and the batcher is empty in the end.
        #[test]
        fn every_item_is_sent_once_and_in_order(
            steps in prop::collection::vec((0u8..3, 0u8..3, 1u16..2000, 0usize..20_000), 1..300),
        ) {
            let mut batcher = Batcher::new(usize::MAX);
            let mut loads = HashMap::new();
            let mut sent: HashMap<u8, Vec<usize>> = HashMap::new();
            let mut in_flight = VecDeque::new();
            let mut send_ready = |batcher: &mut Batcher<u8, usize>, loads: &HashMap<usize, Load>, in_flight: &mut VecDeque<u8>| {
                while let Some((key, items)) = batcher.take_message(most) {
                    assert!(items.len() <= MAX_BATCH_CALLS);
                    if items.len() > 1 {
                        assert!(items.iter().map(|item| loads[item].bytes).sum::<usize>() <= MAX_BATCH_BYTES);
                        assert!(items.iter().map(|item| loads[item].share).sum::<u32>() <= FULL);
                    }
                    in_flight.push_back(key);
                    assert!(in_flight.iter().filter(|other| **other == key).count() <= WINDOW);
                    sent.entry(key).or_default().extend(items);
                }
            };
            for (n, (act, key, batch_size, bytes)) in steps.iter().copied().enumerate() {
                match act {
                    0 | 1 => {
                        let load = Load::new(bytes, batch_size);
                        loads.insert(n, load);
                        batcher.push(key, n, load);
                    }
                    _ => if let Some(key) = in_flight.pop_front() {
                        batcher.done(&key);
                    },
                }
                send_ready(&mut batcher, &loads, &mut in_flight);
            }
            while let Some(key) = in_flight.pop_front() {
                batcher.done(&key);
                send_ready(&mut batcher, &loads, &mut in_flight);
            }
            prop_assert!(batcher.lanes.is_empty() && batcher.ready.is_empty());
            prop_assert_eq!(sent.values().map(Vec::len).sum::<usize>(), loads.len());
            prop_assert!(sent.values().all(|items| items.is_sorted()));
        }
    }
}
