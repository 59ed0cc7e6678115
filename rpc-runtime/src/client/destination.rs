//! What a client calls: a queue, and what is known of those who serve it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::protocol::{PACKED_SUFFIX, ShortStr};

/// The queue that a client's calls go to.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) queue: ShortStr,
    /// Where several calls go in one message; nothing where each goes by itself.
    pub(super) packed_queue: Option<ShortStr>,
    /// How many calls of each method a worker said it wants in one message.
    wanted: Mutex<HashMap<&'static str, u16>>,
}

impl Destination {
    pub(super) fn new(queue: ShortStr, may_pack: bool) -> Self {
        // A name that is too long for another one behind it has none.
        let packed_queue = || ShortStr::new(format!("{queue}{PACKED_SUFFIX}")).ok();
        Self {
            packed_queue: may_pack.then(packed_queue).flatten(),
            queue,
            wanted: Mutex::default(),
        }
    }

    /// Whether several calls may leave in one message.
    pub(super) fn packs(&self) -> bool {
        self.packed_queue.is_some()
    }

    /// How many calls of a method go into one message: one, unless a worker said that it wants more.
    pub(super) fn wanted(&self, method: &'static str) -> u16 {
        match self.packed_queue {
            Some(_) => self.lock().get(method).copied().unwrap_or(1),
            None => 1,
        }
    }

    /// A worker said how many calls of a method it wants in one message; zero says nothing.
    pub(super) fn note_wanted(&self, method: &'static str, calls: u16) {
        if self.packed_queue.is_some() && calls > 0 {
            self.lock().insert(method, calls);
        }
    }

    /// Whoever said so may be gone: calls of the method go one by one, until a worker says so again.
    pub(super) fn forget_wanted(&self, method: &'static str) {
        self.lock().remove(method);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, u16>> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
