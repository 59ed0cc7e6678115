//! Asking all workers at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::collection::{Collection, OfWorker};
use super::found::Discovered;
use crate::codec::Codec;
use crate::describe::{DESCRIBE, MethodDescriptor, PING, STATS, Worker, WorkerDescription, WorkerStats};
use crate::error::{BrokerError, Cause};
use crate::protocol::{Headers, MAX_TIME_TO_LIVE, Message, Request, ShortStr};
use crate::server::{DISCOVERY, MAX_WAIT};
use crate::transport::{Backoff, Published, ReplyQueue, Subscription, Transport};

/// How long nobody may answer by default, until no more answers are waited for.
const DEFAULT_WINDOW: Duration = Duration::from_millis(500);

/// How long a question that the broker refuses is asked again.
const REFUSED_LIMIT: Duration = Duration::from_secs(2);

/// How many workers are kept by default.
const DEFAULT_WORKERS: usize = 1000;

/// A question to all workers on a broker, from [`Broker::discover`].
///
/// Nobody knows how many workers there are: answers are collected until none has come for the [`window`](Self::window), and no longer
/// than the [`timeout`](Self::timeout). Where nobody listens at all, the broker says so at once.
///
/// The answers come to an exclusive queue that lives for this question alone. The queue for the replies to calls is not used: there, each
/// id stands for one reply, and many workers that answer at once would delay the replies to calls.
///
/// # Errors
///
/// Where there is no connection within the limit, it is lost while answers come, or the broker refuses to send to the exchange or to
/// make a reply queue: [`BrokerError`]. That nobody answers is none.
///
/// # Cancel safety
///
/// Dropping the future of a question gives it up, and the reply queue with it.
#[derive(Clone)]
#[must_use = "nobody is asked before `services`, `stats` or `workers`"]
pub struct Discover {
    transport: Arc<dyn Transport>,
    /// The application and the user that the question carries.
    names: (Option<ShortStr>, Option<ShortStr>),
    window: Duration,
    timeout: Duration,
    max_workers: usize,
}

impl Discover {
    pub(crate) fn new(transport: Arc<dyn Transport>, names: (Option<ShortStr>, Option<ShortStr>)) -> Self {
        Self {
            transport,
            names,
            window: DEFAULT_WINDOW,
            timeout: MAX_WAIT,
            max_workers: DEFAULT_WORKERS,
        }
    }

    /// How long nobody may answer until no more answers are waited for; the default is half a second. It is how long a question takes at
    /// least, where anybody listens. More than 49 days count as 49 days, also for the [`timeout`](Self::timeout).
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window.min(MAX_TIME_TO_LIVE);
        self
    }

    /// How long a question may take in all; the default is 5 seconds. Workers do not answer questions that are older than
    /// that.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(MAX_TIME_TO_LIVE);
        self
    }

    /// How many workers are kept; the default is 1000. Once as many have answered, no more answers are waited for, and what was found is
    /// not [complete](Discovered::is_complete).
    ///
    /// Of each, an answer of up to 1 MiB is kept, and 64 MiB in all.
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.max_workers = workers;
        self
    }

    /// What all workers serve.
    ///
    /// # Errors
    ///
    /// See [`Discover`].
    pub async fn services(self) -> Result<Discovered<WorkerDescription>, BrokerError> {
        self.ask(&DESCRIBE).await
    }

    /// What all workers counted of their methods.
    ///
    /// # Errors
    ///
    /// See [`Discover`].
    pub async fn stats(self) -> Result<Discovered<WorkerStats>, BrokerError> {
        self.ask(&STATS).await
    }

    /// Who all workers are.
    ///
    /// # Errors
    ///
    /// See [`Discover`].
    pub async fn workers(self) -> Result<Discovered<Worker>, BrokerError> {
        self.ask(&PING).await
    }

    async fn ask<T: OfWorker + DeserializeOwned>(
        self,
        method: &'static MethodDescriptor,
    ) -> Result<Discovered<T>, BrokerError> {
        let deadline = Instant::now() + self.timeout;
        let transport = &self.transport;
        let opening = transport.open_replies(ReplyQueue::Exclusive, None);
        let mut link = self.by(deadline, opening).await?;
        let (id, sent) = self.send(method, &link.address, deadline).await;
        let collected = match sent {
            Ok(Published::Routed) => {
                let collection = Collection::new(id, self.max_workers);
                self.collect(collection, &mut link.replies, deadline).await
            }
            Ok(Published::Returned) => Ok(Collection::new(id, 0).into_found()),
            Ok(Published::Failed { source, .. }) => Err(source),
            Ok(Published::Refused) => {
                let mut collection = Collection::new(id, self.max_workers);
                collection.miss_some();
                let collecting = self.collect(collection, &mut link.replies, deadline);
                match collecting.await {
                    Ok(found) if found.workers.is_empty() && found.refusals.is_empty() => Err(refused()),
                    collected => collected,
                }
            }
            Ok(Published::Withdrawn) => Err(refused()),
            Err(error) => Err(error),
        };
        link.replies.control.retire().await;
        collected
    }

    /// Sends the question, again for as long as the broker refuses it. Returns the id of the last one.
    ///
    /// A broker refuses it while one of the queues that listen cannot take it, and puts it into the
    /// others. RabbitMQ 4.3 does that for a moment after a worker's connection vanished. A queue that
    /// refuses for longer is not waited for. Answers to an earlier question do not count, as they
    /// would count twice.
    async fn send(
        &self,
        method: &'static MethodDescriptor,
        reply_to: &ShortStr,
        deadline: Instant,
    ) -> (ShortStr, Result<Published, BrokerError>) {
        let transport = &self.transport;
        let mut backoff = Backoff::new();
        let give_up = deadline.min(Instant::now() + REFUSED_LIMIT);
        loop {
            let id = ShortStr::from_uuid(Uuid::new_v4());
            let message = self.request(method, id.clone(), reply_to.clone());
            let sending = transport.broadcast(DISCOVERY.exchange, message);
            let sent = self.by(deadline, sending).await;
            let again = Instant::now() + backoff.next_delay();
            if !matches!(sent, Ok(Published::Refused)) || again >= give_up {
                return (id, sent);
            }
            tokio::time::sleep_until(again).await;
        }
    }

    /// Waits for the broker.
    async fn by<T>(
        &self,
        deadline: Instant,
        step: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        match timeout_at(deadline, step).await {
            Ok(done) => done,
            Err(_) => Err(self
                .transport
                .status()
                .status()
                .obstacle()
                .unwrap_or(BrokerError::Unresponsive {
                    step: "asking all workers",
                    limit: self.timeout,
                })),
        }
    }

    fn request(&self, method: &MethodDescriptor, id: ShortStr, reply_to: ShortStr) -> Message {
        let (app_id, user_id) = self.names.clone();
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
            batches: false,
            dead_lettered: None,
            arguments: bytes::Bytes::new(),
        }
        .into_message()
    }

    async fn collect<T: OfWorker + DeserializeOwned>(
        &self,
        mut collection: Collection<T>,
        replies: &mut Subscription,
        deadline: Instant,
    ) -> Result<Discovered<T>, BrokerError> {
        let mut quiet_at = Instant::now() + self.window;
        while !collection.is_full() {
            match timeout_at(deadline.min(quiet_at), replies.deliveries.next()).await {
                Ok(Some(Ok(delivery))) => {
                    let is_answer = match delivery.malformed {
                        None => collection.add(delivery.message),
                        Some(_) => collection.add_malformed(&delivery.message),
                    };
                    if is_answer {
                        quiet_at = Instant::now() + self.window;
                    }
                }
                Ok(Some(Err(lost))) => return Err(lost),
                Ok(None) => return Err(BrokerError::Lost { source: None }),
                Err(_) => {
                    if deadline < quiet_at {
                        collection.cut_short();
                    }
                    break;
                }
            }
        }
        Ok(collection.into_found())
    }
}

fn refused() -> BrokerError {
    BrokerError::Exchange {
        exchange: DISCOVERY.exchange.to_owned(),
        action: "send to",
        source: Cause::new("it did not take the message"),
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
