//! Why a server cannot start, or ends.

use std::time::Duration;

use super::broker::BrokerError;
use crate::protocol::InvalidName;

/// Why a server could not start, or ended other than by its shutdown.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No service was given.
    #[error("the server has no service: add one with serve()")]
    NoService,

    /// A queue's name does not fit AMQP.
    #[error("the queue name {queue:?} cannot be used")]
    InvalidQueue {
        /// The name.
        queue: String,
        /// Why.
        source: InvalidName,
    },

    /// Two methods on one queue have the same name: of two services, or of one that was not made by the macro.
    #[error(
        "queue {queue:?} has two methods {method:?}: rename one, or serve one of the services on a queue of its own"
    )]
    DuplicateMethod {
        /// The queue.
        queue: String,
        /// The method.
        method: &'static str,
    },

    /// A method has a name of those that the runtime keeps to itself, for the methods that it adds.
    #[error(
        "service {service:?} has a method {method:?}: names that begin with \"rpc.\" are reserved, rename it"
    )]
    ReservedMethod {
        /// The service.
        service: &'static str,
        /// The method.
        method: &'static str,
    },

    /// Two methods on one queue are the default one.
    #[error(
        "queue {queue:?} has two default methods: keep one, or serve one of the services on a queue of its own"
    )]
    DuplicateDefault {
        /// The queue.
        queue: String,
    },

    /// Two services were given the same queue with different options.
    #[error("queue {queue:?} was given twice with different options")]
    ConflictingQueue {
        /// The queue.
        queue: String,
    },

    /// The broker could not be used, or was lost.
    #[error("the broker failed the server")]
    Broker(#[from] BrokerError),

    /// The requests that ran at shutdown did not end within the drain limit. They were stopped and given back to the
    /// broker: `idempotent` ones run again elsewhere, the callers of others get the fault `interrupted`.
    #[error("requests that did not end within the drain limit of {limit:?}: {unfinished}")]
    DrainTimedOut {
        /// How many were stopped.
        unfinished: usize,
        /// The limit.
        limit: Duration,
    },
}
