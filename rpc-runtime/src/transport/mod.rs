//! The seam: what callers and workers need of a broker. Two transports implement it, RabbitMQ and the in-process broker.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::error::BrokerError;
use crate::protocol::{Message, ShortStr};

pub(crate) mod amqp;
pub(crate) mod memory;
mod topology;

pub use topology::{QueueArgument, ReplyQueue, RequestQueue};

/// One user's access to a broker.
#[async_trait]
pub(crate) trait Transport: Debug + Send + Sync + 'static {
    /// Opens a reply address and consumes from it.
    async fn open_caller(&self, replies: ReplyQueue) -> Result<CallerLink, BrokerError>;

    /// Declares the queues as they ask to be and consumes from each, with at most `prefetch` unsettled deliveries a queue.
    async fn open_worker(&self, queues: &[RequestQueue], prefetch: u16) -> Result<WorkerLink, BrokerError>;

    /// Ends all that was opened, within a time limit. What is unsettled goes back to its queue.
    async fn close(&self);
}

/// What a caller needs.
#[derive(Debug)]
pub(crate) struct CallerLink {
    /// What a request names as its `reply_to`.
    pub(crate) reply_to: ShortStr,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) replies: Subscription,
}

/// What a worker needs.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    /// In the order of the queues asked for.
    pub(crate) requests: Vec<Subscription>,
    /// Sends replies; not on the channel that consumes, where a refused one would take all requests with it.
    pub(crate) publisher: Arc<dyn Publisher>,
}

/// A consumer of one queue.
pub(crate) struct Subscription {
    /// Ends after [`Control::cancel`], once what had been delivered was taken; an error is the last item.
    pub(crate) deliveries: BoxStream<'static, Result<Delivery, BrokerError>>,
    pub(crate) control: Arc<dyn Control>,
}

impl Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// A message that arrived.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    /// The broker delivered it before, to a consumer that did not settle it.
    pub(crate) redelivered: bool,
    /// Names it when it is settled, within its subscription.
    pub(crate) tag: u64,
}

/// Settles and ends a subscription. Dropping it gives unsettled deliveries back.
#[async_trait]
pub(crate) trait Control: Debug + Send + Sync {
    /// The delivery is done with: the broker may forget it.
    async fn settle(&self, tag: u64) -> Result<(), BrokerError>;

    /// Settles the delivery and all before it. Does nothing where the broker does not wait for it (replies that die
    /// with their channel).
    async fn settle_up_to(&self, tag: u64) -> Result<(), BrokerError>;

    /// Asks for no more deliveries.
    async fn cancel(&self) -> Result<(), BrokerError>;

    /// Ends the subscription: unsettled deliveries go back to the queue; a private reply queue is deleted. Within a
    /// time limit, and without an error: who closes can do nothing about one.
    async fn close(&self);
}

/// A message to send through the default exchange.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) queue: ShortStr,
    /// Whether a message for a queue that does not exist comes back.
    pub(crate) mandatory: bool,
    pub(crate) message: Message,
    pub(crate) departure: Departure,
}

/// Whether a message leaves or is withdrawn: settled once, between who sends it and who gave it to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Departure(Arc<AtomicU8>);

impl Departure {
    const WAITING: u8 = 0;
    const LEFT: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// The message is about to be written. `false`: it was withdrawn, and must not be.
    pub(crate) fn leave(&self) -> bool {
        self.settle(Self::LEFT)
    }

    /// Nobody waits for the message any more. `false`: it has left.
    pub(crate) fn withdraw(&self) -> bool {
        self.settle(Self::WITHDRAWN)
    }

    fn settle(&self, state: u8) -> bool {
        match self
            .0
            .compare_exchange(Self::WAITING, state, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            Err(settled) => settled == state,
        }
    }
}

/// What became of a message that was sent.
#[derive(Debug, Clone)]
pub(crate) enum Published {
    /// The broker has it: it is in the queue, or, where not mandatory, there was none.
    Routed,
    /// There is no such queue.
    Returned,
    /// The broker would not take it.
    Refused,
    /// Nothing is known of it, unless that it was never written.
    Failed { source: BrokerError, written: bool },
}

/// Sends messages, and says what became of each.
#[async_trait]
pub(crate) trait Publisher: Debug + Send + Sync {
    /// Sends a message and waits for the broker's word on it. Dropping the future does not call the message back; its
    /// [`Departure`] can, until it has left.
    async fn publish(&self, outgoing: Outgoing) -> Published;

    /// Waits until nothing can be sent any more, and says why.
    async fn closed(&self) -> BrokerError;
}

#[cfg(test)]
mod tests {
    use super::Departure;

    #[test]
    fn a_message_leaves_or_is_withdrawn() {
        let departure = Departure::default();
        assert!(departure.clone().leave());
        assert!(!departure.withdraw());
        assert!(departure.leave());

        let departure = Departure::default();
        assert!(departure.clone().withdraw());
        assert!(!departure.leave());
    }
}
