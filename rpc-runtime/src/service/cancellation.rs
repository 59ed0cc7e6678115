//! The calls that their callers have cancelled. The requests that run learn of it, and those that
//! have not begun do not run.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::protocol::{CancelledCall, MAX_TIME_TO_LIVE};

/// How many cancelled calls are remembered for each queue. If there are more, the oldest are
/// forgotten. If their requests are delivered later, they run.
const MAX_REMEMBERED: usize = 16 * 1024;

/// How long a cancelled call is remembered after its request has expired. The request may have been
/// delivered before it expired, and may still wait for its turn.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// The cancelled calls of one queue.
#[derive(Debug, Default)]
pub(crate) struct Cancellations {
    state: Mutex<State>,
    /// How many calls are remembered, to be read without the lock.
    remembered: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<Uuid, Watched, RandomState>,
    cancelled: CancelledCalls,
}

/// A call whose cancellation is waited for, in one or several places: by the executor, by the
/// method, or for the items that its caller sends.
#[derive(Debug, Default)]
struct Watched {
    token: CancellationToken,
    watches: usize,
}

impl Cancellations {
    /// Cancels these calls: tells their requests that run here, and remembers all calls, because a
    /// request may be delivered later, or again, or may begin to watch later.
    pub(crate) fn cancel(&self, calls: impl IntoIterator<Item = CancelledCall>, now: Instant) {
        let mut tokens = Vec::new();
        {
            let mut state = self.lock();
            for call in calls {
                tokens.extend(state.watched.get(&call.id).map(|running| running.token.clone()));
                state.cancelled.insert(call, now);
            }
            self.count_remembered(&state);
        }
        // Without the lock, because this wakes the methods.
        tokens.iter().for_each(CancellationToken::cancel);
    }

    /// Cancels the requests of these calls that run here. Does not remember the calls: a run of the
    /// method elsewhere, or a later one, may answer them.
    pub(crate) fn cancel_running(&self, ids: &[Uuid]) {
        let tokens: Vec<_> = {
            let state = self.lock();
            let running = ids.iter().filter_map(|id| state.watched.get(id));
            running.map(|call| call.token.clone()).collect()
        };
        // Without the lock, because this wakes the methods.
        tokens.iter().for_each(CancellationToken::cancel);
    }

    /// Whether the caller has cancelled the call with this correlation id. `id` is called only if
    /// any cancelled call is remembered, so that most requests need not parse theirs. Also forgets
    /// calls whose time is over.
    pub(crate) fn is_cancelled(&self, id: impl FnOnce() -> Option<Uuid>, now: Instant) -> bool {
        if self.remembered.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut state = self.lock();
        state.cancelled.forget_expired(now);
        self.count_remembered(&state);
        id().is_some_and(|id| state.cancelled.contains(id, now))
    }

    /// Updates `remembered`, under the lock.
    fn count_remembered(&self, state: &State) {
        self.remembered
            .store(state.cancelled.until.len(), Ordering::Relaxed);
    }

    /// Begins to watch for the cancellation of the call with this correlation id, until the watch
    /// is dropped.
    pub(crate) fn watch(self: &Arc<Self>, id: Uuid) -> CancellationWatch {
        let mut state = self.lock();
        let is_cancelled = state.cancelled.contains(id, Instant::now());
        let watched = state.watched.entry(id).or_default();
        watched.watches += 1;
        let token = watched.token.clone();
        drop(state);
        if is_cancelled {
            token.cancel();
        }
        CancellationWatch {
            cancellations: Arc::clone(self),
            id,
            token,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Learns of the cancellation of one call.
#[derive(Debug)]
pub(crate) struct CancellationWatch {
    cancellations: Arc<Cancellations>,
    id: Uuid,
    token: CancellationToken,
}

impl CancellationWatch {
    /// Completes once the call is cancelled.
    pub(crate) async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Returns a token that cancels the call for all its watches.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

impl Drop for CancellationWatch {
    fn drop(&mut self) {
        let mut state = self.cancellations.lock();
        if let Some(watched) = state.watched.get_mut(&self.id) {
            watched.watches -= 1;
            if watched.watches == 0 {
                state.watched.remove(&self.id);
            }
        }
    }
}

/// Cancelled calls whose requests may still be delivered.
#[derive(Debug, Default)]
struct CancelledCalls {
    /// Until when each is remembered.
    until: HashMap<Uuid, Instant, RandomState>,
    /// The keys of `until`, in the order of insertion.
    order: VecDeque<Uuid>,
}

impl CancelledCalls {
    /// Remembers a call. If it is known already, only sets its time. Otherwise forgets calls whose
    /// time is over, and the oldest one if there are still too many.
    fn insert(&mut self, call: CancelledCall, now: Instant) {
        let until = now + call.time_left.min(MAX_TIME_TO_LIVE) + GRACE_PERIOD;
        if let Some(known) = self.until.get_mut(&call.id) {
            *known = until;
            return;
        }
        self.forget_expired(now);
        if self.order.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.until.remove(&oldest);
        }
        self.until.insert(call.id, until);
        self.order.push_back(call.id);
    }

    /// Forgets the oldest calls, up to the first whose time is not over.
    fn forget_expired(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front()
            && !self.contains(*oldest, now)
        {
            self.until.remove(oldest);
            self.order.pop_front();
        }
    }

    fn contains(&self, id: Uuid, now: Instant) -> bool {
        self.until.get(&id).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn call(id: u128, time_left: Duration) -> CancelledCall {
        CancelledCall {
            id: Uuid::from_u128(id),
            time_left,
        }
    }

    fn is_cancelled(cancellations: &Cancellations, id: u128, now: Instant) -> bool {
        cancellations.is_cancelled(|| Some(Uuid::from_u128(id)), now)
    }

    #[tokio::test]
    async fn a_request_that_runs_learns_of_its_cancellation() {
        let cancellations = Arc::<Cancellations>::default();
        let [first, second, other] = [1, 1, 2].map(|id| cancellations.watch(Uuid::from_u128(id)));
        let now = Instant::now();
        cancellations.cancel([call(1, SECOND)], now);
        assert!(first.cancelled().now_or_never().is_some());
        assert!(second.cancelled().now_or_never().is_some());
        assert!(other.cancelled().now_or_never().is_none());
        let ids = [2, 3].map(Uuid::from_u128);
        cancellations.cancel_running(&ids);
        assert!(other.cancelled().now_or_never().is_some());
        assert!(!is_cancelled(&cancellations, 2, now));
        drop((first, second, other));
        assert!(cancellations.lock().watched.is_empty());
        // It may be delivered again, or look again whether its caller has left.
        assert!(is_cancelled(&cancellations, 1, now));
        let again = cancellations.watch(Uuid::from_u128(1));
        assert!(again.cancelled().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_cancelled_call_is_remembered_until_its_request_can_no_longer_arrive() {
        let cancellations = Arc::<Cancellations>::default();
        let now = Instant::now();
        assert!(!is_cancelled(&cancellations, 1, now));
        cancellations.cancel([call(1, SECOND)], now);
        assert!(is_cancelled(&cancellations, 1, now));
        assert!(!is_cancelled(&cancellations, 2, now));
        let watch = cancellations.watch(Uuid::from_u128(1));
        assert!(watch.cancelled().now_or_never().is_some());
        let last = now + SECOND + GRACE_PERIOD;
        assert!(is_cancelled(&cancellations, 1, last - SECOND / 1000));
        assert!(!is_cancelled(&cancellations, 1, last));
        // The next requests pay nothing for it.
        assert_eq!(cancellations.remembered.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_over_is_forgotten() {
        let mut cancelled = CancelledCalls::default();
        let now = Instant::now();
        for id in 0..MAX_REMEMBERED as u128 + 5 {
            cancelled.insert(call(id, Duration::MAX), now);
            cancelled.insert(call(id, Duration::MAX), now);
        }
        assert_eq!(
            (cancelled.until.len(), cancelled.order.len()),
            (MAX_REMEMBERED, MAX_REMEMBERED)
        );
        assert!(!cancelled.contains(Uuid::from_u128(4), now));
        assert!(cancelled.contains(Uuid::from_u128(5), now));
        let mut cancelled = CancelledCalls::default();
        for id in 0..100 {
            cancelled.insert(call(id, SECOND), now);
        }
        cancelled.insert(call(100, SECOND), now + 2 * SECOND + GRACE_PERIOD);
        assert_eq!((cancelled.until.len(), cancelled.order.len()), (1, 1));
    }
}
