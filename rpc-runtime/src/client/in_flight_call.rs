//! A call, and the events that reach it while it is in flight.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::time::Sleep;
use uuid::Uuid;

use super::plan::CallPlan;
use super::received_reply::ReceivedReply;
use crate::protocol::random_id;
use crate::telemetry::{Event, count};
use crate::transport::{ConfirmListener, HasLatestSend, LatestSend, Published};

/// What happens to a call.
#[derive(Debug)]
pub(super) enum CallEvent {
    Reply(ReceivedReply),
    /// The broker has put the request into its queue.
    Confirmed,
    /// The broker did not confirm the request, which may or may not be in its queue.
    NotConfirmed(Box<Published>),
    /// The broker returned the batch that holds the request, because the batch queue no longer
    /// exists. The call sends the request again, on its own.
    BatchReturned,
    /// The session has another [epoch](super::resend::ReplyEpoch), is open again, or is closed, or
    /// the call's stream has begun. The event does not say which: the call looks at both.
    StateChanged,
}

/// A call: its plan, and the events that it has not handled.
///
/// It is created when a client prepares the call, and anew for each attempt that layers make. It is
/// in flight from its insertion into [`InFlightCalls`](super::in_flight_calls::InFlightCalls) until
/// it ends. A broadcast or a call within the process is never inserted, and has no events. One task
/// makes the call and waits for events. Other tasks report events: they find the call in
/// `InFlightCalls`, or hold its request.
#[derive(Debug)]
pub(crate) struct InFlightCall {
    /// A random UUID: the correlation id, except for a broadcast with answers, whose attempts share
    /// that of its `GatherTarget`.
    id: Uuid,
    /// The call's number in the order of insertion into the calls in flight; 0 until then.
    sequence: AtomicU64,
    plan: CallPlan,
    /// Whether the current request still waits, was sent, or was withdrawn.
    latest_send: LatestSend,
    inbox: Mutex<Inbox>,
}

/// The events that the call has not handled, and how to wake it.
#[derive(Debug, Default)]
struct Inbox {
    reply: Option<ReceivedReply>,
    /// Whether the current request was confirmed, and the call has not handled that.
    is_confirmed: bool,
    /// What became of the current request if it was not confirmed. That is rare, so it is boxed.
    failure: Option<Box<Published>>,
    /// Whether the current request was sent in a batch.
    is_batched: bool,
    /// Whether there is a [`CallEvent::StateChanged`] that the call has not handled.
    unhandled_state_change: bool,
    /// Whether the session has changed since the current request began. Stays set when the call
    /// handles the event.
    session_changed_since_request: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// Takes the next event. A reply comes first, because it ends the call.
    fn next(&mut self) -> Option<CallEvent> {
        if let Some(reply) = self.reply.take() {
            return Some(CallEvent::Reply(reply));
        }
        if std::mem::take(&mut self.is_confirmed) {
            return Some(CallEvent::Confirmed);
        }
        if let Some(failure) = self.failure.take() {
            let is_batch_returned = self.is_batched && matches!(*failure, Published::Returned);
            return Some(if is_batch_returned {
                CallEvent::BatchReturned
            } else {
                CallEvent::NotConfirmed(failure)
            });
        }
        std::mem::take(&mut self.unhandled_state_change).then_some(CallEvent::StateChanged)
    }
}

impl InFlightCall {
    pub(crate) fn new(plan: CallPlan) -> Self {
        Self::with_id(random_id(), plan)
    }

    /// Creates a call with this id. Only one-way calls may share an id: a reply with the id would
    /// fit several calls otherwise.
    pub(super) fn with_id(id: Uuid, plan: CallPlan) -> Self {
        Self {
            id,
            sequence: AtomicU64::default(),
            plan,
            latest_send: LatestSend::default(),
            inbox: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn plan(&self) -> &CallPlan {
        &self.plan
    }

    /// Returns the plan, to change it before the call begins.
    pub(crate) fn plan_mut(&mut self) -> &mut CallPlan {
        &mut self.plan
    }

    /// Returns the call's number in the order of insertion into the calls in flight; 0 until then.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// Sets the call's number when it is inserted into the calls in flight.
    pub(super) fn set_sequence(&self, sequence: u64) {
        self.sequence.store(sequence, Ordering::Relaxed);
    }

    /// Marks the request as sent in a batch.
    pub(super) fn set_batched(&self) {
        self.lock().is_batched = true;
    }

    /// Forgets the batch size after a timeout for which a batch may be the reason, because its
    /// workers may be gone: the request was in a batch, or still waited to be sent, perhaps in one.
    /// `may_have_run` is whether any request of the call may have reached a worker.
    pub(super) fn forget_batch_size_after_timeout(&self, may_have_run: bool) {
        if !may_have_run || self.lock().is_batched {
            self.forget_batch_size();
        }
    }

    fn forget_batch_size(&self) {
        if let Some(batch_size) = self.plan.batch_size() {
            batch_size.forget();
        }
    }

    /// Forgets the events of the previous request, before the call begins another one. Only the
    /// reply, if one has arrived, is returned. Must be called before the session is read, so that
    /// no change is missed.
    pub(super) fn take_reply_and_forget_events(&self) -> Option<ReceivedReply> {
        let mut inbox = self.lock();
        inbox.is_confirmed = false;
        inbox.failure = None;
        inbox.is_batched = false;
        inbox.unhandled_state_change = false;
        inbox.session_changed_since_request = false;
        inbox.reply.take()
    }

    /// Waits for the next event. A reply takes precedence. Returns `None` if the deadline passes
    /// first. Cancel safe.
    pub(super) fn next_event<'a>(
        &'a self,
        deadline: Pin<&'a mut Sleep>,
    ) -> impl Future<Output = Option<CallEvent>> + 'a {
        self.wait(deadline, Inbox::next)
    }

    /// Waits for the reply. Returns `None` if the deadline passes first. Cancel safe.
    pub(super) fn reply<'a>(
        &'a self,
        deadline: Pin<&'a mut Sleep>,
    ) -> impl Future<Output = Option<ReceivedReply>> + 'a {
        self.wait(deadline, |inbox| inbox.reply.take())
    }

    /// Waits until `take` finds an event in the inbox. Returns `None` if the deadline passes first.
    // Not an `async fn`, whose future would have room for its arguments twice: as they were passed,
    // and as variables of its body.
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
    pub(super) fn deliver_reply(&self, reply: ReceivedReply) {
        let mut inbox = self.lock();
        inbox.reply = Some(reply);
        unlock_and_wake(inbox);
    }

    /// Tells the call that the session has another epoch, is open again, or is closed.
    pub(super) fn notify_session_changed(&self) {
        let mut inbox = self.lock();
        inbox.unhandled_state_change = true;
        inbox.session_changed_since_request = true;
        unlock_and_wake(inbox);
    }

    /// Tells the call that its stream has begun.
    pub(super) fn notify_stream_begun(&self) {
        let mut inbox = self.lock();
        inbox.unhandled_state_change = true;
        unlock_and_wake(inbox);
    }

    /// Tells the call what became of its request. Also forgets the batch size if the broker did not
    /// take a batch, and counts a single request that was returned.
    pub(super) fn deliver_outcome(&self, published: Published) {
        let mut inbox = self.lock();
        let is_confirmed = matches!(published, Published::Confirmed);
        // A confirm need not wake a call that waits for a reply, because the reply follows. But
        // after a session change the reply address may be gone, so the call must check whether a
        // reply can still arrive.
        let should_wake =
            self.plan.method.is_oneway() || inbox.session_changed_since_request || !is_confirmed;
        match published {
            // Later requests of the method are sent on their own: perhaps only the queue for
            // batches is down.
            Published::Returned | Published::Refused if inbox.is_batched => self.forget_batch_size(),
            Published::Returned => count(Event::RequestReturned {
                queue: self.plan.destination.queue.as_str(),
            }),
            _ => {}
        }
        inbox.is_confirmed = is_confirmed;
        inbox.failure = (!is_confirmed).then(|| Box::new(published));
        if should_wake {
            unlock_and_wake(inbox);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unlocks the inbox, and then wakes the call, so that the woken task finds no lock.
fn unlock_and_wake(mut inbox: MutexGuard<'_, Inbox>) {
    let waker = inbox.waker.take();
    drop(inbox);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl HasLatestSend for InFlightCall {
    fn latest_send(&self) -> &LatestSend {
        &self.latest_send
    }
}

impl ConfirmListener for InFlightCall {
    fn published(self: Arc<Self>, published: Published) {
        self.deliver_outcome(published);
    }
}
