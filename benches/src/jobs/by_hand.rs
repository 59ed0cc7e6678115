//! A job queue that is written by hand with lapin: persistent messages in a durable queue,
//! publisher confirms, and one acknowledgement for each job. Each caller publishes concurrently
//! with the others, so that few writes carry their frames.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use rpc_tests::rabbit::unique;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Done, JobQueue};
use crate::load::Caller;
use crate::scenario::BASE;

const CLOSE_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct ByHand {
    /// One to consume and one to publish.
    connections: [Connection; 2],
    publisher: Publisher,
    consuming: Channel,
    /// The consumer tag and the task of the worker, while it runs.
    worker: Option<(ShortString, JoinHandle<()>)>,
    done: Arc<Done>,
}

#[derive(Clone)]
pub(super) struct Publisher {
    channel: Channel,
    queue: ShortString,
}

impl Caller for Publisher {
    async fn call(&self, payload: Bytes) -> anyhow::Result<usize> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let confirming = self
            .channel
            .basic_publish("".into(), self.queue.clone(), options, &payload, properties)
            .await?;
        let confirmation = confirming.await?;
        ensure!(confirmation.is_ack(), "the broker refused a job");
        ensure!(confirmation.take_message().is_none(), "the queue does not exist");
        Ok(payload.len())
    }
}

impl JobQueue for ByHand {
    type Caller = Publisher;

    async fn open(broker: &str, done: &Arc<Done>) -> anyhow::Result<Self> {
        let connect = || Connection::connect(broker, ConnectionProperties::default());
        let connections = [connect().await?, connect().await?];
        let consuming = connections[0].create_channel().await?;
        let queue: ShortString = unique("jobs-by-hand").into();
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        consuming
            .queue_declare(queue.clone(), options, FieldTable::default())
            .await?;
        consuming
            .basic_qos(BASE.prefetch(), BasicQosOptions::default())
            .await?;
        let channel = connections[1].create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self {
            connections,
            publisher: Publisher { channel, queue },
            consuming,
            worker: None,
            done: Arc::clone(done),
        })
    }

    fn caller(&self) -> Publisher {
        self.publisher.clone()
    }

    async fn start_worker(&mut self) -> anyhow::Result<()> {
        let options = BasicConsumeOptions::default();
        let mut consumer = self
            .consuming
            .basic_consume(
                self.publisher.queue.clone(),
                "".into(),
                options,
                FieldTable::default(),
            )
            .await?;
        let (channel, done) = (self.consuming.clone(), Arc::clone(&self.done));
        let tag = consumer.tag();
        let worker = async move {
            while let Some(Ok(job)) = consumer.next().await {
                done.count();
                // Not `job.ack()`, which starts a task of its own.
                let acked = channel.basic_ack(job.delivery_tag, BasicAckOptions::default());
                if acked.await.is_err() {
                    return;
                }
            }
        };
        self.worker = Some((tag, tokio::spawn(worker)));
        Ok(())
    }

    async fn stop_worker(&mut self) -> anyhow::Result<()> {
        let (tag, worker) = self.worker.take().context("the worker runs")?;
        self.consuming
            .basic_cancel(tag, BasicCancelOptions::default())
            .await?;
        worker.await?;
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        let options = QueueDeleteOptions::default();
        self.consuming.queue_delete(self.publisher.queue, options).await?;
        for connection in self.connections {
            let _ = timeout(CLOSE_LIMIT, connection.close(200, "done".into())).await;
        }
        Ok(())
    }
}
