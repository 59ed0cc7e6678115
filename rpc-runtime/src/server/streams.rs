//! The streams that a worker sends, and its grants for those that callers send.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::reply_channel::{IgnoreConfirm, ReplyChannel, SendOutcome};
use super::worker_identity::WorkerIdentity;
use crate::codec::Codec;
use crate::error::BrokerError;
use crate::protocol::{
    CREDIT_TYPE, DIRECT_REPLY_TO, Fault, FaultCode, Grant, ITEMS_TYPE, IncomingGrant, ItemWriter, QueueTime,
    Reply, ReplyKind, ShortStr, Volume, WORKER_HEADER,
};
use crate::service::{Credit, ItemSink, ReplyTo, SendPermit, StreamRequest, end_of_stream};
use crate::transport::Outgoing;

/// How many messages with items of a stream may be unconfirmed, and how many grants.
const MAX_UNCONFIRMED: usize = 16;

/// How long a message of a stream may wait for a connection. Its caller has given up then, unless
/// the broker was down for both.
pub(super) const SEND_LIMIT: Duration = Duration::from_secs(60);

/// The streams that a worker sends, and their credit. If a caller only sends a stream, the grants
/// that it gets count as a stream without items.
#[derive(Debug)]
pub(super) struct Streams {
    worker: WorkerIdentity,
    /// The number of the stream that began last. No two streams of the worker have the same.
    last_run: AtomicU64,
    /// By the correlation ids of their requests.
    running: Mutex<HashMap<Uuid, RunningStream, RandomState>>,
}

#[derive(Debug)]
struct RunningStream {
    /// The reply address of the request.
    address: ShortStr,
    credit: Arc<Credit>,
}

impl Streams {
    pub(super) fn new(identity: &WorkerIdentity) -> Self {
        Self {
            worker: identity.clone(),
            last_run: AtomicU64::new(0),
            running: Mutex::default(),
        }
    }

    /// Raises the credit of the streams that are sent here. Ignores grants for others.
    pub(super) fn grant(&self, grants: impl IntoIterator<Item = Grant>) {
        for Grant { id, credit } in grants {
            let stream_credit = self.lock().get(&id).map(|stream| Arc::clone(&stream.credit));
            if let Some(stream_credit) = stream_credit {
                stream_credit.raise(credit);
            }
        }
    }

    /// Whether a request with the same id and another reply address has a stream here.
    pub(super) fn is_id_taken(&self, id: Uuid, address: &ShortStr) -> bool {
        let running = self.lock();
        running.get(&id).is_some_and(|stream| stream.address != *address)
    }

    /// Whether a stream that answers the request with this id is sent here.
    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.lock().contains_key(&id)
    }

    /// Numbers the next stream. Returns the value of the header by which its caller recognizes its
    /// messages.
    fn next_run_header(&self) -> String {
        let last = self.last_run.fetch_add(1, Ordering::Relaxed);
        self.worker.header_of_run(last + 1)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, RunningStream, RandomState>> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the items of one stream, and the grants for the items that its caller sends. Dropping it
/// gives up the messages that are not confirmed.
#[derive(Debug)]
pub(super) struct StreamSender {
    streams: Arc<Streams>,
    id: Uuid,
    /// The value of the header that identifies the worker and this run of the method.
    run_header: String,
    to: ReplyTo,
    codec: Codec,
    /// How long messages waited in the queue when the request arrived. The messages of the stream
    /// say so until one was confirmed.
    queue_time: QueueTime,
    channel: Arc<ReplyChannel>,
    /// Whether the caller reads items. Otherwise it only sends some.
    has_items: bool,
    credit: Arc<Credit>,
    /// How many items were sent.
    sent: AtomicU64,
    /// See [`set_owes_end`](Self::set_owes_end).
    owes_end: AtomicBool,
    progress: Arc<Progress>,
    /// A task for each unconfirmed message.
    unconfirmed: Mutex<JoinSet<()>>,
}

/// What a message of a stream carries, unless it is the reply that ends the stream.
#[derive(Debug, Clone, Copy)]
enum Content {
    Items,
    Grant,
}

/// What has become of the messages of a stream.
#[derive(Debug)]
struct Progress {
    /// A permit for each message with items that may be unconfirmed.
    slots: Arc<Semaphore>,
    /// A permit for each grant that may be unconfirmed.
    grant_slots: Arc<Semaphore>,
    /// Whether a message was confirmed.
    has_begun: AtomicBool,
    /// Notified when a message is confirmed.
    confirmed: Notify,
    /// Why no more messages with items can be sent.
    failure: OnceLock<Fault>,
    /// Cancelled when the broker returns a grant: the caller's reply queue does not exist.
    gone: CancellationToken,
}

impl StreamSender {
    /// Begins the stream that answers a request. `None` if the request has arrived before and its
    /// first stream is still sent here: the caller would get the items of both. A stream with the
    /// same id and another reply address gets no more credit from now on.
    pub(super) fn begin(
        streams: &Arc<Streams>,
        StreamRequest { id, credit, .. }: StreamRequest,
        to: ReplyTo,
        codec: Codec,
        queue_time: Duration,
        channel: &Arc<ReplyChannel>,
    ) -> Option<Self> {
        let has_items = credit.is_some();
        let credit = Arc::new(Credit::new(credit.unwrap_or_default()));
        let stream = RunningStream {
            address: to.address.clone(),
            credit: Arc::clone(&credit),
        };
        match streams.lock().entry(id) {
            Entry::Occupied(running) if running.get().address == stream.address => return None,
            // Another caller, or another address of the same one.
            Entry::Occupied(mut running) => _ = running.insert(stream),
            Entry::Vacant(place) => _ = place.insert(stream),
        }
        Some(Self {
            run_header: streams.next_run_header(),
            streams: Arc::clone(streams),
            id,
            to,
            codec,
            queue_time: queue_time.into(),
            channel: Arc::clone(channel),
            has_items,
            credit,
            sent: AtomicU64::new(0),
            owes_end: AtomicBool::new(false),
            progress: Arc::new(Progress {
                slots: Arc::new(Semaphore::new(MAX_UNCONFIRMED)),
                grant_slots: Arc::new(Semaphore::new(MAX_UNCONFIRMED)),
                has_begun: AtomicBool::new(false),
                confirmed: Notify::new(),
                failure: OnceLock::new(),
                gone: CancellationToken::new(),
            }),
            unconfirmed: Mutex::default(),
        })
    }

    /// Waits until the stream has begun: the broker has confirmed one of its messages. Cancel safe.
    /// Must not be called again after it has returned.
    pub(super) async fn begun(&self) {
        self.progress.confirmed.notified().await;
    }

    /// Sets whether this must tell the caller how the stream ends, even if it is dropped: once the
    /// delivery of the request was acked, no other worker can.
    pub(super) fn set_owes_end(&self, owes_end: bool) {
        self.owes_end.store(owes_end, Ordering::Relaxed);
    }

    /// Waits until no message is unconfirmed. Returns the reply that ends the stream, with its
    /// headers: a fault instead of `reply` if items could not be sent. Afterwards, dropping this
    /// sends no fault.
    pub(super) async fn finish(&self, reply: Reply) -> Reply {
        // All permits are free once no message is unconfirmed.
        let all = u32::try_from(MAX_UNCONFIRMED).unwrap_or(u32::MAX);
        for slots in [&self.progress.slots, &self.progress.grant_slots] {
            // Fails only if the semaphore is closed, which it never is.
            let _ = slots.acquire_many(all).await;
        }
        self.set_owes_end(false);
        match self.progress.failure.get() {
            None => self.mark_end(reply),
            Some(failure) => self.end_with(failure),
        }
    }

    /// Returns the reply that ends a stream with a fault. It has no number of items if some may be
    /// missing, so that the caller does not wait for them.
    fn end_with(&self, fault: &Fault) -> Reply {
        let reply = Reply::fault(self.codec, fault);
        let are_unconfirmed = self.progress.slots.available_permits() < MAX_UNCONFIRMED;
        let may_lack_items = are_unconfirmed || self.progress.failure.get().is_some();
        if may_lack_items {
            self.with_run_header(reply)
        } else {
            self.mark_end(reply)
        }
    }

    /// Adds the headers of the reply that ends a stream: the run that it ends, and the number of
    /// items if the caller reads any. [`end_of_stream`] may replace the reply of a layer.
    fn mark_end(&self, mut reply: Reply) -> Reply {
        if self.has_items {
            reply = end_of_stream(reply, self.sent());
        }
        self.with_run_header(reply)
    }

    fn with_run_header(&self, mut reply: Reply) -> Reply {
        let header = ShortStr::from_static(WORKER_HEADER);
        reply.headers.insert(header, self.run_header.clone());
        reply
    }

    /// Waits until another grant may be sent, and then tells the caller how many items it may send.
    pub(super) async fn grant(&self, grant: IncomingGrant) {
        let permit = reserve(&self.progress.grant_slots).await;
        self.publish(Content::Grant, grant.write(), permit);
    }

    /// Returns the token that is cancelled when the broker returns a grant; see [`Progress::gone`].
    pub(super) fn gone(&self) -> CancellationToken {
        self.progress.gone.clone()
    }

    /// Whether the replies go to a direct reply-to address, which ends with its connection.
    fn is_direct(&self) -> bool {
        self.to.address.as_str().starts_with(DIRECT_REPLY_TO)
    }

    /// Returns a message to the caller with items or a grant.
    fn message(&self, content: Content, body: Bytes) -> Outgoing {
        let message_type = match content {
            Content::Items => ITEMS_TYPE,
            Content::Grant => CREDIT_TYPE,
        };
        let mut reply = self.with_run_header(Reply {
            unknown_type: Some(Box::new(ShortStr::from_static(message_type))),
            ..Reply::new(ReplyKind::Result, self.codec, body)
        });
        if !self.progress.has_begun.load(Ordering::Relaxed) {
            reply.queue_time = self.queue_time;
        }
        Outgoing {
            queue: self.to.address.clone(),
            // A direct reply-to address is no queue: RabbitMQ before 4.2 may return a message that
            // it delivers.
            mandatory: !self.is_direct(),
            message: self.to.message(reply),
            send_token: None,
        }
    }
}

impl ItemSink for StreamSender {
    fn credit(&self) -> &Credit {
        &self.credit
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn reserve(&self) -> BoxFuture<'_, Result<SendPermit, Fault>> {
        Box::pin(async {
            let permit = reserve(&self.progress.slots).await;
            self.progress.failure.get().cloned().map_or(Ok(permit), Err)
        })
    }

    fn survives_connection(&self) -> bool {
        !self.is_direct()
    }

    fn send(&self, permit: SendPermit, first: u64, items: ItemWriter, credit: Volume) {
        let sent = first + items.volume().items;
        self.sent.store(sent, Ordering::Relaxed);
        let body = items.write(first, credit);
        self.publish(Content::Items, body, permit);
    }
}

impl StreamSender {
    /// Starts to publish a message, again until it is confirmed or fails, and records the outcome
    /// in [`Progress`]. Holds `permit` until then.
    fn publish(&self, content: Content, body: Bytes, permit: SendPermit) {
        let outgoing = self.message(content, body);
        let (channel, progress) = (Arc::clone(&self.channel), Arc::clone(&self.progress));
        let mut unconfirmed = self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner);
        while unconfirmed.try_join_next().is_some() {}
        unconfirmed.spawn(async move {
            let deadline = Some(Instant::now() + SEND_LIMIT);
            let outcome = channel.send(outgoing, deadline, false).await;
            let is_returned = matches!(outcome, Ok(SendOutcome::Unroutable));
            match (content, failure_reason(outcome)) {
                (_, None) => {
                    progress.has_begun.store(true, Ordering::Relaxed);
                    progress.confirmed.notify_one();
                }
                (Content::Items, Some(reason)) => {
                    let _ = progress.failure.set(Fault::new(FaultCode::Abandoned, reason));
                }
                (Content::Grant, Some(_)) if is_returned => progress.gone.cancel(),
                // Another grant follows in a few seconds.
                (Content::Grant, Some(_)) => {}
            }
            drop(permit);
        });
    }
}

impl Drop for StreamSender {
    /// Removes the stream. If this still owes the caller the end, because the method is aborted,
    /// sends a fault if that is possible without waiting.
    fn drop(&mut self) {
        if self.owes_end.load(Ordering::Relaxed) {
            let fault = Fault::new(FaultCode::Interrupted, "the worker of the stream stops");
            let outgoing = Outgoing {
                queue: self.to.address.clone(),
                mandatory: false,
                message: self.to.message(self.end_with(&fault)),
                send_token: None,
            };
            if let Err(outgoing) = self.channel.try_send(outgoing, Arc::new(IgnoreConfirm)) {
                // `try_send` takes no direct replies, which have a connection of their own. If that
                // is open, as in most cases, one poll sends the reply.
                let _ = self.channel.send(*outgoing, None, false).now_or_never();
            }
        }
        let mut running = self.streams.lock();
        // Another request may have the same id.
        if running
            .get(&self.id)
            .is_some_and(|stream| Arc::ptr_eq(&stream.credit, &self.credit))
        {
            running.remove(&self.id);
        }
    }
}

/// Waits for a free slot.
async fn reserve(slots: &Arc<Semaphore>) -> SendPermit {
    let permit = Arc::clone(slots).acquire_owned().await;
    // Fails only if the semaphore is closed, which it never is.
    permit.map_or_else(|_| SendPermit::default(), SendPermit::holding)
}

/// Returns why a message of a stream is not confirmed. `None` if it is.
fn failure_reason(outcome: Result<SendOutcome, BrokerError>) -> Option<&'static str> {
    Some(match outcome {
        Ok(SendOutcome::Confirmed) => return None,
        Ok(SendOutcome::Unroutable) => "the caller is gone",
        Ok(SendOutcome::Refused | SendOutcome::Unsendable(_)) => "the broker refused a message of the stream",
        Ok(SendOutcome::Expired) => "a message of the stream could not be sent",
        Err(_) => "the worker stops",
    })
}
