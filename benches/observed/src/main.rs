//! Runs what `rpc-bench` orders, and observes it as programs in production do: metrics for
//! Prometheus, and traces of which the sampler takes none. `rpc-bench` builds and starts this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{bail, ensure};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::{Link, SpanKind, TraceId, TraceState, TracerProvider as _};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample};
use rpc_runtime::describe_metrics;
use tokio::time::interval;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The buckets of histograms of durations.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The buckets of histograms of calls, or replies, in one message.
const CALLS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// How often the recorder sorts its samples into buckets. Exporters do this every few seconds; a
/// run is shorter, and should contain its share of this work.
const UPKEEP: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Parts { metrics, traces } = Parts::requested()?;
    let recorder = metrics.then(install_recorder).transpose()?;
    let upkeep = recorder.clone().map(|recorder| tokio::spawn(keep_up(recorder)));
    let sampler = Refuse::default();
    let provider = traces.then(|| install_tracer(sampler.clone()));

    rpc_bench::run_as_child().await?;

    if let Some(provider) = provider {
        provider.shutdown()?;
        check_traces(&sampler)?;
    }
    if let (Some(recorder), Some(upkeep)) = (recorder, upkeep) {
        upkeep.abort();
        check_metrics(&recorder.render())?;
    }
    Ok(())
}

/// What is observed: both, or what the variable `RPC_BENCH_OBSERVE` names.
struct Parts {
    metrics: bool,
    traces: bool,
}

impl Parts {
    fn requested() -> anyhow::Result<Self> {
        let (metrics, traces) = match std::env::var("RPC_BENCH_OBSERVE").ok().as_deref() {
            None => (true, true),
            Some("metrics") => (true, false),
            Some("traces") => (false, true),
            Some("nothing") => (false, false),
            Some(other) => bail!("RPC_BENCH_OBSERVE is {other:?}, not metrics, traces or nothing"),
        };
        Ok(Self { metrics, traces })
    }
}

fn install_recorder() -> anyhow::Result<PrometheusHandle> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_per_message".into()), CALLS)?
        .install_recorder()?;
    describe_metrics();
    Ok(metrics)
}

async fn keep_up(metrics: PrometheusHandle) {
    let mut interval = interval(UPKEEP);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

/// Makes `tracing`'s spans and the trace context of requests go through OpenTelemetry.
fn install_tracer(sampler: Refuse) -> SdkTracerProvider {
    let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("rpc-bench")))
        .init();
    provider
}

/// Takes no span. Counts the spans of callers and workers that it was asked about.
#[derive(Debug, Clone, Default)]
struct Refuse {
    callers: Arc<AtomicU64>,
    workers: Arc<AtomicU64>,
}

impl ShouldSample for Refuse {
    fn should_sample(
        &self,
        _parent: Option<&Context>,
        _trace_id: TraceId,
        _name: &str,
        kind: &SpanKind,
        _attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        match kind {
            SpanKind::Client => self.callers.fetch_add(1, Ordering::Relaxed),
            SpanKind::Server => self.workers.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        SamplingResult {
            decision: SamplingDecision::Drop,
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}

/// Fails unless the rendered metrics have those of calls and of requests.
fn check_metrics(metrics: &str) -> anyhow::Result<()> {
    for name in ["rpc_client_calls_total", "rpc_server_requests_total"] {
        ensure!(metrics.contains(name), "the recorder has no metric {name}");
    }
    Ok(())
}

/// Fails unless the sampler was asked about spans of callers and of workers.
fn check_traces(sampler: &Refuse) -> anyhow::Result<()> {
    for (side, spans) in [("callers", &sampler.callers), ("workers", &sampler.workers)] {
        ensure!(
            spans.load(Ordering::Relaxed) > 0,
            "the sampler saw no spans of {side}"
        );
    }
    Ok(())
}
