//! Opens things on a connection: each step within a limit, and no longer than the connection lasts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::{Instant, sleep};

use super::channel::{BrokerRequest, OpenChannel};
use super::connection::OpenConnection;
use super::consume::{AckMode, SubscriptionOptions, consume, subscription};
use super::errors::{broker_error, channel_error, is_not_found, is_refused_by_lapin, queue_error, short};
use super::publish::AmqpPublisher;
use super::task_group::TaskGroup;
use crate::error::{BrokerError, Cause, Chain};
use crate::escape::Logged;
use crate::protocol::ShortStr;
use crate::transport::Subscription;
use crate::transport::topology::{
    CLASSIC, Declare, QUEUE_TYPE, QueueArgument, QueueProperties, RequestQueue,
};

/// The result of a passive declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueLookup {
    Exists {
        /// How many messages wait in the queue.
        messages: u32,
    },
    Missing,
    /// The user may not ask.
    Refused,
}

/// How long the broker may take to say whether a queue exists.
pub(super) const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// How long a closed channel may still count: lapin frees its number a moment later.
const CHANNEL_FREED_WITHIN: Duration = Duration::from_millis(500);

/// How long to wait until a channel number may have been freed.
const CHANNEL_PAUSE: Duration = Duration::from_millis(20);

/// Opens channels, publishers and consumers on one connection, and declares queues.
pub(super) struct Opener {
    pub(super) connection: Arc<OpenConnection>,
    /// How long each step may take.
    pub(super) limit: Duration,
    pub(super) tasks: TaskGroup,
}

impl Opener {
    /// Waits for the broker's answer to a request, through a channel that the future owns.
    pub(super) async fn answer<T: Send + 'static>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<lapin::Result<T>, BrokerError> {
        self.answer_within(self.limit, step, answer).await
    }

    /// Also ends with the connection: lapin leaves some requests unanswered when it is lost.
    async fn answer_within<T: Send + 'static>(
        &self,
        limit: Duration,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<lapin::Result<T>, BrokerError> {
        let request = BrokerRequest::new(answer, self.connection.state(), &self.tasks);
        tokio::select! {
            biased;
            answer = tokio::time::timeout(limit, request) => {
                answer.map_err(|_| BrokerError::Unresponsive { step, limit })
            }
            reason = self.connection.lost() => Err(reason),
        }
    }

    /// Waits for the broker's answer to a request about a queue.
    ///
    /// If the broker answers other requests but not this one, the node of the queue is down:
    /// RabbitMQ 3.10 refuses such a queue at once, and RabbitMQ 4 only after more than a minute.
    async fn answer_for<T: Send + 'static>(
        &self,
        queue: &str,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        match self.answer(step, answer).await {
            Ok(answer) => answer.map_err(|error| queue_error(queue, error)),
            Err(error @ BrokerError::Unresponsive { limit, .. }) => {
                if self.channel().await.is_err() {
                    return Err(error);
                }
                let source = format!("no answer within {limit:?}: the node of the queue may be down");
                Err(BrokerError::Queue {
                    queue: queue.to_owned(),
                    source: Cause::new(source),
                    is_temporary: true,
                })
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn step<T: Send + 'static>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        self.answer(step, answer).await?.map_err(broker_error)
    }

    pub(super) async fn channel(&self) -> Result<Arc<OpenChannel>, BrokerError> {
        let give_up = Instant::now() + CHANNEL_FREED_WITHIN;
        loop {
            let (connection, tasks) = (Arc::clone(&self.connection), self.tasks.clone());
            let opening = async move {
                let channel = connection.lapin().create_channel().await?;
                Ok(Arc::new(OpenChannel::new(channel, connection.state(), &tasks)))
            };
            let opened = self.step("opening a channel", opening).await;
            match opened.map_err(channel_error) {
                Err(BrokerError::TooManyChannels { source })
                    if is_refused_by_lapin(&source) && Instant::now() < give_up =>
                {
                    sleep(CHANNEL_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    /// Puts the channel into confirm mode and starts a publisher on it.
    pub(super) async fn publisher(&self, channel: Arc<OpenChannel>) -> Result<AmqpPublisher, BrokerError> {
        self.select_confirms(&channel).await?;
        Ok(AmqpPublisher::start(channel, &self.tasks))
    }

    /// Puts the channel into confirm mode.
    pub(super) async fn select_confirms(&self, channel: &Arc<OpenChannel>) -> Result<(), BrokerError> {
        let channel = Arc::clone(channel);
        let selecting = async move { channel.confirm_select(ConfirmSelectOptions::default()).await };
        self.step("asking for confirms", selecting).await
    }

    /// Sets how many unacknowledged deliveries each consumer of the channel may have.
    pub(super) async fn prefetch(
        &self,
        channel: &Arc<OpenChannel>,
        deliveries: u16,
    ) -> Result<(), BrokerError> {
        let channel = Arc::clone(channel);
        let setting = async move {
            channel
                .basic_qos(deliveries, BasicQosOptions { global: false })
                .await
        };
        self.step("setting the prefetch", setting).await
    }

    /// Starts a consumer.
    pub(super) async fn subscribe(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &str,
        options: SubscriptionOptions,
    ) -> Result<Subscription, BrokerError> {
        let consuming = consume(channel, queue, options.ack_mode)?;
        let started = self.answer_for(queue, "consuming a queue", consuming).await?;
        Ok(subscription(started, channel, options, &self.tasks))
    }

    /// The options of a subscription without a prefetch, to a queue that others use too.
    pub(super) fn subscription_options(&self, ack_mode: AckMode) -> SubscriptionOptions {
        SubscriptionOptions {
            ack_mode,
            prefetch: None,
            private_queue: None,
            limit: self.limit,
        }
    }

    /// Declares a queue and returns its name.
    pub(super) async fn declare(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<ShortStr, BrokerError> {
        let (channel, name) = (Arc::clone(channel), short(queue)?);
        let declaring = async move { channel.queue_declare(name, options, arguments).await };
        let declared = self.answer_for(queue, "declaring a queue", declaring).await?;
        ShortStr::new(declared.name().as_str()).map_err(|_| BrokerError::Unsendable {
            reason: "the queue's name is longer than 255 bytes",
        })
    }

    /// Declares a request queue as its options say.
    pub(super) async fn declare_request_queue(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &RequestQueue,
    ) -> Result<(), BrokerError> {
        let (options, arguments) = match queue.declare() {
            Declare::No => return Ok(()),
            Declare::Passive => (passive(), FieldTable::default()),
            Declare::Active => {
                let QueueProperties { durable, arguments } = queue.properties();
                let options = QueueDeclareOptions {
                    durable: *durable,
                    ..QueueDeclareOptions::default()
                };
                (options, table(arguments)?)
            }
        };
        let declared = self.declare(channel, queue.name(), options, arguments);
        declared.await.map(drop)
    }

    /// Returns how many messages wait in a queue of the runtime's own, or `None` if there is no
    /// queue of that name.
    pub(super) async fn find(&self, queue: &ShortStr) -> Result<Option<u32>, BrokerError> {
        Ok(match self.look_up(queue).await? {
            QueueLookup::Exists { messages } => Some(messages),
            QueueLookup::Missing | QueueLookup::Refused => None,
        })
    }

    /// Asks whether there is a queue of this name.
    ///
    /// A queue whose node is down counts as missing. RabbitMQ 3.10 says so at once, and RabbitMQ 4
    /// only after more than a minute, so no answer within [`LOOKUP_LIMIT`] means the same.
    pub(super) async fn look_up(&self, queue: &ShortStr) -> Result<QueueLookup, BrokerError> {
        // The broker closes the channel if the queue is missing.
        let throw_away = self.channel().await?;
        let name = short(queue.as_str())?;
        let channel = Arc::clone(&throw_away);
        let asking = async move {
            channel
                .queue_declare(name, passive(), FieldTable::default())
                .await
        };
        let limit = self.limit.min(LOOKUP_LIMIT);
        match self.answer_within(limit, "looking for a queue", asking).await {
            Ok(Ok(queue)) => {
                throw_away.close().await;
                Ok(QueueLookup::Exists {
                    messages: queue.message_count(),
                })
            }
            Ok(Err(error)) if is_not_found(&error) => Ok(QueueLookup::Missing),
            Ok(Err(error)) if error.is_amqp_soft_error() => Ok(QueueLookup::Refused),
            Ok(Err(error)) => Err(broker_error(error)),
            Err(BrokerError::Unresponsive { .. }) => Ok(QueueLookup::Missing),
            Err(error) => Err(error),
        }
    }

    /// Deletes a queue that was declared but could not be consumed. If that fails too, the queue
    /// expires or ends with its connection.
    pub(super) async fn discard(&self, queue: &ShortStr) {
        let discarding = async {
            let name = short(queue.as_str())?;
            self.delete(name, QueueDeleteOptions::default()).await
        };
        if let Err(error) = discarding.await {
            let (queue, error) = (queue.as_str(), Logged(Chain(&error)));
            tracing::debug!(queue, %error, "a reply queue could not be deleted; the broker deletes it later");
        }
    }

    /// Deletes a queue.
    pub(super) async fn delete(
        &self,
        queue: ShortString,
        options: QueueDeleteOptions,
    ) -> Result<(), BrokerError> {
        // The broker closes the channel if it refuses.
        let throw_away = self.channel().await?;
        let channel = Arc::clone(&throw_away);
        let deleting = async move { channel.queue_delete(queue, options).await };
        self.step("deleting a queue", deleting).await?;
        throw_away.close().await;
        Ok(())
    }
}

/// The options of a passive declare.
pub(super) fn passive() -> QueueDeclareOptions {
    QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    }
}

/// The arguments of a classic queue of the runtime's own.
pub(super) fn classic() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(QUEUE_TYPE.into(), AMQPValue::LongString(CLASSIC.into()));
    arguments
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
