//! What callers and workers need from a broker, as traits. Two transports implement them: RabbitMQ
//! ([`amqp`]) and the broker within the process ([`memory`]).

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::runtime::Handle;

use crate::error::BrokerError;
use crate::protocol::{Malformed, Message, ShortStr};

pub(crate) mod amqp;
mod backoff;
mod keep_open;
pub(crate) mod memory;
mod send_token;
mod status;
mod tasks;
mod topology;

pub(crate) use backoff::Backoff;
pub(crate) use keep_open::{KeepOpen, keep_open, retry};
pub(crate) use send_token::{HasLatestSend, LatestSend, SendToken};
pub(crate) use status::{Connectivity, Role, StatusBoard};
pub use status::{Status, StatusChanges};
#[cfg(any(test, feature = "__panics"))]
pub use tasks::injected;
pub(crate) use tasks::{Panicked, catch_panic, restart_on_panic, watch_runtime};
pub(crate) use topology::{ControlQueue, DeclareMode};
pub use topology::{QueueArgument, ReplyQueue, RequestQueue};

/// The maximum number of unacknowledged answers of a subscription of [`Transport::open_answers`].
pub(crate) const ANSWER_PREFETCH: u16 = 64;

/// The access of one handle to a broker.
///
/// A function that opens something waits for a connection without a limit. Each step after that
/// takes no longer than the transport's time limit, but consuming a queue about which the broker
/// did not answer before may take longer. What was opened is lost with its connection; open it
/// again.
#[async_trait]
pub(crate) trait Transport: Debug + Send + Sync + 'static {
    /// Opens a publisher.
    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError>;

    /// Opens a reply address and consumes from it. `earlier` is the address of a subscription that
    /// was lost. It is used again if it is that of a resumable queue that still exists.
    async fn open_replies(
        &self,
        replies: ReplyQueue,
        earlier: Option<&ShortStr>,
    ) -> Result<ReplySubscription, BrokerError>;

    /// Opens an exclusive reply queue for the answers of many workers. No more than
    /// [`ANSWER_PREFETCH`] of them arrive before they are acknowledged.
    async fn open_answers(&self) -> Result<ReplySubscription, BrokerError>;

    /// Declares the queue as its options say.
    async fn declare_requests(&self, queue: &RequestQueue) -> Result<(), BrokerError>;

    /// Declares the queue as its options say and consumes from it, with at most `prefetch`
    /// unacknowledged deliveries.
    async fn open_requests(&self, queue: &RequestQueue, prefetch: u16) -> Result<Subscription, BrokerError>;

    /// Whether a queue of this name exists, even if it is full. `Some(false)` also for a queue
    /// whose node is down, in contrast to [`depth`](Self::depth). `None` if the broker does not
    /// tell within the transport's time limit. The in-process broker never tells.
    async fn queue_exists(&self, queue: &ShortStr) -> Option<bool>;

    /// How many messages and consumers a queue has. `None` if that cannot be found out within the
    /// transport's time limit: the queue may not exist, or its node may be down. Cheap to call
    /// often.
    async fn depth(&self, queue: &ShortStr) -> Option<Depth>;

    /// Deletes a queue if it has no consumer and is empty. Returns `true` if it was kept because it
    /// holds requests, although it has no consumer.
    ///
    /// Does nothing and returns `false` unless workers declare the queue ([`DeclareMode::Active`])
    /// and it is a classic one. Also returns `false` after a time limit.
    async fn delete_if_unused(&self, queue: &RequestQueue) -> bool;

    /// Consumes the control messages with the queue's keys from now on. Declares the control
    /// exchange, and the queue, which is deleted with its consumer. A user that may not declare the
    /// exchange can consume if it exists. A refusal by the broker affects nothing else.
    async fn open_control(&self, queue: &ControlQueue) -> Result<Subscription, BrokerError>;

    /// Publishes a message to the control exchange. [`Published::Returned`] if no queue is bound
    /// with this key, and [`Published::Refused`] if a queue did not take it, even if others did.
    ///
    /// Waits without a limit for a connection that the broker does not block. The message is
    /// claimed with its token directly before it is written, and the wait is subtracted from its
    /// `expiration`. If the future is dropped before that, the message is not sent.
    async fn publish_control(&self, key: &ShortStr, message: Message, send_token: SendToken) -> Published;

    /// Opens a publisher whose messages go to the control exchange. Their `queue` is the routing
    /// key. If the exchange does not exist, or the user may not publish to it, the broker closes
    /// the publisher when it gets a message.
    async fn open_control_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError>;

    /// The state of the connections.
    fn status(&self) -> &Arc<StatusBoard>;

    /// The runtime on which all tasks of the handle run. Must be called within a runtime: an
    /// in-process handle that was made outside of one adopts the current one.
    fn runtime(&self) -> Handle;

    /// Closes everything that was opened, within a time limit. Unacknowledged deliveries go back to
    /// their queues.
    async fn close(&self);
}

/// The reply address of a caller, and what arrives there.
#[derive(Debug)]
pub(crate) struct ReplySubscription {
    /// The `reply_to` of requests.
    pub(crate) address: ShortStr,
    pub(crate) replies: Subscription,
    /// How many replies to earlier calls wait at the address. `None` if no earlier address is used
    /// again: replies that waited at one are lost.
    pub(crate) resumed: Option<u32>,
    /// The publisher to use, if the address is valid only for requests that are sent by it.
    pub(crate) publisher: Option<Arc<dyn Publisher>>,
}

/// How many messages and consumers a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Messages that wait to be delivered to a consumer.
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

/// A consumer of one queue.
pub(crate) struct Subscription {
    /// Ends once the consumer is cancelled, by [`Control::cancel`] or by the broker, and all
    /// earlier deliveries are read. Nothing follows an error. It may be polled after its end.
    pub(crate) deliveries: BoxStream<'static, Result<Delivery, BrokerError>>,
    /// Acknowledges deliveries, and ends the subscription.
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
    /// Whether the broker delivered the message before, to a consumer that did not acknowledge it.
    pub(crate) redelivered: bool,
    /// Identifies the delivery within its subscription, to acknowledge or reject it.
    pub(crate) tag: u64,
    /// Why some of the message's properties could not be read. The message has all others.
    pub(crate) malformed: Option<Malformed>,
    /// The routing key of a control message. `None` if the message came through another exchange.
    pub(crate) control_key: Option<ShortStr>,
}

/// Acknowledges and rejects the deliveries of a subscription, and ends the subscription. Dropping
/// the control, or the stream of deliveries before its end, may end it too. Once both are dropped,
/// unacknowledged deliveries go back to the queue.
#[async_trait]
pub(crate) trait Control: Debug + Send + Sync {
    /// Acknowledges a delivery. The acknowledgement is sent soon. If the subscription is lost
    /// before that, the broker delivers the message again. Does nothing if the broker expects no
    /// acknowledgements, as for direct replies.
    fn ack(&self, tag: u64);

    /// Rejects a delivery. The broker dead-letters it, or drops it if its queue has no dead-letter
    /// exchange. Sent like [`ack`](Self::ack).
    fn reject(&self, tag: u64);

    /// Acknowledges a delivery and all before it. Sent like [`ack`](Self::ack).
    fn ack_up_to(&self, tag: u64);

    /// Holds acknowledgements and rejects back until the subscription is closed, so that no more
    /// deliveries than the prefetch arrive until then. A transport may ignore this.
    fn hold(&self) {}

    /// Cancels the consumer: no more deliveries arrive.
    async fn cancel(&self) -> Result<(), BrokerError>;

    /// Ends the subscription. Pending acknowledgements are sent first, and unacknowledged
    /// deliveries go back to the queue. Takes no longer than a time limit. Errors are ignored,
    /// because nothing can be done about them.
    async fn close(&self);

    /// Does what [`close`](Self::close) does, and deletes the queue if only this subscription uses
    /// it. Each of them takes no longer than a time limit.
    async fn close_and_delete(&self);
}

/// A message to send through the publisher's exchange. Unless the publisher is one of
/// [`Transport::open_control_publisher`], that is the default exchange.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// The routing key. In the default exchange, it is the queue's name.
    pub(crate) queue: ShortStr,
    /// Whether the broker returns the message if it cannot route it to any queue.
    pub(crate) mandatory: bool,
    pub(crate) message: Message,
    /// A transport keeps it until the message is confirmed or its channel is lost, even if nobody
    /// waits for that. `None` if the message is never withdrawn.
    pub(crate) send_token: Option<SendToken>,
}

/// The outcome of publishing a message.
#[derive(Debug, Clone)]
pub(crate) enum Published {
    /// The broker confirmed it: it is in its queues, or there is none and it was not mandatory.
    Confirmed,
    /// The broker returned it: the queue does not exist, or none is bound with this key.
    Returned,
    /// The broker refused it with a negative confirm. Or it is a direct reply that was sent on
    /// several connections in turn, and the broker closed each of them.
    Refused,
    /// It was withdrawn before it was sent, or is a direct reply for which there was no connection.
    Withdrawn,
    /// It cannot be sent, or the connection or channel was lost. If `written` is false, it is in no
    /// queue. Otherwise, it may be.
    Failed { source: BrokerError, written: bool },
}

impl Published {
    /// Whether the message failed because the broker closed its channel, for this message or for
    /// another one.
    pub(crate) fn is_channel_closed(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        matches!(source, BrokerError::ChannelClosed { .. })
    }

    /// Whether the message cannot be sent on any connection.
    pub(crate) fn is_unsendable(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        matches!(source, BrokerError::Unsendable { .. })
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// Receives the outcome of publishing a message.
pub(crate) trait ConfirmListener: Send + Sync {
    /// Called once, unless a panic of a task of the transport loses the outcome.
    fn published(self: Arc<Self>, published: Published);

    /// Called every few seconds while the message waits for its confirm.
    fn still_unconfirmed(&self) {}

    /// Whether nobody waits for the outcome any more.
    fn is_abandoned(&self) -> bool {
        false
    }
}

/// Publishes messages, and reports the outcome of each.
#[async_trait]
pub(crate) trait Publisher: Debug + Send + Sync {
    /// Publishes a message if that is possible without waiting, and otherwise returns it. `Ok` only
    /// means that the listener gets the outcome, perhaps before this returns.
    fn try_publish(
        &self,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
    ) -> Result<(), Box<Outgoing>>;

    /// Waits until a small message can be published: the broker does not block, and not too many
    /// messages are unconfirmed. Also returns once the publisher is closed. Cancel safe.
    async fn wait_ready(&self);

    /// Publishes a message once the broker does not block and not too many messages are
    /// unconfirmed, and waits for its confirm. The message may be sent even if the future is
    /// dropped. Its [`SendToken`] withdraws the message until it is claimed for writing.
    async fn publish(&self, outgoing: Outgoing) -> Published;

    /// Waits until nothing can be published any more, and returns the reason.
    async fn wait_closed(&self) -> BrokerError;
}
