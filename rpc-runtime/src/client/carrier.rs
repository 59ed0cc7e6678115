//! What carries a request to its service: a broker, or a call within the process.

use std::sync::Arc;

use super::caller::Caller;
use super::in_process::InProcess;
use super::observed::{Calling, observed};
use super::slot::Slot;
use super::time_limit::TimeLimit;
use crate::telemetry::CallKind;

/// How requests reach the service.
#[derive(Debug, Clone)]
pub(crate) enum Carrier {
    /// As messages, through a broker.
    Broker(Arc<Caller>),
    /// By calling its implementation.
    InProcess(Arc<InProcess>),
}

impl Carrier {
    /// Makes an attempt that layers let through.
    pub(crate) fn attempt(self, call: Arc<Slot>, time: TimeLimit) -> Calling {
        observed(CallKind::Attempt, call, |call| self.send(call, time))
    }

    pub(super) fn send(self, call: Arc<Slot>, time: TimeLimit) -> Calling {
        match self {
            Self::Broker(caller) => Box::pin(caller.call(call, time)),
            Self::InProcess(service) => Box::pin(service.call(call, time)),
        }
    }
}
