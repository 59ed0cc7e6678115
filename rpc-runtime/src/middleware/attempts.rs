//! Whether a method may have run, of a call that layers may make several times or not at all.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Executed;

/// Counts the attempts of one call of which it is not known that the method did not run.
#[derive(Debug, Default)]
pub(super) struct Attempts(AtomicUsize);

impl Attempts {
    /// One begins. It counts until it is known to be of no effect, so also where it is dropped.
    pub(super) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One that began failed, and says whether the method ran.
    pub(super) fn ended(&self, executed: Executed) {
        if executed == Executed::No {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn executed(&self) -> Executed {
        match self.0.load(Ordering::Relaxed) {
            0 => Executed::No,
            _ => Executed::Maybe,
        }
    }
}
