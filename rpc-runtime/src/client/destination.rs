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
    /// What workers said of each method.
    said: Mutex<HashMap<&'static str, Said>>,
}

#[derive(Debug, Clone, Copy)]
struct Said {
    /// How many of its calls are wanted in one message.
    wanted: u16,
    /// How many calls were sent by themselves since a worker was asked.
    unasked: u8,
}

/// How many calls are sent by themselves before a worker is asked again how many it wants: the question and its answer cost
/// the broker some of what a message costs.
const ASK_EVERY: u8 = 32;

impl Destination {
    pub(super) fn new(queue: ShortStr, may_pack: bool) -> Self {
        // A name that is too long for another one behind it has none.
        let packed_queue = || ShortStr::new(format!("{queue}{PACKED_SUFFIX}")).ok();
        Self {
            packed_queue: may_pack.then(packed_queue).flatten(),
            queue,
            said: Mutex::default(),
        }
    }

    /// Whether a call of a method that leaves by itself is to ask how many the worker wants in one message.
    pub(super) fn asks(&self, method: &'static str) -> bool {
        if self.packed_queue.is_none() {
            return false;
        }
        match self.lock().get_mut(method) {
            None => true,
            Some(said) => {
                said.unasked = (said.unasked + 1) % ASK_EVERY;
                said.unasked == 0
            }
        }
    }

    /// How many calls of a method go into one message: one, unless a worker said that it wants more.
    pub(super) fn wanted(&self, method: &'static str) -> u16 {
        match self.packed_queue {
            Some(_) => self.lock().get(method).map_or(1, |said| said.wanted),
            None => 1,
        }
    }

    /// A worker said how many calls of a method it wants in one message; zero says nothing.
    pub(super) fn note_wanted(&self, method: &'static str, calls: u16) {
        if self.packed_queue.is_some() && calls > 0 {
            let said = Said {
                wanted: calls,
                unasked: 0,
            };
            self.lock().insert(method, said);
        }
    }

    /// Whoever said so may be gone: calls of the method go one by one, until a worker says so again.
    pub(super) fn forget_wanted(&self, method: &'static str) {
        self.lock().remove(method);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Said>> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_asked_until_it_answers_and_now_and_then_afterwards() {
        let destination = Destination::new(ShortStr::from_static("q"), true);
        let asked = |calls| (0..calls).filter(|_| destination.asks("read")).count();
        assert_eq!(asked(5), 5);
        destination.note_wanted("read", 1);
        assert_eq!(asked(10 * u32::from(ASK_EVERY)), 10);
        destination.forget_wanted("read");
        assert_eq!(asked(5), 5);
        assert!(!Destination::new(ShortStr::from_static("q"), false).asks("read"));
    }

    #[test]
    fn who_says_nothing_changes_nothing() {
        let destination = Destination::new(ShortStr::from_static("q"), true);
        destination.note_wanted("read", 7);
        destination.note_wanted("read", 0);
        assert_eq!((destination.wanted("read"), destination.wanted("write")), (7, 1));
    }
}
