//! A plain AMQP peer, for tests that must see the wire.

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
    /// Connects to the broker and opens the channel, with publisher confirms.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// The channel, for what the other methods do not offer.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Declares a queue that lives as long as this connection, and returns the name the broker gave it.
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

    /// Declares a queue of this name, which lives as long as this connection and which nobody else can consume.
    pub async fn declare(&self, queue: &str) -> anyhow::Result<()> {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        self.declare_with(queue, options).await
    }

    /// Declares a durable queue of this name, as workers of ours do.
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

    /// Publishes to the queue of this name through the default exchange, and waits until the message is there.
    ///
    /// # Errors
    ///
    /// Where the broker does not take the message, or has no such queue for it.
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

    /// Consumes from a queue without acknowledgements: a message is done with when it arrives.
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

    /// Consumes from a queue, and settles nothing by itself: what is not settled goes back with this connection.
    pub async fn consume_unsettled(&self, queue: &str) -> anyhow::Result<Consumer> {
        let options = BasicConsumeOptions::default();
        let consuming = self
            .channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default());
        Ok(consuming.await?)
    }

    /// How many messages wait in a queue, not counting those that a consumer holds; `None` where there is no such
    /// queue.
    ///
    /// # Errors
    ///
    /// Also for a queue that is exclusive to another connection.
    pub async fn queue_depth(&self, queue: &str) -> anyhow::Result<Option<u32>> {
        // The broker answers the question for a missing queue by closing the channel.
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

    /// Waits until no message waits in a queue that exists.
    pub async fn wait_until_empty(&self, queue: &str, limit: Duration) -> anyhow::Result<()> {
        until(&format!("queue {queue} is empty"), limit, async || {
            Ok(self.queue_depth(queue).await? == Some(0))
        })
        .await
    }
}

/// The next message, or `None` where none comes in time.
///
/// # Errors
///
/// Where the consumer has ended.
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

    /// As every test has its own runtime: the broker must outlive that of the test which started it.
    #[tokio::test]
    async fn shares_the_broker_with_the_test_above() {
        RawPeer::connect(rabbit::shared().await).await.unwrap();
    }
}
