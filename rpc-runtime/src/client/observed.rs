//! Records the spans and metrics of calls.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::in_flight_call::InFlightCall;
use crate::error::CallError;
use crate::protocol::Reply;
use crate::telemetry::{CallInfo, CallKind, CallSpan};

/// A future that makes a call and returns its reply.
pub(super) type ReplyFuture = BoxFuture<'static, Result<Reply, CallError>>;

/// Makes a call with `make`, in a span, and counts it. Unless the call is layered, writes the trace
/// context into its headers. If neither spans nor metrics are collected, returns the future of
/// `make` itself.
pub(super) fn observed(
    kind: CallKind,
    mut call: Arc<InFlightCall>,
    make: impl FnOnce(Arc<InFlightCall>) -> ReplyFuture,
) -> ReplyFuture {
    let plan = call.plan();
    let span = CallSpan::new(
        kind,
        CallInfo {
            method: plan.label(),
            queue: plan.destination.queue.as_str(),
            id: call.id(),
            bytes: plan.arguments.0.len(),
        },
    );
    // A request carries the span of its own attempt. A layered call sends none: its attempts do.
    if kind != CallKind::Layered
        // A call that has not begun has no other owner.
        && let Some(call) = Arc::get_mut(&mut call)
    {
        span.inject(&mut call.plan_mut().headers);
    }
    if !span.is_observed() {
        return make(call);
    }
    let inbox = call.plan().destination.inbox.as_ref();
    let item_flow = inbox.and_then(|inbox| inbox.flow());
    Box::pin(span.run(item_flow, make(call)))
}
