//! Handles the deliveries of one request queue and of its queue for batches: decides what to do
//! with a request, runs its method, replies and acks.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::batching::BatchSizeAsk;
use super::incoming_items::IncomingItems;
use super::job_queues::{JobQueues, MAX_UNCONFIRMED};
use super::outgoing_reply::OutgoingReply;
use super::pending_acks::{PendingAck, PendingAcks, RequestShare, RequestsInProgress, SharedDeduplicator};
use super::queue_wait::{Probes, is_probe, probe_reply};
use super::reply_channel::{IgnoreConfirm, ReplyChannel, SendOutcome, before};
use super::reply_sender::ReplySender;
use super::streams::{SEND_LIMIT, StreamSender, Streams};
use crate::protocol::{
    Fault, Message, Properties, ShortStr, is_given_up, is_rabbitmqs_header, limit_headers,
};
use crate::service::{
    AdmittedRequest, Cancellations, CorrelationId, Decision, DeliveryAction, Dispatcher, Executor,
    ForbiddenReplyAddress, ItemSink, Origin, PriorState, Received, RequestKey, RequestLabel, RequestLog,
    RequestSource, Response, Rules, StreamRequest, redelivery_count, set_redelivery_count,
    take_returned_pause,
};
use crate::telemetry::{Event, count};
use crate::transport::{Control, Delivery, Outgoing, SendToken};

/// How many times a request may be rejected. A dead-letter policy may return it to its queue each
/// time, without end.
const MAX_REJECTIONS: u32 = 20;

/// How long the copy of a redelivered request waits before it runs. There is a copy if only workers
/// can count the redeliveries, which they do in a header of the copy. Running the copy may crash
/// this process. The original's ack must reach the broker first; otherwise both are delivered
/// again, and the copies multiply. Few requests are redelivered, so few wait.
const COPY_PAUSE: Duration = Duration::from_millis(100);

/// How long a reply to another server's probe may wait for a connection.
const PROBE_REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// Handles the requests of one queue and of its queue for batches.
pub(super) struct RequestHandler {
    pub(super) queue: String,
    pub(super) executor: Executor,
    pub(super) channel: Arc<ReplyChannel>,
    pub(super) reply_sender: ReplySender,
    /// As many permits as requests may run at once. Single and batched requests share them.
    permits: Semaphore,
    /// For streams that go on after their first message, as many as `permits`. Such a permit
    /// replaces that of the stream's request.
    stream_permits: Semaphore,
    /// The items that callers send. `None` if no method of the server receives any.
    incoming: Option<Arc<IncomingItems>>,
    /// The streams that the server sends. `None` before [`with_streams`](Self::with_streams).
    streams: Option<Arc<Streams>>,
    /// A permit for each forwarded copy that may be unconfirmed.
    forwards: Arc<Semaphore>,
    pub(super) deduplicator: Arc<SharedDeduplicator>,
    /// Whether replies advise callers how many calls to put into one batch, unless batches are
    /// paused. `false` if batching is turned off, or if the queue for batches was refused and this
    /// worker does not try again to serve it.
    advises_batches: AtomicBool,
    /// Whether replies advise callers to send single requests. Overrides `advises_batches`.
    batches_paused: AtomicBool,
    probes: Arc<Probes>,
    /// `None` if no job is served on the queue.
    pub(super) jobs: Option<JobQueues>,
}

impl RequestHandler {
    /// A handler that runs at most `concurrency` requests at a time, and as many streams that have
    /// begun.
    ///
    /// [`with_streams`](Self::with_streams) is required if methods have streams, in either
    /// direction, and [`with_incoming`](Self::with_incoming) if methods receive items. Without
    /// [`with_cancellations`](Self::with_cancellations), calls are not cancelled. Without
    /// [`with_jobs`](Self::with_jobs), failed jobs are not retried.
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
            stream_permits: Semaphore::new(concurrency.into()),
            incoming: None,
            streams: None,
            forwards: Arc::new(Semaphore::new(MAX_UNCONFIRMED)),
            deduplicator: Arc::default(),
            advises_batches: AtomicBool::new(false),
            batches_paused: AtomicBool::new(false),
            probes,
            jobs: None,
        }
    }

    /// Lets callers cancel their calls through `cancellations`.
    pub(super) fn with_cancellations(self, cancellations: Arc<Cancellations>) -> Self {
        Self {
            executor: self.executor.with_cancellations(cancellations),
            ..self
        }
    }

    /// Adds the streams of the server.
    pub(super) fn with_streams(self, streams: Arc<Streams>) -> Self {
        let streams = Some(streams);
        Self { streams, ..self }
    }

    /// Adds the items that callers send.
    pub(super) fn with_incoming(self, incoming: Option<Arc<IncomingItems>>) -> Self {
        Self { incoming, ..self }
    }

    /// Adds the queues for the jobs of the request queue.
    pub(super) fn with_jobs(self, jobs: Option<JobQueues>) -> Self {
        Self { jobs, ..self }
    }

    /// From now on, replies advise callers how many calls to put into one batch, unless batches are
    /// paused.
    pub(super) fn advise_batches(&self) {
        self.advises_batches.store(true, Ordering::Relaxed);
    }

    /// From now on, replies advise callers to send single requests.
    pub(super) fn pause_batches(&self) {
        self.batches_paused.store(true, Ordering::Relaxed);
    }

    /// Undoes [`pause_batches`](Self::pause_batches), unless batching is turned off: callers must
    /// then go on sending single requests.
    pub(super) fn resume_batches(&self) {
        if self.advises_batches.load(Ordering::Relaxed) {
            self.batches_paused.store(false, Ordering::Relaxed);
        }
    }

    /// Forgets the deliveries of the subscription with this control, which has ended or is about to
    /// be closed. They are not acked any more, and the broker delivers them again.
    pub(super) fn forget_deliveries(&self, control: &Arc<dyn Control>) {
        self.deduplicator
            .lock()
            .forget_deliveries(|delivery| delivery.was_delivered_on(control));
    }

    /// Handles a delivery: a probe, a batch, or a single request. `is_batch` is whether it comes
    /// from the queue for batches. A malformed batch is refused as if it were one request.
    ///
    /// The requests stay in progress until they end: usually once the broker has their replies,
    /// which may be after this returns. A request that can be neither answered nor acked is
    /// delivered again, to this worker or another one.
    pub(super) async fn handle(
        self: &Arc<Self>,
        delivery: Box<Delivery>,
        is_batch: bool,
        control: Arc<dyn Control>,
        received: Received,
        in_progress: &RequestsInProgress,
    ) {
        // Boxed, except what handles a single request: its task stays small.
        if is_probe(&delivery.message.properties) {
            Box::pin(self.handle_probe(&delivery, &control, received.at)).await;
        } else if is_batch && delivery.malformed.is_none() {
            Box::pin(self.handle_batch(*delivery, control, received, in_progress)).await;
        } else {
            self.handle_single(delivery, control, received, in_progress).await;
        }
    }

    /// Acks a probe. Records that it came back if it is this server's own. Otherwise replies to it,
    /// so that its server learns that it has passed through the queue, unless its reply address is
    /// forbidden. This needs no permit.
    async fn handle_probe(&self, delivery: &Delivery, control: &Arc<dyn Control>, arrived_at: Instant) {
        control.ack(delivery.tag);
        let properties = &delivery.message.properties;
        let id = properties.correlation_id.as_ref();
        let is_own = self.probes.record_returned_probe(id, arrived_at);
        if is_own {
            return;
        }
        if let Some(reply) = probe_reply(properties)
            && self.executor.rules.check_reply_address(&reply.queue).is_ok()
        {
            // If this reply is lost, another probe follows soon.
            let _ = self
                .channel
                .send(reply, Some(arrived_at + PROBE_REPLY_TIMEOUT), false)
                .await;
        }
    }

    /// Handles a single request, or a malformed batch.
    async fn handle_single(
        self: &Arc<Self>,
        mut delivery: Box<Delivery>,
        control: Arc<dyn Control>,
        received: Received,
        in_progress: &RequestsInProgress,
    ) {
        let properties = &delivery.message.properties;
        let is_dead_lettered = properties.dead_lettered.is_some();
        self.count_received(1, delivery.redelivered || is_dead_lettered);
        let share = RequestShare::whole(control, delivery.tag, in_progress);
        let ack = match request_key(&delivery) {
            Some(key) => {
                let origin = Origin::new(delivery.redelivered, is_dead_lettered, &properties.headers);
                self.deduplicate(key, origin, share)
            }
            None => Some(PendingAck::Untracked(share)),
        };
        let Some(ack) = ack else { return };
        let acks = PendingAcks::of_one(&self.deduplicator, in_progress, ack);
        if let Some(pause) = take_copy_pause(&mut delivery.message.properties) {
            tokio::time::sleep(pause).await;
        }
        self.process(delivery, received, acks).await;
    }

    /// Counts the requests of a message. `redelivered` is `true` for a dead letter too.
    pub(super) fn count_received(&self, requests: usize, redelivered: bool) {
        count(Event::RequestsReceived {
            queue: &self.queue,
            requests,
            redelivered,
        });
    }

    /// Adds a delivery of a request to the deduplicator. Returns the ack that is owed if the
    /// request is to be handled now. Returns `None` if its delivery needs nothing more: it was
    /// acked or rejected like an earlier delivery of the request, or it waits for the outcome of
    /// one that is in progress here.
    pub(super) fn deduplicate(
        &self,
        key: RequestKey,
        origin: Origin,
        share: RequestShare,
    ) -> Option<PendingAck> {
        let action = self.deduplicator.lock().add(key, origin, share.clone());
        match action {
            DeliveryAction::Run(key) => return Some(PendingAck::Tracked(key)),
            DeliveryAction::RunUntracked => return Some(PendingAck::Untracked(share)),
            DeliveryAction::Join => self.executor.log.redelivered(PriorState::InProgress),
            DeliveryAction::Ack => {
                self.executor.log.redelivered(PriorState::Ended);
                share.ack();
            }
            DeliveryAction::Reject => {
                self.executor.log.redelivered(PriorState::Rejected);
                share.reject();
            }
        }
        None
    }

    /// Moves a request if it must not run now; see [`Relocation`]. Otherwise decides whether it
    /// runs, runs its method, and replies, acks or rejects. A job that fails is moved too.
    async fn process(&self, delivery: Box<Delivery>, received: Received, acks: PendingAcks) {
        // The prefetch equals the number of permits. Nevertheless, none may be free: batched
        // requests use them too, and so do requests of a lost subscription that are still running.
        let Some(permit) = self.permit().await else {
            return;
        };
        let Delivery {
            mut message,
            redelivered,
            malformed,
            ..
        } = *delivery;
        let is_oneway = !expects_reply(&message.properties);
        let jobs = self.jobs.as_ref().filter(|_| is_oneway);
        if malformed.is_none()
            && let Some(relocation) = self.decide_relocation(&mut message, redelivered, jobs)
        {
            drop(permit);
            // Boxed, as are the two futures below: few requests need them, and the task of any
            // other stays small.
            return Box::pin(self.relocate(relocation, message, acks)).await;
        }
        let ask = is_oneway.then(|| BatchSizeAsk::of_message(&message)).flatten();
        // What is moved if the request fails or is refused. A malformed message is rejected instead
        // if the broker dead-letters it then: the broker keeps more of it than a copy could.
        let job = jobs
            .filter(|jobs| malformed.is_none() || !jobs.dead_letters_rejected())
            .map(|jobs| (jobs, Box::new(message.clone())));
        let properties = &message.properties;
        let deadline = properties.expiration.and_then(|time| received.deadline(time));
        let label = RequestLabel::of(properties);
        let rejections = properties.dead_lettered.map_or(0, |dead| dead.rejections);
        let was_delivered = redelivered || properties.dead_lettered.is_some();
        let now = Instant::now();
        let mut decided = match malformed {
            None => self.executor.decide(message, redelivered, received, now),
            Some(malformed) => {
                Dispatcher::refuse_malformed(&message, malformed, redelivered, &self.executor.rules)
            }
        };
        if let Ok(decision) = &mut decided
            && let Some((stream, incoming)) = self.stream_with_taken_id(decision)
        {
            Box::pin(self.free_id_or_refuse(decision, stream, incoming, was_delivered)).await;
        }
        let response = match decided {
            Ok(Decision::Run(admitted)) if admitted.stream.is_some() && admitted.reply_to.is_some() => {
                let run = StreamRun {
                    admitted,
                    label,
                    begun: now,
                    queue_time: received.queue_time,
                };
                return Box::pin(self.process_stream(run, permit, acks)).await;
            }
            Ok(decision) => self.executor.execute(&self.queue, decision, &label, now).await,
            Err(forbidden) => {
                self.reply_address_forbidden(&forbidden);
                return self.reject(acks, rejections);
            }
        };
        let batch_size = self.advised_batch_size(response.batch_size);
        let Response {
            mut reply,
            reply_to,
            is_refused,
            is_cancelled,
            ..
        } = response;
        drop(permit);
        if is_cancelled {
            return acks.ack();
        }
        if let Some(ask) = ask {
            self.answer_batch_size(ask);
        }
        reply.queue_time = received.queue_time.into();
        match reply_to {
            Some(to) => self.reply_sender.send(OutgoingReply {
                to,
                reply,
                batch_size,
                deadline,
                acks,
                may_have_closed_channel: false,
            }),
            None => match job {
                Some((jobs, message)) => self.end_job(jobs, *message, &reply, is_refused, acks).await,
                None if is_refused => self.reject(acks, rejections),
                None => acks.ack(),
            },
        }
    }

    /// Decides whether a request is moved instead of running here and now. Changes its headers and
    /// properties for what comes next, also if it is not moved; see
    /// [`prepare_job`](Self::prepare_job). `jobs` is `None` if the request cannot be a job.
    fn decide_relocation<'a>(
        &self,
        message: &mut Message,
        redelivered: bool,
        jobs: Option<&'a JobQueues>,
    ) -> Option<Relocation<'a>> {
        if let Some(jobs) = jobs {
            if is_given_up(&message.properties.headers) {
                return Some(Relocation::DeadLetter(jobs));
            }
            if let Some(delay) = self.prepare_job(message) {
                return Some(Relocation::Delay(jobs, delay));
            }
        }
        let Executor {
            dispatcher, rules, ..
        } = &self.executor;
        let redeliveries = dispatcher.worker_counted_redeliveries(message, redelivered, rules)?;
        // Only a copy can carry the count.
        set_redelivery_count(&mut message.properties.headers, redeliveries);
        Some(match jobs {
            Some(jobs) if self.is_job(message) => Relocation::Return(jobs),
            Some(_) | None => Relocation::Forward,
        })
    }

    /// Moves a request: publishes a copy of it, and then acks the original. See
    /// [`forward`](Self::forward) for a copy that is refused.
    async fn relocate(&self, relocation: Relocation<'_>, message: Message, acks: PendingAcks) {
        match relocation {
            Relocation::DeadLetter(jobs) => self.dead_letter_job(jobs, message, acks).await,
            Relocation::Delay(jobs, delay) => {
                self.delay_job(jobs, message, delay, acks).await;
            }
            Relocation::Return(jobs) => self.return_job(jobs, message, acks).await,
            Relocation::Forward => self.forward(message, None, acks).await,
        }
    }

    /// Returns the stream of a request to run, and the items that callers send, if its own caller
    /// sends items under a taken id: a request with another reply address has a stream here. `None`
    /// for any other request.
    fn stream_with_taken_id(&self, decision: &Decision<'_>) -> Option<(StreamRequest, &IncomingItems)> {
        let Decision::Run(AdmittedRequest {
            stream: Some(stream),
            reply_to: Some(to),
            ..
        }) = decision
        else {
            return None;
        };
        let is_taken = stream.sends_items && self.streams.as_ref()?.is_id_taken(stream.id, &to.address);
        is_taken.then_some((**stream, self.incoming.as_deref()?))
    }

    /// Ends the method of the earlier request with the same id, or refuses the new request: items
    /// belong to an id, and neither method may get those of the other.
    ///
    /// Only a request that was sent again, with another reply address, ends the method. It is
    /// refused too if the method does not end in time.
    async fn free_id_or_refuse(
        &self,
        decision: &mut Decision<'_>,
        stream: StreamRequest,
        incoming: &IncomingItems,
        was_delivered: bool,
    ) {
        let is_resent = stream.is_resent;
        let cancellations = self.executor.cancellations();
        if is_resent && incoming.cancel_and_wait(stream.id, cancellations).await {
            return;
        }
        if let Decision::Run(admitted) = &*decision {
            let (codec, to) = (admitted.invocation.codec(), admitted.reply_to.clone());
            let fault = Fault::bad_request("another request with this correlation_id has a stream here");
            *decision = Decision::refuse(codec, fault, to, was_delivered || is_resent);
        }
    }

    /// Runs a method whose caller reads a stream, sends one, or both. Sends the method's items, and
    /// the reply that ends the stream.
    ///
    /// Once the broker has the first message, acks the delivery, and replaces the permit of the
    /// request with one of `stream_permits` as soon as one is free.
    async fn process_stream(&self, run: StreamRun<'_>, permit: SemaphorePermit<'_>, mut acks: PendingAcks) {
        let StreamRun {
            mut admitted,
            label,
            begun,
            queue_time,
        } = run;
        let (Some(stream), Some(to), Some(streams)) =
            (admitted.stream.take(), admitted.reply_to.clone(), &self.streams)
        else {
            // Never: `process` has checked the first two, and a server always sets its streams.
            return;
        };
        let (codec, channel) = (admitted.invocation.codec(), &self.channel);
        let Some(sender) = StreamSender::begin(streams, *stream, to, codec, queue_time, channel) else {
            // The stream of an earlier delivery answers the request.
            return acks.ack();
        };
        let sender = Arc::new(sender);
        if stream.credit.is_some() {
            admitted
                .invocation
                .set_item_sink(Arc::clone(&sender) as Arc<dyn ItemSink>);
        }
        let incoming_call = match &self.incoming {
            Some(items) if stream.sends_items => Some(items.open(stream.id, self.executor.cancellations())),
            Some(_) | None => None,
        };
        if let Some(call) = &incoming_call {
            admitted.invocation.set_incoming_inbox(call.inbox());
        }
        let granting = incoming_call.as_ref().map(|call| call.start_granting(&sender));
        let executing = self
            .executor
            .execute(&self.queue, Decision::Run(admitted), &label, begun);
        let mut executing = pin!(executing);
        let beginning = async {
            sender.begun().await;
            acks.ack_early();
            sender.set_owes_end(true);
            let stream_permit = self.stream_permits.acquire().await;
            drop(permit);
            stream_permit
        };
        let response = tokio::select! {
            biased;
            response = &mut executing => response,
            // Held until the method ends.
            _stream_permit = beginning => executing.await,
        };
        // Sends no further grants. `finish` waits until the last ones are confirmed.
        drop(granting);
        let Response {
            reply,
            reply_to,
            is_cancelled,
            ..
        } = response;
        if is_cancelled {
            sender.set_owes_end(false);
            return acks.ack();
        }
        let mut reply = sender.finish(reply).await;
        reply.queue_time = queue_time.into();
        if let Some(to) = reply_to {
            self.reply_sender.send(OutgoingReply {
                to,
                reply,
                batch_size: 0,
                deadline: Some(Instant::now() + SEND_LIMIT),
                acks,
                may_have_closed_channel: false,
            });
        }
    }

    /// Rejects a refused request that gets no reply. Acks it instead if it was rejected too often
    /// before: each time, it has come back to this queue as a dead letter.
    pub(super) fn reject(&self, acks: PendingAcks, rejections: u32) {
        if rejections >= MAX_REJECTIONS {
            self.executor.log.rejected_too_often(rejections);
            return acks.ack();
        }
        self.executor.log.rejected();
        acks.reject();
    }

    /// Publishes a copy of a request to the queue for single requests, and acks the original. If
    /// the broker refuses the copy of a one-way request, rejects the original instead.
    ///
    /// The copy expires at `deadline`, when its caller gives up. A copy that has not left by then
    /// is not sent. Without a `deadline` it keeps the expiration of the original.
    pub(super) async fn forward(&self, mut message: Message, deadline: Option<Instant>, acks: PendingAcks) {
        let Ok(queue) = ShortStr::new(&self.queue) else {
            // Never: the server has checked the name.
            return;
        };
        let permit = before(deadline, Arc::clone(&self.forwards).acquire_owned()).await;
        // Fails only if the semaphore is closed, which it never is.
        let Some(Ok(permit)) = permit else {
            // Its caller has given up.
            return acks.ack();
        };
        acks.mark_forwarded();
        let properties = &mut message.properties;
        let headers = &mut properties.headers;
        // RabbitMQ's own headers describe the original, not the copy.
        headers.retain(|name, _| !is_rabbitmqs_header(name));
        limit_headers(headers);
        Origin::mark_forwarded(headers);
        if let Some(deadline) = deadline {
            properties.expiration = Some(deadline.saturating_duration_since(Instant::now()));
        }
        let is_oneway = !expects_reply(properties);
        let outgoing = Outgoing {
            queue,
            mandatory: false,
            message,
            send_token: Some(SendToken::holding(permit)),
        };
        match self.channel.send(outgoing, deadline, false).await {
            // `Unroutable` cannot happen, because the message is not mandatory.
            Ok(SendOutcome::Confirmed | SendOutcome::Unroutable | SendOutcome::Expired) => acks.ack(),
            Ok(SendOutcome::Refused | SendOutcome::Unsendable(_)) => {
                self.executor.log.not_forwarded(is_oneway);
                // Only one-way requests are rejected. The caller of any other one times out.
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

    /// Returns a permit to run a request, if one is free.
    pub(super) fn try_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// Waits for a permit to run a request. Never returns `None`, because the semaphore is never
    /// closed.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    /// Returns how many calls the caller should put into one batch: 1 if it should send single
    /// requests, and 0 for no advice. `batch_size` is as in [`Response::batch_size`].
    pub(super) fn advised_batch_size(&self, batch_size: Option<u16>) -> u16 {
        let Some(batch_size) = batch_size else {
            return 0;
        };
        if self.batches_paused.load(Ordering::Relaxed) {
            1
        } else if self.advises_batches.load(Ordering::Relaxed) {
            batch_size
        } else {
            0
        }
    }

    /// Answers a one-way request that asks for the batch size of its method, if that is known and
    /// the address is allowed. Nobody waits for the answer, so it is sent now or not at all. The
    /// sender asks again.
    pub(super) fn answer_batch_size(&self, ask: BatchSizeAsk) {
        let batch_size = self.executor.dispatcher.batch_size(ask.method.as_ref());
        if batch_size.is_none() {
            return;
        }
        // If this worker takes no batches, the answer is 1 instead of no advice: the sender may
        // have learned another size from an earlier worker. Without replies, it does not notice
        // that nobody takes its batches.
        let batch_size = self.advised_batch_size(batch_size).max(1);
        match self.executor.rules.check_reply_address(&ask.address) {
            Ok(()) => {
                let _ = self
                    .channel
                    .try_send(ask.answer(batch_size), Arc::new(IgnoreConfirm));
            }
            Err(forbidden) => self.executor.log.batch_size_not_sent(&forbidden),
        }
    }

    /// Counts and logs a message whose reply address must not get replies.
    pub(super) fn reply_address_forbidden(&self, forbidden: &ForbiddenReplyAddress) {
        let (queue, code) = (&self.queue, "reply_address");
        count(Event::RequestRefused { queue, code });
        self.executor.log.reply_address_forbidden(forbidden);
    }
}

/// Where a request is moved instead of running: a copy of it is published there.
enum Relocation<'a> {
    /// To the dead-letter queue, which did not take the job when it was given up.
    DeadLetter(&'a JobQueues),
    /// To a retry queue, in which the job waits for this time.
    Delay(&'a JobQueues, Duration),
    /// To the end of the request queue. The request is a job.
    Return(&'a JobQueues),
    /// To the end of the request queue. The request is no job.
    Forward,
}

/// A method that is about to run, and whose caller reads a stream, sends one, or both.
struct StreamRun<'a> {
    admitted: AdmittedRequest<'a>,
    label: RequestLabel,
    /// When its request was admitted.
    begun: Instant,
    /// See [`Received::queue_time`].
    queue_time: Duration,
}

/// Returns how long the copy of a redelivered request must wait before it runs; see [`COPY_PAUSE`].
/// `None` for any other request, and for a copy that has waited. Removes a pause that it takes from
/// the headers.
fn take_copy_pause(properties: &mut Properties) -> Option<Duration> {
    let is_copy = redelivery_count(&properties.headers) > 0;
    // A copy that comes from a retry queue has waited there.
    let has_waited = properties.dead_lettered.is_some();
    // The headers name a longer pause if its batch was redelivered and no retry queue took it.
    (is_copy && !has_waited).then(|| take_returned_pause(&mut properties.headers).max(COPY_PAUSE))
}

/// Returns the key by which a redelivered request is recognized. `None` if it has no unique id, or
/// is malformed and therefore never runs.
///
/// Without a reply address, only a UUID counts as unique. Some senders use an order number, for
/// example, as the correlation id of every message about that order.
fn request_key(delivery: &Delivery) -> Option<RequestKey> {
    if delivery.malformed.is_some() {
        return None;
    }
    let properties = &delivery.message.properties;
    let id = CorrelationId::from(properties.correlation_id.as_ref()?);
    let is_unique = expects_reply(properties) || matches!(id, CorrelationId::Uuid(_));
    is_unique.then(|| RequestKey::new(properties.reply_to.clone(), id))
}

/// Whether the sender of a request expects a reply: its `reply_to` is set and not empty.
pub(super) fn expects_reply(properties: &Properties) -> bool {
    let address = properties.reply_to.as_ref();
    address.is_some_and(|address| !address.as_str().is_empty())
}

#[cfg(test)]
mod tests;
