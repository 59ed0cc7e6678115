//! A server that is ready to handle requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::control::ControlResponder;
use super::queue_consumer::{ConsumerEnd, QueueConsumer};
use crate::error::{BrokerError, Chain, ServerError};
use crate::escape::Logged;
use crate::transport::{Subscription, Transport};

/// A server that has subscribed to its request queues, or only to some of them if it was told to
/// stop meanwhile. Dropping it ends all its tasks.
pub(super) struct OpenServer {
    /// The subscription is `None` if the consumer of a queue for batches has yet to subscribe.
    pub(super) consumers: Vec<(QueueConsumer, Option<Subscription>)>,
    /// `None` if nothing is handled through the control exchange.
    pub(super) responder: Option<ControlResponder>,
    /// The names of the request queues to which it has subscribed.
    pub(super) queues: Vec<String>,
    pub(super) drain_timeout: Duration,
    /// The tasks that keep the channels for replies and jobs open, send replies, and receive the
    /// items of callers.
    pub(super) reply_tasks: Vec<AbortOnDropHandle<()>>,
    pub(super) probe_task: AbortOnDropHandle<()>,
    /// Keeps the connection open if the user drops every handle.
    pub(super) transport: Arc<dyn Transport>,
}

impl OpenServer {
    /// Handles requests until `shutdown` is ready or a consumer ends by itself, then drains.
    pub(super) async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self {
            queues,
            drain_timeout,
            // They must run until the end.
            reply_tasks: _reply_tasks,
            transport,
            ..
        } = self;
        let stop = CancellationToken::new();
        let runtime = transport.runtime();
        let mut consumers = JoinSet::new();
        for (consumer, subscription) in self.consumers {
            consumers.spawn_on(consumer.run(subscription, stop.clone(), drain_timeout), &runtime);
        }
        // A consumer that is not told to stop ends only if the handle was closed, if its runtime
        // has ended, or if the consumer cannot recover from a panic. Then all others end too.
        let ended_by_itself = tokio::select! {
            biased;
            () = shutdown => None,
            ended = consumers.join_next() => ended,
        };
        stop.cancel();
        // No more probes are sent: without a consumer, they could stay in their queues until they
        // expire.
        drop(self.probe_task);
        if let Some(responder) = &self.responder {
            responder.begin_drain_timeout();
        }
        let mut end = ConsumerEnd {
            unfinished: 0,
            reason: None,
        };
        if let Some(ended) = ended_by_itself {
            end.add(ended);
        }
        while let Some(ended) = consumers.join_next().await {
            end.add(ended);
        }
        // Stopped last, so that callers can cancel the requests that are still in progress.
        if let Some(responder) = self.responder {
            end.unfinished += responder.stop().await;
        }
        let outcome = match end {
            ConsumerEnd {
                reason: Some(reason), ..
            } => Err(ServerError::Broker(reason)),
            ConsumerEnd { unfinished: 0, .. } => Ok(()),
            ConsumerEnd { unfinished, .. } => Err(ServerError::DrainTimedOut {
                unfinished,
                limit: drain_timeout,
            }),
        };
        match &outcome {
            Ok(()) => tracing::info!(?queues, "stopped"),
            Err(error) => tracing::error!(?queues, error = %Logged(Chain(error)), "server ended"),
        }
        outcome
    }
}

impl ConsumerEnd {
    /// Adds the end of another consumer. Keeps the first reason.
    fn add(&mut self, ended: Result<Self, JoinError>) {
        let reason = match ended {
            Ok(ended) => {
                self.unfinished += ended.unfinished;
                ended.reason
            }
            // A consumer recovers from a panic, unless it panics again while it recovers.
            Err(error) if error.is_panic() => Some(BrokerError::Panicked {
                task: "request queue",
            }),
            // Only the end of the runtime cancels the task of a consumer.
            Err(_) => Some(BrokerError::RuntimeEnded),
        };
        if self.reason.is_none() {
            self.reason = reason;
        }
    }
}
