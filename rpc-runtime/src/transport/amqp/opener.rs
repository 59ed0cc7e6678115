//! Opens channels, publishers and consumers on a connection, and declares, looks up and deletes
//! queues. Each step has a time limit, and fails as soon as the connection is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::{Instant, sleep};

use super::channel::{BrokerRequest, OpenChannel};
use super::connection::{OpenConnection, OwnConnection};
use super::consume::{AckMode, SubscriptionOptions, consume};
use super::errors::{broker_error, channel_error, is_not_found, is_refused_by_lapin, queue_error, short};
use super::publish::AmqpPublisher;
use super::task_group::TaskGroup;
use crate::error::{BrokerError, Cause, Chain};
use crate::escape::Logged;
use crate::protocol::ShortStr;
use crate::transport::Subscription;
use crate::transport::topology::{
    CLASSIC, DeclareMode, QUEUE_TYPE, QueueArgument, QueueProperties, RequestQueue,
};

/// The result of [`Opener::look_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueLookup {
    Exists {
        /// How many messages wait in the queue.
        messages: u32,
    },
    /// There is no such queue, or its node seems to be down.
    Missing,
    /// The broker refused the lookup, for example for lack of permission.
    Denied,
}

/// The minimum time to wait for an answer about a queue that had no answer before. RabbitMQ gives
/// up after `net_ticktime` plus five seconds, by default 65.
const UNANSWERED_LIMIT: Duration = Duration::from_secs(90);

/// The maximum time to wait for the answer to a lookup of a queue.
pub(super) const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// How long lapin may still count a closed channel. lapin frees the channel's number a moment after
/// the close.
const CHANNEL_FREED_WITHIN: Duration = Duration::from_millis(500);

/// How long to wait before trying again to open a channel.
const CHANNEL_RETRY_DELAY: Duration = Duration::from_millis(20);

/// The source of the error if the broker answers other requests but not one about a queue.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {limit:?}: the node of the queue may be down")]
pub(super) struct NoAnswer {
    pub(super) limit: Duration,
}

/// Opens channels, publishers and consumers on one connection, and declares queues.
pub(super) struct Opener {
    pub(super) connection: Arc<OpenConnection>,
    /// How long each step may take.
    pub(super) limit: Duration,
    pub(super) tasks: TaskGroup,
}

impl Opener {
    /// Sends a request and waits for the broker's answer or lapin's error. `answer` owns the
    /// channel that it uses, and `step` names the request in errors. The inner result is lapin's.
    /// The outer one is an error if there is no answer within the limit, or if the connection is
    /// lost, because lapin leaves some requests unanswered then.
    pub(super) async fn request<T: Send + 'static>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<lapin::Result<T>, BrokerError> {
        self.request_within(self.limit, step, answer).await
    }

    /// Like [`request`](Self::request), with another time limit.
    async fn request_within<T: Send + 'static>(
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
            reason = self.connection.wait_lost() => Err(reason),
        }
    }

    /// Like [`request`](Self::request), but maps lapin's error with [`queue_error`].
    ///
    /// If the broker answers other requests but not this one, the queue's node is assumed to be
    /// down, and the error is a temporary one of the queue. RabbitMQ 3.10 reports such an error at
    /// once, and RabbitMQ 4 only after more than a minute.
    async fn request_about<T: Send + 'static>(
        &self,
        queue: &str,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        match self.request(step, answer).await {
            Ok(answer) => answer.map_err(|error| queue_error(queue, error)),
            Err(error @ BrokerError::Unresponsive { limit, .. }) => {
                // Opening a channel shows whether the broker answers at all.
                if self.channel().await.is_err() {
                    return Err(error);
                }
                Err(BrokerError::Queue {
                    queue: queue.to_owned(),
                    source: Cause::new(NoAnswer { limit }),
                    is_temporary: true,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Like [`request`](Self::request), but maps lapin's error with [`broker_error`].
    pub(super) async fn request_ok<T: Send + 'static>(
        &self,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        self.request(step, answer).await?.map_err(broker_error)
    }

    /// Opens a channel. Tries again if lapin fails with the error of an earlier channel, and for a
    /// moment if lapin has no free channel number.
    ///
    /// lapin keeps the error with which the broker closed a channel, and fails with it when a later
    /// channel gets the same number. From then on it counts that number as in use (lapin 4.12). The
    /// numbers are only given again after all others, so a connection that has lost most of them
    /// has served for long, and is replaced when it has none left.
    pub(super) async fn channel(&self) -> Result<Arc<OpenChannel>, BrokerError> {
        // Set when lapin refuses a channel for the first time.
        let mut retry_until = None;
        loop {
            let (connection, tasks) = (Arc::clone(&self.connection), self.tasks.clone());
            let opening = async move {
                let channel = connection.lapin().create_channel().await?;
                Ok(Arc::new(OpenChannel::new(channel, &connection, &tasks)))
            };
            let opened = self.request_ok("opening a channel", opening).await;
            match opened.map_err(channel_error) {
                // The error of another channel: the broker never answers `channel.open` like this.
                Err(BrokerError::ChannelClosed { .. }) => self.connection.lose_channel_number(),
                Err(BrokerError::TooManyChannels { source }) if is_refused_by_lapin(&source) => {
                    let now = Instant::now();
                    let until = *retry_until.get_or_insert(now + CHANNEL_FREED_WITHIN);
                    if now < until {
                        sleep(CHANNEL_RETRY_DELAY).await;
                    } else if self.connection.has_lost_most_channel_numbers() {
                        let reason = BrokerError::Lost { source: Some(source) };
                        self.connection.abandon(reason.clone());
                        return Err(reason);
                    } else {
                        return Err(BrokerError::TooManyChannels { source });
                    }
                }
                opened => return opened,
            }
        }
    }

    /// Puts the channel into confirm mode and starts a publisher on it, for the default exchange.
    pub(super) async fn publisher(&self, channel: Arc<OpenChannel>) -> Result<AmqpPublisher, BrokerError> {
        self.publisher_to("", channel).await
    }

    /// Puts the channel into confirm mode and starts a publisher on it, for this exchange.
    pub(super) async fn publisher_to(
        &self,
        exchange: &'static str,
        channel: Arc<OpenChannel>,
    ) -> Result<AmqpPublisher, BrokerError> {
        self.select_confirms(&channel).await?;
        Ok(AmqpPublisher::start(channel, exchange, &self.tasks))
    }

    /// Puts the channel into confirm mode.
    pub(super) async fn select_confirms(&self, channel: &Arc<OpenChannel>) -> Result<(), BrokerError> {
        let channel = Arc::clone(channel);
        let selecting = async move { channel.confirm_select(ConfirmSelectOptions::default()).await };
        self.request_ok("asking for confirms", selecting).await
    }

    /// Sets how many unacknowledged deliveries each later consumer of the channel may have.
    pub(super) async fn set_prefetch(
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
        self.request_ok("setting the prefetch", setting).await
    }

    /// Starts a consumer of a queue that exists.
    pub(super) async fn subscribe(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &str,
        options: SubscriptionOptions,
    ) -> Result<Subscription, BrokerError> {
        let consuming = consume(channel, queue, options.ack_mode)?;
        let started = self.request_about(queue, "consuming a queue", consuming).await?;
        Ok(started.into_subscription(channel, options, &self.tasks))
    }

    /// Starts a consumer of a request queue, with this prefetch. `own_connection` is the connection
    /// of this channel, if nothing else uses it: that of a queue about which the broker did not
    /// answer.
    pub(super) async fn consume_requests(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &RequestQueue,
        prefetch: u16,
        own_connection: Option<OwnConnection>,
    ) -> Result<Subscription, BrokerError> {
        self.set_prefetch(channel, prefetch).await?;
        let limit = match own_connection {
            // If this gave up before the broker does, the broker might start the consumer later,
            // and would deliver messages to it that come back as redelivered.
            Some(_) => self.limit.max(UNANSWERED_LIMIT),
            None => self.limit,
        };
        let options = SubscriptionOptions {
            prefetch: Some(prefetch),
            own_connection,
            ..self.subscription_options(AckMode::Manual)
        };
        let patient = Self {
            connection: Arc::clone(&self.connection),
            limit,
            tasks: self.tasks.clone(),
        };
        patient.subscribe(channel, queue.name(), options).await
    }

    /// The options of a subscription without a prefetch, a private queue or its own connection.
    pub(super) fn subscription_options(&self, ack_mode: AckMode) -> SubscriptionOptions {
        SubscriptionOptions {
            ack_mode,
            prefetch: None,
            private_queue: None,
            own_connection: None,
            cancel_limit: self.limit,
        }
    }

    /// Declares a queue and returns its name, which the broker chooses if `queue` is empty.
    pub(super) async fn declare(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<ShortStr, BrokerError> {
        let (channel, name) = (Arc::clone(channel), short(queue)?);
        let declaring = async move { channel.queue_declare(name, options, arguments).await };
        let declared = self.request_about(queue, "declaring a queue", declaring).await?;
        ShortStr::new(declared.name().as_str()).map_err(|_| BrokerError::Unsendable {
            reason: "the queue's name is longer than 255 bytes",
        })
    }

    /// Declares a request queue as its [`DeclareMode`] says: not at all, passively, or with its
    /// properties.
    pub(super) async fn declare_request_queue(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &RequestQueue,
    ) -> Result<(), BrokerError> {
        let (options, arguments) = match queue.declare_mode() {
            DeclareMode::No => return Ok(()),
            DeclareMode::Passive => (passive_declare(), FieldTable::default()),
            DeclareMode::Active => {
                let QueueProperties { durable, arguments } = queue.properties();
                let options = QueueDeclareOptions {
                    durable: *durable,
                    ..QueueDeclareOptions::default()
                };
                (options, to_field_table(arguments)?)
            }
        };
        let declared = self.declare(channel, queue.name(), options, arguments);
        declared.await.map(drop)
    }

    /// How many messages wait in a queue. `None` if the queue counts as missing in
    /// [`look_up`](Self::look_up), or the broker refused the lookup.
    pub(super) async fn message_count(&self, queue: &ShortStr) -> Result<Option<u32>, BrokerError> {
        Ok(match self.look_up(queue).await? {
            QueueLookup::Exists { messages } => Some(messages),
            QueueLookup::Missing | QueueLookup::Denied => None,
        })
    }

    /// Looks up whether a queue of this name exists, and how many messages it has.
    ///
    /// A queue whose node is down counts as missing. RabbitMQ 3.10 reports it as missing at once,
    /// and RabbitMQ 4 only after more than a minute. So a queue also counts as missing if no answer
    /// arrives within [`LOOKUP_LIMIT`], or within the limit of a step if that is shorter.
    pub(super) async fn look_up(&self, queue: &ShortStr) -> Result<QueueLookup, BrokerError> {
        // A channel of its own, because the broker closes it if the queue is missing. A broker that
        // answers nothing at all does not open it.
        let scratch = self.channel().await?;
        let name = short(queue.as_str())?;
        let asking = declare_passively(Arc::clone(&scratch), name);
        let limit = self.limit.min(LOOKUP_LIMIT);
        match self.request_within(limit, "looking for a queue", asking).await {
            Ok(Ok(found)) => {
                scratch.close().await;
                Ok(QueueLookup::Exists {
                    messages: found.message_count(),
                })
            }
            Ok(Err(error)) if is_not_found(&error) => Ok(QueueLookup::Missing),
            Ok(Err(error)) if error.is_amqp_soft_error() => Ok(QueueLookup::Denied),
            Ok(Err(error)) => Err(broker_error(error)),
            Err(BrokerError::Unresponsive { .. }) => Ok(QueueLookup::Missing),
            Err(error) => Err(error),
        }
    }

    /// Deletes a queue that was declared but could not be consumed. If the deletion fails, the
    /// queue expires, or the broker deletes it with its connection.
    pub(super) async fn discard_queue(&self, queue: &ShortStr) {
        let discarding = async {
            let name = short(queue.as_str())?;
            self.delete(name, QueueDeleteOptions::default()).await
        };
        if let Err(error) = discarding.await {
            let (queue, error) = (queue.as_str(), Logged(Chain(&error)));
            tracing::debug!(queue, %error, "an unused queue could not be deleted; the broker deletes it later");
        }
    }

    /// Deletes a queue, through a channel that is opened for this.
    pub(super) async fn delete(
        &self,
        queue: ShortString,
        options: QueueDeleteOptions,
    ) -> Result<(), BrokerError> {
        // The broker closes the channel if it refuses.
        let scratch = self.channel().await?;
        let channel = Arc::clone(&scratch);
        let deleting = async move { channel.queue_delete(queue, options).await };
        self.request_ok("deleting a queue", deleting).await?;
        scratch.close().await;
        Ok(())
    }
}

/// Asks whether a queue exists, whatever its properties, and how many messages and consumers it
/// has.
pub(super) async fn declare_passively(
    channel: Arc<OpenChannel>,
    queue: ShortString,
) -> lapin::Result<lapin::Queue> {
    let (options, arguments) = (passive_declare(), FieldTable::default());
    channel.queue_declare(queue, options, arguments).await
}

/// The options of a declaration that only checks that a queue exists, whatever its properties.
fn passive_declare() -> QueueDeclareOptions {
    QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    }
}

/// The arguments of a classic queue; see [`QUEUE_TYPE`].
pub(super) fn classic_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(QUEUE_TYPE.into(), AMQPValue::LongString(CLASSIC.into()));
    arguments
}

fn to_field_table(arguments: &BTreeMap<String, QueueArgument>) -> Result<FieldTable, BrokerError> {
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
