//! Spans of calls and of requests, in the words of OpenTelemetry's conventions for
//! [RPC](https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/) and
//! [messaging](https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/).

use std::time::Duration;

use tracing::Span;
use tracing::field::Empty;

use super::Outcome;
use crate::client::CallPlan;
use crate::error::CallError;
use crate::escape::OneLine;
use crate::protocol::{QUEUE_TIME_HEADER, Reply, read_millis};
use crate::server::{Invocation, Service};

/// The span of a call; disabled where nobody looks at it. Its kind is `client` where it is sent, and `internal` where its attempts are.
pub(super) fn of_call(plan: &CallPlan, kind: &'static str) -> Span {
    let (service, method) = (plan.destination.service.name, plan.method.name);
    tracing::info_span!(
        "call",
        otel.name = %OneLine(format_args!("{service}/{method}")),
        otel.kind = kind,
        otel.status_code = Empty,
        rpc.system.name = SYSTEM,
        rpc.method = %OneLine(format_args!("{service}/{method}")),
        rpc.response.status_code = Empty,
        rpc.queue_time_ms = Empty,
        rpc.client_wait_ms = Empty,
        error.type = Empty,
        messaging.system = "rabbitmq",
        messaging.operation.type = "send",
        messaging.operation.name = "publish",
        messaging.destination.name = plan.destination.queue.as_str(),
        messaging.message.conversation_id = Empty,
        messaging.message.body.size = plan.arguments.0.len(),
    )
}

/// The span of a request that is run; disabled where nobody looks at it.
pub(super) fn of_request(service: &dyn Service, queue: &str, invocation: &Invocation) -> Span {
    let method = invocation.method();
    tracing::info_span!(
        "handle",
        otel.name = %format_args!("{}/{method}", service.descriptor().name),
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = SYSTEM,
        rpc.method = %format_args!("{}/{method}", service.descriptor().name),
        rpc.response.status_code = Empty,
        rpc.queue_time_ms = millis(invocation.context().queue_time()),
        error.type = Empty,
        messaging.system = "rabbitmq",
        messaging.operation.type = "process",
        messaging.operation.name = "process",
        messaging.destination.name = queue,
        messaging.message.conversation_id = invocation.context().correlation_id(),
        messaging.message.body.size = invocation.bytes(),
    )
}

/// What the conventions call a system of remote procedure calls.
const SYSTEM: &str = "rpc-runtime";

/// A time as spans have it: in milliseconds. `None` if it is zero. Signed, as exporters write other numbers as text.
fn millis(time: Duration) -> Option<i64> {
    let millis = time.as_micros().div_ceil(1000);
    (millis > 0).then(|| i64::try_from(millis).unwrap_or(i64::MAX))
}

/// Notes how long the call waited in the client.
pub(super) fn waited_in_client(span: &Span, time: Duration) {
    if let Some(millis) = millis(time) {
        span.record("rpc.client_wait_ms", millis);
    }
}

/// Notes what the reply says of the time in the queue.
pub(super) fn answered(span: &Span, outcome: &Result<Reply, CallError>) {
    if span.is_disabled() {
        return;
    }
    if let Ok(reply) = outcome
        && let Some(time) = read_millis(&reply.headers, QUEUE_TIME_HEADER)
    {
        span.record("rpc.queue_time_ms", millis(time));
    }
}

/// Who looks at a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Worker,
}

/// Notes how it ended.
pub(super) fn ended(span: &Span, side: Side, outcome: Outcome) {
    span.record("rpc.response.status_code", outcome.as_str());
    if outcome == Outcome::Ok {
        return;
    }
    span.record("error.type", outcome.as_str());
    if side == Side::Caller || is_workers_fault(outcome) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Whether a worker has reason to look after it. The conventions have no error in the worker's span for what is the caller's business: a
/// request that is wrong, or not allowed; nor is the method's own error one, which is an answer.
fn is_workers_fault(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Fault(
            "panicked" | "unanswerable" | "reply_too_large" | "abandoned" | "interrupted" | "other"
        )
    )
}
