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

    /// Cuts a connection until [`restore`](Self::restore). The handle notices the loss at once, and
    /// the broker after `noticed_after`. Only then does the broker remove the connection's
    /// consumers and requeue what they have not acknowledged.
    pub(crate) fn cut(&self, role: Role, noticed_after: Duration) {
        let last_error = Some(BrokerError::lost());
        self.board.set(role, Connectivity::Down { last_error });
        let consumers = self.connection(role).cut();
        let broker = self.broker.clone();
        let end = move || {
            for consumer in consumers {
                broker.queues().close_consumer(&consumer, Instant::now());
            }
        };
        if noticed_after.is_zero() {
            end();
        } else {
            tokio::spawn(async move {
                sleep(noticed_after).await;
                end();
            });
        }
    }

    pub(crate) fn restore(&self, role: Role) {
        let connection = self.connection(role);
        connection.restore();
        self.board.set(role, connection.connectivity());
    }

    /// Makes the broker block or unblock publishing. If the connection is down, this takes effect
    /// once the connection is restored.
    pub(crate) fn block(&self, is_blocked: bool) {
        self.publishing.block(is_blocked.then_some("low on memory"));
        if self.publishing.is_up() {
            self.board.set(Role::Publishing, self.publishing.connectivity());
        }
    }

    /// Deletes the reply queues of this handle, as if they had expired.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_status_tells_of_simulated_faults() {
        let transport = MemoryTransport::new(&InProcessBroker::new());
        let status = || transport.board.status().to_string();
        assert_eq!(status(), "ready");
        transport.block(true);
        assert_eq!(status(), "blocked: low on memory");
        transport.cut(Role::Publishing, Duration::ZERO);
        assert!(status().starts_with("connecting: "), "{}", status());
        transport.block(true);
        assert!(status().starts_with("connecting: "), "{}", status());
        transport.restore(Role::Publishing);
        assert_eq!(status(), "blocked: low on memory");
        transport.block(false);
        assert_eq!(status(), "ready");
    }
}
