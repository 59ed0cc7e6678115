//! Sends a discovery request to all workers and collects their answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::collection::{Collection, WorkerAnswer};
use super::found::Discovered;
use crate::codec::Codec;
use crate::describe::{DESCRIBE, MethodDescriptor, PING, STATS, Worker, WorkerDescription, WorkerStats};
use crate::error::{BrokerError, Cause};
use crate::protocol::{
    CONTROL_EXCHANGE, DISCOVERY_KEY, Headers, MAX_TIME_TO_LIVE, Message, Request, ShortStr,
};
use crate::server::DISCOVERY_TIMEOUT;
use crate::transport::{Backoff, Published, SendToken, Subscription, Transport};

/// The default of [`Discover::window`].
const DEFAULT_WINDOW: Duration = Duration::from_millis(500);

/// How long to retry a request that the broker refuses.
const REFUSED_RETRY_TIMEOUT: Duration = Duration::from_secs(2);

/// The default of [`Discover::max_workers`].
const DEFAULT_MAX_WORKERS: usize = 1000;

/// A request to all workers of a broker, from [`Broker::discover`](crate::Broker::discover).
///
/// The number of workers is unknown, so answers are collected until none has arrived for the
/// [`window`](Self::window), or until the [`timeout`](Self::timeout). If no worker is subscribed,
/// the broker returns the request and the result is empty at once.
///
/// The answers arrive in an exclusive queue for this request alone. They do not use the reply queue
/// of calls, where each id belongs to one reply and many answers at once would delay the replies to
/// calls.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), rpc_runtime::BrokerError> {
/// use std::time::Duration;
///
/// use rpc_runtime::Broker;
///
/// let broker = Broker::in_process();
/// let found = broker.discover().timeout(Duration::from_secs(1)).workers().await?;
/// assert!(found.workers.is_empty() && found.is_complete);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`BrokerError`] if the broker cannot be reached, blocks publishers or does not answer until the
/// timeout, if the connection is lost, or if the broker refuses the exchange, the reply queue or
/// the request. It is not an error if no worker answers, unless a worker's queue did not accept the
/// request.
///
/// # Cancel safety
///
/// Dropping the future ends the discovery and deletes its reply queue. Workers may have received
/// the request.
#[derive(Clone)]
#[must_use = "nothing is sent until `services`, `stats` or `workers` is called"]
pub struct Discover {
    transport: Arc<dyn Transport>,
    /// The `app_id` and the `user_id` of the request.
    app_and_user_id: (Option<ShortStr>, Option<ShortStr>),
    window: Duration,
    timeout: Duration,
    max_workers: usize,
}

impl Discover {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        app_and_user_id: (Option<ShortStr>, Option<ShortStr>),
    ) -> Self {
        Self {
            transport,
            app_and_user_id,
            window: DEFAULT_WINDOW,
            timeout: DISCOVERY_TIMEOUT,
            max_workers: DEFAULT_MAX_WORKERS,
        }
    }

    /// Sets how long to wait for the next answer; the default is half a second. If any worker
    /// listens, discovery takes at least this long, unless the timeout is shorter, too many workers
    /// answer, or their answers are too large. The maximum is 49 days.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window.min(MAX_TIME_TO_LIVE);
        self
    }

    /// Sets how long discovery may take in total; the default is 5 seconds. The maximum is 49 days.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(MAX_TIME_TO_LIVE);
        self
    }

    /// Sets the maximum number of workers; the default is 1000. If more workers answer, discovery
    /// ends and its result is not [complete](Discovered::is_complete).
    ///
    /// An answer may have up to 1 MiB, and all answers together 64 MiB.
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.max_workers = workers;
        self
    }

    /// Asks all workers which services they serve.
    ///
    /// # Errors
    ///
    /// See [`Discover`].
    pub async fn services(self) -> Result<Discovered<WorkerDescription>, BrokerError> {
        self.ask(&DESCRIBE).await
    }

    /// Asks all workers for the statistics of their methods.
    ///
    /// # Errors
    ///
    /// See [`Discover`].
    pub async fn stats(self) -> Result<Discovered<WorkerStats>, BrokerError> {
        self.ask(&STATS).await
    }

    /// Asks all workers for their identities: their names, hosts and processes.
    ///
    /// # Errors
    ///
    /// See [`Discover`].
    pub async fn workers(self) -> Result<Discovered<Worker>, BrokerError> {
        self.ask(&PING).await
    }

    /// Sends a request for a built-in method to all workers, and collects their answers in a reply
    /// queue that only this request uses.
    async fn ask<T: WorkerAnswer + DeserializeOwned>(
        self,
        method: &'static MethodDescriptor,
    ) -> Result<Discovered<T>, BrokerError> {
        let deadline = Instant::now() + self.timeout;
        let transport = &self.transport;
        let opening = transport.open_answers();
        let mut subscription = self
            .within_deadline(deadline, "opening the reply queue", opening)
            .await?;
        let (id, sent) = self.send(method, &subscription.address, deadline).await;
        let collected = match sent {
            Ok(Published::Confirmed) => {
                let collection = Collection::new(id, self.max_workers);
                self.collect(collection, &mut subscription.replies, deadline)
                    .await
            }
            // No worker is subscribed, so nothing is missing.
            Ok(Published::Returned) => Ok(Collection::new(id, self.max_workers).into_found()),
            Ok(Published::Failed { source, .. }) => Err(source),
            Ok(Published::Refused) => {
                // One queue refused the request, but the others may have it.
                let mut collection = Collection::new(id, self.max_workers);
                collection.mark_incomplete();
                let collecting = self.collect(collection, &mut subscription.replies, deadline);
                match collecting.await {
                    // Without an answer, no worker is known to have it.
                    Ok(found) if found.workers.is_empty() && found.refusals.is_empty() => Err(refused()),
                    collected => collected,
                }
            }
            // Cannot happen: nobody else has the token that could withdraw this request.
            Ok(Published::Withdrawn) => Err(refused()),
            Err(error) => Err(error),
        };
        subscription.replies.control.close_and_delete().await;
        collected
    }

    /// Publishes the request, and again while the broker refuses it, until
    /// [`REFUSED_RETRY_TIMEOUT`] or the deadline has passed. Returns the id and the outcome of the
    /// last attempt.
    ///
    /// The broker refuses a request if one of the bound queues cannot take it, although the other
    /// queues get it. RabbitMQ 4.3 does that for a moment after a worker's connection is lost. Each
    /// attempt has a new id, and only answers to the last one count: a refusal does not name its
    /// worker, so those of two attempts would count twice.
    async fn send(
        &self,
        method: &'static MethodDescriptor,
        reply_to: &ShortStr,
        deadline: Instant,
    ) -> (ShortStr, Result<Published, BrokerError>) {
        let transport = &self.transport;
        let mut backoff = Backoff::new();
        let give_up_at = deadline.min(Instant::now() + REFUSED_RETRY_TIMEOUT);
        let key = ShortStr::from_static(DISCOVERY_KEY);
        loop {
            let id = ShortStr::from_uuid(Uuid::new_v4());
            let message = self.request(method, id.clone(), reply_to.clone());
            let publishing = transport.publish_control(&key, message, SendToken::default());
            let sending = async { Ok(publishing.await) };
            let sent = self
                .within_deadline(deadline, "sending a discovery request", sending)
                .await;
            let retry_at = Instant::now() + backoff.next_delay();
            let is_refused = matches!(sent, Ok(Published::Refused));
            if !is_refused || retry_at >= give_up_at {
                return (id, sent);
            }
            tokio::time::sleep_until(retry_at).await;
        }
    }

    /// Runs a step, at most until the deadline. If it has not ended by then, returns what is wrong
    /// with the connection, or else [`BrokerError::Unresponsive`].
    async fn within_deadline<T>(
        &self,
        deadline: Instant,
        step: &'static str,
        running: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        if let Ok(done) = timeout_at(deadline, running).await {
            return done;
        }
        let obstacle = self.transport.status().status().obstacle();
        let limit = self.timeout;
        Err(obstacle.unwrap_or(BrokerError::Unresponsive { step, limit }))
    }

    /// Makes the message that asks for this method.
    fn request(&self, method: &MethodDescriptor, id: ShortStr, reply_to: ShortStr) -> Message {
        let (app_id, user_id) = self.app_and_user_id.clone();
        Request {
            method: Some(ShortStr::from_static(method.name)),
            codec: Codec::MessagePack,
            correlation_id: Some(id),
            reply_to: Some(reply_to),
            time_to_live: Some(self.timeout),
            persistent: false,
            priority: None,
            app_id,
            user_id,
            headers: Headers::default(),
            asks_batch_size: false,
            credit: None,
            sends_items: false,
            dead_lettered: None,
            arguments: bytes::Bytes::new(),
        }
        .into_message()
    }

    /// Collects answers until none has arrived for the window, or the collection ends. If the
    /// deadline comes before that, the result is incomplete. Messages that are not kept do not
    /// prolong the window.
    async fn collect<T: WorkerAnswer + DeserializeOwned>(
        &self,
        mut collection: Collection<T>,
        replies: &mut Subscription,
        deadline: Instant,
    ) -> Result<Discovered<T>, BrokerError> {
        let mut quiet_at = Instant::now() + self.window;
        while !collection.is_ended() {
            match timeout_at(deadline.min(quiet_at), replies.deliveries.next()).await {
                Ok(Some(Ok(delivery))) => {
                    replies.control.ack(delivery.tag);
                    if delivery.malformed.is_some() {
                        collection.drop_malformed(&delivery.message);
                    } else if collection.add(delivery.message) {
                        quiet_at = Instant::now() + self.window;
                    }
                }
                Ok(Some(Err(lost))) => return Err(lost),
                Ok(None) => return Err(BrokerError::Lost { source: None }),
                // The window has passed, or the deadline has come before that.
                Err(_) => {
                    if deadline < quiet_at {
                        collection.end_incomplete();
                    }
                    break;
                }
            }
        }
        Ok(collection.into_found())
    }
}

/// The error if no queue is known to have the request.
fn refused() -> BrokerError {
    BrokerError::Exchange {
        exchange: CONTROL_EXCHANGE.to_owned(),
        action: "publish to",
        source: Cause::new("the broker did not accept the message"),
    }
}

impl fmt::Debug for Discover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discover")
            .field("window", &self.window)
            .field("timeout", &self.timeout)
            .field("max_workers", &self.max_workers)
            .finish_non_exhaustive()
    }
}
