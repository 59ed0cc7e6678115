//! The outcome of calls and requests in spans and metrics.

use crate::error::CallError;
use crate::protocol::{FaultCode, Reply, ReplyKind};

/// The outcome of a call or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The method's result.
    Ok,
    /// The method's own error.
    Error,
    /// A fault with this code.
    Fault(&'static str),
    /// The call has no answer that can be used, for this reason.
    Failed(&'static str),
    /// The call was dropped, or the method was, because its caller no longer waits.
    Cancelled,
}

impl Outcome {
    /// Returns the outcome of a request that the method, or a layer, has answered.
    pub(crate) fn of_answer(reply: &Reply) -> Self {
        match reply.kind {
            ReplyKind::Error => Self::Error,
            // Never `Fault`: the outcome of a fault is `of_fault`.
            ReplyKind::Result | ReplyKind::Fault => Self::Ok,
        }
    }

    pub(crate) fn of_fault(code: &FaultCode) -> Self {
        Self::Fault(code.known_str().unwrap_or("other"))
    }

    /// Returns the outcome of a call. Its reply may be an error or a fault.
    pub(crate) fn of_call(result: &Result<Reply, CallError>) -> Self {
        match result {
            Ok(reply) if reply.kind == ReplyKind::Fault => Self::of_fault(&reply.read_fault().code),
            Ok(reply) => Self::of_answer(reply),
            Err(CallError::Service(never)) => match *never {},
            Err(CallError::ServiceText(_)) => Self::Error,
            Err(CallError::Fault(fault)) => Self::of_fault(&fault.code),
            Err(CallError::NoServer { .. } | CallError::NoWorkers { .. }) => Self::Failed("no_server"),
            Err(CallError::TimedOut { .. }) => Self::Failed("timed_out"),
            Err(CallError::TooManyCalls { .. }) => Self::Failed("too_many_calls"),
            Err(CallError::Overloaded { .. }) => Self::Failed("overloaded"),
            Err(CallError::TooLarge { .. }) => Self::Failed("too_large"),
            Err(
                CallError::Encode(_)
                | CallError::NotDescribed { .. }
                | CallError::CannotDelay { .. }
                | CallError::CannotEncode
                | CallError::WrongKind { .. }
                | CallError::Invalid { .. },
            ) => Self::Failed("invalid"),
            Err(CallError::BadItem { .. }) => Self::Failed("bad_item"),
            Err(CallError::BadReply { .. }) => Self::Failed("bad_reply"),
            Err(CallError::Refused { .. }) => Self::Failed("refused"),
            Err(CallError::Broker { .. }) => Self::Failed("broker"),
            Err(CallError::Middleware { .. }) => Self::Failed("middleware"),
        }
    }

    /// Returns the outcome's name in spans and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Fault(name) | Self::Failed(name) => name,
            Self::Cancelled => "cancelled",
        }
    }
}
