//! [`AmqpTransport`]: a handle's access to RabbitMQ.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::AMQPValue;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use uuid::Uuid;

use super::channel::OpenChannel;
use super::connection::{
    Address, CLOSE_LIMIT, ConnectionPurpose, Connector, OpenConnection, OwnConnection, SupervisedConnection,
};
use super::consume::{AckMode, SubscriptionOptions};
use super::depths::DepthLookup;
use super::direct_replies::{DirectReplies, RoutingPublisher};
use super::errors::{hard_close_reason, short};
use super::opener::{self, Opener, QueueLookup};
use super::queue_failures::QueueFailures;
use super::task_group::TaskGroup;
use crate::error::{BrokerError, Cause, Chain};
use crate::escape::Logged;
use crate::protocol::{CONTROL_EXCHANGE, DIRECT_REPLY_TO, Message, REPLY_QUEUE_PREFIX, ShortStr};
use crate::transport::topology::{ControlQueue, DeclareMode, ReplyQueue, RequestQueue};
use crate::transport::{
    ANSWER_PREFETCH, Connectivity, Depth, Published, Publisher, ReplySubscription, Role, SendToken,
    StatusBoard, Subscription, Transport, catch_panic, retry, watch_runtime,
};

/// How long a resumable reply queue outlives its last consumer (`x-expires`), in milliseconds.
const RESUMABLE_EXPIRES: i32 = 60_000;

/// The prefix of the queue names that the broker generates. The failures of all queues with such a
/// name are counted together, under this prefix.
const GENERATED_PREFIX: &str = "amq.gen-";

/// The prefetch of a resumable reply queue.
const REPLY_PREFETCH: u16 = 2000;

/// Access to a RabbitMQ server, or to a cluster of them.
#[derive(Debug)]
pub(crate) struct AmqpTransport {
    publishing: SupervisedConnection,
    consuming: SupervisedConnection,
    direct_replies: Arc<DirectReplies>,
    /// Opens separate connections, for operations that may make the broker close the connection.
    connector: Connector,
    queue_failures: Mutex<QueueFailures>,
    depths: DepthLookup,
    board: Arc<StatusBoard>,
    /// The tasks that use the connections. [`close`](Transport::close) ends them first.
    tasks: TaskGroup,
    /// The tasks that keep the connections open.
    supervisors: TaskGroup,
    /// How long a step of an operation may take, if it has no time limit of its own.
    limit: Duration,
    /// The runtime of all tasks.
    runtime: Handle,
    /// Ends both groups of tasks.
    _end_when_dropped: [DropGuard; 2],
}

impl AmqpTransport {
    /// Opens both connections, each to the first address that answers, and keeps them open on the
    /// current runtime. Each address gets `limit` to answer. `name` is the application's: RabbitMQ
    /// shows it in its list of connections. `None` for the name of the program.
    pub(crate) async fn connect(
        addresses: Vec<Address>,
        name: Option<&str>,
        limit: Duration,
    ) -> Result<Self, BrokerError> {
        let connector = Connector::new(addresses, name, limit);
        let made = tokio::try_join!(
            connector.connect(ConnectionPurpose::Publishing),
            connector.connect(ConnectionPurpose::Consuming)
        )?;
        Ok(Self::start(connector, Some(made)))
    }

    /// Connects in the background, and tries again until the connections are open or the handle
    /// ends. The arguments are those of [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    pub(crate) fn connect_later(addresses: Vec<Address>, name: Option<&str>, limit: Duration) -> Self {
        Self::start(Connector::new(addresses, name, limit), None)
    }

    /// Starts the tasks that keep the connections open. Begins with the open ones, if there are
    /// any: one for publishing and one for consuming.
    fn start(connector: Connector, open: Option<(OpenConnection, OpenConnection)>) -> Self {
        let (publishing, consuming) = open.unzip();
        let connectivity = match publishing {
            Some(_) => Connectivity::Up,
            None => Connectivity::Down { last_error: None },
        };
        let board = Arc::new(StatusBoard::new(&connectivity));
        let runtime = Handle::current();
        let (tasks, supervisors) = (TaskGroup::new(&runtime), TaskGroup::new(&runtime));
        watch_runtime(&runtime, Arc::downgrade(&board), supervisors.ending.clone());
        let supervise = |role, first| {
            SupervisedConnection::start(connector.clone(), role, first, Arc::clone(&board), &supervisors)
        };
        Self {
            publishing: supervise(Role::Publishing, publishing),
            consuming: supervise(Role::Consuming, consuming),
            direct_replies: Arc::new(DirectReplies::new(
                connector.clone(),
                tasks.clone(),
                Arc::clone(&board),
            )),
            limit: connector.limit,
            connector,
            queue_failures: Mutex::default(),
            depths: DepthLookup::default(),
            runtime,
            board,
            _end_when_dropped: [&tasks, &supervisors].map(|group| group.ending.clone().drop_guard()),
            tasks,
            supervisors,
        }
    }

    fn opener(&self, connection: &Arc<OpenConnection>) -> Opener {
        Opener {
            connection: Arc::clone(connection),
            limit: self.limit,
            tasks: self.tasks.clone(),
        }
    }

    fn queue_failures(&self) -> MutexGuard<'_, QueueFailures> {
        // Each operation leaves the counts consistent, so a panic elsewhere has broken nothing.
        self.queue_failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the outcome of an operation on a queue. Returns the outcome to report: see
    /// [`QueueFailures::failed`].
    fn record<T>(&self, queue: &str, outcome: Result<T, BrokerError>) -> Result<T, BrokerError> {
        match outcome {
            Ok(done) => {
                self.queue_failures().succeeded(queue);
                Ok(done)
            }
            Err(error) => Err(self.queue_failures().failed(queue, error)),
        }
    }

    /// Declares a request queue as its options say, usually on this channel. If the broker may have
    /// closed a connection because of the queue, uses separate connections instead, to spare the
    /// shared one. While the broker closes these, tries again until the queue counts as refused:
    /// see [`QueueFailures`].
    async fn declare_request_queue(
        &self,
        opener: &Opener,
        channel: &Arc<OpenChannel>,
        queue: &RequestQueue,
    ) -> Result<(), BrokerError> {
        let asks_broker = queue.declare_mode() != DeclareMode::No;
        let may_lose_connection = asks_broker && self.queue_failures().has_closes(queue.name());
        if !may_lose_connection {
            return opener.declare_request_queue(channel, queue).await;
        }
        let declare = || async {
            let declared = self.declare_on_own_connection(queue).await;
            // Counts a close, after which `retry` tries again. The caller records the last outcome.
            declared.map_err(|error| self.queue_failures().failed(queue.name(), error))
        };
        retry(declare, |error| hard_close_reason(error).is_some()).await
    }

    /// Declares a request queue on a connection of its own, and closes that again.
    async fn declare_on_own_connection(&self, queue: &RequestQueue) -> Result<(), BrokerError> {
        // A failure to connect is reported like a loss of the shared connection, which a server
        // that starts waits out.
        let lost = |error| BrokerError::Lost {
            source: Some(Cause::new(error)),
        };
        let connection = self
            .connector
            .connect(ConnectionPurpose::Declaring)
            .await
            .map_err(lost)?;
        let connection = Arc::new(connection);
        let _watch = connection.watch_in(&self.tasks);
        let opener = self.opener(&connection);
        let channel = opener.channel().await?;
        let declared = opener.declare_request_queue(&channel, queue).await;
        connection.close().await;
        declared
    }

    /// Declares and consumes a queue about which the broker did not answer, on a connection of its
    /// own. So if the broker closes the connection because of this queue, other queues are not
    /// affected. That close is reported as a temporary error of the queue.
    async fn consume_on_own_connection(
        &self,
        queue: &RequestQueue,
        prefetch: u16,
    ) -> Result<Subscription, BrokerError> {
        let connection = match self.connector.connect(ConnectionPurpose::ConsumingOne).await {
            Ok(connection) => connection,
            Err(error) => {
                // There may be a limit of connections. The next attempt uses the shared one.
                self.queue_failures().forget_unanswered(queue.name());
                return Err(error);
            }
        };
        let own = OwnConnection::new(connection, &self.tasks);
        let opener = self.opener(&own.connection);
        let channel = opener.channel().await?;
        let opening = async {
            opener.declare_request_queue(&channel, queue).await?;
            opener
                .consume_requests(&channel, queue, prefetch, Some(own))
                .await
        };
        opening.await.map_err(|error| match hard_close_reason(&error) {
            // The broker gave up waiting for the queue's leader.
            Some(source) => BrokerError::Queue {
                queue: queue.name().to_owned(),
                source,
                is_temporary: true,
            },
            None => error,
        })
    }

    /// Deletes a queue. Fails if it has a consumer or messages.
    async fn try_delete_unused(&self, queue: &str) -> Result<(), BrokerError> {
        let opener = self.opener(&self.consuming.wait_ready().await?);
        let options = QueueDeleteOptions {
            if_unused: true,
            if_empty: true,
            ..QueueDeleteOptions::default()
        };
        opener.delete(short(queue)?, options).await
    }

    /// Whether a queue has messages and no consumer. Closes the channel again, which `depths` would
    /// keep for further questions about this queue.
    async fn has_messages_but_no_consumer(&self, queue: &str) -> Result<bool, BrokerError> {
        let opener = self.opener(&self.consuming.wait_ready().await?);
        let scratch = opener.channel().await?;
        let looking = opener::declare_passively(Arc::clone(&scratch), short(queue)?);
        let found = opener.request_ok("looking for a queue", looking).await?;
        scratch.close().await;
        Ok(found.consumer_count() == 0 && found.message_count() > 0)
    }

    /// Opens something in a task of the transport, so that a caller that stops waiting does not
    /// leave behind an auto-delete queue that was never consumed. A result for which nobody waits
    /// is dropped, which closes what was opened. Fails if the handle ends.
    async fn run_to_completion<T: Send + 'static>(
        &self,
        opening: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let ending = self.tasks.ending.clone();
        let opening = catch_panic("opening a queue", opening);
        let opening = async move { ending.run_until_cancelled(opening).await };
        match self.tasks.spawn(opening).await {
            Ok(Some(opened)) => opened?,
            // The handle was closed, or its runtime has ended.
            Ok(None) | Err(_) => Err(self.board.end_reason_or_closed()),
        }
    }

    /// Consumes direct reply-to, and opens a publisher on the same channel: RabbitMQ takes requests
    /// with this reply address only from the channel that consumes it.
    async fn open_direct(&self) -> Result<ReplySubscription, BrokerError> {
        let connection = self.publishing.wait_ready().await?;
        let opener = self.opener(&connection);
        let channel = opener.channel().await?;
        let replies = opener
            .subscribe(
                &channel,
                DIRECT_REPLY_TO,
                opener.subscription_options(AckMode::Automatic),
            )
            .await?;
        Ok(ReplySubscription {
            address: ShortStr::from_static(DIRECT_REPLY_TO),
            replies,
            resumed: None,
            publisher: Some(Arc::new(opener.publisher(channel).await?)),
        })
    }

    /// Opens an exclusive reply queue, which the broker deletes with its consumer or connection.
    /// With a prefetch, replies have to be acknowledged.
    async fn open_exclusive(&self, prefetch: Option<u16>) -> Result<ReplySubscription, BrokerError> {
        let opener = self.opener(&self.consuming.wait_ready().await?);
        let opening = async move {
            let channel = opener.channel().await?;
            let options = QueueDeclareOptions {
                exclusive: true,
                auto_delete: true,
                ..QueueDeclareOptions::default()
            };
            let declaring = opener.declare(&channel, "", options, opener::classic_arguments());
            let address = declaring.await?;
            let subscribing = async {
                let ack_mode = match prefetch {
                    Some(prefetch) => {
                        opener.set_prefetch(&channel, prefetch).await?;
                        AckMode::Manual
                    }
                    None => AckMode::Automatic,
                };
                let options = SubscriptionOptions {
                    prefetch,
                    ..opener.subscription_options(ack_mode)
                };
                opener.subscribe(&channel, address.as_str(), options).await
            };
            let replies = match subscribing.await {
                Ok(replies) => replies,
                Err(error) => {
                    // An auto-delete queue that never had a consumer is not deleted, so each retry
                    // would leave one behind.
                    opener.discard_queue(&address).await;
                    return Err(error);
                }
            };
            Ok(ReplySubscription {
                address,
                replies,
                resumed: None,
                publisher: None,
            })
        };
        self.run_to_completion(opening).await
    }

    /// Opens a reply queue that outlives the connection: the earlier one, if the broker finds it in
    /// time. A queue that is left without a consumer expires.
    async fn open_resumable(&self, earlier: Option<&ShortStr>) -> Result<ReplySubscription, BrokerError> {
        let connection = self.consuming.wait_ready().await?;
        let opener = self.opener(&connection);
        let found = match earlier {
            Some(name) => opener.message_count(name).await?.map(|waiting| (name, waiting)),
            None => None,
        };
        let channel = opener.channel().await?;
        let (address, resumed) = match found {
            Some((name, waiting)) => (name.clone(), Some(waiting)),
            // A new name: the earlier queue may be on a cluster node that is down.
            None => {
                let name = format!("{REPLY_QUEUE_PREFIX}{}", Uuid::new_v4());
                let mut arguments = opener::classic_arguments();
                arguments.insert("x-expires".into(), AMQPValue::LongInt(RESUMABLE_EXPIRES));
                let options = QueueDeclareOptions::durable();
                (opener.declare(&channel, &name, options, arguments).await?, None)
            }
        };
        opener.set_prefetch(&channel, REPLY_PREFETCH).await?;
        // Replies are acknowledged once they have reached their call, so a lost connection loses
        // none.
        let options = SubscriptionOptions {
            prefetch: Some(REPLY_PREFETCH),
            private_queue: Some(address.clone()),
            ..opener.subscription_options(AckMode::Manual)
        };
        let replies = match opener.subscribe(&channel, address.as_str(), options).await {
            Ok(replies) => replies,
            Err(error) => {
                // An earlier queue may have replies. The next attempt finds it again.
                if resumed.is_none() {
                    opener.discard_queue(&address).await;
                }
                return Err(error);
            }
        };
        Ok(ReplySubscription {
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
        let connection = self.publishing.wait_ready().await?;
        let opener = self.opener(&connection);
        let channel = opener.channel().await?;
        Ok(Arc::new(RoutingPublisher {
            default: opener.publisher(channel).await?,
            direct: Arc::clone(&self.direct_replies),
        }))
    }

    async fn open_replies(
        &self,
        replies: ReplyQueue,
        earlier: Option<&ShortStr>,
    ) -> Result<ReplySubscription, BrokerError> {
        // The failures of all reply queues of a kind are counted together.
        let (kind, opened) = match replies {
            ReplyQueue::Direct => (DIRECT_REPLY_TO, self.open_direct().await),
            ReplyQueue::Exclusive => (GENERATED_PREFIX, self.open_exclusive(None).await),
            ReplyQueue::Resumable => (REPLY_QUEUE_PREFIX, self.open_resumable(earlier).await),
        };
        self.record(kind, opened)
    }

    async fn open_answers(&self) -> Result<ReplySubscription, BrokerError> {
        let opened = self.open_exclusive(Some(ANSWER_PREFETCH)).await;
        self.record(GENERATED_PREFIX, opened)
    }

    async fn declare_requests(&self, queue: &RequestQueue) -> Result<(), BrokerError> {
        let connection = self.consuming.wait_ready().await?;
        let opener = self.opener(&connection);
        // The broker closes the channel if it refuses.
        let scratch = opener.channel().await?;
        let declared = self.declare_request_queue(&opener, &scratch, queue).await;
        self.record(queue.name(), declared)?;
        scratch.close().await;
        Ok(())
    }

    async fn open_requests(&self, queue: &RequestQueue, prefetch: u16) -> Result<Subscription, BrokerError> {
        // Waits for the shared connection even if it is not used: it shows that the broker can be
        // reached.
        let connection = self.consuming.wait_ready().await?;
        let is_unanswered = self.queue_failures().is_unanswered(queue.name());
        let opened = if is_unanswered {
            self.consume_on_own_connection(queue, prefetch).await
        } else {
            let opener = self.opener(&connection);
            let opening = async {
                let channel = opener.channel().await?;
                self.declare_request_queue(&opener, &channel, queue).await?;
                opener.consume_requests(&channel, queue, prefetch, None).await
            };
            opening.await
        };
        self.record(queue.name(), opened)
    }

    async fn queue_exists(&self, queue: &ShortStr) -> Option<bool> {
        let looking = async {
            let connection = self.consuming.wait_ready().await?;
            self.opener(&connection).look_up(queue).await
        };
        match tokio::time::timeout(self.limit, looking).await {
            Ok(Ok(QueueLookup::Exists { .. })) => Some(true),
            Ok(Ok(QueueLookup::Missing)) => Some(false),
            Ok(Ok(QueueLookup::Denied) | Err(_)) | Err(_) => None,
        }
    }

    async fn depth(&self, queue: &ShortStr) -> Option<Depth> {
        let asking = async {
            let connection = self.consuming.wait_ready().await?;
            self.depths.look_up(&self.opener(&connection), queue).await
        };
        tokio::time::timeout(self.limit, asking).await.ok()?.ok()
    }

    /// Returns whether requests are left in the queue, and not whether it is deleted.
    async fn delete_if_unused(&self, queue: &RequestQueue) -> bool {
        // A queue that somebody else declares is not ours to delete. RabbitMQ closes a connection
        // that deletes a quorum queue with `if-unused`.
        if queue.declare_mode() != DeclareMode::Active || !queue.is_classic() {
            return false;
        }
        let name = queue.name();
        let Ok(Err(error)) = tokio::time::timeout(CLOSE_LIMIT, self.try_delete_unused(name)).await else {
            // The queue is deleted, or there was no answer in time.
            return false;
        };
        tracing::debug!(
            queue = name,
            error = %Logged(Chain(&error)),
            "the queue is not deleted"
        );
        // The broker does not say what the queue has: messages, a consumer, or both.
        let looking = tokio::time::timeout(CLOSE_LIMIT, self.has_messages_but_no_consumer(name));
        matches!(looking.await, Ok(Ok(true)))
    }

    async fn open_control(&self, queue: &ControlQueue) -> Result<Subscription, BrokerError> {
        let opener = self.opener(&self.consuming.wait_ready().await?);
        let queue = queue.clone();
        // The outcome is not recorded: a refusal here closes only the channel, and `queue_failures`
        // counts closed connections. The queue also has a new name each time.
        self.run_to_completion(async move { opener.consume_control(&queue).await })
            .await
    }

    async fn publish_control(&self, key: &ShortStr, message: Message, send_token: SendToken) -> Published {
        let since = Instant::now();
        match self.publishing.wait_ready().await {
            Ok(connection) => {
                let opener = self.opener(&connection);
                opener.publish_control(key, message, &send_token, since).await
            }
            Err(source) => Published::Failed {
                source,
                written: false,
            },
        }
    }

    async fn open_control_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        let connection = self.publishing.wait_ready().await?;
        let opener = self.opener(&connection);
        let channel = opener.channel().await?;
        Ok(Arc::new(opener.publisher_to(CONTROL_EXCHANGE, channel).await?))
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
        // One limit is for the channels, which apply it themselves, and one for the connections.
        if tokio::time::timeout(2 * CLOSE_LIMIT, closing).await.is_err() {
            tracing::debug!("the broker did not close the connections in time");
        }
    }
}
