//! A consumer of one queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use super::super::channel::{Deliveries, OpenChannel};
use super::super::connection::{CLOSE_LIMIT, OwnConnection};
use super::super::errors::short;
use super::super::task_group::TaskGroup;
use super::ack_sender::AckSender;
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::{Control, Subscription};

/// Whether deliveries have to be acknowledged. See RabbitMQ's
/// [acknowledgement modes](https://www.rabbitmq.com/docs/confirms#acknowledgement-modes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckMode {
    Manual,
    /// A delivery counts as acknowledged once it is sent (`no_ack`).
    Automatic,
}

/// A consumer that the broker has started.
pub(crate) struct StartedConsumer {
    consumer_tag: ShortString,
    deliveries: Deliveries,
}

/// Returns a future that asks the broker to start a consumer, and waits for the answer. Takes the
/// channel's deliveries over from lapin at once, so it must be called once for each channel.
pub(crate) fn consume(
    channel: &Arc<OpenChannel>,
    queue: &str,
    ack_mode: AckMode,
) -> Result<impl Future<Output = lapin::Result<StartedConsumer>> + use<>, BrokerError> {
    let options = BasicConsumeOptions {
        no_ack: ack_mode == AckMode::Automatic,
        ..Default::default()
    };
    let (channel, queue) = (Arc::clone(channel), short(queue)?);
    let received = channel.content().deliveries();
    Ok(async move {
        // The broker replaces an empty consumer tag with a generated one.
        let consumer = channel
            .basic_consume(queue, "".into(), options, FieldTable::default())
            .await?;
        Ok(StartedConsumer {
            consumer_tag: consumer.tag(),
            deliveries: Deliveries::new(received, consumer, &channel),
        })
    })
}

/// The options of a subscription on a channel.
pub(crate) struct SubscriptionOptions {
    pub(crate) ack_mode: AckMode,
    /// The prefetch that was set on the channel. `None` if there is no limit.
    pub(crate) prefetch: Option<u16>,
    /// The queue that [`Control::close_and_delete`] deletes.
    pub(crate) private_queue: Option<ShortStr>,
    /// The connection of the channel, if nothing else uses it.
    pub(crate) own_connection: Option<OwnConnection>,
    /// How long cancelling the consumer may take.
    pub(crate) cancel_limit: Duration,
}

impl StartedConsumer {
    /// Makes a subscription from this consumer of this channel.
    pub(crate) fn into_subscription(
        self,
        channel: &Arc<OpenChannel>,
        options: SubscriptionOptions,
        tasks: &TaskGroup,
    ) -> Subscription {
        let acks = match options.ack_mode {
            AckMode::Manual => Some(AckSender::start(channel, options.prefetch, tasks)),
            AckMode::Automatic => None,
        };
        let control = ChannelControl {
            channel: Arc::clone(channel),
            consumer_tag: self.consumer_tag,
            acks,
            private_queue: options.private_queue,
            _own_connection: options.own_connection,
            cancel_limit: options.cancel_limit,
        };
        Subscription {
            deliveries: self.deliveries.boxed(),
            control: Arc::new(control),
        }
    }
}

#[derive(Debug)]
struct ChannelControl {
    channel: Arc<OpenChannel>,
    consumer_tag: ShortString,
    /// `None` in automatic mode.
    acks: Option<AckSender>,
    private_queue: Option<ShortStr>,
    /// Closed when this is dropped.
    _own_connection: Option<OwnConnection>,
    cancel_limit: Duration,
}

#[async_trait]
impl Control for ChannelControl {
    fn ack(&self, tag: u64) {
        if let Some(acks) = &self.acks {
            acks.record(|batcher| batcher.ack(tag));
        }
    }

    fn reject(&self, tag: u64) {
        if let Some(acks) = &self.acks {
            acks.record(|batcher| batcher.reject(tag));
        }
    }

    fn ack_up_to(&self, tag: u64) {
        if let Some(acks) = &self.acks {
            acks.record(|batcher| batcher.ack_up_to(tag));
        }
    }

    fn hold(&self) {
        if let Some(acks) = &self.acks {
            acks.hold();
        }
    }

    async fn cancel(&self) -> Result<(), BrokerError> {
        let cancelling = self
            .channel
            .basic_cancel(self.consumer_tag.clone(), BasicCancelOptions::default());
        let (step, limit) = ("cancelling a consumer", self.cancel_limit);
        match tokio::time::timeout(limit, self.channel.wait_answer(cancelling)).await {
            Ok(cancelled) => cancelled,
            Err(_) => Err(BrokerError::Unresponsive { step, limit }),
        }
    }

    async fn close(&self) {
        if let Some(acks) = &self.acks {
            acks.flush();
        }
        // The acknowledgements are sent before lapin closes the channel.
        self.channel.close().await;
    }

    async fn close_and_delete(&self) {
        if let Some(queue) = &self.private_queue
            && let Ok(queue) = short(queue.as_str())
        {
            let channel = Arc::clone(&self.channel);
            let deleting = async move { channel.queue_delete(queue, QueueDeleteOptions::default()).await };
            // If the queue cannot be deleted now, it expires, or is deleted with its connection.
            let _ = self
                .channel
                .request(CLOSE_LIMIT, "deleting a queue", deleting)
                .await;
        }
        self.close().await;
    }
}
