//! A plain AMQP peer, for tests that inspect the wire.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ErrorKind,
    message::Delivery,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::FieldTable,
};
use tokio::time::timeout;

use crate::until;

/// A connection with one channel.
#[derive(Debug)]
pub struct RawPeer {
    connection: Connection,
    channel: Channel,
}

impl RawPeer {
    /// Connects to the broker and opens the channel with publisher confirms.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// Returns the channel, for operations that this type does not offer.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Declares a queue that lives as long as this connection, and returns the name that the broker
    /// chose.
    pub async fn declare_exclusive(&self) -> anyhow::Result<String> {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let queue = self
            .channel
            .queue_declare("".into(), options, FieldTable::default())
            .await?;
        Ok(queue.name().to_string())
    }

    /// Declares an exclusive queue with this name, which lives as long as this connection.
    pub async fn declare(&self, queue: &str) -> anyhow::Result<()> {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        self.declare_with(queue, options).await
    }

    /// Declares a durable queue with this name and no arguments.
    pub async fn declare_durable(&self, queue: &str) -> anyhow::Result<()> {
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        self.declare_with(queue, options).await
    }

    async fn declare_with(&self, queue: &str, options: QueueDeclareOptions) -> anyhow::Result<()> {
        let declaring = self
            .channel
            .queue_declare(queue.into(), options, FieldTable::default());
        declaring.await?;
        Ok(())
    }

    /// Publishes to this queue through the default exchange, and waits for the confirm.
    ///
    /// # Errors
    ///
    /// Fails if the broker refuses the message, or has no such queue.
    pub async fn publish(&self, queue: &str, properties: BasicProperties, body: &[u8]) -> anyhow::Result<()> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let confirm = self
            .channel
            .basic_publish("".into(), queue.into(), options, body, properties)
            .await?;
        let confirmation = confirm.await?;
        ensure!(confirmation.is_ack(), "the broker refused a message for {queue}");
        ensure!(
            confirmation.take_message().is_none(),
            "there is no queue {queue} to publish to"
        );
        Ok(())
    }

    /// Consumes from a queue without acknowledgements.
    pub async fn consume(&self, queue: &str) -> anyhow::Result<Consumer> {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        Ok(self
            .channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await?)
    }

    /// Consumes from a queue with manual acknowledgements. Unacknowledged messages return to the
    /// queue when this connection ends.
    pub async fn consume_unsettled(&self, queue: &str) -> anyhow::Result<Consumer> {
        let options = BasicConsumeOptions::default();
        let consuming = self
            .channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default());
        Ok(consuming.await?)
    }

    /// Returns how many messages are ready in a queue, or `None` if there is no such queue.
    ///
    /// # Errors
    ///
    /// Fails also if the queue is exclusive to another connection.
    pub async fn queue_depth(&self, queue: &str) -> anyhow::Result<Option<u32>> {
        // The broker closes the channel if the queue does not exist.
        let throw_away = self.connection.create_channel().await?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        match throw_away
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await
        {
            Ok(queue) => {
                throw_away.close(200, "seen".into()).await?;
                Ok(Some(queue.message_count()))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error).context(format!("asking for the depth of {queue}")),
        }
    }

    /// Waits until an existing queue has no ready messages.
    pub async fn wait_until_empty(&self, queue: &str, limit: Duration) -> anyhow::Result<()> {
        until(&format!("queue {queue} is empty"), limit, async || {
            Ok(self.queue_depth(queue).await? == Some(0))
        })
        .await
    }
}

/// Returns the next message, or `None` if none arrives in time.
///
/// # Errors
///
/// Fails if the consumer has ended.
pub async fn next(consumer: &mut Consumer, within: Duration) -> anyhow::Result<Option<Delivery>> {
    match timeout(within, consumer.next()).await {
        Ok(delivery) => Ok(Some(delivery.context("the consumer was cancelled")??)),
        Err(_) => Ok(None),
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return false;
    };
    matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rabbit;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn publishes_consumes_and_sees_queues() {
        let peer = RawPeer::connect(rabbit::shared().await).await.unwrap();
        let missing = rabbit::unique("missing");
        assert_eq!(peer.queue_depth(&missing).await.unwrap(), None);
        let error = peer
            .publish(&missing, BasicProperties::default(), b"lost")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("there is no queue"), "{error}");

        let queue = peer.declare_exclusive().await.unwrap();
        peer.wait_until_empty(&queue, SOON).await.unwrap();
        let properties = BasicProperties::default().with_type("greeting".into());
        peer.publish(&queue, properties, b"hello").await.unwrap();
        assert_eq!(peer.queue_depth(&queue).await.unwrap(), Some(1));

        let mut consumer = peer.consume(&queue).await.unwrap();
        let delivery = next(&mut consumer, SOON).await.unwrap().expect("the message");
        assert_eq!(delivery.data, b"hello");
        assert_eq!(delivery.properties.kind().as_ref().unwrap().as_str(), "greeting");
        assert!(
            next(&mut consumer, Duration::from_millis(20))
                .await
                .unwrap()
                .is_none()
        );
        peer.wait_until_empty(&queue, SOON).await.unwrap();
    }

    /// Every test has a runtime of its own. The broker must outlive the runtime of the test that
    /// started it.
    #[tokio::test]
    async fn shares_the_broker_with_another_test() {
        RawPeer::connect(rabbit::shared().await).await.unwrap();
    }
}
