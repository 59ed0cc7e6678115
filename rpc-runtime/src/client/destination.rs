//! What a client calls: a queue, and what is known of those who serve it.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::describe::MethodDescriptor;
use crate::protocol::{PACKED_SUFFIX, ShortStr};

/// The queue that a client's calls go to.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) queue: ShortStr,
    /// Where several calls go in one message; nothing where each goes by itself.
    pub(super) packed_queue: Option<ShortStr>,
    /// What workers said of each method that they may be asked about.
    methods: Box<[(&'static str, Said)]>,
}

/// Names a method of a [`Destination`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MethodIndex(u16);

impl MethodIndex {
    /// Of a method that nobody is asked about: its calls go one by one.
    pub(super) const NONE: Self = Self(u16::MAX);
}

/// In the lower half, how many calls of a method are wanted in one message: zero where nobody said so. In the upper half, how many
/// calls were sent by themselves since.
#[derive(Debug, Default)]
struct Said(AtomicU32);

/// How many calls are sent by themselves before a worker is asked again how many it wants: the question and its answer cost
/// the broker some of what a message costs.
const ASK_EVERY: u32 = 32;

impl Destination {
    pub(super) fn new(queue: ShortStr, methods: &'static [MethodDescriptor], may_pack: bool) -> Self {
        // A name that is too long for another one behind it has none.
        let packed_queue = || ShortStr::new(format!("{queue}{PACKED_SUFFIX}")).ok();
        let packed_queue = may_pack.then(packed_queue).flatten();
        let methods = match packed_queue {
            Some(_) => methods
                .iter()
                .map(|method| (method.name, Said::default()))
                .collect(),
            None => Box::default(),
        };
        Self {
            queue,
            packed_queue,
            methods,
        }
    }

    pub(super) fn method(&self, name: &'static str) -> MethodIndex {
        let known = self.methods.iter().position(|(known, _)| *known == name);
        known
            .and_then(|index| u16::try_from(index).ok())
            .map_or(MethodIndex::NONE, MethodIndex)
    }

    fn said(&self, MethodIndex(index): MethodIndex) -> Option<&AtomicU32> {
        self.methods.get(usize::from(index)).map(|(_, Said(said))| said)
    }

    /// Whether a call of a method that leaves by itself is to ask how many the worker wants in one message.
    pub(super) fn asks(&self, method: MethodIndex) -> bool {
        let Some(said) = self.said(method) else {
            return false;
        };
        if wanted_of(said.load(Ordering::Relaxed)) == 0 {
            return true;
        }
        let unasked = said.fetch_add(1 << 16, Ordering::Relaxed) >> 16;
        (unasked + 1) % ASK_EVERY == 0
    }

    /// How many calls of a method go into one message: one, unless a worker said that it wants more.
    pub(super) fn wanted(&self, method: MethodIndex) -> u16 {
        let said = self.said(method);
        said.map_or(1, |said| wanted_of(said.load(Ordering::Relaxed)).max(1))
    }

    /// A worker said how many calls of a method it wants in one message; zero says nothing.
    pub(super) fn note_wanted(&self, method: MethodIndex, calls: u16) {
        if calls > 0
            && let Some(said) = self.said(method)
            // It comes with each answer, and the same again is no news to any other thread.
            && wanted_of(said.load(Ordering::Relaxed)) != calls
        {
            said.store(calls.into(), Ordering::Relaxed);
        }
    }

    /// Whoever said so may be gone: calls of the method go one by one, until a worker says so again.
    pub(super) fn forget_wanted(&self, method: MethodIndex) {
        if let Some(said) = self.said(method) {
            said.store(0, Ordering::Relaxed);
        }
    }
}

fn wanted_of(said: u32) -> u16 {
    u16::try_from(said & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    static METHODS: [MethodDescriptor; 2] = [
        MethodDescriptor::new("read", &[]),
        MethodDescriptor::new("write", &[]),
    ];

    fn destination(may_pack: bool) -> Destination {
        Destination::new(ShortStr::from_static("q"), &METHODS, may_pack)
    }

    #[test]
    fn a_worker_is_asked_until_it_answers_and_now_and_then_afterwards() {
        let destination = destination(true);
        let read = destination.method("read");
        let asked = |calls| (0..calls).filter(|_| destination.asks(read)).count();
        assert_eq!(asked(5), 5);
        destination.note_wanted(read, 1);
        assert_eq!(asked(10 * ASK_EVERY), 10);
        destination.forget_wanted(read);
        assert_eq!(asked(5), 5);
    }

    #[test]
    fn nobody_is_asked_where_nothing_is_packed_or_known() {
        let unpacked = super::tests::destination(false);
        assert!(!unpacked.asks(unpacked.method("read")));
        let destination = destination(true);
        let unknown = destination.method("erase");
        destination.note_wanted(unknown, 7);
        assert_eq!(
            (destination.asks(unknown), destination.wanted(unknown)),
            (false, 1)
        );
    }

    #[test]
    fn who_says_nothing_changes_nothing() {
        let destination = destination(true);
        let [read, write] = ["read", "write"].map(|name| destination.method(name));
        destination.note_wanted(read, 7);
        destination.note_wanted(read, 0);
        assert_eq!((destination.wanted(read), destination.wanted(write)), (7, 1));
    }

    #[test]
    fn however_often_nobody_is_asked_what_was_said_stays() {
        let destination = destination(true);
        let read = destination.method("read");
        destination.note_wanted(read, u16::MAX);
        for _ in 0..70_000 {
            destination.asks(read);
        }
        assert_eq!(destination.wanted(read), u16::MAX);
    }
}
