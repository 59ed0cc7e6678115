//! Sending replies: those to direct reply-to addresses over a connection of their own.
//!
//! RabbitMQ decodes an Erlang process id out of a direct reply-to address, and closes the whole *connection* (541) of who
//! publishes to one that it cannot make sense of (seen with 3.10). The address is the caller's to choose, so one malformed
//! request would take all replies of a worker with it, come again, and do the same to the next worker. On a connection
//! of their own, the direct replies under way at that moment are sent once more, each alone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Level;

use super::connection::{ConnectionRole, OpenConnection, Target};
use super::opener::Opener;
use super::publish::AmqpPublisher;
use super::task_group::TaskGroup;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::DIRECT_REPLY_TO;
use crate::telemetry::{LogLimit, Suppressed};
use crate::transport::{Backoff, Outgoing, Published, Publisher, Receipt, Status, StatusBoard, supervised};

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
///
/// One attempt is made for all replies that wait. Where it fails they are given up together, and so are those that come before another
/// attempt succeeds: requests whose replies wait keep their places in the prefetch from the requests of other callers.
#[derive(Debug)]
pub(super) struct DirectReplies {
    target: Target,
    tasks: TaskGroup,
    board: Arc<StatusBoard>,
    shared: watch::Sender<Shared>,
    /// Held while a reply that may be poisonous is tried alone. When there was no connection for one last.
    quarantine: Mutex<Option<Instant>>,
    /// Callers choose the addresses that their replies go to.
    log: LogLimit,
}

/// The connection that all direct replies share.
#[derive(Debug, Clone)]
enum Shared {
    /// Nobody has needed it since it was lost.
    None,
    /// It is being made, and replies wait for it.
    Connecting,
    Up(Arc<DirectLink>),
    /// It could not be made. Until this instant it is not tried again.
    Refused {
        until: Instant,
    },
    /// It could not be made and is tried again. No reply waits for it.
    Retrying,
}

impl Shared {
    /// What it becomes when a reply needs it; nothing where it stays what it is.
    fn when_needed(&self, now: Instant) -> Option<Self> {
        match self {
            Self::None => Some(Self::Connecting),
            Self::Up(link) if !link.connection.is_open() => Some(Self::Connecting),
            Self::Refused { until } if *until <= now => Some(Self::Retrying),
            _ => None,
        }
    }

    fn link(&self) -> Option<&Arc<DirectLink>> {
        match self {
            Self::Up(link) => Some(link),
            _ => None,
        }
    }
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

/// The same where the handle's own connections are there: the broker, or something before it, refuses this one.
const PATIENCE_IF_REFUSED: Duration = Duration::from_secs(2);

/// How long a connection that was refused is not tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a reply is tried alone: what ends its connection so often is not the network.
const TRIES_ALONE: u32 = 3;

impl DirectReplies {
    pub(super) fn new(target: Target, tasks: TaskGroup, board: Arc<StatusBoard>) -> Self {
        Self {
            target,
            tasks,
            board,
            shared: watch::Sender::new(Shared::None),
            quarantine: Mutex::new(None),
            log: LogLimit::new("direct replies"),
        }
    }

    async fn publish(self: &Arc<Self>, outgoing: Outgoing) -> Published {
        let publishing = self.tasks.ending.run_until_cancelled(self.deliver(outgoing));
        publishing.await.unwrap_or_else(|| Published::Failed {
            source: self.board.why_over(),
            written: true,
        })
    }

    /// Sends a reply, once there is a connection. Where that is lost over it, it is tried alone. A failure here is never
    /// the worker's: its requests are settled as after any refused reply.
    async fn deliver(self: &Arc<Self>, outgoing: Outgoing) -> Published {
        let Some(link) = self.link().await else {
            return Published::Refused;
        };
        let published = link.publisher.publish(outgoing.clone()).await;
        if !published.is_failed() {
            return published;
        }
        self.forget(&link);
        match published.is_of_channel() {
            true => published,
            false => self.deliver_alone(outgoing).await,
        }
    }

    /// Sends a reply on a connection of its own. Where that is lost too, each time, the reply itself is what the broker does not take.
    async fn deliver_alone(&self, outgoing: Outgoing) -> Published {
        let mut refused = self.quarantine.lock().await;
        if refused.is_some_and(|at| at.elapsed() < PAUSE) {
            return Published::Refused;
        }
        for _ in 0..TRIES_ALONE {
            let Some(link) = self.connect_within(PATIENCE_IF_REFUSED).await else {
                *refused = Some(Instant::now());
                return Published::Refused;
            };
            let published = link.publisher.publish(outgoing.clone()).await;
            link.connection.close().await;
            if !published.is_failed() || published.is_of_channel() {
                return published;
            }
        }
        if let Some(Suppressed(suppressed)) = self.log.admit(Level::WARN, "poisonous_reply") {
            tracing::warn!(
                suppressed,
                "a direct reply ends each connection that it is sent by; it is dropped"
            );
        }
        Published::Refused
    }

    /// The shared connection, once it is made; nothing where it cannot be.
    async fn link(self: &Arc<Self>) -> Option<Arc<DirectLink>> {
        let mut shared = self.shared.subscribe();
        self.connect_if_due();
        let settled = shared
            .wait_for(|shared| !matches!(shared, Shared::Connecting))
            .await;
        settled.ok()?.link().cloned()
    }

    /// Starts the one attempt to connect, where it is due.
    fn connect_if_due(self: &Arc<Self>) {
        let mut patience = None;
        self.shared.send_if_modified(|shared| {
            let Some(next) = shared.when_needed(Instant::now()) else {
                return false;
            };
            patience = Some(match next {
                Shared::Retrying => Duration::ZERO,
                _ => PATIENCE_IF_REFUSED,
            });
            *shared = next;
            true
        });
        if let Some(patience) = patience {
            self.tasks.spawn(Arc::clone(self).connect_for_all(patience));
        }
    }

    async fn connect_for_all(self: Arc<Self>, patience: Duration) {
        let connecting = supervised("direct replies", || self.connect_within(patience));
        let made = self.tasks.ending.run_until_cancelled(connecting).await;
        self.shared.send_replace(match made {
            Some(Some(link)) => Shared::Up(Arc::new(link)),
            Some(None) => Shared::Refused {
                until: Instant::now() + PAUSE,
            },
            // The handle was closed.
            None => Shared::None,
        });
    }

    /// Connects, however often that takes, unless it takes too long. Cancel safe.
    async fn connect_within(&self, patience_if_refused: Duration) -> Option<DirectLink> {
        let mut backoff = Backoff::new();
        let begun = Instant::now();
        loop {
            match self.connect().await {
                Ok(link) => return Some(link),
                Err(error) => {
                    if let Some(Suppressed(suppressed)) = self.log.admit(Level::WARN, "no_connection") {
                        let error = Logged(Chain(&error));
                        tracing::warn!(%error, suppressed, "no connection for direct replies");
                    }
                }
            }
            // Where the others are gone too, so are the requests, and nobody is kept from their places.
            let patience = match self.board.status() {
                Status::Ready | Status::Blocked { .. } => patience_if_refused,
                _ => PATIENCE,
            };
            if begun.elapsed() >= patience {
                return None;
            }
            backoff.wait().await;
        }
    }

    async fn connect(&self) -> Result<DirectLink, BrokerError> {
        let connection = Arc::new(self.target.connect(ConnectionRole::DirectReplies).await?);
        let watch = connection.watch_in(&self.tasks);
        let opener = Opener {
            connection: Arc::clone(&connection),
            limit: self.target.limit,
            tasks: self.tasks.clone(),
        };
        let channel = opener.channel().await?;
        let publisher = opener.publisher(channel).await?;
        Ok(DirectLink {
            connection,
            publisher,
            _watch: watch,
        })
    }

    fn forget(&self, link: &Arc<DirectLink>) {
        self.shared.send_if_modified(|shared| {
            let is_it = shared.link().is_some_and(|other| Arc::ptr_eq(other, link));
            if is_it {
                *shared = Shared::None;
            }
            is_it
        });
    }

    pub(super) async fn close(&self) {
        if let Shared::Up(link) = self.shared.send_replace(Shared::None) {
            link.connection.close().await;
        }
    }
}
