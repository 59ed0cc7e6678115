//! A stream that is written by hand with lapin: a message for each item, to an exclusive queue of
//! the caller, without confirms or acknowledgements, and a last message of another type. Several
//! items are published at once, so that few writes carry their frames. Nothing slows the worker
//! down if the reader is slow.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use rpc_tests::rabbit::unique;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::system::{Ask, Reader, System};

/// How many items are published at once.
const CONCURRENT: usize = 64;

/// The `type` of the message that ends a stream.
const END: &str = "end";

const CLOSE_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct ByHand {
    queue: ShortString,
    requests: Channel,
    items: Channel,
    connections: Vec<Connection>,
    /// Kept so that lapin does not close them, as it does with a channel that is dropped, before
    /// their connections are closed.
    worker_channels: [Channel; 2],
    worker: JoinHandle<()>,
}

impl System for ByHand {
    type Reader = Consumer;

    async fn start(broker: &str) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        let mut channels = Vec::new();
        for _ in 0..4 {
            let connection = Connection::connect(broker, ConnectionProperties::default()).await?;
            channels.push(connection.create_channel().await?);
            connections.push(connection);
        }
        let [requests, items, consuming, publishing] = <[Channel; 4]>::try_from(channels)
            .ok()
            .context("there are four")?;
        let queue: ShortString = unique("streams-by-hand").into();
        let options = QueueDeclareOptions {
            durable: true,
            auto_delete: true,
            ..Default::default()
        };
        consuming
            .queue_declare(queue.clone(), options, FieldTable::default())
            .await?;
        let consumer = consume(&consuming, queue.clone(), false).await?;
        let worker_channels = [consuming.clone(), publishing.clone()];
        Ok(Self {
            queue,
            requests,
            items,
            connections,
            worker_channels,
            worker: tokio::spawn(work(consumer, consuming, publishing)),
        })
    }

    async fn open(&self, ask: Ask) -> anyhow::Result<Consumer> {
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..Default::default()
        };
        let queue = self
            .items
            .queue_declare("".into(), options, FieldTable::default())
            .await?;
        let consumer = consume(&self.items, queue.name().clone(), true).await?;
        let properties = BasicProperties::default().with_reply_to(queue.name().clone());
        publish(&self.requests, self.queue.clone(), &ask.write(), properties).await?;
        Ok(consumer)
    }

    async fn stop(self) -> anyhow::Result<()> {
        for connection in self.connections {
            let _ = timeout(CLOSE_LIMIT, connection.close(200, "done".into())).await;
        }
        drop(self.worker_channels);
        self.worker.abort();
        Ok(())
    }
}

impl Reader for Consumer {
    type Item = Vec<u8>;

    async fn next_item(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let delivery = self.next().await.context("the channel is closed")??;
        let is_end = delivery
            .properties
            .kind()
            .as_ref()
            .is_some_and(|it| it.as_str() == END);
        Ok((!is_end).then_some(delivery.data))
    }
}

/// Answers each request with a stream, and then acknowledges it, even if the stream failed.
async fn work(mut consumer: Consumer, consuming: Channel, publishing: Channel) {
    let publishing = Arc::new(publishing);
    while let Some(Ok(request)) = consumer.next().await {
        let (consuming, publishing) = (consuming.clone(), Arc::clone(&publishing));
        tokio::spawn(async move {
            if let Err(error) = send(&request, &publishing).await {
                eprintln!("a stream by hand failed: {error:#}");
            }
            let _ = consuming
                .basic_ack(request.delivery_tag, BasicAckOptions::default())
                .await;
        });
    }
}

/// Sends the items of a stream, and its end.
async fn send(request: &Delivery, channel: &Channel) -> anyhow::Result<()> {
    let reply_to = request.properties.reply_to().as_ref();
    let reply_to = reply_to.context("it has no reply_to")?;
    let publishing = Ask::read(&request.data)?.make().map(|item| async move {
        publish(channel, reply_to.clone(), &item, BasicProperties::default()).await
    });
    // `buffered` polls the futures for the first time in order, and then each hands its message to
    // the channel.
    stream::iter(publishing)
        .buffered(CONCURRENT)
        .try_collect::<()>()
        .await?;
    let end = BasicProperties::default().with_type(END.into());
    publish(channel, reply_to.clone(), &[], end).await
}

async fn publish(
    channel: &Channel,
    queue: ShortString,
    body: &[u8],
    properties: BasicProperties,
) -> anyhow::Result<()> {
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), queue, options, body, properties)
        .await?;
    Ok(())
}

async fn consume(channel: &Channel, queue: ShortString, no_ack: bool) -> anyhow::Result<Consumer> {
    let options = BasicConsumeOptions {
        no_ack,
        ..Default::default()
    };
    Ok(channel
        .basic_consume(queue, "".into(), options, FieldTable::default())
        .await?)
}
