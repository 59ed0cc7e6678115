//! The calls in flight: which news belongs to which call.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use uuid::Uuid;

use super::caller::CallPlan;
use crate::codec::Codec;
use crate::protocol::{Message, PackedAnswer, Reply};
use crate::transport::Published;

/// The calls of one handle that wait for a reply.
///
/// Each has a random correlation id of its own, so a reply reaches its own call or none: late and foreign replies find
/// nobody and are discarded. A call keeps its id and its place however often the link is lost.
#[derive(Debug, Default)]
pub(super) struct Pending {
    calls: Mutex<HashMap<Uuid, Arc<Slot>>>,
    /// How many calls were entered so far.
    entered: AtomicU64,
}

/// An answer as it came.
#[derive(Debug, PartialEq)]
pub(super) enum Arrived {
    /// In a message of its own.
    Alone(Box<Message>),
    /// With others.
    Packed(Reply),
}

/// What a call is told.
#[derive(Debug)]
pub(super) enum News {
    Reply(Arrived),
    /// The broker's word on its request.
    Published(Published),
    /// Nobody takes packed calls any more: its request, which reached nobody, is to leave by itself.
    Unpacked,
    /// The link is not where it was.
    LinkMoved,
}

/// A call's place among those in flight, as seen by those who have news for it.
#[derive(Debug)]
pub(super) struct Slot {
    id: Uuid,
    /// The how manieth call it is.
    number: u64,
    plan: Box<CallPlan>,
    inbox: Mutex<Inbox>,
}

/// What the call was told and has not seen, and how to wake it.
#[derive(Debug, Default)]
struct Inbox {
    reply: Option<Arrived>,
    published: Option<Published>,
    /// The request left with others.
    is_packed: bool,
    link_moved: bool,
    /// Since the request was begun.
    has_link_moved: bool,
    waker: Option<Waker>,
}

impl Pending {
    /// Enters a call.
    pub(super) fn enter(self: &Arc<Self>, plan: Box<CallPlan>) -> Ticket {
        let slot = Arc::new(Slot {
            id: Uuid::new_v4(),
            number: self.entered.fetch_add(1, Ordering::Relaxed),
            plan,
            inbox: Mutex::default(),
        });
        self.lock().insert(slot.id, Arc::clone(&slot));
        Ticket {
            slot,
            pending: Arc::clone(self),
        }
    }

    /// Hands a reply to its call, with how many calls of the method its worker wants in one message, if it said so. `false`
    /// where nobody waits for it: it is late, or not for this process.
    pub(super) fn complete(&self, id: Uuid, reply: Message, wanted: Option<u16>) -> bool {
        let Some(slot) = self.lock().remove(&id) else {
            return false;
        };
        if let Some(wanted) = wanted {
            slot.note_wanted(wanted);
        }
        slot.tell(|inbox| inbox.reply = Some(Arrived::Alone(Box::new(reply))));
        true
    }

    /// Hands answers that came together to their calls. Answers with how many found nobody.
    pub(super) fn complete_all(&self, answers: Vec<PackedAnswer>, codec: Codec) -> usize {
        let mut found = Vec::with_capacity(answers.len());
        let mut strays = 0;
        {
            let mut calls = self.lock();
            for answer in answers {
                match calls.remove(&answer.id) {
                    Some(slot) => found.push((slot, answer)),
                    None => strays += 1,
                }
            }
        }
        for (slot, answer) in found {
            slot.note_wanted(answer.wanted);
            let reply = Reply {
                kind: answer.kind,
                codec,
                body: answer.body,
            };
            slot.tell(|inbox| inbox.reply = Some(Arrived::Packed(reply)));
        }
        strays
    }

    /// Tells all calls that the link is not where it was, those first that have waited longest.
    pub(super) fn link_moved(&self) {
        let mut slots: Vec<_> = self.lock().values().map(Arc::clone).collect();
        slots.sort_unstable_by_key(|slot| slot.number);
        for slot in slots {
            slot.tell(|inbox| {
                inbox.link_moved = true;
                inbox.has_link_moved = true;
            });
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Slot>>> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Tells the call the broker's word on its request.
    pub(super) fn published(&self, published: Published) {
        let mut inbox = self.lock();
        // That a request is there is nothing to wake up for, as its reply comes next: unless that goes to where the link was.
        let is_awaited =
            self.plan.method.is_oneway || inbox.has_link_moved || !matches!(published, Published::Routed);
        if inbox.is_packed && matches!(published, Published::Returned) {
            self.forget_wanted();
        }
        inbox.published = Some(published);
        let waker = inbox.waker.take_if(|_| is_awaited);
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn plan(&self) -> &CallPlan {
        &self.plan
    }

    /// A worker said how many calls of the method it wants in one message.
    fn note_wanted(&self, calls: u16) {
        if calls > 0 {
            self.plan.destination.note_wanted(self.plan.method.name, calls);
        }
    }

    fn forget_wanted(&self) {
        self.plan.destination.forget_wanted(self.plan.method.name);
    }

    /// The request leaves together with others.
    pub(super) fn packed(&self) {
        self.lock().is_packed = true;
    }

    /// The call ended without an answer: where its request had left with others, those who take them may be gone.
    pub(super) fn unanswered(&self) {
        if self.lock().is_packed {
            self.forget_wanted();
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.lock();
        change(&mut inbox);
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place among those in flight; dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Ticket {
    slot: Arc<Slot>,
    pending: Arc<Pending>,
}

impl Ticket {
    /// Where others leave news.
    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Begins another request, before it is looked where the link is: news of the last one is of no interest any more.
    pub(super) fn begin(&mut self) {
        let mut inbox = self.slot.lock();
        inbox.published = None;
        inbox.is_packed = false;
        inbox.link_moved = false;
        inbox.has_link_moved = false;
    }

    /// Waits for the next news, for ever if need be; a reply comes first. Cancel safe.
    pub(super) async fn news(&mut self) -> News {
        self.wait(|inbox| {
            if let Some(reply) = inbox.reply.take() {
                return Some(News::Reply(reply));
            }
            if let Some(published) = inbox.published.take() {
                return Some(match (published, inbox.is_packed) {
                    (Published::Returned, true) => News::Unpacked,
                    (published, _) => News::Published(published),
                });
            }
            std::mem::take(&mut inbox.link_moved).then_some(News::LinkMoved)
        })
        .await
    }

    /// Waits for the reply alone, for ever if need be. Cancel safe.
    pub(super) async fn reply(&mut self) -> Arrived {
        self.wait(|inbox| inbox.reply.take()).await
    }

    async fn wait<T>(&self, mut take: impl FnMut(&mut Inbox) -> Option<T>) -> T {
        poll_fn(|cx| {
            let mut inbox = self.slot.lock();
            if let Some(news) = take(&mut inbox) {
                return Poll::Ready(news);
            }
            match &mut inbox.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.slot.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::destination::Destination;
    use super::super::limiter::{Limiter, WhenFull};
    use super::*;
    use crate::call::Arguments;
    use crate::describe::MethodDescriptor;
    use crate::headers::Headers;
    use crate::protocol::{ReplyKind, ShortStr};

    fn reply(text: &'static str) -> Message {
        Message {
            body: text.into(),
            ..Message::default()
        }
    }

    fn arrived(text: &'static str) -> Arrived {
        Arrived::Alone(Box::new(reply(text)))
    }

    fn enter(pending: &Arc<Pending>) -> Ticket {
        static READ: MethodDescriptor = MethodDescriptor::new("read", &[]);
        pending.enter(Box::new(CallPlan {
            method: &READ,
            destination: Arc::new(Destination::new(ShortStr::from_static("q"), true)),
            codec: Codec::Json,
            arguments: Arguments(Bytes::new()),
            timeout: Duration::from_secs(1),
            headers: Headers::default(),
            priority: None,
            wait_for_server: false,
            limiter: Arc::new(Limiter::new(1, WhenFull::Wait)),
        }))
    }

    #[tokio::test]
    async fn each_reply_reaches_its_own_call() {
        let pending = Arc::new(Pending::default());
        let mut first = enter(&pending);
        let mut second = enter(&pending);
        assert!(pending.complete(second.slot.id, reply("second"), None));
        assert!(pending.complete(first.slot.id, reply("first"), None));
        assert_eq!(first.reply().await, arrived("first"));
        assert_eq!(second.reply().await, arrived("second"));
    }

    #[tokio::test]
    async fn answers_that_come_together_reach_their_own_calls() {
        let pending = Arc::new(Pending::default());
        let mut calls = [enter(&pending), enter(&pending)];
        let answer = |id, text: &'static str| PackedAnswer {
            id,
            kind: ReplyKind::Result,
            body: text.into(),
            wanted: 7,
        };
        let answers = vec![
            answer(calls[1].slot.id, "second"),
            answer(Uuid::new_v4(), "a stranger's"),
            answer(calls[0].slot.id, "first"),
        ];
        assert_eq!(pending.complete_all(answers, Codec::Json), 1);
        for (call, text) in calls.iter_mut().zip(["first", "second"]) {
            let Arrived::Packed(reply) = call.reply().await else {
                panic!("it came with others")
            };
            assert_eq!((&reply.body[..], reply.codec), (text.as_bytes(), Codec::Json));
            assert_eq!(call.slot.plan.destination.wanted("read"), 7);
        }
    }

    #[test]
    fn late_and_repeated_replies_find_nobody() {
        let pending = Arc::new(Pending::default());
        let ticket = enter(&pending);
        let id = ticket.slot.id;
        assert!(pending.complete(id, reply("once"), None));
        assert!(!pending.complete(id, reply("twice"), None));
        let ticket = enter(&pending);
        let id = ticket.slot.id;
        drop(ticket);
        assert!(!pending.complete(id, reply("late"), None));
        assert!(pending.lock().is_empty());
    }

    #[tokio::test]
    async fn a_reply_is_the_first_news_and_the_word_on_an_earlier_request_none() {
        let pending = Arc::new(Pending::default());
        let mut ticket = enter(&pending);
        ticket.slot.published(Published::Returned);
        pending.link_moved();
        ticket.begin();
        ticket.slot.published(Published::Routed);
        pending.complete(ticket.slot.id, reply("it"), None);
        assert!(matches!(ticket.news().await, News::Reply(_)));
        assert!(matches!(ticket.news().await, News::Published(Published::Routed)));
    }
}
