//! Failures between this process and the broker.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::cause::Cause;
use super::tls::TlsFailure;

/// A failure between this process and the broker.
///
/// Cheap to clone: one lost connection fails many calls with the same error.
///
/// Variants with fields may gain more of them, so match them with `..`. Code that has to make such
/// an error, such as a test, uses one of the constructors, for example [`BrokerError::lost`].
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The address cannot be parsed, or does not fit the other addresses or the options. The error
    /// does not repeat it, as it may contain a password.
    #[error("invalid broker address: {reason}")]
    #[non_exhaustive]
    InvalidAddress {
        /// What is wrong with the address.
        reason: &'static str,
    },

    /// No address was given, neither to the builder nor by the environment, if that is read.
    #[error(
        "there is no broker address: set AMQP_URL for `BrokerBuilder::from_env`, or give an address to `connect`"
    )]
    NoAddress,

    /// An environment variable has an invalid value or an unknown name, or a variable that another
    /// one needs is missing. The error does not repeat the value, as it may be a password.
    #[error("the environment variable {variable} {problem}")]
    #[non_exhaustive]
    Environment {
        /// The variable's name.
        variable: String,
        /// What is wrong with it, and which values are valid.
        problem: String,
        /// The underlying error, if there is one.
        source: Option<Cause>,
    },

    /// The address asks for TLS, but the cargo feature `tls` is not enabled.
    #[error("amqps:// needs TLS, which this build does not have: enable the feature \"tls\" of rpc-runtime")]
    TlsUnsupported,

    /// A certificate or key for TLS is invalid, the two do not match, or the system has no CA
    /// certificates. The error does not repeat them.
    #[error("the TLS options cannot be used: {reason}")]
    #[non_exhaustive]
    InvalidTls {
        /// What is wrong, and in most cases what is expected.
        reason: &'static str,
        /// The underlying error, if there is one.
        source: Option<Cause>,
    },

    /// The broker was reached, but the TLS handshake with it failed, or its port and the address do
    /// not agree on TLS.
    #[error("no TLS connection to the broker at {host}: {failure}")]
    #[non_exhaustive]
    Tls {
        /// Host and port.
        host: String,
        /// Why there is no TLS connection.
        failure: TlsFailure,
        /// The underlying error.
        source: Cause,
    },

    /// No connection could be opened.
    #[error("cannot connect to the broker at {host}")]
    #[non_exhaustive]
    Connect {
        /// Host and port.
        host: String,
        /// The underlying error.
        source: Cause,
    },

    /// The broker did not answer in time.
    #[error("the broker did not answer within {limit:?}: {step}")]
    #[non_exhaustive]
    Unresponsive {
        /// The operation that timed out.
        step: &'static str,
        /// The time limit of the operation.
        limit: Duration,
    },

    /// The broker refused to declare, find or consume a queue.
    #[error("the broker refused queue {queue:?}")]
    #[non_exhaustive]
    Queue {
        /// The queue.
        queue: String,
        /// The broker's reason, for example `PRECONDITION_FAILED` if the queue exists with other
        /// properties. With `INTERNAL_ERROR` the broker closes the connection, as RabbitMQ 4.3 does
        /// for transient queues.
        source: Cause,
        /// Whether the queue's node may be down: the broker reported that, or did not answer. The
        /// node may come back.
        is_temporary: bool,
    },

    /// The broker refused an operation on an exchange: the exchange does not exist or has another
    /// type, the user lacks the permission, or a queue behind the exchange did not accept a
    /// discovery request.
    #[error("the broker refused to {action} exchange {exchange:?}")]
    #[non_exhaustive]
    Exchange {
        /// The exchange.
        exchange: String,
        /// The operation, such as `declare`.
        action: &'static str,
        /// The broker's reason.
        source: Cause,
    },

    /// The handle was made without waiting for the broker (see
    /// [`BrokerBuilder::lazy`](crate::BrokerBuilder::lazy)), and its first attempt to connect has
    /// not ended.
    #[error("the broker handle is not connected yet")]
    NotConnected,

    /// The connection was lost.
    #[error("the connection to the broker was lost")]
    #[non_exhaustive]
    Lost {
        /// Why, if known.
        source: Option<Cause>,
    },

    /// The broker closed a channel because of something that was sent through it. The connection is
    /// still open.
    #[error("the broker closed the channel")]
    #[non_exhaustive]
    ChannelClosed {
        /// The broker's reason.
        source: Cause,
    },

    /// The broker does not read what is published, because of an
    /// [alarm](https://www.rabbitmq.com/docs/alarms).
    #[error("the broker blocks publishers: {reason}")]
    #[non_exhaustive]
    Blocked {
        /// The broker's reason, such as `low on memory`.
        reason: Arc<str>,
    },

    /// The broker cancelled the consumer of a queue: the queue was deleted, or its node failed.
    #[error("the broker cancelled the consumer of queue {queue:?}")]
    #[non_exhaustive]
    Cancelled {
        /// The queue.
        queue: String,
    },

    /// The connection has reached its limit of channels: `channel_max` in the address or in the
    /// broker's configuration, or the RabbitMQ user's `max-channels`. This error fails calls and
    /// ends [`Server::start`](crate::Server::start).
    ///
    /// A handle needs two channels for its calls, another once it cancels one or reads a stream,
    /// and another once it sends a stream. A server needs one for each of its queues, one for each
    /// queue of batched calls, one for each queue with jobs, one if a method receives a stream, and
    /// four more, one of them only once requests wait.
    #[error(
        "no channel is left for this connection to the broker: raise channel_max (of the address, of the broker) or the user's max-channels"
    )]
    #[non_exhaustive]
    TooManyChannels {
        /// Which limit was reached.
        source: Cause,
    },

    /// A background task panicked, which is a bug of this library. The messages that it was working
    /// on may be lost. Tasks of a handle are restarted. A server that ends with this error is not.
    #[error("a background task panicked: {task}")]
    #[non_exhaustive]
    Panicked {
        /// The task's name.
        task: &'static str,
    },

    /// The broker handle was closed.
    #[error("the broker handle is closed")]
    Closed,

    /// The tokio runtime in which the handle was created has shut down, and all tasks of the handle
    /// with it. This is permanent: create another handle, in a runtime that outlives its users.
    #[error(
        "the tokio runtime that the broker handle was created in has shut down: create the handle in one that outlives its users"
    )]
    RuntimeEnded,

    /// A message, or the name of a queue, user or application, does not fit the limits of AMQP.
    #[error("the message cannot be sent: {reason}")]
    #[non_exhaustive]
    Unsendable {
        /// What does not fit.
        reason: &'static str,
    },
}

/// Constructors for code that has to make an error, such as tests and mocks.
impl BrokerError {
    /// [`BrokerError::InvalidAddress`].
    #[must_use]
    pub fn invalid_address(reason: &'static str) -> Self {
        Self::InvalidAddress { reason }
    }

    /// [`BrokerError::Connect`]: no connection to this host and port could be opened.
    pub fn connect(host: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Connect {
            host: host.into(),
            source: Cause::new(source),
        }
    }

    /// [`BrokerError::Queue`]: the broker refused this queue, and not only for a moment.
    pub fn queue(queue: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Queue {
            queue: queue.into(),
            source: Cause::new(source),
            is_temporary: false,
        }
    }

    /// [`BrokerError::Lost`], for an unknown reason.
    #[must_use]
    pub fn lost() -> Self {
        Self::Lost { source: None }
    }

    /// [`BrokerError::Blocked`], for a reason such as `low on memory`.
    pub fn blocked(reason: impl Into<Arc<str>>) -> Self {
        Self::Blocked {
            reason: reason.into(),
        }
    }
}

impl BrokerError {
    /// Whether the failure can pass by itself, so that the same operation may succeed later.
    ///
    /// It is `false` if someone has to act first: the configuration is wrong, a certificate is not
    /// accepted, the broker refused an exchange, or a queue for more than a moment, a limit is
    /// reached, the message cannot be sent, or the handle has ended. A refused user or virtual host
    /// is a [`Connect`](Self::Connect) error, which is transient.
    ///
    /// It does not say whether it is safe to call again; see
    /// [`CallError::is_retryable`](crate::CallError::is_retryable) for that.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Unresponsive { .. }
            | Self::NotConnected
            | Self::Lost { .. }
            | Self::ChannelClosed { .. }
            | Self::Blocked { .. }
            | Self::Cancelled { .. }
            | Self::Panicked { .. }
            // The peer may have closed the connection because it was restarting.
            | Self::Tls {
                failure: TlsFailure::Handshake,
                ..
            } => true,
            Self::Queue { is_temporary, .. } => *is_temporary,
            Self::InvalidAddress { .. }
            | Self::NoAddress
            | Self::Environment { .. }
            | Self::TlsUnsupported
            | Self::InvalidTls { .. }
            | Self::Tls { .. }
            | Self::Exchange { .. }
            | Self::TooManyChannels { .. }
            | Self::Closed
            | Self::RuntimeEnded
            | Self::Unsendable { .. } => false,
        }
    }

    /// Whether an operation is tried again after this error, instead of failing with it: the error
    /// is transient, and is no [`Queue`](Self::Queue) error. For example, a server that starts
    /// waits for the broker, but fails if a queue is refused, even if only for a moment.
    pub(crate) fn is_waited_out(&self) -> bool {
        self.is_transient() && !matches!(self, Self::Queue { .. })
    }

    /// Whether the broker refused an exchange or a queue, and will until someone acts.
    pub(crate) fn is_lasting_refusal(&self) -> bool {
        match self {
            Self::Exchange { .. } => true,
            Self::Queue { is_temporary, .. } => !is_temporary,
            _ => false,
        }
    }

    /// Whether the handle was closed or its runtime has shut down: nothing works any more.
    pub(crate) fn is_handle_ended(&self) -> bool {
        matches!(self, Self::Closed | Self::RuntimeEnded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_transient_unless_someone_has_to_act() {
        let source = || Cause::new("why");
        let queue = || "q".to_owned();
        let host = || "h:1".to_owned();
        let limit = Duration::from_secs(1);
        let transient = [
            BrokerError::Connect {
                host: host(),
                source: source(),
            },
            BrokerError::Unresponsive { step: "", limit },
            BrokerError::NotConnected,
            BrokerError::Lost { source: None },
            BrokerError::ChannelClosed { source: source() },
            BrokerError::Blocked { reason: "".into() },
            BrokerError::Cancelled { queue: queue() },
            BrokerError::Panicked { task: "" },
            BrokerError::Tls {
                host: host(),
                failure: TlsFailure::Handshake,
                source: source(),
            },
            BrokerError::Queue {
                queue: queue(),
                source: source(),
                is_temporary: true,
            },
        ];
        let permanent = [
            BrokerError::InvalidAddress { reason: "" },
            BrokerError::NoAddress,
            BrokerError::TlsUnsupported,
            BrokerError::InvalidTls {
                reason: "",
                source: None,
            },
            BrokerError::Tls {
                host: host(),
                failure: TlsFailure::Untrusted,
                source: source(),
            },
            BrokerError::Queue {
                queue: queue(),
                source: source(),
                is_temporary: false,
            },
            BrokerError::Exchange {
                exchange: queue(),
                action: "declare",
                source: source(),
            },
            BrokerError::TooManyChannels { source: source() },
            BrokerError::Closed,
            BrokerError::RuntimeEnded,
            BrokerError::Unsendable { reason: "" },
        ];
        for error in transient {
            assert!(error.is_transient(), "{error:?}");
        }
        for error in permanent {
            assert!(!error.is_transient(), "{error:?}");
        }
    }

    #[test]
    fn a_refusal_lasts_unless_it_is_temporary() {
        let source = || Cause::new("why");
        let queue = |is_temporary| BrokerError::Queue {
            queue: "q".into(),
            source: source(),
            is_temporary,
        };
        let exchange = BrokerError::Exchange {
            exchange: "e".into(),
            action: "declare",
            source: source(),
        };
        for refused in [exchange, queue(false)] {
            assert!(refused.is_lasting_refusal(), "{refused:?}");
        }
        for passing in [
            queue(true),
            BrokerError::TooManyChannels { source: source() },
            BrokerError::Lost { source: None },
            BrokerError::Closed,
        ] {
            assert!(!passing.is_lasting_refusal(), "{passing:?}");
        }
    }
}
