//! What goes wrong between this process and the broker.

use std::sync::Arc;
use std::time::Duration;

use super::cause::Cause;
use super::tls::TlsFailure;

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
    pub(super) fn may_pass(&self) -> bool {
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
