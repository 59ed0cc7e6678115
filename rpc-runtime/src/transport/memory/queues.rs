//! The in-process broker's queues by name. No I/O, no tasks, and the caller supplies the time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::queue::{Queue, SentDelivery};
use crate::error::{BrokerError, Cause};
use crate::protocol::{Message, ShortStr};
use crate::transport::topology::{ControlQueue, DeclareMode, QueueProperties};
use crate::transport::{Depth, RequestQueue};

pub(super) use super::queue::AckMode;

/// What has become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routing {
    Queued,
    /// A queue is full, and refuses further messages.
    Refused,
    /// No queue has this name, or none is bound to the control exchange with this key.
    Unroutable,
}

#[derive(Debug, Default)]
pub(super) struct Queues {
    queues: HashMap<String, Queue>,
    /// The number of the next consumer.
    next_consumer: u64,
    /// Whether each reply is delivered twice.
    #[cfg(test)]
    pub(super) echo_replies: bool,
    /// How many of the next messages with items for methods are lost.
    #[cfg(test)]
    pub(super) lost_items: usize,
}

/// Identifies a consumer and its queue.
#[derive(Debug, Clone)]
pub(super) struct ConsumerId {
    queue: String,
    number: u64,
}

impl Queues {
    /// Declares a queue as its options say.
    pub(super) fn declare_as_configured(
        &mut self,
        queue: &RequestQueue,
        now: Instant,
    ) -> Result<(), BrokerError> {
        match queue.declare_mode() {
            DeclareMode::Active => self.declare(queue.name(), queue.properties(), now),
            DeclareMode::Passive => self.check_exists(queue.name()),
            DeclareMode::No => Ok(()),
        }
    }

    /// Declares a queue: makes it, or checks that it has these properties. A new queue takes the
    /// dead letters that were kept for it.
    fn declare(&mut self, name: &str, properties: &QueueProperties, now: Instant) -> Result<(), BrokerError> {
        if name.is_empty() || name.starts_with("amq.") {
            return Err(refused(
                name,
                "ACCESS_REFUSED: queue names may not be empty or begin with amq.",
            ));
        }
        match self.queues.get(name) {
            Some(queue) if queue.properties() == Some(properties) => Ok(()),
            Some(_) => Err(refused(
                name,
                "PRECONDITION_FAILED: the queue exists with other properties",
            )),
            None => {
                let queue = Queue::new(properties).map_err(|reason| refused(name, reason))?;
                self.queues.insert(name.to_owned(), queue);
                let has_kept = |(_, queue): &(&String, &Queue)| queue.has_dead_letters();
                // In an order that does not depend on the hash map.
                let sources: BTreeSet<String> = (self.queues.iter().filter(has_kept))
                    .map(|(name, _)| name.clone())
                    .collect();
                for source in sources {
                    self.move_dead_letters(&source, now);
                }
                Ok(())
            }
        }
    }

    /// Makes a reply queue that outlives its consumer.
    pub(super) fn declare_resumable(&mut self, name: &str) {
        self.queues.insert(name.to_owned(), Queue::resumable());
    }

    /// Makes a reply queue that is deleted with its consumer.
    pub(super) fn declare_exclusive(&mut self, name: &str) {
        self.queues.insert(name.to_owned(), Queue::exclusive());
    }

    /// Makes a queue for control messages, which is deleted with its consumer.
    pub(super) fn declare_for_control(&mut self, name: &str, control: &ControlQueue) {
        self.queues.insert(name.to_owned(), Queue::for_control(control));
    }

    /// Puts a control message into all queues that are bound with its key. Returns
    /// [`Routing::Refused`] if one of them refuses it, even if others take it.
    pub(super) fn publish_control(&mut self, key: &ShortStr, message: &Message, now: Instant) -> Routing {
        let mut bound: Vec<_> = (self.queues.values_mut())
            .filter(|queue| queue.is_bound(key))
            .collect();
        if bound.is_empty() {
            return Routing::Unroutable;
        }
        // In an order that does not depend on the hash map.
        bound.sort_unstable_by_key(|queue| queue.first_consumer());
        // A simulated loss: the message counts as queued.
        #[cfg(test)]
        if self.lost_items > 0 && key.as_str().ends_with(crate::protocol::INCOMING_SUFFIX) {
            self.lost_items -= 1;
            return Routing::Queued;
        }
        let mut routing = Routing::Queued;
        for queue in bound {
            if queue.refuses_more() {
                routing = Routing::Refused;
            } else {
                queue.push_with_key(message.clone(), Some(key.clone()), now);
            }
        }
        routing
    }

    /// How many messages and consumers a queue has. `None` if no queue of that name exists.
    pub(super) fn depth(&self, name: &str) -> Option<Depth> {
        let queue = self.queues.get(name)?;
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Some(Depth {
            messages: count(queue.depth()),
            consumers: count(queue.consumer_count()),
        })
    }

    pub(super) fn check_exists(&self, name: &str) -> Result<(), BrokerError> {
        match self.queues.contains_key(name) {
            true => Ok(()),
            false => Err(refused(name, "NOT_FOUND: there is no such queue")),
        }
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.queues.remove(name);
    }

    /// Deletes a queue if it is empty and has no consumer. Returns `true` if it was kept because it
    /// has messages, although it has no consumer.
    pub(super) fn delete_if_unused(&mut self, name: &str) -> bool {
        let Some(queue) = self.queues.get(name).filter(|queue| queue.is_unused()) else {
            return false;
        };
        if queue.is_empty() {
            self.delete(name);
            return false;
        }
        true
    }

    /// Puts a message into a queue. Returns whether a queue of that name exists.
    pub(super) fn publish(&mut self, queue: &str, message: Message, now: Instant) -> bool {
        // A simulated duplicate.
        #[cfg(test)]
        if self.echo_replies && crate::protocol::ReplyAddresses::default().allows(queue) {
            let echo = message.clone();
            self.with_queue(queue, now, |queue| queue.push(echo, now));
        }
        self.with_queue(queue, now, |queue| queue.push(message, now))
    }

    /// The `x-message-ttl` of a queue. `None` also if no queue of that name exists.
    pub(super) fn message_ttl(&self, queue: &str) -> Option<Duration> {
        self.queues.get(queue)?.message_ttl()
    }

    /// Dead-letters or drops the messages at the front of a queue that have expired.
    pub(super) fn expire(&mut self, queue: &str, now: Instant) {
        self.with_queue(queue, now, |queue| queue.expire(now));
    }

    /// Runs `act` on a queue, and then moves its dead letters to their next queues. Returns whether
    /// a queue of that name exists.
    fn with_queue(&mut self, name: &str, now: Instant, act: impl FnOnce(&mut Queue)) -> bool {
        let Some(queue) = self.queues.get_mut(name) else {
            return false;
        };
        act(queue);
        if queue.has_dead_letters() {
            self.move_dead_letters(name, now);
        }
        true
    }

    /// Moves the dead letters of a queue to their next queues. Keeps or drops those whose next
    /// queue does not exist.
    ///
    /// In its next queue, a dead letter may cause other messages to expire. It does not expire at
    /// once itself: it has no expiration of its own, and no queue has an `x-message-ttl` of 0. So
    /// this ends.
    fn move_dead_letters(&mut self, name: &str, now: Instant) {
        let mut sources = vec![name.to_owned()];
        while let Some(source) = sources.pop() {
            let dead_letters = self.queues.get_mut(&source).map(Queue::take_dead_letters);
            for (target, message) in dead_letters.unwrap_or_default() {
                if let Some(next) = self.queues.get_mut(&target) {
                    next.push(message, now);
                    sources.push(target);
                } else if let Some(queue) = self.queues.get_mut(&source) {
                    queue.keep_or_drop(target, message);
                }
            }
        }
    }

    /// Adds a consumer to a queue. Deliveries go to `sender`.
    pub(super) fn consume(
        &mut self,
        name: &str,
        ack_mode: AckMode,
        sender: mpsc::UnboundedSender<SentDelivery>,
        now: Instant,
    ) -> Result<ConsumerId, BrokerError> {
        self.check_exists(name)?;
        let number = self.next_consumer;
        self.next_consumer += 1;
        self.with_queue(name, now, |queue| queue.consume(number, ack_mode, sender, now));
        Ok(ConsumerId {
            queue: name.to_owned(),
            number,
        })
    }

    pub(super) fn ack(&mut self, consumer: &ConsumerId, tag: u64, now: Instant) {
        self.with_queue(&consumer.queue, now, |queue| {
            queue.ack(consumer.number, tag..=tag, now);
        });
    }

    pub(super) fn reject(&mut self, consumer: &ConsumerId, tag: u64, now: Instant) {
        self.with_queue(&consumer.queue, now, |queue| {
            queue.reject(consumer.number, tag, now);
        });
    }

    pub(super) fn ack_up_to(&mut self, consumer: &ConsumerId, tag: u64, now: Instant) {
        self.with_queue(&consumer.queue, now, |queue| {
            queue.ack(consumer.number, 0..=tag, now);
        });
    }

    /// Stops deliveries to a consumer. Its deliveries stay unacknowledged.
    pub(super) fn cancel(&mut self, consumer: &ConsumerId) {
        if let Some(queue) = self.queues.get_mut(&consumer.queue) {
            queue.cancel(consumer.number);
        }
    }

    /// Whether a consumer exists. It ends if its queue is deleted.
    pub(super) fn has_consumer(&self, consumer: &ConsumerId) -> bool {
        let queue = self.queues.get(&consumer.queue);
        queue.is_some_and(|queue| queue.has_consumer(consumer.number))
    }

    /// Removes a consumer. Its unacknowledged deliveries go back to the queue, or are dead-lettered
    /// or dropped beyond its delivery limit. Deletes an auto-delete queue that is now unused.
    pub(super) fn close_consumer(&mut self, consumer: &ConsumerId, now: Instant) {
        self.with_queue(&consumer.queue, now, |queue| {
            queue.close_consumer(consumer.number, now);
        });
        let queue = self.queues.get(&consumer.queue);
        if queue.is_some_and(|queue| queue.is_auto_delete() && queue.is_unused()) {
            self.delete(&consumer.queue);
        }
    }
}

#[cfg(test)]
impl Queues {
    /// Simulates a restart, which keeps declared queues and resumable reply queues, and the
    /// persistent messages in them. Declared queues are kept even if they are transient.
    pub(super) fn restart(&mut self, now: Instant) {
        self.queues.retain(|name, queue| {
            queue.restart(now);
            if queue.is_auto_delete() {
                return false;
            }
            // Direct and exclusive reply queues, which do not outlive the broker, begin with
            // `amq.`.
            !name.starts_with("amq.")
        });
    }

    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn backlog(&self, name: &str) -> Option<usize> {
        Some(self.queues.get(name)?.backlog())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.queues.keys().map(String::as_str)
    }

    /// The messages that wait in a queue, in order.
    pub(super) fn messages(&self, name: &str) -> impl Iterator<Item = &Message> {
        self.queues.get(name).into_iter().flat_map(Queue::messages)
    }
}

fn refused(queue: &str, reason: &'static str) -> BrokerError {
    BrokerError::Queue {
        queue: queue.to_owned(),
        source: Cause::new(reason),
        is_temporary: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::QueueArgument;

    #[test]
    fn a_declaration_with_other_properties_is_refused() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        let durable = QueueProperties {
            durable: true,
            arguments: Default::default(),
        };
        let transient = QueueProperties {
            durable: false,
            ..durable.clone()
        };
        queues.declare("q", &durable, now).unwrap();
        queues.declare("q", &durable, now).unwrap();
        assert!(matches!(
            queues.declare("q", &transient, now),
            Err(BrokerError::Queue { .. })
        ));
        assert!(queues.declare("amq.q", &durable, now).is_err());
    }

    #[test]
    fn a_control_message_reaches_every_queue_that_is_bound_with_its_key() {
        let [x, y] = ["x", "y"].map(ShortStr::from_static);
        let control = |keys: &[&ShortStr]| ControlQueue {
            keys: keys.iter().map(|key| (*key).clone()).collect(),
            prefetch: 1,
            time_to_live: std::time::Duration::from_secs(1),
            max_messages: 10,
            max_bytes: 10,
            refuses_excess: false,
        };
        let (mut queues, now) = (Queues::default(), Instant::now());
        let publish = |queues: &mut Queues| queues.publish_control(&x, &Message::default(), now);
        assert_eq!(publish(&mut queues), Routing::Unroutable);
        let mut listen = |name, keys: &[&ShortStr]| {
            queues.declare_for_control(name, &control(keys));
            let (sender, receiver) = mpsc::unbounded_channel();
            let consumer = queues.consume(name, AckMode::Unlimited, sender, now).unwrap();
            (consumer, receiver)
        };
        let [mut a, mut b, mut other] = [listen("a", &[&x]), listen("b", &[&x, &y]), listen("c", &[&y])];
        assert_eq!(publish(&mut queues), Routing::Queued);
        for received in [a.1.try_recv().unwrap(), b.1.try_recv().unwrap()] {
            assert_eq!(received.delivery.control_key.as_ref(), Some(&x));
        }
        assert!(other.1.try_recv().is_err());
        queues.close_consumer(&a.0, now);
        assert_eq!(queues.len(), 2);
        // RabbitMQ deletes such a queue with its consumer, although its deliveries are pending.
        queues.cancel(&b.0);
        assert_eq!(publish(&mut queues), Routing::Unroutable);
    }

    #[test]
    fn dead_letters_move_from_queue_to_queue() {
        let now = Instant::now();
        let mut queues = Queues::default();
        for (name, target) in [("a", "b"), ("b", "c")] {
            let arguments = [
                ("x-dead-letter-exchange".to_owned(), "".into()),
                ("x-dead-letter-routing-key".to_owned(), target.into()),
            ];
            let properties = QueueProperties {
                durable: true,
                arguments: arguments.into(),
            };
            queues.declare(name, &properties, now).unwrap();
        }
        let last = QueueProperties {
            durable: true,
            arguments: Default::default(),
        };
        queues.declare("c", &last, now).unwrap();
        queues.publish("a", Message::default(), now);
        for name in ["a", "b"] {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            let consumer = queues.consume(name, AckMode::Unlimited, sender, now).unwrap();
            let delivery = receiver.try_recv().unwrap().delivery;
            queues.reject(&consumer, delivery.tag, now);
        }
        let (sender, mut receiver) = mpsc::unbounded_channel();
        queues.consume("c", AckMode::Unlimited, sender, now).unwrap();
        let delivery = receiver.try_recv().unwrap().delivery;
        assert!(!delivery.redelivered);
        let dead = delivery.message.properties.dead_lettered.unwrap();
        assert_eq!((dead.non_expiry_deaths, dead.rejections), (2, 2));
    }

    /// As in a quorum queue with the strategy `at-least-once`.
    #[test]
    fn dead_letters_wait_for_a_queue_that_was_deleted() {
        let now = Instant::now();
        for (strategy, is_kept) in [("at-least-once", true), ("at-most-once", false)] {
            let mut queues = Queues::default();
            let arguments = [
                ("x-dead-letter-exchange", "".into()),
                ("x-dead-letter-routing-key", "next".into()),
                ("x-dead-letter-strategy", strategy.into()),
                ("x-message-ttl", 10.into()),
            ];
            let properties = |arguments: &[(&str, QueueArgument)]| QueueProperties {
                durable: true,
                arguments: (arguments.iter())
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect(),
            };
            queues.declare("first", &properties(&arguments), now).unwrap();
            queues.publish("first", Message::default(), now);
            let later = now + Duration::from_millis(10);
            queues.expire("first", later);
            assert_eq!(queues.backlog("first"), Some(usize::from(is_kept)));
            queues.declare("next", &properties(&[]), later).unwrap();
            assert_eq!(queues.backlog("first"), Some(0));
            assert_eq!(queues.backlog("next"), Some(usize::from(is_kept)));
        }
    }

    #[test]
    fn publishing_to_a_missing_queue_returns_false() {
        let mut queues = Queues::default();
        assert!(!queues.publish("nowhere", Message::default(), Instant::now()));
        assert!(queues.check_exists("nowhere").is_err());
    }
}
