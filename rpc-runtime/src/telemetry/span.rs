//! What the spans of calls and requests share. They follow OpenTelemetry's conventions for
//! [RPC](https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/) and
//! [messaging](https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/).

use std::time::Duration;

use tracing::Span;

use super::outcome::Outcome;

/// The value of the attribute `rpc.system.name`.
pub(super) const SYSTEM: &str = "rpc-runtime";

/// Converts a time to a span's attribute in milliseconds, rounded up as in headers. Returns `None`
/// for zero.
pub(super) fn nonzero_millis(time: Duration) -> Option<i64> {
    let millis = time.as_nanos().div_ceil(1_000_000);
    (millis > 0).then(|| to_attribute(millis))
}

/// Converts a number to a span's attribute. That is signed, because exporters convert unsigned
/// numbers to text.
pub(super) fn to_attribute(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// The side of a call that a span belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Worker,
}

/// Records how the call or request of a span ended, and whether that counts as an error.
pub(super) fn record_outcome(span: &Span, side: Side, outcome: Outcome) {
    span.record("rpc.response.status_code", outcome.as_str());
    if outcome == Outcome::Ok {
        return;
    }
    span.record("error.type", outcome.as_str());
    let is_error = match side {
        // A caller drops its call, or stops reading a stream, on purpose.
        Side::Caller => outcome != Outcome::Cancelled,
        Side::Worker => is_worker_error(outcome),
    };
    if is_error {
        span.record("otel.status_code", "ERROR");
    }
}

/// Whether the outcome is an error of the worker. By the conventions, a mistake of the caller, such
/// as an invalid or unauthorized request, is not an error in the worker's span. The method's own
/// error is an answer, and a refusal under overload is intended, so they are not errors either.
fn is_worker_error(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Fault(
            "panicked" | "unanswerable" | "reply_too_large" | "abandoned" | "interrupted" | "other"
        )
    )
}
