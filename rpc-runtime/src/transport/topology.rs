//! Request queues, as workers declare them, and reply queues.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::UnknownName;
use crate::protocol::{BATCH_SUFFIX, MAX_SHORT_STR, ShortStr};

/// The queue argument for the exchange of dead letters.
const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";

/// The queue argument that names the queue's type.
///
/// Every queue is declared with it. Without it, RabbitMQ takes the default of the virtual host,
/// which may be `quorum`. If that default is `classic`, a queue declared with `classic` is
/// equivalent to one declared without a type.
pub(super) const QUEUE_TYPE: &str = "x-queue-type";

pub(super) const CLASSIC: &str = "classic";

const QUORUM: &str = "quorum";

const DELIVERY_LIMIT: &str = "x-delivery-limit";

/// Stands for no limit: RabbitMQ 3.10 does not know `-1`.
const UNREACHED_DELIVERY_LIMIT: i64 = 1_000_000_000;

const SINGLE_ACTIVE_CONSUMER: &str = "x-single-active-consumer";

/// Arguments that limit one queue, or route its messages elsewhere. They would not hold across a
/// queue and its batch queue, so a queue with one of them has no batch queue.
const RULES_OUT_BATCH_QUEUE: [&str; 3] = [DEAD_LETTER_EXCHANGE, "x-max-length", "x-max-length-bytes"];

/// The default delivery limit of RabbitMQ 4.
const DEFAULT_DELIVERY_LIMIT: u32 = 20;

/// How the replies to a handle's calls come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ReplyQueue {
    /// A private durable queue with a random name, the default. It outlives the connection by a
    /// minute (`x-expires`), so that replies wait for a reconnect. It is deleted when the handle is
    /// closed, and is no slower than the others.
    #[default]
    Resumable,
    /// A temporary queue that RabbitMQ names (`amq.gen-…`). It is exclusive, and is deleted with
    /// its connection.
    Exclusive,
    /// RabbitMQ's [direct reply-to](https://www.rabbitmq.com/docs/direct-reply-to): no queue is
    /// declared. Replies are lost with their channel.
    Direct,
}

impl ReplyQueue {
    const ALL: [Self; 3] = [Self::Resumable, Self::Exclusive, Self::Direct];

    const fn name(self) -> &'static str {
        match self {
            Self::Resumable => "resumable",
            Self::Exclusive => "exclusive",
            Self::Direct => "direct",
        }
    }
}

/// Parses `resumable`, `exclusive` or `direct`.
///
/// ```
/// use rpc_runtime::ReplyQueue;
///
/// assert_eq!("direct".parse(), Ok(ReplyQueue::Direct));
/// assert_eq!(ReplyQueue::Direct.to_string(), "direct");
/// ```
impl FromStr for ReplyQueue {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let mut all = Self::ALL.into_iter();
        all.find(|queue| queue.name() == name)
            .ok_or(UnknownName::new("resumable, exclusive or direct"))
    }
}

impl fmt::Display for ReplyQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A worker's own queue at the control exchange: what it is bound with, and its limits.
#[derive(Debug, Clone)]
pub(crate) struct ControlQueue {
    /// The routing keys of the messages that it takes.
    pub(crate) keys: Arc<[ShortStr]>,
    /// How many deliveries may be unacknowledged.
    pub(crate) prefetch: u16,
    /// How long a message can wait.
    pub(crate) time_to_live: Duration,
    /// How many messages can wait.
    pub(crate) max_messages: u16,
    /// The maximum total length of the bodies of waiting messages, in bytes.
    pub(crate) max_bytes: u32,
    /// Whether the broker refuses further messages. Otherwise it drops the oldest.
    pub(crate) refuses_excess: bool,
}

/// The queue that requests come from, and how a worker declares it.
///
/// The default is a durable classic queue, whatever the `default_queue_type` of the virtual host.
/// If the queue exists with other properties, the server does not start: it fails with
/// [`BrokerError::Queue`](crate::BrokerError::Queue) and changes nothing. If somebody else declares
/// the queue, use [`existing`](Self::existing) or [`undeclared`](Self::undeclared).
///
/// ```
/// use rpc_runtime::RequestQueue;
///
/// let orders = RequestQueue::new("orders").quorum().argument("x-max-length", 10_000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a queue does nothing until it is served"]
pub struct RequestQueue {
    name: String,
    declare_mode: DeclareMode,
    properties: QueueProperties,
    batching: bool,
}

/// How a worker makes sure that its queue exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeclareMode {
    /// Declares it with its properties.
    Active,
    /// Checks that it exists.
    Passive,
    /// Assumes that it exists.
    No,
}

/// The properties of a queue, on which all declarations must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueProperties {
    pub(crate) durable: bool,
    pub(crate) arguments: BTreeMap<String, QueueArgument>,
}

/// The value of a queue argument, such as `x-max-length`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueArgument {
    /// A number.
    Number(i64),
    /// Text.
    Text(String),
    /// A boolean.
    Flag(bool),
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl From<$number> for QueueArgument {
            fn from(number: $number) -> Self {
                Self::Number(number.into())
            }
        }
    )*};
}

numbers!(u8, u16, u32, i8, i16, i32, i64);

impl From<&str> for QueueArgument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for QueueArgument {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for QueueArgument {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl RequestQueue {
    /// A durable classic queue with this name.
    ///
    /// The server fails to start with
    /// [`ServerError::InvalidQueue`](crate::ServerError::InvalidQueue) if the name is empty, longer
    /// than 255 bytes (238 for a service with jobs), has control characters, begins with `amq.` or
    /// `rpc.`, or ends with `.batch`.
    pub fn new(name: impl Into<String>) -> Self {
        let properties = QueueProperties {
            durable: true,
            arguments: BTreeMap::from([(QUEUE_TYPE.to_owned(), CLASSIC.into())]),
        };
        Self {
            name: name.into(),
            declare_mode: DeclareMode::Active,
            properties,
            batching: true,
        }
    }

    /// Makes it a [quorum queue](https://www.rabbitmq.com/docs/quorum-queues), which is replicated
    /// over the nodes of a cluster.
    pub fn quorum(self) -> Self {
        self.argument(QUEUE_TYPE, QUORUM)
    }

    /// How often a request may return to this quorum queue because its worker was lost. After that,
    /// RabbitMQ [drops](https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling) or
    /// [dead-letters](Self::dead_letter_to) it. A worker refuses the request at its last delivery,
    /// so that its caller gets the fault `interrupted` instead of a timeout. It gives up a job at
    /// half of the limit.
    ///
    /// The default limit of RabbitMQ 4 is 20. Earlier versions have none, but workers refuse a
    /// request after 20 deliveries.
    pub fn delivery_limit(self, limit: u16) -> Self {
        self.argument(DELIVERY_LIMIT, limit)
    }

    /// The queue to which RabbitMQ moves what it drops from this one: requests that [returned too
    /// often](Self::delivery_limit), that expired, that a worker rejected, or that did not fit.
    /// That queue must exist. Nobody replies to the requests in it.
    pub fn dead_letter_to(self, queue: impl Into<String>) -> Self {
        self.argument(DEAD_LETTER_EXCHANGE, "")
            .argument("x-dead-letter-routing-key", queue.into())
    }

    /// Makes it transient: it is deleted when the broker restarts. RabbitMQ 4.3 refuses such queues
    /// unless its operator permits them: the server then fails to start, with
    /// [`BrokerError::Queue`](crate::BrokerError::Queue).
    pub fn transient(mut self) -> Self {
        self.properties.durable = false;
        self
    }

    /// Orders requests by priority, from 0 to `highest`; see
    /// [`Call::priority`](crate::Call::priority). RabbitMQ accepts up to 255 and advises fewer than
    /// 10. For classic queues only: RabbitMQ 4 always orders quorum queues by priority, and refuses
    /// one that is declared with this.
    pub fn priorities(self, highest: u8) -> Self {
        self.argument("x-max-priority", i64::from(highest))
    }

    /// Sets any [argument](https://www.rabbitmq.com/docs/queues#optional-arguments) that RabbitMQ
    /// knows.
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<QueueArgument>) -> Self {
        self.properties.arguments.insert(name.into(), value.into());
        self
    }

    /// Does not declare the queue, but checks that it exists (a passive declare), whatever its
    /// properties. The server fails to start if it does not exist.
    pub fn existing(mut self) -> Self {
        self.declare_mode = DeclareMode::Passive;
        self
    }

    /// Neither declares the queue nor checks that it exists. Meant for a worker that may not
    /// configure queues.
    pub fn undeclared(mut self) -> Self {
        self.declare_mode = DeclareMode::No;
        self
    }

    /// Gives requests to one worker at a time, a [single active
    /// consumer](https://www.rabbitmq.com/docs/consumers#single-active-consumer). Another worker
    /// takes over when that one is gone.
    ///
    /// Requests are not batched. When a worker stops, its methods end before another worker takes
    /// over. When it loses its connection, its methods go on while the next worker begins.
    ///
    /// If somebody else declared the queue like this, call this and then
    /// [`existing`](Self::existing). On RabbitMQ 3.10, make it [`quorum`](Self::quorum): a classic
    /// queue of that version can crash when another consumer takes over, and lose its messages.
    pub fn single_active_consumer(self) -> Self {
        self.argument(SINGLE_ACTIVE_CONSUMER, true)
    }

    /// Whether callers may send several calls to this queue in one message; the default is `true`.
    /// See [`Server::batching`](crate::Server::batching).
    ///
    /// Batches have a queue of their own. A queue with `x-max-length`, `x-max-length-bytes`, a
    /// dead-letter exchange or a single active consumer has no batches. A worker does not see
    /// [policies](https://www.rabbitmq.com/docs/policies): if a policy bounds this queue, turn
    /// batching off here.
    pub fn batching(mut self, batching: bool) -> Self {
        self.batching = batching;
        self
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The queue for batches of requests to this queue, with the same options. `None` if requests
    /// must not be batched, or its name would be too long.
    pub(crate) fn batch_queue(&self) -> Option<Self> {
        let is_ruled_out = RULES_OUT_BATCH_QUEUE
            .iter()
            .any(|name| self.properties.arguments.contains_key(*name));
        if !self.batching || is_ruled_out || self.is_single_active() {
            return None;
        }
        let name = format!("{}{BATCH_SUFFIX}", self.name);
        (name.len() <= MAX_SHORT_STR).then(|| Self { name, ..self.clone() })
    }

    /// The queue for batches that another worker of this queue, or an earlier version of this one,
    /// may have declared. A worker that has batching turned off may consume it, but does not
    /// declare it. `None` if no worker can have one.
    pub(crate) fn earlier_batch_queue(&self) -> Option<Self> {
        self.clone().batching(true).batch_queue().map(Self::existing)
    }

    /// The queue that keeps jobs that failed for good.
    ///
    /// A quorum queue counts each look at a message as a return, and RabbitMQ 4 drops a message
    /// after 20 of them unless the queue has a limit of its own.
    pub(crate) fn dead_queue(&self) -> Self {
        let queue = self.beside(format!("{}.dead", self.name));
        if queue.is_classic() {
            return queue;
        }
        queue.argument(DELIVERY_LIMIT, UNREACHED_DELIVERY_LIMIT)
    }

    /// The queue in which jobs wait for a retry, for this many milliseconds.
    ///
    /// It is always a quorum queue, because only these dead-letter without losing messages: they
    /// keep a message until the next queue has confirmed it (`at-least-once`, for which RabbitMQ
    /// requires `reject-publish`).
    pub(crate) fn retry_queue(&self, millis: u64) -> Self {
        let millis = i64::try_from(millis).unwrap_or(i64::MAX);
        self.beside(format!("{}.retry.{millis}", self.name))
            .quorum()
            .dead_letter_to(self.name.as_str())
            .argument("x-message-ttl", millis)
            .argument("x-dead-letter-strategy", "at-least-once")
            .argument("x-overflow", "reject-publish")
    }

    /// A durable queue with this name and the same [`DeclareMode`]. Of this queue's arguments, it
    /// has only the type.
    fn beside(&self, name: String) -> Self {
        let mut queue = Self::new(name);
        queue.declare_mode = self.declare_mode;
        if let Some(kind) = self.properties.arguments.get(QUEUE_TYPE) {
            queue
                .properties
                .arguments
                .insert(QUEUE_TYPE.to_owned(), kind.clone());
        }
        queue
    }

    pub(crate) fn is_single_active(&self) -> bool {
        self.properties.arguments.get(SINGLE_ACTIVE_CONSUMER) == Some(&QueueArgument::Flag(true))
    }

    /// How many times a request may be delivered before a worker refuses it: at least once. A
    /// worker gives up a job at half of this number, if the queue counts deliveries.
    pub(crate) fn max_deliveries(&self) -> u32 {
        match self.properties.arguments.get(DELIVERY_LIMIT) {
            // A negative limit means that there is none.
            Some(QueueArgument::Number(limit)) => u32::try_from(*limit).unwrap_or(u32::MAX).max(1),
            _ => DEFAULT_DELIVERY_LIMIT,
        }
    }

    pub(crate) fn has_dead_letter_exchange(&self) -> bool {
        self.properties.arguments.contains_key(DEAD_LETTER_EXCHANGE)
    }

    pub(crate) fn is_classic(&self) -> bool {
        let kind = self.properties.arguments.get(QUEUE_TYPE);
        matches!(kind, Some(QueueArgument::Text(kind)) if kind == CLASSIC)
    }

    pub(crate) fn declare_mode(&self) -> DeclareMode {
        self.declare_mode
    }

    pub(crate) fn properties(&self) -> &QueueProperties {
        &self.properties
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_at_dead_letters_does_not_reach_a_delivery_limit() {
        let classic = RequestQueue::new("mail");
        let arguments = classic.dead_queue().properties.arguments;
        assert_eq!(arguments.get(DELIVERY_LIMIT), None);
        for quorum in [
            classic.clone().quorum(),
            classic.quorum().delivery_limit(5).existing(),
        ] {
            let dead = quorum.dead_queue();
            assert_eq!(dead.name(), "mail.dead");
            assert!(dead.max_deliveries() > 1_000_000);
        }
    }
}
