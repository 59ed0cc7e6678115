//! Handles what reaches this worker through the control exchange: broadcasts, the requests of
//! [`discovery`](crate::discovery), and cancellations of calls.
//!
//! Each worker consumes them from a queue of its own, beside its request queues. So a worker
//! answers even at its concurrency limit. A failure here never ends the server.

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::outgoing_reply::with_grace_period;
use super::reply_channel::{ReplyChannel, SendOutcome};
use super::streams::Streams;
use super::worker_identity::WorkerIdentity;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::{
    CANCEL_TYPE, CONTROL_EXCHANGE, CREDIT_TYPE, CancelledCall, DISCOVERY_KEY, Fault, FaultCode, Malformed,
    Message, Properties, Reply, ShortStr, WORKER_HEADER, read_batch, read_grants,
};
use crate::service::{
    Cancellations, Decision, Dispatcher, Executor, ForbiddenReplyAddress, Received, ReplyTo, RequestLabel,
    RequestLog, RequestSource, Rules, Service,
};
use crate::telemetry::{Event, LogLimit, Suppressed, count};
use crate::transport::{
    Backoff, ControlQueue, Delivery, KeepOpen, Outgoing, SendToken, Subscription, Transport, catch_panic,
    keep_open, restart_on_panic,
};

/// How long a worker tries to answer a discovery request, and how long its sender waits by default.
pub(crate) const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many broadcasts run at once.
const MAX_RUNNING: usize = 16;

/// How many broadcasts run or wait for their turn. Others are refused.
const MAX_BROADCASTS: usize = 48;

/// How many replies to broadcasts may be on their way at once: they wait for a connection, or for
/// their confirms.
const MAX_REPLIES: usize = 64;

/// How long a reply to a broadcast waits if there are so many. Then it is dropped.
const MAX_REPLY_WAIT: Duration = Duration::from_secs(1);

/// The prefetch. It leaves room for discovery requests and refusals beside the broadcasts.
const PREFETCH: u16 = 64;

/// How long a control message can wait in the queue, and a broadcast for its turn.
const TIME_TO_LIVE: Duration = Duration::from_secs(60);

/// The longest time from the arrival of a broadcast until its reply is given up, if there is no
/// connection.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How many control messages can wait in the queue. If there are more, the oldest are dropped.
const MAX_WAITING: u16 = 1024;

/// The maximum total length of the messages that wait in the queue, in bytes.
const MAX_WAITING_BYTES: u32 = 8 * 1024 * 1024;

/// How long to wait after the broker refused the exchange or the queue for good. Permissions rarely
/// change, and the broker logs each refusal.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(600);

/// How long a starting server waits until it can be reached.
const START_TIMEOUT: Duration = Duration::from_secs(1);

/// What a worker handles through the control exchange.
pub(super) struct ControlMethods {
    pub(super) identity: Arc<WorkerIdentity>,
    /// The streams that callers grant credit to. `None` if no method replies with one.
    pub(super) streams: Option<Arc<Streams>>,
    /// The built-in methods that describe all queues. `None` without self-description.
    pub(super) discovery: Option<Arc<dyn Service>>,
    pub(super) queues: Vec<ControlledQueue>,
}

/// What a worker handles through the control exchange for one request queue.
pub(super) struct ControlledQueue {
    pub(super) name: ShortStr,
    pub(super) broadcasts: Dispatcher,
    /// The cancelled calls. `None` if no method of the queue has a reply.
    pub(super) cancellations: Option<Arc<Cancellations>>,
}

/// A task that answers control messages. Dropping this ends the task and all running broadcasts.
pub(super) struct ControlResponder {
    stop: CancellationToken,
    /// When the server began to drain.
    draining_since: Arc<OnceLock<Instant>>,
    /// Returns the number of requests that did not end in time after it was told to stop.
    task: AbortOnDropHandle<usize>,
    /// Resolves once the first attempt to subscribe has succeeded or failed.
    first_attempt: oneshot::Receiver<()>,
}

impl ControlMethods {
    /// Whether there is nothing to handle.
    pub(super) fn is_empty(&self) -> bool {
        let is_empty = |queue: &ControlledQueue| queue.broadcasts.is_empty() && queue.cancellations.is_none();
        self.streams.is_none() && self.discovery.is_none() && self.queues.iter().all(is_empty)
    }

    /// Returns what handles the messages with each routing key.
    fn handlers(self, rules: &Rules) -> HashMap<ShortStr, KeyHandler> {
        let handler = |dispatcher, name: &str, source, cancellations| {
            let log = RequestLog::new(name);
            KeyHandler {
                executor: Arc::new(Executor::new(dispatcher, rules.clone(), log, source)),
                cancellations,
            }
        };
        let queues = self.queues.into_iter().map(|queue| {
            let (name, source) = (queue.name.as_str(), RequestSource::Queue);
            let handler = handler(queue.broadcasts, name, source, queue.cancellations);
            (queue.name, handler)
        });
        let mut handlers: HashMap<_, _> = queues.collect();
        if let Some(service) = self.discovery {
            let mut dispatcher = Dispatcher::default();
            dispatcher.add_built_in(&service);
            let discovery = handler(dispatcher, DISCOVERY_KEY, RequestSource::Discovery, None);
            handlers.insert(self.identity.id(), discovery.clone());
            handlers.insert(ShortStr::from_static(DISCOVERY_KEY), discovery);
        }
        handlers
    }
}

/// Handles the messages with one routing key.
#[derive(Clone)]
struct KeyHandler {
    executor: Arc<Executor>,
    /// The cancelled calls. `None` if there is no call to cancel.
    cancellations: Option<Arc<Cancellations>>,
}

impl ControlResponder {
    /// Starts a task that answers control messages. Once the server begins to drain, or the handle
    /// is closed, running broadcasts have `drain_timeout` to end.
    pub(super) fn start(
        transport: &Arc<dyn Transport>,
        methods: ControlMethods,
        rules: &Rules,
        channel: &Arc<ReplyChannel>,
        drain_timeout: Duration,
    ) -> Self {
        let draining_since = Arc::<OnceLock<Instant>>::default();
        let since = Arc::clone(&draining_since);
        let responder = Arc::new(Responder::new(methods, rules, Arc::clone(channel)));
        let queue = ControlQueue {
            keys: responder.keys(),
            prefetch: PREFETCH,
            time_to_live: TIME_TO_LIVE,
            max_messages: MAX_WAITING,
            max_bytes: MAX_WAITING_BYTES,
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (first_attempt_done, first_attempt) = oneshot::channel();
        let mut first_attempt_done = Some(first_attempt_done);
        let to_subscribe = Arc::clone(transport);
        let running = async move {
            // The answers go on if the responder restarts after a panic, and end with this task.
            let answers = TaskTracker::new();
            let aborted = CancellationToken::new();
            let _abort = aborted.clone().drop_guard();
            restart_on_panic("control", || {
                let mut run = ResponderRun {
                    responder: &responder,
                    transport: &to_subscribe,
                    queue: &queue,
                    stop: &stopped,
                    first_attempt_done: first_attempt_done.take(),
                    is_refusal_logged: false,
                    drain_timeout,
                    draining_since: &since,
                    answers: &answers,
                    aborted: &aborted,
                };
                async move {
                    keep_open(&mut run).await;
                    run.drain(ready(())).await;
                    run.answers.len()
                }
            })
            .await
        };
        Self {
            stop,
            draining_since,
            task: AbortOnDropHandle::new(transport.runtime().spawn(running)),
            first_attempt,
        }
    }

    /// Waits until the first attempt to subscribe has succeeded or failed, but not for longer than
    /// [`START_TIMEOUT`]. Must be called at most once.
    pub(super) async fn started(&mut self) {
        let _ = timeout(START_TIMEOUT, &mut self.first_attempt).await;
    }

    /// The drain timeout begins now. Until [`stop`](Self::stop), callers can cancel their calls, and
    /// broadcasts are answered.
    pub(super) fn drain(&self) {
        self.draining_since.get_or_init(Instant::now);
    }

    /// Deletes the queue, waits for the answers in progress and ends the task. Returns the number
    /// of requests that did not end in time, which began with [`drain`](Self::drain).
    pub(super) async fn stop(self) -> usize {
        self.stop.cancel();
        // The task limits its own waits. If it panicked, the server ends as usual.
        self.task.await.unwrap_or(0)
    }
}

/// Keeps the control queue open until the responder is stopped or the broker handle is closed.
struct ResponderRun<'a> {
    responder: &'a Arc<Responder>,
    transport: &'a Arc<dyn Transport>,
    queue: &'a ControlQueue,
    stop: &'a CancellationToken,
    /// Dropping the sender wakes [`ControlResponder::started`].
    first_attempt_done: Option<oneshot::Sender<()>>,
    is_refusal_logged: bool,
    drain_timeout: Duration,
    draining_since: &'a OnceLock<Instant>,
    /// The tasks that answer control messages. The prefetch bounds their number, apart from
    /// broadcasts, which the responder bounds. A method goes on if the connection is lost.
    answers: &'a TaskTracker,
    /// Ends these tasks.
    aborted: &'a CancellationToken,
}

impl KeepOpen for ResponderRun<'_> {
    type Opened = Subscription;
    type End = ();

    async fn open(&mut self) -> ControlFlow<(), Result<Subscription, BrokerError>> {
        let opening = self.transport.open_control(self.queue);
        let opened = unless_stopped(self.stop, opening).await?;
        drop(self.first_attempt_done.take());
        ControlFlow::Continue(opened)
    }

    async fn run(&mut self, subscription: Subscription) -> ControlFlow<(), BrokerError> {
        self.is_refusal_logged = false;
        let lost = self.answer_until_lost(subscription).await?;
        let error = Logged(Chain(&lost));
        tracing::debug!(%error, "the control queue was lost; declaring it again");
        if lost.is_handle_ended() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(lost)
    }

    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<()> {
        if error.is_handle_ended() {
            return ControlFlow::Break(());
        }
        if !error.is_waited_out() && !std::mem::replace(&mut self.is_refusal_logged, true) {
            let missing = missing_permission(error);
            let error = Logged(Chain(error));
            tracing::info!(
                %error,
                missing,
                "serving without broadcasts and discovery; calls that their callers drop are not cancelled"
            );
        }
        ControlFlow::Continue(())
    }

    fn delay(&self, error: &BrokerError, backoff: &mut Backoff) -> Duration {
        if is_refused_for_good(error) {
            REFUSED_RETRY_DELAY
        } else {
            backoff.delay_after(error)
        }
    }

    async fn pause(&mut self, delay: Duration) -> ControlFlow<()> {
        unless_stopped(self.stop, sleep(delay)).await
    }
}

impl ResponderRun<'_> {
    /// Answers control messages until the queue is lost, and returns why.
    async fn answer_until_lost(&mut self, mut subscription: Subscription) -> ControlFlow<(), BrokerError> {
        let lost = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    let _ = timeout(self.drain_time_left(), self.take_last(&mut subscription)).await;
                    self.drain(subscription.control.close_and_delete()).await;
                    return ControlFlow::Break(());
                }
                arrival = subscription.deliveries.next() => match arrival {
                    Some(Ok(delivery)) => self.start(delivery, &subscription),
                    Some(Err(reason)) => break reason,
                    None => break BrokerError::Lost { source: None },
                },
            }
        };
        subscription.control.close().await;
        ControlFlow::Continue(lost)
    }

    /// Cancels the consumer, so that peers no longer reach this worker. Starts the tasks of what
    /// was delivered before.
    async fn take_last(&self, subscription: &mut Subscription) {
        if subscription.control.cancel().await.is_ok() {
            while let Some(Ok(delivery)) = subscription.deliveries.next().await {
                self.start(delivery, subscription);
            }
        }
    }

    /// Starts the task that answers a delivery. A cancellation needs none.
    fn start(&self, delivery: Delivery, subscription: &Subscription) {
        if is_cancellation(&delivery.message.properties) {
            // Before the cancellations that follow, and without a task, which would take longer.
            self.responder.cancel_calls(&delivery);
            return subscription.control.ack(delivery.tag);
        }
        let (responder, control) = (Arc::clone(self.responder), Arc::clone(&subscription.control));
        let aborted = self.aborted.clone();
        self.answers.spawn(async move {
            let tag = delivery.tag;
            let answering = responder.answer(delivery, || control.ack(tag));
            // Panics of methods are caught earlier. Other answers continue.
            let answering = catch_panic("control message", answering);
            aborted.run_until_cancelled(answering).await
        });
    }

    /// Waits for the answers in progress and for `closing`, until the drain timeout. Answers go on
    /// even if the handle was closed.
    async fn drain(&mut self, closing: impl Future<Output = ()>) {
        self.answers.close();
        let ending = async { tokio::join!(closing, self.answers.wait()) };
        let _ = timeout(self.drain_time_left(), ending).await;
    }

    fn drain_time_left(&self) -> Duration {
        let since = self.draining_since.get_or_init(Instant::now);
        self.drain_timeout.saturating_sub(since.elapsed())
    }
}

/// Whether a message cancels calls.
fn is_cancellation(properties: &Properties) -> bool {
    let kind = properties.kind.as_ref();
    kind.is_some_and(|kind| kind.as_str() == CANCEL_TYPE)
}

/// Whether the broker refused the exchange or the queue, and will until someone acts.
fn is_refused_for_good(error: &BrokerError) -> bool {
    match error {
        BrokerError::Exchange { .. } => true,
        BrokerError::Queue { is_temporary, .. } => !is_temporary,
        _ => false,
    }
}

/// Waits for a future. [`Break`](ControlFlow::Break) if it is told to stop before.
async fn unless_stopped<T>(stop: &CancellationToken, future: impl Future<Output = T>) -> ControlFlow<(), T> {
    match stop.run_until_cancelled(future).await {
        Some(output) => ControlFlow::Continue(output),
        None => ControlFlow::Break(()),
    }
}

/// A request to all workers of a queue, without its message.
struct ReceivedBroadcast<'a> {
    queue: &'a str,
    executor: &'a Executor,
    arrived: Instant,
    label: RequestLabel,
    /// How long its sender waits.
    wait: Duration,
    redelivered: bool,
}

impl ReceivedBroadcast<'_> {
    fn refuse(
        &self,
        properties: &Properties,
        fault: Fault,
    ) -> Result<Decision<'static>, ForbiddenReplyAddress> {
        Dispatcher::refuse(properties, fault, self.redelivered, &self.executor.rules)
    }
}

/// The reply to a control message.
struct ControlReply {
    reply: Reply,
    to: ReplyTo,
    /// The header that identifies the worker.
    worker: String,
    /// Whether its loss is counted.
    is_counted: bool,
}

impl ControlReply {
    /// Returns the message of this reply, or of a fault instead of it.
    fn message(&self, mut reply: Reply) -> Outgoing {
        let name = ShortStr::from_static(WORKER_HEADER);
        reply.headers.insert(name, self.worker.clone());
        Outgoing {
            message: self.to.message(reply),
            queue: self.to.address.clone(),
            mandatory: false,
            send_token: SendToken::default(),
        }
    }

    fn count_lost(&self, reason: &'static str) {
        if self.is_counted {
            count(Event::ReplyLost { reason });
        }
    }
}

/// Answers control messages.
struct Responder {
    /// By routing key.
    handlers: HashMap<ShortStr, KeyHandler>,
    channel: Arc<ReplyChannel>,
    identity: Arc<WorkerIdentity>,
    streams: Option<Arc<Streams>>,
    describes_itself: bool,
    /// Held by broadcasts that run or wait for their turn.
    broadcasts: Semaphore,
    /// Held by broadcasts that run.
    running: Semaphore,
    /// Held by replies to broadcasts while they are on their way.
    replies: Semaphore,
    log: LogLimit,
}

impl Responder {
    fn new(methods: ControlMethods, rules: &Rules, channel: Arc<ReplyChannel>) -> Self {
        Self {
            identity: Arc::clone(&methods.identity),
            streams: methods.streams.clone(),
            describes_itself: methods.discovery.is_some(),
            handlers: methods.handlers(rules),
            channel,
            broadcasts: Semaphore::new(MAX_BROADCASTS),
            running: Semaphore::new(MAX_RUNNING),
            replies: Semaphore::new(MAX_REPLIES),
            log: LogLimit::new(CONTROL_EXCHANGE),
        }
    }

    /// The routing keys of the messages that it answers.
    fn keys(&self) -> Arc<[ShortStr]> {
        let of_streams = self.streams.is_some().then(|| self.identity.id());
        let keys = self.handlers.keys().cloned().chain(of_streams);
        keys.collect::<HashSet<_>>().into_iter().collect()
    }

    /// Raises the credit of streams if that is what a message asks for.
    fn grant_credit(&self, delivery: &Delivery) -> bool {
        let kind = delivery.message.properties.kind.as_ref();
        let (Some(streams), Some(CREDIT_TYPE)) = (&self.streams, kind.map(ShortStr::as_str)) else {
            return false;
        };
        match (delivery.malformed, read_grants(&delivery.message.body)) {
            (None, Ok(grants)) => streams.grant(grants),
            (Some(malformed), _) => self.log_ignored("malformed", malformed),
            (None, Err(unreadable)) => self.log_ignored("unreadable", unreadable),
        }
        true
    }

    /// Answers a control message. `ack` acknowledges it.
    async fn answer(&self, delivery: Delivery, ack: impl FnOnce() + Send) {
        // A message that was sent directly to the queue does not name a request queue.
        let key = delivery.control_key.as_ref();
        if key.is_some() && self.grant_credit(&delivery) {
            return ack();
        }
        let Some((key, handler)) = key.and_then(|key| self.handlers.get_key_value(key)) else {
            ack();
            return self.log_ignored("foreign", "it did not come through the control exchange");
        };
        let executor = &handler.executor;
        match (executor.source(), delivery.malformed) {
            (RequestSource::Discovery, Some(malformed)) => {
                ack();
                self.log_ignored("malformed", malformed);
            }
            (RequestSource::Discovery, None) => {
                // Layers may delay the method for longer than the sender waits.
                let answering = self.answer_discovery(executor, delivery.message, delivery.redelivered);
                if timeout(DISCOVERY_TIMEOUT, answering).await.is_err() {
                    executor.log.discovery_timed_out();
                }
                ack();
            }
            (RequestSource::Queue | RequestSource::InProcess, malformed) => {
                let broadcast = ReceivedBroadcast {
                    queue: key.as_str(),
                    executor,
                    arrived: Instant::now(),
                    label: RequestLabel::of(&delivery.message.properties),
                    wait: delivery.message.properties.expiration.unwrap_or(TIME_TO_LIVE),
                    redelivered: delivery.redelivered,
                };
                self.answer_broadcast(broadcast, delivery.message, malformed, ack)
                    .await;
            }
        }
    }

    /// Cancels the calls that a message lists: of the queue that it names, or of the streams that
    /// this worker sends.
    fn cancel_calls(&self, delivery: &Delivery) {
        let calls = match (
            delivery.malformed,
            read_batch::<CancelledCall>(&delivery.message.body),
        ) {
            (None, Ok(calls)) => calls,
            (Some(malformed), _) => return self.log_ignored("malformed", malformed),
            (None, Err(unreadable)) => return self.log_ignored("unreadable", unreadable),
        };
        let key = delivery.control_key.as_ref();
        let handler = key.and_then(|key| self.handlers.get(key));
        if let Some(cancellations) = handler.and_then(|handler| handler.cancellations.as_ref()) {
            cancellations.cancel(calls, Instant::now());
        } else if let Some(streams) = &self.streams
            && key == Some(&self.identity.id())
        {
            let ids = calls.iter().map(|call| call.id);
            let ids: Vec<_> = ids.filter(|id| streams.contains(*id)).collect();
            let queues = self.handlers.values();
            for cancellations in queues.filter_map(|handler| handler.cancellations.as_ref()) {
                cancellations.cancel_running(&ids);
            }
        } else {
            self.log_ignored("foreign", "it cancels calls of a queue that has none");
        }
    }

    async fn answer_discovery(&self, executor: &Executor, message: Message, redelivered: bool) {
        let now = Instant::now();
        let decided = executor.decide(message, redelivered, Received::at(now), now);
        // Without a reply, the built-in methods do nothing.
        if decided
            .as_ref()
            .is_ok_and(|decision| decision.reply_to().is_none())
        {
            return;
        }
        let label = RequestLabel::default();
        if let Some(reply) = self.execute(DISCOVERY_KEY, executor, decided, &label).await {
            self.reply(reply, now + DISCOVERY_TIMEOUT).await;
        }
    }

    async fn answer_broadcast(
        &self,
        broadcast: ReceivedBroadcast<'_>,
        message: Message,
        malformed: Option<Malformed>,
        ack: impl FnOnce() + Send,
    ) {
        let (executor, redelivered) = (broadcast.executor, broadcast.redelivered);
        let admitted = match malformed {
            Some(malformed) => Err(Dispatcher::refuse_malformed(
                &message,
                malformed,
                redelivered,
                &executor.rules,
            )),
            None => self
                .admit(executor, &message)
                .map_err(|fault| broadcast.refuse(&message.properties, fault)),
        };
        let permit = match admitted {
            Ok(permit) => permit,
            Err(refused) => {
                drop(message);
                return self.end_broadcast(&broadcast, refused, (), ack).await;
            }
        };
        // It runs at most once in any case, and the permits bound how many there are. So a method
        // may run for longer than the broker waits for an acknowledgement.
        ack();
        let turn = timeout(broadcast.wait.min(TIME_TO_LIVE), self.running.acquire()).await;
        let decided = if turn.is_ok() {
            let received = Received::at(broadcast.arrived);
            executor.decide(message, redelivered, received, Instant::now())
        } else {
            let reason = "other broadcasts ran on this worker for too long";
            broadcast.refuse(&message.properties, Fault::new(FaultCode::Rejected, reason))
        };
        self.end_broadcast(&broadcast, decided, turn, || drop(permit))
            .await;
    }

    /// Decides whether a broadcast may wait for its turn. One that is refused anyway must not wait:
    /// it would displace others, and its body may be large.
    ///
    /// # Errors
    ///
    /// Returns the fault of one that is refused.
    fn admit(&self, executor: &Executor, message: &Message) -> Result<SemaphorePermit<'_>, Fault> {
        executor.dispatcher.check_broadcast(message, &executor.rules)?;
        self.broadcasts.try_acquire().map_err(|_| {
            let reason = "too many broadcasts are running on this worker";
            Fault::new(FaultCode::Rejected, reason)
        })
    }

    /// Runs the method, unless it is refused, and replies. Drops `turn` once the method has ended,
    /// and calls `release` before the reply is sent: a reply that cannot be sent, or is never
    /// confirmed, keeps no other broadcast from being received and from running.
    async fn end_broadcast<T>(
        &self,
        broadcast: &ReceivedBroadcast<'_>,
        decided: Result<Decision<'_>, ForbiddenReplyAddress>,
        turn: T,
        release: impl FnOnce(),
    ) {
        let (queue, executor) = (broadcast.queue, broadcast.executor);
        let reply = self.execute(queue, executor, decided, &broadcast.label).await;
        drop(turn);
        let Some(reply) = reply else {
            return release();
        };
        let place = timeout(MAX_REPLY_WAIT, self.replies.acquire()).await;
        release();
        if place.is_ok() {
            let deadline = broadcast.arrived + broadcast.wait.min(MAX_ANSWER_TIME);
            self.reply(reply, with_grace_period(deadline)).await;
        } else {
            self.channel.log.expired();
            reply.count_lost("no_connection");
        }
    }

    /// Runs the method, unless it is refused. Returns the reply, if its sender expects one.
    async fn execute(
        &self,
        queue: &str,
        executor: &Executor,
        decided: Result<Decision<'_>, ForbiddenReplyAddress>,
        label: &RequestLabel,
    ) -> Option<ControlReply> {
        // Lost answers to discovery are not counted, because anyone may ask for them.
        let is_counted = executor.source() == RequestSource::Queue;
        let decision = match decided {
            Ok(decision) => decision,
            Err(forbidden) => {
                if is_counted {
                    let code = "reply_address";
                    count(Event::RequestRefused { queue, code });
                }
                executor.log.reply_address_forbidden(&forbidden);
                return None;
            }
        };
        let response = executor.execute(queue, decision, label, Instant::now()).await;
        // A sender that is refused learns only the id of the worker.
        let describes_itself = self.describes_itself && !response.is_refused;
        Some(ControlReply {
            reply: response.reply,
            to: response.reply_to?,
            worker: self.identity.header(describes_itself),
            is_counted,
        })
    }

    /// Sends a reply, and gives it up at `until`. Its loss does no harm beyond a missing answer.
    async fn reply(&self, reply: ControlReply, until: Instant) {
        let send = |part| self.channel.send(reply.message(part), Some(until), false);
        let reason = match send(reply.reply.clone()).await {
            Ok(SendOutcome::Confirmed | SendOutcome::Unroutable) | Err(_) => return,
            Ok(SendOutcome::Refused(Some(error))) => {
                self.channel.log.unsendable(&error);
                let reason = "the method ran, and the broker refuses its reply, which may be too large";
                let fault = Fault::new(FaultCode::ReplyTooLarge, reason);
                let fault = Reply::fault(reply.reply.codec, &fault);
                let _ = send(fault).await;
                "unsendable"
            }
            Ok(SendOutcome::Refused(None)) => "refused",
            Ok(SendOutcome::Expired) => "no_connection",
        };
        reply.count_lost(reason);
    }

    fn log_ignored(&self, kind: &'static str, reason: impl std::fmt::Display) {
        if let Some(Suppressed(suppressed)) = self.log.admit(tracing::Level::DEBUG, kind) {
            tracing::debug!(reason = %Logged(reason), suppressed, "ignored a control message");
        }
    }
}

/// Returns what is probably missing: in most cases a permission of the worker's RabbitMQ user.
fn missing_permission(refused: &BrokerError) -> &'static str {
    match refused {
        BrokerError::Exchange {
            action: "declare", ..
        } => {
            "configure permission on the exchange rpc.control, or have someone else declare it as a durable direct exchange"
        }
        BrokerError::TooManyChannels { .. } => "one more channel",
        BrokerError::Exchange { .. } => {
            "read permission on the exchange rpc.control, and write permission on queues rpc.control.*"
        }
        _ => "configure, write and read permission on queues rpc.control.*",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::codec::Codec;
    use crate::error::Cause;
    use crate::protocol::{Headers, ReplyAddresses, Request};
    use crate::service;
    use crate::transport::memory::{InProcessBroker, MemoryTransport};

    #[service(queue = "cache")]
    trait Cache {
        #[rpc(broadcast)]
        async fn clear(&self);
    }

    /// Counts how often the cache was cleared.
    #[derive(Clone, Default)]
    struct Cleared(Arc<AtomicUsize>);

    impl Cache for Cleared {
        async fn clear(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn responder(cleared: &Cleared, channel: ReplyChannel) -> Responder {
        let mut dispatcher = Dispatcher::default();
        let service = Arc::new(CacheServer::new(cleared.clone()));
        dispatcher.add(service, "cache").unwrap();
        let identity = Arc::new(WorkerIdentity::new(None, None, None));
        let methods = ControlMethods {
            identity: Arc::clone(&identity),
            streams: None,
            discovery: None,
            queues: vec![ControlledQueue {
                name: ShortStr::from_static("cache"),
                broadcasts: dispatcher.take_broadcasts(),
                cancellations: None,
            }],
        };
        let rules = Rules {
            reply_addresses: ReplyAddresses::default(),
            max_accepted_bytes: 1000,
            max_sent_bytes: 1000,
            max_deliveries: 0,
            is_classic: false,
            admission: true,
            layers_may_answer: false,
        };
        Responder::new(methods, &rules, Arc::new(channel))
    }

    fn broadcast(method: &'static str) -> Delivery {
        let request = Request {
            method: Some(ShortStr::from_static(method)),
            codec: Codec::MessagePack,
            correlation_id: Some(ShortStr::from_static("1")),
            reply_to: Some(ShortStr::from_static("amq.gen-1")),
            time_to_live: Some(Duration::from_secs(3600)),
            persistent: false,
            priority: None,
            app_id: None,
            user_id: None,
            headers: Headers::default(),
            asks_batch_size: false,
            credit: None,
            dead_lettered: None,
            arguments: bytes::Bytes::from_static(b"\x80"),
        };
        Delivery {
            message: request.into_message(),
            redelivered: false,
            tag: 1,
            malformed: None,
            control_key: Some(ShortStr::from_static("cache")),
        }
    }

    /// Each caller waits for an hour, and the broker blocks publishers all the time.
    #[tokio::test(start_paused = true)]
    async fn replies_that_cannot_be_sent_hold_up_no_broadcast() {
        for (method, runs) in [("clear", 200), ("unknown", 0)] {
            let transport = Arc::new(MemoryTransport::new(&InProcessBroker::new()));
            let (channel, keeping) = ReplyChannel::new(Arc::clone(&transport) as _);
            let _keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
            channel.wait_ready().await.unwrap();
            transport.block(true);
            let cleared = Cleared::default();
            let responder = Arc::new(responder(&cleared, channel));
            let acked = Arc::new(AtomicUsize::new(0));
            let mut answers = Vec::new();
            for _ in 0..200 {
                let (responder, acked) = (Arc::clone(&responder), Arc::clone(&acked));
                answers.push(AbortOnDropHandle::new(tokio::spawn(async move {
                    let ack = || _ = acked.fetch_add(1, Ordering::Relaxed);
                    responder.answer(broadcast(method), ack).await;
                })));
                sleep(Duration::from_millis(100)).await;
            }
            sleep(2 * MAX_REPLY_WAIT).await;
            assert_eq!(cleared.0.load(Ordering::Relaxed), runs);
            assert_eq!(acked.load(Ordering::Relaxed), 200);
            let waiting = answers.iter().filter(|answer| !answer.is_finished());
            assert_eq!(waiting.count(), MAX_REPLIES);
        }
    }

    #[test]
    fn only_a_lasting_refusal_is_waited_out_for_long() {
        let source = || Cause::new("why");
        let queue = |is_temporary| BrokerError::Queue {
            queue: "q".into(),
            source: source(),
            is_temporary,
        };
        let exchange = BrokerError::Exchange {
            exchange: CONTROL_EXCHANGE.into(),
            action: "declare",
            source: source(),
        };
        for refused in [exchange, queue(false)] {
            assert!(is_refused_for_good(&refused), "{refused:?}");
        }
        for passing in [
            queue(true),
            BrokerError::TooManyChannels { source: source() },
            BrokerError::Lost { source: None },
            BrokerError::Unresponsive {
                step: "",
                limit: Duration::ZERO,
            },
        ] {
            assert!(!is_refused_for_good(&passing), "{passing:?}");
        }
    }
}
