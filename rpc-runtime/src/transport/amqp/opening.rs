//! Opening things on a connection: each step within a limit, and no longer than the connection is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::options::{BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::{Instant, sleep};

use super::channel::{OpenChannel, Question, Tasks};
use super::connection::OpenConnection;
use super::publisher::AmqpPublisher;
use super::subscription::{self, Acknowledge, Terms};
use super::{broker_error, is_not_found, queue_error, short};
use crate::error::{BrokerError, Cause, Chain};
use crate::escape::Logged;
use crate::protocol::ShortStr;
use crate::transport::Subscription;
use crate::transport::topology::{
    CLASSIC, Declare, QUEUE_TYPE, QueueArgument, QueueProperties, RequestQueue,
};

/// What there is of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Queue {
        /// How many wait in it.
        messages: u32,
    },
    Nothing,
    /// The broker does not tell this user.
    Refused,
}

/// How long the broker may take to say whether a queue is there.
pub(super) const FIND_LIMIT: Duration = Duration::from_secs(2);

/// How long after its close a channel may still count: lapin gives its number free a moment later.
const CHANNEL_FREED_WITHIN: Duration = Duration::from_millis(500);

/// How long to wait before another look whether one was freed.
const CHANNEL_PAUSE: Duration = Duration::from_millis(20);

/// A connection on which something is opened.
pub(super) struct Opening {
    pub(super) connection: Arc<OpenConnection>,
    /// How long each step may take.
    pub(super) limit: Duration,
    pub(super) tasks: Tasks,
}

impl Opening {
    /// Waits for the broker's answer, through a channel that the future owns.
    pub(super) async fn answer<T: Send + 'static>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<lapin::Result<T>, BrokerError> {
        self.answer_within(self.limit, step, answer).await
    }

    /// lapin leaves some questions unanswered when the connection is lost under them.
    async fn answer_within<T: Send + 'static>(
        &self,
        limit: Duration,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<lapin::Result<T>, BrokerError> {
        let question = Question::new(answer, self.connection.state(), &self.tasks);
        tokio::select! {
            biased;
            answer = tokio::time::timeout(limit, question) => {
                answer.map_err(|_| BrokerError::Unresponsive { step, limit })
            }
            reason = self.connection.lost() => Err(reason),
        }
    }

    /// Waits for the broker's answer about a queue.
    ///
    /// If the broker answers something else, but not this, the node of the queue is down: RabbitMQ
    /// 3.10 refuses such a queue at once, and RabbitMQ 4 only after more than a minute.
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
                let source = format!("no answer within {limit:?}: the node that has it may be down");
                Err(BrokerError::Queue {
                    queue: queue.to_owned(),
                    source: Cause::new(source),
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
            match self
                .step("opening a channel", opening)
                .await
                .map_err(channel_error)
            {
                Err(BrokerError::TooManyChannels { source })
                    if is_of_lapin(&source) && Instant::now() < give_up =>
                {
                    sleep(CHANNEL_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    /// Publishes through a channel, with confirms.
    pub(super) async fn publisher(&self, channel: Arc<OpenChannel>) -> Result<AmqpPublisher, BrokerError> {
        self.confirms(&channel).await?;
        Ok(AmqpPublisher::start(channel, &self.tasks))
    }

    /// Asks for confirms of what is published through the channel.
    pub(super) async fn confirms(&self, channel: &Arc<OpenChannel>) -> Result<(), BrokerError> {
        let channel = Arc::clone(channel);
        let selecting = async move { channel.confirm_select(ConfirmSelectOptions::default()).await };
        self.step("asking for confirms", selecting).await
    }

    /// How many deliveries each consumer of the channel may have unsettled.
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

    pub(super) async fn subscribe(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &str,
        terms: Terms,
    ) -> Result<Subscription, BrokerError> {
        let consuming = subscription::consume(channel, queue, terms.acknowledge)?;
        let started = self.answer_for(queue, "consuming a queue", consuming).await?;
        Ok(subscription::of(started, channel, terms, &self.tasks))
    }

    /// The terms of a subscription of which nothing else is said.
    pub(super) fn terms(&self, acknowledge: Acknowledge) -> Terms {
        Terms {
            acknowledge,
            prefetch: None,
            private: None,
            limit: self.limit,
        }
    }

    /// Declares a queue, and answers with its name.
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
            reason: "the queue's name",
        })
    }

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

    /// How many messages wait in a queue of our own; `None` if there is no queue of that name.
    pub(super) async fn find(&self, queue: &ShortStr) -> Result<Option<u32>, BrokerError> {
        Ok(match self.look_for(queue).await? {
            Found::Queue { messages } => Some(messages),
            Found::Nothing | Found::Refused => None,
        })
    }

    /// Looks whether there is a queue of this name.
    ///
    /// There is none if its node is down. RabbitMQ 3.10 says so at once, and RabbitMQ 4 only after
    /// more than a minute, so a broker that does not answer soon is taken to mean that.
    pub(super) async fn look_for(&self, queue: &ShortStr) -> Result<Found, BrokerError> {
        // The broker answers the question for a missing queue by closing the channel.
        let throw_away = self.channel().await?;
        let name = short(queue.as_str())?;
        let channel = Arc::clone(&throw_away);
        let asking = async move {
            channel
                .queue_declare(name, passive(), FieldTable::default())
                .await
        };
        let limit = self.limit.min(FIND_LIMIT);
        match self.answer_within(limit, "looking for a queue", asking).await {
            Ok(Ok(queue)) => {
                throw_away.close().await;
                Ok(Found::Queue {
                    messages: queue.message_count(),
                })
            }
            Ok(Err(error)) if is_not_found(&error) => Ok(Found::Nothing),
            Ok(Err(error)) if error.is_amqp_soft_error() => Ok(Found::Refused),
            Ok(Err(error)) => Err(broker_error(error)),
            Err(BrokerError::Unresponsive { .. }) => Ok(Found::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Deletes a queue that was declared and then could not be consumed. It expires, or goes with its connection, where that fails.
    pub(super) async fn discard(&self, queue: &ShortStr) {
        // The channel was closed over the refusal.
        let discarding = async {
            let name = short(queue.as_str())?;
            self.delete(name, QueueDeleteOptions::default()).await
        };
        if let Err(error) = discarding.await {
            let (queue, error) = (queue.as_str(), Logged(Chain(&error)));
            tracing::debug!(queue, %error, "a reply queue is left");
        }
    }

    /// Deletes a queue.
    pub(super) async fn delete(
        &self,
        queue: ShortString,
        options: QueueDeleteOptions,
    ) -> Result<(), BrokerError> {
        // The broker says no by closing the channel.
        let throw_away = self.channel().await?;
        let channel = Arc::clone(&throw_away);
        let deleting = async move { channel.queue_delete(queue, options).await };
        self.step("deleting a queue", deleting).await?;
        throw_away.close().await;
        Ok(())
    }
}

/// What it means that a channel could not be opened: RabbitMQ closes the connection of a user who has as many as allowed.
fn channel_error(error: BrokerError) -> BrokerError {
    match error {
        BrokerError::Lost { source: Some(source) } if is_not_allowed(&source) => {
            BrokerError::TooManyChannels { source }
        }
        error => error,
    }
}

/// Whether it is lapin that keeps to a limit, and not the broker.
fn is_of_lapin(cause: &Cause) -> bool {
    let error = cause.downcast_ref::<lapin::Error>().map(lapin::Error::kind);
    matches!(error, Some(ErrorKind::ChannelsLimitReached))
}

fn is_not_allowed(cause: &Cause) -> bool {
    let error = cause.downcast_ref::<lapin::Error>().map(lapin::Error::kind);
    let Some(ErrorKind::ProtocolError(error)) = error else {
        return false;
    };
    matches!(error.kind(), AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED))
}

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
