//! A store within the process.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::store::IdempotencyStore;
use super::stored_outcome::StoredOutcome;
use crate::protocol::RequestId;
use crate::service::middleware::BoxError;

/// Keeps outcomes in memory, for tests and for a service with one worker: it forgets them when its
/// process ends, and other workers do not see them.
pub struct InMemoryStore {
    time_to_live: Duration,
    outcomes: Mutex<Outcomes>,
}

impl InMemoryStore {
    /// Creates a store that keeps at most this many outcomes, each for this long. The oldest ones
    /// make room for new ones.
    #[must_use]
    pub fn new(capacity: usize, time_to_live: Duration) -> Self {
        Self {
            time_to_live,
            outcomes: Mutex::new(Outcomes {
                capacity,
                ..Outcomes::default()
            }),
        }
    }

    /// Removes the outcomes that have expired. Then passes the others and the current time to
    /// `access`.
    fn with<T>(&self, access: impl FnOnce(&mut Outcomes, Instant) -> T) -> T {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        outcomes.remove_expired(now, self.time_to_live);
        access(&mut outcomes, now)
    }
}

impl IdempotencyStore for InMemoryStore {
    async fn load(&self, id: RequestId) -> Result<Option<StoredOutcome>, BoxError> {
        Ok(self.with(|outcomes, _| outcomes.by_id.get(&id).cloned()))
    }

    async fn save(&self, id: RequestId, outcome: StoredOutcome) -> Result<(), BoxError> {
        self.with(|outcomes, now| outcomes.add(id, outcome, now));
        Ok(())
    }
}

impl fmt::Debug for InMemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemoryStore")
            .field("time_to_live", &self.time_to_live)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Outcomes {
    capacity: usize,
    by_id: HashMap<RequestId, StoredOutcome>,
    /// When each outcome was stored; the oldest comes first.
    stored: VecDeque<(Instant, RequestId)>,
}

impl Outcomes {
    /// Adds the outcome of a request, unless there is one: the first one stays. Removes the oldest
    /// outcome if there is no room.
    fn add(&mut self, id: RequestId, outcome: StoredOutcome, now: Instant) {
        if self.capacity == 0 || self.by_id.contains_key(&id) {
            return;
        }
        if self.stored.len() == self.capacity {
            self.remove_oldest();
        }
        self.by_id.insert(id, outcome);
        self.stored.push_back((now, id));
    }

    fn remove_expired(&mut self, now: Instant, time_to_live: Duration) {
        while let Some((stored, _)) = self.stored.front()
            && now.duration_since(*stored) >= time_to_live
        {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some((_, id)) = self.stored.pop_front() {
            self.by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stored_outcome::tests::outcome;
    use super::*;

    async fn keeps(store: &InMemoryStore, id: RequestId) -> bool {
        store.load(id).await.unwrap().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_outcome_is_kept() {
        let (store, id) = (InMemoryStore::new(2, Duration::from_secs(1)), RequestId::random());
        assert!(!keeps(&store, id).await);
        store.save(id, outcome("1")).await.unwrap();
        store.save(id, outcome("2")).await.unwrap();
        assert_eq!(store.load(id).await.unwrap(), Some(outcome("1")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_outcome_makes_room() {
        let store = InMemoryStore::new(2, Duration::from_secs(1));
        let ids = [(); 3].map(|()| RequestId::random());
        for id in ids {
            store.save(id, outcome("1")).await.unwrap();
        }
        assert!(!keeps(&store, ids[0]).await);
        assert!(keeps(&store, ids[1]).await && keeps(&store, ids[2]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outcome_is_forgotten_after_its_time_to_live() {
        let (store, id) = (InMemoryStore::new(2, Duration::from_secs(9)), RequestId::random());
        store.save(id, outcome("1")).await.unwrap();
        tokio::time::advance(Duration::from_secs(8)).await;
        assert!(keeps(&store, id).await);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!keeps(&store, id).await);
    }
}
