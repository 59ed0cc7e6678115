//! The items that callers send to methods of this worker.
//!
//! A worker consumes them from a queue of its own, apart from its control queue, so that they delay
//! neither cancellations nor credit.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::StreamExt;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::Level;
use uuid::Uuid;

use super::open_failure_log::OpenFailureLog;
use super::streams::StreamSender;
use super::worker_identity::WorkerIdentity;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::{INCOMING_SUFFIX, ITEMS_HEADER, ITEMS_TYPE, Items, Message, RequestId, ShortStr};
use crate::service::{CancellationWatch, Cancellations, IncomingError, IncomingInbox};
use crate::telemetry::{LogLimit, Suppressed};
use crate::transport::{
    Backoff, ControlQueue, Delivery, KeepOpen, Subscription, Transport, keep_open, restart_on_panic,
};

/// The prefetch. A message has about 64 KiB at most, unless its items are larger.
const PREFETCH: u16 = 64;

/// How long a message can wait in the queue.
const TIME_TO_LIVE: Duration = Duration::from_secs(60);

/// How many messages can wait in the queue. The broker refuses further ones, and their callers send
/// them again, after a pause. It must not drop the oldest ones instead: without them, the worker
/// could use none of the others.
const MAX_WAITING: u16 = 16 * 1024;

/// The maximum total length of the messages that wait in the queue, in bytes.
const MAX_WAITING_BYTES: u32 = 256 * 1024 * 1024;

/// How long an earlier run of a request that was sent again may take to end.
const MAX_ENDING: Duration = Duration::from_secs(5);

/// How long to wait before the next attempt if the broker refuses the exchange or the queue until
/// someone acts. The broker logs each refusal.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(600);

/// The items that callers send to the methods of one server.
#[derive(Debug)]
pub(super) struct IncomingItems {
    /// The routing key of the messages.
    key: ShortStr,
    /// The largest item, in bytes.
    max_bytes: usize,
    calls: Mutex<Calls>,
    /// Notified when a call has ended.
    ended: Notify,
    log: LogLimit,
}

#[derive(Debug, Default)]
struct Calls {
    /// By the correlation ids of their requests.
    inboxes: HashMap<Uuid, Arc<IncomingInbox>, RandomState>,
    /// How many inboxes were opened so far.
    opened: u64,
    /// Whether no messages can arrive at present.
    is_lost: bool,
}

/// The items of a call whose method runs. Dropping it forgets them, and ends the stream for
/// whatever still reads it.
#[derive(Debug)]
pub(super) struct IncomingCall<'a> {
    items: &'a IncomingItems,
    id: Uuid,
    inbox: Arc<IncomingInbox>,
    /// Begins before the method runs, so that a cancellation during its first poll is not lost.
    /// `None` only while this is dropped.
    watch: Option<CancellationWatch>,
}

impl IncomingItems {
    /// Returns `None` if the routing key is too long, which it never is.
    pub(super) fn new(identity: &WorkerIdentity, max_bytes: usize) -> Option<Self> {
        Some(Self {
            key: ShortStr::new(format!("{}{INCOMING_SUFFIX}", identity.id())).ok()?,
            max_bytes,
            calls: Mutex::default(),
            ended: Notify::new(),
            log: LogLimit::new("items"),
        })
    }

    /// Receives the items of a call from now on. If an earlier call has the same id, that call gets
    /// no more.
    pub(super) fn open(&self, id: Uuid, cancellations: &Arc<Cancellations>) -> IncomingCall<'_> {
        let watch = cancellations.watch(id);
        let mut calls = self.lock();
        let inbox = Arc::new(IncomingInbox::new(calls.opened, calls.is_lost));
        calls.opened += 1;
        calls.inboxes.insert(id, Arc::clone(&inbox));
        drop(calls);
        IncomingCall {
            items: self,
            id,
            inbox,
            watch: Some(watch),
        }
    }

    /// Cancels the method of the call with this id, and waits until the call receives no more
    /// items. Returns `false` if that takes too long.
    pub(super) async fn cancel_and_wait(&self, id: Uuid, cancellations: &Cancellations) -> bool {
        cancellations.cancel_running(&[id]);
        let ended = async {
            loop {
                let ended = self.ended.notified();
                if !self.lock().inboxes.contains_key(&id) {
                    return;
                }
                ended.await;
            }
        };
        timeout(MAX_ENDING, ended).await.is_ok()
    }

    /// Returns a task that receives the items of all calls, and a receiver that resolves once the
    /// first attempt to subscribe has succeeded or failed.
    pub(super) fn receive_all(
        self: &Arc<Self>,
        transport: &Arc<dyn Transport>,
    ) -> (impl Future<Output = ()> + use<>, oneshot::Receiver<()>) {
        let (items, transport) = (Arc::clone(self), Arc::clone(transport));
        let (first_attempt_done, first_attempt) = oneshot::channel();
        let mut first_attempt_done = Some(first_attempt_done);
        let task = async move {
            restart_on_panic("incoming items", || {
                let mut receiving = Receiving {
                    items: &items,
                    transport: &transport,
                    first_attempt_done: first_attempt_done.take(),
                    failures: OpenFailureLog::default(),
                };
                async move { keep_open(&mut receiving).await }
            })
            .await;
        };
        (task, first_attempt)
    }

    /// Hands the items of a message to their call, or ends the call's stream if one of them is too
    /// large. Ignores other messages, and those for a call that does not run here.
    fn receive(&self, delivery: Delivery) {
        if let Some(malformed) = delivery.malformed {
            return self.log_ignored("malformed", &malformed);
        }
        let Message { properties, body } = delivery.message;
        let is_items = properties
            .kind
            .as_ref()
            .is_some_and(|kind| kind.as_str() == ITEMS_TYPE);
        if !is_items {
            return self.log_ignored("foreign", &"it has no items");
        }
        // Only those who may write to the control exchange may send items.
        if delivery.control_key.is_none() {
            return self.log_ignored("foreign", &"it did not come through the control exchange");
        }
        let id = properties
            .correlation_id
            .as_ref()
            .and_then(RequestId::of_correlation_id);
        let inbox = id.and_then(|id| self.lock().inboxes.get(&id.uuid()).cloned());
        let Some(inbox) = inbox else {
            return self.log_ignored("late", &"its method has ended, or does not run here");
        };
        let items = match Items::read(&body) {
            Ok(items) => items,
            Err(unreadable) => return self.log_ignored("unreadable", &unreadable),
        };
        // How many items the stream has, if this message ends it.
        let end = match properties.headers.get(ITEMS_HEADER).map(str::parse) {
            None => None,
            Some(Ok(count)) => Some(count),
            Some(Err(_)) => return self.log_ignored("unreadable", &"the header rpc-items is no number"),
        };
        let size = items.items.iter().map(<[u8]>::len).max().unwrap_or(0);
        if size > self.max_bytes {
            let limit = self.max_bytes;
            return inbox.fail(IncomingError::TooLarge { size, limit });
        }
        inbox.receive(items, end, body.len());
    }

    /// Records that no messages can arrive at present.
    fn lose(&self) {
        let mut calls = self.lock();
        calls.is_lost = true;
        calls.inboxes.values().for_each(|inbox| inbox.lose());
    }

    /// Records that messages can arrive, and asks callers for those that may have been lost.
    fn resume(&self) {
        let mut calls = self.lock();
        calls.is_lost = false;
        // In a fixed order, so that a simulation has one history.
        let mut inboxes: Vec<_> = calls.inboxes.values().collect();
        inboxes.sort_unstable_by_key(|inbox| inbox.number());
        inboxes.into_iter().for_each(|inbox| inbox.resume());
    }

    fn log_ignored(&self, kind: &'static str, reason: &dyn std::fmt::Display) {
        if let Some(Suppressed(suppressed)) = self.log.admit(Level::DEBUG, kind) {
            tracing::debug!(%reason, suppressed, "ignored a message with items");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IncomingCall<'_> {
    pub(super) fn inbox(&self) -> Arc<IncomingInbox> {
        Arc::clone(&self.inbox)
    }

    /// Starts a task that tells the caller, through `sender`, how many items it may send. The task
    /// cancels the call once its caller is gone, or was silent for too long. It is a task of its
    /// own so that a method that does not yield cannot delay it.
    pub(super) fn start_granting(&self, sender: &Arc<StreamSender>) -> AbortOnDropHandle<()> {
        let (inbox, gone) = (self.inbox(), sender.gone());
        let cancellation = self.watch.as_ref().map(CancellationWatch::token);
        // The handler drops the sender when it ends, and that tells the caller if the method was
        // aborted. This task may end later, so it must not keep the sender.
        let sender = Arc::downgrade(sender);
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                // `None` once the caller is gone, or was silent for too long.
                let grant = tokio::select! {
                    biased;
                    () = gone.cancelled() => None,
                    grant = inbox.next_grant() => grant,
                };
                let Some(grant) = grant else { break };
                // `None` once the handler has ended.
                let Some(sender) = sender.upgrade() else { return };
                sender.grant(grant).await;
            }
            inbox.fail(IncomingError::Interrupted);
            if let Some(cancellation) = cancellation {
                cancellation.cancel();
            }
        }))
    }
}

impl Drop for IncomingCall<'_> {
    fn drop(&mut self) {
        self.inbox.fail(IncomingError::Interrupted);
        // Before `ended` is notified. Otherwise, the next request with this id would get the
        // cancelled token.
        drop(self.watch.take());
        let mut calls = self.items.lock();
        // Another request may have the same id.
        if calls
            .inboxes
            .get(&self.id)
            .is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox))
        {
            calls.inboxes.remove(&self.id);
        }
        drop(calls);
        self.items.ended.notify_waiters();
    }
}

/// Keeps the queue for items open.
struct Receiving<'a> {
    items: &'a IncomingItems,
    transport: &'a Arc<dyn Transport>,
    /// Dropping the sender resolves the receiver.
    first_attempt_done: Option<oneshot::Sender<()>>,
    failures: OpenFailureLog,
}

impl KeepOpen for Receiving<'_> {
    type Opened = Subscription;
    type End = ();

    async fn open(&mut self) -> ControlFlow<(), Result<Subscription, BrokerError>> {
        let queue = ControlQueue {
            keys: Arc::new([self.items.key.clone()]),
            prefetch: PREFETCH,
            time_to_live: TIME_TO_LIVE,
            max_messages: MAX_WAITING,
            max_bytes: MAX_WAITING_BYTES,
            refuses_excess: true,
        };
        let opened = self.transport.open_control(&queue).await;
        drop(self.first_attempt_done.take());
        ControlFlow::Continue(opened)
    }

    async fn run(&mut self, mut subscription: Subscription) -> ControlFlow<(), BrokerError> {
        self.failures = OpenFailureLog::default();
        self.items.resume();
        let lost = loop {
            match subscription.deliveries.next().await {
                Some(Ok(delivery)) => {
                    let tag = delivery.tag;
                    self.items.receive(delivery);
                    subscription.control.ack(tag);
                }
                Some(Err(reason)) => break reason,
                None => break BrokerError::Lost { source: None },
            }
        };
        self.items.lose();
        subscription.control.close().await;
        if lost.is_handle_ended() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(lost)
    }

    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<()> {
        if error.is_handle_ended() {
            return ControlFlow::Break(());
        }
        if !self.failures.admit(error) {
            return ControlFlow::Continue(());
        }
        let is_refused = error.is_lasting_refusal();
        let error = Logged(Chain(error));
        if is_refused {
            tracing::warn!(
                %error,
                "methods receive no items from their callers; the permissions of a worker that stops cancelled calls are needed"
            );
        } else {
            tracing::warn!(%error, "the queue for items of callers cannot be opened; trying again");
        }
        ControlFlow::Continue(())
    }

    fn delay(&self, error: &BrokerError, backoff: &mut Backoff) -> Duration {
        if error.is_lasting_refusal() {
            REFUSED_RETRY_DELAY
        } else {
            backoff.delay_after(error)
        }
    }
}

/// The correlation id of the request whose items [`receive_fuzzed`] receives. The corpus of the
/// fuzz target `incoming` and `fuzz/dictionary` contain it, because no input would guess it.
#[cfg(any(test, fuzzing))]
const FUZZED_REQUEST: Uuid = Uuid::from_u128(0x0011_2233_4455_4677_8899_aabb_ccdd_eeff);

/// For fuzzing: receives messages, as a peer may send them, while the method of
/// [`FUZZED_REQUEST`] runs. The method takes as many items after each message as the number beside
/// it, at most.
///
/// Panics if the method gets items that it cannot expect: after the end, beyond its credit, or too
/// large ones.
#[cfg(any(test, fuzzing))]
pub(crate) fn receive_fuzzed(messages: impl Iterator<Item = (u8, Message)>) {
    use std::task::{Context, Poll};

    const MAX_BYTES: usize = 1024;
    let identity = WorkerIdentity::new(None, None, None);
    let items = IncomingItems::new(&identity, MAX_BYTES).expect("the routing key is short");
    let call = items.open(FUZZED_REQUEST, &Arc::default());
    let inbox = call.inbox();
    assert!(inbox.begin_reading());
    let (mut taken, mut granted, mut has_ended) = (0, 0, false);
    let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
    for (takes, message) in messages {
        if let Some(grant) = inbox.news() {
            assert!(grant.taken == taken && grant.credit >= granted);
            granted = grant.credit;
        }
        items.receive(Delivery {
            message,
            redelivered: false,
            tag: 0,
            malformed: None,
            control_key: Some(items.key.clone()),
        });
        for _ in 0..takes {
            match inbox.poll_item(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(item))) => {
                    taken += 1;
                    assert!(!has_ended && taken <= granted && item.len() <= MAX_BYTES);
                }
                Poll::Ready(_) => has_ended = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_cancellation_before_the_method_waits_reaches_it() {
        let identity = WorkerIdentity::new(None, None, None);
        let (items, id) = (IncomingItems::new(&identity, 1).unwrap(), Uuid::new_v4());
        let cancellations = Arc::<Cancellations>::default();
        let call = items.open(id, &cancellations);
        cancellations.cancel_running(&[id]);
        let of_method = cancellations.watch(id);
        assert!(of_method.cancelled().now_or_never().is_some());
        drop((call, of_method));
        let next = cancellations.watch(id);
        assert!(next.cancelled().now_or_never().is_none());
    }
}
