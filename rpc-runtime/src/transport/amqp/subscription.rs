//! A consumer of one queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use lapin::Consumer;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use super::channel::{Deliveries, OpenChannel};
use super::settling::{Ack, Settling};
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
        settling: Mutex::default(),
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
    settling: Mutex<Flush>,
    private: Option<ShortStr>,
    limit: Duration,
}

/// What the broker is to be told of, and whether somebody is about to.
#[derive(Debug, Default)]
struct Flush {
    settling: Settling,
    is_under_way: bool,
}

/// Says, also where it is dropped in between, that nobody tells the broker any more.
struct Flushing<'a>(&'a Mutex<Flush>);

impl Flushing<'_> {
    /// What to tell next; with nothing left, nobody tells any more.
    fn next(&self) -> Vec<Ack> {
        lock(self.0).settling.take()
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        lock(self.0).is_under_way = false;
    }
}

fn lock(flush: &Mutex<Flush>) -> MutexGuard<'_, Flush> {
    // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
    flush.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChannelControl {
    /// Tells the broker what is settled, unless another does: then that one tells of what came meanwhile too, in fewer
    /// acknowledgements.
    async fn flush(&self) -> Result<(), BrokerError> {
        loop {
            {
                let mut flush = lock(&self.settling);
                if flush.is_under_way || !flush.settling.has_untold() {
                    return Ok(());
                }
                flush.is_under_way = true;
            }
            let flushing = Flushing(&self.settling);
            for Ack { tag, multiple } in flushing.next() {
                self.acknowledge(tag, multiple).await?;
            }
        }
    }

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
        lock(&self.settling).settling.settle(tag);
        self.flush().await
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
        // Whoever was about to tell of it may have been stopped.
        let _ = tokio::time::timeout(self.limit, self.flush()).await;
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
