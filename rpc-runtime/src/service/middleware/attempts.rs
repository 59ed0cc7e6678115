//! Whether a method may have run, for a call that layers may make several times or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::protocol::Executed;

/// Counts the attempts of one call that may have run the method.
#[derive(Debug, Default)]
pub(crate) struct Attempts(AtomicUsize);

impl Attempts {
    /// Adds an attempt. It counts at once, because it may begin at any time.
    pub(crate) fn add(self: &Arc<Self>) -> Attempt {
        self.0.fetch_add(1, Ordering::Relaxed);
        Attempt {
            attempts: Arc::clone(self),
            counts_when_dropped: false,
        }
    }

    /// Returns whether the method may have run. Never `Yes`: an attempt may not have reached it.
    pub(crate) fn executed(&self) -> Executed {
        match self.0.load(Ordering::Relaxed) {
            0 => Executed::No,
            _ => Executed::Maybe,
        }
    }
}

/// One attempt. It no longer counts if it is dropped before it begins, or if it fails with an error
/// that says that the method did not run.
#[derive(Debug)]
pub(crate) struct Attempt {
    attempts: Arc<Attempts>,
    /// Whether it still counts once it is dropped.
    counts_when_dropped: bool,
}

impl Attempt {
    /// Marks the attempt as begun: the method may run, so the attempt counts even if it is dropped.
    pub(crate) fn begin(&mut self) {
        self.counts_when_dropped = true;
    }

    /// Ends an attempt that failed. `executed` says whether the method ran.
    pub(crate) fn failed(mut self, executed: Executed) {
        self.counts_when_dropped = executed != Executed::No;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.counts_when_dropped {
            self.attempts.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
