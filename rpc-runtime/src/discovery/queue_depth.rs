//! The depth of a queue.

use crate::transport::Depth;

/// How many messages and consumers a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueDepth {
    /// The messages that are ready. Messages that a consumer has not acknowledged yet do not count.
    pub messages: u32,
    /// The consumers.
    pub consumers: u32,
}

impl From<Depth> for QueueDepth {
    fn from(depth: Depth) -> Self {
        Self {
            messages: depth.messages,
            consumers: depth.consumers,
        }
    }
}
