//! Publishes messages to direct reply-to addresses through a separate connection.
//!
//! RabbitMQ decodes an Erlang process id from a direct reply-to address. If it cannot decode the
//! address of a message, it closes the *connection* of the publisher (541, seen with 3.10). Callers
//! choose the address, so one malformed request would fail all replies of a worker, be redelivered,
//! and do the same to the next worker. As direct replies have a connection of their own, only those
//! in flight are affected, and each of them is sent again, alone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Level;

use super::connection::{ConnectionPurpose, Connector, OpenConnection};
use super::opener::Opener;
use super::publish::AmqpPublisher;
use super::task_group::TaskGroup;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::DIRECT_REPLY_TO;
use crate::telemetry::{LogLimit, Suppressed};
use crate::transport::{
    ConfirmListener, Outgoing, Published, Publisher, Status, StatusBoard, restart_on_panic, retry,
};

/// Publishes messages. Those to direct reply-to addresses use a separate connection.
#[derive(Debug)]
pub(super) struct RoutingPublisher {
    pub(super) default: AmqpPublisher,
    pub(super) direct: Arc<DirectReplies>,
}

// As `async_trait` would expand it, but without another box around each future.
impl Publisher for RoutingPublisher {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
    ) -> Result<(), Box<Outgoing>> {
        if outgoing.queue.as_str().starts_with(DIRECT_REPLY_TO) {
            // `publish` waits for the separate connection.
            Err(Box::new(outgoing))
        } else {
            self.default.try_publish(outgoing, listener)
        }
    }

    fn wait_ready<'a: 'f, 'f>(&'a self) -> BoxFuture<'f, ()> {
        self.default.wait_ready()
    }

    fn publish<'a: 'f, 'f>(&'a self, outgoing: Outgoing) -> BoxFuture<'f, Published> {
        if outgoing.queue.as_str().starts_with(DIRECT_REPLY_TO) {
            Box::pin(self.direct.publish(outgoing))
        } else {
            self.default.publish(outgoing)
        }
    }

    fn wait_closed<'a: 'f, 'f>(&'a self) -> BoxFuture<'f, BrokerError> {
        self.default.wait_closed()
    }
}

/// The connection for direct replies. It is opened for the first of them, and again after a loss.
///
/// All replies that wait share the attempts to open it. If it cannot be opened within a limit,
/// these replies are given up, and so are all that arrive before a later attempt succeeds.
/// Otherwise requests whose replies wait would stay unacknowledged, and use up the prefetch.
#[derive(Debug)]
pub(super) struct DirectReplies {
    connector: Connector,
    tasks: TaskGroup,
    board: Arc<StatusBoard>,
    shared: watch::Sender<SharedConnection>,
    /// When a connection to send a reply alone last could not be opened. `None` if that never
    /// happened. Locked while a reply is sent alone, so there is one such connection at a time.
    alone_refused_at: Mutex<Option<Instant>>,
    /// Limits logs that callers can cause.
    log: LogLimit,
}

/// The connection that all direct replies share.
#[derive(Debug, Clone)]
enum SharedConnection {
    /// Not needed since the start, or since a reply failed on the last one. Also once the
    /// handle was closed.
    None,
    /// Being opened. Replies wait for it.
    Connecting,
    Up(Arc<DirectConnection>),
    /// Could not be opened. No new attempt is made before this instant.
    Refused {
        until: Instant,
    },
    /// Could not be opened, and is tried again. No reply waits for it.
    Retrying,
}

impl SharedConnection {
    /// The next state when a reply needs the connection. `None` if the state does not change.
    fn next_when_needed(&self, now: Instant) -> Option<Self> {
        match self {
            Self::None => Some(Self::Connecting),
            Self::Up(direct) if !direct.connection.is_open() => Some(Self::Connecting),
            Self::Refused { until } if *until <= now => Some(Self::Retrying),
            _ => None,
        }
    }

    fn connection(&self) -> Option<&Arc<DirectConnection>> {
        match self {
            Self::Up(direct) => Some(direct),
            _ => None,
        }
    }
}

/// An open connection, with the publisher on it.
#[derive(Debug)]
struct DirectConnection {
    connection: Arc<OpenConnection>,
    publisher: AmqpPublisher,
    _watch: AbortOnDropHandle<()>,
}

/// How long to try to connect before waiting replies are given up, while the handle's other
/// connections are down too.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// Like [`CONNECT_LIMIT`], if the handle's other connections are open. The broker is then assumed
/// to refuse one more connection.
const CONNECT_LIMIT_IF_REFUSED: Duration = Duration::from_secs(2);

/// How long no attempt is made after the connection could not be opened.
const PAUSE: Duration = Duration::from_secs(1);

/// The maximum number of attempts to send a reply alone. If each attempt loses its connection, the
/// network is assumed not to be the reason.
const MAX_ATTEMPTS_ALONE: u32 = 3;

impl DirectReplies {
    pub(super) fn new(connector: Connector, tasks: TaskGroup, board: Arc<StatusBoard>) -> Self {
        Self {
            connector,
            tasks,
            board,
            shared: watch::Sender::new(SharedConnection::None),
            alone_refused_at: Mutex::new(None),
            log: LogLimit::new("direct replies"),
        }
    }

    /// Sends a reply, unless the handle ends first.
    async fn publish(self: &Arc<Self>, outgoing: Outgoing) -> Published {
        let publishing = self.tasks.ending.run_until_cancelled(self.send(outgoing));
        publishing.await.unwrap_or_else(|| Published::Failed {
            source: self.board.end_reason_or_closed(),
            // It is not known how far the reply has come.
            written: true,
        })
    }

    /// Sends a reply on the shared connection. If that is lost, sends the reply again, alone.
    ///
    /// A reply for which there is no connection counts as [withdrawn](Published::Withdrawn), so
    /// that the worker gives it up and acknowledges its request.
    async fn send(self: &Arc<Self>, outgoing: Outgoing) -> Published {
        let Some(direct) = self.shared_connection().await else {
            return Published::Withdrawn;
        };
        let published = direct.publisher.publish(outgoing.clone()).await;
        if !published.is_failed() || published.is_unsendable() {
            return published;
        }
        self.forget(&direct);
        if published.is_channel_closed() {
            // The worker handles that failure as for any other reply.
            return published;
        }
        // Any other failure counts as a loss of the connection.
        self.send_alone(outgoing).await
    }

    /// Sends a reply on a connection of its own, one such reply at a time. If each attempt fails,
    /// the broker is assumed to refuse the reply. Without a connection, the reply counts as
    /// withdrawn.
    async fn send_alone(&self, outgoing: Outgoing) -> Published {
        let mut refused_at = self.alone_refused_at.lock().await;
        if refused_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Published::Withdrawn;
        }
        for _ in 0..MAX_ATTEMPTS_ALONE {
            let Some(direct) = self.connect_within(CONNECT_LIMIT_IF_REFUSED).await else {
                *refused_at = Some(Instant::now());
                return Published::Withdrawn;
            };
            let published = direct.publisher.publish(outgoing.clone()).await;
            direct.connection.close().await;
            if !published.is_failed() || published.is_channel_closed() || published.is_unsendable() {
                return published;
            }
        }
        if let Some(Suppressed(suppressed)) = self.log.admit(Level::WARN, "poisonous_reply") {
            tracing::warn!(
                suppressed,
                "dropped a direct reply because the broker closes each connection that sends it"
            );
        }
        Published::Refused
    }

    /// Waits for the shared connection, which is opened if needed. Returns `None` if it could not
    /// be opened, also while it is tried again.
    async fn shared_connection(self: &Arc<Self>) -> Option<Arc<DirectConnection>> {
        let mut shared = self.shared.subscribe();
        self.connect_if_due();
        let decided = shared
            .wait_for(|shared| !matches!(shared, SharedConnection::Connecting))
            .await;
        decided.ok()?.connection().cloned()
    }

    /// Starts an attempt to connect if one is due.
    fn connect_if_due(self: &Arc<Self>) {
        let mut limit_if_others_are_open = None;
        self.shared.send_if_modified(|shared| {
            let Some(next) = shared.next_when_needed(Instant::now()) else {
                return false;
            };
            limit_if_others_are_open = Some(match next {
                // A single attempt if the other connections are open: a reply after the next pause
                // starts another one.
                SharedConnection::Retrying => Duration::ZERO,
                _ => CONNECT_LIMIT_IF_REFUSED,
            });
            *shared = next;
            true
        });
        if let Some(limit_if_others_are_open) = limit_if_others_are_open {
            self.tasks
                .spawn(Arc::clone(self).connect_for_all(limit_if_others_are_open));
        }
    }

    /// Opens the shared connection, and tells all replies that wait for it how that went.
    async fn connect_for_all(self: Arc<Self>, limit_if_others_are_open: Duration) {
        let connecting = restart_on_panic("direct replies", || self.connect_within(limit_if_others_are_open));
        let opened = self.tasks.ending.run_until_cancelled(connecting).await;
        self.shared.send_replace(match opened {
            Some(Some(direct)) => SharedConnection::Up(Arc::new(direct)),
            Some(None) => SharedConnection::Refused {
                until: Instant::now() + PAUSE,
            },
            // The handle was closed.
            None => SharedConnection::None,
        });
    }

    /// Connects, with retries for a limited time: `limit_if_others_are_open` if the handle's other
    /// connections are open, and else [`CONNECT_LIMIT`]. Returns `None` after that. The last
    /// attempt may take longer. Cancel safe.
    async fn connect_within(&self, limit_if_others_are_open: Duration) -> Option<DirectConnection> {
        let begun = Instant::now();
        let is_retried = |error: &BrokerError| {
            if let Some(Suppressed(suppressed)) = self.log.admit(Level::WARN, "no_connection") {
                let error = Logged(Chain(error));
                tracing::warn!(%error, suppressed, "no connection for direct replies");
            }
            // Waiting is harmless while the handle's other connections are down too: no requests
            // arrive, so none is held back by a prefetch that is used up.
            let limit = match self.board.status() {
                Status::Ready | Status::Blocked { .. } => limit_if_others_are_open,
                _ => CONNECT_LIMIT,
            };
            begun.elapsed() < limit
        };
        retry(|| self.connect(), is_retried).await.ok()
    }

    /// Tries once to open a connection with a publisher.
    async fn connect(&self) -> Result<DirectConnection, BrokerError> {
        let connection = Arc::new(self.connector.connect(ConnectionPurpose::DirectReplies).await?);
        let watch = connection.watch_in(&self.tasks);
        let opener = Opener {
            connection: Arc::clone(&connection),
            limit: self.connector.limit,
            tasks: self.tasks.clone(),
        };
        let channel = opener.channel().await?;
        let publisher = opener.publisher(channel).await?;
        Ok(DirectConnection {
            connection,
            publisher,
            _watch: watch,
        })
    }

    /// Makes the next reply open another connection, unless `direct` was replaced already: several
    /// replies may fail at once. `direct` ends with the last reply that is in flight on it.
    fn forget(&self, direct: &Arc<DirectConnection>) {
        self.shared.send_if_modified(|shared| {
            let is_current = shared
                .connection()
                .is_some_and(|other| Arc::ptr_eq(other, direct));
            if is_current {
                *shared = SharedConnection::None;
            }
            is_current
        });
    }

    /// Closes the shared connection if it is open.
    pub(super) async fn close(&self) {
        if let SharedConnection::Up(direct) = self.shared.send_replace(SharedConnection::None) {
            direct.connection.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::protocol::{Message, ShortStr};
    use crate::transport::Connectivity;

    #[tokio::test(start_paused = true)]
    async fn the_broker_has_not_refused_a_reply_for_which_there_is_no_connection() {
        let connector = Connector::new(Vec::new(), None, Duration::from_secs(1));
        let tasks = TaskGroup::new(&Handle::current());
        let board = Arc::new(StatusBoard::new(&Connectivity::Up));
        let direct = Arc::new(DirectReplies::new(connector, tasks, board));
        let reply = Outgoing {
            queue: ShortStr::from_static("amq.rabbitmq.reply-to.x"),
            mandatory: false,
            message: Message::default(),
            send_token: None,
        };
        for published in [
            direct.publish(reply.clone()).await,
            direct.send_alone(reply.clone()).await,
            direct.send_alone(reply).await,
        ] {
            assert!(matches!(published, Published::Withdrawn), "{published:?}");
        }
    }
}
