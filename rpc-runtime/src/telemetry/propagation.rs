//! Propagates the trace context from caller to worker and back.
//!
//! It travels in headers. Their format is that of the propagator that the application has installed
//! with `opentelemetry::global`, most often W3C's `traceparent`, `tracestate` and `baggage`.
//! Without the feature `opentelemetry`, nothing is propagated.

#[cfg(feature = "opentelemetry")]
pub(super) use on::{IncomingContext, SpanContext, link};

#[cfg(not(feature = "opentelemetry"))]
pub(super) use off::{IncomingContext, SpanContext, link};

#[cfg(feature = "opentelemetry")]
mod on {
    use futures_util::future::Either;
    use opentelemetry::baggage::BaggageExt;
    use opentelemetry::propagation::{Extractor, Injector};
    use opentelemetry::trace::{FutureExt, TraceContextExt};
    use opentelemetry::{Context, global};
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use crate::protocol::{Headers, ShortStr, TRACEPARENT, insert_user_header};

    /// The context of a span. `None` if the span is not collected, or is in no trace.
    pub(in crate::telemetry) struct SpanContext(Option<Context>);

    impl SpanContext {
        /// Returns the context of a span. Costly: get it once for all its uses.
        pub(in crate::telemetry) fn of(span: &Span) -> Self {
            let context = (!span.is_disabled()).then(|| span.context());
            Self(context.filter(|context| context.span().span_context().is_valid()))
        }

        /// Writes the context into the headers of a request, with the current baggage if there is
        /// any. If the span is in no trace, writes the current context.
        pub(in crate::telemetry) fn inject(&self, headers: &mut Headers) {
            let has_baggage = Context::map_current(|current| !current.baggage().is_empty());
            match &self.0 {
                // The same context as below, without a clone.
                Some(context) if !has_baggage => inject(context, headers),
                _ => inject(&self.with_baggage_of(Context::current()), headers),
            }
        }

        /// Writes the context into the headers of a reply. Writes nothing if the span was not
        /// sampled, because the context then leads to no recorded span.
        pub(in crate::telemetry) fn inject_into_reply(&self, headers: &mut Headers) {
            if let Some(context) = &self.0
                && context.span().span_context().is_sampled()
            {
                inject(context, headers);
            }
        }

        /// Returns `context` with this span as its active span, or only the span's own context if
        /// `context` has no baggage. If the span is in no trace, returns `context` unchanged.
        fn with_baggage_of(&self, context: Context) -> Context {
            match &self.0 {
                None => context,
                Some(of_span) if context.baggage().is_empty() => of_span.clone(),
                Some(of_span) => context.with_remote_span_context(of_span.span().span_context().clone()),
            }
        }
    }

    fn inject(context: &Context, headers: &mut Headers) {
        global::get_text_map_propagator(|propagator| {
            propagator.inject_context(context, &mut HeaderInjector(headers));
        });
    }

    /// The context that a request arrived with. `None` if the request has no headers, and its span
    /// is not collected.
    pub(in crate::telemetry) struct IncomingContext(Option<Context>);

    impl IncomingContext {
        /// Reads the caller's context and makes the caller's span the parent of `span`.
        pub(in crate::telemetry) fn extract(span: &Span, headers: &Headers) -> Self {
            if span.is_disabled() && headers.is_empty() {
                return Self(None);
            }
            let context =
                global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)));
            // Fails only if the span is not collected.
            let _ = span.set_parent(context.clone());
            Self(Some(context))
        }

        /// Whether the request has to [`run`](Self::run) in this context.
        pub(in crate::telemetry) fn is_used(&self) -> bool {
            self.0.is_some()
        }

        /// Runs a handler. The spans and calls that it makes continue this trace.
        pub(in crate::telemetry) fn run<F: Future>(
            self,
            span: &SpanContext,
            handler: F,
        ) -> impl Future<Output = F::Output> + use<F> {
            match self.0 {
                None => Either::Left(handler),
                Some(context) => Either::Right(handler.with_context(span.with_baggage_of(context))),
            }
        }
    }

    /// Links a span to the one that wrote this `traceparent`, if the propagator can read it.
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
            // Fails for baggage that exceeds the limit of headers. The message is sent without it.
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

        #[allow(clippy::unused_self)] // like in `on`
        pub(in crate::telemetry) fn inject(&self, _: &mut Headers) {}

        #[allow(clippy::unused_self)] // like in `on`
        pub(in crate::telemetry) fn inject_into_reply(&self, _: &mut Headers) {}
    }

    pub(in crate::telemetry) fn link(_: &Span, _: &str) {}

    pub(in crate::telemetry) struct IncomingContext;

    impl IncomingContext {
        pub(in crate::telemetry) fn extract(_: &Span, _: &Headers) -> Self {
            Self
        }

        #[allow(clippy::unused_self)] // like in `on`
        pub(in crate::telemetry) fn is_used(&self) -> bool {
            false
        }

        pub(in crate::telemetry) fn run<F: Future>(self, _: &SpanContext, handler: F) -> F {
            handler
        }
    }
}
