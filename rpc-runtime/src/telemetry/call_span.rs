//! A call as spans and metrics show it.

use std::time::Duration;

use tracing::field::{Empty, display};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::counted::{Counted, Counts};
use super::metrics::{self, Method};
use super::outcome::Outcome;
use super::propagation;
use super::span::{SYSTEM, Side, ended, millis};
use crate::error::CallError;
use crate::escape::OneLine;
use crate::protocol::{Headers, QUEUE_TIME_HEADER, Reply, read_millis};

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// The call is sent as it is.
    Direct,
    /// Layers make attempts, which are sent.
    Layered,
    /// Such an attempt.
    Attempt,
}

impl CallKind {
    /// OpenTelemetry's kind of span.
    fn span_kind(self) -> &'static str {
        match self {
            Self::Direct | Self::Attempt => "client",
            Self::Layered => "internal",
        }
    }

    fn counts(self) -> Counts {
        match self {
            Self::Direct | Self::Layered => Counts::Calls,
            Self::Attempt => Counts::Attempts,
        }
    }
}

/// What is known of a call before it is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallInfo<'a> {
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    pub(crate) queue: &'a str,
    /// The length of the arguments.
    pub(crate) bytes: usize,
}

/// The span of a call, and what is counted of it.
#[derive(Debug)]
pub(crate) struct CallSpan {
    span: Span,
    kind: CallKind,
    method: Method,
}

impl CallSpan {
    pub(crate) fn new(kind: CallKind, call: CallInfo<'_>) -> Self {
        let CallInfo {
            service,
            method,
            queue,
            bytes,
        } = call;
        let span = tracing::info_span!(
            "call",
            otel.name = %OneLine(format_args!("{service}/{method}")),
            otel.kind = kind.span_kind(),
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
            messaging.destination.name = queue,
            messaging.message.conversation_id = Empty,
            messaging.message.body.size = bytes,
        );
        Self {
            span,
            kind,
            method: Method { service, method },
        }
    }

    /// Writes the context of the trace into the headers of the request.
    pub(crate) fn inject(&self, headers: &mut Headers) {
        propagation::inject(&self.span, headers);
    }

    /// Whether anybody collects spans or metrics. If not, the call need not be
    /// [watched](Self::watch).
    pub(crate) fn is_observed(&self) -> bool {
        !self.span.is_disabled() || metrics::ARE_ON
    }

    /// Makes the call within the span, and records how it ends.
    pub(crate) fn watch(
        self,
        id: Uuid,
        call: impl Future<Output = Result<Reply, CallError>>,
    ) -> impl Future<Output = Result<Reply, CallError>> {
        let Self { span, kind, method } = self;
        span.record("messaging.message.conversation_id", display(id));
        let call = call.instrument(span.clone());
        async move {
            let counted = Counted::begin(kind.counts(), method);
            let answer = call.await;
            let outcome = Outcome::of_call(&answer);
            record_queue_time(&span, &answer);
            ended(&span, Side::Caller, outcome);
            counted.ended(outcome);
            answer
        }
    }
}

/// Records how long the current call waited for a place among those in flight.
pub(crate) fn waited_in_client(time: Duration) {
    if let Some(millis) = millis(time) {
        Span::current().record("rpc.client_wait_ms", millis);
    }
}

/// Records the time in the queue that the reply tells.
fn record_queue_time(span: &Span, answer: &Result<Reply, CallError>) {
    if span.is_disabled() {
        return;
    }
    if let Ok(reply) = answer
        && let Some(time) = read_millis(&reply.headers, QUEUE_TIME_HEADER)
    {
        span.record("rpc.queue_time_ms", millis(time));
    }
}
