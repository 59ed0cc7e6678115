//! One trace goes from the caller through a worker to the worker that this one calls, and tells who
//! did what.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use futures_util::{Stream, StreamExt, poll, stream};
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context as TraceContext, KeyValue, Value, global};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::{
    IdGenerator as _, InMemorySpanExporter, RandomIdGenerator, SdkTracerProvider, SpanData,
};
use rpc_runtime::middleware::{CallReply, CallService, OutgoingCall};
use rpc_runtime::{Broker, CallError, Incoming, RequestQueue, RunningServer, Server, service};
use rpc_tests::gate::{Gate, SOON};
use rpc_tests::rabbit::unique;
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use tower::Service;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Collects the spans of this process.
struct Collector {
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
}

static COLLECTOR: LazyLock<Collector> = LazyLock::new(|| {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    global::set_text_map_propagator(opentelemetry::propagation::TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ]));
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
    tracing_subscriber::registry()
        .with(tracing_subscriber::filter::LevelFilter::INFO)
        .with(layer)
        .init();
    Collector { provider, exporter }
});

impl Collector {
    /// The ended spans of each trace, by name.
    fn traces(&self) -> HashMap<TraceId, HashMap<String, SpanData>> {
        self.provider.force_flush().unwrap();
        let mut traces: HashMap<_, HashMap<_, _>> = HashMap::new();
        for span in self.exporter.get_finished_spans().unwrap() {
            let name = format!("{} {:?}", span.name, span.span_kind);
            traces
                .entry(span.span_context.trace_id())
                .or_default()
                .insert(name, span);
        }
        traces
    }

    fn spans_of(&self, trace: TraceId) -> HashMap<String, SpanData> {
        self.traces().remove(&trace).unwrap_or_default()
    }
}

#[service]
trait Front {
    async fn greet(&self, name: &str) -> String;
    async fn stumble(&self);
    async fn refuse(&self) -> Result<(), String>;
}

#[service]
trait Back {
    /// The name as this worker knows it, and what the trace says of the tenant.
    async fn full_name(&self, name: &str) -> String;
    /// The trace of the request, and whether it is sampled.
    async fn trace(&self) -> (String, bool);
}

struct Desk(BackClient);

impl Front for Desk {
    async fn greet(&self, name: &str) -> String {
        match self.0.full_name(name).await {
            Ok(name) => format!("hello {name}"),
            Err(error) => format!("{error:?}"),
        }
    }

    async fn stumble(&self) {
        panic!("on purpose");
    }

    async fn refuse(&self) -> Result<(), String> {
        Err("no".into())
    }
}

struct Archive;

impl Back for Archive {
    async fn full_name(&self, name: &str) -> String {
        let context = TraceContext::current();
        let tenant = context.baggage().get("tenant").map(ToString::to_string);
        format!("{name} of {}", tenant.as_deref().unwrap_or("nobody"))
    }

    async fn trace(&self) -> (String, bool) {
        let context = TraceContext::current();
        let span = context.span().span_context().clone();
        (span.trace_id().to_string(), span.is_sampled())
    }
}

/// Two workers, of which one calls the other.
struct Workers {
    front: String,
    back: String,
    servers: [RunningServer; 2],
}

impl Workers {
    async fn start(world: &World) -> Self {
        let (front, back) = (unique("front"), unique("back"));
        let server = Server::new(&world.broker().await)
            .serve_on(RequestQueue::new(&back), BackServer::new(Archive))
            .start();
        let archive = server.await.unwrap();
        let broker = world.broker().await;
        let client = BackClient::builder(&broker).queue(&back).build();
        let server = Server::new(&broker)
            .serve_on(RequestQueue::new(&front), FrontServer::new(Desk(client)))
            .start();
        Self {
            front,
            back,
            servers: [server.await.unwrap(), archive],
        }
    }

    fn client(&self, broker: &Broker) -> FrontClient {
        FrontClient::builder(broker).queue(&self.front).build()
    }

    async fn stop(self) {
        for server in self.servers {
            server.stop().await.unwrap();
        }
    }
}

on_both_brokers! {
    one_trace_goes_from_caller_to_worker_to_nested_call,
    calls_that_leave_together_keep_their_own_traces,
    spans_tell_how_calls_ended,
    spans_tell_how_long_calls_waited,
    replies_say_which_span_they_come_from,
    a_trace_that_is_not_sampled_goes_on_and_is_not_recorded,
    later_attempts_of_a_job_are_linked_to_the_first,
    the_trace_of_a_broadcast_has_a_span_of_each_worker,
    the_spans_of_a_stream_cover_it_and_count_its_items,
}

/// Runs a caller's code in a span of its own, with baggage; also returns its trace.
async fn traced<T>(name: &str, tenant: &str, code: impl Future<Output = T>) -> (T, TraceId) {
    LazyLock::force(&COLLECTOR);
    let context = TraceContext::new().with_baggage([KeyValue::new("tenant", tenant.to_owned())]);
    traced_in(&context, name, code).await
}

/// Runs a caller's code in a span of its own, in a trace that somebody else did not sample.
async fn not_sampled<T>(code: impl Future<Output = T>) -> (T, TraceId) {
    LazyLock::force(&COLLECTOR);
    let ids = RandomIdGenerator::default();
    let (trace, span) = (ids.new_trace_id(), ids.new_span_id());
    let parent = SpanContext::new(trace, span, TraceFlags::NOT_SAMPLED, true, TraceState::NONE);
    let context = TraceContext::new().with_remote_span_context(parent);
    traced_in(&context, "not sampled", code).await
}

async fn traced_in<T>(context: &TraceContext, name: &str, code: impl Future<Output = T>) -> (T, TraceId) {
    let span = tracing::info_span!(parent: None, "caller", otel.name = name);
    span.set_parent(context.clone()).unwrap();
    let trace = span.context().span().span_context().trace_id();
    (code.instrument(span).await, trace)
}

fn attribute(span: &SpanData, key: &str) -> Option<Value> {
    let mut attributes = span.attributes.iter();
    attributes
        .find(|attribute| attribute.key.as_str() == key)
        .map(|attribute| attribute.value.clone())
}

async fn one_trace_goes_from_caller_to_worker_to_nested_call(world: World) {
    let workers = Workers::start(&world).await;
    let front = workers.client(&world.broker().await);
    let (greeting, trace) = traced("shop", "acme", front.greet("alice")).await;
    assert_eq!(greeting.unwrap(), "hello alice of acme");

    let spans = COLLECTOR.spans_of(trace);
    let chain = [
        "shop Internal",
        "Front/greet Client",
        "Front/greet Server",
        "Back/full_name Client",
        "Back/full_name Server",
    ];
    assert_eq!(spans.len(), chain.len(), "{:?}", spans.keys());
    let mut parent = SpanId::INVALID;
    for name in chain {
        let span = &spans[name];
        assert_eq!(span.parent_span_id, parent, "{name}");
        parent = span.span_context.span_id();
    }
    let is = |name: &str, key: &str, value: &str| {
        let found = attribute(&spans[name], key);
        assert_eq!(found, Some(Value::from(value.to_owned())), "{name} {key}");
    };
    for (name, queue) in chain[1..]
        .iter()
        .zip([&workers.front, &workers.front, &workers.back, &workers.back])
    {
        is(name, "rpc.system.name", "rpc-runtime");
        is(name, "rpc.method", name.split(' ').next().unwrap());
        is(name, "rpc.response.status_code", "ok");
        is(name, "messaging.system", "rabbitmq");
        is(name, "messaging.destination.name", queue);
        assert_eq!(attribute(&spans[*name], "error.type"), None);
    }
    is(chain[1], "messaging.operation.type", "send");
    is(chain[2], "messaging.operation.type", "process");
    let id = |name: &str| attribute(&spans[name], "messaging.message.conversation_id");
    assert!(id(chain[1]).is_some());
    assert_eq!(id(chain[1]), id(chain[2]));
    assert_ne!(id(chain[1]), id(chain[3]));
    workers.stop().await;
}

async fn calls_that_leave_together_keep_their_own_traces(world: World) {
    let workers = Workers::start(&world).await;
    let front = workers.client(&world.broker().await);
    for _ in 0..2 {
        let calls = (0..300).map(|n| {
            let front = front.clone();
            async move {
                let tenant = format!("tenant-{n}");
                let call = front.greet("bob");
                let (greeting, trace) = traced("many", &tenant, call).await;
                assert_eq!(greeting.unwrap(), format!("hello bob of {tenant}"));
                trace
            }
        });
        let called = join_all(calls).await;
        let traces = COLLECTOR.traces();
        for trace in called {
            assert_eq!(traces[&trace].len(), 5);
        }
    }
    workers.stop().await;
}

async fn spans_tell_how_calls_ended(world: World) {
    let workers = Workers::start(&world).await;
    let broker = world.broker().await;
    let front = workers.client(&broker);
    let nowhere = FrontClient::builder(&broker).queue(unique("nowhere")).build();
    let calls = async {
        assert!(matches!(front.stumble().await, Err(CallError::Fault(_))));
        assert!(matches!(front.refuse().await, Err(CallError::Service(_))));
        assert!(matches!(
            nowhere.greet("eve").await,
            Err(CallError::NoServer { .. })
        ));
    };
    let ((), trace) = traced("trouble", "acme", calls).await;
    let spans = COLLECTOR.spans_of(trace);
    for (name, error, is_error) in [
        ("Front/stumble Client", "panicked", true),
        ("Front/stumble Server", "panicked", true),
        ("Front/refuse Client", "error", true),
        // It is an answer.
        ("Front/refuse Server", "error", false),
        ("Front/greet Client", "no_server", true),
    ] {
        let span = &spans[name];
        assert_eq!(attribute(span, "error.type"), Some(error.into()), "{name}");
        assert_eq!(
            span.status != Status::Unset,
            is_error,
            "{name}: {:?}",
            span.status
        );
        assert_eq!(span.span_kind == SpanKind::Client, name.ends_with("Client"));
    }
    workers.stop().await;
}

#[service]
trait Door {
    async fn pass(&self);
}

struct Guarded(Gate);

impl Door for Guarded {
    async fn pass(&self) {
        self.0.pass().await;
    }
}

async fn spans_tell_how_long_calls_waited(world: World) {
    let (broker, queue, gate) = (world.broker().await, unique("door"), Gate::closed());
    let server = Server::new(&broker)
        .concurrency(1)
        .serve_on(RequestQueue::new(&queue), DoorServer::new(Guarded(gate.clone())))
        .start()
        .await
        .unwrap();
    let client = DoorClient::builder(&broker)
        .queue(&queue)
        .batching(false)
        .max_in_flight(2)
        .build();
    let call = |name: &'static str| Box::pin(traced(name, "acme", client.pass()));
    let first = tokio::spawn(call("first"));
    gate.began(1).await;
    // The second call takes the last place, and the third one finds none.
    let (mut second, mut third) = (call("second"), call("third"));
    assert!(poll!(&mut second).is_pending());
    assert!(poll!(&mut third).is_pending());
    let third_waits_since = Instant::now();
    let (second, third) = (tokio::spawn(second), tokio::spawn(third));
    until("both calls wait", SOON, async || {
        let workers = broker.discover().stats().await?.workers;
        let mut queues = workers.iter().flat_map(|worker| &worker.queues);
        let stats = queues.find(|stats| stats.queue == queue);
        Ok(
            stats.is_some_and(|stats| stats.queue_time() >= Duration::from_millis(100))
                && third_waits_since.elapsed() >= Duration::from_millis(300),
        )
    })
    .await
    .unwrap();
    gate.let_all_go();
    let mut waits = Vec::new();
    for call in [first, second, third] {
        let (called, trace) = call.await.unwrap();
        called.unwrap();
        let spans = COLLECTOR.spans_of(trace);
        let wait = |name: &str, key: &str| match attribute(&spans[name], key) {
            Some(Value::I64(millis)) => Some(millis),
            None => None,
            Some(other) => panic!("{key} is {other:?}"),
        };
        let queued = wait("Door/pass Server", "rpc.queue_time_ms");
        assert_eq!(wait("Door/pass Client", "rpc.queue_time_ms"), queued);
        waits.push((queued, wait("Door/pass Client", "rpc.client_wait_ms")));
    }
    let [first, second, third] = waits[..] else {
        panic!("{waits:?}");
    };
    assert_eq!(first, (None, None));
    assert!(second.0 >= Some(100) && second.1.is_none(), "{second:?}");
    assert!(third.1 >= Some(300), "{third:?}");
    server.stop().await.unwrap();
}

/// Notes where replies say that they come from.
#[derive(Clone)]
struct Notes {
    inner: CallService,
    parents: Arc<Mutex<Vec<Option<String>>>>,
}

impl Service<OutgoingCall> for Notes {
    type Response = CallReply;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<CallReply, CallError>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: OutgoingCall) -> Self::Future {
        let (calling, parents) = (self.inner.call(call), Arc::clone(&self.parents));
        Box::pin(async move {
            let reply = calling.await?;
            let parent = reply.headers().get("traceparent").map(str::to_owned);
            parents.lock().unwrap().push(parent);
            Ok(reply)
        })
    }
}

async fn replies_say_which_span_they_come_from(world: World) {
    let workers = Workers::start(&world).await;
    let parents = Arc::<Mutex<Vec<_>>>::default();
    let noted = Arc::clone(&parents);
    let front = FrontClient::builder(&world.broker().await)
        .queue(&workers.front)
        .layer(tower::layer::layer_fn(move |inner| Notes {
            inner,
            parents: Arc::clone(&noted),
        }))
        .build();
    let one = traced("one", "acme", front.greet("alice")).await;
    one.0.unwrap();
    let (_, many) = traced("many", "acme", join_all((0..300).map(|_| front.greet("bob")))).await;
    let parents = std::mem::take(&mut *parents.lock().unwrap());
    assert_eq!(parents.len(), 301);
    for (number, parent) in parents.into_iter().enumerate() {
        let trace = if number == 0 { one.1 } else { many };
        let parent = parent.expect("each has one");
        assert!(parent.starts_with(&format!("00-{trace}-")), "{parent}");
    }
    workers.stop().await;
}

async fn a_trace_that_is_not_sampled_goes_on_and_is_not_recorded(world: World) {
    let workers = Workers::start(&world).await;
    let parents = Arc::<Mutex<Vec<_>>>::default();
    let noted = Arc::clone(&parents);
    let back = BackClient::builder(&world.broker().await)
        .queue(&workers.back)
        .layer(tower::layer::layer_fn(move |inner| Notes {
            inner,
            parents: Arc::clone(&noted),
        }))
        .build();
    let (seen, trace) = not_sampled(join_all((0..30).map(|_| back.trace()))).await;
    for seen in seen {
        assert_eq!(seen.unwrap(), (trace.to_string(), false));
    }
    // A reply leads to the span of its request, and there is none.
    assert_eq!(*parents.lock().unwrap(), vec![None; 30]);
    assert!(COLLECTOR.spans_of(trace).is_empty());
    workers.stop().await;
}

#[service]
trait Mail {
    #[rpc(oneway, idempotent, retry = "2 times, 100ms")]
    async fn send(&self, to: &str) -> Result<(), String>;
}

struct NoRoute;

impl Mail for NoRoute {
    async fn send(&self, to: &str) -> Result<(), String> {
        Err(format!("no route to {to}"))
    }
}

async fn later_attempts_of_a_job_are_linked_to_the_first(world: World) {
    let (broker, queue) = (world.broker().await, unique("mail"));
    let server = Server::new(&broker)
        .serve_on(RequestQueue::new(&queue), MailServer::new(NoRoute))
        .start()
        .await
        .unwrap();
    let mail = MailClient::builder(&broker).queue(&queue).build();
    let (sent, trace) = traced("a job", "acme", async { mail.send("alice").await }).await;
    sent.unwrap();
    let attempts = || {
        COLLECTOR.provider.force_flush().unwrap();
        let spans = COLLECTOR.exporter.get_finished_spans().unwrap().into_iter();
        let of_job =
            |span: &SpanData| span.span_context.trace_id() == trace && span.span_kind == SpanKind::Server;
        spans.filter(of_job).collect::<Vec<_>>()
    };
    until("it is given up", SOON, async || Ok(attempts().len() == 3))
        .await
        .unwrap();
    server.stop().await.unwrap();
    let mut attempts = attempts();
    attempts.sort_by_key(|span| span.start_time);
    let [first, second, third] = &attempts[..] else {
        panic!("{attempts:?}");
    };
    assert!(first.links.iter().next().is_none());
    for (attempt, number) in [(second, 2), (third, 3)] {
        let linked: Vec<_> = attempt
            .links
            .iter()
            .map(|link| link.span_context.span_id())
            .collect();
        assert_eq!(linked, [first.span_context.span_id()]);
        let attribute = KeyValue::new("rpc.attempt", i64::from(number));
        assert!(attempt.attributes.contains(&attribute), "{attempt:?}");
    }
}

#[service]
trait Cache {
    #[rpc(broadcast)]
    async fn clear(&self) -> u64;
}

struct Entries;

impl Cache for Entries {
    async fn clear(&self) -> u64 {
        0
    }
}

async fn the_trace_of_a_broadcast_has_a_span_of_each_worker(world: World) {
    let queue = unique("cache");
    let mut servers = Vec::new();
    for _ in 0..2 {
        let server = Server::new(&world.broker().await)
            .serve_on(RequestQueue::new(&queue), CacheServer::new(Entries))
            .start();
        servers.push(server.await.unwrap());
    }
    let cache = CacheClient::builder(&world.broker().await).queue(&queue).build();
    let broadcast = async {
        cache
            .clear()
            .expect_workers(2)
            .send()
            .await
            .unwrap()
            .collect()
            .await
    };
    let (gathered, trace) = traced("a broadcast", "acme", broadcast).await;
    assert_eq!(gathered.missing, Some(0));
    for server in servers {
        server.stop().await.unwrap();
    }
    COLLECTOR.provider.force_flush().unwrap();
    let spans = COLLECTOR.exporter.get_finished_spans().unwrap().into_iter();
    let spans: Vec<_> = spans
        .filter(|span| span.span_context.trace_id() == trace)
        .collect();
    let of_kind = |kind| spans.iter().filter(move |span| span.span_kind == kind);
    let [sent] = of_kind(SpanKind::Client).collect::<Vec<_>>()[..] else {
        panic!("{spans:?}");
    };
    let id = |span| attribute(span, "messaging.message.conversation_id").expect("it has an id");
    assert_eq!(of_kind(SpanKind::Server).count(), 2);
    for run in of_kind(SpanKind::Server) {
        assert_eq!(run.parent_span_id, sent.span_context.span_id());
        assert_eq!(id(run), id(sent));
        let destination = attribute(run, "messaging.destination.name");
        assert_eq!(destination, Some(Value::from(queue.clone())));
    }
}

#[service]
trait Feed {
    /// Waits at the gate before the first item, and after the second one.
    fn echo(&self, items: Incoming<u64>) -> impl Stream<Item = u64>;
}

struct Echo(Gate);

impl Feed for Echo {
    fn echo(&self, items: Incoming<u64>) -> impl Stream<Item = u64> {
        items.filter_map(async |number| {
            let number = number.ok()?;
            if number % 2 == 0 {
                self.0.pass().await;
            }
            Some(number)
        })
    }
}

async fn the_spans_of_a_stream_cover_it_and_count_its_items(world: World) {
    let (queue, gate) = (unique("feed"), Gate::closed());
    let server = Server::new(&world.broker().await)
        .serve_on(RequestQueue::new(&queue), FeedServer::new(Echo(gate.clone())))
        .start();
    let server = server.await.unwrap();
    let feed = FeedClient::builder(&world.broker().await).queue(&queue).build();
    let wait = Duration::from_millis(50);
    let whole = async {
        let mut echo = feed.echo(stream::iter(0..4));
        let waiting = async {
            gate.began(1).await;
            tokio::time::sleep(wait).await;
            gate.let_go(2);
        };
        let ((), first) = tokio::join!(waiting, echo.next());
        assert_eq!(first.unwrap().unwrap(), 0);
        assert_eq!(echo.count().await, 3);
    };
    let ((), trace) = traced("a stream", "acme", whole).await;
    let dropped = async {
        let mut echo = feed.echo(stream::iter(0..4));
        gate.let_go(1);
        assert_eq!(echo.next().await.unwrap().unwrap(), 0);
        assert_eq!(echo.next().await.unwrap().unwrap(), 1);
    };
    let ((), dropped) = traced("a dropped stream", "acme", dropped).await;
    let has_ended = async || Ok(COLLECTOR.spans_of(dropped).contains_key("Feed/echo Server"));
    until("the method is dropped", SOON, has_ended).await.unwrap();
    server.stop().await.unwrap();

    let whole = COLLECTOR.spans_of(trace);
    let dropped = COLLECTOR.spans_of(dropped);
    for side in ["Feed/echo Client", "Feed/echo Server"] {
        let span = &whole[side];
        assert_eq!(
            attribute(span, "rpc.request.items"),
            Some(Value::I64(4)),
            "{side}"
        );
        assert_eq!(
            attribute(span, "rpc.response.items"),
            Some(Value::I64(4)),
            "{side}"
        );
        assert_eq!(attribute(span, "rpc.response.status_code"), Some("ok".into()));
        let Some(Value::I64(first)) = attribute(span, "rpc.first_item_ms") else {
            panic!("{span:?}");
        };
        let took = span.end_time.duration_since(span.start_time).unwrap();
        assert!(took >= wait && first >= 50, "{side}: {first} ms of {took:?}");

        let span = &dropped[side];
        assert_eq!(
            attribute(span, "rpc.response.items"),
            Some(Value::I64(2)),
            "{side}"
        );
        assert_eq!(
            attribute(span, "rpc.response.status_code"),
            Some("cancelled".into())
        );
        assert_eq!(span.status, Status::Unset, "{side}");
    }
}
