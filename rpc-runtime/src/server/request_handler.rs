//! Handles the deliveries of one queue: decides about a request, runs its method, replies, acks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::outgoing_reply::OutgoingReply;
use super::pending_acks::{
    PendingAck, PendingAcks, RequestsInProgress, SharedDeduplicator, UnsettledDelivery,
};
use super::queue_delay::{Probes, is_probe, probe_reply};
use super::reply_channel::{ReplyChannel, SendOutcome};
use super::reply_sender::ReplySender;
use crate::protocol::{
    InvalidName, Message, Properties, QUEUE_TIME_HEADER, RETURNS_HEADER, ShortStr, reserved_header,
    write_millis,
};
use crate::service::{
    Arrival, Dispatcher, Executor, ForbiddenReplyAddress, Origin, Received, RequestId, RequestKey,
    RequestLabel, RequestLog, RequestSource, Response, Rules, returns,
};
use crate::telemetry::{Event, count};
use crate::transport::{Control, Delivery, Departure, Outgoing};

/// How often a request is rejected at most. A dead-letter policy may send it back to its queue each
/// time, without end.
const MAX_REJECTIONS: u32 = 20;

/// How long a forwarded copy waits before it runs. It may end this process at once. The broker must
/// have the ack of the original before that: otherwise both would be delivered again, and the
/// copies would multiply.
const COPY_PAUSE: Duration = Duration::from_millis(10);

/// How long a reply to another server's probe may wait for a connection.
const PROBE_REPLY_LIMIT: Duration = Duration::from_secs(1);

/// Handles the requests of one queue.
pub(super) struct RequestHandler {
    pub(super) queue: String,
    pub(super) executor: Executor,
    pub(super) channel: Arc<ReplyChannel>,
    pub(super) reply_sender: ReplySender,
    /// One permit for each request that may run at once.
    permits: Semaphore,
    concurrency: usize,
    pub(super) deduplicator: Arc<SharedDeduplicator>,
    /// Whether the queue for batches is consumed too.
    accepts_batches: AtomicBool,
    /// Whether callers must send no more batches for now.
    batches_stopped: AtomicBool,
    probes: Arc<Probes>,
}

impl RequestHandler {
    pub(super) fn new(
        queue: String,
        dispatcher: Dispatcher,
        rules: Rules,
        channel: Arc<ReplyChannel>,
        reply_sender: ReplySender,
        concurrency: u16,
        probes: Arc<Probes>,
    ) -> Self {
        let log = RequestLog::new(queue.as_str());
        Self {
            executor: Executor::new(dispatcher, rules, log, RequestSource::Queue),
            queue,
            channel,
            reply_sender,
            permits: Semaphore::new(concurrency.into()),
            concurrency: concurrency.into(),
            deduplicator: Arc::default(),
            accepts_batches: AtomicBool::new(false),
            batches_stopped: AtomicBool::new(false),
            probes,
        }
    }

    /// Tells callers from now on how many calls to put into one batch.
    pub(super) fn accept_batches(&self) {
        self.accepts_batches.store(true, Ordering::Relaxed);
    }

    /// Tells callers from now on to send single requests.
    pub(super) fn stop_batches(&self) {
        self.batches_stopped.store(true, Ordering::Relaxed);
    }

    /// Undoes [`stop_batches`](Self::stop_batches).
    pub(super) fn resume_batches(&self) {
        self.batches_stopped.store(false, Ordering::Relaxed);
    }

    /// Forgets the deliveries of a subscription that has ended. They can no longer be acked, and
    /// the broker delivers them again.
    pub(super) fn forget_deliveries(&self, control: &Arc<dyn Control>) {
        self.deduplicator
            .lock()
            .forget_deliveries(|delivery| delivery.is_of(control));
    }

    /// Handles a delivery: a single request, or a batch if it came from the queue for batches.
    ///
    /// Its requests stay in progress until the broker has their replies, which may be later than
    /// this returns. A request that can be neither answered nor acked is delivered again, here or
    /// elsewhere.
    pub(super) async fn handle(
        self: &Arc<Self>,
        delivery: Delivery,
        is_batch: bool,
        control: Arc<dyn Control>,
        received: Received,
        in_progress: &RequestsInProgress,
    ) {
        if is_probe(&delivery.message.properties) {
            self.reply_to_probe(&delivery, &control, received.at).await;
        } else if is_batch && delivery.malformed.is_none() {
            self.handle_batch(delivery, control, received, in_progress).await;
        } else {
            self.handle_single(delivery, control, received, in_progress).await;
        }
    }

    /// Tells a server that its probe has passed through the queue. This needs no permit.
    async fn reply_to_probe(&self, delivery: &Delivery, control: &Arc<dyn Control>, now: Instant) {
        control.settle(delivery.tag);
        let properties = &delivery.message.properties;
        if self.probes.returned(properties.correlation_id.as_ref(), now) {
            return;
        }
        if let Some(reply) = probe_reply(properties)
            && self.executor.rules.check_reply_address(&reply.queue).is_ok()
        {
            // Another probe follows soon if this reply is lost.
            let _ = self
                .channel
                .send(reply, Some(now + PROBE_REPLY_LIMIT), false)
                .await;
        }
    }

    async fn handle_single(
        self: &Arc<Self>,
        delivery: Delivery,
        control: Arc<dyn Control>,
        received: Received,
        in_progress: &RequestsInProgress,
    ) {
        let properties = &delivery.message.properties;
        let is_dead_lettered = properties.dead_lettered.is_some();
        let is_counted_copy = returns(&properties.headers) > 0;
        self.count_received(1, delivery.redelivered || is_dead_lettered);
        let unsettled = UnsettledDelivery::new(control, delivery.tag, 1, in_progress);
        let ack = match key(&delivery) {
            Some(key) => {
                let origin = Origin::new(delivery.redelivered, is_dead_lettered, &properties.headers);
                self.deduplicate(key, origin, unsettled)
            }
            None => Some(PendingAck::Untracked(unsettled)),
        };
        if let Some(ack) = ack {
            let acks = PendingAcks::of_one(&self.deduplicator, in_progress, ack);
            if is_counted_copy {
                tokio::time::sleep(COPY_PAUSE).await;
            }
            self.process(delivery, received, acks).await;
        }
    }

    /// Counts a message with this number of requests.
    pub(super) fn count_received(&self, requests: usize, redelivered: bool) {
        count(Event::RequestsReceived {
            queue: &self.queue,
            requests,
            redelivered,
        });
    }

    /// Returns the ack of a request that must be handled. `None` if the request is in progress here
    /// or was answered before.
    pub(super) fn deduplicate(
        &self,
        key: RequestKey,
        origin: Origin,
        unsettled: UnsettledDelivery,
    ) -> Option<PendingAck> {
        let arrival = self.deduplicator.lock().arrive(key, origin, unsettled.clone());
        match arrival {
            Arrival::Run(key) => return Some(PendingAck::Tracked(key)),
            Arrival::RunUntracked => return Some(PendingAck::Untracked(unsettled)),
            Arrival::Joined => self.executor.log.redelivered(false),
            Arrival::Answered => {
                self.executor.log.redelivered(true);
                unsettled.ack();
            }
            Arrival::Rejected => {
                self.executor.log.redelivered(true);
                unsettled.reject();
            }
        }
        None
    }

    /// Decides about a request, runs its method and sends its reply.
    async fn process(&self, delivery: Delivery, received: Received, acks: PendingAcks) {
        // A permit is free, unless requests of a lost subscription are still running.
        let Some(_permit) = self.permit().await else {
            return;
        };
        let Delivery {
            mut message,
            redelivered,
            malformed,
            ..
        } = delivery;
        let Executor {
            dispatcher, rules, ..
        } = &self.executor;
        if malformed.is_none()
            && let Some(returns) = dispatcher.uncounted_returns(&message, redelivered, rules)
        {
            let name = ShortStr::from_static(RETURNS_HEADER);
            message.properties.headers.insert(name, returns.to_string());
            return self.forward(message, None, acks).await;
        }
        let properties = &message.properties;
        let deadline = properties.expiration.and_then(|time| received.deadline(time));
        let label = RequestLabel::of(properties);
        let rejections = properties.dead_lettered.map_or(0, |dead| dead.rejections);
        let now = Instant::now();
        let decided = match malformed {
            None => self.executor.decide(message, redelivered, received, now),
            Some(malformed) => Dispatcher::refuse_malformed(&message, malformed, redelivered, rules),
        };
        let response = match decided {
            Ok(decision) => self.executor.execute(&self.queue, decision, &label, now).await,
            Err(forbidden) => {
                self.dropped(&forbidden);
                return self.reject(acks, rejections);
            }
        };
        let batch_size = self.advised_batch_size(response.batch_size);
        let Response {
            mut reply,
            reply_to,
            is_refused,
            ..
        } = response;
        write_millis(&mut reply.headers, QUEUE_TIME_HEADER, received.queue_time);
        match reply_to {
            Some(to) => self.reply_sender.send(OutgoingReply {
                to,
                reply,
                batch_size,
                deadline,
                max_unchecked: self.max_unchecked_confirms(&acks),
                acks,
                is_suspect: false,
            }),
            None if is_refused => self.reject(acks, rejections),
            None => acks.ack(),
        }
    }

    /// Rejects a refused request whose sender expects no reply. It is acked instead if it was
    /// rejected too often: its dead letters come back to this queue.
    pub(super) fn reject(&self, acks: PendingAcks, rejections: u32) {
        if rejections >= MAX_REJECTIONS {
            self.executor.log.rejected_too_often(rejections);
            return acks.ack();
        }
        self.executor.log.rejected();
        acks.reject();
    }

    /// Publishes a copy of a request to the queue for single requests, and acks the original.
    ///
    /// The copy expires at `deadline`, when its caller gives up.
    pub(super) async fn forward(&self, mut message: Message, deadline: Option<Instant>, acks: PendingAcks) {
        let Ok(queue) = ShortStr::new(&self.queue) else {
            return;
        };
        acks.mark_forwarded();
        let Properties {
            headers,
            reply_to,
            expiration,
            ..
        } = &mut message.properties;
        // RabbitMQ's own headers describe this message, not the copy.
        headers.retain(|name| reserved_header(name) != Some(InvalidName::Reserved));
        Origin::mark_copy(headers);
        if let Some(deadline) = deadline {
            *expiration = Some(deadline.saturating_duration_since(Instant::now()));
        }
        let is_oneway = reply_to
            .as_ref()
            .is_none_or(|address| address.as_str().is_empty());
        let outgoing = Outgoing {
            queue,
            mandatory: false,
            message,
            departure: Departure::default(),
        };
        match self.channel.send(outgoing, deadline, false).await {
            Ok(SendOutcome::Confirmed | SendOutcome::Expired) => acks.ack(),
            Ok(SendOutcome::Refused(_)) => {
                self.executor.log.not_forwarded(is_oneway);
                if is_oneway {
                    acks.reject();
                } else {
                    acks.ack();
                }
            }
            // The handle was closed, so the broker delivers the request again.
            Err(_) => {}
        }
    }

    /// Returns after how many replies their confirms must be looked at.
    ///
    /// Until then no further request is delivered for them. Each confirm is therefore looked at
    /// alone if the requests in progress fill more than half of the prefetch.
    pub(super) fn max_unchecked_confirms(&self, acks: &PendingAcks) -> usize {
        if 2 * acks.requests_in_progress() > self.concurrency {
            1
        } else {
            (self.concurrency / 4).clamp(1, 32)
        }
    }

    /// Returns a permit to run a request, if one is free.
    pub(super) fn try_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// Waits for a permit to run a request.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    /// Returns how many calls the caller should put into one batch; 0 tells it nothing.
    pub(super) fn advised_batch_size(&self, batch_size: Option<u16>) -> u16 {
        match batch_size {
            None => 0,
            Some(_) if self.batches_stopped.load(Ordering::Relaxed) => 1,
            Some(_) if !self.accepts_batches.load(Ordering::Relaxed) => 0,
            Some(batch_size) => batch_size,
        }
    }

    /// Counts and logs a message that is dropped.
    pub(super) fn dropped(&self, forbidden: &ForbiddenReplyAddress) {
        let (queue, code) = (&self.queue, "reply_address");
        count(Event::RequestRefused { queue, code });
        self.executor.log.dropped(forbidden);
    }
}

/// Returns what identifies a request that is delivered again. `None` if nothing does, or if the
/// request is malformed and never runs.
///
/// Without a reply address, only a UUID counts as unique. Other senders use the id of an order, for
/// example, for every message that concerns the order.
fn key(delivery: &Delivery) -> Option<RequestKey> {
    if delivery.malformed.is_some() {
        return None;
    }
    let properties = &delivery.message.properties;
    let id = RequestId::from(properties.correlation_id.as_ref()?);
    let is_answered = properties
        .reply_to
        .as_ref()
        .is_some_and(|address| !address.as_str().is_empty());
    let is_unique = is_answered || matches!(id, RequestId::Uuid(_));
    is_unique.then(|| RequestKey::new(properties.reply_to.clone(), id))
}

#[cfg(test)]
mod tests;
