//! Broadcasts, through a fanout exchange and a queue for each listener.
//!
//! The channels that are opened here are used for nothing else, because the broker closes a channel
//! when it refuses a step.

use std::sync::Arc;

use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Confirmation, ExchangeKind};
use uuid::Uuid;

use super::channel::OpenChannel;
use super::consume::{AckMode, SubscriptionOptions};
use super::convert;
use super::errors::{exchange_error, is_not_found, short};
use super::opener::{self, Opener};
use crate::error::BrokerError;
use crate::protocol::{Message, ShortStr};
use crate::transport::topology::BroadcastOptions;
use crate::transport::{Published, Subscription};

impl Opener {
    /// Consumes what is published to the exchange from now on. The queue is deleted with its
    /// consumer.
    pub(super) async fn consume_broadcasts(
        &self,
        broadcasts: &BroadcastOptions,
    ) -> Result<Subscription, BrokerError> {
        let exchange = broadcasts.exchange;
        let declared = self.declare_exchange(exchange).await;
        match &declared {
            // A user that may not declare the exchange can still listen if it exists.
            Err(error) if !is_exchange_error(error) => declared.clone()?,
            Ok(()) | Err(_) => {}
        }
        let channel = self.channel().await?;
        let queue = self.declare_broadcast_queue(&channel, broadcasts).await?;
        match self.bind_and_subscribe(&channel, &queue, broadcasts).await {
            Ok(subscription) => Ok(subscription),
            Err(error) => {
                // An auto-delete queue that never had a consumer is not deleted, so each retry
                // would leave one behind.
                self.discard_queue(&queue).await;
                // If the exchange is missing, report why it could not be declared.
                Err(declared
                    .err()
                    .filter(|_| is_exchange_error(&error))
                    .unwrap_or(error))
            }
        }
    }

    async fn bind_and_subscribe(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &ShortStr,
        broadcasts: &BroadcastOptions,
    ) -> Result<Subscription, BrokerError> {
        let (name, exchange) = (short(queue.as_str())?, short(broadcasts.exchange)?);
        let binding = {
            let (channel, arguments) = (Arc::clone(channel), FieldTable::default());
            let options = QueueBindOptions::default();
            async move {
                channel
                    .queue_bind(name, exchange, "".into(), options, arguments)
                    .await
            }
        };
        let bound = self.request("binding a queue", binding).await?;
        bound.map_err(|error| exchange_error(broadcasts.exchange, "bind a queue to", error))?;
        self.set_prefetch(channel, broadcasts.prefetch).await?;
        let options = SubscriptionOptions {
            prefetch: Some(broadcasts.prefetch),
            private_queue: Some(queue.clone()),
            ..self.subscription_options(AckMode::Manual)
        };
        self.subscribe(channel, queue.as_str(), options).await
    }

    async fn declare_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        let scratch = self.channel().await?;
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let (channel, name) = (Arc::clone(&scratch), short(exchange)?);
        let declaring = async move {
            channel
                .exchange_declare(name, ExchangeKind::Fanout, options, FieldTable::default())
                .await
        };
        let declared = self.request("declaring an exchange", declaring).await?;
        declared.map_err(|error| exchange_error(exchange, "declare", error))?;
        scratch.close().await;
        Ok(())
    }

    /// Declares a queue for broadcasts. The broker enforces its limits, so that messages do not
    /// pile up.
    async fn declare_broadcast_queue(
        &self,
        channel: &Arc<OpenChannel>,
        broadcasts: &BroadcastOptions,
    ) -> Result<ShortStr, BrokerError> {
        // A new name each time: an earlier queue still exists if the broker has not yet noticed the
        // loss of its connection.
        let name = format!("{}.{}", broadcasts.exchange, Uuid::new_v4());
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = opener::classic_arguments();
        let time = i64::try_from(broadcasts.time_to_live.as_millis()).unwrap_or(i64::MAX);
        for (name, limit) in [
            ("x-message-ttl", time),
            ("x-max-length", broadcasts.max_messages.into()),
            ("x-max-length-bytes", broadcasts.max_bytes.into()),
        ] {
            arguments.insert(name.into(), AMQPValue::LongLongInt(limit));
        }
        self.declare(channel, &name, options, arguments).await
    }

    /// Publishes a message to all listeners of the exchange.
    pub(super) async fn broadcast(&self, exchange: &str, message: Message) -> Result<Published, BrokerError> {
        let (name, properties) = (short(exchange)?, convert::to_lapin(message.properties)?);
        let scratch = self.channel().await?;
        self.select_confirms(&scratch).await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let channel = Arc::clone(&scratch);
        let publishing = async move {
            channel
                .basic_publish(name, "".into(), options, &message.body, properties)
                .await?
                .await
        };
        let published = match self.request("publishing a broadcast", publishing).await? {
            Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => Published::Confirmed,
            Ok(Confirmation::Ack(Some(_))) => Published::Returned,
            Ok(Confirmation::Nack(_)) => Published::Refused,
            // The exchange does not exist.
            Err(error) if is_not_found(&error) => return Ok(Published::Returned),
            Err(error) => return Err(exchange_error(exchange, "publish to", error)),
        };
        scratch.close().await;
        Ok(published)
    }
}

fn is_exchange_error(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Exchange { .. })
}
