//! The context of a trace, from caller to worker and back.
//!
//! It travels in headers, as the propagator has it that the application has installed with `opentelemetry::global`: W3C's `traceparent`,
//! `tracestate` and `baggage` most often. Without the feature `opentelemetry`, none does.

/// Whether any does.
pub(super) const IS_ON: bool = cfg!(feature = "opentelemetry");

#[cfg(feature = "opentelemetry")]
pub(super) use on::{Incoming, inject};

#[cfg(not(feature = "opentelemetry"))]
pub(super) use off::{Incoming, inject};

#[cfg(feature = "opentelemetry")]
mod on {
    use opentelemetry::baggage::BaggageExt;
    use opentelemetry::propagation::{Extractor, Injector};
    use opentelemetry::trace::{FutureExt, TraceContextExt};
    use opentelemetry::{Context, global};
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use crate::protocol::{Headers, insert_user_header};

    /// Writes the context of a span into headers; where it has none, that of the code that runs.
    pub(in crate::telemetry) fn inject(span: &Span, headers: &mut Headers) {
        let context = with_span_of(span, Context::current());
        global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&context, &mut Outgoing(headers));
        });
    }

    /// The context with the span, and with the baggage of either.
    fn with_span_of(span: &Span, context: Context) -> Context {
        let of_span = span.context();
        if !of_span.span().span_context().is_valid() {
            return context;
        }
        match context.baggage().is_empty() {
            true => of_span,
            false => context.with_remote_span_context(of_span.span().span_context().clone()),
        }
    }

    /// The context that a request came with.
    pub(in crate::telemetry) struct Incoming(Context);

    impl Incoming {
        /// Makes the caller's span the parent of this one.
        pub(in crate::telemetry) fn continued(span: &Span, headers: &Headers) -> Self {
            let context = global::get_text_map_propagator(|propagator| propagator.extract(&Carried(headers)));
            // Nobody collects spans, or this one is not looked at.
            let _ = span.set_parent(context.clone());
            Self(context)
        }

        /// Runs a handler so that the calls it makes, and the spans, go on from here.
        pub(in crate::telemetry) async fn around<F: Future>(self, span: &Span, handler: F) -> F::Output {
            handler.with_context(with_span_of(span, self.0)).await
        }
    }

    struct Outgoing<'a>(&'a mut Headers);

    impl Injector for Outgoing<'_> {
        fn set(&mut self, name: &str, value: String) {
            // Baggage may be longer than there is room for: the call is worth more.
            let _ = insert_user_header(self.0, name, value);
        }
    }

    struct Carried<'a>(&'a Headers);

    impl Extractor for Carried<'_> {
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
        fn what_there_is_no_room_for_is_left_out() {
            let mut headers = Headers::default();
            let mut carrier = Outgoing(&mut headers);
            carrier.set("traceparent", "00-1-2-01".into());
            carrier.set("baggage", "b".repeat(8192));
            carrier.set("tracestate", "a=1".into());
            assert_eq!(Carried(&headers).keys(), ["traceparent", "tracestate"]);
            assert_eq!(Carried(&headers).get("tracestate"), Some("a=1"));
        }
    }
}

#[cfg(not(feature = "opentelemetry"))]
mod off {
    use tracing::Span;

    use crate::protocol::Headers;

    pub(in crate::telemetry) fn inject(_: &Span, _: &mut Headers) {}

    pub(in crate::telemetry) struct Incoming;

    impl Incoming {
        pub(in crate::telemetry) fn continued(_: &Span, _: &Headers) -> Self {
            Self
        }

        pub(in crate::telemetry) fn around<F: Future>(self, _: &Span, handler: F) -> F {
            handler
        }
    }
}
