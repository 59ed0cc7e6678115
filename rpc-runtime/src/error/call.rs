//! Why a call fails.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use super::broker::BrokerError;
use crate::codec::EncodeError;
use crate::protocol::{Executed, Fault, FaultCode, InvalidName};

/// Why a call failed.
///
/// `E` is the method's own error; a method that returns no `Result` has [`Infallible`] there.
/// [`executed`](Self::executed) tells whether the method ran.
///
/// Its text says what failed, and its sources why: print it with [`Chain`].
///
/// It is a [`std::error::Error`] where `E` is one; for a method whose error is a mere `String`, match on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E = Infallible> {
    /// The method ran and returned its own error.
    #[error("the method failed")]
    Service(#[source] E),

    /// The method ran and returned its own error, which arrived as text: a call in
    /// [`Codec::Text`](crate::Codec::Text) cannot carry a typed one.
    #[error("the method failed: {0}")]
    ServiceText(String),

    /// There is no queue of this name: no worker of the service was ever started, or its queue is gone. A queue outlives its
    /// workers: where all of them are down, a call waits for one, and times out.
    #[error("no server: there is no queue {queue:?}")]
    NoServer {
        /// The request queue.
        queue: String,
    },

    /// No reply came in time.
    #[error("no reply within {limit:?}")]
    TimedOut {
        /// How long the call was allowed to take.
        limit: Duration,
        /// [`Executed::No`] where the request had not left yet.
        executed: Executed,
        /// What was wrong with the broker when the time was up, where something was: it could not be reached, or
        /// [blocked](BrokerError::Blocked) the connection.
        source: Option<BrokerError>,
    },

    /// As many calls of the client as [may be](crate::ClientBuilder::max_in_flight) were in flight; this one was not sent.
    #[error("{limit} calls are in flight, and no more may be")]
    TooManyCalls {
        /// The limit.
        limit: usize,
    },

    /// The workers are overloaded or do not answer, so the client keeps
    /// [fewer calls in flight](crate::ClientBuilder::adaptive_limit). This one found no place in
    /// time and was not sent.
    #[error("the workers are overloaded or do not answer, and the call found no place in time")]
    Overloaded {
        /// How many calls might be in flight when this one failed.
        limit: usize,
        /// For how long the client pauses, if its only call in flight was refused.
        retry_after: Option<Duration>,
    },

    /// The worker's runtime refused or could not finish the call.
    #[error("the worker answered with a fault")]
    Fault(#[source] Fault),

    /// The request is larger than [`max_sent_bytes`](crate::BrokerBuilder::max_sent_bytes); it was not sent.
    #[error("the request has {size} bytes, and at most {limit} may be sent")]
    TooLarge {
        /// The arguments' size in bytes, encoded.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// The arguments cannot be written in the client's codec; nothing was sent.
    #[error("the arguments cannot be sent")]
    Encode(#[source] EncodeError),

    /// The call's options cannot be sent: a name or header that does not fit.
    #[error("the call cannot be sent: {what} does not fit")]
    Invalid {
        /// What does not fit.
        what: &'static str,
        /// Why.
        source: InvalidName,
    },

    /// The description of the service has no such method; nothing was sent. Only of a [`DynamicClient`](crate::DynamicClient).
    #[error("the service's description has no method {method:?}")]
    NotDescribed {
        /// The method's name.
        method: String,
    },

    /// A reply came that cannot be read as the method's answer.
    #[error("the reply cannot be read")]
    BadReply {
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
        /// [`Executed::Yes`] where it says that it is the method's result or error.
        executed: Executed,
    },

    /// The broker refused to take the request (a negative confirm), for example because the queue is full. It does not
    /// say why, and a queue that failed refuses even what it had delivered, so the method may have run.
    ///
    /// The request of an `idempotent` method is sent again, until its time is up.
    #[error("the broker refused the request for queue {queue:?}")]
    Refused {
        /// The request queue.
        queue: String,
    },

    /// The broker could not be reached, or the connection was lost during the call.
    #[error("the broker failed the call")]
    Broker {
        /// What happened.
        source: BrokerError,
        /// Whether the request may have reached a worker.
        executed: Executed,
    },

    /// A layer of the client failed the call; see [`middleware`](crate::middleware).
    #[error("the client's middleware failed the call")]
    Middleware {
        /// The layer's own error.
        source: Box<dyn Error + Send + Sync>,
        /// [`Executed::No`] where no attempt was made, or none reached the method.
        executed: Executed,
    },
}

impl<E> CallError<E> {
    /// Whether the method ran.
    #[must_use]
    pub fn executed(&self) -> Executed {
        match self {
            Self::Service(_) | Self::ServiceText(_) => Executed::Yes,
            Self::Refused { .. } => Executed::Maybe,
            Self::Fault(fault) => fault.code.executed(),
            Self::TimedOut { executed, .. }
            | Self::BadReply { executed, .. }
            | Self::Middleware { executed, .. }
            | Self::Broker { executed, .. } => *executed,
            Self::NoServer { .. }
            | Self::TooManyCalls { .. }
            | Self::Overloaded { .. }
            | Self::TooLarge { .. }
            | Self::Encode(_)
            | Self::NotDescribed { .. }
            | Self::Invalid { .. } => Executed::No,
        }
    }

    /// Whether the same call may succeed if it is made again, and it is safe to do so: the method did not run, and what was
    /// in the way may be gone by then.
    ///
    /// For an `idempotent` method it is safe to make any failed call again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        let may_pass = match self {
            Self::NoServer { .. }
            | Self::TooManyCalls { .. }
            | Self::Overloaded { .. }
            | Self::TimedOut { .. }
            | Self::Middleware { .. } => true,
            Self::Broker { source, .. } => source.may_pass(),
            Self::Fault(fault) => matches!(fault.code, FaultCode::Expired | FaultCode::Rejected),
            _ => false,
        };
        may_pass && self.executed() == Executed::No
    }

    /// How long to wait before another try, if the worker said so, or if the client pauses because
    /// a worker said so. A call that is tried again any sooner will most likely fail again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fault(fault) => fault.retry_after,
            Self::Overloaded { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl CallError<Infallible> {
    /// The same failure of a call whose method has an error of its own.
    pub(crate) fn widen<E>(self) -> CallError<E> {
        self.map_service(|never| match never {})
    }
}

impl<E> CallError<E> {
    /// Turns the method's own error into another one, and leaves all other failures as they are.
    ///
    /// ```
    /// # use rpc_runtime::{CallError, service};
    /// # #[derive(Debug, serde::Serialize, serde::Deserialize)]
    /// # pub enum StockError { SoldOut }
    /// # #[service]
    /// # pub trait Stock { async fn reserve(&self, item: &str) -> Result<u64, StockError>; }
    /// pub enum OrderError {
    ///     Stock(StockError),
    /// }
    ///
    /// async fn order(stock: &StockClient, item: &str) -> Result<u64, CallError<OrderError>> {
    ///     let id = stock.reserve(item).await;
    ///     id.map_err(|error| error.map_service(OrderError::Stock))
    /// }
    /// ```
    pub fn map_service<F>(self, map: impl FnOnce(E) -> F) -> CallError<F> {
        match self {
            Self::Service(error) => CallError::Service(map(error)),
            Self::ServiceText(text) => CallError::ServiceText(text),
            Self::NoServer { queue } => CallError::NoServer { queue },
            Self::TimedOut {
                limit,
                executed,
                source,
            } => CallError::TimedOut {
                limit,
                executed,
                source,
            },
            Self::TooManyCalls { limit } => CallError::TooManyCalls { limit },
            Self::Overloaded { limit, retry_after } => CallError::Overloaded { limit, retry_after },
            Self::Fault(fault) => CallError::Fault(fault),
            Self::TooLarge { size, limit } => CallError::TooLarge { size, limit },
            Self::Encode(source) => CallError::Encode(source),
            Self::NotDescribed { method } => CallError::NotDescribed { method },
            Self::Invalid { what, source } => CallError::Invalid { what, source },
            Self::BadReply { source, executed } => CallError::BadReply { source, executed },
            Self::Refused { queue } => CallError::Refused { queue },
            Self::Broker { source, executed } => CallError::Broker { source, executed },
            Self::Middleware { source, executed } => CallError::Middleware { source, executed },
        }
    }
}
