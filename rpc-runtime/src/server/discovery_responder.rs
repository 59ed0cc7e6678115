//! Answers the requests that [`discovery`](crate::discovery) sends to all workers at once.
//!
//! Each worker consumes them from a queue of its own. They need no permit, so a worker answers them
//! even while it runs as many requests as it may. A failure here never ends the server.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::reply_channel::ReplyChannel;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::service::{
    Dispatcher, Executor, Received, RequestLabel, RequestLog, RequestSource, Response, Rules, Service,
};
use crate::transport::{
    Backoff, BroadcastOptions, Delivery, KeepOpen, Outgoing, SendToken, Subscription, Transport, keep_open,
    restart_on_panic,
};

/// How long a worker tries to answer a discovery request, and how long its sender waits by default.
pub(crate) const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The exchange that discovery requests are published to, and the queues that are bound to it.
pub(crate) const DISCOVERY: BroadcastOptions = BroadcastOptions {
    exchange: "rpc.discovery",
    prefetch: 16,
    time_to_live: DISCOVERY_TIMEOUT,
    max_messages: 100,
    max_bytes: 1024 * 1024,
};

/// How long to wait after the broker refused the exchange or the queue. Permissions rarely change,
/// and the broker logs each refusal.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(600);

/// How long a starting server waits until it can be discovered.
const START_TIMEOUT: Duration = Duration::from_secs(1);

/// A task that answers discovery requests. Dropping this ends the task.
pub(super) struct DiscoveryResponder {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
    /// Resolves once the first attempt to subscribe has succeeded or failed.
    first_attempt: oneshot::Receiver<()>,
}

impl DiscoveryResponder {
    /// Starts a task that runs discovery requests. `built_in` is the service with the built-in
    /// methods of the whole worker.
    pub(super) fn start(
        transport: &Arc<dyn Transport>,
        built_in: &Arc<dyn Service>,
        rules: Rules,
        channel: &Arc<ReplyChannel>,
    ) -> Self {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add_built_in(built_in);
        let log = RequestLog::new(DISCOVERY.exchange);
        let responder = ResponderTask {
            transport: Arc::clone(transport),
            executor: Executor::new(dispatcher, rules, log, RequestSource::Discovery),
            channel: Arc::clone(channel),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (first_attempt_done, first_attempt) = oneshot::channel();
        let mut first_attempt_done = Some(first_attempt_done);
        let running = async move {
            let running = restart_on_panic("discovery", || {
                let mut run = ResponderRun {
                    task: &responder,
                    stop: &stopped,
                    first_attempt_done: first_attempt_done.take(),
                    is_refusal_logged: false,
                };
                async move { keep_open(&mut run).await }
            });
            running.await;
        };
        let task = transport.runtime().spawn(running);
        Self {
            stop,
            task: AbortOnDropHandle::new(task),
            first_attempt,
        }
    }

    /// Waits until the first attempt to subscribe has succeeded or failed, but not for longer than
    /// [`START_TIMEOUT`]. Must be called at most once.
    pub(super) async fn started(&mut self) {
        let _ = timeout(START_TIMEOUT, &mut self.first_attempt).await;
    }

    /// Deletes the queue and ends the task.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        // The task limits its own waits, and is restarted if it panics. An error means that the
        // runtime shuts down.
        let _ = self.task.await;
    }
}

struct ResponderTask {
    transport: Arc<dyn Transport>,
    executor: Executor,
    channel: Arc<ReplyChannel>,
}

/// Keeps the discovery queue open until the responder is stopped or the broker handle is closed.
struct ResponderRun<'a> {
    task: &'a ResponderTask,
    stop: &'a CancellationToken,
    /// Dropping the sender wakes [`DiscoveryResponder::started`].
    first_attempt_done: Option<oneshot::Sender<()>>,
    is_refusal_logged: bool,
}

impl KeepOpen for ResponderRun<'_> {
    type Opened = Subscription;
    type End = ();

    async fn open(&mut self) -> ControlFlow<(), Result<Subscription, BrokerError>> {
        let opening = self.task.transport.open_broadcasts(&DISCOVERY);
        let opened = unless_stopped(self.stop, opening).await?;
        drop(self.first_attempt_done.take());
        ControlFlow::Continue(opened)
    }

    async fn run(&mut self, subscription: Subscription) -> ControlFlow<(), BrokerError> {
        self.is_refusal_logged = false;
        let lost = self.task.answer_until_lost(subscription, self.stop).await?;
        if lost.is_handle_ended() {
            return ControlFlow::Break(());
        }
        let error = Logged(Chain(&lost));
        tracing::debug!(%error, "the discovery queue was lost; declaring it again");
        ControlFlow::Continue(lost)
    }

    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<()> {
        if error.is_handle_ended() {
            return ControlFlow::Break(());
        }
        if !error.is_waited_out() && !std::mem::replace(&mut self.is_refusal_logged, true) {
            let missing = missing_permission(error);
            let error = Logged(Chain(error));
            tracing::info!(%error, missing, "serving without discovery");
        }
        ControlFlow::Continue(())
    }

    fn delay(&self, error: &BrokerError, backoff: &mut Backoff) -> Duration {
        if error.is_waited_out() {
            backoff.delay_after(error)
        } else {
            REFUSED_RETRY_DELAY
        }
    }

    async fn pause(&mut self, delay: Duration) -> ControlFlow<()> {
        unless_stopped(self.stop, sleep(delay)).await
    }
}

/// Waits for a future. [`Break`](ControlFlow::Break) if it is told to stop before.
async fn unless_stopped<T>(stop: &CancellationToken, future: impl Future<Output = T>) -> ControlFlow<(), T> {
    match stop.run_until_cancelled(future).await {
        Some(output) => ControlFlow::Continue(output),
        None => ControlFlow::Break(()),
    }
}

impl ResponderTask {
    /// Answers requests until the queue is lost, and returns why.
    async fn answer_until_lost(
        &self,
        mut subscription: Subscription,
        stop: &CancellationToken,
    ) -> ControlFlow<(), BrokerError> {
        let mut answering = FuturesUnordered::new();
        let lost = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    // This deletes the queue, so that discovery no longer finds this worker.
                    subscription.control.close_and_delete().await;
                    return ControlFlow::Break(());
                }
                Some(tag) = answering.next() => subscription.control.ack(tag),
                // The prefetch bounds `answering`.
                arrival = subscription.deliveries.next() => match arrival {
                    Some(Ok(delivery)) => answering.push(self.answer(delivery)),
                    Some(Err(reason)) => break reason,
                    None => break BrokerError::Lost { source: None },
                },
            }
        };
        subscription.control.close().await;
        ControlFlow::Continue(lost)
    }

    /// Answers a request and returns its delivery tag.
    async fn answer(&self, delivery: Delivery) -> u64 {
        let tag = delivery.tag;
        // Layers may delay the method for longer than the sender waits.
        if timeout(DISCOVERY_TIMEOUT, self.answer_in_time(delivery))
            .await
            .is_err()
        {
            self.executor.log.discovery_timed_out();
        }
        tag
    }

    async fn answer_in_time(&self, delivery: Delivery) {
        if let Some(malformed) = delivery.malformed {
            self.executor.log.malformed_discovery(malformed);
            return;
        }
        let now = Instant::now();
        let decided = self
            .executor
            .decide(delivery.message, delivery.redelivered, Received::at(now), now);
        let decision = match decided {
            Ok(decision) => decision,
            Err(forbidden) => return self.executor.log.reply_address_forbidden(&forbidden),
        };
        if decision.reply_to().is_none() {
            return;
        }
        let Response { reply, reply_to, .. } = self
            .executor
            .execute(DISCOVERY.exchange, decision, &RequestLabel::default(), now)
            .await;
        let Some(to) = reply_to else { return };
        let outgoing = Outgoing {
            message: to.message(reply),
            queue: to.address,
            mandatory: false,
            send_token: SendToken::default(),
        };
        // The loss of a reply does no harm: discovery can be repeated.
        let _ = self
            .channel
            .send(outgoing, Some(now + DISCOVERY_TIMEOUT), false)
            .await;
    }
}

/// Returns what is probably missing: in most cases a permission of the worker's RabbitMQ user.
fn missing_permission(refused: &BrokerError) -> &'static str {
    match refused {
        BrokerError::Exchange {
            action: "declare", ..
        } => {
            "configure permission on the exchange rpc.discovery, or have someone else declare it as a durable fanout exchange"
        }
        BrokerError::TooManyChannels { .. } => "one more channel",
        BrokerError::Exchange { .. } => {
            "read permission on the exchange rpc.discovery, and write permission on queues rpc.discovery.*"
        }
        _ => "configure, write and read permission on queues rpc.discovery.*",
    }
}
