//! RabbitMQ, through lapin: two supervised connections a handle, so that a broker which stops reading what is published (a
//! memory or disk alarm) still delivers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lapin::ErrorKind;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::runtime::Handle;
use tokio_util::sync::DropGuard;
use uuid::Uuid;

mod acks;
mod address;
mod broadcasts;
mod channel;
mod confirms;
mod connection;
pub(crate) mod convert;
mod depths;
pub(crate) mod guard;
mod opening;
mod publisher;
mod refusals;
mod replies;
mod runtime;
mod settling;
mod socket;
mod subscription;
mod supervised;
mod suspects;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod under_way;
mod unhurried;

pub(crate) use address::Address;
#[cfg(feature = "tls")]
pub use tls::Tls;

use super::{Backoff, Depth, Published, Publisher, ReplyLink, Subscription, Transport};
use crate::error::{BrokerError, Cause, Chain};
use crate::escape::Logged;
use crate::protocol::{DIRECT_REPLY_TO, Message, REPLY_QUEUE_PREFIX, ShortStr};
use crate::transport::topology::{Broadcasts, Declare, ReplyQueue, RequestQueue};
use crate::transport::{Connectivity, Role, StatusBoard, caught, watch_runtime};
use channel::{OpenChannel, Tasks};
use connection::{ConnectionRole, OpenConnection};
use depths::Depths;
use opening::{Found, Opening};
use replies::{DirectReplies, ReplyPublisher};
use subscription::{Acknowledge, Terms};
use supervised::{SupervisedConnection, Target};
use suspects::{Suspects, closed_by_broker};

/// How long a resumable reply queue outlives its last consumer (`x-expires`, in milliseconds).
const RESUMABLE_EXPIRES: i32 = 60_000;

/// How many replies may be under way to one caller, delivered and not yet settled.
const REPLY_PREFETCH: u16 = 2000;

/// How long closing may take before it is left to the broker to notice.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Access to a RabbitMQ server, or to a cluster of them.
#[derive(Debug)]
pub(crate) struct AmqpTransport {
    publishing: SupervisedConnection,
    consuming: SupervisedConnection,
    direct_replies: Arc<DirectReplies>,
    /// How to connect once more, for what may cost a connection.
    target: Target,
    suspects: Mutex<Suspects>,
    depths: Depths,
    board: Arc<StatusBoard>,
    /// Those that use the connections: they end before these.
    tasks: Tasks,
    /// Those that keep the connections.
    supervisors: Tasks,
    /// How long each step of opening something may take.
    limit: Duration,
    /// All tasks run there.
    runtime: Handle,
    _end_when_dropped: [DropGuard; 2],
}

impl AmqpTransport {
    /// Makes both connections, to the first of the addresses that answers, each step within `limit`; then keeps them, on this runtime.
    pub(crate) async fn connect(
        addresses: Vec<Address>,
        name: Option<&str>,
        limit: Duration,
    ) -> Result<Self, BrokerError> {
        let target = Target::new(addresses, name, limit);
        let made = tokio::try_join!(
            target.connect(ConnectionRole::Publishing),
            target.connect(ConnectionRole::Consuming)
        )?;
        Ok(Self::start(target, Some(made)))
    }

    /// Makes both connections in the background, for as long as it takes.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn connect_later(addresses: Vec<Address>, name: Option<&str>, limit: Duration) -> Self {
        Self::start(Target::new(addresses, name, limit), None)
    }

    fn start(target: Target, made: Option<(OpenConnection, OpenConnection)>) -> Self {
        let (publishing, consuming) = made.unzip();
        let connectivity = match publishing {
            Some(_) => Connectivity::Up,
            None => Connectivity::Down { last_error: None },
        };
        let board = Arc::new(StatusBoard::new(&connectivity));
        let runtime = Handle::current();
        let (tasks, supervisors) = (Tasks::new(&runtime), Tasks::new(&runtime));
        watch_runtime(&runtime, Arc::downgrade(&board), supervisors.ending.clone());
        let supervise = |role, first| {
            SupervisedConnection::start(target.clone(), role, first, Arc::clone(&board), &supervisors)
        };
        Self {
            publishing: supervise(Role::Publishing, publishing),
            consuming: supervise(Role::Consuming, consuming),
            direct_replies: Arc::new(DirectReplies::new(
                target.clone(),
                tasks.clone(),
                Arc::clone(&board),
            )),
            limit: target.limit,
            target,
            suspects: Mutex::default(),
            depths: Depths::default(),
            runtime,
            board,
            _end_when_dropped: [&tasks, &supervisors].map(|tasks| tasks.ending.clone().drop_guard()),
            tasks,
            supervisors,
        }
    }

    fn opening(&self, connection: &Arc<OpenConnection>) -> Opening {
        Opening {
            connection: Arc::clone(connection),
            limit: self.limit,
            tasks: self.tasks.clone(),
        }
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        // Each change is a single step.
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what came of something that was asked for this queue. A queue over which the broker
    /// closes each connection is refused.
    fn judge<T>(&self, queue: &str, outcome: Result<T, BrokerError>) -> Result<T, BrokerError> {
        match outcome {
            Ok(done) => {
                self.suspects().judge(queue, None);
                Ok(done)
            }
            Err(error) => Err(self.suspects().judge(queue, Some(error.clone())).unwrap_or(error)),
        }
    }

    /// Declares a request queue on this channel. If the last connection on which this was done was
    /// closed, it is done on a connection of its own, so that it does not cost the others' again.
    async fn declare_request_queue(
        &self,
        opening: &Opening,
        channel: &Arc<OpenChannel>,
        queue: &RequestQueue,
    ) -> Result<(), BrokerError> {
        if queue.declare() == Declare::No || !self.suspects().contains(queue.name()) {
            return opening.declare_request_queue(channel, queue).await;
        }
        let mut backoff = Backoff::new();
        loop {
            let Err(error) = self.declare_alone(queue).await else {
                return Ok(());
            };
            match self.judge::<()>(queue.name(), Err(error)) {
                Err(error) if closed_by_broker(&error).is_some() => backoff.wait().await,
                refused => return refused,
            }
        }
    }

    async fn declare_alone(&self, queue: &RequestQueue) -> Result<(), BrokerError> {
        let lost = |error| BrokerError::Lost {
            source: Some(Cause::new(error)),
        };
        let connection = self
            .target
            .connect(ConnectionRole::Declaring)
            .await
            .map_err(lost)?;
        let connection = Arc::new(connection);
        let _watch = connection.watch_in(&self.tasks);
        let opening = self.opening(&connection);
        let channel = opening.channel().await?;
        let declared = opening.declare_request_queue(&channel, queue).await;
        connection.close().await;
        declared
    }

    /// Opens something to its end, in a task of the transport, although its user may wait no longer: a queue that goes with its consumer
    /// stays where it was declared and is never consumed. What nobody waits for is dropped once it is open, and ends so.
    async fn to_its_end<T: Send + 'static>(
        &self,
        opening: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let ending = self.tasks.ending.clone();
        let opening = caught("opening a queue", opening);
        let opening = async move { ending.run_until_cancelled(opening).await };
        match self.tasks.spawn(opening).await {
            Ok(Some(opened)) => opened?,
            // The handle was closed, or its runtime ends.
            Ok(None) | Err(_) => Err(self.board.why_over()),
        }
    }

    /// Replies to come to the channel that publishes the requests, and only to it.
    async fn open_direct(&self) -> Result<ReplyLink, BrokerError> {
        let connection = self.publishing.ready().await?;
        let opening = self.opening(&connection);
        let channel = opening.channel().await?;
        let replies = opening
            .subscribe(&channel, DIRECT_REPLY_TO, opening.terms(Acknowledge::Never))
            .await?;
        Ok(ReplyLink {
            address: ShortStr::from_static(DIRECT_REPLY_TO),
            replies,
            resumed: None,
            publisher: Some(Arc::new(opening.publisher(channel).await?)),
        })
    }

    /// Replies to come to a queue that ends with the connection.
    async fn open_exclusive(&self) -> Result<ReplyLink, BrokerError> {
        let opening = self.opening(&self.consuming.ready().await?);
        let opening = async move {
            let channel = opening.channel().await?;
            let options = QueueDeclareOptions {
                exclusive: true,
                auto_delete: true,
                ..QueueDeclareOptions::default()
            };
            let declaring = opening.declare(&channel, "", options, opening::classic());
            let address = declaring.await?;
            let terms = opening.terms(Acknowledge::Never);
            let replies = match opening.subscribe(&channel, address.as_str(), terms).await {
                Ok(replies) => replies,
                Err(error) => {
                    // It goes by itself only once it had a consumer, and this is tried again.
                    opening.discard(&address).await;
                    return Err(error);
                }
            };
            Ok(ReplyLink {
                address,
                replies,
                resumed: None,
                publisher: None,
            })
        };
        self.to_its_end(opening).await
    }

    /// Replies to come to a queue that outlives the connection; to the earlier one, where it is still there.
    async fn open_resumable(&self, earlier: Option<&ShortStr>) -> Result<ReplyLink, BrokerError> {
        let connection = self.consuming.ready().await?;
        let opening = self.opening(&connection);
        let found = match earlier {
            Some(name) => opening.find(name).await?,
            None => None,
        };
        let channel = opening.channel().await?;
        let (address, resumed) = match (earlier, found) {
            (Some(name), Some(waiting)) => (name.clone(), Some(waiting)),
            // A name of its own, as the earlier one may belong to a node of a cluster that is down.
            _ => {
                let name = format!("{REPLY_QUEUE_PREFIX}{}", Uuid::new_v4());
                let mut arguments = opening::classic();
                arguments.insert("x-expires".into(), AMQPValue::LongInt(RESUMABLE_EXPIRES));
                let options = QueueDeclareOptions::durable();
                (opening.declare(&channel, &name, options, arguments).await?, None)
            }
        };
        opening.prefetch(&channel, REPLY_PREFETCH).await?;
        // Replies that the connection loses under way come again: they are settled once they reached their call.
        let terms = Terms {
            prefetch: Some(REPLY_PREFETCH),
            private: Some(address.clone()),
            ..opening.terms(Acknowledge::Each)
        };
        let replies = match opening.subscribe(&channel, address.as_str(), terms).await {
            Ok(replies) => replies,
            Err(error) => {
                if resumed.is_none() {
                    opening.discard(&address).await;
                }
                return Err(error);
            }
        };
        Ok(ReplyLink {
            address,
            replies,
            resumed,
            publisher: None,
        })
    }
}

#[async_trait]
impl Transport for AmqpTransport {
    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        let connection = self.publishing.ready().await?;
        let opening = self.opening(&connection);
        let channel = opening.channel().await?;
        Ok(Arc::new(ReplyPublisher {
            queues: opening.publisher(channel).await?,
            direct: Arc::clone(&self.direct_replies),
        }))
    }

    async fn open_replies(
        &self,
        replies: ReplyQueue,
        earlier: Option<&ShortStr>,
    ) -> Result<ReplyLink, BrokerError> {
        let (name, opened) = match replies {
            ReplyQueue::Direct => (DIRECT_REPLY_TO, self.open_direct().await),
            ReplyQueue::Exclusive => ("amq.gen-", self.open_exclusive().await),
            ReplyQueue::Resumable => (REPLY_QUEUE_PREFIX, self.open_resumable(earlier).await),
        };
        self.judge(name, opened)
    }

    async fn declare_requests(&self, queue: &RequestQueue) -> Result<(), BrokerError> {
        let connection = self.consuming.ready().await?;
        let opening = self.opening(&connection);
        // The broker says no by closing the channel.
        let throw_away = opening.channel().await?;
        let declared = self.declare_request_queue(&opening, &throw_away, queue).await;
        self.judge(queue.name(), declared)?;
        throw_away.close().await;
        Ok(())
    }

    async fn open_requests(&self, queue: &RequestQueue, prefetch: u16) -> Result<Subscription, BrokerError> {
        let connection = self.consuming.ready().await?;
        let opening = self.opening(&connection);
        let channel = opening.channel().await?;
        let opened = async {
            self.declare_request_queue(&opening, &channel, queue).await?;
            opening.prefetch(&channel, prefetch).await?;
            let terms = Terms {
                prefetch: Some(prefetch),
                ..opening.terms(Acknowledge::Each)
            };
            opening.subscribe(&channel, queue.name(), terms).await
        };
        self.judge(queue.name(), opened.await)
    }

    async fn is_there(&self, queue: &ShortStr) -> Option<bool> {
        let looking = async {
            let connection = self.consuming.ready().await?;
            self.opening(&connection).look_for(queue).await
        };
        match tokio::time::timeout(self.limit, looking).await {
            Ok(Ok(Found::Queue { .. })) => Some(true),
            Ok(Ok(Found::Nothing)) => Some(false),
            Ok(Ok(Found::Refused) | Err(_)) | Err(_) => None,
        }
    }

    async fn depth(&self, queue: &ShortStr) -> Option<Depth> {
        let asking = async {
            let connection = self.consuming.ready().await?;
            self.depths.ask(&self.opening(&connection), queue).await
        };
        tokio::time::timeout(self.limit, asking).await.ok()?.ok()
    }

    async fn retire_requests(&self, queue: &RequestQueue) -> bool {
        if queue.declare() != Declare::Active || !queue.is_classic() {
            // RabbitMQ closes a connection that asks to delete a quorum queue if it is unused.
            return false;
        }
        let asking = async {
            let opening = self.opening(&self.consuming.ready().await?);
            let throw_away = opening.channel().await?;
            let (channel, name) = (Arc::clone(&throw_away), short(queue.name())?);
            let asking = async move {
                let arguments = FieldTable::default();
                channel.queue_declare(name, opening::passive(), arguments).await
            };
            let found = opening.step("looking for a queue", asking).await?;
            throw_away.close().await;
            Ok::<_, BrokerError>(found.consumer_count() == 0 && found.message_count() > 0)
        };
        let retiring = async {
            let opening = self.opening(&self.consuming.ready().await?);
            let options = QueueDeleteOptions {
                if_unused: true,
                if_empty: true,
                ..QueueDeleteOptions::default()
            };
            opening.delete(short(queue.name())?, options).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_LIMIT, retiring).await {
            let name = queue.name();
            tracing::debug!(
                queue = name,
                error = %Logged(Chain(&error)),
                "the queue is left"
            );
            return matches!(tokio::time::timeout(CLOSE_LIMIT, asking).await, Ok(Ok(true)));
        }
        false
    }

    async fn open_broadcasts(&self, broadcasts: &Broadcasts) -> Result<Subscription, BrokerError> {
        let opening = self.opening(&self.consuming.ready().await?);
        let broadcasts = *broadcasts;
        self.to_its_end(async move { opening.broadcasts(&broadcasts).await })
            .await
    }

    async fn broadcast(&self, exchange: &str, message: Message) -> Result<Published, BrokerError> {
        let connection = self.publishing.ready().await?;
        self.opening(&connection).broadcast(exchange, message).await
    }

    fn status(&self) -> &Arc<StatusBoard> {
        &self.board
    }

    fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    async fn close(&self) {
        self.board.close();
        let closing = async {
            self.tasks.end().await;
            tokio::join!(self.supervisors.end(), self.direct_replies.close());
        };
        // Twice: once for the channels, which keep to the limit themselves, once for the connections.
        if tokio::time::timeout(2 * CLOSE_LIMIT, closing).await.is_err() {
            tracing::debug!("the broker did not close its connections in time");
        }
    }
}

/// What lapin's error means for what was opened. The broker closes a channel for a fault of what was sent through it, and
/// then the connection is still there.
fn broker_error(error: lapin::Error) -> BrokerError {
    let is_of_channel = error.is_amqp_soft_error();
    // lapin's own, which keeps to the negotiated `channel_max`: the connection is still there.
    let is_limit = matches!(error.kind(), ErrorKind::ChannelsLimitReached);
    let source = Cause::new(error);
    match (is_of_channel, is_limit) {
        (true, _) => BrokerError::ChannelClosed { source },
        (_, true) => BrokerError::TooManyChannels { source },
        (false, false) => BrokerError::Lost { source: Some(source) },
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return false;
    };
    matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

/// As [`broker_error`], where what was sent names a queue.
fn queue_error(queue: &str, error: lapin::Error) -> BrokerError {
    match broker_error(error) {
        BrokerError::ChannelClosed { source } => BrokerError::Queue {
            queue: queue.to_owned(),
            source,
        },
        error => error,
    }
}

fn short(name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name).map_err(|_| BrokerError::Unsendable {
        reason: "a name is longer than 255 bytes",
    })
}
