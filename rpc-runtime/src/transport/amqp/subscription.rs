//! A consumer of one queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use super::channel::{Deliveries, OpenChannel};
use super::{CLOSE_LIMIT, broker_error, convert, refused, short, within};
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

/// Consumes from a queue. `private` is a queue that ends with its last subscription.
pub(super) async fn open(
    channel: &Arc<OpenChannel>,
    queue: &str,
    acknowledge: Acknowledge,
    private: Option<ShortStr>,
    limit: Duration,
) -> Result<Subscription, BrokerError> {
    let options = BasicConsumeOptions {
        no_ack: acknowledge == Acknowledge::Never,
        ..Default::default()
    };
    // An empty tag has the broker choose one.
    let consuming = channel.basic_consume(short(queue)?, "".into(), options, FieldTable::default());
    let consumer = within(limit, "consuming a queue", consuming)
        .await?
        .map_err(|error| refused(queue, error))?;
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
    Ok(Subscription {
        deliveries: deliveries.boxed(),
        control: Arc::new(control),
    })
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
            Acknowledge::Each => self
                .channel
                .basic_ack(tag, BasicAckOptions { multiple })
                .await
                .map_err(broker_error),
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
        within(self.limit, "cancelling a consumer", cancelling)
            .await?
            .map_err(broker_error)
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
