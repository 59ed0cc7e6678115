//! The errors of callers and workers.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::EncodeError;
use crate::escape::OneLine;
use crate::protocol::{Fault, FaultCode, MAX_SHORT_STR, TooLong};

/// Whether the method of a failed call ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Executed {
    /// It did not run and will not: calling again is safe.
    No,
    /// It may have run, may be running, or may yet run.
    Maybe,
    /// It ran.
    Yes,
}

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

/// Why a name or a header cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// It is longer than AMQP, or the broker, takes.
    #[error("{length} bytes are too long: at most {limit} fit")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// It has a meaning of its own to RabbitMQ: a header `CC` or `BCC` sends copies to other queues, one like `x-death`
    /// says what became of a message, and queues that begin with `amq.` are the broker's.
    #[error("RabbitMQ gives it a meaning of its own: choose another")]
    Reserved,

    /// The runtime has names like it: headers and queues that begin with `rpc.` or `rpc-`, and queues that end with
    /// `.batch`.
    #[error("the runtime keeps such names to itself: choose another")]
    ReservedByRuntime,

    /// It is empty.
    #[error("it is empty: choose a name")]
    Empty,

    /// It has a control character, such as a line break.
    #[error("it has a control character: choose a printable name")]
    ControlCharacter,
}

impl From<TooLong> for InvalidName {
    fn from(TooLong { length }: TooLong) -> Self {
        Self::TooLong {
            length,
            limit: MAX_SHORT_STR,
        }
    }
}

/// An error with all that caused it, in one line: for logs and messages, where an error's own text says only what failed.
///
/// Errors may quote what a peer sent. Line breaks and other control characters are escaped, so that such a text can neither forge a line of
/// a log nor steer a terminal.
///
/// ```
/// # use rpc_runtime::{Broker, CallError, Chain, service};
/// # #[service]
/// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
/// # async fn example(directory: DirectoryClient) {
/// if let Err(error) = directory.get_email("user:1").await {
///     eprintln!("{}", Chain(&error)); // the worker answered with a fault: panicked: the method "get_email" panicked
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Chain<'a, E: ?Sized = dyn Error + 'a>(pub &'a E);

impl<E: ?Sized> Clone for Chain<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: ?Sized> Copy for Chain<'_, E> {}

impl<E: Error + ?Sized> fmt::Display for Chain<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = OneLine(self.0).to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let cause = OneLine(error).to_string();
            // Many errors repeat the text of their source.
            if !said.ends_with(&cause) {
                write!(f, ": {cause}")?;
                said = cause;
            }
            source = error.source();
        }
        Ok(())
    }
}

/// What went wrong between this process and the broker.
///
/// Cheap to clone: one lost connection ends many calls.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The address cannot be read. It is not repeated here, as it may hold a password.
    #[error("invalid broker address: {reason}")]
    InvalidAddress {
        /// What is wrong with it.
        reason: &'static str,
    },

    /// No address was given, and none was read from the environment.
    #[error(
        "there is no broker address: set AMQP_URL for `BrokerBuilder::from_env`, or give an address to `connect`"
    )]
    NoAddress,

    /// A variable of the environment cannot be used, or one that another needs is missing. Its value is not repeated, as it may be a password.
    #[error("the environment variable {variable} {problem}")]
    Environment {
        /// The variable's name.
        variable: String,
        /// What is wrong with it, and what would be right.
        problem: String,
        /// Why, where there is more to say.
        source: Option<Cause>,
    },

    /// The address asks for TLS, which this build does not have: the cargo feature `tls` is not enabled.
    #[error("amqps:// needs TLS, which this build does not have: enable the feature \"tls\" of rpc-runtime")]
    TlsUnsupported,

    /// The certificates or the key for TLS cannot be used. They are not repeated here.
    #[error("the TLS options cannot be used: {reason}")]
    InvalidTls {
        /// What is wrong with them, and what would be right.
        reason: &'static str,
        /// Why, where there is more to say.
        source: Option<Cause>,
    },

    /// The broker was reached, but the two sides do not agree on TLS.
    #[error("no TLS connection to the broker at {host}: {failure}")]
    Tls {
        /// Host and port.
        host: String,
        /// What is in the way.
        failure: TlsFailure,
        /// What the attempt ended with.
        source: Cause,
    },

    /// No connection could be made.
    #[error("cannot connect to the broker at {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// What the attempt ended with.
        source: Cause,
    },

    /// A step took longer than it may.
    #[error("the broker did not answer within {limit:?}: {step}")]
    Unresponsive {
        /// What was asked of the broker.
        step: &'static str,
        /// How long was waited.
        limit: Duration,
    },

    /// The broker refused to declare, find or consume a queue.
    #[error("the broker refused queue {queue:?}")]
    Queue {
        /// The queue.
        queue: String,
        /// The broker's reason. `PRECONDITION_FAILED`: the queue exists with other properties.
        /// `INTERNAL_ERROR`: the broker closes the connection over it, as RabbitMQ 4.3 does over
        /// transient queues. Or that it does not answer: the node that has the queue may be down.
        source: Cause,
    },

    /// The broker refused something about an exchange: it may be missing, be of another kind, or its user may not use it so.
    #[error("the broker refused to {action} exchange {exchange:?}")]
    Exchange {
        /// The exchange.
        exchange: String,
        /// What was asked of the broker, such as `declare`.
        action: &'static str,
        /// The broker's reason.
        source: Cause,
    },

    /// The connection was lost.
    #[error("the connection to the broker was lost")]
    Lost {
        /// What ended it, where it is known.
        source: Option<Cause>,
    },

    /// The broker closed a channel, over something that was sent through it; the connection is still there.
    #[error("the broker closed the channel")]
    ChannelClosed {
        /// The broker's reason.
        source: Cause,
    },

    /// The broker reads nothing that is published, because of an [alarm](https://www.rabbitmq.com/docs/alarms).
    #[error("the broker blocks publishers: {reason}")]
    Blocked {
        /// The broker's reason, such as `low on memory`.
        reason: Arc<str>,
    },

    /// The broker ended the consumption of a queue: the queue was deleted, or its node failed.
    #[error("the broker cancelled the consumer of queue {queue:?}")]
    Cancelled {
        /// The queue.
        queue: String,
    },

    /// The connection may have no more channels: as many are open as `channel_max` of the address or of the broker allows, or as the
    /// RabbitMQ user's `max-channels` does. It ends [`Server::start`](crate::Server::start), and calls.
    ///
    /// A handle needs two channels for its calls. A server needs one for each of its queues, one for each queue of batched calls, and
    /// four more, one of them not before requests wait.
    #[error(
        "no channel is left for this connection to the broker: raise channel_max (of the address, of the broker) or the user's max-channels"
    )]
    TooManyChannels {
        /// Which limit it was.
        source: Cause,
    },

    /// A background task of the handle panicked, which is a bug. The task is started again, and what it had in hand may be lost.
    #[error("a background task panicked, and is started again: {task}")]
    Panicked {
        /// What the task does.
        task: &'static str,
    },

    /// The broker handle was closed.
    #[error("the broker handle is closed")]
    Closed,

    /// The tokio runtime that the handle was made in has ended, and all of the handle's tasks with it. It stays so: make another handle,
    /// in a runtime that lives for as long as the handle is used.
    #[error(
        "the tokio runtime that the broker handle was made in has ended: make the handle in one that outlives its users"
    )]
    RuntimeEnded,

    /// The message cannot be carried by AMQP.
    #[error("the message cannot be sent: {reason}")]
    Unsendable {
        /// What does not fit.
        reason: &'static str,
    },
}

impl BrokerError {
    /// Whether what is in the way can go by itself.
    fn may_pass(&self) -> bool {
        !matches!(
            self,
            Self::InvalidAddress { .. }
                | Self::NoAddress
                | Self::Environment { .. }
                | Self::TlsUnsupported
                | Self::InvalidTls { .. }
                | Self::TooManyChannels { .. }
                | Self::Closed
                | Self::RuntimeEnded
                | Self::Unsendable { .. }
        )
    }

    /// Whether the handle has ended, for good.
    pub(crate) fn is_of_ended_handle(&self) -> bool {
        matches!(self, Self::Closed | Self::RuntimeEnded)
    }

    /// Whether something that could not be opened is worth another try: nobody refused it.
    pub(crate) fn is_worth_another_try(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. }
                | Self::Unresponsive { .. }
                | Self::ChannelClosed { .. }
                | Self::Panicked { .. }
        )
    }
}

/// What is in the way of a TLS connection. Its text says what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFailure {
    /// Nobody who is trusted here has signed the broker's certificate.
    #[error(
        "nobody who is trusted here signed the broker's certificate: give the CA that did with Tls::ca_certificate_pem"
    )]
    Untrusted,

    /// The broker's certificate is for another host.
    #[error("the broker's certificate is for another host: connect by a name that it holds")]
    WrongName,

    /// The broker's certificate is not valid at this time.
    #[error(
        "the broker's certificate has expired or is not valid yet: renew it, or set the clock of this machine"
    )]
    OutOfDate,

    /// The broker wants a certificate of the client, or does not take the one that it was given.
    #[error("the broker wants a client certificate that its own CA signed: give one with Tls::identity_pem")]
    ClientCertificate,

    /// The address says `amqps://`, and the port does not speak TLS.
    #[error("the port does not speak TLS: use the broker's TLS port, which is 5671 by default")]
    NotTls,

    /// The address says `amqp://`, and the port speaks TLS.
    #[error("the port speaks TLS: use amqps://")]
    NotPlain,

    /// Anything else, as the error's source says. A broker with no more than TLS 1.2 ends the handshake so where it wants a client
    /// certificate and is given none.
    #[error(
        "the handshake failed: there is no version or cipher in common, or the broker wants a client certificate"
    )]
    Handshake,
}

/// The underlying error of a [`BrokerError`].
#[derive(Debug, Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Cause {
    /// The first one that says more than the error itself: many errors repeat the text of their source.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let said = self.0.to_string();
        let mut source = self.0.source();
        while let Some(repeated) = source.filter(|source| said.ends_with(&source.to_string())) {
            source = repeated.source();
        }
        source
    }
}

impl Cause {
    pub(crate) fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(source.into()))
    }

    /// The error itself, if it is of this type.
    pub(crate) fn downcast_ref<T: Error + 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_the_method_ran() {
        assert_eq!(CallError::Service("x").executed(), Executed::Yes);
        assert_eq!(
            CallError::<()>::NoServer { queue: "q".into() }.executed(),
            Executed::No
        );
        let interrupted = CallError::<()>::Fault(Fault::new(FaultCode::Interrupted, ""));
        assert_eq!(interrupted.executed(), Executed::Maybe);
        let late = CallError::<()>::TimedOut {
            limit: Duration::from_secs(1),
            executed: Executed::Maybe,
            source: None,
        };
        assert_eq!(late.executed(), Executed::Maybe);
    }

    #[test]
    fn each_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("IO error: {0}")]
        struct Repeats(#[source] std::io::Error);

        let refused = || Repeats(std::io::Error::from_raw_os_error(111));
        let connect = BrokerError::Connect {
            host: "h:1".into(),
            source: Cause::new(refused()),
        };
        let told = Chain(&connect).to_string();
        assert_eq!(told.matches("os error 111").count(), 1, "{told}");
        assert!(connect.source().unwrap().source().is_none());
        assert_eq!(Chain(&refused()).to_string(), refused().to_string());
    }

    #[test]
    fn sources_are_kept() {
        let cause = Cause::new(std::io::Error::other("refused"));
        let error: CallError = CallError::Broker {
            source: BrokerError::Connect {
                host: "h:1".into(),
                source: cause,
            },
            executed: Executed::No,
        };
        let broker = error.source().unwrap();
        assert_eq!(broker.to_string(), "cannot connect to the broker at h:1");
        assert_eq!(broker.source().unwrap().to_string(), "refused");
        assert_eq!(
            Chain(&error).to_string(),
            "the broker failed the call: cannot connect to the broker at h:1: refused"
        );
    }
}
