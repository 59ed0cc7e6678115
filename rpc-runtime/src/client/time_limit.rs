//! The time limit of a call.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::CallError;
use crate::protocol::Executed;

/// A call's time limit, and the deadline that follows from it. Once a stream has begun, the
/// deadline no longer ends the call, and the limit holds for each wait of its reader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimit {
    pub(crate) limit: Duration,
    pub(crate) deadline: Instant,
}

impl TimeLimit {
    /// Returns whether the deadline has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline <= Instant::now()
    }

    /// Builds the error of a call whose time limit is over. Its `source` is `None`: no problem with
    /// the broker is known.
    pub(crate) fn timeout_error(&self, executed: Executed) -> CallError {
        CallError::TimedOut {
            limit: self.limit,
            executed,
            source: None,
        }
    }
}
