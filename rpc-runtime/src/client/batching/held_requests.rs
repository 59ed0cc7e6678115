//! Requests that wait until the batch size of their method is known.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::client::queued_request::QueuedRequest;

/// The requests that are held back, at most for [`MAX_HOLD`].
#[derive(Debug, Default)]
pub(super) struct HeldRequests {
    requests: Vec<QueuedRequest>,
    /// When they are released. `None` if none has been held back.
    until: Option<Instant>,
}

/// How long requests are held back if no reply comes: longer than a quick method takes, and short
/// compared to a slow one.
pub(super) const MAX_HOLD: Duration = Duration::from_millis(20);

impl HeldRequests {
    pub(super) fn add(&mut self, request: QueuedRequest, now: Instant) {
        self.until.get_or_insert(now + MAX_HOLD);
        self.requests.push(request);
    }

    /// Whether requests are held back, or would be if the next one were.
    pub(super) fn is_active(&self) -> bool {
        self.until.is_some()
    }

    /// Waits until the requests are to be released; forever if there are none.
    pub(super) async fn expired(&self) {
        match self.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Takes the requests because a batch size may have become known. Those that are added again
    /// are still released at the same time.
    pub(super) fn take(&mut self) -> Vec<QueuedRequest> {
        std::mem::take(&mut self.requests)
    }

    /// Takes the requests because their time is up.
    pub(super) fn release(&mut self) -> Vec<QueuedRequest> {
        self.until = None;
        self.take()
    }
}
