//! Subscribes to the control messages of a worker, and keeps the queue open.

use std::future::ready;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::broadcasts::TIME_TO_LIVE;
use super::methods::ControlMethods;
use super::responder::Responder;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::server::open_failure_log::OpenFailureLog;
use crate::server::reply_channel::ReplyChannel;
use crate::service::Rules;
use crate::transport::{
    Backoff, ControlQueue, Delivery, KeepOpen, Subscription, Transport, catch_panic, keep_open,
    restart_on_panic,
};

/// The prefetch. It bounds how many discovery requests and refused broadcasts are answered at once.
/// Other broadcasts are acked before they run.
const PREFETCH: u16 = 64;

/// How many control messages can wait in the queue. If there are more, the oldest are dropped.
const MAX_WAITING: u16 = 1024;

/// The maximum total length of the messages that wait in the queue, in bytes.
const MAX_WAITING_BYTES: u32 = 8 * 1024 * 1024;

/// How long to wait before the next attempt if the broker refuses the exchange or the queue until
/// someone acts. Permissions rarely change, and the broker logs each refusal.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(600);

/// How long a starting server waits at most for its control queue, and for its queue for items.
pub(in crate::server) const START_TIMEOUT: Duration = Duration::from_secs(1);

/// A task that answers control messages. Dropping this ends the task and all running broadcasts.
pub(in crate::server) struct ControlResponder {
    stop: CancellationToken,
    /// When the drain timeout began: the server began to drain, or the handle was closed.
    draining_since: Arc<OnceLock<Instant>>,
    /// Ends once it is told to stop or the handle is closed. Returns the number of requests that
    /// did not end in time.
    task: AbortOnDropHandle<usize>,
    /// Resolves once the first attempt to subscribe has succeeded or failed.
    first_attempt: oneshot::Receiver<()>,
}

impl ControlResponder {
    /// Starts a task that handles control messages. Once the server begins to drain, or the handle
    /// is closed, the answers in progress, of broadcasts and others, have `drain_timeout` to end.
    pub(in crate::server) fn start(
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
            refuses_excess: false,
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (first_attempt_done, first_attempt) = oneshot::channel();
        let mut first_attempt_done = Some(first_attempt_done);
        let runtime = transport.runtime();
        let transport = Arc::clone(transport);
        let running = async move {
            // The answers go on if the responder restarts after a panic, and end with this task.
            let answers = TaskTracker::new();
            let aborted = CancellationToken::new();
            let _abort = aborted.clone().drop_guard();
            restart_on_panic("control", || {
                let mut run = ResponderRun {
                    responder: &responder,
                    transport: &transport,
                    queue: &queue,
                    stop: &stopped,
                    first_attempt_done: first_attempt_done.take(),
                    failures: OpenFailureLog::default(),
                    drain_timeout,
                    draining_since: &since,
                    answers: &answers,
                    aborted: &aborted,
                };
                async move {
                    keep_open(&mut run).await;
                    // Ends at once if `answer_until_lost` has drained the answers.
                    run.drain(ready(())).await;
                    run.answers.len()
                }
            })
            .await
        };
        Self {
            stop,
            draining_since,
            task: AbortOnDropHandle::new(runtime.spawn(running)),
            first_attempt,
        }
    }

    /// Waits until the first attempt to subscribe has succeeded or failed, but not for longer than
    /// [`START_TIMEOUT`]. Must be called at most once.
    pub(in crate::server) async fn started(&mut self) {
        let _ = timeout(START_TIMEOUT, &mut self.first_attempt).await;
    }

    /// Begins the drain timeout. Until [`stop`](Self::stop), callers can still cancel their calls,
    /// and broadcasts are answered.
    pub(in crate::server) fn begin_drain_timeout(&self) {
        self.draining_since.get_or_init(Instant::now);
    }

    /// Deletes the queue, waits for the answers in progress and ends the task. Returns the number
    /// of requests that did not end within the drain timeout; see
    /// [`begin_drain_timeout`](Self::begin_drain_timeout).
    pub(in crate::server) async fn stop(self) -> usize {
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
    failures: OpenFailureLog,
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
        self.failures = OpenFailureLog::default();
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
        if !self.failures.admit(error) {
            return ControlFlow::Continue(());
        }
        let (is_transient, missing) = (error.is_transient(), missing_permission(error));
        let error = Logged(Chain(error));
        if is_transient {
            tracing::warn!(%error, "the control queue cannot be opened; trying again");
        } else {
            tracing::info!(
                %error,
                missing,
                "serving without broadcasts and discovery; calls that their callers drop are not cancelled"
            );
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

    async fn pause(&mut self, delay: Duration) -> ControlFlow<()> {
        unless_stopped(self.stop, sleep(delay)).await
    }
}

impl ResponderRun<'_> {
    /// Answers control messages until the queue is lost, and returns why. If the responder is
    /// stopped before, drains, deletes the queue and returns [`Break`](ControlFlow::Break).
    async fn answer_until_lost(&mut self, mut subscription: Subscription) -> ControlFlow<(), BrokerError> {
        let lost = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    let _ = timeout(self.drain_time_left(), self.cancel_consumer(&mut subscription)).await;
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
    async fn cancel_consumer(&self, subscription: &mut Subscription) {
        if subscription.control.cancel().await.is_ok() {
            while let Some(Ok(delivery)) = subscription.deliveries.next().await {
                self.start(delivery, subscription);
            }
        }
    }

    /// Starts the task that answers a delivery. A message about calls needs none.
    fn start(&self, delivery: Delivery, subscription: &Subscription) {
        // Handled without a task of their own, so in their order and at once.
        if self.responder.calls.handle(&delivery) {
            return subscription.control.ack(delivery.tag);
        }
        let (responder, control) = (Arc::clone(self.responder), Arc::clone(&subscription.control));
        let aborted = self.aborted.clone();
        self.answers.spawn(async move {
            let tag = delivery.tag;
            let answering = responder.answer(delivery, || control.ack(tag));
            // Logs a panic of this library. Those of methods are caught earlier.
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

    /// Returns how much of the drain timeout is left. Begins the timeout if it has not begun.
    fn drain_time_left(&self) -> Duration {
        let since = self.draining_since.get_or_init(Instant::now);
        self.drain_timeout.saturating_sub(since.elapsed())
    }
}

/// Waits for a future. Returns [`Break`](ControlFlow::Break) if it is told to stop before.
async fn unless_stopped<T>(stop: &CancellationToken, future: impl Future<Output = T>) -> ControlFlow<(), T> {
    match stop.run_until_cancelled(future).await {
        Some(output) => ControlFlow::Continue(output),
        None => ControlFlow::Break(()),
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
