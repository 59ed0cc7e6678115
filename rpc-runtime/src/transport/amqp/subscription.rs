//! A consumer of one queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use super::acks::Acks;
use super::channel::{Deliveries, OpenChannel, Tasks};
use super::{CLOSE_LIMIT, broker_error, convert, guard, short};
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

/// A consumer that the broker has started.
pub(super) struct Started {
    tag: ShortString,
    deliveries: Deliveries,
}

/// Consumes from a queue.
pub(super) fn consume(
    channel: &Arc<OpenChannel>,
    queue: &str,
    acknowledge: Acknowledge,
) -> Result<impl Future<Output = lapin::Result<Started>> + use<>, BrokerError> {
    let options = BasicConsumeOptions {
        no_ack: acknowledge == Acknowledge::Never,
        ..Default::default()
    };
    let (channel, queue) = (Arc::clone(channel), short(queue)?);
    Ok(async move {
        // An empty tag has the broker choose one.
        let consumer = channel
            .basic_consume(queue, "".into(), options, FieldTable::default())
            .await?;
        Ok(Started {
            tag: consumer.tag(),
            deliveries: Deliveries::new(consumer, &channel),
        })
    })
}

/// What a subscription is, besides its consumer.
pub(super) struct Terms {
    pub(super) acknowledge: Acknowledge,
    /// How many deliveries may be unsettled; nothing where as many as come.
    pub(super) prefetch: Option<u16>,
    /// A queue that ends with its last subscription.
    pub(super) private: Option<ShortStr>,
    /// How long each step may take.
    pub(super) limit: Duration,
}

/// A subscription by a consumer of this channel.
pub(super) fn of(started: Started, channel: &Arc<OpenChannel>, terms: Terms, tasks: &Tasks) -> Subscription {
    let acks = match terms.acknowledge {
        Acknowledge::Each => Some(Acks::start(channel, terms.prefetch, tasks)),
        Acknowledge::Never => None,
    };
    let control = ChannelControl {
        channel: Arc::clone(channel),
        tag: started.tag,
        acks,
        private: terms.private,
        limit: terms.limit,
    };
    let deliveries = started
        .deliveries
        .map_err(broker_error)
        .map_ok(|delivery| Delivery {
            redelivered: delivery.redelivered,
            tag: delivery.delivery_tag,
            malformed: guard::mark::read(&delivery.properties),
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
    /// Nothing where the broker does not wait for any.
    acks: Option<Acks>,
    private: Option<ShortStr>,
    limit: Duration,
}

#[async_trait]
impl Control for ChannelControl {
    fn settle(&self, tag: u64) {
        if let Some(acks) = &self.acks {
            acks.note(|settling| settling.settle(tag));
        }
    }

    fn reject(&self, tag: u64) {
        if let Some(acks) = &self.acks {
            acks.note(|settling| settling.reject(tag));
        }
    }

    fn settle_up_to(&self, tag: u64) {
        if let Some(acks) = &self.acks {
            acks.note(|settling| settling.settle_up_to(tag));
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
            .basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        let (step, limit) = ("cancelling a consumer", self.limit);
        match tokio::time::timeout(limit, self.channel.answer(cancelling)).await {
            Ok(cancelled) => cancelled,
            Err(_) => Err(BrokerError::Unresponsive { step, limit }),
        }
    }

    async fn close(&self) {
        if let Some(acks) = &self.acks {
            acks.hand_on();
        }
        // What was handed on leaves before it.
        self.channel.close().await;
    }

    async fn retire(&self) {
        if let Some(queue) = &self.private
            && let Ok(queue) = short(queue.as_str())
        {
            let channel = Arc::clone(&self.channel);
            let deleting = async move { channel.queue_delete(queue, QueueDeleteOptions::default()).await };
            // If it cannot be deleted now, it expires.
            let _ = self.channel.ask(CLOSE_LIMIT, "deleting a queue", deleting).await;
        }
        self.close().await;
    }
}
