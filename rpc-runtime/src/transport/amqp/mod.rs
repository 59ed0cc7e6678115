//! RabbitMQ, through lapin: two connections a handle, so that a broker which stops reading what is published (a memory or
//! disk alarm) still delivers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::{BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection};
use uuid::Uuid;

mod address;
mod channel;
mod confirms;
pub(crate) mod convert;
mod publisher;
mod replies;
mod subscription;

pub(crate) use address::Address;

use super::{CallerLink, Publisher, Subscription, Transport, WorkerLink};
use crate::error::{BrokerError, Cause};
use crate::protocol::{DIRECT_REPLY_TO, REPLY_QUEUE_PREFIX, ShortStr};
use crate::transport::topology::{Declare, QueueArgument, QueueProperties, ReplyQueue, RequestQueue};
use channel::{OpenChannel, Tasks};
use publisher::AmqpPublisher;
use replies::{DirectReplies, ReplyPublisher};
use subscription::Acknowledge;

/// How long a resumable reply queue outlives its last consumer (`x-expires`, in milliseconds).
const RESUMABLE_EXPIRES: i32 = 60_000;

/// How many replies may be under way to one caller, delivered and not yet settled.
const REPLY_PREFETCH: u16 = 2000;

/// How long closing may take before it is left to the broker to notice.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Access to a RabbitMQ server.
#[derive(Debug)]
pub(crate) struct AmqpTransport {
    publishing: OpenConnection,
    consuming: OpenConnection,
    direct_replies: Arc<DirectReplies>,
    tasks: Tasks,
    /// How long each step of opening something may take.
    limit: Duration,
}

impl AmqpTransport {
    /// Makes both connections, each step within `limit`.
    pub(crate) async fn connect(address: &Address, limit: Duration) -> Result<Self, BrokerError> {
        let (publishing, consuming) = tokio::try_join!(
            address.connect("rpc publish", limit),
            address.connect("rpc consume", limit)
        )?;
        let tasks = Tasks::default();
        Ok(Self {
            publishing: OpenConnection(publishing),
            consuming: OpenConnection(consuming),
            direct_replies: Arc::new(DirectReplies::new(address.clone(), limit, tasks.clone())),
            tasks,
            limit,
        })
    }

    /// Waits for a step of opening something, within the limit.
    async fn step<T>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        within(self.limit, step, answer).await?.map_err(lost)
    }

    async fn channel(&self, connection: &OpenConnection) -> Result<Arc<OpenChannel>, BrokerError> {
        let channel = self
            .step("opening a channel", connection.0.create_channel())
            .await?;
        Ok(Arc::new(OpenChannel::new(channel, &self.tasks)))
    }

    async fn publisher(&self, channel: Arc<OpenChannel>) -> Result<Arc<dyn Publisher>, BrokerError> {
        self.step(
            "asking for confirms",
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
        Ok(Arc::new(AmqpPublisher::start(channel, &self.tasks)))
    }

    async fn subscribe(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &str,
        acknowledge: Acknowledge,
        delete_on_close: Option<ShortStr>,
    ) -> Result<Subscription, BrokerError> {
        subscription::open(channel, queue, acknowledge, delete_on_close, self.limit).await
    }

    async fn declare(
        &self,
        channel: &Channel,
        queue: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<ShortStr, BrokerError> {
        let declared = channel.queue_declare(short(queue)?, options, arguments);
        let declared = within(self.limit, "declaring a queue", declared)
            .await?
            .map_err(|e| refused(queue, e))?;
        ShortStr::new(declared.name().as_str()).map_err(|_| BrokerError::Unsendable {
            reason: "the queue's name",
        })
    }

    async fn declare_request_queue(
        &self,
        channel: &Channel,
        queue: &RequestQueue,
    ) -> Result<(), BrokerError> {
        let (options, arguments) = match queue.declare() {
            Declare::No => return Ok(()),
            Declare::Passive => (
                QueueDeclareOptions {
                    passive: true,
                    ..QueueDeclareOptions::default()
                },
                FieldTable::default(),
            ),
            Declare::Active => {
                let QueueProperties { durable, arguments } = queue.properties();
                (
                    QueueDeclareOptions {
                        durable: *durable,
                        ..QueueDeclareOptions::default()
                    },
                    table(arguments)?,
                )
            }
        };
        self.declare(channel, queue.name(), options, arguments)
            .await
            .map(drop)
    }
}

#[async_trait]
impl Transport for AmqpTransport {
    async fn open_caller(&self, replies: ReplyQueue) -> Result<CallerLink, BrokerError> {
        match replies {
            ReplyQueue::Direct => {
                // Replies come to the channel that published the request, and only to it.
                let channel = self.channel(&self.publishing).await?;
                let replies = self
                    .subscribe(&channel, DIRECT_REPLY_TO, Acknowledge::Never, None)
                    .await?;
                let publisher = self.publisher(channel).await?;
                Ok(CallerLink {
                    reply_to: ShortStr::from_static(DIRECT_REPLY_TO),
                    publisher,
                    replies,
                })
            }
            ReplyQueue::Exclusive => {
                let channel = self.channel(&self.consuming).await?;
                let options = QueueDeclareOptions {
                    exclusive: true,
                    auto_delete: true,
                    ..Default::default()
                };
                let queue = self.declare(&channel, "", options, FieldTable::default()).await?;
                let replies = self
                    .subscribe(&channel, queue.as_str(), Acknowledge::Never, None)
                    .await?;
                let publisher = self.publisher(self.channel(&self.publishing).await?).await?;
                Ok(CallerLink {
                    reply_to: queue,
                    publisher,
                    replies,
                })
            }
            ReplyQueue::Resumable => {
                let channel = self.channel(&self.consuming).await?;
                let name = format!("{REPLY_QUEUE_PREFIX}{}", Uuid::new_v4());
                let mut arguments = FieldTable::default();
                arguments.insert("x-expires".into(), AMQPValue::LongInt(RESUMABLE_EXPIRES));
                let queue = self
                    .declare(&channel, &name, QueueDeclareOptions::durable(), arguments)
                    .await?;
                let qos = channel.basic_qos(REPLY_PREFETCH, BasicQosOptions::default());
                self.step("setting the prefetch", qos).await?;
                // Replies that the connection loses under way come again: they are settled once they reached their call.
                let delete = Some(queue.clone());
                let replies = self
                    .subscribe(&channel, queue.as_str(), Acknowledge::Each, delete)
                    .await?;
                let publisher = self.publisher(self.channel(&self.publishing).await?).await?;
                Ok(CallerLink {
                    reply_to: queue,
                    publisher,
                    replies,
                })
            }
        }
    }

    async fn open_worker(&self, queues: &[RequestQueue], prefetch: u16) -> Result<WorkerLink, BrokerError> {
        let queues_publisher = self.publisher(self.channel(&self.publishing).await?).await?;
        let publisher = Arc::new(ReplyPublisher {
            queues: queues_publisher,
            direct: Arc::clone(&self.direct_replies),
        });
        let channel = self.channel(&self.consuming).await?;
        for queue in queues {
            self.declare_request_queue(&channel, queue).await?;
        }
        // For each consumer of the channel, not for the channel as a whole.
        let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
        self.step("setting the prefetch", qos).await?;
        // Those that may not exist come first: what a consumer was sent before another one fails comes back marked
        // redelivered, without having been run.
        let mut order: Vec<usize> = (0..queues.len()).collect();
        order.sort_by_key(|&index| queues[index].declare() != Declare::No);
        let mut opened = BTreeMap::new();
        for index in order {
            opened.insert(
                index,
                self.subscribe(&channel, queues[index].name(), Acknowledge::Each, None)
                    .await?,
            );
        }
        let requests = opened.into_values().collect();
        Ok(WorkerLink { requests, publisher })
    }

    async fn close(&self) {
        self.tasks.ending.cancel();
        self.tasks.tracker.close();
        let closing = async {
            self.tasks.tracker.wait().await;
            tokio::join!(
                self.publishing.close(),
                self.consuming.close(),
                self.direct_replies.close()
            );
        };
        // Twice: once for the tasks, which keep to the limit themselves, once for the connections.
        if tokio::time::timeout(2 * CLOSE_LIMIT, closing).await.is_err() {
            tracing::debug!("the broker did not close its connections in time");
        }
    }
}

/// A connection whose `Debug` tells nothing about it: lapin's holds credentials.
struct OpenConnection(Connection);

impl OpenConnection {
    fn is_open(&self) -> bool {
        self.0.status().connected()
    }

    async fn close(&self) {
        // An error means that it is closed already.
        let _ = self.0.close(200, "closed by its user".into()).await;
    }
}

impl std::fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_open() {
            "connected"
        } else {
            "not connected"
        })
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

fn lost(error: lapin::Error) -> BrokerError {
    BrokerError::Lost {
        source: Some(Cause::new(error)),
    }
}

fn refused(queue: &str, error: lapin::Error) -> BrokerError {
    BrokerError::Queue {
        queue: queue.to_owned(),
        source: Cause::new(error),
    }
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
