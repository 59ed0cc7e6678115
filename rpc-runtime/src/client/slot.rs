//! A call: what it is, and what it is told.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::time::Sleep;
use uuid::Uuid;

use super::plan::CallPlan;
use crate::protocol::{BadReply, Reply};
use crate::telemetry::{Event, count};
use crate::transport::{Departs, Departures, Published, Receipt};

/// An answer as it came: it may be none that can be read.
pub(super) type Arrived = Result<Reply, BadReply>;

/// What a call is told.
#[derive(Debug)]
pub(super) enum News {
    Reply(Arrived),
    /// Its request is in its queue.
    Routed,
    /// The broker's word on its request, which is another.
    NotRouted(Box<Published>),
    /// The request left with others, to workers that are not there any more: it is to be sent by itself.
    Unbatched,
    /// The link is not where it was, or is closed.
    LinkMoved,
}

/// A call: what it is, and what it is told. Those who have news for it see it through [`Pending`].
#[derive(Debug)]
pub(crate) struct Slot {
    /// A random UUID.
    id: u128,
    /// The how manieth call it is.
    number: AtomicU64,
    plan: CallPlan,
    /// Of its requests.
    departures: Departures,
    inbox: Mutex<Inbox>,
}

/// What the call was told and has not seen, and how to wake it.
#[derive(Debug, Default)]
struct Inbox {
    reply: Option<Arrived>,
    published: Option<Word>,
    /// The request left with others.
    is_batched: bool,
    link_moved: bool,
    /// Since the request was begun.
    has_link_moved: bool,
    waker: Option<Waker>,
}

/// The broker's word on a request. All but the one that nearly all calls hear is in a box, and takes no memory in the others.
#[derive(Debug)]
enum Word {
    Routed,
    Other(Box<Published>),
}

impl From<Published> for Word {
    fn from(published: Published) -> Self {
        match published {
            Published::Routed => Self::Routed,
            other => Self::Other(Box::new(other)),
        }
    }
}

impl Inbox {
    fn next(&mut self) -> Option<News> {
        if let Some(reply) = self.reply.take() {
            return Some(News::Reply(reply));
        }
        if let Some(published) = self.published.take() {
            return Some(match published {
                Word::Routed => News::Routed,
                Word::Other(word) if self.is_batched && matches!(*word, Published::Returned) => {
                    News::Unbatched
                }
                Word::Other(word) => News::NotRouted(word),
            });
        }
        std::mem::take(&mut self.link_moved).then_some(News::LinkMoved)
    }
}

impl Slot {
    pub(crate) fn new(plan: CallPlan) -> Self {
        Self {
            id: Uuid::new_v4().as_u128(),
            number: AtomicU64::default(),
            plan,
            departures: Departures::default(),
            inbox: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> Uuid {
        Uuid::from_u128(self.id)
    }

    /// The how manieth call it is, once it was entered.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    pub(super) fn set_number(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// Hands the call its reply.
    pub(super) fn answer(&self, reply: Arrived) {
        self.tell(|inbox| inbox.reply = Some(reply));
    }

    /// Tells the call that the link is not where it was.
    pub(super) fn link_moved(&self) {
        self.tell(|inbox| {
            inbox.link_moved = true;
            inbox.has_link_moved = true;
        });
    }

    pub(crate) fn plan(&self) -> &CallPlan {
        &self.plan
    }

    /// For a call that has not begun.
    pub(crate) fn plan_mut(&mut self) -> &mut CallPlan {
        &mut self.plan
    }

    fn forget_wanted(&self) {
        self.plan.destination.forget_wanted(self.plan.method_index);
    }

    /// The request leaves together with others.
    pub(super) fn batched(&self) {
        self.lock().is_batched = true;
    }

    /// The call ended without an answer. Where its request had left with others, or waited to, those who take them may be gone.
    pub(super) fn unanswered(&self, has_left: bool) {
        if !has_left || self.lock().is_batched {
            self.forget_wanted();
        }
    }

    /// Begins another request, before it is looked where the link is: news of the last one is of no interest any more, unless it is the
    /// reply.
    pub(super) fn begin(&self) -> Option<Arrived> {
        let mut inbox = self.lock();
        inbox.published = None;
        inbox.is_batched = false;
        inbox.link_moved = false;
        inbox.has_link_moved = false;
        inbox.reply.take()
    }

    /// Waits for the next news; a reply comes first. Nothing where the time is up before. Cancel safe.
    pub(super) fn news<'a>(&'a self, time: Pin<&'a mut Sleep>) -> impl Future<Output = Option<News>> + 'a {
        self.wait(time, Inbox::next)
    }

    /// Waits for the reply alone. Nothing where the time is up before. Cancel safe.
    pub(super) fn reply<'a>(
        &'a self,
        time: Pin<&'a mut Sleep>,
    ) -> impl Future<Output = Option<Arrived>> + 'a {
        self.wait(time, |inbox| inbox.reply.take())
    }

    // Not an `async fn`, which would keep all of this twice in each call.
    fn wait<'a, T>(
        &'a self,
        mut time: Pin<&'a mut Sleep>,
        take: impl Fn(&mut Inbox) -> Option<T> + 'a,
    ) -> impl Future<Output = Option<T>> + 'a {
        poll_fn(move |cx| {
            let mut inbox = self.lock();
            if let Some(news) = take(&mut inbox) {
                return Poll::Ready(Some(news));
            }
            match &mut inbox.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            drop(inbox);
            time.as_mut().poll(cx).map(|()| None)
        })
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

impl Departs for Slot {
    fn departures(&self) -> &Departures {
        &self.departures
    }
}

impl Receipt for Slot {
    fn published(self: Arc<Self>, published: Published) {
        self.tell_published(published);
    }
}

impl Slot {
    /// Tells the call the broker's word on its request.
    pub(super) fn tell_published(&self, published: Published) {
        let mut inbox = self.lock();
        // That a request is there is nothing to wake up for, as its reply comes next: unless that goes to where the link was.
        let is_awaited =
            self.plan.method.is_oneway || inbox.has_link_moved || !matches!(published, Published::Routed);
        match published {
            // If it is sent again, then by itself. The queue for batches may be the only one that
            // refuses: its node may be down.
            Published::Returned | Published::Refused if inbox.is_batched => self.forget_wanted(),
            Published::Returned => count(Event::RequestReturned {
                queue: self.plan.destination.queue.as_str(),
            }),
            _ => {}
        }
        inbox.published = Some(published.into());
        let waker = inbox.waker.take_if(|_| is_awaited);
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
