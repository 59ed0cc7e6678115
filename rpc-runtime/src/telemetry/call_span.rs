//! The span and the metrics of a call.

use std::sync::Arc;
use std::time::Duration;

use tracing::Span;
use tracing::field::Empty;
use uuid::Uuid;

use super::counted::Counted;
use super::counter::Counter;
use super::in_span::InSpan;
use super::items::ItemFlow;
use super::method::Method;
use super::metrics;
use super::outcome::Outcome;
use super::propagation::SpanContext;
use super::span::{SYSTEM, nonzero_millis, to_attribute};
use crate::error::CallError;
use crate::protocol::{Headers, QueueTime, Reply};

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// A call of a client without layers.
    Direct,
    /// A call of a client with layers. It sends nothing itself; its attempts do.
    Layered,
    /// An attempt that a layer makes.
    Attempt,
}

impl CallKind {
    /// Returns OpenTelemetry's kind of span.
    fn span_kind(self) -> &'static str {
        match self {
            Self::Direct | Self::Attempt => "client",
            Self::Layered => "internal",
        }
    }

    /// A layered call and its attempts are counted by different metrics, so that none counts twice.
    fn counted_as(self) -> Counted {
        match self {
            Self::Direct | Self::Layered => Counted::Calls,
            Self::Attempt => Counted::Attempts,
        }
    }
}

/// The properties of a call that are known before it is sent.
#[derive(Debug, Clone)]
pub(crate) struct CallInfo<'a> {
    pub(crate) method: Method,
    pub(crate) queue: &'a str,
    pub(crate) id: Uuid,
    /// The length of the encoded arguments.
    pub(crate) bytes: usize,
}

/// The span of a call that is not made yet.
#[derive(Debug)]
pub(crate) struct CallSpan {
    span: Span,
    kind: CallKind,
    method: Method,
}

impl CallSpan {
    pub(crate) fn new(kind: CallKind, info: CallInfo<'_>) -> Self {
        let CallInfo {
            method,
            queue,
            id,
            bytes,
        } = info;
        let span = tracing::info_span!(
            "call",
            otel.name = method.full_name(),
            otel.kind = kind.span_kind(),
            otel.status_code = Empty,
            rpc.system.name = SYSTEM,
            rpc.method = method.full_name(),
            rpc.response.status_code = Empty,
            rpc.queue_time_ms = Empty,
            rpc.client_wait_ms = Empty,
            rpc.request.items = Empty,
            rpc.response.items = Empty,
            rpc.first_item_ms = Empty,
            error.type = Empty,
            messaging.system = "rabbitmq",
            messaging.operation.type = "send",
            messaging.operation.name = "publish",
            messaging.destination.name = queue,
            messaging.message.conversation_id = %id,
            messaging.message.body.size = to_attribute(bytes),
        );
        Self { span, kind, method }
    }

    /// Writes the trace context into the headers of the request.
    pub(crate) fn inject(&self, headers: &mut Headers) {
        SpanContext::of(&self.span).inject(headers);
    }

    /// Whether spans or metrics are collected. If not, [`run`](Self::run) only makes the call.
    pub(crate) fn is_observed(&self) -> bool {
        !self.span.is_disabled() || metrics::ARE_ON
    }

    /// Makes the call within the span, and records its outcome and how many `items` passed.
    pub(crate) fn run(
        self,
        items: Option<Arc<ItemFlow>>,
        call: impl Future<Output = Result<Reply, CallError>>,
    ) -> impl Future<Output = Result<Reply, CallError>> {
        let Self { span, kind, method } = self;
        async move {
            let counter = Counter::begin(kind.counted_as(), method, span, items);
            let result = InSpan::new(call, counter.span()).await;
            record_queue_time(counter.span(), &result);
            counter.end(Outcome::of_call(&result));
            result
        }
    }
}

/// Records how long a call waited in the client for a permit, in the current span, which must be
/// that of the call. Does nothing if the time is zero.
pub(crate) fn record_client_wait(time: Duration) {
    if let Some(millis) = nonzero_millis(time) {
        Span::current().record("rpc.client_wait_ms", millis);
    }
}

/// Records the queue time that the reply reports, unless it is unknown or zero.
fn record_queue_time(span: &Span, result: &Result<Reply, CallError>) {
    if span.is_disabled() {
        return;
    }
    if let Ok(reply) = result
        && reply.queue_time != QueueTime::default()
    {
        span.record("rpc.queue_time_ms", to_attribute(reply.queue_time.as_millis()));
    }
}
