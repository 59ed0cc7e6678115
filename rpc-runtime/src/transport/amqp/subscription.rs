//! A consumer of one queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use super::{CLOSE_LIMIT, convert, lost, refused, short, within};
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

/// Consumes from a queue. `delete_on_close` is a private queue that ends with the subscription.
pub(super) async fn open(
    channel: &Arc<Channel>,
    queue: &str,
    acknowledge: Acknowledge,
    delete_on_close: Option<ShortStr>,
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
        delete_on_close,
        limit,
    };
    let deliveries = consumer.map_err(lost).map_ok(|delivery| Delivery {
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
    channel: Arc<Channel>,
    tag: ShortString,
    acknowledge: Acknowledge,
    delete_on_close: Option<ShortStr>,
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
                .map_err(lost),
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
            .map_err(lost)
    }

    async fn close(&self) {
        let closing = async {
            if let Some(queue) = &self.delete_on_close
                && let Ok(queue) = short(queue.as_str())
            {
                let _ = self
                    .channel
                    .queue_delete(queue, QueueDeleteOptions::default())
                    .await;
            }
            // An error means that it is closed already: several subscriptions may share the channel.
            let _ = self.channel.close(200, "closed by its user".into()).await;
        };
        if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
            tracing::debug!("the broker did not close a channel in time");
        }
    }
}
