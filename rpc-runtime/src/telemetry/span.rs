//! What the spans of calls and requests have in common. They follow OpenTelemetry's conventions for
//! [RPC](https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/) and
//! [messaging](https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/).

use std::time::Duration;

use tracing::Span;

use super::outcome::Outcome;

/// What the conventions call a system of remote procedure calls.
pub(super) const SYSTEM: &str = "rpc-runtime";

/// A time as spans have it: in milliseconds. `None` if it is zero. Signed, as exporters write other numbers as text.
pub(super) fn millis(time: Duration) -> Option<i64> {
    let millis = time.as_micros().div_ceil(1000);
    (millis > 0).then(|| i64::try_from(millis).unwrap_or(i64::MAX))
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
