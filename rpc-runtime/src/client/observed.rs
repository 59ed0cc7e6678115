//! Makes calls under the eyes of telemetry.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::slot::Slot;
use crate::error::CallError;
use crate::protocol::Reply;
use crate::telemetry::{CallInfo, CallKind, CallSpan};

/// A call that was made, and its reply.
pub(super) type Calling = BoxFuture<'static, Result<Reply, CallError>>;

/// Makes a call within a span, and counts it. Adds nothing to it if nobody collects either.
pub(super) fn observed(
    kind: CallKind,
    mut call: Arc<Slot>,
    make: impl FnOnce(Arc<Slot>) -> Calling,
) -> Calling {
    let plan = call.plan();
    let span = CallSpan::new(
        kind,
        CallInfo {
            service: plan.destination.service.name,
            method: plan.method.name,
            queue: plan.destination.queue.as_str(),
            bytes: plan.arguments.0.len(),
        },
    );
    if kind != CallKind::Layered
        // Nobody else has a call before it begins.
        && let Some(call) = Arc::get_mut(&mut call)
    {
        span.inject(&mut call.plan_mut().headers);
    }
    if !span.is_observed() {
        return make(call);
    }
    let id = call.id();
    Box::pin(span.watch(id, make(call)))
}
