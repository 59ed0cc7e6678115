//! What a worker knows about a method from the requests that it has run.

use super::recent_duration::RecentDuration;
use super::stats::MethodCounters;

/// The recent duration and the counts of one method.
#[derive(Debug)]
pub(crate) struct MethodRecord {
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    /// Whether the method replies with a stream, or receives one.
    pub(crate) has_stream: bool,
    pub(crate) recent_duration: RecentDuration,
    pub(crate) stats: MethodCounters,
}

impl MethodRecord {
    pub(crate) fn new(service: &'static str, method: &'static str) -> Self {
        Self {
            service,
            method,
            has_stream: false,
            recent_duration: RecentDuration::default(),
            stats: MethodCounters::default(),
        }
    }
}
