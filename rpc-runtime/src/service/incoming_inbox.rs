//! The items of a caller that have arrived and that the method has not taken.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::incoming_error::IncomingError;
use crate::protocol::{Asks, IncomingGrant, Items, MAX_UNTAKEN_BYTES, Volume};

/// How many items a caller may send that the method has not taken.
const WINDOW: u64 = 1024;

/// After how long without news the caller is told its credit again, so that it knows that the
/// worker is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long after the last message to the caller it is told that the method has taken items since.
/// The timeout of a caller that waits for the method to take items begins again then.
const PROGRESS: Duration = Duration::from_secs(1);

/// How long a caller may send nothing before its items end with an error. A caller sends a message
/// every few seconds, until its call ends.
const MAX_SILENCE: Duration = Duration::from_secs(16);

/// How long a caller may send nothing before its method is cancelled. Until then, the method can
/// handle the error.
const GONE_AFTER: Duration = Duration::from_secs(32);

/// The items of one call. Messages add items, and the method takes them.
#[derive(Debug)]
pub(crate) struct IncomingInbox {
    /// How many inboxes of the worker were opened before. It gives them an order.
    number: u64,
    state: Mutex<State>,
    /// Notified when the caller may have to be told something.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    receiver: ItemReceiver,
    /// Whether the method has its stream.
    is_reading: bool,
    /// Wakes the task that waits for an item.
    reader: Option<Waker>,
    /// When the caller was last told its credit.
    told_at: Option<Instant>,
    /// When the caller's silence began: at its last message, or when the method got its stream or
    /// messages could arrive again. `None` while none can arrive, or if the caller is in this
    /// process.
    silent_since: Option<Instant>,
}

impl IncomingInbox {
    /// Creates the inbox of a call that begins. `may_be_silent` is whether the silence of the
    /// caller means nothing: messages cannot arrive at present, or the caller is in this process.
    pub(crate) fn new(number: u64, may_be_silent: bool) -> Self {
        #[cfg(test)]
        counted::add(1);
        Self {
            number,
            state: Mutex::new(State {
                receiver: ItemReceiver::default(),
                is_reading: false,
                reader: None,
                told_at: None,
                silent_since: (!may_be_silent).then(Instant::now),
            }),
            changed: Notify::new(),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Receives a message with items. `end` is the number of all items if the message is the end.
    /// `size` is how many bytes the items keep in memory.
    pub(crate) fn receive(&self, items: Items, end: Option<u64>, size: usize) {
        let mut state = self.lock();
        state.restart_silence();
        state.receiver.receive(items, end, size);
        self.unlock_and_wake(state);
    }

    /// Ends the stream with an error after the items that have arrived, unless its end is known.
    pub(crate) fn fail(&self, error: IncomingError) {
        let mut state = self.lock();
        state.receiver.end_with(Err(error));
        self.unlock_and_wake(state);
    }

    /// Records that messages cannot arrive at present.
    pub(crate) fn lose(&self) {
        self.lock().silent_since = None;
    }

    /// Records that messages can arrive again, after some may have been lost.
    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        state.silent_since = Some(Instant::now());
        state.receiver.ask_again();
        self.unlock_and_wake(state);
    }

    /// Records that the method has its stream, so that the caller gets credit. Returns `false` if
    /// the method already had it.
    pub(crate) fn begin_reading(&self) -> bool {
        let mut state = self.lock();
        // The caller had no credit until now, so its silence is counted from now on.
        state.restart_silence();
        let was_reading = std::mem::replace(&mut state.is_reading, true);
        drop(state);
        self.changed.notify_one();
        !was_reading
    }

    /// Takes the next item; `None` at the end. Must not be called again after the end or an error.
    pub(crate) fn poll_item(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, IncomingError>>> {
        let mut state = self.lock();
        let item = state.receiver.take();
        if item.is_pending() {
            match &mut state.reader {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
        } else if state.receiver.has_news() || state.receiver.is_first_since_told() {
            // Now `next_grant` has something to tell, or has to wake sooner.
            drop(state);
            self.changed.notify_one();
        }
        item
    }

    /// Records that the method takes no more items.
    pub(super) fn close(&self) {
        self.lock().receiver.close();
        self.changed.notify_one();
    }

    /// Waits until the caller has to be told something, or has not been told anything for a few
    /// seconds. Meanwhile, ends the stream if the caller is silent for [`MAX_SILENCE`]. Returns
    /// `None` once the caller has been silent for [`GONE_AFTER`]: the method is to be cancelled.
    ///
    /// The caller is told nothing before the method has its stream: a layer may still refuse the
    /// request, and then the caller may send it again, with all items.
    pub(crate) async fn next_grant(&self) -> Option<IncomingGrant> {
        while !self.lock().is_reading {
            self.changed.notified().await;
        }
        loop {
            let changed = self.changed.notified();
            let wake_at = {
                let mut state = self.lock();
                let now = Instant::now();
                if state.is_silent_for(GONE_AFTER, now) {
                    return None;
                }
                if state.is_silent_for(MAX_SILENCE, now) {
                    state.receiver.end_with(Err(IncomingError::Interrupted));
                }
                if state.tell_at(now) <= now || state.receiver.has_news() {
                    state.told_at = Some(now);
                    let grant = state.receiver.grant();
                    self.unlock_and_wake(state);
                    return Some(grant);
                }
                state.wake_at(now)
            };
            let _ = timeout_at(wake_at, changed).await;
        }
    }

    /// Returns what the caller is to be told, without a clock. `None` if there is nothing new.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn news(&self) -> Option<IncomingGrant> {
        let receiver = &mut self.lock().receiver;
        receiver.has_news().then(|| receiver.grant())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks the inbox. Wakes the reader if there is something to read, and
    /// [`next_grant`](Self::next_grant) if there is something to tell the caller.
    fn unlock_and_wake(&self, mut state: MutexGuard<'_, State>) {
        let is_readable = state.receiver.is_readable();
        let reader = state.reader.take_if(|_| is_readable);
        let has_news = state.receiver.has_news();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        if has_news {
            self.changed.notify_one();
        }
    }
}

/// How many inboxes exist on this thread, for tests that look for leaks.
#[cfg(test)]
pub(crate) mod counted {
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<isize> = const { Cell::new(0) };
    }

    pub(crate) fn count() -> isize {
        COUNT.get()
    }

    pub(super) fn add(count: isize) {
        COUNT.set(COUNT.get() + count);
    }

    impl Drop for super::IncomingInbox {
        fn drop(&mut self) {
            add(-1);
        }
    }
}

impl State {
    /// Counts the caller's silence from now on. Does nothing while it is not measured.
    fn restart_silence(&mut self) {
        if let Some(silent_since) = &mut self.silent_since {
            *silent_since = Instant::now();
        }
    }

    /// Whether the caller has been silent for this long. `false` while its silence is not measured.
    fn is_silent_for(&self, time: Duration, now: Instant) -> bool {
        self.silent_since.is_some_and(|since| since + time <= now)
    }

    /// When to tell the caller its credit even without news: now, if it was never told.
    fn tell_at(&self, now: Instant) -> Instant {
        let has_taken = self.receiver.taken > self.receiver.told_taken;
        let interval = if has_taken { PROGRESS } else { KEEP_ALIVE };
        self.told_at.map_or(now, |told_at| told_at + interval)
    }

    /// When to look again for what is due: telling the caller its credit, or a limit of its
    /// silence.
    fn wake_at(&self, now: Instant) -> Instant {
        let tell_at = self.tell_at(now);
        let limit = if self.receiver.is_over() {
            GONE_AFTER
        } else {
            MAX_SILENCE
        };
        self.silent_since
            .map_or(tell_at, |since| tell_at.min(since + limit))
    }
}

/// Puts the items of one call into order, and decides what to tell the caller. Pure: no I/O.
///
/// A caller sends its items in order. If some are missing, it is asked to send them again, with all
/// that follow. So those that follow need not be kept.
#[derive(Debug, Default)]
struct ItemReceiver {
    /// The items that the method has not taken.
    ready: VecDeque<Bytes>,
    ready_bytes: usize,
    /// How many items the method has taken.
    taken: u64,
    /// How many of them the caller was told of.
    told_taken: u64,
    /// How many items the caller may send in total. 0 before it was told.
    granted: u64,
    /// The total size of the items that the method has taken since the caller was told.
    taken_bytes: usize,
    /// What to ask the caller for.
    asks: Option<Asks>,
    /// The number of the first missing item when the caller was last asked to send items again.
    asked_from: Option<u64>,
    /// How the stream ends after the items, once that is known.
    end: Option<Result<(), IncomingError>>,
    /// Whether the method takes no more items.
    is_closed: bool,
}

impl ItemReceiver {
    /// The number of the first item that has not arrived.
    fn next(&self) -> u64 {
        self.taken + self.ready.len() as u64
    }

    /// Whether it is known how the stream ends, or the method takes no more items.
    fn is_over(&self) -> bool {
        self.is_closed || self.end.is_some()
    }

    fn is_readable(&self) -> bool {
        !self.ready.is_empty() || self.end.is_some()
    }

    /// Receives items, which may arrive twice. They are parts of a message of `size` bytes. `end`
    /// is the number of all items of the stream, if these are the last ones.
    fn receive(&mut self, Items { first, items, .. }: Items, end: Option<u64>, size: usize) {
        if self.is_over() {
            // The caller may not know that. It also sends a message without items every few
            // seconds, and it is enough to answer those.
            if items.is_empty() {
                self.asks = Some(Asks::Enough);
            }
            return;
        }
        let is_empty = items.is_empty();
        let after_last = first.saturating_add(items.volume().items);
        let has_wrong_end = end.is_some_and(|count| count != after_last);
        if after_last > self.granted || has_wrong_end {
            let reason = "there are more items than were granted, or than their end counts";
            return self.end_with(Err(IncomingError::Protocol(reason)));
        }
        if first > self.next() {
            // Items are missing. Each message until they arrive shows that, but the caller is asked
            // for them once. It is asked again after a message without items, because the first
            // question may be lost: it sends such a message once it has no items to send.
            let was_asked = self.asked_from == Some(self.next());
            if is_empty || !was_asked {
                self.ask_again();
            }
            return;
        }
        let known = usize::try_from(self.next() - first).unwrap_or(usize::MAX);
        let new_items = items.iter().skip(known);
        let new_bytes: u64 = new_items.map(|item| Volume::of(item).bytes).sum();
        // An item keeps its whole message in memory. If most of the message is not new, the new
        // items are copied out of it.
        let is_copied = size as u64 > 2 * new_bytes;
        for item in items.skip(known) {
            if self.ready_bytes >= MAX_UNTAKEN_BYTES {
                let reason = "there are more bytes than the method has room for";
                return self.end_with(Err(IncomingError::Protocol(reason)));
            }
            self.ready_bytes += item.len();
            self.ready.push_back(if is_copied {
                Bytes::copy_from_slice(&item)
            } else {
                item
            });
        }
        match end {
            Some(count) if count == self.next() => self.end_with(Ok(())),
            // There are more items than `end` counts: they were received before.
            Some(_) => self.end_with(Err(IncomingError::Protocol("there are items after the end"))),
            None => {}
        }
    }

    /// Sets how the stream ends after the items that have arrived, and asks the caller to send no
    /// more. Does nothing if the stream [is over](Self::is_over).
    fn end_with(&mut self, end: Result<(), IncomingError>) {
        if self.is_over() {
            return;
        }
        self.end = Some(end);
        self.asks = Some(Asks::Enough);
    }

    /// Asks the caller to send all items again that the method has not taken, unless the stream
    /// [is over](Self::is_over).
    fn ask_again(&mut self) {
        if !self.is_over() {
            self.asks = Some(Asks::Again);
            self.asked_from = Some(self.next());
        }
    }

    /// Drops the items that the method has not taken, and lets the caller know that it takes none.
    fn close(&mut self) {
        self.is_closed = true;
        self.ready.clear();
        self.asks = Some(Asks::Enough);
    }

    /// Takes the next item. After the last one, takes the end: an error, or `None`. Returns
    /// `Pending` if neither has arrived, or if the end was taken already.
    fn take(&mut self) -> Poll<Option<Result<Bytes, IncomingError>>> {
        if let Some(item) = self.ready.pop_front() {
            self.taken += 1;
            self.ready_bytes -= item.len();
            self.taken_bytes = self.taken_bytes.saturating_add(item.len());
            return Poll::Ready(Some(Ok(item)));
        }
        match self.end.take() {
            None => Poll::Pending,
            Some(end) => {
                self.is_closed = true;
                Poll::Ready(end.err().map(Err))
            }
        }
    }

    /// Whether the caller should be told something now: what it is asked for, or new credit. It
    /// needs credit if it has none yet, or if the method has taken half of [`WINDOW`] or of
    /// [`MAX_UNTAKEN_BYTES`], but not once the stream is over.
    fn has_news(&self) -> bool {
        let left = self.granted.saturating_sub(self.taken);
        let needs_credit = left <= WINDOW / 2 || self.taken_bytes >= MAX_UNTAKEN_BYTES / 2;
        self.asks.is_some() || (needs_credit && !self.is_over())
    }

    /// Whether the method has just taken the first item that the caller was not told of. From then
    /// on, the caller is told after [`PROGRESS`].
    fn is_first_since_told(&self) -> bool {
        self.taken == self.told_taken + 1
    }

    /// Returns what to tell the caller, and records that it was told.
    fn grant(&mut self) -> IncomingGrant {
        self.granted = self.taken + WINDOW;
        self.told_taken = self.taken;
        self.taken_bytes = 0;
        let asks = self.asks.take().unwrap_or(Asks::Nothing);
        IncomingGrant {
            credit: self.granted,
            taken: self.taken,
            asks: if self.is_over() { Asks::Enough } else { asks },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::task::noop_waker_ref;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::ItemList;

    fn items(first: u64, count: u64) -> Items {
        let item = |number: u64| number.to_be_bytes();
        Items {
            first,
            items: (first..first + count).map(item).collect(),
            credit: Volume::MAX,
        }
    }

    fn granted() -> ItemReceiver {
        let mut receiver = ItemReceiver::default();
        assert!(receiver.has_news());
        let credit = IncomingGrant {
            credit: WINDOW,
            taken: 0,
            asks: Asks::Nothing,
        };
        assert_eq!(receiver.grant(), credit);
        assert!(!receiver.has_news());
        receiver
    }

    fn take(receiver: &mut ItemReceiver) -> Option<Option<u64>> {
        match receiver.take() {
            Poll::Pending => None,
            Poll::Ready(item) => {
                let item = item.map(|item| item.expect("the stream does not break off"));
                Some(item.map(|item| u64::from_be_bytes(item[..].try_into().unwrap())))
            }
        }
    }

    fn breaks_off(receiver: &mut ItemReceiver) -> bool {
        while let Poll::Ready(item) = receiver.take() {
            match item {
                Some(Ok(_)) => {}
                Some(Err(IncomingError::Protocol(_))) => return true,
                Some(Err(_)) | None => return false,
            }
        }
        false
    }

    proptest! {
        /// Messages may be lost and sent again from anywhere before the first that is missing.
        #[test]
        fn items_are_taken_in_order_and_once(sent in prop::collection::vec((0u64..60, 0u64..20), 0..60)) {
            let mut receiver = granted();
            let mut taken = 0;
            for (first, count) in sent {
                receiver.receive(items(first, count), None, 0);
                while let Some(Some(number)) = take(&mut receiver) {
                    prop_assert_eq!(number, taken);
                    taken += 1;
                }
                prop_assert!(!receiver.is_over());
                prop_assert_eq!(first > taken, receiver.asks == Some(Asks::Again));
                receiver.grant();
                receiver.asked_from = None;
            }
            receiver.receive(items(taken, 0), Some(taken), 0);
            prop_assert_eq!(take(&mut receiver), Some(None));
        }

        #[test]
        fn nothing_panics_and_what_is_kept_is_bounded(
            sent in prop::collection::vec((any::<u64>(), 0u64..20, any::<Option<u64>>(), 0u64..30), 0..60),
        ) {
            let mut receiver = granted();
            for (first, count, end, taken) in sent {
                let first = first.min(u64::MAX - 20);
                receiver.receive(items(first, count), end, 0);
                for _ in 0..taken {
                    let _ = receiver.take();
                }
                receiver.grant();
                prop_assert!(receiver.ready.len() as u64 <= WINDOW);
            }
        }
    }

    #[test]
    fn what_cannot_be_breaks_the_stream_off() {
        for (first, count, end) in [
            (WINDOW, 1, None),
            (0, WINDOW + 1, None),
            (u64::MAX, 0, None),
            (3, 0, Some(4)),
            (0, 0, Some(0)),
            (0, 2, Some(2)),
        ] {
            let mut receiver = granted();
            receiver.receive(items(0, 3), None, 0);
            receiver.receive(items(first, count), end, 0);
            assert!(breaks_off(&mut receiver), "{first} {count} {end:?}");
        }
        let mut receiver = granted();
        let large = |first| Items {
            first,
            items: [vec![0; MAX_UNTAKEN_BYTES]].iter().collect(),
            credit: Volume::MAX,
        };
        receiver.receive(large(0), None, 0);
        assert!(!receiver.is_over());
        receiver.receive(large(1), None, 0);
        assert!(breaks_off(&mut receiver));
    }

    /// A part of a message keeps the whole message in memory.
    #[test]
    fn items_that_are_kept_keep_no_large_message() {
        let received = |known: usize, sizes: &[usize]| {
            let mut receiver = granted();
            receiver.receive(items(0, known as u64), None, 0);
            let list: ItemList = sizes.iter().map(|size| vec![7; *size]).collect();
            let parts = Items {
                items: list.clone(),
                ..items(0, 0)
            };
            receiver.receive(parts, None, 1000);
            let kept = receiver.ready.pop_back().unwrap();
            assert_eq!(kept.len(), *sizes.last().unwrap());
            list.holds(&kept)
        };
        assert!(received(0, &[500]) && received(0, &[250, 250]));
        assert!(!received(0, &[100]), "the message has more than items");
        assert!(!received(1, &[900, 100]), "the first item arrived before");
    }

    #[test]
    fn credit_is_granted_when_half_of_it_is_used() {
        let mut receiver = granted();
        receiver.receive(items(0, WINDOW), None, 0);
        for taken in 1..WINDOW / 2 {
            assert_eq!(take(&mut receiver), Some(Some(taken - 1)));
            assert!(!receiver.has_news(), "{taken}");
        }
        take(&mut receiver);
        assert!(receiver.has_news());
        let IncomingGrant { credit, taken, .. } = receiver.grant();
        assert_eq!((credit, taken), (WINDOW * 3 / 2, WINDOW / 2));
        let large = |first| Items {
            first,
            items: [vec![0; MAX_UNTAKEN_BYTES / 2]].iter().collect(),
            credit: Volume::MAX,
        };
        let mut receiver = granted();
        receiver.receive(large(0), None, 0);
        assert!(!receiver.has_news());
        let _ = receiver.take();
        assert!(receiver.has_news(), "half of the bytes");
    }

    #[test]
    fn a_gap_is_asked_for_once_until_the_caller_is_silent() {
        let mut receiver = granted();
        receiver.receive(items(2, 1), None, 0);
        assert_eq!(receiver.grant().asks, Asks::Again);
        receiver.receive(items(3, 1), None, 0);
        assert!(!receiver.has_news());
        receiver.receive(items(4, 0), None, 0);
        assert_eq!(receiver.grant().asks, Asks::Again);
        receiver.receive(items(4, 0), Some(4), 0);
        assert_eq!(receiver.grant().asks, Asks::Again);
        receiver.receive(items(0, 4), None, 0);
        receiver.receive(items(4, 0), Some(4), 0);
        assert_eq!(receiver.grant().asks, Asks::Enough);
        assert!((0..4).all(|number| take(&mut receiver) == Some(Some(number))));
        assert_eq!(take(&mut receiver), Some(None));
        // The caller has not heard that.
        receiver.receive(items(4, 0), Some(4), 0);
        assert_eq!(receiver.grant().asks, Asks::Enough);
    }

    fn poll(inbox: &IncomingInbox) -> Poll<Option<Result<Bytes, IncomingError>>> {
        inbox.poll_item(&mut Context::from_waker(noop_waker_ref()))
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_granted_before_the_method_has_its_stream() {
        let inbox = IncomingInbox::new(0, false);
        let begun = Instant::now();
        let later = async {
            tokio::time::sleep(2 * MAX_SILENCE).await;
            assert!(inbox.begin_reading());
        };
        let granted = async { (inbox.next_grant().await.unwrap().credit, begun.elapsed()) };
        let (granted, ()) = tokio::join!(granted, later);
        assert_eq!(granted, (WINDOW, 2 * MAX_SILENCE));
        assert!(poll(&inbox).is_pending(), "its caller had nothing to say");
        assert!(!inbox.begin_reading());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_silent_is_gone_unless_nothing_can_arrive() {
        let begun = Instant::now();
        let inbox = Arc::new(IncomingInbox::new(0, false));
        assert!(inbox.begin_reading());
        let telling = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move {
                let mut told = Vec::new();
                while inbox.next_grant().await.is_some() {
                    told.push(begun.elapsed());
                }
                told
            }
        });
        tokio::time::sleep(MAX_SILENCE / 2).await;
        inbox.lose();
        tokio::time::sleep(2 * MAX_SILENCE).await;
        assert!(poll(&inbox).is_pending());
        inbox.resume();
        tokio::time::sleep(MAX_SILENCE / 2).await;
        inbox.receive(items(0, 1), None, 0);
        assert!(matches!(poll(&inbox), Poll::Ready(Some(Ok(_)))));
        tokio::time::sleep(MAX_SILENCE - Duration::from_millis(1)).await;
        assert!(poll(&inbox).is_pending());
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(matches!(
            poll(&inbox),
            Poll::Ready(Some(Err(IncomingError::Interrupted)))
        ));
        // Its method may still handle that.
        let told = telling.await.unwrap();
        assert_eq!(begun.elapsed(), MAX_SILENCE * 3 + GONE_AFTER);
        assert!(told.windows(2).all(|pair| pair[1] - pair[0] <= KEEP_ALIVE));
    }
}
