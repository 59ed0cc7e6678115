//! Why a name cannot be sent.

use super::short_str::{MAX_SHORT_STR, TooLong};

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
