//! Requests that are held back until the batch size of their method is known.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::client::queued_request::QueuedRequest;

/// The requests that are held back, for at most [`MAX_HOLD`].
#[derive(Debug, Default)]
pub(super) struct HeldRequests {
    requests: Vec<QueuedRequest>,
    /// When all requests are released. `None` if none was held back since the last release.
    release_at: Option<Instant>,
}

/// How long requests are held back, at most, if no reply comes: longer than a quick method takes,
/// and short compared to a slow one.
pub(super) const MAX_HOLD: Duration = Duration::from_millis(20);

impl HeldRequests {
    pub(super) fn add(&mut self, request: QueuedRequest, now: Instant) {
        self.release_at.get_or_insert(now + MAX_HOLD);
        self.requests.push(request);
    }

    /// Returns whether a time to release requests is set. [`take`](Self::take) does not clear it.
    pub(super) fn has_release_time(&self) -> bool {
        self.release_at.is_some()
    }

    /// Waits until it is time to release the requests; forever if no time is set.
    pub(super) async fn wait_release_time(&self) {
        match self.release_at {
            Some(release_at) => sleep_until(release_at).await,
            None => std::future::pending().await,
        }
    }

    /// Takes the requests because a batch size may be known now. Those that are added again keep
    /// their time of release.
    pub(super) fn take(&mut self) -> Vec<QueuedRequest> {
        std::mem::take(&mut self.requests)
    }

    /// Takes the requests because the time to release them has come.
    pub(super) fn release(&mut self) -> Vec<QueuedRequest> {
        self.release_at = None;
        self.take()
    }
}
