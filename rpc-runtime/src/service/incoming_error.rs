//! Why a stream that a method receives breaks off.

use crate::codec::DecodeError;

/// Why a stream that a method receives breaks off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IncomingError {
    /// The caller is gone: it has sent nothing for 16 seconds, or its reply queue no longer exists.
    /// Or the method has returned or was cancelled, and a task that it has spawned still reads the
    /// stream.
    #[error("the caller is gone, or the method has ended, before the end of the items")]
    Interrupted,

    /// An item cannot be decoded.
    #[error("an item cannot be read")]
    Decode(#[source] DecodeError),

    /// An item is larger than the worker accepts.
    #[error("an item has {size} bytes, and at most {limit} are accepted")]
    #[non_exhaustive]
    TooLarge {
        /// The size of the encoded item, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },

    /// The caller does not keep to the protocol.
    #[error("the caller sent items that cannot be: {0}")]
    Protocol(&'static str),
}
