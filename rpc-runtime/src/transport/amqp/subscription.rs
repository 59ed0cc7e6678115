//! A consumer of one queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use lapin::Consumer;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use super::channel::{Deliveries, OpenChannel};
use super::{CLOSE_LIMIT, broker_error, convert, short};
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::{Control, Delivery, Subscription};

/// Whether the broker waits for deliveries to be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledge {
    Each,
    /// They are done with once sent (`no_ack`).
    Never,
}

/// Asks to consume from a queue.
pub(super) fn consume(
    channel: &OpenChannel,
    queue: &str,
    acknowledge: Acknowledge,
) -> Result<impl Future<Output = lapin::Result<Consumer>>, BrokerError> {
    let options = BasicConsumeOptions {
        no_ack: acknowledge == Acknowledge::Never,
        ..Default::default()
    };
    // An empty tag has the broker choose one.
    Ok(channel.basic_consume(short(queue)?, "".into(), options, FieldTable::default()))
}

/// A subscription by a consumer of this channel. `private` is a queue that ends with its last subscription.
pub(super) fn of(
    consumer: Consumer,
    channel: &Arc<OpenChannel>,
    acknowledge: Acknowledge,
    private: Option<ShortStr>,
    limit: Duration,
) -> Subscription {
    let control = ChannelControl {
        channel: Arc::clone(channel),
        tag: consumer.tag(),
        acknowledge,
        private,
        limit,
    };
    let deliveries = Deliveries::new(consumer, channel)
        .map_err(broker_error)
        .map_ok(|delivery| Delivery {
            redelivered: delivery.redelivered,
            tag: delivery.delivery_tag,
            message: convert::from_lapin(&delivery.properties, delivery.data),
        });
    Subscription {
        deliveries: deliveries.boxed(),
        control: Arc::new(control),
    }
}

#[derive(Debug)]
struct ChannelControl {
    channel: Arc<OpenChannel>,
    tag: ShortString,
    acknowledge: Acknowledge,
    private: Option<ShortStr>,
    limit: Duration,
}

impl ChannelControl {
    async fn acknowledge(&self, tag: u64, multiple: bool) -> Result<(), BrokerError> {
        match self.acknowledge {
            Acknowledge::Never => Ok(()),
            Acknowledge::Each => {
                let settling = self.channel.basic_ack(tag, BasicAckOptions { multiple });
                self.channel.answer(settling).await
            }
        }
    }
}

#[async_trait]
impl Control for ChannelControl {
    async fn settle(&self, tag: u64) -> Result<(), BrokerError> {
        self.acknowledge(tag, false).await
    }

    async fn settle_up_to(&self, tag: u64) -> Result<(), BrokerError> {
        self.acknowledge(tag, true).await
    }

    async fn cancel(&self) -> Result<(), BrokerError> {
        let cancelling = self
            .channel
            .basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        let (step, limit) = ("cancelling a consumer", self.limit);
        match tokio::time::timeout(limit, self.channel.answer(cancelling)).await {
            Ok(cancelled) => cancelled,
            Err(_) => Err(BrokerError::Unresponsive { step, limit }),
        }
    }

    async fn close(&self) {
        self.channel.close().await;
    }

    async fn retire(&self) {
        if let Some(queue) = &self.private
            && let Ok(queue) = short(queue.as_str())
        {
            let deleting = self.channel.queue_delete(queue, QueueDeleteOptions::default());
            // Where it cannot be deleted now, it expires.
            let _ = tokio::time::timeout(CLOSE_LIMIT, deleting).await;
        }
        self.close().await;
    }
}
