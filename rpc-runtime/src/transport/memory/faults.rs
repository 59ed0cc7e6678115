//! Faults of the connections and of the broker, for the simulation.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::broker::InProcessBroker;
use super::connection::Connection;
use super::link::Link;
use super::transport::MemoryTransport;
use crate::error::BrokerError;
use crate::protocol::Message;
use crate::transport::{Connectivity, Role};

impl MemoryTransport {
    /// Makes a handle with simulated links for its two connections.
    pub(crate) fn over_links(
        broker: &InProcessBroker,
        publishing: Arc<dyn Link>,
        consuming: Arc<dyn Link>,
    ) -> Self {
        Self::with_connections(
            broker,
            Connection::over_link(publishing),
            Connection::over_link(consuming),
        )
    }

    /// Cuts a connection until [`restore`](Self::restore). The broker notices the loss after
    /// `notice`.
    pub(crate) fn cut(&self, role: Role, notice: Duration) {
        let last_error = Some(BrokerError::lost());
        self.board.set(role, Connectivity::Down { last_error });
        let consumers = self.connection(role).cut();
        let broker = self.broker.clone();
        let end = move || {
            for consumer in consumers {
                broker.queues().close_consumer(&consumer, Instant::now());
            }
        };
        if notice.is_zero() {
            end();
        } else {
            tokio::spawn(async move {
                sleep(notice).await;
                end();
            });
        }
    }

    pub(crate) fn restore(&self, role: Role) {
        self.connection(role).restore();
        self.board.set(role, Connectivity::Up);
    }

    /// Makes the broker block or unblock publishing.
    pub(crate) fn block(&self, is_blocked: bool) {
        self.publishing.block(is_blocked.then_some("low on memory"));
    }

    /// Deletes the reply queues, as if they had expired.
    pub(crate) fn expire_replies(&self) {
        for queue in self.lock_reply_queues().drain(..) {
            self.broker.queues().delete(&queue);
        }
    }

    fn connection(&self, role: Role) -> &Connection {
        match role {
            Role::Publishing => &self.publishing,
            Role::Consuming => &self.consuming,
        }
    }
}

impl MemoryTransport {
    /// The reply queues, in the order in which they were declared.
    pub(crate) fn reply_queues(&self) -> Vec<String> {
        self.lock_reply_queues().clone()
    }
}

impl InProcessBroker {
    /// Puts a message into a queue, if the queue exists.
    pub(crate) fn inject(&self, queue: &str, message: Message) {
        self.queues().publish(queue, message, Instant::now());
    }

    /// Sets whether the broker delivers each reply twice.
    pub(crate) fn echo_replies(&self, echoes: bool) {
        self.queues().echo_replies = echoes;
    }

    /// Loses the next messages with items that callers send, although their queues exist.
    pub(crate) fn lose_items(&self, messages: usize) {
        self.queues().lost_items = messages;
    }

    /// Restarts the broker. All connections must be cut before.
    pub(crate) fn restart(&self) {
        self.queues().restart(Instant::now());
    }

    pub(crate) fn delete(&self, queue: &str) {
        self.queues().delete(queue);
    }

    pub(crate) fn queue_count(&self) -> usize {
        self.queues().len()
    }

    pub(crate) fn queue_names(&self) -> Vec<String> {
        self.queues().names().map(str::to_owned).collect()
    }

    /// The messages that wait in a queue, in order.
    pub(crate) fn messages(&self, queue: &str) -> Vec<Message> {
        self.queues().messages(queue).cloned().collect()
    }

    /// How many messages are in a queue, including unacknowledged ones and dead letters whose next
    /// queue is missing. `None` if the queue does not exist.
    pub(crate) fn backlog(&self, queue: &str) -> Option<usize> {
        self.queues().backlog(queue)
    }
}
