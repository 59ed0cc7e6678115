//! Propagates the trace context from caller to worker and back.
//!
//! It travels in headers. Their format is that of the propagator that the application has installed
//! with `opentelemetry::global`, most often W3C's `traceparent`, `tracestate` and `baggage`.
//! Without the feature `opentelemetry`, nothing is propagated.

/// Whether trace context is propagated.
pub(super) const IS_ON: bool = cfg!(feature = "opentelemetry");

#[cfg(feature = "opentelemetry")]
pub(super) use on::{IncomingContext, SpanContext, link};

#[cfg(not(feature = "opentelemetry"))]
pub(super) use off::{IncomingContext, SpanContext, link};

#[cfg(feature = "opentelemetry")]
mod on {
    use opentelemetry::baggage::BaggageExt;
    use opentelemetry::propagation::{Extractor, Injector};
    use opentelemetry::trace::{FutureExt, TraceContextExt};
    use opentelemetry::{Context, global};
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use crate::protocol::{Headers, ShortStr, TRACEPARENT, insert_user_header};

    /// The context of a span. Invalid if the span is in no trace.
    pub(in crate::telemetry) struct SpanContext(Context);

    impl SpanContext {
        /// Returns the context of a span. To get it costs more than to use it.
        pub(in crate::telemetry) fn of(span: &Span) -> Self {
            Self(span.context())
        }

        /// Writes the context into headers. If the span is in no trace, writes the current context.
        pub(in crate::telemetry) fn inject(&self, headers: &mut Headers) {
            let has_baggage = Context::map_current(|current| !current.baggage().is_empty());
            let mixed;
            let context = if self.is_valid() && !has_baggage {
                &self.0
            } else {
                mixed = self.with_baggage_of(Context::current());
                &mixed
            };
            global::get_text_map_propagator(|propagator| {
                propagator.inject_context(context, &mut HeaderInjector(headers));
            });
        }

        /// Returns `context` with this span as its active span, or unchanged if the span is in no
        /// trace. The result has the baggage of `context`, or the span's if that has none.
        fn with_baggage_of(&self, context: Context) -> Context {
            if !self.is_valid() {
                return context;
            }
            match context.baggage().is_empty() {
                true => self.0.clone(),
                false => context.with_remote_span_context(self.0.span().span_context().clone()),
            }
        }

        fn is_valid(&self) -> bool {
            self.0.span().span_context().is_valid()
        }
    }

    /// The context that a request arrived with.
    pub(in crate::telemetry) struct IncomingContext(Context);

    impl IncomingContext {
        /// Reads the caller's context and makes the caller's span the parent of `span`.
        pub(in crate::telemetry) fn extract(span: &Span, headers: &Headers) -> Self {
            let context =
                global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)));
            // Fails only if the span is not collected.
            let _ = span.set_parent(context.clone());
            Self(context)
        }

        /// Runs a handler. The spans and calls that it makes continue this trace.
        pub(in crate::telemetry) fn run<F: Future>(
            self,
            span: &SpanContext,
            handler: F,
        ) -> impl Future<Output = F::Output> + use<F> {
            handler.with_context(span.with_baggage_of(self.0))
        }
    }

    /// Links a span to the one that wrote this `traceparent`.
    pub(in crate::telemetry) fn link(span: &Span, traceparent: &str) {
        let mut headers = Headers::default();
        headers.insert(ShortStr::from_static(TRACEPARENT), traceparent.to_owned());
        let context =
            global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(&headers)));
        let linked = context.span().span_context().clone();
        if linked.is_valid() {
            span.add_link(linked);
        }
    }

    const TRACESTATE: &str = "tracestate";

    struct HeaderInjector<'a>(&'a mut Headers);

    impl Injector for HeaderInjector<'_> {
        fn set(&mut self, name: &str, value: String) {
            // W3C's propagator writes an empty `tracestate` if there is none, which means the same.
            if value.is_empty() && name == TRACESTATE {
                return;
            }
            // Fails for baggage that exceeds the limit of headers. The call is made without it.
            let _ = insert_user_header(self.0, name, value);
        }
    }

    struct HeaderExtractor<'a>(&'a Headers);

    impl Extractor for HeaderExtractor<'_> {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.get(name)
        }

        fn keys(&self) -> Vec<&str> {
            self.0.iter().map(|(name, _)| name).collect()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_header_beyond_the_limit_is_dropped() {
            let mut headers = Headers::default();
            let mut carrier = HeaderInjector(&mut headers);
            carrier.set("traceparent", "00-1-2-01".into());
            carrier.set("baggage", "b".repeat(8192));
            carrier.set("tracestate", "a=1".into());
            assert_eq!(HeaderExtractor(&headers).keys(), ["traceparent", "tracestate"]);
            assert_eq!(HeaderExtractor(&headers).get("tracestate"), Some("a=1"));
        }

        #[test]
        fn an_empty_tracestate_is_not_sent() {
            let mut headers = Headers::default();
            let mut carrier = HeaderInjector(&mut headers);
            carrier.set("traceparent", "00-1-2-01".into());
            carrier.set("tracestate", String::new());
            assert_eq!(HeaderExtractor(&headers).keys(), ["traceparent"]);
        }
    }
}

/// Stands in for `on`. Propagates nothing.
#[cfg(not(feature = "opentelemetry"))]
mod off {
    use tracing::Span;

    use crate::protocol::Headers;

    pub(in crate::telemetry) struct SpanContext;

    impl SpanContext {
        pub(in crate::telemetry) fn of(_: &Span) -> Self {
            Self
        }

        #[allow(clippy::unused_self)] // like the other one
        pub(in crate::telemetry) fn inject(&self, _: &mut Headers) {}
    }

    pub(in crate::telemetry) fn link(_: &Span, _: &str) {}

    pub(in crate::telemetry) struct IncomingContext;

    impl IncomingContext {
        pub(in crate::telemetry) fn extract(_: &Span, _: &Headers) -> Self {
            Self
        }

        pub(in crate::telemetry) fn run<F: Future>(self, _: &SpanContext, handler: F) -> F {
            handler
        }
    }
}
