//! The queues: where requests come from, as a worker declares it, and where replies come back to.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::protocol::{BATCH_SUFFIX, MAX_SHORT_STR};

/// The queue argument that says where RabbitMQ puts what it drops.
const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";

/// The queue argument that names the queue's type.
///
/// Every queue is declared with it. Without it, RabbitMQ takes the default of the virtual host,
/// which may be `quorum`. Where that default is `classic`, a queue declared with `classic` is
/// equivalent to one declared without a type.
pub(super) const QUEUE_TYPE: &str = "x-queue-type";

pub(super) const CLASSIC: &str = "classic";

const QUORUM: &str = "quorum";

const DELIVERY_LIMIT: &str = "x-delivery-limit";

const SINGLE_ACTIVE_CONSUMER: &str = "x-single-active-consumer";

/// Queue arguments that bound what waits in one queue, or that show each of its messages to others: a
/// second queue would break them.
const LIMITS_TO_ONE_QUEUE: [&str; 3] = [DEAD_LETTER_EXCHANGE, "x-max-length", "x-max-length-bytes"];

/// RabbitMQ's own, from version 4 on.
const DEFAULT_DELIVERY_LIMIT: u32 = 20;

/// Where replies come back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ReplyQueue {
    /// A private, randomly named, durable queue, which outlives the connection by a minute (`x-expires`), so that replies
    /// can wait for a reconnect. It is deleted when the handle is closed. The default; it is no slower than the others.
    #[default]
    Resumable,
    /// The classic temporary queue, named by RabbitMQ (`amq.gen-…`): exclusive, gone with its connection.
    Exclusive,
    /// RabbitMQ's [direct reply-to](https://www.rabbitmq.com/docs/direct-reply-to): no queue is declared at all. Replies
    /// die with their channel.
    Direct,
}

/// What is sent to everybody through a fanout exchange, as one who listens takes it: from a queue of its own, with limits that the
/// broker keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broadcasts {
    /// The exchange; the queues are named after it.
    pub(crate) exchange: &'static str,
    /// How many deliveries may be unsettled.
    pub(crate) prefetch: u16,
    /// How long a message waits.
    pub(crate) time_to_live: Duration,
    /// How many messages wait; more drop the oldest.
    pub(crate) max_messages: u16,
    /// How long their bodies are in all, in bytes.
    pub(crate) max_bytes: u32,
}

/// The queue that requests come from, and how a worker declares it.
///
/// The default is a durable classic queue, also in a virtual host whose `default_queue_type` is another. A queue that exists with other properties cannot be declared: the server ends
/// with [`BrokerError::Queue`](crate::BrokerError::Queue) and changes nothing. Where somebody else declares the queue, use
/// [`existing`](Self::existing) or [`undeclared`](Self::undeclared).
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
    declare: Declare,
    properties: QueueProperties,
    batching: bool,
}

/// How a worker makes sure of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declare {
    /// Declares it with its properties.
    Active,
    /// Asks whether it exists.
    Passive,
    /// Trusts that it does.
    No,
}

/// A queue's properties, which two declarations must agree on.
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
    /// A text.
    Text(String),
    /// A yes or no.
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
    /// A durable classic queue of this name.
    ///
    /// [`ServerError::InvalidQueue`](crate::ServerError::InvalidQueue) refuses an empty name, one of more than 255 bytes, one
    /// with control characters, and names of other queues: those that begin with `amq.` or `rpc.` or end with `.batch`.
    pub fn new(name: impl Into<String>) -> Self {
        let properties = QueueProperties {
            durable: true,
            arguments: BTreeMap::from([(QUEUE_TYPE.to_owned(), CLASSIC.into())]),
        };
        Self {
            name: name.into(),
            declare: Declare::Active,
            properties,
            batching: true,
        }
    }

    /// Replicated over the nodes of a cluster: a [quorum queue](https://www.rabbitmq.com/docs/quorum-queues).
    pub fn quorum(self) -> Self {
        self.argument(QUEUE_TYPE, QUORUM)
    }

    /// How often a request may come back to this quorum queue, because the worker that had it was lost: after that RabbitMQ
    /// [drops it](https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling), or [hands it
    /// on](Self::dead_letter_to). A worker refuses one that has come back so often, so that its caller gets the fault
    /// `interrupted` and not a timeout.
    ///
    /// Without it, RabbitMQ 4 has a limit of 20 and earlier versions have none; workers then refuse after 20.
    pub fn delivery_limit(self, limit: u16) -> Self {
        self.argument(DELIVERY_LIMIT, limit)
    }

    /// Where RabbitMQ puts what it drops from this queue: requests that [came back too often](Self::delivery_limit), expired
    /// ones, and those that did not fit. The queue must exist, and nobody answers what lies there.
    pub fn dead_letter_to(self, queue: impl Into<String>) -> Self {
        self.argument(DEAD_LETTER_EXCHANGE, "")
            .argument("x-dead-letter-routing-key", queue.into())
    }

    /// Gone when the broker restarts. RabbitMQ 4.3 refuses such queues unless its operator permits them; the server then
    /// ends with [`BrokerError::Queue`](crate::BrokerError::Queue).
    pub fn transient(mut self) -> Self {
        self.properties.durable = false;
        self
    }

    /// With priorities from 0 to `highest` (RabbitMQ takes up to 255 and advises fewer than 10); see
    /// [`Call::priority`](crate::Call::priority). Classic queues only: RabbitMQ 4 orders quorum queues by priority without being
    /// told, and refuses one that is declared so.
    pub fn priorities(self, highest: u8) -> Self {
        self.argument("x-max-priority", i64::from(highest))
    }

    /// With any [argument](https://www.rabbitmq.com/docs/queues#optional-arguments) that RabbitMQ knows.
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<QueueArgument>) -> Self {
        self.properties.arguments.insert(name.into(), value.into());
        self
    }

    /// Not declared, but looked for (a passive declare), whatever its properties: the server ends with an error where it does not exist.
    pub fn existing(mut self) -> Self {
        self.declare = Declare::Passive;
        self
    }

    /// Neither declared nor looked for: for a worker that may not configure queues.
    pub fn undeclared(mut self) -> Self {
        self.declare = Declare::No;
        self
    }

    /// With a [single active consumer](https://www.rabbitmq.com/docs/consumers#single-active-consumer): one worker at a
    /// time gets requests, and another takes over when it is gone.
    ///
    /// Requests are not batched. A worker that stops lets its methods end before another one takes over. One that loses its
    /// connection cannot: what it runs goes on while the next one begins.
    ///
    /// For a queue that somebody else declared so, call this and then [`existing`](Self::existing). On RabbitMQ 3.10,
    /// make it [`quorum`](Self::quorum): a classic queue of that version can crash when another consumer takes over, and
    /// loses the messages in it.
    pub fn single_active_consumer(self) -> Self {
        self.argument(SINGLE_ACTIVE_CONSUMER, true)
    }

    /// Whether callers may send several calls to this queue in one message; the default is that they may. See
    /// [`Server::batching`](crate::Server::batching).
    ///
    /// Such messages wait in a queue of their own. A queue with `x-max-length` or `x-max-length-bytes`, a dead-letter
    /// exchange or a single active consumer has none. A worker does not see what a
    /// [policy](https://www.rabbitmq.com/docs/policies) sets: if one bounds this queue, turn batching off here.
    pub fn batching(mut self, batching: bool) -> Self {
        self.batching = batching;
        self
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The queue for batched requests beside this one, like it in all else; `None` if each request has
    /// to come by itself.
    pub(crate) fn batched(&self) -> Option<Self> {
        let is_limited = LIMITS_TO_ONE_QUEUE
            .iter()
            .any(|name| self.properties.arguments.contains_key(*name));
        let name = format!("{}{BATCH_SUFFIX}", self.name);
        let may_batch = self.batching && !is_limited && !self.is_single_active();
        (may_batch && name.len() <= MAX_SHORT_STR).then(|| Self { name, ..self.clone() })
    }

    /// Whether one consumer at a time gets what is in the queue.
    pub(crate) fn is_single_active(&self) -> bool {
        self.properties.arguments.get(SINGLE_ACTIVE_CONSUMER) == Some(&QueueArgument::Flag(true))
    }

    /// How often a request may have been delivered before this worker refuses it.
    pub(crate) fn max_deliveries(&self) -> u32 {
        match self.properties.arguments.get(DELIVERY_LIMIT) {
            Some(QueueArgument::Number(limit)) => u32::try_from(*limit).unwrap_or(u32::MAX).max(1),
            _ => DEFAULT_DELIVERY_LIMIT,
        }
    }

    pub(crate) fn is_classic(&self) -> bool {
        let kind = self.properties.arguments.get(QUEUE_TYPE);
        matches!(kind, Some(QueueArgument::Text(kind)) if kind == CLASSIC)
    }

    pub(crate) fn declare(&self) -> Declare {
        self.declare
    }

    pub(crate) fn properties(&self) -> &QueueProperties {
        &self.properties
    }
}
