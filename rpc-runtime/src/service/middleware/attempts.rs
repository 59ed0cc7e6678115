//! Whether a method may have run, of a call that layers may make several times or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::protocol::Executed;

/// Counts the attempts of one call of which it is not known that the method did not run.
#[derive(Debug, Default)]
pub(crate) struct Attempts(AtomicUsize);

impl Attempts {
    /// One is made. It counts from now on, as whoever made it may have it begin whenever they want.
    pub(crate) fn make(self: &Arc<Self>) -> Attempt {
        self.0.fetch_add(1, Ordering::Relaxed);
        Attempt {
            attempts: Arc::clone(self),
            has_begun: false,
        }
    }

    pub(crate) fn executed(&self) -> Executed {
        match self.0.load(Ordering::Relaxed) {
            0 => Executed::No,
            _ => Executed::Maybe,
        }
    }
}

/// One attempt. It counts no more where it is known to be of no effect: it was dropped before it began, or says so itself.
#[derive(Debug)]
pub(crate) struct Attempt {
    attempts: Arc<Attempts>,
    has_begun: bool,
}

impl Attempt {
    pub(crate) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// It failed, and says whether the method ran.
    pub(crate) fn failed(mut self, executed: Executed) {
        self.has_begun = executed != Executed::No;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.has_begun {
            self.attempts.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
