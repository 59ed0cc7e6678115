//! The in-process broker's public type.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::queues::Queues;

/// A broker within this process, with RabbitMQ's semantics: named queues, competing consumers,
/// prefetch, acknowledgements and redelivery, expiration, priorities, dead letters, and the return
/// of unroutable messages.
///
/// It supports the queue arguments of [`quorum`](crate::RequestQueue::quorum),
/// [`delivery_limit`](crate::RequestQueue::delivery_limit),
/// [`dead_letter_to`](crate::RequestQueue::dead_letter_to) and
/// [`priorities`](crate::RequestQueue::priorities), `x-message-ttl` (but not 0) and
/// `x-dead-letter-strategy`. It ignores `x-overflow`, and refuses others. An expired message may
/// stay until its queue is next used. Nothing outlives the process.
///
/// [`Broker::in_process`](crate::Broker::in_process) makes a broker with a single handle. If
/// callers and workers are to have handles of their own, make an `InProcessBroker` and connect
/// several times:
///
/// ```
/// use rpc_runtime::InProcessBroker;
///
/// # fn main() -> Result<(), rpc_runtime::BrokerError> {
/// let broker = InProcessBroker::new();
/// let worker = broker.connect();
/// let caller = broker.connect();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct InProcessBroker {
    queues: Arc<Mutex<Queues>>,
}

impl InProcessBroker {
    /// Makes a broker without queues.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, Queues> {
        // Each operation leaves the queues consistent, so a panic elsewhere has broken nothing.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for InProcessBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcessBroker").finish_non_exhaustive()
    }
}
