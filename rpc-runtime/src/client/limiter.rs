//! How many calls of a client may be in flight.

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::error::CallError;

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
    limit: usize,
    when_full: WhenFull,
}

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
    ///
    /// # Errors
    ///
    /// Where there is none by then.
    pub(super) fn enter_by(
        &self,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<SemaphorePermit<'_>, CallError>> {
        Box::pin(async move {
            let full = CallError::TooManyCalls { limit: self.limit };
            match self.when_full {
                WhenFull::Wait => match timeout_at(deadline, self.places.acquire()).await {
                    Ok(Ok(place)) => Ok(place),
                    _ => Err(full),
                },
                WhenFull::Fail => Err(full),
            }
        })
    }
}
