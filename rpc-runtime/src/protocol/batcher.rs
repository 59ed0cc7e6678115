//! What leaves in one message: calls to one queue, answers to one caller. Pure, but for [`gather`].
//!
//! Nothing waits for company. What is there leaves; only while some messages of its lane are under way already does more gather
//! behind them, and then it leaves together.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio::sync::mpsc::UnboundedReceiver;

use super::batch::{MAX_BATCH_BYTES, MAX_BATCH_CALLS};

/// How many messages of a lane may be under way before more gathers: one on its way there, one to be confirmed, and one that
/// is being written.
const WINDOW: usize = 3;

/// What a message can take, in parts that are finer than any that it is divided into.
const WHOLE: u32 = 1 << 16;

/// What an item takes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    bytes: usize,
    share: u32,
}

impl Load {
    /// Of so many items that leave together, of which any number that a message holds is wanted.
    pub(crate) fn of_many(bytes: usize, items: usize) -> Self {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        Self {
            bytes,
            share: items.saturating_mul(WHOLE / MAX_BATCH_CALLS as u32),
        }
    }

    /// Of so many bytes, of which as many as are `wanted` fill a message.
    pub(crate) fn new(bytes: usize, wanted: u16) -> Self {
        Self {
            bytes,
            share: WHOLE / u32::from(wanted.max(1)),
        }
    }
}

/// What waits to leave, by lanes: what is of one lane can leave together.
#[derive(Debug)]
pub(crate) struct Batcher<K, T> {
    lanes: HashMap<K, Lane<T>>,
    /// The lanes from which something may leave, each once.
    ready: VecDeque<K>,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<(T, Load)>,
    /// Beyond this many, stale items are dropped.
    most: usize,
    under_way: usize,
    is_ready: bool,
}

impl<K: Eq + Hash + Clone, T> Batcher<K, T> {
    pub(crate) fn new() -> Self {
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
        }
    }

    pub(crate) fn push(&mut self, key: K, item: T, load: Load) {
        self.push_all(key, [(item, load)], |_| true);
    }

    /// As [`push`](Self::push), of several. Where many wait, those that `is_worth_it` no more are dropped.
    pub(crate) fn push_all(
        &mut self,
        key: K,
        items: impl IntoIterator<Item = (T, Load)>,
        is_worth_it: impl Fn(&T) -> bool,
    ) {
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            most: MAX_BATCH_CALLS,
            under_way: 0,
            is_ready: false,
        });
        lane.waiting.extend(items);
        if lane.waiting.len() > lane.most {
            lane.waiting.retain(|(item, _)| is_worth_it(item));
            lane.most = MAX_BATCH_CALLS.max(2 * lane.waiting.len());
        }
        if lane.becomes_ready() {
            self.ready.push_back(key);
        } else {
            self.remove_if_idle(&key);
        }
    }

    /// Whether something may leave.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// What leaves next, as far as something may; to be told when it [is done](Self::done). Never nothing at all.
    pub(crate) fn next(&mut self) -> Option<(K, Vec<T>)> {
        while let Some(key) = self.ready.pop_front() {
            let Some(lane) = self.lanes.get_mut(&key) else {
                continue;
            };
            lane.is_ready = false;
            let message = lane.take();
            if message.is_empty() {
                // All that made the lane ready was dropped since.
                self.remove_if_idle(&key);
                continue;
            }
            lane.under_way += 1;
            if lane.becomes_ready() {
                self.ready.push_back(key.clone());
            }
            return Some((key, message));
        }
        None
    }

    /// A message is not under way any more.
    pub(crate) fn done(&mut self, key: &K) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        lane.under_way = lane.under_way.saturating_sub(1);
        if lane.becomes_ready() {
            self.ready.push_back(key.clone());
        } else {
            self.remove_if_idle(key);
        }
    }

    fn remove_if_idle(&mut self, key: &K) {
        let is_idle = |lane: &Lane<T>| lane.under_way == 0 && lane.waiting.is_empty() && !lane.is_ready;
        if self.lanes.get(key).is_some_and(is_idle) {
            self.lanes.remove(key);
        }
    }
}

impl<T> Lane<T> {
    /// Notes that something may leave; `false` where that is known, or not so.
    fn becomes_ready(&mut self) -> bool {
        let becomes = !self.is_ready && self.under_way < WINDOW && !self.waiting.is_empty();
        self.is_ready |= becomes;
        becomes
    }

    /// As much as one message takes, and one item at least; nothing if nothing waits.
    fn take(&mut self) -> Vec<T> {
        let (mut bytes, mut share) = (0, 0);
        let fits = |(_, load): &&(T, Load)| {
            bytes += load.bytes;
            share += load.share;
            bytes <= MAX_BATCH_BYTES && share <= WHOLE
        };
        let count = self.waiting.iter().take(MAX_BATCH_CALLS).take_while(fits).count();
        let count = count.max(1).min(self.waiting.len());
        self.waiting.drain(..count).map(|(item, _)| item).collect()
    }
}

/// Lets all tasks that can go on do so, and takes what they send: what belongs together leaves together. There is no timer in
/// it, and where nobody else can go on it ends at once.
pub(crate) async fn gather<T>(inbox: &mut UnboundedReceiver<T>, gathered: &mut Vec<T>) {
    while gathered.len() < MAX_BATCH_CALLS {
        tokio::task::yield_now().await;
        let before = gathered.len();
        while let Ok(item) = inbox.try_recv() {
            gathered.push(item);
        }
        if gathered.len() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small() -> Load {
        Load::new(10, 100)
    }

    #[test]
    fn what_comes_alone_leaves_alone() {
        let mut batcher = Batcher::new();
        for n in 0..WINDOW {
            batcher.push("q", n, small());
            assert_eq!(batcher.next(), Some(("q", vec![n])));
            assert_eq!(batcher.next(), None);
        }
    }

    #[test]
    fn what_gathers_meanwhile_leaves_together() {
        let mut batcher = Batcher::new();
        for n in 0..WINDOW {
            batcher.push("q", n, small());
            batcher.next().unwrap();
        }
        batcher.push("q", 10, small());
        batcher.push("q", 11, small());
        assert_eq!(batcher.next(), None);
        // Another lane is not held up.
        batcher.push("r", 12, small());
        assert_eq!(batcher.next(), Some(("r", vec![12])));
        batcher.done(&"q");
        assert_eq!(batcher.next(), Some(("q", vec![10, 11])));
    }

    #[test]
    fn a_message_holds_no_more_than_is_wanted() {
        let mut batcher = Batcher::new();
        for n in 0..5 {
            batcher.push("q", n, Load::new(10, 2));
        }
        assert_eq!(batcher.next(), Some(("q", vec![0, 1])));
        assert_eq!(batcher.next(), Some(("q", vec![2, 3])));
        assert_eq!(batcher.next(), Some(("q", vec![4])));
        // One that is wanted alone leaves alone, and so does one that is large.
        batcher.push("r", 0, Load::new(10, 1));
        batcher.push("r", 1, Load::new(MAX_BATCH_BYTES + 1, 1000));
        batcher.push("r", 2, Load::new(10, 1000));
        assert_eq!(batcher.next(), Some(("r", vec![0])));
        assert_eq!(batcher.next(), Some(("r", vec![1])));
        assert_eq!(batcher.next(), Some(("r", vec![2])));
    }

    #[test]
    fn a_lane_whose_items_were_all_dropped_sends_nothing() {
        let mut batcher = Batcher::new();
        batcher.push("q", 0, small());
        batcher.push_all("q", (1..=MAX_BATCH_CALLS).map(|n| (n, small())), |_| false);
        assert_eq!(batcher.next(), None);
        assert!(batcher.lanes.is_empty() && batcher.ready.is_empty());
        // It is used again, and another lane is not held up by it.
        batcher.push_all("q", (0..=MAX_BATCH_CALLS).map(|n| (n, small())), |_| false);
        batcher.push("r", 1, small());
        batcher.push("q", 2, small());
        assert_eq!(batcher.next(), Some(("r", vec![1])));
        assert_eq!(batcher.next(), Some(("q", vec![2])));
        assert_eq!(batcher.next(), None);
    }

    #[test]
    fn what_is_worth_it_no_more_does_not_gather_for_ever() {
        let mut batcher = Batcher::new();
        for _ in 0..WINDOW {
            batcher.push("q", 0, small());
            batcher.next().unwrap();
        }
        // Nothing is done, and nobody waits for any but the first ten.
        for n in 0..100 * MAX_BATCH_CALLS {
            batcher.push_all("q", [(n, small())], |n| *n < 10);
            assert!(batcher.lanes["q"].waiting.len() <= MAX_BATCH_CALLS);
        }
        batcher.done(&"q");
        let (_, left) = batcher.next().unwrap();
        assert_eq!(left[..10], (0..10).collect::<Vec<_>>());
    }

    proptest! {
        /// Whatever comes, is dropped, and whenever messages are done: no message is empty, and in the end nothing is left.
        #[test]
        fn items_that_are_dropped_leave_nothing_behind(
            steps in prop::collection::vec((0u8..4, 0u8..3, 1usize..3), 1..60),
        ) {
            let mut batcher = Batcher::new();
            let mut under_way = VecDeque::new();
            for (act, key, many) in steps {
                match act {
                    0 => batcher.push(key, (), small()),
                    // So many that those that wait are looked at, and dropped.
                    1 => batcher.push_all(key, (0..many * MAX_BATCH_CALLS).map(|_| ((), small())), |()| false),
                    2 => if let Some((key, items)) = batcher.next() {
                        prop_assert!(!items.is_empty());
                        under_way.push_back(key);
                    },
                    _ => if let Some(key) = under_way.pop_front() {
                        batcher.done(&key);
                    },
                }
            }
            loop {
                while let Some((key, items)) = batcher.next() {
                    prop_assert!(!items.is_empty());
                    under_way.push_back(key);
                }
                match under_way.pop_front() {
                    Some(key) => batcher.done(&key),
                    None => break,
                }
            }
            prop_assert!(batcher.lanes.is_empty() && batcher.ready.is_empty());
        }

        /// Whatever comes and whenever messages are done: each item leaves once, those of a lane in order, no message is too
        /// full, and in the end nothing is left.
        #[test]
        fn everything_leaves_once_and_in_order(
            steps in prop::collection::vec((0u8..3, 0u8..3, 1u16..2000, 0usize..20_000), 1..300),
        ) {
            let mut batcher = Batcher::new();
            let mut loads = HashMap::new();
            let mut left: HashMap<u8, Vec<usize>> = HashMap::new();
            let mut under_way = VecDeque::new();
            let mut leave = |batcher: &mut Batcher<u8, usize>, loads: &HashMap<usize, Load>, under_way: &mut VecDeque<u8>| {
                while let Some((key, items)) = batcher.next() {
                    assert!(items.len() <= MAX_BATCH_CALLS);
                    if items.len() > 1 {
                        assert!(items.iter().map(|item| loads[item].bytes).sum::<usize>() <= MAX_BATCH_BYTES);
                        assert!(items.iter().map(|item| loads[item].share).sum::<u32>() <= WHOLE);
                    }
                    under_way.push_back(key);
                    assert!(under_way.iter().filter(|other| **other == key).count() <= WINDOW);
                    left.entry(key).or_default().extend(items);
                }
            };
            for (n, (act, key, wanted, bytes)) in steps.iter().copied().enumerate() {
                match act {
                    0 | 1 => {
                        let load = Load::new(bytes, wanted);
                        loads.insert(n, load);
                        batcher.push(key, n, load);
                    }
                    _ => if let Some(key) = under_way.pop_front() {
                        batcher.done(&key);
                    },
                }
                leave(&mut batcher, &loads, &mut under_way);
            }
            while let Some(key) = under_way.pop_front() {
                batcher.done(&key);
                leave(&mut batcher, &loads, &mut under_way);
            }
            prop_assert!(batcher.lanes.is_empty() && batcher.ready.is_empty());
            prop_assert_eq!(left.values().map(Vec::len).sum::<usize>(), loads.len());
            prop_assert!(left.values().all(|items| items.is_sorted()));
        }
    }
}
