//! A call in flight, and the events that reach it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::time::Sleep;
use uuid::Uuid;

use super::plan::CallPlan;
use super::received_reply::ReceivedReply;
use crate::telemetry::{Event, count};
use crate::transport::{Departs, Departures, Published, Receipt};

/// What happens to a call.
#[derive(Debug)]
pub(super) enum CallEvent {
    Reply(ReceivedReply),
    /// The broker has put the request into its queue.
    Routed,
    /// The request is not in its queue, as far as is known.
    NotRouted(Box<Published>),
    /// The batch that holds the request was returned, as its workers are gone. The request is to be
    /// sent singly.
    BatchReturned,
    /// The session was lost, opened or closed.
    SessionChanged,
}

/// A call: its plan, and the events that it has not handled.
///
/// One task makes the call and waits for events. Other tasks report them: they find the call in
/// [`InFlightCalls`](super::in_flight_calls::InFlightCalls), or have its request.
#[derive(Debug)]
pub(crate) struct InFlightCall {
    /// A random UUID: the correlation id.
    id: u128,
    /// Orders the calls by when they began.
    number: AtomicU64,
    plan: CallPlan,
    /// Whether its requests were sent or withdrawn.
    departures: Departures,
    inbox: Mutex<Inbox>,
}

/// The events that the call has not handled, and how to wake it.
#[derive(Debug, Default)]
struct Inbox {
    reply: Option<ReceivedReply>,
    confirm: Option<Confirm>,
    /// The request was sent in a batch.
    is_batched: bool,
    session_changed: bool,
    /// The session has changed since the request was begun. Unlike `session_changed`, this stays
    /// set when the call handles the event.
    has_session_changed: bool,
    waker: Option<Waker>,
}

/// The broker's confirm of a request. Nearly all are `Routed`. The box keeps the others from taking
/// memory in each call.
#[derive(Debug)]
enum Confirm {
    Routed,
    NotRouted(Box<Published>),
}

impl From<Published> for Confirm {
    fn from(published: Published) -> Self {
        match published {
            Published::Routed => Self::Routed,
            other => Self::NotRouted(Box::new(other)),
        }
    }
}

impl Inbox {
    fn next(&mut self) -> Option<CallEvent> {
        if let Some(reply) = self.reply.take() {
            return Some(CallEvent::Reply(reply));
        }
        if let Some(confirm) = self.confirm.take() {
            return Some(match confirm {
                Confirm::Routed => CallEvent::Routed,
                Confirm::NotRouted(published)
                    if self.is_batched && matches!(*published, Published::Returned) =>
                {
                    CallEvent::BatchReturned
                }
                Confirm::NotRouted(published) => CallEvent::NotRouted(published),
            });
        }
        std::mem::take(&mut self.session_changed).then_some(CallEvent::SessionChanged)
    }
}

impl InFlightCall {
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

    pub(crate) fn plan(&self) -> &CallPlan {
        &self.plan
    }

    /// Must be called before the call begins.
    pub(crate) fn plan_mut(&mut self) -> &mut CallPlan {
        &mut self.plan
    }

    /// Returns the call's number in the order in which calls began.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    pub(super) fn set_number(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// The call's request is sent in a batch.
    pub(super) fn set_batched(&self) {
        self.lock().is_batched = true;
    }

    /// The call ended without a reply. If its request was in a batch, or waited for one, the
    /// workers that take batches may be gone.
    pub(super) fn on_no_reply(&self, is_sent: bool) {
        if !is_sent || self.lock().is_batched {
            self.forget_batch_size();
        }
    }

    fn forget_batch_size(&self) {
        if let Some(batch_size) = self.plan.batch_size() {
            batch_size.forget();
        }
    }

    /// Begins another request: forgets the events of the previous one, except for its reply, which
    /// is returned. Must be called before the session is read, so that no change is missed.
    pub(super) fn begin_request(&self) -> Option<ReceivedReply> {
        let mut inbox = self.lock();
        inbox.confirm = None;
        inbox.is_batched = false;
        inbox.session_changed = false;
        inbox.has_session_changed = false;
        inbox.reply.take()
    }

    /// Waits for the next event; a reply comes first. Returns `None` if the deadline passes before.
    /// Cancel safe.
    pub(super) fn next_event<'a>(
        &'a self,
        deadline: Pin<&'a mut Sleep>,
    ) -> impl Future<Output = Option<CallEvent>> + 'a {
        self.wait(deadline, Inbox::next)
    }

    /// Waits for the reply. Returns `None` if the deadline passes before. Cancel safe.
    pub(super) fn reply<'a>(
        &'a self,
        deadline: Pin<&'a mut Sleep>,
    ) -> impl Future<Output = Option<ReceivedReply>> + 'a {
        self.wait(deadline, |inbox| inbox.reply.take())
    }

    // Not an `async fn`, which would hold its arguments twice.
    fn wait<'a, T>(
        &'a self,
        mut deadline: Pin<&'a mut Sleep>,
        take: impl Fn(&mut Inbox) -> Option<T> + 'a,
    ) -> impl Future<Output = Option<T>> + 'a {
        poll_fn(move |cx| {
            let mut inbox = self.lock();
            if let Some(event) = take(&mut inbox) {
                return Poll::Ready(Some(event));
            }
            match &mut inbox.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            drop(inbox);
            deadline.as_mut().poll(cx).map(|()| None)
        })
    }

    /// Hands the call its reply.
    pub(super) fn on_reply(&self, reply: ReceivedReply) {
        let mut inbox = self.lock();
        inbox.reply = Some(reply);
        wake(inbox, true);
    }

    /// Tells the call that the session was lost, opened or closed.
    pub(super) fn on_session_changed(&self) {
        let mut inbox = self.lock();
        inbox.session_changed = true;
        inbox.has_session_changed = true;
        wake(inbox, true);
    }

    /// Tells the call what became of its request.
    pub(super) fn on_published(&self, published: Published) {
        let mut inbox = self.lock();
        // The reply comes next, so a confirm need not wake the call. But the reply cannot come if
        // its address was lost.
        let wakes = self.plan.method.is_oneway()
            || inbox.has_session_changed
            || !matches!(published, Published::Routed);
        match published {
            // The request is sent again singly. Only the queue for batches may refuse: its node may
            // be down.
            Published::Returned | Published::Refused if inbox.is_batched => self.forget_batch_size(),
            Published::Returned => count(Event::RequestReturned {
                queue: self.plan.destination.queue.as_str(),
            }),
            _ => {}
        }
        inbox.confirm = Some(published.into());
        wake(inbox, wakes);
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unlocks the inbox before it wakes the call.
fn wake(mut inbox: MutexGuard<'_, Inbox>, wakes: bool) {
    let waker = inbox.waker.take_if(|_| wakes);
    drop(inbox);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Departs for InFlightCall {
    fn departures(&self) -> &Departures {
        &self.departures
    }
}

impl Receipt for InFlightCall {
    fn published(self: Arc<Self>, published: Published) {
        self.on_published(published);
    }
}
