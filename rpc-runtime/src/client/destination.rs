//! What a client calls: a queue, and what is known of those who serve it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::limiter::Limiter;
use super::presence::Presence;
use crate::describe::ServiceDescriptor;
use crate::protocol::{BATCH_SUFFIX, ShortStr};

/// The queue that a client's calls go to.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) service: &'static ServiceDescriptor,
    pub(crate) queue: ShortStr,
    /// Where several calls go in one message; nothing where each goes by itself.
    pub(super) batch_queue: Option<ShortStr>,
    /// How many calls to it are in flight at once.
    pub(super) limiter: Arc<Limiter>,
    /// Whether the queue is there, as was last looked.
    pub(super) presence: Presence,
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
/// calls were sent by themselves since then, or since the first.
#[derive(Debug, Default)]
struct Said(AtomicU32);

/// One call more that was sent by itself.
const ONE_CALL: u32 = 1 << 16;

/// Nobody says anything.
const SILENCE: u32 = u32::MAX << 16;

/// How many calls of a method are sent by themselves before any worker has said anything. With more at once, the others wait for a word,
/// a little: they would otherwise be as many messages, which a word makes into few.
const FIRST_CALLS: u32 = 64;

/// How many calls are sent by themselves before a worker is asked again how many it wants: the question and its answer cost
/// the broker some of what a message costs.
const ASK_EVERY: u32 = 32;

impl Destination {
    pub(super) fn new(
        queue: ShortStr,
        service: &'static ServiceDescriptor,
        may_batch: bool,
        limiter: Arc<Limiter>,
    ) -> Self {
        // A name that is too long for another one behind it has none.
        let batch_queue = || ShortStr::new(format!("{queue}{BATCH_SUFFIX}")).ok();
        let batch_queue = may_batch.then(batch_queue).flatten();
        let methods = match batch_queue {
            Some(_) => service
                .methods
                .iter()
                .map(|method| (method.name, Said::default()))
                .collect(),
            None => Box::default(),
        };
        Self {
            service,
            queue,
            batch_queue,
            limiter,
            presence: Presence::default(),
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
        let known = said.load(Ordering::Relaxed);
        if wanted_of(known) == 0 {
            return true;
        }
        (count_one(said, known) / ONE_CALL).is_multiple_of(ASK_EVERY)
    }

    /// Whether a call of a method is to wait until a worker says something of it. One that is not, leaves.
    pub(super) fn waits_for_word(&self, method: MethodIndex) -> bool {
        let Some(said) = self.said(method) else {
            return false;
        };
        let known = said.load(Ordering::Relaxed);
        if wanted_of(known) > 0 || known == SILENCE {
            return false;
        }
        let waits = known / ONE_CALL >= FIRST_CALLS;
        if !waits {
            count_one(said, known);
        }
        waits
    }

    /// A worker answered and said nothing, or nobody answers for now: calls of the method need not wait for a word. Answers whether
    /// they did.
    pub(super) fn wait_no_more(&self, method: MethodIndex) -> bool {
        let goes_silent = |known| (wanted_of(known) == 0 && known != SILENCE).then_some(SILENCE);
        self.said(method).is_some_and(|said| {
            said.fetch_update(Ordering::Relaxed, Ordering::Relaxed, goes_silent)
                .is_ok()
        })
    }

    /// How many calls of a method go into one message: one, unless a worker said that it wants more.
    pub(super) fn wanted(&self, method: MethodIndex) -> u16 {
        let said = self.said(method);
        said.map_or(1, |said| wanted_of(said.load(Ordering::Relaxed)).max(1))
    }

    /// A worker said how many calls of a method it wants in one message; zero says nothing. Answers whether it is the first word.
    pub(super) fn note_wanted(&self, method: MethodIndex, calls: u16) -> bool {
        let Some(said) = self.said(method).filter(|_| calls > 0) else {
            return false;
        };
        let known = wanted_of(said.load(Ordering::Relaxed));
        // It comes with each answer, and the same again is no news to any other thread.
        if known != calls {
            said.store(calls.into(), Ordering::Relaxed);
        }
        known == 0
    }

    /// Whoever said so may be gone: calls of the method go one by one, until a worker says so again.
    pub(super) fn forget_wanted(&self, method: MethodIndex) {
        if let Some(said) = self.said(method) {
            said.store(SILENCE, Ordering::Relaxed);
        }
    }
}

/// Counts a call that leaves by itself, unless something was said meanwhile, which must not be lost. Answers with the new count.
fn count_one(said: &AtomicU32, known: u32) -> u32 {
    let counted = known.wrapping_add(ONE_CALL);
    let _ = said.compare_exchange(known, counted, Ordering::Relaxed, Ordering::Relaxed);
    counted
}

fn wanted_of(said: u32) -> u16 {
    u16::try_from(said & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::limiter::WhenFull;
    use super::*;
    use crate::describe::MethodDescriptor;

    static SERVICE: ServiceDescriptor = ServiceDescriptor::new(
        "Store",
        "q",
        &[
            MethodDescriptor::new("read", &[]),
            MethodDescriptor::new("write", &[]),
        ],
    );

    fn destination(may_batch: bool) -> Destination {
        let limiter = Limiter::new("q", 1, WhenFull::Wait, true);
        Destination::new(ShortStr::from_static("q"), &SERVICE, may_batch, limiter)
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
    fn of_the_first_calls_only_some_leave_before_a_word_or_for_a_while() {
        for is_told in [true, false] {
            let destination = destination(true);
            let read = destination.method("read");
            let leave = |calls| (0..calls).filter(|_| !destination.waits_for_word(read)).count();
            assert_eq!(leave(2 * FIRST_CALLS), FIRST_CALLS as usize);
            match is_told {
                true => assert!(destination.note_wanted(read, 1)),
                false => assert!(destination.wait_no_more(read)),
            }
            assert_eq!(leave(100_000), 100_000);
            assert_eq!(destination.asks(read), !is_told);
            // Nor do they wait again where the word is no longer good.
            destination.forget_wanted(read);
            assert_eq!(leave(100_000), 100_000);
            assert!(destination.note_wanted(read, 7));
            assert!(!destination.note_wanted(read, 8));
            assert!(!destination.wait_no_more(read));
            assert_eq!(destination.wanted(read), 8);
        }
    }

    #[test]
    fn nobody_is_asked_where_nothing_is_batched_or_known() {
        let unbatched = super::tests::destination(false);
        assert!(!unbatched.asks(unbatched.method("read")));
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
