//! Violations of the protocol by the peer.

use std::io;

use crate::protocol::Malformed;

/// The peer sent something that no broker sends. The connection cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolViolation {
    #[error("the broker sent a frame of {size} bytes, but at most {max} were negotiated")]
    TooLarge { size: u64, max: usize },
    #[error("the broker sent the unexpected method {method} of class {class}")]
    UnknownMethod { class: u16, method: u16 },
    #[error("the broker's server properties cannot be read: {0}")]
    Table(Malformed),
    #[error("the broker sent frames of content that belong to no message")]
    UnexpectedContent,
    #[error("the peer answered with a TLS alert")]
    TlsAlert,
}

impl From<ProtocolViolation> for io::Error {
    fn from(violation: ProtocolViolation) -> Self {
        Self::new(io::ErrorKind::InvalidData, violation)
    }
}
