//! Where the answers to a broadcast go, and whether the broker confirmed its request.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::protocol::ShortStr;

/// Where the answers to a broadcast go, and whether the broker confirmed its request.
#[derive(Debug)]
pub(crate) struct GatherTarget {
    pub(crate) reply_to: ShortStr,
    /// The same for all attempts that layers make, so that no worker counts twice.
    pub(crate) correlation_id: ShortStr,
    /// Whether an attempt that workers may have got has no positive confirm.
    is_unconfirmed: AtomicBool,
}

impl GatherTarget {
    pub(super) fn new(reply_to: ShortStr, correlation_id: ShortStr) -> Self {
        Self {
            reply_to,
            correlation_id,
            is_unconfirmed: AtomicBool::new(false),
        }
    }

    /// Records that the broker did not confirm a request that was sent. Some workers may have it.
    pub(crate) fn mark_unconfirmed(&self) {
        self.is_unconfirmed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_confirmed(&self) -> bool {
        !self.is_unconfirmed.load(Ordering::Relaxed)
    }
}
