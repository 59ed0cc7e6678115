//! The path of a call to the backend: directly, or through layers.

use std::sync::Arc;

use futures_util::future::ready;

use super::backend::Backend;
use super::in_flight_call::InFlightCall;
use super::middleware::LayeredCaller;
use super::observed::{ReplyFuture, observed};
use super::plan::CallPlan;
use super::time_limit::TimeLimit;
use crate::error::CallError;
use crate::service::ambient_deadline;
use crate::telemetry::{CallKind, ItemFlow};

/// The path of a client's calls to the backend.
#[derive(Debug, Clone)]
pub(crate) enum CallPath {
    Direct(Backend),
    Layered(Arc<LayeredCaller>),
}

impl CallPath {
    /// Returns what the calls are sent to in the end.
    pub(crate) fn backend(&self) -> &Backend {
        match self {
            Self::Direct(backend) => backend,
            Self::Layered(caller) => caller.backend(),
        }
    }

    fn kind(&self) -> CallKind {
        match self {
            Self::Direct(_) => CallKind::Direct,
            Self::Layered(_) => CallKind::Layered,
        }
    }

    /// Returns [`CallError::TooLarge`] if the arguments of a request are too large to be sent.
    pub(super) fn check_size(&self, plan: &CallPlan) -> Result<(), CallError> {
        match self.backend() {
            Backend::Broker(caller) => caller.check_size(plan),
            Backend::InProcess(_) => Ok(()),
        }
    }

    /// Begins the call's time limit, makes the call and waits for its outcome.
    pub(crate) fn call(self, call: Arc<InFlightCall>) -> ReplyFuture {
        let plan = call.plan();
        let upload = plan.destination.upload.clone();
        // The time limit covers only the wait for the first message of a stream, so the deadline of
        // the handler that makes the call must end its streams. That is set here for a call that
        // sends a stream, and by `StreamingCall` for a call that receives one.
        if let (Some(upload), Some(inbox)) = (&plan.destination.upload, &plan.destination.inbox) {
            let ends_at = ambient_deadline().filter(|_| !plan.is_detached);
            inbox.set_handler_deadline(ends_at);
            upload.begin(ends_at);
        }
        let reply = match plan.time_limit() {
            Ok(time_limit) => self.call_within(call, time_limit),
            // A call without any time left is recorded, too.
            Err(too_late) => observed(self.kind(), call, |_| Box::pin(ready(Err(too_late)))),
        };
        match upload {
            Some(upload) => Box::pin(upload.drop_stream_after(reply)),
            None => reply,
        }
    }

    /// Makes a call and waits for its outcome, within a time limit that may have begun earlier.
    pub(super) fn call_within(self, call: Arc<InFlightCall>, time_limit: TimeLimit) -> ReplyFuture {
        let plan = call.plan();
        if let Some(inbox) = &plan.destination.inbox {
            inbox.begin(ItemFlow::of_call(plan.label()));
        }
        let kind = self.kind();
        match self {
            Self::Direct(backend) => observed(kind, call, |call| backend.call(call, time_limit)),
            Self::Layered(caller) => observed(kind, call, |call| {
                Box::pin(async move { caller.call(call.plan(), time_limit).await })
            }),
        }
    }
}
