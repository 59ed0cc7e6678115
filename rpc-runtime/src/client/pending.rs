//! The calls in flight: which news belongs to which call.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::Level;
use uuid::Uuid;

use super::plan::CallPlan;
use super::slot::Slot;
use crate::codec::Codec;
use crate::protocol::{BadReply, BatchedAnswer, Malformed, Message, Reply};
use crate::telemetry::{Event, LogLimit, Suppressed, count};

/// The calls of one handle that wait for a reply.
///
/// Each has a random correlation id of its own, so a reply reaches its own call or none: late and foreign replies find
/// nobody and are discarded. A call keeps its id and its place however often the link is lost.
#[derive(Debug, Default)]
pub(super) struct Pending {
    calls: Mutex<Calls>,
    /// How many calls were entered so far.
    entered: AtomicU64,
    /// How many were the only one in flight when they were, since one was not.
    one_by_one: AtomicU32,
    /// A worker answered a method's call for the first time.
    pub(super) first_answer: Notify,
    log: ReplyLog,
}

/// What is logged of replies. Whoever knows the address of one can send others there.
#[derive(Debug)]
struct ReplyLog(LogLimit);

impl Default for ReplyLog {
    fn default() -> Self {
        Self(LogLimit::new("replies"))
    }
}

type Calls = HashMap<u128, Arc<Slot>, BuildHasherDefault<RandomAlready>>;

/// After so many calls that were made one by one, the next is taken for another of the kind, and not for the first of several that
/// are made at once.
const HABIT: u32 = 8;

/// How many answers that came together are looked up at once: those who make calls wait for it.
const AT_ONCE: usize = 32;

/// Takes a key for its own hash: a random UUID, which nobody but this process chooses.
#[derive(Debug, Default)]
struct RandomAlready(u64);

impl Hasher for RandomAlready {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers of 128 bits");
    }

    fn write_u128(&mut self, id: u128) {
        // The halves: some bits of each are fixed, not the same ones.
        #[allow(clippy::cast_possible_truncation)]
        let (low, high) = (id as u64, (id >> 64) as u64);
        self.0 = low ^ high;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Pending {
    /// Notes a malformed reply.
    pub(super) fn malformed(&self, malformed: Malformed) {
        if let Some(Suppressed(suppressed)) = self.log.0.admit(Level::DEBUG, "malformed") {
            tracing::debug!(reason = %malformed, suppressed, "a reply is malformed");
        }
    }

    /// Notes replies that no call waits for.
    pub(super) fn discarded(&self, replies: usize) {
        count(Event::RepliesDiscarded(replies));
        if let Some(Suppressed(suppressed)) = self.log.0.admit(Level::DEBUG, "discarded") {
            tracing::debug!(
                suppressed,
                "discarded a reply that no call waits for: it is late, or not ours"
            );
        }
    }

    /// Enters a call.
    pub(super) fn enter<'a>(&'a self, slot: &'a Arc<Slot>) -> Ticket<'a> {
        slot.set_number(self.entered.fetch_add(1, Ordering::Relaxed));
        let in_flight = {
            let mut calls = self.lock();
            calls.insert(slot.id().as_u128(), Arc::clone(slot));
            calls.len()
        };
        let is_by_itself = match in_flight {
            1 => self.one_by_one.fetch_add(1, Ordering::Relaxed) >= HABIT,
            _ => {
                // No news, where many are in flight.
                if self.one_by_one.load(Ordering::Relaxed) > 0 {
                    self.one_by_one.store(0, Ordering::Relaxed);
                }
                false
            }
        };
        Ticket {
            slot,
            is_by_itself,
            is_answered: false,
            pending: self,
        }
    }

    /// Hands a reply to its call, with how many calls of the method its worker wants in one message, if it said so. `false`
    /// where nobody waits for it: it is late, or not for this process.
    pub(super) fn complete(&self, id: Uuid, reply: Message, wanted: Option<u16>) -> bool {
        let Some(slot) = self.lock().remove(&id.as_u128()) else {
            return false;
        };
        self.note_wanted(&slot, wanted.unwrap_or(0));
        let reply = Reply::from_message(reply, slot.plan().codec);
        slot.answer(reply);
        true
    }

    /// Tells a call that its reply is malformed. Returns `false` if nobody waits for it.
    pub(super) fn fail(&self, id: Uuid, malformed: Malformed) -> bool {
        let Some(slot) = self.lock().remove(&id.as_u128()) else {
            return false;
        };
        self.note_wanted(&slot, 0);
        slot.answer(Err(BadReply::Malformed(malformed)));
        true
    }

    /// Hands answers that came together to their calls. Answers with how many found nobody.
    pub(super) fn complete_all(&self, answers: Vec<BatchedAnswer>, codec: Codec) -> usize {
        let mut strays = 0;
        let mut answers = answers.into_iter();
        let mut found = Vec::with_capacity(AT_ONCE.min(answers.len()));
        while answers.len() > 0 {
            {
                let mut calls = self.lock();
                for answer in answers.by_ref().take(AT_ONCE) {
                    match calls.remove(&answer.id.as_u128()) {
                        Some(slot) => found.push((slot, answer)),
                        None => strays += 1,
                    }
                }
            }
            for (slot, answer) in found.drain(..) {
                self.note_wanted(&slot, answer.wanted);
                let reply = Reply {
                    kind: answer.kind,
                    codec,
                    body: answer.body,
                    headers: answer.headers,
                    unknown_type: None,
                };
                slot.answer(Ok(reply));
            }
        }
        strays
    }

    /// A worker answered, and said how many calls of the method it wants in one message; or nothing, which is zero.
    fn note_wanted(&self, slot: &Slot, calls: u16) {
        let CallPlan {
            destination,
            method_index,
            ..
        } = slot.plan();
        let is_first = match calls {
            0 => destination.wait_no_more(*method_index),
            calls => destination.note_wanted(*method_index, calls),
        };
        if is_first {
            self.first_answer.notify_one();
        }
    }

    /// Tells all calls that the link is not where it was, those first that have waited longest.
    pub(super) fn link_moved(&self) {
        let mut slots: Vec<_> = self.lock().values().map(Arc::clone).collect();
        slots.sort_unstable_by_key(|slot| slot.number());
        for slot in slots {
            slot.link_moved();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place among those in flight; dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    pub(super) slot: &'a Slot,
    /// Nothing else is in flight, nor about to be.
    pub(super) is_by_itself: bool,
    /// Who handed the reply over has taken the place away.
    pub(super) is_answered: bool,
    pending: &'a Pending,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.pending.lock().remove(&self.slot.id().as_u128());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::time::sleep;

    use super::super::destination::Destination;
    use super::super::limiter::{Limiter, WhenFull};
    use super::super::link::route_malformed;
    use super::super::plan::Arguments;
    use super::super::slot::News;
    use super::*;
    use crate::describe::{MethodDescriptor, ServiceDescriptor};
    use crate::protocol::{Headers, Property, ReplyKind, ShortStr, write_batch};
    use crate::transport::{Published, Receipt};

    fn reply(text: &'static str) -> Message {
        Message {
            body: text.into(),
            ..Message::default()
        }
    }

    static STORE: ServiceDescriptor =
        ServiceDescriptor::new("Store", "q", &[MethodDescriptor::new("read", &[])]);

    fn call() -> Arc<Slot> {
        let destination = Destination::new(
            ShortStr::from_static("q"),
            &STORE,
            true,
            Limiter::new("q", 1, WhenFull::Wait, true),
        );
        Arc::new(Slot::new(CallPlan {
            method: &STORE.methods[0],
            method_index: destination.method("read"),
            destination: Arc::new(destination),
            codec: Codec::Json,
            arguments: Arguments(Bytes::new()),
            timeout: Duration::from_secs(1),
            headers: Headers::default(),
            priority: None,
            wait_for_server: false,
            is_detached: false,
        }))
    }

    /// What a call was answered.
    async fn answered(call: &Slot) -> Reply {
        let reply = call.reply(pin!(sleep(Duration::from_secs(1)))).await;
        reply.expect("in time").expect("readable")
    }

    async fn news(call: &Slot) -> Option<News> {
        call.news(pin!(sleep(Duration::from_secs(1)))).await
    }

    #[tokio::test(start_paused = true)]
    async fn each_reply_reaches_its_own_call() {
        let pending = Pending::default();
        let calls = [call(), call()];
        let [mut first, mut second] = [0, 1].map(|n: usize| pending.enter(&calls[n]));
        (first.is_answered, second.is_answered) = (true, true);
        assert!(pending.complete(calls[1].id(), reply("second"), None));
        assert!(pending.complete(calls[0].id(), reply("first"), None));
        for (call, text) in calls.iter().zip(["first", "second"]) {
            assert_eq!(answered(call).await.body, text);
        }
    }

    #[test]
    fn a_call_is_by_itself_once_calls_are_made_one_by_one() {
        let pending = Pending::default();
        let is_by_itself = || pending.enter(&call()).is_by_itself;
        assert!((0..HABIT).all(|_| !is_by_itself()));
        assert!((0..2).all(|_| is_by_itself()));
        let (first, second) = (call(), call());
        let tickets = [&first, &second].map(|call| pending.enter(call));
        assert!(!tickets[1].is_by_itself);
        drop(tickets);
        assert!(!is_by_itself());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_come_together_reach_their_own_calls() {
        let pending = Pending::default();
        let calls = [call(), call()];
        let _tickets = [0, 1].map(|n: usize| pending.enter(&calls[n]));
        let answer = |id, text: &'static str| BatchedAnswer {
            id,
            kind: ReplyKind::Result,
            body: text.into(),
            wanted: 7,
            headers: Headers::default(),
        };
        let answers = vec![
            answer(calls[1].id(), "second"),
            answer(Uuid::new_v4(), "a stranger's"),
            answer(calls[0].id(), "first"),
        ];
        assert_eq!(pending.complete_all(answers, Codec::Json), 1);
        for (call, text) in calls.iter().zip(["first", "second"]) {
            let reply = answered(call).await;
            assert_eq!((&reply.body[..], reply.codec), (text.as_bytes(), Codec::Json));
            assert_eq!(call.plan().destination.wanted(call.plan().method_index), 7);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_malformed_reply_fails_its_own_call_alone() {
        let pending = Pending::default();
        let calls = [call(), call()];
        let _tickets = [0, 1].map(|n: usize| pending.enter(&calls[n]));
        let malformed = Malformed::NotUtf8(Property::MessageId);
        assert!(pending.fail(calls[0].id(), malformed));
        assert!(!pending.fail(calls[0].id(), malformed));
        let reply = calls[0].reply(pin!(sleep(Duration::from_secs(1)))).await;
        assert!(matches!(reply, Some(Err(BadReply::Malformed(_)))), "{reply:?}");
        assert!(pending.complete(calls[1].id(), self::reply("other"), None));
        assert_eq!(answered(&calls[1]).await.body, "other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_malformed_batch_of_replies_fails_the_calls_that_it_answers() {
        let pending = Pending::default();
        let calls = [call(), call(), call()];
        let _tickets = [0, 1, 2].map(|n: usize| pending.enter(&calls[n]));
        let answer = |id| BatchedAnswer {
            id,
            kind: ReplyKind::Result,
            body: "1".into(),
            wanted: 0,
            headers: Headers::default(),
        };
        let answers = [
            answer(calls[0].id()),
            answer(Uuid::new_v4()),
            answer(calls[1].id()),
        ];
        let malformed = Malformed::DeepHeaders;
        let batch = |body| Message {
            body,
            ..Message::default()
        };
        assert_eq!(
            route_malformed(&pending, &batch(write_batch(&answers)), malformed, true),
            1
        );
        assert_eq!(
            route_malformed(&pending, &batch("nonsense".into()), malformed, true),
            1
        );
        for call in &calls[..2] {
            let reply = call.reply(pin!(sleep(Duration::from_secs(1)))).await;
            assert!(matches!(reply, Some(Err(BadReply::Malformed(_)))), "{reply:?}");
        }
        assert!(pending.complete(calls[2].id(), reply("other"), None));
    }

    #[test]
    fn late_and_repeated_replies_find_nobody() {
        let pending = Pending::default();
        let answered = call();
        let ticket = pending.enter(&answered);
        assert!(pending.complete(answered.id(), reply("once"), None));
        assert!(!pending.complete(answered.id(), reply("twice"), None));
        drop(ticket);
        let given_up = call();
        drop(pending.enter(&given_up));
        assert!(!pending.complete(given_up.id(), reply("late"), None));
        assert_eq!(pending.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_is_the_first_news_and_the_word_on_an_earlier_request_none() {
        let pending = Pending::default();
        let call = call();
        let _ticket = pending.enter(&call);
        Arc::clone(&call).published(Published::Returned);
        pending.link_moved();
        assert!(call.begin().is_none());
        Arc::clone(&call).published(Published::Routed);
        pending.complete(call.id(), reply("it"), None);
        assert!(matches!(news(&call).await, Some(News::Reply(_))));
        assert!(matches!(news(&call).await, Some(News::Routed)));
        assert!(news(&call).await.is_none(), "its time is up");
    }
}
