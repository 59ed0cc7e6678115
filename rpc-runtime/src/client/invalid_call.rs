//! Why a call cannot be sent, known before it begins.

use crate::codec::EncodeError;
use crate::error::CallError;
use crate::protocol::{InvalidHeader, InvalidName};

/// Why a call cannot be sent at all; told when it is awaited.
#[derive(Debug)]
pub(crate) enum InvalidCall {
    Encode(EncodeError),
    Invalid { what: &'static str, source: InvalidName },
    NotDescribed { method: String },
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
        }
    }
}
