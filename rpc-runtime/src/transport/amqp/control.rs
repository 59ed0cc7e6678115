//! The control exchange, and the queues of each worker that are bound to it.
//!
//! The channels that are opened here are used for nothing else, because the broker closes a channel
//! when it refuses a step.

use std::sync::Arc;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;
use uuid::Uuid;

use super::channel::OpenChannel;
use super::consume::{AckMode, SubscriptionOptions};
use super::errors::{exchange_error, is_not_found, short};
use super::opener::{self, Opener};
use crate::error::BrokerError;
use crate::protocol::{CONTROL_EXCHANGE, Message, ShortStr};
use crate::transport::topology::ControlQueue;
use crate::transport::{Outgoing, Published, Publisher, SendToken, Subscription};

impl Opener {
    /// Consumes control messages from now on. The queue is deleted with its consumer.
    pub(super) async fn consume_control(&self, control: &ControlQueue) -> Result<Subscription, BrokerError> {
        let refusal = match self.declare_control_exchange().await {
            Ok(()) => None,
            // A user that may not declare the exchange can still listen if it exists. An exchange
            // with other properties is used as it is.
            Err(refusal) if is_exchange_error(&refusal) => Some(refusal),
            Err(error) => return Err(error),
        };
        let channel = self.channel().await?;
        let queue = self.declare_control_queue(&channel, control).await?;
        match self.bind_and_subscribe(&channel, &queue, control).await {
            Ok(subscription) => Ok(subscription),
            Err(error) => {
                // An auto-delete queue that never had a consumer is kept as long as its connection,
                // so each retry would leave one behind.
                self.discard_queue(&queue).await;
                // If the exchange is missing, reports why it could not be declared.
                Err(match refusal {
                    Some(refusal) if is_missing_exchange(&error) => refusal,
                    _ => error,
                })
            }
        }
    }

    /// Binds the queue to the control exchange with each of its keys, and consumes from it.
    async fn bind_and_subscribe(
        &self,
        channel: &Arc<OpenChannel>,
        queue: &ShortStr,
        control: &ControlQueue,
    ) -> Result<Subscription, BrokerError> {
        for key in &*control.keys {
            let (name, key) = (short(queue.as_str())?, short(key.as_str())?);
            let (channel, arguments) = (Arc::clone(channel), FieldTable::default());
            let options = QueueBindOptions::default();
            let binding = async move {
                channel
                    .queue_bind(name, CONTROL_EXCHANGE.into(), key, options, arguments)
                    .await
            };
            let bound = self.request("binding a queue", binding).await?;
            bound.map_err(|error| exchange_error(CONTROL_EXCHANGE, "bind a queue to", error))?;
        }
        self.set_prefetch(channel, control.prefetch).await?;
        let options = SubscriptionOptions {
            prefetch: Some(control.prefetch),
            private_queue: Some(queue.clone()),
            ..self.subscription_options(AckMode::Manual)
        };
        self.subscribe(channel, queue.as_str(), options).await
    }

    /// Declares the control exchange. If it exists, fails unless it has the same properties.
    async fn declare_control_exchange(&self) -> Result<(), BrokerError> {
        let scratch = self.channel().await?;
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let channel = Arc::clone(&scratch);
        let declaring = async move {
            let (name, kind) = (CONTROL_EXCHANGE.into(), ExchangeKind::Direct);
            channel
                .exchange_declare(name, kind, options, FieldTable::default())
                .await
        };
        let declared = self.request("declaring an exchange", declaring).await?;
        declared.map_err(|error| exchange_error(CONTROL_EXCHANGE, "declare", error))?;
        scratch.close().await;
        Ok(())
    }

    /// Declares a queue for control messages and returns its name. The broker enforces the queue's
    /// limits, so that messages do not pile up.
    async fn declare_control_queue(
        &self,
        channel: &Arc<OpenChannel>,
        control: &ControlQueue,
    ) -> Result<ShortStr, BrokerError> {
        // A new name each time: an earlier queue still exists if the broker has not yet noticed the
        // loss of its connection.
        let name = format!("{CONTROL_EXCHANGE}.{}", Uuid::new_v4());
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = opener::classic_arguments();
        let time = i64::try_from(control.time_to_live.as_millis()).unwrap_or(i64::MAX);
        for (argument, limit) in [
            ("x-message-ttl", time),
            ("x-max-length", control.max_messages.into()),
            ("x-max-length-bytes", control.max_bytes.into()),
        ] {
            arguments.insert(argument.into(), AMQPValue::LongLongInt(limit));
        }
        if control.refuses_excess {
            let overflow = AMQPValue::LongString("reject-publish".into());
            arguments.insert("x-overflow".into(), overflow);
        }
        self.declare(channel, &name, options, arguments).await
    }

    /// Publishes a message to all queues that are bound with the key. `since` is when the message
    /// began to wait: the wait is subtracted from its `expiration`.
    pub(super) async fn publish_control(
        &self,
        key: &ShortStr,
        message: Message,
        send_token: &SendToken,
        since: Instant,
    ) -> Published {
        match self.try_publish_control(key, message, send_token, since).await {
            Ok(published) => published,
            Err(source) => {
                // A message that the exchange refuses reaches no queue. One that can still be
                // withdrawn was not claimed for writing, and after `withdraw` it cannot be claimed.
                let is_unwritten = is_exchange_error(&source) || send_token.withdraw();
                Published::Failed {
                    source,
                    written: !is_unwritten,
                }
            }
        }
    }

    /// Like [`publish_control`](Self::publish_control), but an error does not say whether the
    /// message was written.
    async fn try_publish_control(
        &self,
        key: &ShortStr,
        mut message: Message,
        send_token: &SendToken,
        since: Instant,
    ) -> Result<Published, BrokerError> {
        // The broker reads nothing from a blocked connection. What is written then arrives once the
        // broker unblocks it, however late that is.
        self.connection.wait_unblocked().await?;
        let scratch = self.channel().await?;
        let publisher = self.publisher_to(CONTROL_EXCHANGE, Arc::clone(&scratch)).await?;
        // The broker may have blocked the connection meanwhile.
        self.connection.wait_unblocked().await?;
        message.properties.shorten_expiration(since.elapsed());
        let publishing = publisher.publish(Outgoing {
            queue: key.clone(),
            mandatory: true,
            message,
            send_token: Some(send_token.clone()),
        });
        let (step, limit) = ("publishing a control message", self.limit);
        let Ok(published) = tokio::time::timeout(limit, publishing).await else {
            return Err(BrokerError::Unresponsive { step, limit });
        };
        if let Published::Failed {
            source: BrokerError::ChannelClosed { source },
            ..
        } = published
        {
            // Without the exchange, no queue is bound to it.
            if source.downcast_ref().is_some_and(is_not_found) {
                return Ok(Published::Returned);
            }
            return Err(BrokerError::Exchange {
                exchange: CONTROL_EXCHANGE.to_owned(),
                action: "publish to",
                source,
            });
        }
        scratch.close().await;
        Ok(published)
    }
}

/// Whether the broker refused an operation on the exchange.
fn is_exchange_error(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Exchange { .. })
}

/// Whether the exchange does not exist.
fn is_missing_exchange(error: &BrokerError) -> bool {
    let BrokerError::Exchange { source, .. } = error else {
        return false;
    };
    source.downcast_ref().is_some_and(is_not_found)
}
