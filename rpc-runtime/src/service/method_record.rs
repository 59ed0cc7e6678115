//! What a worker records about each method that it serves.

use super::recent_duration::RecentDuration;
use super::stats::MethodCounters;
use crate::telemetry::{Method, Name};

/// The names, the recent duration and the counts of one method.
#[derive(Debug)]
pub(crate) struct MethodRecord {
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    /// The method in spans and metrics.
    pub(crate) label: Method,
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
            label: Method::new(Name::Static(service), Name::Static(method)),
            has_stream: false,
            recent_duration: RecentDuration::default(),
            stats: MethodCounters::default(),
        }
    }
}
