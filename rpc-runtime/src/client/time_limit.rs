//! The time limit of a call.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::CallError;
use crate::protocol::Executed;

/// A call's time limit, and the deadline that follows from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimit {
    pub(crate) limit: Duration,
    pub(crate) deadline: Instant,
}

impl TimeLimit {
    pub(crate) fn is_over(&self) -> bool {
        self.deadline <= Instant::now()
    }

    pub(crate) fn timed_out(&self, executed: Executed) -> CallError {
        CallError::TimedOut {
            limit: self.limit,
            executed,
            source: None,
        }
    }
}
