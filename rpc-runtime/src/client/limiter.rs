//! How many calls of a client may be in flight.

use tokio::sync::{Semaphore, SemaphorePermit};

/// What a call does that would be one too many; see
/// [`ClientBuilder::max_in_flight`](crate::ClientBuilder::max_in_flight).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for its turn, within its time.
    #[default]
    Wait,
    /// It fails at once, with [`CallError::TooManyCalls`](crate::CallError::TooManyCalls).
    Fail,
}

/// The places for calls in flight of one client.
#[derive(Debug)]
pub(crate) struct Limiter {
    places: Semaphore,
    pub(super) limit: usize,
    when_full: WhenFull,
}

/// All places are taken.
pub(super) struct Full;

impl Limiter {
    pub(super) fn new(limit: usize, when_full: WhenFull) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Semaphore::new(limit),
            limit,
            when_full,
        }
    }

    /// Takes a place, if there is one.
    pub(super) fn try_enter(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// Takes a place when there is one, if a call waits for that. Cancel safe.
    pub(super) async fn enter(&self) -> Result<SemaphorePermit<'_>, Full> {
        match self.when_full {
            WhenFull::Wait => self.places.acquire().await.map_err(|_| Full),
            WhenFull::Fail => Err(Full),
        }
    }
}
