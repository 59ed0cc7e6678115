//! One trace for each call, also across processes, with baggage: a caller, a worker, and a second
//! worker that the first one calls. The exporter prints spans when they end. An application would
//! export them to its collector (`opentelemetry-otlp`).
//!
//! ```sh
//! cargo run --example tracing_otel                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example tracing_otel       # over RabbitMQ
//! ```
//!
//! It needs rpc-runtime's feature `opentelemetry`, a propagator, and a `tracing` layer that
//! forwards spans.

use std::collections::HashMap;
use std::sync::Mutex;

use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry::trace::{SpanId, TraceId, TracerProvider};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use rpc_examples::broker;
use rpc_runtime::{Server, service};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[service(queue = "example.orders")]
trait Orders {
    async fn place(&self, article: &str) -> u64;
}

#[service(queue = "example.prices")]
trait Prices {
    async fn price(&self, article: &str) -> u64;
}

/// Asks another service for the price. The trace context and the baggage are passed on
/// automatically.
struct Office {
    prices: PricesClient,
}

impl Orders for Office {
    async fn place(&self, article: &str) -> u64 {
        self.prices.price(article).await.unwrap_or(0)
    }
}

struct PriceList;

impl Prices for PriceList {
    async fn price(&self, article: &str) -> u64 {
        let context = Context::current();
        let customer = context.baggage().get("customer").map(ToString::to_string);
        // An event in the worker's span.
        tracing::info!(article, customer, "priced");
        match customer.as_deref() {
            Some("acme") => 90,
            _ => 100,
        }
    }
}

/// Prints each span when it ends. Ids are replaced by numbers, for readability.
#[derive(Debug, Default)]
struct Printer(Mutex<Numbers>);

/// The numbers of the ids, from 1, in the order of their first use.
#[derive(Debug, Default)]
struct Numbers {
    traces: HashMap<TraceId, usize>,
    spans: HashMap<SpanId, usize>,
}

impl Numbers {
    /// Describes a span in one line. Numbers the ids that are new.
    fn line(&mut self, span: &SpanData) -> String {
        let next = self.traces.len() + 1;
        let trace = *self.traces.entry(span.span_context.trace_id()).or_insert(next);
        let mut number = |id| {
            let next = self.spans.len() + 1;
            *self.spans.entry(id).or_insert(next)
        };
        let own = number(span.span_context.span_id());
        let parent = match span.parent_span_id {
            SpanId::INVALID => "root".to_owned(),
            parent => format!("child of {}", number(parent)),
        };
        let status = span
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == "rpc.response.status_code")
            .map(|attribute| format!(": {}", attribute.value))
            .unwrap_or_default();
        let events = match span.events.len() {
            0 => String::new(),
            events => format!(", events: {events}"),
        };
        let kind = format!("{:?}", span.span_kind).to_lowercase();
        format!(
            "trace {trace}, span {own}, {parent}: {} ({kind}){status}{events}",
            span.name
        )
    }
}

impl SpanExporter for Printer {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        if let Ok(mut numbers) = self.0.lock() {
            for span in &spans {
                println!("{}", numbers.line(span));
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The header formats of the trace context and of the baggage: W3C's.
    global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ]));
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(Printer::default())
        .build();
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("example")))
        .init();

    let broker = broker().await?;
    let prices = Server::new(&broker)
        .serve(PricesServer::new(PriceList))
        .start()
        .await?;
    let office = Office {
        prices: PricesClient::new(&broker),
    };
    let orders = Server::new(&broker)
        .serve(OrdersServer::new(office))
        .start()
        .await?;

    for customer in ["acme", "somebody"] {
        // A new trace, because the parent has baggage and no span.
        let span = tracing::info_span!(parent: None, "visit");
        span.set_parent(Context::new().with_baggage([KeyValue::new("customer", customer)]))?;
        let order = OrdersClient::new(&broker).place("bread");
        let price = order.instrument(span).await?;
        println!("{customer} pays {price}");
    }

    orders.stop().await?;
    prices.stop().await?;
    broker.close().await;
    provider.shutdown()?;
    Ok(())
}
