//! The span and the metrics of a request.

use std::sync::Arc;
use std::time::Duration;

use tracing::Span;
use tracing::field::Empty;

use super::counted::Counted;
use super::counter::Counter;
use super::in_span::InSpan;
use super::items::ItemFlow;
use super::method::Method;
use super::metrics;
use super::outcome::Outcome;
use super::propagation::{self, IncomingContext, SpanContext};
use super::span::{SYSTEM, nonzero_millis, to_attribute};
use crate::protocol::Headers;

/// The properties of a request that are known before its method runs.
#[derive(Debug, Clone)]
pub(crate) struct RequestInfo<'a> {
    pub(crate) method: Method,
    pub(crate) queue: &'a str,
    pub(crate) correlation_id: Option<&'a str>,
    pub(crate) queue_time: Duration,
    /// The length of the encoded arguments.
    pub(crate) bytes: usize,
    pub(crate) headers: &'a Headers,
    /// Which attempt of a job this is, from 1.
    pub(crate) attempt: u32,
    /// The `traceparent` of the first attempt of a job that failed and was sampled.
    pub(crate) first_attempt: Option<&'a str>,
    /// The streams of the request. `None` if it has none.
    pub(crate) items: Option<Arc<ItemFlow>>,
}

/// How a request ended.
pub(crate) struct RequestEnd<'a> {
    pub(crate) outcome: Outcome,
    /// `false` if the request was refused, so that other metrics count it.
    pub(crate) may_have_run: bool,
    /// The headers of the reply.
    pub(crate) headers: &'a mut Headers,
}

pub(crate) struct RequestSpan {
    span: Span,
    context: IncomingContext,
    method: Method,
    items: Option<Arc<ItemFlow>>,
}

impl RequestSpan {
    /// Returns `None` if no spans or metrics are collected and there is no trace context to
    /// propagate: the request has no headers, or the feature `opentelemetry` is off.
    pub(crate) fn new(request: RequestInfo<'_>) -> Option<Self> {
        let method = request.method;
        let span = tracing::info_span!(
            "handle",
            otel.name = method.full_name(),
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = SYSTEM,
            rpc.method = method.full_name(),
            rpc.response.status_code = Empty,
            rpc.queue_time_ms = nonzero_millis(request.queue_time),
            rpc.request.items = Empty,
            rpc.response.items = Empty,
            rpc.first_item_ms = Empty,
            rpc.attempt = (request.attempt > 1).then(|| to_attribute(request.attempt)),
            error.type = Empty,
            messaging.system = "rabbitmq",
            messaging.operation.type = "process",
            messaging.operation.name = "process",
            messaging.destination.name = request.queue,
            messaging.message.conversation_id = request.correlation_id,
            messaging.message.body.size = to_attribute(request.bytes),
        );
        let context = IncomingContext::extract(&span, request.headers);
        let is_observed = !span.is_disabled() || metrics::ARE_ON;
        if !is_observed && !context.is_used() {
            return None;
        }
        if let Some(first_attempt) = request.first_attempt {
            propagation::link(&span, first_attempt);
        }
        Some(Self {
            context,
            span,
            method,
            items: request.items,
        })
    }

    /// Runs the method within the span, records what `end` returns for its result, and writes the
    /// trace context into the headers of the reply.
    pub(crate) async fn run<T>(
        self,
        running: impl Future<Output = T>,
        end: impl FnOnce(&mut T) -> RequestEnd<'_>,
    ) -> T {
        let Self {
            span,
            context,
            method,
            items,
        } = self;
        let counter = Counter::begin(Counted::Requests, method, span, items);
        let running = InSpan::new(running, counter.span());
        let span_context = SpanContext::of(counter.span());
        let mut result = context.run(&span_context, running).await;
        let RequestEnd {
            outcome,
            may_have_run,
            headers,
        } = end(&mut result);
        span_context.inject_into_reply(headers);
        if may_have_run {
            counter.end(outcome);
        } else {
            counter.end_without_run(outcome);
        }
        result
    }
}
