//! Messages to whoever listens: a fanout exchange, and a queue for each who does.
//!
//! Each step that the broker may refuse has a channel that nothing else uses, as a refusal ends its channel.

use std::sync::Arc;

use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Confirmation, ExchangeKind};
use uuid::Uuid;

use super::channel::OpenChannel;
use super::opening::{self, Opening};
use super::subscription::{Acknowledge, Terms};
use super::{broker_error, convert, is_not_found, short};
use crate::error::{BrokerError, Cause};
use crate::protocol::{Message, ShortStr};
use crate::transport::topology::Broadcasts;
use crate::transport::{Published, Subscription};

impl Opening {
    /// Consumes what is sent to the exchange from now on, from a queue that ends with its consumer.
    pub(super) async fn broadcasts(&self, broadcasts: &Broadcasts) -> Result<Subscription, BrokerError> {
        let exchange = broadcasts.exchange;
        let declared = self.declare_exchange(exchange).await;
        match &declared {
            // Who may not declare it may listen all the same where somebody else has.
            Err(error) if !is_of_exchange(error) => declared.clone()?,
            Ok(()) | Err(_) => {}
        }
        let channel = self.channel().await?;
        let queue = self.declare_listening(&channel, broadcasts).await?;
        match self.listen(&channel, &queue, broadcasts).await {
            Ok(subscription) => Ok(subscription),
            Err(error) => {
                // It goes by itself only once it had a consumer, and this is tried again.
                self.discard(&queue).await;
                // That the exchange could not be declared may be why it is missing.
                Err(declared.err().filter(|_| is_of_exchange(&error)).unwrap_or(error))
            }
        }
    }

    async fn listen(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &ShortStr,
        broadcasts: &Broadcasts,
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
        let bound = self.answer("binding a queue", binding).await?;
        bound.map_err(|error| exchange_error(broadcasts.exchange, "bind a queue to", error))?;
        self.prefetch(channel, broadcasts.prefetch).await?;
        let terms = Terms {
            prefetch: Some(broadcasts.prefetch),
            private: Some(queue.clone()),
            ..self.terms(Acknowledge::Each)
        };
        self.subscribe(channel, queue.as_str(), terms).await
    }

    async fn declare_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        let throw_away = self.channel().await?;
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let (channel, name) = (Arc::clone(&throw_away), short(exchange)?);
        let declaring = async move {
            channel
                .exchange_declare(name, ExchangeKind::Fanout, options, FieldTable::default())
                .await
        };
        let declared = self.answer("declaring an exchange", declaring).await?;
        declared.map_err(|error| exchange_error(exchange, "declare", error))?;
        throw_away.close().await;
        Ok(())
    }

    /// A queue with limits that are the broker's to keep: nothing piles up, whoever sends how much, and whether it is consumed or not.
    async fn declare_listening(
        &self,
        channel: &Arc<OpenChannel>,
        broadcasts: &Broadcasts,
    ) -> Result<ShortStr, BrokerError> {
        // Its own each time: that of a connection which the broker does not know to be lost is still there.
        let name = format!("{}.{}", broadcasts.exchange, Uuid::new_v4());
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = opening::classic();
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

    /// Sends a message to all who listen to the exchange.
    pub(super) async fn broadcast(&self, exchange: &str, message: Message) -> Result<Published, BrokerError> {
        let (name, properties) = (short(exchange)?, convert::to_lapin(message.properties)?);
        let throw_away = self.channel().await?;
        self.confirms(&throw_away).await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let channel = Arc::clone(&throw_away);
        let publishing = async move {
            channel
                .basic_publish(name, "".into(), options, &message.body, properties)
                .await?
                .await
        };
        let published = match self.answer("sending to all who listen", publishing).await? {
            Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => Published::Routed,
            Ok(Confirmation::Ack(Some(_))) => Published::Returned,
            Ok(Confirmation::Nack(_)) => Published::Refused,
            // Nobody has ever listened.
            Err(error) if is_not_found(&error) => return Ok(Published::Returned),
            Err(error) => return Err(exchange_error(exchange, "publish to", error)),
        };
        throw_away.close().await;
        Ok(published)
    }
}

/// What lapin's error means where what was sent names an exchange.
fn exchange_error(exchange: &str, action: &'static str, error: lapin::Error) -> BrokerError {
    match error.is_amqp_soft_error() {
        true => BrokerError::Exchange {
            exchange: exchange.to_owned(),
            action,
            source: Cause::new(error),
        },
        false => broker_error(error),
    }
}

fn is_of_exchange(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Exchange { .. })
}
