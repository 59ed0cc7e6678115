//! Why a call fails.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::broker::BrokerError;
use crate::codec::EncodeError;
use crate::protocol::{Executed, Fault, FaultCode, InvalidName};

/// Why a call failed.
///
/// `E` is the method's own error type, or [`Infallible`] if the method does not return a `Result`.
/// [`executed`](Self::executed) tells whether the method ran.
///
/// The error's text says what failed and its sources say why: print it with
/// [`Chain`](crate::Chain).
///
/// `CallError<E>` implements [`std::error::Error`] if `E` does. If `E` is a plain `String`, match
/// on the error instead.
///
/// Variants with named fields may gain more of them, so match them with `..`. Code that has to make
/// such an error, such as a mock, uses one of the constructors:
///
/// ```
/// use std::time::Duration;
///
/// use rpc_runtime::{Call, CallError, Executed};
///
/// let never_started: Call<String> = Call::ready(Err(CallError::no_server("users")));
/// let too_slow: CallError = CallError::timed_out(Duration::from_secs(5), Executed::Maybe);
/// assert!(!too_slow.is_retryable());
/// # drop(never_started);
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E = Infallible> {
    /// The method ran and returned its own error.
    #[error("the method failed")]
    Service(#[source] E),

    /// The method ran and returned its own error, which arrived as text:
    /// [`Codec::Text`](crate::Codec::Text) cannot carry a typed error.
    #[error("the method failed: {0}")]
    ServiceText(String),

    /// The request queue does not exist: no worker of the service was ever started, or the queue
    /// was deleted. A queue outlives its workers, so if all of them are down, a call waits for one
    /// and times out instead.
    #[error("no server: there is no queue {queue:?}")]
    #[non_exhaustive]
    NoServer {
        /// The request queue.
        queue: String,
    },

    /// A broadcast reached no worker: none that serves the queue is connected, or none has the
    /// permissions for broadcasts.
    #[error("no server: no worker of queue {queue:?} can be reached")]
    #[non_exhaustive]
    NoWorkers {
        /// The request queue.
        queue: String,
    },

    /// No reply arrived in time or, for a one-way call or a broadcast, no confirm.
    #[error("no reply within {limit:?}")]
    #[non_exhaustive]
    TimedOut {
        /// The call's timeout, or the time that the deadline of the calling handler left for it if
        /// that was shorter.
        limit: Duration,
        /// [`Executed::No`] if the request was not sent yet, otherwise [`Executed::Maybe`].
        executed: Executed,
        /// The problem with the broker at that moment, if there was one: it was [not
        /// reached](BrokerError::NotConnected) yet, could not be reached, or
        /// [blocked](BrokerError::Blocked) the connection.
        source: Option<BrokerError>,
    },

    /// The client already had [`max_in_flight`](crate::ClientBuilder::max_in_flight) calls in
    /// flight. This call waited for its turn until its timeout, or failed at once (see
    /// [`WhenFull`](crate::WhenFull)). The request was not sent.
    /// [`Broker::send`](crate::Broker::send) has a limit of its own.
    #[error("{limit} calls are in flight, which is the limit")]
    #[non_exhaustive]
    TooManyCalls {
        /// The limit.
        limit: usize,
    },

    /// The workers are overloaded or do not answer, so the client allows
    /// [fewer calls in flight](crate::ClientBuilder::adaptive_limit). This call waited for its turn
    /// until its timeout, or failed at once (see [`WhenFull`](crate::WhenFull)). The request was
    /// not sent.
    #[error("the workers are overloaded or do not answer, and the call could not be sent")]
    #[non_exhaustive]
    Overloaded {
        /// The number of calls that were allowed in flight when this one failed.
        limit: usize,
        /// How long the client pauses, if a worker refused its only call in flight.
        retry_after: Option<Duration>,
    },

    /// The worker's runtime refused the call or could not finish it.
    #[error("the worker answered with a fault")]
    Fault(#[source] Fault),

    /// The arguments are larger than [`max_sent_bytes`](crate::BrokerBuilder::max_sent_bytes), or
    /// than 1 MiB in a broadcast. The request was not sent.
    #[error("the request has {size} bytes, and at most {limit} may be sent")]
    #[non_exhaustive]
    TooLarge {
        /// The size of the encoded arguments, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },

    /// The arguments cannot be encoded in the client's codec. Nothing was sent.
    #[error("the arguments cannot be sent")]
    Encode(#[source] EncodeError),

    /// An option of the call, such as a header or the queue's name, is invalid. Nothing was sent.
    #[error("the call cannot be sent because of {what}")]
    #[non_exhaustive]
    Invalid {
        /// The invalid option.
        what: &'static str,
        /// Why it is invalid.
        source: InvalidName,
    },

    /// The call cannot be [delayed](crate::Call::delay): the method is not a job, or the delay is
    /// too long. Nothing was sent.
    #[error("{method:?} cannot be delayed by {delay:?}: only a job can be delayed, by at most 30 days")]
    #[non_exhaustive]
    CannotDelay {
        /// The method's name.
        method: String,
        /// The delay.
        delay: Duration,
    },

    /// The call cannot be [encoded](crate::Call::encode): its method is not a job, the call has
    /// begun, or it was made with [`Call::ready`](crate::Call::ready).
    #[error("the call cannot be encoded: only the call of a job can be, before it is awaited")]
    CannotEncode,

    /// The method was called as if it were of another kind. Nothing was sent. Only a
    /// [`DynamicClient`](crate::DynamicClient) returns this error.
    #[error("{method:?} is {kind}")]
    #[non_exhaustive]
    WrongKind {
        /// The method's name.
        method: String,
        /// The kind of the method.
        kind: MethodKind,
    },

    /// The description of the service has no such method. Nothing was sent. Only a
    /// [`DynamicClient`](crate::DynamicClient) returns this error.
    #[error("the service's description has no method {method:?}")]
    #[non_exhaustive]
    NotDescribed {
        /// The method's name.
        method: String,
    },

    /// A reply arrived, but cannot be decoded as the method's answer.
    #[error("the reply cannot be read")]
    #[non_exhaustive]
    BadReply {
        /// Why it cannot be decoded.
        source: Box<dyn Error + Send + Sync>,
        /// [`Executed::Yes`] if the reply is a result or an error whose body cannot be decoded;
        /// [`Executed::Maybe`] if it is malformed, too large, of an unknown type, or in an
        /// unsupported content type.
        executed: Executed,
    },

    /// An item that the call sends to its method cannot be encoded, or is too large. The method had
    /// begun, and its stream breaks off.
    #[error("an item cannot be sent")]
    #[non_exhaustive]
    BadItem {
        /// Why it cannot be sent.
        source: Box<dyn Error + Send + Sync>,
    },

    /// The broker refused the request with a negative confirm, for example because the queue is
    /// full. The broker does not say why. A failed queue refuses even requests that it has
    /// delivered, so the method may have run.
    ///
    /// The request of an `idempotent` method is published again until the call's timeout.
    #[error("the broker refused the request for queue {queue:?}")]
    #[non_exhaustive]
    Refused {
        /// The request queue.
        queue: String,
    },

    /// The broker could not be reached, the connection was lost during the call, or the broker or
    /// the handle failed the call in another way.
    #[error("the broker failed the call")]
    #[non_exhaustive]
    Broker {
        /// What happened.
        source: BrokerError,
        /// [`Executed::Maybe`] if the request may have reached a worker, otherwise
        /// [`Executed::No`].
        executed: Executed,
    },

    /// A layer of the client failed the call; see [`middleware`](crate::middleware).
    #[error("the client's middleware failed the call")]
    #[non_exhaustive]
    Middleware {
        /// The layer's own error.
        source: Box<dyn Error + Send + Sync>,
        /// [`Executed::No`] if no attempt was made, or no attempt reached the method.
        executed: Executed,
    },
}

/// Constructors for code that has to make an error, such as tests and mocks.
impl<E> CallError<E> {
    /// [`CallError::NoServer`]: this request queue does not exist.
    pub fn no_server(queue: impl Into<String>) -> Self {
        Self::NoServer { queue: queue.into() }
    }

    /// [`CallError::NoWorkers`]: a broadcast reached no worker of this queue.
    pub fn no_workers(queue: impl Into<String>) -> Self {
        Self::NoWorkers { queue: queue.into() }
    }

    /// [`CallError::TimedOut`], without a problem with the broker: no reply arrived within `limit`.
    #[must_use]
    pub fn timed_out(limit: Duration, executed: Executed) -> Self {
        Self::TimedOut {
            limit,
            executed,
            source: None,
        }
    }

    /// [`CallError::TooManyCalls`]: as many calls as the limit are in flight.
    #[must_use]
    pub fn too_many_calls(limit: usize) -> Self {
        Self::TooManyCalls { limit }
    }

    /// [`CallError::Overloaded`]: the client allows no more than `limit` calls in flight.
    #[must_use]
    pub fn overloaded(limit: usize, retry_after: Option<Duration>) -> Self {
        Self::Overloaded { limit, retry_after }
    }

    /// [`CallError::TooLarge`]: the arguments have `size` bytes, more than `limit`.
    #[must_use]
    pub fn too_large(size: usize, limit: usize) -> Self {
        Self::TooLarge { size, limit }
    }

    /// [`CallError::BadReply`]: the reply cannot be decoded.
    pub fn bad_reply(source: impl Into<Box<dyn Error + Send + Sync>>, executed: Executed) -> Self {
        Self::BadReply {
            source: source.into(),
            executed,
        }
    }

    /// [`CallError::Refused`]: the broker refused the request for this queue.
    pub fn refused(queue: impl Into<String>) -> Self {
        Self::Refused { queue: queue.into() }
    }

    /// [`CallError::Broker`]: the broker or the handle failed the call with this error.
    #[must_use]
    pub fn broker(source: BrokerError, executed: Executed) -> Self {
        Self::Broker { source, executed }
    }

    /// [`CallError::Middleware`]: a layer failed the call with this error.
    pub fn middleware(source: impl Into<Box<dyn Error + Send + Sync>>, executed: Executed) -> Self {
        Self::Middleware {
            source: source.into(),
            executed,
        }
    }
}

impl<E> CallError<E> {
    /// Whether the method ran.
    #[must_use]
    pub fn executed(&self) -> Executed {
        match self {
            Self::Service(_) | Self::ServiceText(_) => Executed::Yes,
            // `CannotEncode` may be the error of a call that has begun, and was sent.
            Self::Refused { .. } | Self::BadItem { .. } | Self::CannotEncode => Executed::Maybe,
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
            | Self::CannotDelay { .. }
            | Self::NoWorkers { .. }
            | Self::WrongKind { .. }
            | Self::Invalid { .. } => Executed::No,
        }
    }

    /// Whether it is safe and worthwhile to make the same call again: the method did not run, and
    /// the cause of the failure may go away.
    ///
    /// The method is not considered: a failed call of an `idempotent` one is always safe to make
    /// again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        let is_transient = match self {
            Self::NoServer { .. }
            | Self::NoWorkers { .. }
            | Self::TooManyCalls { .. }
            | Self::Overloaded { .. }
            | Self::TimedOut { .. }
            | Self::Middleware { .. } => true,
            Self::Broker { source, .. } => source.is_transient(),
            // The request came too late, or a layer of the worker refused it. The other faults of a
            // method that did not run would come again.
            Self::Fault(fault) => matches!(fault.code, FaultCode::Expired | FaultCode::Rejected),
            _ => false,
        };
        is_transient && self.executed() == Executed::No
    }

    /// How long to wait before the next attempt, because a sooner one most likely fails again.
    /// `None` if neither a worker nor the client sets a time.
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
    /// Converts the error of a call without a service error into one with a service error type.
    pub(crate) fn widen<E>(self) -> CallError<E> {
        self.map_service(|never| match never {})
    }
}

impl<E> CallError<E> {
    /// Maps the method's own error with `map`, and leaves all other failures as they are.
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
            Self::CannotDelay { method, delay } => CallError::CannotDelay { method, delay },
            Self::CannotEncode => CallError::CannotEncode,
            Self::NoWorkers { queue } => CallError::NoWorkers { queue },
            Self::WrongKind { method, kind } => CallError::WrongKind { method, kind },
            Self::Invalid { what, source } => CallError::Invalid { what, source },
            Self::BadReply { source, executed } => CallError::BadReply { source, executed },
            Self::BadItem { source } => CallError::BadItem { source },
            Self::Refused { queue } => CallError::Refused { queue },
            Self::Broker { source, executed } => CallError::Broker { source, executed },
            Self::Middleware { source, executed } => CallError::Middleware { source, executed },
        }
    }
}

/// How a [`DynamicClient`](crate::DynamicClient) calls a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MethodKind {
    /// With [`call`](crate::DynamicClient::call): there is one reply, or none.
    Unary,
    /// With [`broadcast`](crate::DynamicClient::broadcast): all workers answer.
    Broadcasting,
    /// With [`stream`](crate::DynamicClient::stream): a worker sends items.
    Streaming,
    /// With [`call_with_items`](crate::DynamicClient::call_with_items) or
    /// [`stream_with_items`](crate::DynamicClient::stream_with_items): the caller sends items.
    Receiving,
}

impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unary => "answered with one reply, or not at all: call it with `call`",
            Self::Broadcasting => "a broadcast, which all workers answer: call it with `broadcast`",
            Self::Streaming => "answered with a stream of items: call it with `stream`",
            Self::Receiving => {
                "given a stream of items: call it with `call_with_items` or `stream_with_items`"
            }
        })
    }
}
