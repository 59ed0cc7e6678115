//! The batch size that the workers of a method ask for.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many calls of one method its workers ask for in one message, according to the last reply, or
/// answer to a one-way request, with a batch size.
#[derive(Debug, Default)]
pub(in crate::client) struct LearnedBatchSize {
    /// The lower 16 bits are the batch size, or zero if it is not known. The upper 16 bits count
    /// calls that were sent on their own. While the batch size is not known, these are the
    /// [first](FIRST_CALLS) calls of the method, and otherwise the calls since it was learned. One
    /// value has another meaning: [`NOT_AWAITED`].
    state: AtomicU32,
    oneway_asks: Mutex<OnewayAsks>,
}

/// The one-way requests that asked for the batch size.
#[derive(Debug, Default)]
struct OnewayAsks {
    /// When the last one was sent.
    last: Option<Instant>,
    /// How many were sent since the last answer, or since the batch size was forgotten for lack of
    /// one.
    unanswered: u32,
    /// When the first of the unanswered ones was sent.
    unanswered_since: Option<Instant>,
}

/// One call in the upper 16 bits.
const ONE_CALL: u32 = 1 << 16;

/// The state if the batch size is not known, and no call is held back until it is.
const NOT_AWAITED: u32 = u32::MAX << 16;

/// How many calls of a method are sent on their own before the first reply. Later ones are held
/// back for a moment: once the first reply tells the batch size, they are sent in a few messages.
const FIRST_CALLS: u32 = 64;

/// Once the batch size is known, one in this many calls that are sent on their own asks for it
/// again. The question and its answer are headers, which add to the broker's work for each message.
const ASK_EVERY: u32 = 32;

/// A one-way request asks for the batch size if none has for this long. Each question costs an
/// extra message from the worker.
const ONEWAY_ASK_INTERVAL: Duration = Duration::from_millis(250);

/// The batch size is forgotten if this many one-way requests in a row have asked for it without an
/// answer, for at least [`UNANSWERED_TIME`]: perhaps no worker takes batches any more. Confirms do
/// not show that, because the broker confirms a batch that no worker takes.
const MAX_UNANSWERED: u32 = 20;

/// See [`MAX_UNANSWERED`]. Workers with a backlog answer late.
const UNANSWERED_TIME: Duration = Duration::from_secs(30);

impl LearnedBatchSize {
    /// Returns the batch size; one if it is not known.
    pub(in crate::client) fn get(&self) -> u16 {
        known_size(self.state.load(Ordering::Relaxed)).max(1)
    }

    /// Returns whether a call that is sent on its own is to ask for the batch size. Each call asks
    /// until that is known. Afterwards, this counts the calls, and [one in some](ASK_EVERY) asks.
    pub(in crate::client) fn record_single(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if known_size(state) == 0 {
            return true;
        }
        let calls = self.count_call(state) / ONE_CALL;
        calls.is_multiple_of(ASK_EVERY)
    }

    /// Returns whether a one-way request, alone or in a batch, is to ask for the batch size. If so,
    /// records that it asks, and forgets the batch size if no worker has answered for a long time.
    pub(in crate::client) fn record_oneway(&self, now: Instant) -> bool {
        let mut asks = self.oneway_asks.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |earlier: Instant| now.saturating_duration_since(earlier);
        if asks.last.is_some_and(|last| since(last) < ONEWAY_ASK_INTERVAL) {
            return false;
        }
        asks.last = Some(now);
        asks.unanswered += 1;
        let unanswered_since = *asks.unanswered_since.get_or_insert(now);
        if asks.unanswered > MAX_UNANSWERED && since(unanswered_since) >= UNANSWERED_TIME {
            self.forget();
            // This request is the first unanswered one from now on.
            (asks.unanswered, asks.unanswered_since) = (1, Some(now));
        }
        true
    }

    /// Stores the batch size with which a worker answered a one-way request. Begins to count
    /// unanswered requests anew.
    pub(in crate::client) fn answered_oneway(&self, batch_size: u16) {
        let mut asks = self.oneway_asks.lock().unwrap_or_else(PoisonError::into_inner);
        (asks.unanswered, asks.unanswered_since) = (0, None);
        drop(asks);
        self.learn(batch_size);
    }

    /// Returns whether to hold back a call until the batch size is known. While that is awaited,
    /// counts the [first calls](FIRST_CALLS), which are not held back.
    pub(in crate::client) fn holds_back(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if !is_awaited(state) {
            return false;
        }
        let is_first_call = state / ONE_CALL < FIRST_CALLS;
        if is_first_call {
            self.count_call(state);
        }
        !is_first_call
    }

    /// Stops holding back calls, because a reply has no batch size or no reply comes. Returns
    /// whether the batch size was awaited until now.
    pub(in crate::client) fn stop_holding_back(&self) -> bool {
        let not_awaited = |state| is_awaited(state).then_some(NOT_AWAITED);
        self.state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, not_awaited)
            .is_ok()
    }

    /// Stores the batch size of a reply. Returns whether it was unknown before. Zero changes
    /// nothing, and returns `false`.
    pub(in crate::client) fn learn(&self, batch_size: u16) -> bool {
        if batch_size == 0 {
            return false;
        }
        let known = known_size(self.state.load(Ordering::Relaxed));
        // Many replies repeat it, and writing an equal value would only slow down other threads.
        if known != batch_size {
            self.state.store(batch_size.into(), Ordering::Relaxed);
        }
        known == 0
    }

    /// Forgets the batch size, because the workers that asked for it may be gone. Calls are sent on
    /// their own until a worker asks for batches again.
    pub(in crate::client) fn forget(&self) {
        self.state.store(NOT_AWAITED, Ordering::Relaxed);
    }

    /// Counts a call in this state, and returns the new state. Does not store it if another thread
    /// has changed the state meanwhile, so that no batch size is overwritten.
    fn count_call(&self, state: u32) -> u32 {
        let counted = state.wrapping_add(ONE_CALL);
        let _ = self
            .state
            .compare_exchange(state, counted, Ordering::Relaxed, Ordering::Relaxed);
        counted
    }
}

/// Returns the batch size in a state; zero if it is not known.
fn known_size(state: u32) -> u16 {
    u16::try_from(state & 0xffff).unwrap_or(0)
}

/// Returns whether calls may be held back in this state until the batch size is known.
fn is_awaited(state: u32) -> bool {
    known_size(state) == 0 && state != NOT_AWAITED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_asked_until_it_answers_and_occasionally_afterwards() {
        let batch_size = LearnedBatchSize::default();
        let asked = |calls| (0..calls).filter(|_| batch_size.record_single()).count();
        assert_eq!(asked(5), 5);
        batch_size.learn(1);
        assert_eq!(asked(10 * ASK_EVERY), 10);
        batch_size.forget();
        assert_eq!(asked(5), 5);
    }

    #[test]
    fn a_batch_size_is_forgotten_if_nobody_answers_for_long() {
        let batch_size = LearnedBatchSize::default();
        let start = Instant::now();
        let ask_until = |seconds: u32, from: u32| {
            for quarter in from * 4..seconds * 4 {
                batch_size.record_oneway(start + quarter * ONEWAY_ASK_INTERVAL);
            }
        };
        batch_size.answered_oneway(64);
        ask_until(29, 0);
        assert_eq!(batch_size.get(), 64);
        batch_size.answered_oneway(64);
        ask_until(58, 29);
        assert_eq!(batch_size.get(), 64);
        ask_until(61, 58);
        assert_eq!(batch_size.get(), 1);
        batch_size.answered_oneway(64);
        assert_eq!(batch_size.get(), 64);
        // A few that were lost, with a long pause between them, do not count.
        for hour in 1..10 {
            batch_size.record_oneway(start + hour * Duration::from_secs(3600));
        }
        assert_eq!(batch_size.get(), 64);
    }

    #[test]
    fn a_oneway_request_asks_once_in_a_while() {
        let batch_size = LearnedBatchSize::default();
        let start = Instant::now();
        let asked = (0..1000).filter(|millis| {
            let now = start + Duration::from_millis(*millis);
            batch_size.record_oneway(now)
        });
        assert_eq!(asked.count(), 4);
    }

    #[test]
    fn only_some_of_the_first_calls_are_sent_before_a_reply() {
        for is_learned in [true, false] {
            let batch_size = LearnedBatchSize::default();
            let sent = |calls| (0..calls).filter(|_| !batch_size.holds_back()).count();
            assert_eq!(sent(2 * FIRST_CALLS), FIRST_CALLS as usize);
            if is_learned {
                assert!(batch_size.learn(1));
            } else {
                assert!(batch_size.stop_holding_back());
            }
            assert_eq!(sent(100_000), 100_000);
            assert_eq!(batch_size.record_single(), !is_learned);
            // Nor are calls held back after the batch size is forgotten.
            batch_size.forget();
            assert_eq!(sent(100_000), 100_000);
            assert!(batch_size.learn(7));
            assert!(!batch_size.learn(8));
            assert!(!batch_size.stop_holding_back());
            assert_eq!(batch_size.get(), 8);
        }
    }

    #[test]
    fn a_reply_without_a_batch_size_changes_nothing() {
        let batch_size = LearnedBatchSize::default();
        batch_size.learn(7);
        batch_size.learn(0);
        assert_eq!(batch_size.get(), 7);
    }

    #[test]
    fn counting_calls_never_changes_the_batch_size() {
        let batch_size = LearnedBatchSize::default();
        batch_size.learn(u16::MAX);
        for _ in 0..70_000 {
            batch_size.record_single();
        }
        assert_eq!(batch_size.get(), u16::MAX);
    }
}
