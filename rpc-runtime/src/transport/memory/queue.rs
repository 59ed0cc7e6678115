//! One queue of the in-process broker: messages in order of priority and age, consumers in turn.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::protocol::{DeathReason, FIRST_DEATH_REASON_HEADER, Malformed, Message, ShortStr};
use crate::transport::Delivery;
use crate::transport::topology::{ControlQueue, QueueArgument, QueueProperties};

/// Whether deliveries have to be acknowledged, and how many may be unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckMode {
    /// A delivery counts as acknowledged once it is sent.
    Automatic,
    /// At most this many deliveries are unacknowledged at a time.
    Prefetch(usize),
    /// Any number of deliveries may be unacknowledged.
    Unlimited,
}

#[derive(Debug)]
pub(super) struct Queue {
    /// `None` for a queue that cannot be declared by name: a reply queue, or one for control
    /// messages.
    properties: Option<QueueProperties>,
    highest_priority: u8,
    messages: VecDeque<Stored>,
    /// In the order in which they are served. Those that are not ready are passed over.
    consumers: VecDeque<Consumer>,
    next_tag: u64,
    /// Whether the queue is deleted with its last consumer.
    is_auto_delete: bool,
    /// The control messages that the queue takes, and its limits.
    control: Option<ControlQueue>,
    is_quorum: bool,
    /// How often a message may return to the queue.
    delivery_limit: Option<u32>,
    /// How long a message may wait.
    message_ttl: Option<Duration>,
    /// The queue that takes dead letters.
    dead_letter_to: Option<String>,
    /// Whether dead letters stay here while their next queue does not exist.
    keeps_dead_letters: bool,
    /// Dead letters, each after the name of its next queue, until they are
    /// [taken](Self::take_dead_letters).
    dead_letters: Vec<(String, Message)>,
}

#[derive(Debug)]
struct Stored {
    message: Message,
    control_key: Option<ShortStr>,
    expires: Option<Instant>,
    redelivered: bool,
    /// How often the message returned to the queue.
    returns: u32,
}

/// The header in which a quorum queue counts how often a message returned.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// A message with this header is delivered as if its properties could not be read.
#[cfg(test)]
pub(crate) const MALFORMED_HEADER: &str = "x-simulated-malformed";

/// Why the properties of a message cannot be read, as only the simulation pretends. `None` if they
/// can.
#[cfg(test)]
fn malformed(message: &Message) -> Option<Malformed> {
    message
        .properties
        .headers
        .get(MALFORMED_HEADER)
        .map(|_| Malformed::InvalidHeaders)
}

#[cfg(not(test))]
fn malformed(_: &Message) -> Option<Malformed> {
    None
}

fn body_bytes(messages: &VecDeque<Stored>) -> usize {
    messages.iter().map(|stored| stored.message.body.len()).sum()
}

/// A delivery on its way to a consumer.
#[derive(Debug)]
pub(super) struct SentDelivery {
    pub(super) delivery: Delivery,
    /// When the broker sent it.
    pub(super) sent_at: Instant,
}

#[derive(Debug)]
struct Consumer {
    /// Unique among the consumers of all queues.
    number: u64,
    ack_mode: AckMode,
    /// `None` once it was cancelled.
    sender: Option<mpsc::UnboundedSender<SentDelivery>>,
    unacked: BTreeMap<u64, Stored>,
}

impl Queue {
    /// A queue with these properties.
    ///
    /// # Errors
    ///
    /// The reason, if RabbitMQ would refuse the properties or this broker does not implement them.
    pub(super) fn new(properties: &QueueProperties) -> Result<Self, &'static str> {
        let mut queue = Self {
            properties: Some(properties.clone()),
            // A resumable reply queue has no limits. The arguments below set them.
            ..Self::resumable()
        };
        let mut has_dead_letter_exchange = false;
        for (name, value) in &properties.arguments {
            match (name.as_str(), value) {
                ("x-queue-type", QueueArgument::Text(kind)) if kind == "classic" => {}
                ("x-queue-type", QueueArgument::Text(kind)) if kind == "quorum" => {
                    if !properties.durable {
                        return Err("PRECONDITION_FAILED: a quorum queue must be durable");
                    }
                    queue.is_quorum = true;
                }
                ("x-delivery-limit", QueueArgument::Number(limit @ 0..)) => {
                    queue.delivery_limit = Some(u32::try_from(*limit).unwrap_or(u32::MAX));
                }
                // Dead letters go only through the default exchange.
                ("x-dead-letter-exchange", QueueArgument::Text(exchange)) if exchange.is_empty() => {
                    has_dead_letter_exchange = true;
                }
                ("x-dead-letter-routing-key", QueueArgument::Text(target)) => {
                    queue.dead_letter_to = Some(target.clone());
                }
                ("x-max-priority", QueueArgument::Number(highest @ 1..=255)) => {
                    queue.highest_priority = u8::try_from(*highest).unwrap_or(u8::MAX);
                }
                ("x-message-ttl", QueueArgument::Number(millis @ 1..)) => {
                    queue.message_ttl = Some(Duration::from_millis(millis.unsigned_abs()));
                }
                ("x-dead-letter-strategy", QueueArgument::Text(strategy)) => {
                    queue.keeps_dead_letters = strategy == "at-least-once";
                }
                // A declared queue is never full, so it needs no rule for that.
                ("x-overflow", QueueArgument::Text(_)) => {}
                // Queues that dead-letter to each other at once would do so without end.
                ("x-message-ttl", QueueArgument::Number(0)) => {
                    return Err("the in-process broker does not support an x-message-ttl of 0");
                }
                ("x-max-priority" | "x-queue-type" | "x-delivery-limit" | "x-message-ttl", _) => {
                    return Err("PRECONDITION_FAILED: the value of an argument cannot be used");
                }
                _ => {
                    return Err(
                        "the in-process broker supports only x-queue-type, x-delivery-limit, x-max-priority, x-message-ttl, x-overflow, x-dead-letter-strategy, and dead letters through the default exchange",
                    );
                }
            }
        }
        if queue.delivery_limit.is_some() && !queue.is_quorum {
            return Err("PRECONDITION_FAILED: only quorum queues have x-delivery-limit");
        }
        if queue.dead_letter_to.is_some() != has_dead_letter_exchange {
            return Err(
                "the in-process broker supports x-dead-letter-exchange and x-dead-letter-routing-key only together",
            );
        }
        Ok(queue)
    }

    /// A reply queue that outlives its consumer.
    pub(super) fn resumable() -> Self {
        Self {
            properties: None,
            highest_priority: 0,
            messages: VecDeque::new(),
            consumers: VecDeque::new(),
            next_tag: 1,
            is_auto_delete: false,
            control: None,
            is_quorum: false,
            delivery_limit: None,
            message_ttl: None,
            dead_letter_to: None,
            keeps_dead_letters: false,
            dead_letters: Vec::new(),
        }
    }

    /// A reply queue that is deleted with its consumer.
    pub(super) fn exclusive() -> Self {
        Self {
            is_auto_delete: true,
            ..Self::resumable()
        }
    }

    /// A queue for control messages, which is deleted with its consumer.
    pub(super) fn for_control(control: &ControlQueue) -> Self {
        Self {
            control: Some(control.clone()),
            ..Self::exclusive()
        }
    }

    pub(super) fn is_auto_delete(&self) -> bool {
        self.is_auto_delete
    }

    /// Whether the queue takes the control messages with this key. A queue whose consumer was
    /// cancelled takes none, because RabbitMQ would have deleted the queue.
    pub(super) fn is_bound(&self, key: &ShortStr) -> bool {
        let is_bound = |control: &ControlQueue| control.keys.contains(key);
        self.control.as_ref().is_some_and(is_bound) && self.consumer_count() > 0
    }

    /// Whether the queue is full, and refuses further messages instead of dropping the oldest.
    pub(super) fn refuses_more(&self) -> bool {
        let Some(limits) = self.control.as_ref().filter(|limits| limits.refuses_excess) else {
            return false;
        };
        self.messages.len() >= limits.max_messages.into()
            || body_bytes(&self.messages) >= limits.max_bytes as usize
    }

    /// Drops the oldest control messages beyond the limits, like RabbitMQ. A queue that refuses
    /// messages drops none, and may exceed its limit of bytes by one message.
    fn drop_excess(&mut self) {
        let Some(limits) = self.control.as_ref().filter(|limits| !limits.refuses_excess) else {
            return;
        };
        while self.messages.len() > limits.max_messages.into()
            || body_bytes(&self.messages) > limits.max_bytes as usize
        {
            self.messages.pop_front();
        }
    }

    pub(super) fn properties(&self) -> Option<&QueueProperties> {
        self.properties.as_ref()
    }

    /// The queue's `x-message-ttl`.
    pub(super) fn message_ttl(&self) -> Option<Duration> {
        self.message_ttl
    }

    /// Dead-letters or drops the messages at the front that have expired.
    pub(super) fn expire(&mut self, now: Instant) {
        // `deliver` delivers nothing here: messages wait only while no consumer is ready.
        self.deliver(now);
    }

    /// How many messages wait, without those that were delivered to a consumer.
    pub(super) fn depth(&self) -> usize {
        self.messages.len()
    }

    /// Adds a message from the default exchange.
    pub(super) fn push(&mut self, message: Message, now: Instant) {
        self.push_with_key(message, None, now);
    }

    /// Adds a message, and delivers it if a consumer is ready. `control_key` is the routing key of
    /// a control message, otherwise `None`.
    pub(super) fn push_with_key(&mut self, message: Message, control_key: Option<ShortStr>, now: Instant) {
        let control_ttl = self.control.as_ref().map(|control| control.time_to_live);
        let limits = [message.properties.expiration, self.message_ttl, control_ttl];
        let shortest = limits.into_iter().flatten().min();
        let expires = shortest.and_then(|time| now.checked_add(time));
        let priority = self.priority(&message);
        // After all messages of the same or a higher priority.
        let position = self
            .messages
            .iter()
            .rposition(|other| self.priority(&other.message) >= priority)
            .map_or(0, |last| last + 1);
        self.messages.insert(
            position,
            Stored {
                message,
                control_key,
                expires,
                redelivered: false,
                returns: 0,
            },
        );
        self.deliver(now);
        self.drop_excess();
    }

    /// Adds a consumer with this number, and delivers what waits to it.
    pub(super) fn consume(
        &mut self,
        number: u64,
        ack_mode: AckMode,
        sender: mpsc::UnboundedSender<SentDelivery>,
        now: Instant,
    ) {
        self.consumers.push_back(Consumer {
            number,
            ack_mode,
            sender: Some(sender),
            unacked: BTreeMap::new(),
        });
        self.deliver(now);
    }

    /// Acknowledges those of a consumer's deliveries that have these tags.
    pub(super) fn ack(&mut self, consumer: u64, tags: RangeInclusive<u64>, now: Instant) {
        if let Some(consumer) = self.consumers.iter_mut().find(|other| other.number == consumer) {
            consumer.unacked.retain(|tag, _| !tags.contains(tag));
        }
        self.deliver(now);
    }

    /// Rejects a consumer's delivery: dead-letters the message, or drops it.
    pub(super) fn reject(&mut self, consumer: u64, tag: u64, now: Instant) {
        let consumer = self.consumers.iter_mut().find(|other| other.number == consumer);
        if let Some(stored) = consumer.and_then(|consumer| consumer.unacked.remove(&tag)) {
            self.dead_letter_or_drop(stored, DeathReason::Rejected);
        }
        self.deliver(now);
    }

    /// Dead-letters a message, or drops it if the queue has no dead-letter queue.
    fn dead_letter_or_drop(&mut self, stored: Stored, reason: DeathReason) {
        let Some(target) = &self.dead_letter_to else {
            return;
        };
        let mut message = stored.message;
        let properties = &mut message.properties;
        // The expiration moves to the entry about the death: the dead letter itself has none.
        let expiration = properties.expiration.take();
        if properties.dead_lettered.is_none() {
            let name = ShortStr::from_static(FIRST_DEATH_REASON_HEADER);
            properties.headers.insert(name, reason.as_str().to_owned());
        }
        let dead = properties.dead_lettered.get_or_insert_default();
        dead.add(reason, 1, expiration);
        self.dead_letters.push((target.clone(), message));
    }

    /// Takes the messages that were dead-lettered or [kept](Self::keep_or_drop) since the last
    /// call, each with the name of its next queue.
    pub(super) fn take_dead_letters(&mut self) -> Vec<(String, Message)> {
        std::mem::take(&mut self.dead_letters)
    }

    pub(super) fn has_dead_letters(&self) -> bool {
        !self.dead_letters.is_empty()
    }

    /// Keeps a dead letter whose next queue, `target`, does not exist, or drops it.
    pub(super) fn keep_or_drop(&mut self, target: String, message: Message) {
        if self.keeps_dead_letters {
            self.dead_letters.push((target, message));
        }
    }

    /// Stops deliveries to a consumer. Its deliveries stay unacknowledged.
    pub(super) fn cancel(&mut self, consumer: u64) {
        if let Some(consumer) = self.consumers.iter_mut().find(|other| other.number == consumer) {
            consumer.sender = None;
        }
    }

    /// How many consumers there are, without those that were cancelled.
    pub(super) fn consumer_count(&self) -> usize {
        let is_active = |consumer: &&Consumer| consumer.sender.is_some();
        self.consumers.iter().filter(is_active).count()
    }

    /// The number of the consumer that is served next if it is ready.
    pub(super) fn first_consumer(&self) -> Option<u64> {
        self.consumers.front().map(|consumer| consumer.number)
    }

    /// Whether no consumer is left, not even a cancelled one.
    pub(super) fn is_unused(&self) -> bool {
        self.consumers.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.dead_letters.is_empty()
    }

    pub(super) fn has_consumer(&self, consumer: u64) -> bool {
        self.consumers.iter().any(|other| other.number == consumer)
    }

    /// Removes a consumer. Its unacknowledged messages return to the queue. Those that have
    /// returned too often are dead-lettered or dropped.
    pub(super) fn close_consumer(&mut self, consumer: u64, now: Instant) {
        let Some(position) = self.consumers.iter().position(|other| other.number == consumer) else {
            return;
        };
        let Some(consumer) = self.consumers.remove(position) else {
            return;
        };
        // Each returns to the front of its priority. The last one returns first, so that they keep
        // their order.
        for (_, stored) in consumer.unacked.into_iter().rev() {
            let returns = stored.returns + 1;
            if self.delivery_limit.is_some_and(|limit| returns > limit) {
                self.dead_letter_or_drop(stored, DeathReason::DeliveryLimit);
                continue;
            }
            let priority = self.priority(&stored.message);
            let is_higher = |other: &Stored| self.priority(&other.message) > priority;
            let position = self.messages.iter().take_while(|other| is_higher(other)).count();
            self.messages.insert(
                position,
                Stored {
                    redelivered: true,
                    returns,
                    ..stored
                },
            );
        }
        self.deliver(now);
    }

    /// Delivers messages to the consumers in turn, up to their prefetch. As in RabbitMQ, an expired
    /// message is dead-lettered or dropped only once it is at the front.
    fn deliver(&mut self, now: Instant) {
        while let Some(next) = self.messages.front() {
            if next.expires.is_some_and(|expires| expires <= now) {
                if let Some(expired) = self.messages.pop_front() {
                    self.dead_letter_or_drop(expired, DeathReason::Expired);
                }
                continue;
            }
            let Some(ready) = self.consumers.iter().position(Consumer::is_ready) else {
                return;
            };
            let (Some(stored), Some(mut consumer)) =
                (self.messages.pop_front(), self.consumers.remove(ready))
            else {
                return;
            };
            let tag = self.next_tag;
            self.next_tag += 1;
            if let Some(unsent) = consumer.offer(stored, tag, self.is_quorum, now) {
                self.messages.push_front(unsent);
            }
            self.consumers.push_back(consumer);
        }
    }

    /// The priority of a message in this queue.
    fn priority(&self, message: &Message) -> u8 {
        message
            .properties
            .priority
            .unwrap_or(0)
            .min(self.highest_priority)
    }
}

#[cfg(test)]
impl Queue {
    /// Simulates a restart: only persistent messages are kept, and all consumers are gone.
    pub(super) fn restart(&mut self, now: Instant) {
        // All are cancelled first, so that none gets the deliveries of another one.
        let numbers: Vec<_> = self.consumers.iter().map(|consumer| consumer.number).collect();
        numbers.iter().for_each(|number| self.cancel(*number));
        for number in numbers {
            self.close_consumer(number, now);
        }
        self.messages
            .retain(|stored| stored.message.properties.persistent);
    }

    /// How many messages the queue has, with unacknowledged ones and kept dead letters.
    pub(super) fn backlog(&self) -> usize {
        let unacked = self.consumers.iter().map(|consumer| consumer.unacked.len());
        self.messages.len() + self.dead_letters.len() + unacked.sum::<usize>()
    }

    /// The messages that wait, in order.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().map(|stored| &stored.message)
    }
}

impl Consumer {
    fn is_ready(&self) -> bool {
        self.sender.is_some()
            && match self.ack_mode {
                AckMode::Automatic | AckMode::Unlimited => true,
                AckMode::Prefetch(limit) => self.unacked.len() < limit,
            }
    }

    /// Sends a message to the consumer, with [`DELIVERY_COUNT`] if it has returned to a quorum
    /// queue. If the receiver was dropped, cancels the consumer and returns the message.
    fn offer(&mut self, stored: Stored, tag: u64, is_from_quorum: bool, sent_at: Instant) -> Option<Stored> {
        let mut message = stored.message.clone();
        if is_from_quorum && stored.returns > 0 {
            let name = ShortStr::from_static(DELIVERY_COUNT);
            message
                .properties
                .headers
                .insert(name, stored.returns.to_string());
        }
        let delivery = Delivery {
            message,
            redelivered: stored.redelivered,
            tag,
            malformed: malformed(&stored.message),
            control_key: stored.control_key.clone(),
        };
        let delivery = SentDelivery { delivery, sent_at };
        let is_sent = self
            .sender
            .as_ref()
            .is_some_and(|sender| sender.send(delivery).is_ok());
        if !is_sent {
            self.sender = None;
            return Some(stored);
        }
        if self.ack_mode != AckMode::Automatic {
            self.unacked.insert(tag, stored);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::Properties;

    type Receiver = mpsc::UnboundedReceiver<SentDelivery>;

    fn queue() -> Queue {
        Queue::resumable()
    }

    fn message(body: &'static str) -> Message {
        Message {
            body: body.into(),
            ..Message::default()
        }
    }

    fn consumer(queue: &mut Queue, number: u64, ack_mode: AckMode, now: Instant) -> Receiver {
        let (sender, receiver) = mpsc::unbounded_channel();
        queue.consume(number, ack_mode, sender, now);
        receiver
    }

    fn bodies(receiver: &mut Receiver) -> Vec<(String, bool)> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|SentDelivery { delivery, .. }| {
                (
                    String::from_utf8(delivery.message.body.to_vec()).unwrap(),
                    delivery.redelivered,
                )
            })
            .collect()
    }

    #[test]
    fn consumers_take_turns() {
        let (mut queue, now) = (queue(), Instant::now());
        let mut first = consumer(&mut queue, 1, AckMode::Unlimited, now);
        let mut second = consumer(&mut queue, 2, AckMode::Unlimited, now);
        for body in ["a", "b", "c"] {
            queue.push(message(body), now);
        }
        assert_eq!(bodies(&mut first), [("a".into(), false), ("c".into(), false)]);
        assert_eq!(bodies(&mut second), [("b".into(), false)]);
    }

    #[test]
    fn prefetch_limits_unacked_deliveries() {
        let (mut queue, now) = (queue(), Instant::now());
        let mut receiver = consumer(&mut queue, 1, AckMode::Prefetch(1), now);
        queue.push(message("a"), now);
        queue.push(message("b"), now);
        let first = receiver.try_recv().unwrap().delivery;
        assert!(receiver.try_recv().is_err());
        queue.ack(1, first.tag..=first.tag, now);
        assert_eq!(bodies(&mut receiver), [("b".into(), false)]);
    }

    #[test]
    fn unacked_messages_are_redelivered_in_order() {
        let (mut queue, now) = (queue(), Instant::now());
        let mut receiver = consumer(&mut queue, 1, AckMode::Prefetch(2), now);
        for body in ["a", "b", "c"] {
            queue.push(message(body), now);
        }
        assert_eq!(bodies(&mut receiver).len(), 2);
        queue.close_consumer(1, now);
        let mut next = consumer(&mut queue, 2, AckMode::Unlimited, now);
        assert_eq!(
            bodies(&mut next),
            [("a".into(), true), ("b".into(), true), ("c".into(), false)]
        );
    }

    #[test]
    fn a_cancelled_consumer_gets_no_more_and_keeps_its_deliveries() {
        let (mut queue, now) = (queue(), Instant::now());
        let mut receiver = consumer(&mut queue, 1, AckMode::Unlimited, now);
        queue.push(message("a"), now);
        queue.cancel(1);
        queue.push(message("b"), now);
        assert_eq!(bodies(&mut receiver), [("a".into(), false)]);
        queue.ack(1, 0..=1, now);
        queue.close_consumer(1, now);
        let mut next = consumer(&mut queue, 2, AckMode::Unlimited, now);
        assert_eq!(bodies(&mut next), [("b".into(), false)]);
    }

    #[test]
    fn expired_messages_are_never_delivered() {
        let (mut queue, now) = (queue(), Instant::now());
        let mut short = message("a");
        short.properties = Properties {
            expiration: Some(Duration::from_millis(5)),
            ..Properties::default()
        };
        queue.push(short, now);
        queue.push(message("b"), now);
        let mut receiver = consumer(&mut queue, 1, AckMode::Unlimited, now + Duration::from_millis(5));
        assert_eq!(bodies(&mut receiver), [("b".into(), false)]);
    }

    #[test]
    fn control_messages_beyond_the_limits_are_dropped() {
        let now = Instant::now();
        let mut queue = Queue::for_control(&ControlQueue {
            keys: Arc::new([]),
            prefetch: 1,
            time_to_live: Duration::from_secs(5),
            max_messages: 2,
            max_bytes: 10,
            refuses_excess: false,
        });
        for body in ["a", "b", "c"] {
            queue.push(message(body), now);
        }
        assert_eq!(queue.depth(), 2);
        queue.push(message("more than ten bytes"), now);
        assert_eq!(queue.depth(), 0);
        queue.push(message("d"), now);
        queue.push(message("e"), now + Duration::from_secs(1));
        let mut receiver = consumer(&mut queue, 1, AckMode::Unlimited, now + Duration::from_secs(5));
        assert_eq!(bodies(&mut receiver), [("e".into(), false)]);
    }

    #[test]
    fn a_full_queue_may_refuse_control_messages() {
        let now = Instant::now();
        let mut queue = Queue::for_control(&ControlQueue {
            keys: Arc::new([]),
            prefetch: 1,
            time_to_live: Duration::from_secs(5),
            max_messages: 2,
            max_bytes: 10,
            refuses_excess: true,
        });
        queue.push(message("a"), now);
        assert!(!queue.refuses_more());
        queue.push(message("b"), now);
        assert!(queue.refuses_more());
        assert_eq!(queue.depth(), 2);
    }

    #[test]
    fn higher_priorities_overtake_if_the_queue_has_priorities() {
        let arguments = [("x-max-priority".to_owned(), QueueArgument::Number(5))].into();
        let mut queue = Queue::new(&QueueProperties {
            durable: true,
            arguments,
        })
        .unwrap();
        let now = Instant::now();
        for (body, priority) in [("a", None), ("b", Some(5)), ("c", Some(9)), ("d", Some(1))] {
            let mut message = message(body);
            message.properties.priority = priority;
            queue.push(message, now);
        }
        let mut receiver = consumer(&mut queue, 1, AckMode::Unlimited, now);
        let order: Vec<_> = bodies(&mut receiver).into_iter().map(|(body, _)| body).collect();
        assert_eq!(order, ["b", "c", "d", "a"]);
    }

    #[test]
    fn unsupported_arguments_are_refused() {
        for (name, value) in [
            ("x-max-length", 5),
            ("x-max-priority", 0),
            ("x-max-priority", 256),
            ("x-message-ttl", 0),
            ("x-message-ttl", -1),
        ] {
            let arguments = [(name.to_owned(), QueueArgument::Number(value))].into();
            assert!(
                Queue::new(&QueueProperties {
                    durable: true,
                    arguments
                })
                .is_err(),
                "{name} {value}"
            );
        }
    }

    #[test]
    fn a_consumer_with_a_dropped_receiver_loses_no_messages() {
        let (mut queue, now) = (queue(), Instant::now());
        drop(consumer(&mut queue, 1, AckMode::Automatic, now));
        queue.push(message("a"), now);
        let mut next = consumer(&mut queue, 2, AckMode::Automatic, now);
        assert_eq!(bodies(&mut next), [("a".into(), false)]);
    }
}
