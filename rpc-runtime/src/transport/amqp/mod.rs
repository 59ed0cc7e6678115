//! RabbitMQ, through lapin: two supervised connections a handle, so that a broker which stops reading what is published (a
//! memory or disk alarm) still delivers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::{BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Queue};
use tokio_util::sync::DropGuard;
use uuid::Uuid;

mod address;
mod channel;
mod confirms;
mod connection;
pub(crate) mod convert;
mod publisher;
mod replies;
mod socket;
mod subscription;
mod supervised;

pub(crate) use address::Address;

use super::{Publisher, ReplyLink, Subscription, Transport};
use crate::error::{BrokerError, Cause};
use crate::protocol::{DIRECT_REPLY_TO, REPLY_QUEUE_PREFIX, ShortStr};
use crate::status::{Connectivity, Role, StatusBoard};
use crate::transport::topology::{Declare, QueueArgument, QueueProperties, ReplyQueue, RequestQueue};
use channel::{OpenChannel, Tasks};
use connection::OpenConnection;
use publisher::AmqpPublisher;
use replies::{DirectReplies, ReplyPublisher};
use subscription::Acknowledge;
use supervised::{SupervisedConnection, Target};

/// How long a resumable reply queue outlives its last consumer (`x-expires`, in milliseconds).
const RESUMABLE_EXPIRES: i32 = 60_000;

/// How many replies may be under way to one caller, delivered and not yet settled.
const REPLY_PREFETCH: u16 = 2000;

/// How long closing may take before it is left to the broker to notice.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What the connections are called in RabbitMQ's own tools.
const PUBLISHING: &str = "rpc publish";
const CONSUMING: &str = "rpc consume";

/// Access to a RabbitMQ server, or to a cluster of them.
#[derive(Debug)]
pub(crate) struct AmqpTransport {
    publishing: SupervisedConnection,
    consuming: SupervisedConnection,
    direct_replies: Arc<DirectReplies>,
    board: Arc<StatusBoard>,
    /// Those that use the connections: they end before these.
    tasks: Tasks,
    /// Those that keep the connections.
    supervisors: Tasks,
    /// How long each step of opening something may take.
    limit: Duration,
    _end_when_dropped: [DropGuard; 2],
}

impl AmqpTransport {
    /// Makes both connections, to the first of the addresses that answers, each step within `limit`; then keeps them.
    pub(crate) async fn connect(addresses: Vec<Address>, limit: Duration) -> Result<Self, BrokerError> {
        let target = Target {
            addresses: addresses.into(),
            limit,
        };
        let made = tokio::try_join!(target.connect(PUBLISHING), target.connect(CONSUMING))?;
        Ok(Self::start(target, Some(made)))
    }

    /// Makes both connections in the background, for as long as it takes.
    pub(crate) fn connect_later(addresses: Vec<Address>, limit: Duration) -> Self {
        let target = Target {
            addresses: addresses.into(),
            limit,
        };
        Self::start(target, None)
    }

    fn start(target: Target, made: Option<(OpenConnection, OpenConnection)>) -> Self {
        let (publishing, consuming) = made.unzip();
        let connectivity = match publishing {
            Some(_) => Connectivity::Up,
            None => Connectivity::Down { last_error: None },
        };
        let board = Arc::new(StatusBoard::new(&connectivity));
        let (tasks, supervisors) = (Tasks::default(), Tasks::default());
        let supervise = |name, role, first| {
            SupervisedConnection::start(
                target.clone(),
                name,
                role,
                first,
                Arc::clone(&board),
                &supervisors,
            )
        };
        Self {
            publishing: supervise(PUBLISHING, Role::Publishing, publishing),
            consuming: supervise(CONSUMING, Role::Consuming, consuming),
            direct_replies: Arc::new(DirectReplies::new(target.clone(), tasks.clone())),
            limit: target.limit,
            board,
            _end_when_dropped: [&tasks, &supervisors].map(|tasks| tasks.ending.clone().drop_guard()),
            tasks,
            supervisors,
        }
    }

    /// Waits for a step of opening something, within the limit.
    async fn step<T>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        within(self.limit, step, answer).await?.map_err(broker_error)
    }

    async fn channel(&self, connection: &OpenConnection) -> Result<Arc<OpenChannel>, BrokerError> {
        let channel = self
            .step("opening a channel", connection.lapin().create_channel())
            .await?;
        Ok(Arc::new(OpenChannel::new(channel, &self.tasks)))
    }

    async fn publisher(
        &self,
        connection: &OpenConnection,
        channel: Arc<OpenChannel>,
    ) -> Result<AmqpPublisher, BrokerError> {
        self.step(
            "asking for confirms",
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
        Ok(AmqpPublisher::start(channel, connection.state(), &self.tasks))
    }

    async fn subscribe(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &str,
        acknowledge: Acknowledge,
        private: Option<ShortStr>,
    ) -> Result<Subscription, BrokerError> {
        subscription::open(channel, queue, acknowledge, private, self.limit).await
    }

    async fn declare(
        &self,
        channel: &Channel,
        queue: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<Queue, BrokerError> {
        let declared = channel.queue_declare(short(queue)?, options, arguments);
        within(self.limit, "declaring a queue", declared)
            .await?
            .map_err(|error| refused(queue, error))
    }

    async fn declare_request_queue(
        &self,
        channel: &Channel,
        queue: &RequestQueue,
    ) -> Result<(), BrokerError> {
        let (options, arguments) = match queue.declare() {
            Declare::No => return Ok(()),
            Declare::Passive => (passive(), FieldTable::default()),
            Declare::Active => {
                let QueueProperties { durable, arguments } = queue.properties();
                let durable = *durable;
                let options = QueueDeclareOptions {
                    durable,
                    ..QueueDeclareOptions::default()
                };
                (options, table(arguments)?)
            }
        };
        self.declare(channel, queue.name(), options, arguments)
            .await
            .map(drop)
    }

    /// Replies to come to the channel that publishes the requests, and only to it.
    async fn open_direct(&self) -> Result<ReplyLink, BrokerError> {
        let connection = self.publishing.ready().await?;
        let channel = self.channel(&connection).await?;
        let replies = self
            .subscribe(&channel, DIRECT_REPLY_TO, Acknowledge::Never, None)
            .await?;
        Ok(ReplyLink {
            address: ShortStr::from_static(DIRECT_REPLY_TO),
            replies,
            resumed: None,
            publisher: Some(Arc::new(self.publisher(&connection, channel).await?)),
        })
    }

    /// Replies to come to a queue that ends with the connection.
    async fn open_exclusive(&self) -> Result<ReplyLink, BrokerError> {
        let connection = self.consuming.ready().await?;
        let channel = self.channel(&connection).await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self.declare(&channel, "", options, FieldTable::default()).await?;
        let replies = self
            .subscribe(&channel, queue.name().as_str(), Acknowledge::Never, None)
            .await?;
        Ok(ReplyLink {
            address: name_of(&queue)?,
            replies,
            resumed: None,
            publisher: None,
        })
    }

    /// Replies to come to a queue that outlives the connection; to the earlier one, where it is still there.
    async fn open_resumable(&self, earlier: Option<&ShortStr>) -> Result<ReplyLink, BrokerError> {
        let connection = self.consuming.ready().await?;
        let found = match earlier {
            Some(name) => self.find(&connection, name).await?,
            None => None,
        };
        let channel = self.channel(&connection).await?;
        let (address, resumed) = match (earlier, found) {
            (Some(name), Some(waiting)) => (name.clone(), Some(waiting)),
            // A name of its own, as the earlier one may belong to a node of a cluster that is down.
            _ => {
                let name = format!("{REPLY_QUEUE_PREFIX}{}", Uuid::new_v4());
                let mut arguments = FieldTable::default();
                arguments.insert("x-expires".into(), AMQPValue::LongInt(RESUMABLE_EXPIRES));
                let options = QueueDeclareOptions::durable();
                let queue = self.declare(&channel, &name, options, arguments).await?;
                (name_of(&queue)?, None)
            }
        };
        let qos = channel.basic_qos(REPLY_PREFETCH, BasicQosOptions::default());
        self.step("setting the prefetch", qos).await?;
        // Replies that the connection loses under way come again: they are settled once they reached their call.
        let private = Some(address.clone());
        let replies = self
            .subscribe(&channel, address.as_str(), Acknowledge::Each, private)
            .await?;
        Ok(ReplyLink {
            address,
            replies,
            resumed,
            publisher: None,
        })
    }

    /// How many messages wait in a queue; `None` where there is none of that name.
    async fn find(&self, connection: &OpenConnection, queue: &ShortStr) -> Result<Option<u32>, BrokerError> {
        // The broker answers the question for a missing queue by closing the channel.
        let throw_away = self.channel(connection).await?;
        let asked = throw_away.queue_declare(short(queue.as_str())?, passive(), FieldTable::default());
        match within(self.limit, "looking for the reply queue", asked).await? {
            Ok(queue) => Ok(Some(queue.message_count())),
            Err(error) if error.is_amqp_soft_error() => Ok(None),
            Err(error) => Err(broker_error(error)),
        }
    }
}

#[async_trait]
impl Transport for AmqpTransport {
    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        let connection = self.publishing.ready().await?;
        let channel = self.channel(&connection).await?;
        let queues = self.publisher(&connection, channel).await?;
        Ok(Arc::new(ReplyPublisher {
            queues,
            direct: Arc::clone(&self.direct_replies),
        }))
    }

    async fn open_replies(
        &self,
        replies: ReplyQueue,
        earlier: Option<&ShortStr>,
    ) -> Result<ReplyLink, BrokerError> {
        match replies {
            ReplyQueue::Direct => self.open_direct().await,
            ReplyQueue::Exclusive => self.open_exclusive().await,
            ReplyQueue::Resumable => self.open_resumable(earlier).await,
        }
    }

    async fn open_requests(&self, queue: &RequestQueue, prefetch: u16) -> Result<Subscription, BrokerError> {
        let connection = self.consuming.ready().await?;
        let channel = self.channel(&connection).await?;
        self.declare_request_queue(&channel, queue).await?;
        let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
        self.step("setting the prefetch", qos).await?;
        self.subscribe(&channel, queue.name(), Acknowledge::Each, None)
            .await
    }

    fn status(&self) -> &StatusBoard {
        &self.board
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

/// Waits for an answer from the broker, within a limit.
async fn within<T>(
    limit: Duration,
    step: &'static str,
    answer: impl Future<Output = T>,
) -> Result<T, BrokerError> {
    tokio::time::timeout(limit, answer)
        .await
        .map_err(|_| BrokerError::Unresponsive { step, limit })
}

/// What lapin's error means for what was opened. The broker closes a channel for a fault of what was sent through it, and
/// then the connection is still there.
fn broker_error(error: lapin::Error) -> BrokerError {
    let is_of_channel = error.is_amqp_soft_error();
    let source = Cause::new(error);
    match is_of_channel {
        true => BrokerError::ChannelClosed { source },
        false => BrokerError::Lost { source: Some(source) },
    }
}

fn refused(queue: &str, error: lapin::Error) -> BrokerError {
    BrokerError::Queue {
        queue: queue.to_owned(),
        source: Cause::new(error),
    }
}

fn passive() -> QueueDeclareOptions {
    QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    }
}

fn name_of(queue: &Queue) -> Result<ShortStr, BrokerError> {
    ShortStr::new(queue.name().as_str()).map_err(|_| BrokerError::Unsendable {
        reason: "the queue's name",
    })
}

fn short(name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name).map_err(|_| BrokerError::Unsendable {
        reason: "a name is longer than 255 bytes",
    })
}

fn table(arguments: &BTreeMap<String, QueueArgument>) -> Result<FieldTable, BrokerError> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            QueueArgument::Number(number) => AMQPValue::LongLongInt(*number),
            QueueArgument::Text(text) => AMQPValue::LongString(text.as_bytes().into()),
            QueueArgument::Flag(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert(short(name)?, value);
    }
    Ok(table)
}
