//! Opening things on a connection: each step within a limit, and no longer than the connection is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::channel::{OpenChannel, Tasks};
use super::connection::OpenConnection;
use super::publisher::AmqpPublisher;
use super::subscription::{self, Acknowledge, Terms};
use super::{broker_error, queue_error, short};
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::ShortStr;
use crate::transport::Subscription;
use crate::transport::topology::{
    CLASSIC, Declare, QUEUE_TYPE, QueueArgument, QueueProperties, RequestQueue,
};

/// A connection on which something is opened.
pub(super) struct Opening {
    pub(super) connection: Arc<OpenConnection>,
    /// How long each step may take.
    pub(super) limit: Duration,
    pub(super) tasks: Tasks,
}

impl Opening {
    /// Waits for the broker's answer.
    ///
    /// lapin leaves some questions unanswered when the connection is lost under them.
    pub(super) async fn answer<T>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>, BrokerError> {
        let limit = self.limit;
        tokio::select! {
            biased;
            answer = tokio::time::timeout(limit, answer) => {
                answer.map_err(|_| BrokerError::Unresponsive { step, limit })
            }
            reason = self.connection.lost() => Err(reason),
        }
    }

    async fn step<T>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        self.answer(step, answer).await?.map_err(broker_error)
    }

    pub(super) async fn channel(&self) -> Result<Arc<OpenChannel>, BrokerError> {
        let channel = self
            .step("opening a channel", self.connection.lapin().create_channel())
            .await?;
        let state = self.connection.state();
        Ok(Arc::new(OpenChannel::new(channel, state, &self.tasks)))
    }

    /// Publishes through a channel, with confirms.
    pub(super) async fn publisher(&self, channel: Arc<OpenChannel>) -> Result<AmqpPublisher, BrokerError> {
        let selecting = channel.confirm_select(ConfirmSelectOptions::default());
        self.step("asking for confirms", selecting).await?;
        Ok(AmqpPublisher::start(channel, &self.tasks))
    }

    /// How many deliveries each consumer of the channel may have unsettled.
    pub(super) async fn prefetch(&self, channel: &Channel, deliveries: u16) -> Result<(), BrokerError> {
        let setting = channel.basic_qos(deliveries, BasicQosOptions { global: false });
        self.step("setting the prefetch", setting).await
    }

    pub(super) async fn subscribe(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &str,
        terms: Terms,
    ) -> Result<Subscription, BrokerError> {
        let consuming = subscription::consume(channel, queue, terms.acknowledge)?;
        let consumer = self.answer("consuming a queue", consuming).await?;
        let consumer = consumer.map_err(|error| queue_error(queue, error))?;
        Ok(subscription::of(consumer, channel, terms, &self.tasks))
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
        channel: &Channel,
        queue: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<ShortStr, BrokerError> {
        let declaring = channel.queue_declare(short(queue)?, options, arguments);
        let declared = self.answer("declaring a queue", declaring).await?;
        let declared = declared.map_err(|error| queue_error(queue, error))?;
        ShortStr::new(declared.name().as_str()).map_err(|_| BrokerError::Unsendable {
            reason: "the queue's name",
        })
    }

    pub(super) async fn declare_request_queue(
        &self,
        channel: &Channel,
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

    /// How many messages wait in a queue; `None` where there is none of that name.
    pub(super) async fn find(&self, queue: &ShortStr) -> Result<Option<u32>, BrokerError> {
        // The broker answers the question for a missing queue by closing the channel.
        let throw_away = self.channel().await?;
        let asking = throw_away.queue_declare(short(queue.as_str())?, passive(), FieldTable::default());
        match self.answer("looking for the reply queue", asking).await? {
            Ok(queue) => Ok(Some(queue.message_count())),
            Err(error) if error.is_amqp_soft_error() => Ok(None),
            Err(error) => Err(broker_error(error)),
        }
    }

    /// Deletes a queue that was declared and then could not be consumed. It expires, or goes with its connection, where that fails.
    pub(super) async fn discard(&self, queue: &ShortStr) {
        // The channel was closed over the refusal.
        let discarding = async {
            let throw_away = self.channel().await?;
            let deleting = throw_away.queue_delete(short(queue.as_str())?, QueueDeleteOptions::default());
            self.step("deleting a queue", deleting).await?;
            throw_away.close().await;
            Ok::<_, BrokerError>(())
        };
        if let Err(error) = discarding.await {
            let (queue, error) = (queue.as_str(), Logged(Chain(&error)));
            tracing::debug!(queue, %error, "a reply queue is left");
        }
    }
}

fn passive() -> QueueDeclareOptions {
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
