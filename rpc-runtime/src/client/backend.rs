//! What a client's requests are sent to: a broker, or a service in this process.

use std::sync::Arc;

use super::caller::Caller;
use super::in_flight_call::InFlightCall;
use super::in_process::InProcess;
use super::observed::{ReplyFuture, observed};
use super::time_limit::TimeLimit;
use crate::telemetry::CallKind;

/// What a client's requests are sent to.
#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Broker(Arc<Caller>),
    InProcess(Arc<InProcess>),
}

impl Backend {
    /// Returns the largest body of a reply, and the largest item of a stream, that is accepted, in
    /// bytes.
    pub(super) fn max_accepted_bytes(&self) -> usize {
        match self {
            Self::Broker(caller) => caller.max_accepted_bytes(),
            Self::InProcess(_) => usize::MAX,
        }
    }

    /// Makes one attempt of a call that goes through layers, in a span of its own. A layer such as
    /// `Retry` may make several.
    pub(crate) fn attempt(self, call: Arc<InFlightCall>, time_limit: TimeLimit) -> ReplyFuture {
        observed(CallKind::Attempt, call, |call| self.call(call, time_limit))
    }

    /// Makes a call and waits for its outcome; see [`Caller::call`]. The caller of this function
    /// opens the span.
    pub(super) fn call(self, call: Arc<InFlightCall>, time_limit: TimeLimit) -> ReplyFuture {
        match self {
            Self::Broker(caller) => Box::pin(caller.call(call, time_limit)),
            Self::InProcess(service) => Box::pin(service.call(call, time_limit)),
        }
    }
}
