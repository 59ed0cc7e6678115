//! What can go wrong between a handle and the in-process broker, and with the broker itself: for the simulation.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use super::road::simulated::{Leg, Road};
use super::{InProcessBroker, MemoryTransport, Wire};
use crate::protocol::Message;
use crate::transport::{Connectivity, Role};

impl MemoryTransport {
    /// A handle whose connections have a way to go: the one for publishing, the one for consuming.
    pub(crate) fn far(broker: &InProcessBroker, publishing: Arc<dyn Road>, consuming: Arc<dyn Road>) -> Self {
        Self::over(broker, Wire::over(publishing), Wire::over(consuming))
    }

    /// Ends a connection; there is no other until it is [mended](Self::mend). The broker sees it so much later.
    pub(crate) fn cut(&self, role: Role, notice: Duration) {
        self.board.set(role, Connectivity::Down { last_error: None });
        let left = self.wire(role).cut();
        let broker = self.broker.clone();
        let end = move || {
            for consumer in left {
                broker.hub().close(&consumer, Instant::now());
            }
        };
        match notice.is_zero() {
            true => end(),
            false => drop(tokio::spawn(async move {
                sleep(notice).await;
                end();
            })),
        }
    }

    pub(crate) fn mend(&self, role: Role) {
        self.wire(role).mend();
        self.board.set(role, Connectivity::Up);
    }

    /// Has the broker read nothing that is published, or go on with it.
    pub(crate) fn block(&self, is_blocked: bool) {
        self.publishing.block(is_blocked.then_some("low on memory"));
    }

    /// Deletes the reply queues, as the broker does with those that were not consumed for a while.
    pub(crate) fn expire_replies(&self) {
        for queue in self.private().drain(..) {
            self.broker.hub().delete(&queue);
        }
    }

    fn wire(&self, role: Role) -> &Wire {
        match role {
            Role::Publishing => &self.publishing,
            Role::Consuming => &self.consuming,
        }
    }
}

/// A message with this header comes as one whose properties cannot be read. RabbitMQ's are recognised where they are read.
pub(crate) const MALFORMED_HEADER: &str = "x-simulated-malformed";

impl MemoryTransport {
    /// The reply queues, the earliest first.
    pub(crate) fn reply_queues(&self) -> Vec<String> {
        self.private().clone()
    }
}

impl InProcessBroker {
    /// Puts a message into a queue, if there is one.
    pub(crate) fn inject(&self, queue: &str, message: Message) {
        self.hub().publish(queue, message, Instant::now());
    }

    /// Has each reply come twice, or once again.
    pub(crate) fn echo_replies(&self, echoes: bool) {
        self.hub().echo_replies = echoes;
    }

    /// Forgets what a broker does when it is started anew; every connection is to be cut before.
    pub(crate) fn restart(&self) {
        self.hub().restart(Instant::now());
    }

    pub(crate) fn delete(&self, queue: &str) {
        self.hub().delete(queue);
    }

    /// How many queues there are.
    pub(crate) fn queues(&self) -> usize {
        self.hub().len()
    }

    /// How many messages are in a queue, with those that are not settled; nothing where there is no such queue.
    pub(crate) fn backlog(&self, queue: &str) -> Option<usize> {
        self.hub().backlog(queue)
    }
}
