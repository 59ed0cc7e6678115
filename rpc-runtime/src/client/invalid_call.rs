//! The errors of a call that cannot be sent.

use std::time::Duration;

use crate::codec::EncodeError;
use crate::error::{CallError, MethodKind};
use crate::protocol::{InvalidHeader, InvalidName};

/// Why a call cannot be sent: the variant of [`CallError`] with the same name. A call keeps it
/// until it is awaited, and then fails with it.
#[derive(Debug)]
pub(crate) enum InvalidCall {
    Encode(EncodeError),
    Invalid { what: &'static str, source: InvalidName },
    NotDescribed { method: String },
    CannotDelay { method: String, delay: Duration },
    WrongKind { method: String, kind: MethodKind },
}

impl From<InvalidHeader> for InvalidCall {
    fn from(InvalidHeader { what, source }: InvalidHeader) -> Self {
        Self::Invalid { what, source }
    }
}

impl From<InvalidCall> for CallError {
    fn from(reason: InvalidCall) -> Self {
        match reason {
            InvalidCall::Encode(source) => Self::Encode(source),
            InvalidCall::Invalid { what, source } => Self::Invalid { what, source },
            InvalidCall::NotDescribed { method } => Self::NotDescribed { method },
            InvalidCall::CannotDelay { method, delay } => Self::CannotDelay { method, delay },
            InvalidCall::WrongKind { method, kind } => Self::WrongKind { method, kind },
        }
    }
}
