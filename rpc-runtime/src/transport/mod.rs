//! The seam: what callers and workers need of a broker. Two transports implement it, RabbitMQ and the in-process broker.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::runtime::Handle;

use crate::error::BrokerError;
use crate::protocol::{Malformed, Message, ShortStr};

pub(crate) mod amqp;
mod backoff;
mod departure;
mod keep_open;
pub(crate) mod memory;
mod status;
mod tasks;
mod topology;

pub(crate) use backoff::Backoff;
pub(crate) use departure::{Departs, Departure, Departures};
pub(crate) use keep_open::{KeepOpen, keep_open, retry};
pub(crate) use status::{Connectivity, Role, StatusBoard};
pub use status::{Status, StatusChanges};
#[cfg(any(test, feature = "__panics"))]
pub use tasks::injected;
pub(crate) use tasks::{Panicked, caught, supervised, watch_runtime};
pub(crate) use topology::{Broadcasts, Declare};
pub use topology::{QueueArgument, ReplyQueue, RequestQueue};

/// One user's access to a broker.
///
/// To open something waits until there is a connection, however long that takes, and then takes no more than the
/// transport's limit; what was opened is lost with its connection and never comes back: who needs it opens it again.
#[async_trait]
pub(crate) trait Transport: Debug + Send + Sync + 'static {
    /// Opens a way to send messages.
    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError>;

    /// Opens a reply address and consumes from it. `earlier` is the one that was lost: where replies can still wait there,
    /// it is taken up again.
    async fn open_replies(
        &self,
        replies: ReplyQueue,
        earlier: Option<&ShortStr>,
    ) -> Result<ReplyLink, BrokerError>;

    /// Declares the queue as it asks to be.
    async fn declare_requests(&self, queue: &RequestQueue) -> Result<(), BrokerError>;

    /// Declares the queue as it asks to be and consumes from it, with at most `prefetch` unsettled deliveries.
    async fn open_requests(&self, queue: &RequestQueue, prefetch: u16) -> Result<Subscription, BrokerError>;

    /// Whether there is a queue of this name that can take messages; `None` if that cannot be told.
    /// Within the transport's limit. A queue whose node is down is not there.
    async fn is_there(&self, queue: &ShortStr) -> Option<bool>;

    /// What is in a queue. `None` if that cannot be told: there may be no such queue, or its node
    /// is down. Within the transport's limit. Cheap to ask often.
    async fn depth(&self, queue: &ShortStr) -> Option<Depth>;

    /// Deletes the queue if this side declared it, nobody consumes from it, and nothing is in it; within the transport's limit,
    /// and without an error: who cannot do it leaves it. Answers whether there are requests in it that nobody takes out.
    async fn retire_requests(&self, queue: &RequestQueue) -> bool;

    /// Listens to what is sent to an exchange from now on. Exchange and queue are declared, and the queue ends with the subscription;
    /// nothing else is harmed where the broker refuses one of them.
    async fn open_broadcasts(&self, broadcasts: &Broadcasts) -> Result<Subscription, BrokerError>;

    /// Sends a message to all who listen to an exchange: [`Published::Returned`] where nobody does. Within the transport's limit.
    async fn broadcast(&self, exchange: &str, message: Message) -> Result<Published, BrokerError>;

    /// The state of the connections.
    fn status(&self) -> &Arc<StatusBoard>;

    /// The runtime that all tasks of the handle run on, whoever starts them. Within a runtime to be called, as the handle adopts the
    /// current one where it was made outside of any.
    fn runtime(&self) -> Handle;

    /// Ends all that was opened, for good and within a time limit. What is unsettled goes back to its queue.
    async fn close(&self);
}

/// Where a caller's replies come in.
#[derive(Debug)]
pub(crate) struct ReplyLink {
    /// What a request names as its `reply_to`.
    pub(crate) address: ShortStr,
    pub(crate) replies: Subscription,
    /// How many replies to calls made before the address was lost wait there; `None` where it is another address, and
    /// those replies are lost.
    pub(crate) resumed: Option<u32>,
    /// Where the address is good only for requests that are sent this way.
    pub(crate) publisher: Option<Arc<dyn Publisher>>,
}

/// What is in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Those that no consumer has.
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
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
    /// Why its properties could not be read as they were sent. The message has what could be read of them.
    pub(crate) malformed: Option<Malformed>,
}

/// Settles and ends a subscription. Dropping it gives unsettled deliveries back.
#[async_trait]
pub(crate) trait Control: Debug + Send + Sync {
    /// The delivery is done with: the broker may forget it, and is told so soon. Where the subscription is lost before, the delivery comes
    /// again.
    fn settle(&self, tag: u64);

    /// The delivery is refused: the broker dead-letters it, or drops it if its queue has no
    /// dead-letter exchange. Told as soon as [`settle`](Self::settle) is, with the same end if the
    /// subscription is lost before.
    fn reject(&self, tag: u64);

    /// Settles the delivery and all before it. Does nothing where the broker does not wait for it (replies that die
    /// with their channel).
    fn settle_up_to(&self, tag: u64);

    /// Tells the broker of no more settlements before the subscription is closed. No more deliveries
    /// than the prefetch come until then.
    fn hold(&self) {}

    /// Asks for no more deliveries.
    async fn cancel(&self) -> Result<(), BrokerError>;

    /// Ends the subscription: unsettled deliveries go back to the queue, once the broker was told of all others. Within a time limit, and without an error: who
    /// closes can do nothing about one.
    async fn close(&self);

    /// Ends the subscription as [`close`](Self::close) does, and a private reply queue with it.
    async fn retire(&self);
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

/// What became of a message that was sent.
#[derive(Debug, Clone)]
pub(crate) enum Published {
    /// The broker has it: it is in the queue, or, where not mandatory, there was none.
    Routed,
    /// There is no such queue.
    Returned,
    /// The broker would not take it.
    Refused,
    /// It did not leave: nobody waits for it any more.
    Withdrawn,
    /// Nothing is known of it, unless that it was never written.
    Failed { source: BrokerError, written: bool },
}

impl Published {
    /// The broker closed the channel, over this message or another.
    pub(crate) fn is_of_channel(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        matches!(source, BrokerError::ChannelClosed { .. })
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// Who is told what became of a message.
pub(crate) trait Receipt: Send + Sync {
    /// Says so; once.
    fn published(self: Arc<Self>, published: Published);
}

/// Sends messages, and says what became of each.
#[async_trait]
pub(crate) trait Publisher: Debug + Send + Sync {
    /// Sends a message at once if messages can leave, without waiting for anything; else it comes back.
    ///
    /// The receipt is told a moment later than the broker says it, unless `in_a_row` messages were sent by then: it is cheaper to look
    /// after several at once.
    fn try_publish(
        &self,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        in_a_row: usize,
    ) -> Result<(), Box<Outgoing>>;

    /// Waits until messages can leave: the broker reads them, and not too many are under way. Or until it is closed. Cancel
    /// safe.
    async fn ready(&self);

    /// Sends a message and waits for the broker's word on it. Dropping the future does not call the message back; its
    /// [`Departure`] can, until it has left.
    async fn publish(&self, outgoing: Outgoing) -> Published;

    /// Waits until nothing can be sent any more, and says why.
    async fn closed(&self) -> BrokerError;
}
