//! Consumes from one queue: subscribes again whenever the subscription is lost, owns the tasks of
//! the deliveries, and drains them when the server stops.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::pending_acks::RequestsInProgress;
use super::queue_wait::{PrefetchFullGuard, QueueWaitEstimates, is_probe};
use super::request_handler::{RequestHandler, expects_reply};
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::service::Received;
use crate::transport::{
    Backoff, Control, Delivery, KeepOpen, RequestQueue, Role, Subscription, Transport, catch_panic,
    keep_open, retry,
};

/// If no request arrives for this long, a stopping consumer expects no more. Either it is the
/// consumer of a queue for batches, and busy callers were advised not to send any, or it is a
/// single active consumer that holds its acks back, so that no more than its prefetch arrives.
const QUIET_PERIOD: Duration = Duration::from_millis(100);

/// The longest time that a stopping worker waits for callers to stop sending batches.
const MAX_QUIET_WAIT: Duration = Duration::from_secs(1);

/// How long a stopping consumer waits for the broker to answer its subscription.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long aborted request tasks may take to end.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait after the broker refused a queue for batches that was never served, and will
/// until someone acts: it does not exist, for example. There is no hurry, because callers send
/// single requests, and the broker logs each refusal.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(300);

/// The least time to live that is assumed for the longest-lived request in a batch: as long as the
/// default timeout of a call. The true one is in the body of the message, which is not read yet.
/// The `expiration` of the message is that of the shortest-lived request.
const BATCHED_TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// The consumer of one queue of a server.
pub(super) struct QueueConsumer {
    transport: Arc<dyn Transport>,
    queue: RequestQueue,
    prefetch: u16,
    /// Whether the queue holds batches.
    is_batch_queue: bool,
    /// Whether the queue is deleted, once it is empty, when its last worker stops.
    deletes_queue: bool,
    /// When the last request or batch arrived. Probes of other workers go on while this one stops,
    /// so probes do not count.
    last_arrival: Option<Instant>,
    handler: Arc<RequestHandler>,
    /// `None` if the wait in the queue is not measured.
    estimates: Option<Arc<QueueWaitEstimates>>,
    in_progress: RequestsInProgress,
    /// One task for each delivery.
    tasks: JoinSet<()>,
}

/// How a consumer ended.
#[derive(Debug)]
pub(super) struct ConsumerEnd {
    /// How many requests did not end in time.
    pub(super) unfinished: usize,
    /// Why the consumer could not continue, even if it was told to stop too: the handle ended, or
    /// its task panicked outside of what is restarted. `None` if it was only told to stop.
    pub(super) reason: Option<BrokerError>,
}

/// Why a consumer stopped reading its subscription.
enum Interruption {
    Stopped,
    /// The subscription has ended, or it has to end, because only then an abandoned request comes
    /// back.
    Lost(BrokerError),
}

/// Keeps the subscription of a consumer open.
struct ConsumerRun<'a> {
    consumer: &'a mut QueueConsumer,
    /// The subscription to begin with. `None` if there is none, and once it is in use.
    first: Option<Subscription>,
    /// The control of the current or last subscription. `None` before the first one. It outlives a
    /// panic, after which its subscription must be closed.
    control: &'a mut Option<Arc<dyn Control>>,
    stop: &'a CancellationToken,
}

/// Why a consumer no longer keeps its subscription open.
enum RunEnd {
    /// It was told to stop. Holds the subscription, if one is open.
    Stopped(Option<Subscription>),
    /// The handle was closed, or its runtime has ended.
    Closed(BrokerError),
}

impl KeepOpen for ConsumerRun<'_> {
    type Opened = Subscription;
    type End = RunEnd;

    async fn open(&mut self) -> ControlFlow<RunEnd, Result<Subscription, BrokerError>> {
        if let Some(first) = self.first.take() {
            return ControlFlow::Continue(Ok(first));
        }
        let Some(opened) = self.consumer.subscribe(self.stop).await else {
            return ControlFlow::Break(RunEnd::Stopped(None));
        };
        if opened.is_ok() {
            let was_open = self.control.is_some();
            self.consumer.after_opening(was_open);
        }
        ControlFlow::Continue(opened)
    }

    async fn run(&mut self, mut subscription: Subscription) -> ControlFlow<RunEnd, BrokerError> {
        *self.control = Some(Arc::clone(&subscription.control));
        let lost = match self.consumer.consume(&mut subscription, self.stop).await {
            Interruption::Stopped => return ControlFlow::Break(RunEnd::Stopped(Some(subscription))),
            Interruption::Lost(reason) => reason,
        };
        self.consumer.forget(&subscription.control);
        if let Some(reason) = self.consumer.transport.status().end_reason() {
            return ControlFlow::Break(RunEnd::Closed(reason));
        }
        self.consumer.before_reopening(&lost);
        subscription.control.close().await;
        ControlFlow::Continue(lost)
    }

    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<RunEnd> {
        if error.is_handle_ended() {
            return ControlFlow::Break(RunEnd::Closed(error.clone()));
        }
        if self.is_batch_queue_refused(error) {
            let (queue, error) = (self.consumer.queue.name(), Logged(Chain(error)));
            tracing::debug!(queue, %error, "not serving the queue for batches; trying again later");
        } else {
            log_not_open(self.consumer.queue.name(), error);
        }
        ControlFlow::Continue(())
    }

    fn delay(&self, error: &BrokerError, backoff: &mut Backoff) -> Duration {
        if self.is_batch_queue_refused(error) {
            REFUSED_RETRY_DELAY
        } else {
            backoff.delay_after(error)
        }
    }

    async fn pause(&mut self, delay: Duration) -> ControlFlow<RunEnd> {
        match self.stop.run_until_cancelled(sleep(delay)).await {
            Some(()) => ControlFlow::Continue(()),
            None => ControlFlow::Break(RunEnd::Stopped(None)),
        }
    }
}

impl ConsumerRun<'_> {
    /// Whether this is the consumer of a queue for batches that was never served, and the broker
    /// refuses the queue until someone acts.
    fn is_batch_queue_refused(&self, error: &BrokerError) -> bool {
        self.consumer.is_batch_queue && self.control.is_none() && error.is_lasting_refusal()
    }
}

impl QueueConsumer {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        queue: RequestQueue,
        prefetch: u16,
        handler: Arc<RequestHandler>,
        estimates: Option<Arc<QueueWaitEstimates>>,
    ) -> Self {
        Self {
            transport,
            queue,
            prefetch,
            is_batch_queue: false,
            deletes_queue: false,
            last_arrival: None,
            handler,
            estimates,
            in_progress: RequestsInProgress::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Makes this the consumer of a queue for batches. `deletes_queue` is whether the queue is
    /// deleted, once it is empty, when its last worker stops. It must be `false` if callers may
    /// send one-way requests to the queue: RabbitMQ may confirm and drop one that arrives during
    /// the deletion, and nobody would send it again.
    pub(super) fn for_batches(self, deletes_queue: bool) -> Self {
        Self {
            is_batch_queue: true,
            deletes_queue,
            ..self
        }
    }

    /// Subscribes for the first time. Returns `None` if it is told to stop before that succeeds.
    ///
    /// # Errors
    ///
    /// Tries again after an error that is [worth another attempt](BrokerError::is_waited_out).
    /// Returns the first other one: for example, the broker refuses the queue, or the handle was
    /// closed.
    pub(super) async fn open(&self, stop: &CancellationToken) -> Result<Option<Subscription>, BrokerError> {
        let mut backoff = Backoff::new();
        loop {
            match self.subscribe(stop).await {
                Some(Err(error)) if error.is_waited_out() => {
                    log_not_open(self.queue.name(), &error);
                }
                opened => return opened.transpose(),
            }
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// Subscribes to the queue. Returns `None` if it is told to stop and there is no connection or
    /// no answer.
    ///
    /// While there is a connection, it waits for the broker's answer even if it is told to stop,
    /// for [`ANSWER_LIMIT`]. The broker may have begun to deliver. Messages that are requeued
    /// unseen count as delivered, so those for methods that are not `idempotent` would never run.
    async fn subscribe(&self, stop: &CancellationToken) -> Option<Result<Subscription, BrokerError>> {
        let stopped = async {
            stop.cancelled().await;
            let down = self.transport.status().wait_down(Role::Consuming);
            let _ = timeout(ANSWER_LIMIT, down).await;
        };
        tokio::select! {
            biased;
            opened = self.transport.open_requests(&self.queue, self.prefetch) => Some(opened),
            () = stopped => None,
        }
    }

    /// Returns a consumer of the same queue that takes over after a panic of this one, without its
    /// tasks.
    fn successor(&self) -> Self {
        Self {
            is_batch_queue: self.is_batch_queue,
            deletes_queue: self.deletes_queue,
            ..Self::new(
                Arc::clone(&self.transport),
                self.queue.clone(),
                self.prefetch,
                Arc::clone(&self.handler),
                self.estimates.clone(),
            )
        }
    }

    /// Handles requests until it is told to stop or the handle is closed, then drains.
    ///
    /// Without a first subscription, it begins by opening one. After a panic a new consumer takes
    /// over, and the broker delivers the requests of the old one again.
    pub(super) async fn run(
        self,
        first: Option<Subscription>,
        stop: CancellationToken,
        drain_timeout: Duration,
    ) -> ConsumerEnd {
        let mut backoff = Backoff::new();
        let mut control = first.as_ref().map(|first| Arc::clone(&first.control));
        let (mut consumer, mut first) = (self, first);
        loop {
            let successor = consumer.successor();
            let since = Instant::now();
            let running = consumer.run_once(first.take(), &mut control, &stop, drain_timeout);
            let panicked = match catch_panic("request queue", running).await {
                Ok(end) => return end,
                Err(panicked) => panicked,
            };
            if let Some(control) = &control {
                successor.forget(control);
                control.close().await;
            }
            backoff.worked_for(since.elapsed());
            let panicked = panicked.into();
            let waiting = backoff.wait_after(&panicked);
            if stop.run_until_cancelled(waiting).await.is_none() {
                // It has no subscription, and was only told to stop.
                return successor.drain(None, drain_timeout, None).await;
            }
            consumer = successor;
        }
    }

    /// Handles requests until it is told to stop or the handle is closed, then drains. Uses the
    /// first subscription if there is one. Keeps `control` set to that of the current
    /// subscription.
    async fn run_once(
        mut self,
        first: Option<Subscription>,
        control: &mut Option<Arc<dyn Control>>,
        stop: &CancellationToken,
        drain_timeout: Duration,
    ) -> ConsumerEnd {
        let mut run = ConsumerRun {
            consumer: &mut self,
            first,
            control,
            stop,
        };
        let (subscription, reason) = match keep_open(&mut run).await {
            RunEnd::Stopped(subscription) => (subscription, None),
            RunEnd::Closed(reason) => (None, Some(reason)),
        };
        self.drain(subscription, drain_timeout, reason).await
    }

    /// Logs that a subscription was lost, before another one is opened. Until then, callers of a
    /// queue for batches are advised to send single requests.
    fn before_reopening(&self, lost: &BrokerError) {
        tracing::warn!(
            queue = self.queue.name(),
            error = %Logged(Chain(lost)),
            "the consumer was lost; subscribing again"
        );
        // RabbitMQ 4 refuses messages to a queue whose node is down, which may last long.
        if self.is_batch_queue {
            self.handler.pause_batches();
        }
    }

    /// Logs that the consumer has opened a subscription, other than the one that was passed to
    /// [`run`](Self::run). Resumes batches if the queue is one for batches. `was_open` is whether
    /// there was an earlier subscription.
    fn after_opening(&self, was_open: bool) {
        let queue = self.queue.name();
        if was_open {
            tracing::info!(queue, "subscribed again");
        } else {
            tracing::info!(queue, "subscribed");
        }
        if self.is_batch_queue {
            self.handler.resume_batches();
        }
    }

    /// Forgets what belongs to the subscription with this control, which has ended or is about to
    /// be closed.
    fn forget(&self, control: &Arc<dyn Control>) {
        self.handler.forget_deliveries(control);
        if let Some(estimates) = &self.estimates {
            estimates.reset();
        }
    }

    /// Starts the tasks of deliveries until it is told to stop, the subscription is lost, or a
    /// request is abandoned, which only a new subscription can bring back.
    async fn consume(&mut self, subscription: &mut Subscription, stop: &CancellationToken) -> Interruption {
        let mut stopped = pin!(stop.cancelled());
        let in_progress = self.in_progress.clone();
        let mut abandoned = pin!(in_progress.wait_abandoned());
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => return Interruption::Stopped,
                arrival = subscription.deliveries.next() => match arrival {
                    Some(Ok(delivery)) => {
                        // Ended tasks are joined here, so that their end does not wake this task.
                        while let Some(ended) = self.tasks.try_join_next() {
                            log_failure(ended);
                        }
                        self.start(delivery, subscription);
                    }
                    Some(Err(reason)) => return Interruption::Lost(reason),
                    None => {
                        return Interruption::Lost(BrokerError::Cancelled { queue: self.queue.name().to_owned() });
                    }
                },
                // A request was abandoned, for example because its task panicked. This branch may
                // come last: it is reached soon, because the prefetch limits how many deliveries
                // are ready before it.
                () = &mut abandoned => {
                    return Interruption::Lost(BrokerError::Panicked { task: "request" });
                }
            }
        }
    }

    /// Starts the task of a delivery. The prefetch bounds the number of tasks, except those of
    /// streams that were acked early; the handler's permits bound how many methods run.
    fn start(&mut self, delivery: Delivery, subscription: &Subscription) {
        let (handler, control) = (Arc::clone(&self.handler), Arc::clone(&subscription.control));
        let (in_progress, is_batch) = (self.in_progress.clone(), self.is_batch_queue);
        let (received, guard) = self.estimate_wait(&delivery);
        if !is_probe(&delivery.message.properties) {
            self.last_arrival = Some(received.at);
        }
        // Boxed, because each future that it passes through has room for it.
        let delivery = Box::new(delivery);
        self.tasks.spawn(async move {
            handler
                .handle(delivery, is_batch, control, received, &in_progress)
                .await;
            drop(guard);
        });
    }

    /// Returns how long a delivery may have waited. If it fills the prefetch, also returns a guard:
    /// messages may wait in the queue until it is dropped. Raises the time to live of probes to
    /// that of the delivery.
    fn estimate_wait(&self, delivery: &Delivery) -> (Received, Option<PrefetchFullGuard>) {
        let at = Instant::now();
        let Some(estimates) = &self.estimates else {
            return (Received::at(at), None);
        };
        let properties = &delivery.message.properties;
        let priority = properties.priority.unwrap_or(0);
        let received = estimates.estimate(priority, at);
        // A probe is acked at once.
        if is_probe(properties) {
            return (received, None);
        }
        // One-way requests in a batch have no time to live.
        let is_batch_with_ttl = self.is_batch_queue && expects_reply(properties);
        let batched_ttl = is_batch_with_ttl.then_some(BATCHED_TIME_TO_LIVE);
        if let Some(time) = properties.expiration.max(batched_ttl) {
            estimates.raise_probe_ttl(time);
        }
        let guard = self
            .fills_prefetch()
            .then(|| estimates.on_prefetch_full(priority, at));
        (received, guard)
    }

    /// Whether a delivery that has arrived, and has no task yet, fills the prefetch.
    fn fills_prefetch(&self) -> bool {
        // A task may end just before its delivery is acked, and a delivery may be acked just before
        // its task ends, so the larger number counts.
        let unacked_tasks = self.tasks.len().saturating_sub(self.in_progress.acked_early());
        let unacked = unacked_tasks.max(self.in_progress.unacked());
        unacked + 1 >= self.prefetch.into()
    }

    /// Cancels the consumer and waits until its requests end, at most for `drain_timeout`. Then
    /// aborts the remaining tasks and closes the subscription.
    ///
    /// A queue for batches, or with a single active consumer, is served until it is quiet before
    /// the consumer is cancelled. A queue for batches may be deleted at the end.
    ///
    /// `reason` is why the consumer could not continue; see [`ConsumerEnd::reason`].
    async fn drain(
        mut self,
        mut subscription: Option<Subscription>,
        drain_timeout: Duration,
        reason: Option<BrokerError>,
    ) -> ConsumerEnd {
        // If the handle was closed besides, that is the reason: the requests cannot be answered.
        let reason = reason.or_else(|| self.transport.status().end_reason());
        if self.is_batch_queue {
            self.handler.pause_batches();
        }
        let draining = async {
            if self.is_batch_queue
                && let Some(subscription) = &mut subscription
            {
                let _ = timeout(MAX_QUIET_WAIT, self.serve_until_quiet(subscription)).await;
            }
            self.finish(subscription.as_mut()).await;
            if self.deletes_queue && reason.is_none() {
                self.delete_queue_if_unused(&mut subscription).await;
            }
        };
        let finished = timeout(drain_timeout, draining).await;
        // Zero if all have finished.
        let unfinished = self.in_progress.count();
        if finished.is_err() {
            self.tasks.abort_all();
            // A task that blocks its thread cannot be aborted. Its request returns to the broker
            // nevertheless.
            let aborting = async { while self.tasks.join_next().await.is_some() {} };
            if timeout(ABORT_TIMEOUT, aborting).await.is_err() {
                tracing::error!("a handler blocks its thread and cannot be stopped");
            }
        }
        if let Some(subscription) = subscription {
            subscription.control.close().await;
        }
        ConsumerEnd { unfinished, reason }
    }

    /// Handles batches until none has arrived for [`QUIET_PERIOD`]. If the last one is older than
    /// that, or there was none, returns at once.
    ///
    /// Since batches are paused, replies advise callers to send single requests, so a busy caller
    /// soon stops sending batches. A late batch would wait in the queue for another worker, or be
    /// lost if the queue is deleted: RabbitMQ confirms a message to a queue that is being deleted,
    /// and drops it.
    ///
    /// A caller that has got no reply since may still send one, because it is idle or because its
    /// methods still run. [`finish`](Self::finish) handles what arrives before the consumer is
    /// cancelled, and [`delete_queue_if_unused`](Self::delete_queue_if_unused) what is in the queue
    /// after that.
    async fn serve_until_quiet(&mut self, subscription: &mut Subscription) {
        while let Some(last) = self.last_arrival {
            match timeout_at(last + QUIET_PERIOD, subscription.deliveries.next()).await {
                Ok(Some(Ok(delivery))) => self.start(delivery, subscription),
                // Nothing arrived, or the subscription ended.
                Ok(Some(Err(_)) | None) | Err(_) => return,
            }
        }
    }

    /// Closes the subscription, and deletes the queue for batches if this was its last worker, so
    /// that callers notice that no worker takes batches any more. Does nothing if there is no
    /// subscription: then the broker may not be reachable.
    ///
    /// If batches are left in the queue, no other worker would handle them. This then subscribes
    /// again, handles them, and tries again, until none are left or it cannot subscribe.
    async fn delete_queue_if_unused(&mut self, subscription: &mut Option<Subscription>) {
        while let Some(ended) = subscription.take() {
            ended.control.close().await;
            let has_batches = self.transport.delete_if_unused(&self.queue).await;
            if has_batches {
                let reopening = self.transport.open_requests(&self.queue, self.prefetch);
                *subscription = reopening.await.ok();
                self.finish(subscription.as_mut()).await;
            }
        }
    }

    /// Handles requests until none is in progress and none has arrived for [`QUIET_PERIOD`], or the
    /// subscription ends.
    ///
    /// Must be called before the consumer is cancelled: from then on, the broker gives requests to
    /// the next worker, and those that run here must have ended by then. Meanwhile, acks are held
    /// back, so that no more than the prefetch arrives and this ends on a busy queue too. Closing
    /// the subscription sends them.
    async fn finish_as_single_active(&mut self, subscription: &mut Subscription) {
        subscription.control.hold();
        let in_progress = self.in_progress.clone();
        loop {
            let quiet = async {
                in_progress.wait_idle().await;
                sleep(QUIET_PERIOD).await;
            };
            tokio::select! {
                biased;
                arrival = subscription.deliveries.next() => match arrival {
                    Some(Ok(delivery)) => self.start(delivery, subscription),
                    Some(Err(_)) | None => return,
                },
                Some(ended) = self.tasks.join_next() => log_failure(ended),
                () = quiet, if self.tasks.is_empty() => return,
            }
        }
    }

    /// Cancels the consumer, handles what had been delivered, and waits until no request is in
    /// progress. A queue with a single active consumer is served until it is quiet before.
    async fn finish(&mut self, mut subscription: Option<&mut Subscription>) {
        if self.queue.is_single_active()
            && let Some(subscription) = subscription.as_deref_mut()
        {
            self.finish_as_single_active(subscription).await;
        }
        if let Some(subscription) = subscription {
            // The broker confirms the cancellation after all deliveries that were on their way.
            let cancelled = subscription.control.cancel().await;
            while cancelled.is_ok()
                && let Some(Ok(delivery)) = subscription.deliveries.next().await
            {
                self.start(delivery, subscription);
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            log_failure(ended);
        }
        // Some replies may not be confirmed yet.
        self.in_progress.wait_idle().await;
    }
}

/// Runs an operation on a queue. Repeats it for as long as its error is [worth another
/// attempt](BrokerError::is_waited_out).
///
/// # Errors
///
/// Returns the first other error: for example, the broker refuses the queue, or the handle was
/// closed.
pub(super) async fn with_retries<T, F: Future<Output = Result<T, BrokerError>>>(
    queue: &str,
    operation: impl FnMut() -> F,
) -> Result<T, BrokerError> {
    retry(operation, |error| {
        let is_retried = error.is_waited_out();
        if is_retried {
            log_not_open(queue, error);
        }
        is_retried
    })
    .await
}

fn log_not_open(queue: &str, error: &BrokerError) {
    let error = Logged(Chain(error));
    tracing::warn!(queue, %error, "the queue is not available; trying again");
}

/// Logs a panic in a delivery's task. Panics of methods are caught, so this one is a bug in this
/// library. Other requests continue.
fn log_failure(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        let error = Logged(Chain(&error));
        tracing::error!(%error, "a request's task failed");
    }
}
