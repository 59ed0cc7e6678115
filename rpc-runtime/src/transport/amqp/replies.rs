//! Sending replies: those to direct reply-to addresses over a connection of their own.
//!
//! RabbitMQ decodes an Erlang process id out of a direct reply-to address, and closes the whole *connection* (541) of who
//! publishes to one that it cannot make sense of (seen with 3.10). The address is the caller's to choose, so one malformed
//! request would take all replies of a worker with it, come again, and do the same to the next worker. On a connection
//! of their own, the direct replies under way at that moment are sent once more, each alone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::channel::Tasks;
use super::connection::OpenConnection;
use super::opening::Opening;
use super::publisher::AmqpPublisher;
use super::supervised::Target;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::DIRECT_REPLY_TO;
use crate::transport::{Backoff, Outgoing, Published, Publisher, Receipt};

/// Sends messages: those to direct reply-to addresses over a connection of their own, all others through one channel.
#[derive(Debug)]
pub(super) struct ReplyPublisher {
    pub(super) queues: AmqpPublisher,
    pub(super) direct: Arc<DirectReplies>,
}

// As `async_trait` would have it, without another box around each future.
impl Publisher for ReplyPublisher {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        in_a_row: usize,
    ) -> Result<(), Box<Outgoing>> {
        match outgoing.queue.as_str().starts_with(DIRECT_REPLY_TO) {
            true => Err(Box::new(outgoing)),
            false => self.queues.try_publish(outgoing, receipt, in_a_row),
        }
    }

    fn ready<'a: 'f, 'f>(&'a self) -> BoxFuture<'f, ()> {
        self.queues.ready()
    }

    fn publish<'a: 'f, 'f>(&'a self, outgoing: Outgoing) -> BoxFuture<'f, Published> {
        match outgoing.queue.as_str().starts_with(DIRECT_REPLY_TO) {
            true => Box::pin(self.direct.publish(outgoing)),
            false => self.queues.publish(outgoing),
        }
    }

    fn closed<'a: 'f, 'f>(&'a self) -> BoxFuture<'f, BrokerError> {
        self.queues.closed()
    }
}

/// The connection for direct replies: made for the first of them, and again after it was lost.
#[derive(Debug)]
pub(super) struct DirectReplies {
    target: Target,
    tasks: Tasks,
    shared: Mutex<Option<Arc<DirectLink>>>,
    /// Held while a reply that may be poisonous is tried alone.
    quarantine: Mutex<()>,
}

#[derive(Debug)]
struct DirectLink {
    connection: Arc<OpenConnection>,
    publisher: AmqpPublisher,
    /// Watches the connection, which ends with the link.
    _watch: AbortOnDropHandle<()>,
}

/// How long a connection may be tried to be made before the replies that wait for it are given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a reply is tried alone: what ends its connection so often is not the network.
const TRIES_ALONE: u32 = 3;

impl DirectReplies {
    pub(super) fn new(target: Target, tasks: Tasks) -> Self {
        Self {
            target,
            tasks,
            shared: Mutex::new(None),
            quarantine: Mutex::new(()),
        }
    }

    async fn publish(&self, outgoing: Outgoing) -> Published {
        let publishing = self.tasks.ending.run_until_cancelled(self.deliver(outgoing));
        publishing.await.unwrap_or(Published::Failed {
            source: BrokerError::Closed,
            written: true,
        })
    }

    /// Sends a reply, once there is a connection. Where that is lost over it, it is tried alone, on a connection of its
    /// own; where that is lost too, each time, the reply itself is what the broker does not take. A failure here is never
    /// the worker's: its requests are settled as after any refused reply.
    async fn deliver(&self, outgoing: Outgoing) -> Published {
        let Some(link) = self.link().await else {
            return Published::Refused;
        };
        let published = link.publisher.publish(outgoing.clone()).await;
        if !published.is_failed() {
            return published;
        }
        self.forget(&link).await;
        if published.is_of_channel() {
            return published;
        }

        let _alone = self.quarantine.lock().await;
        for _ in 0..TRIES_ALONE {
            let Some(link) = self.connect_at_last().await else {
                return Published::Refused;
            };
            let published = link.publisher.publish(outgoing.clone()).await;
            link.connection.close().await;
            if !published.is_failed() || published.is_of_channel() {
                return published;
            }
        }
        tracing::warn!("a direct reply ends each connection that it is sent by; it is dropped");
        Published::Refused
    }

    /// The shared connection, made by the first who needs it.
    async fn link(&self) -> Option<Arc<DirectLink>> {
        let mut shared = self.shared.lock().await;
        if let Some(link) = &*shared
            && link.connection.is_open()
        {
            return Some(Arc::clone(link));
        }
        let link = Arc::new(self.connect_at_last().await?);
        *shared = Some(Arc::clone(&link));
        Some(link)
    }

    /// Connects, however often that takes, unless it takes too long. Cancel safe.
    async fn connect_at_last(&self) -> Option<DirectLink> {
        let mut backoff = Backoff::new();
        let give_up = Instant::now() + PATIENCE;
        loop {
            match self.connect().await {
                Ok(link) => return Some(link),
                Err(error) => tracing::warn!(
                    error = %Logged(Chain(&error)),
                    "no connection for direct replies"
                ),
            }
            if Instant::now() >= give_up {
                return None;
            }
            backoff.wait().await;
        }
    }

    async fn connect(&self) -> Result<DirectLink, BrokerError> {
        let connection = Arc::new(self.target.connect("rpc direct replies").await?);
        let watched = Arc::clone(&connection);
        let ending = self.tasks.ending.clone();
        let watching = async move {
            ending.run_until_cancelled(watched.watch(|_| {})).await;
        };
        let watch = AbortOnDropHandle::new(self.tasks.tracker.spawn(watching));
        let opening = Opening {
            connection: Arc::clone(&connection),
            limit: self.target.limit,
            tasks: self.tasks.clone(),
        };
        let channel = opening.channel().await?;
        let publisher = opening.publisher(channel).await?;
        Ok(DirectLink {
            connection,
            publisher,
            _watch: watch,
        })
    }

    async fn forget(&self, link: &Arc<DirectLink>) {
        let mut shared = self.shared.lock().await;
        if shared.as_ref().is_some_and(|other| Arc::ptr_eq(other, link)) {
            *shared = None;
        }
    }

    pub(super) async fn close(&self) {
        if let Some(link) = self.shared.lock().await.take() {
            link.connection.close().await;
        }
    }
}
