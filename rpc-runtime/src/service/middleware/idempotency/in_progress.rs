//! Lets deliveries of the same request run one after another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::protocol::RequestId;

/// The requests that one layer and its clones handle. Each has a lock, held by the delivery whose
/// turn it is.
#[derive(Debug, Default)]
pub(super) struct InProgress(Mutex<HashMap<RequestId, Arc<AsyncMutex<()>>>>);

/// The right to handle a request, or the wait for it.
#[derive(Debug)]
pub(super) struct Turn {
    in_progress: Arc<InProgress>,
    id: RequestId,
    /// The request's lock. `None` while the turn waits for it.
    guard: Option<OwnedMutexGuard<()>>,
}

impl InProgress {
    /// Waits until no other delivery of this request is in progress. Cancel safe.
    pub(super) async fn wait_turn(self: &Arc<Self>, id: RequestId) -> Turn {
        let request = Arc::clone(self.lock().entry(id).or_default());
        // Created before the wait: if the wait is cancelled, dropping the turn removes the entry.
        let mut turn = Turn {
            in_progress: Arc::clone(self),
            id,
            guard: None,
        };
        turn.guard = Some(request.lock_owned().await);
        turn
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Arc<AsyncMutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut requests = self.in_progress.lock();
        // The guard has a reference to the request's lock, which must not count below.
        self.guard = None;
        let is_last = |request: &Arc<_>| Arc::strong_count(request) == 1;
        if requests.get(&self.id).is_some_and(is_last) {
            requests.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn deliveries_of_one_request_take_turns() {
        let in_progress = Arc::new(InProgress::default());
        let (id, other) = (RequestId::random(), RequestId::random());
        let first = in_progress.wait_turn(id).await;
        let second_progress = Arc::clone(&in_progress);
        let mut second = Box::pin(async move { second_progress.wait_turn(id).await });
        assert!((&mut second).now_or_never().is_none());
        assert!(in_progress.wait_turn(other).now_or_never().is_some());
        drop(first);
        let second = second.now_or_never().expect("it is its turn");
        assert_eq!(in_progress.len(), 1);
        drop(second);
        assert_eq!(in_progress.len(), 0);
    }

    #[tokio::test]
    async fn a_wait_that_is_cancelled_leaves_nothing_behind() {
        let in_progress = Arc::new(InProgress::default());
        let id = RequestId::random();
        let first = in_progress.wait_turn(id).await;
        let mut second = Box::pin(in_progress.wait_turn(id));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        drop(second);
        assert_eq!(in_progress.len(), 0);
    }
}
