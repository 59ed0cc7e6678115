//! What a worker knows about a method from the requests that it has run.

use super::pace::Pace;
use super::stats::MethodStats;

/// The pace and the counts of one method.
#[derive(Debug)]
pub(crate) struct MethodRecord {
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    pub(crate) pace: Pace,
    pub(crate) stats: MethodStats,
}

impl MethodRecord {
    pub(crate) fn new(service: &'static str, method: &'static str) -> Self {
        Self {
            service,
            method,
            pace: Pace::default(),
            stats: MethodStats::default(),
        }
    }
}
