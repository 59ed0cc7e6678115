//! Why a name is invalid.

use super::short_str::{MAX_SHORT_STR, TooLong};

/// Why the name of a queue or a header, or a header itself, is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// It is too long. AMQP limits names, and this library limits the headers of a call.
    #[error("{length} bytes are too long: at most {limit} fit")]
    #[non_exhaustive]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// It is reserved by RabbitMQ: the headers `CC` and `BCC` send copies to other queues, headers
    /// such as `x-death` tell the history of a message, and queue names that begin with `amq.` are
    /// the broker's own.
    #[error("RabbitMQ reserves this name: choose another")]
    Reserved,

    /// It is reserved by this library: headers that begin with `rpc-`, queues that begin with
    /// `rpc.`, and queues that end with `.batch`.
    #[error("the RPC runtime reserves this name: choose another")]
    ReservedByRuntime,

    /// It is empty.
    #[error("it is empty: choose a name")]
    Empty,

    /// It contains a control character, such as a line break.
    #[error("it contains a control character: choose a printable name")]
    ControlCharacter,
}

impl InvalidName {
    /// [`InvalidName::TooLong`]: the name has `length` bytes, and at most `limit` are allowed.
    #[must_use]
    pub const fn too_long(length: usize, limit: usize) -> Self {
        Self::TooLong { length, limit }
    }
}

impl From<TooLong> for InvalidName {
    fn from(TooLong { length }: TooLong) -> Self {
        Self::TooLong {
            length,
            limit: MAX_SHORT_STR,
        }
    }
}
