//! When a call ends at the latest.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::CallError;
use crate::protocol::Executed;

/// When a call that begins now has to end.
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
