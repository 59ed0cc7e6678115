//! What is counted is true: what a caller and a worker did, and what went wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt, stream};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rpc_runtime::{
    Broker, CallError, DynamicClient, Incoming, RequestQueue, Server, ServiceClient, describe_metrics,
    service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use tokio::sync::Mutex;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;

static RECORDER: LazyLock<PrometheusHandle> = LazyLock::new(|| {
    let handle = PrometheusBuilder::new().install_recorder().unwrap();
    describe_metrics();
    handle
});

/// Tests that count the same things run one after another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// All metrics as they are exported, by name and labels.
fn counted() -> BTreeMap<String, f64> {
    let text = RECORDER.render();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// What a metric has grown by since then.
fn growth(before: &BTreeMap<String, f64>, name: &str) -> f64 {
    let value = |counted: &BTreeMap<String, f64>| counted.get(name).copied().unwrap_or(0.0);
    value(&counted()) - value(before)
}

/// Checks what metrics have grown by.
fn assert_grew(before: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, by) in expected {
        assert!(
            (growth(before, name) - by).abs() < 1e-9,
            "{name}: {}, not {by}",
            growth(before, name)
        );
    }
}

#[service]
trait Metered {
    async fn pass(&self);
    async fn fail(&self) -> Result<(), String>;
    async fn panic(&self);
    async fn quick(&self);
}

struct Meter(Gate);

impl Metered for Meter {
    async fn pass(&self) {
        self.0.pass().await;
    }

    async fn fail(&self) -> Result<(), String> {
        Err("no".into())
    }

    async fn panic(&self) {
        panic!("on purpose");
    }

    async fn quick(&self) {}
}

on_both_brokers! {
    calls_through_layers_are_counted_whole_and_by_attempt,
    calls_and_requests_are_counted_by_outcome,
    calls_that_leave_together_are_counted,
    requests_that_do_not_run_are_counted,
    retried_and_dead_jobs_are_counted,
    broadcasts_are_counted_by_each_worker,
    overload_is_shown_while_it_lasts,
    items_are_counted_on_both_sides,
}

async fn calls_and_requests_are_counted_by_outcome(world: World) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let (broker, queue, gate) = (world.broker().await, unique("metered"), Gate::closed());
    let server = Server::new(&broker)
        .serve_on(RequestQueue::new(&queue), MeteredServer::new(Meter(gate.clone())))
        .start()
        .await
        .unwrap();
    let client = MeteredClient::builder(&broker).queue(&queue).build();

    let waiting = tokio::spawn(client.pass());
    gate.began(1).await;
    let of = |name: &str, method: &str| format!(r#"{name}{{service="Metered",method="{method}"}}"#);
    assert_grew(
        &before,
        &[
            (&of("rpc_client_in_flight", "pass"), 1.0),
            (&of("rpc_server_in_flight", "pass"), 1.0),
        ],
    );
    gate.let_go(1);
    waiting.await.unwrap().unwrap();
    client.fail().await.unwrap_err();
    client.panic().await.unwrap_err();
    // Nobody waits for its end.
    let given_up = tokio::spawn(client.pass());
    gate.began(1).await;
    given_up.abort();
    given_up.await.unwrap_err();
    gate.let_go(1);
    let late = tokio::spawn(client.pass().timeout(Duration::from_secs(3)));
    gate.began(1).await;
    let late = late.await.unwrap().unwrap_err();
    assert!(matches!(late, CallError::TimedOut { .. }), "{late:?}");
    gate.let_all_go();
    server.stop().await.unwrap();

    let times = |side: &str, what: &str, outcome: &str| {
        let labels = format!(r#"service="Metered",method="pass",outcome="{outcome}""#);
        format!("rpc_{side}_duration_seconds_{what}{{{labels}}}")
    };
    let ended = |side: &str, method: &str, outcome: &str| {
        format!(r#"rpc_{side}_total{{service="Metered",method="{method}",outcome="{outcome}"}}"#)
    };
    assert_grew(
        &before,
        &[
            (&ended("client_calls", "pass", "ok"), 1.0),
            (&ended("client_calls", "pass", "cancelled"), 1.0),
            (&ended("client_calls", "pass", "timed_out"), 1.0),
            (&ended("client_calls", "fail", "error"), 1.0),
            (&ended("client_calls", "panic", "panicked"), 1.0),
            (&ended("server_requests", "pass", "ok"), 3.0),
            (&ended("server_requests", "fail", "error"), 1.0),
            (&ended("server_requests", "panic", "panicked"), 1.0),
            (&of("rpc_client_in_flight", "pass"), 0.0),
            (&of("rpc_server_in_flight", "pass"), 0.0),
            (&times("server_request", "count", "ok"), 3.0),
            (&times("client_call", "count", "ok"), 1.0),
            (&times("client_call", "count", "timed_out"), 1.0),
        ],
    );
    // In seconds, and not in anything else.
    let sum = growth(&before, &times("client_call", "sum", "timed_out"));
    assert!(sum > 0.05 && sum < SOON.as_secs_f64(), "{sum}");
}

async fn calls_through_layers_are_counted_whole_and_by_attempt(world: World) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let (broker, queue, gate) = (world.broker().await, unique("metered"), Gate::closed());
    let server = Server::new(&broker)
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .serve_on(RequestQueue::new(&queue), MeteredServer::new(Meter(gate.clone())))
        .start()
        .await
        .unwrap();
    let client = MeteredClient::builder(&broker)
        .queue(&queue)
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(2))
        .build();
    let first = tokio::spawn(client.pass());
    gate.began(1).await;
    // The worker sheds these, although the client lets them through.
    for _ in 0..2 {
        client.pass().await.unwrap_err();
    }
    gate.let_all_go();
    first.await.unwrap().unwrap();
    // A client that lets nothing through.
    let shut = MeteredClient::builder(&broker)
        .queue(&queue)
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(0))
        .build();
    shut.pass().await.unwrap_err();
    server.stop().await.unwrap();

    let of = |what: &str, outcome: &str| {
        format!(r#"rpc_{what}_total{{service="Metered",method="pass",outcome="{outcome}"}}"#)
    };
    assert_grew(
        &before,
        &[
            (&of("client_calls", "ok"), 1.0),
            (&of("client_calls", "rejected"), 2.0),
            (&of("client_calls", "middleware"), 1.0),
            (&of("client_attempts", "ok"), 1.0),
            (&of("client_attempts", "rejected"), 2.0),
            (&of("server_requests", "ok"), 1.0),
            (&of("server_requests", "rejected"), 0.0),
            (
                &format!(r#"rpc_server_refused_total{{queue="{queue}",code="rejected"}}"#),
                2.0,
            ),
        ],
    );
}

async fn calls_that_leave_together_are_counted(world: World) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let (broker, queue) = (world.broker().await, unique("metered"));
    let server = Server::new(&broker)
        .serve_on(RequestQueue::new(&queue), MeteredServer::new(Meter(Gate::open())))
        .start()
        .await
        .unwrap();
    let client = MeteredClient::builder(&broker).queue(&queue).build();
    for _ in 0..5 {
        for called in join_all((0..200).map(|_| client.quick())).await {
            called.unwrap();
        }
    }
    server.stop().await.unwrap();
    let of = |side: &str, what: &str| format!(r#"rpc_{side}_per_message_{what}{{queue="{queue}"}}"#);
    for side in ["client_calls", "server_requests"] {
        assert_grew(&before, &[(&of(side, "sum"), 1000.0)]);
        let messages = growth(&before, &of(side, "count"));
        assert!((1.0..1000.0).contains(&messages), "{messages}");
    }
}

async fn requests_that_do_not_run_are_counted(world: World) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let (broker, queue, nowhere) = (world.broker().await, unique("metered"), unique("nowhere"));
    let server = Server::new(&broker)
        .serve_on(RequestQueue::new(&queue), MeteredServer::new(Meter(Gate::open())))
        .start()
        .await
        .unwrap();

    #[service]
    trait Newer {
        async fn not_there_yet(&self);
    }
    let newer = NewerClient::builder(&broker).queue(&queue).build();
    newer.not_there_yet().await.unwrap_err();
    let lost = MeteredClient::builder(&broker).queue(&nowhere).build();
    lost.quick().await.unwrap_err();
    server.stop().await.unwrap();
    assert_grew(
        &before,
        &[
            (
                &format!(r#"rpc_server_refused_total{{queue="{queue}",code="unknown_method"}}"#),
                1.0,
            ),
            (
                r#"rpc_client_calls_total{service="Newer",method="not_there_yet",outcome="unknown_method"}"#,
                1.0,
            ),
            (&format!(r#"rpc_client_returned_total{{queue="{nowhere}"}}"#), 1.0),
            (
                r#"rpc_client_calls_total{service="Metered",method="quick",outcome="no_server"}"#,
                1.0,
            ),
        ],
    );
}

async fn retried_and_dead_jobs_are_counted(world: World) {
    #[service]
    trait Letters {
        #[rpc(oneway, idempotent, retry = "1 times, 100ms")]
        async fn send(&self, to: &str) -> Result<(), String>;
    }

    struct NoRoute;
    impl Letters for NoRoute {
        async fn send(&self, to: &str) -> Result<(), String> {
            Err(format!("no route to {to}"))
        }
    }

    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let (broker, queue) = (world.broker().await, unique("letters"));
    let server = Server::new(&broker)
        .serve_on(RequestQueue::new(&queue), LettersServer::new(NoRoute))
        .start()
        .await
        .unwrap();
    let letters = LettersClient::builder(&broker).queue(&queue).build();
    letters.send("alice").await.unwrap();
    let dead = format!(r#"rpc_server_jobs_dead_total{{queue="{queue}",reason="error"}}"#);
    until("it is dead", SOON, async || Ok(growth(&before, &dead) > 0.0))
        .await
        .unwrap();
    server.stop().await.unwrap();
    let retried = format!(r#"rpc_server_jobs_retried_total{{queue="{queue}"}}"#);
    let ran = r#"rpc_server_requests_total{service="Letters",method="send",outcome="error"}"#;
    assert_grew(&before, &[(&dead, 1.0), (&retried, 1.0), (ran, 2.0)]);
}

async fn broadcasts_are_counted_by_each_worker(world: World) {
    #[service]
    trait Cache {
        #[rpc(broadcast)]
        async fn reload(&self) -> Result<(), String>;
    }

    struct NoFile;
    impl Cache for NoFile {
        async fn reload(&self) -> Result<(), String> {
            Err("no file".into())
        }
    }

    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let (broker, queue) = (world.broker().await, unique("cache"));
    let mut servers = Vec::new();
    for _ in 0..2 {
        let server = Server::new(&broker);
        let server = server.serve_on(RequestQueue::new(&queue), CacheServer::new(NoFile));
        servers.push(server.start().await.unwrap());
    }
    let cache = CacheClient::builder(&broker).queue(&queue).build();
    let sent = cache.reload().expect_workers(2).send().await.unwrap();
    assert_eq!(soon("both answer", sent.collect()).await.missing, Some(0));
    let unknown = DynamicClient::new(&broker, {
        let mut description = CacheClient::SERVICE.description();
        description.queue.clone_from(&queue);
        description.methods[0].name = "erase".into();
        description
    });
    let sent = unknown
        .unwrap()
        .broadcast("erase", ())
        .expect_workers(2)
        .send()
        .await;
    assert_eq!(
        soon("both refuse", sent.unwrap().collect()).await.missing,
        Some(0)
    );
    for server in servers {
        server.stop().await.unwrap();
    }
    assert_grew(
        &before,
        &[
            // The call ends once the request is sent.
            (
                r#"rpc_client_calls_total{service="Cache",method="reload",outcome="ok"}"#,
                1.0,
            ),
            (
                r#"rpc_server_requests_total{service="Cache",method="reload",outcome="error"}"#,
                2.0,
            ),
            (
                &format!(r#"rpc_server_refused_total{{queue="{queue}",code="unknown_method"}}"#),
                2.0,
            ),
        ],
    );
}

async fn items_are_counted_on_both_sides(world: World) {
    #[service]
    trait Feed {
        fn read(&self, items: u64) -> impl Stream<Item = String>;
        async fn write(&self, items: Incoming<String>) -> u64;
    }

    struct Strings(Gate);
    impl Feed for Strings {
        fn read(&self, items: u64) -> impl Stream<Item = String> {
            let strings = stream::iter(0..items).map(|_| "abc".to_owned());
            strings.chain(stream::once(async {
                self.0.pass().await;
                "d".to_owned()
            }))
        }

        async fn write(&self, items: Incoming<String>) -> u64 {
            items.count().await as u64
        }
    }

    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let (broker, queue, gate) = (world.broker().await, unique("feed"), Gate::closed());
    let server = Server::new(&broker)
        .serve_on(RequestQueue::new(&queue), FeedServer::new(Strings(gate.clone())))
        .start()
        .await
        .unwrap();
    let feed = FeedClient::builder(&broker).queue(&queue).build();
    let mut reading = feed.read(10);
    for _ in 0..10 {
        soon("it arrives", reading.next()).await.unwrap().unwrap();
    }
    let items = |side: &str, what: &str, method: &str, sent_by: &str| {
        format!(r#"rpc_{side}_{what}_total{{service="Feed",method="{method}",sent_by="{sent_by}"}}"#)
    };
    let in_flight = |side: &str| format!(r#"rpc_{side}_in_flight{{service="Feed",method="read"}}"#);
    for side in ["client", "server"] {
        let expected = [
            (&*in_flight(side), 1.0),
            (&items(side, "items", "read", "method"), 10.0),
            // MessagePack has a byte for the length.
            (&items(side, "item_bytes", "read", "method"), 40.0),
        ];
        assert_grew(&before, &expected);
    }
    gate.let_all_go();
    assert_eq!(soon("it ends", reading.count()).await, 1);
    let written = soon("it returns", feed.write(stream::iter(vec![String::new(); 2000]))).await;
    assert_eq!(written.unwrap(), 2000);
    server.stop().await.unwrap();
    for side in ["client", "server"] {
        let expected = [
            (&*in_flight(side), 0.0),
            (&items(side, "items", "read", "method"), 11.0),
            (&items(side, "item_bytes", "read", "method"), 42.0),
            (&items(side, "items", "write", "caller"), 2000.0),
            (&items(side, "item_bytes", "write", "caller"), 2000.0),
        ];
        assert_grew(&before, &expected);
    }
}

async fn overload_is_shown_while_it_lasts(world: World) {
    let _alone = ONE_AT_A_TIME.lock().await;
    LazyLock::force(&RECORDER);
    let (broker, queue, gate) = (world.broker().await, unique("metered"), Gate::closed());
    let server = Server::new(&broker)
        .concurrency(1)
        .serve_on(RequestQueue::new(&queue), MeteredServer::new(Meter(gate.clone())))
        .start()
        .await
        .unwrap();
    let reaches = async |name: &str, expected: &dyn Fn(f64) -> bool| {
        let name = format!(r#"{name}{{queue="{queue}"}}"#);
        let reached = until(&name, SOON, async || {
            Ok(expected(counted().get(&name).copied().unwrap_or(f64::NAN)))
        });
        reached.await.unwrap();
    };
    let client = |max_in_flight| {
        MeteredClient::builder(&broker)
            .queue(&queue)
            .batching(false)
            .max_in_flight(max_in_flight)
            .build()
    };
    let (wide, narrow) = (client(1000), client(1));
    let call = |client: &MeteredClient| tokio::spawn(client.pass().timeout(SOON));
    let mut calls = vec![call(&wide)];
    gate.began(1).await;
    calls.extend([call(&wide), call(&narrow), call(&narrow)]);
    reaches("rpc_client_waiting", &|waiting| waiting == 1.0).await;
    // The client's limit shrinks if requests wait for longer than a second.
    reaches("rpc_server_queue_time_seconds", &|time| {
        (1.5..SOON.as_secs_f64()).contains(&time)
    })
    .await;
    assert!(!counted().contains_key(&format!(r#"rpc_client_limit{{queue="{queue}"}}"#)));

    gate.let_all_go();
    for called in calls {
        called.await.unwrap().unwrap();
    }
    reaches("rpc_client_waiting", &|waiting| waiting == 0.0).await;
    reaches("rpc_server_queue_time_seconds", &|time| time == 0.0).await;
    reaches("rpc_client_limit", &|limit| (1.0..10.0).contains(&limit)).await;
    drop(wide);
    reaches("rpc_client_limit", &|limit| limit == 1000.0).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn redeliveries_are_counted() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let (url, queue) = (shared().await, unique("metered"));
    let broker = Broker::connect(url).await.unwrap();
    let peer = RawPeer::connect(url).await.unwrap();
    let serve = || {
        Server::new(&broker)
            .serve_on(RequestQueue::new(&queue), MeteredServer::new(Meter(Gate::open())))
            .start()
    };
    serve().await.unwrap().stop().await.unwrap();

    // Another consumer takes a request and is lost with its connection.
    let properties = lapin::BasicProperties::default().with_type("quick".into());
    peer.publish(&queue, properties, b"").await.unwrap();
    let mut consumer = peer.consume_unsettled(&queue).await.unwrap();
    let delivery = rpc_tests::raw::next(&mut consumer, SOON).await.unwrap();
    assert!(delivery.is_some());
    peer.channel().close(200, "lost".into()).await.unwrap();
    let server = serve().await.unwrap();
    let redelivered = format!(r#"rpc_server_redelivered_total{{queue="{queue}"}}"#);
    until("it is delivered again", SOON, async || {
        Ok(growth(&before, &redelivered) >= 1.0)
    })
    .await
    .unwrap();
    assert_grew(
        &before,
        &[
            (&redelivered, 1.0),
            // It is not idempotent.
            (
                &format!(r#"rpc_server_refused_total{{queue="{queue}",code="interrupted"}}"#),
                1.0,
            ),
        ],
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn connections_are_counted() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let before = counted();
    let proxy = Proxy::start(shared().await).await.unwrap();
    let broker = Broker::connect(proxy.url()).await.unwrap();
    let of = |name: &str, role: &str| format!(r#"rpc_connections{name}{{role="{role}"}}"#);
    let publishing = of("_opened_total", "publishing");
    assert!(growth(&before, &publishing) >= 1.0);
    let lost = of("_lost_total", "publishing");
    let (opened_before, lost_before) = (growth(&before, &publishing), growth(&before, &lost));
    proxy.reset(Target::All).await;
    until("the connection is lost and made again", SOON, async || {
        Ok(growth(&before, &lost) > lost_before && growth(&before, &publishing) > opened_before)
    })
    .await
    .unwrap();
    soon("it closes", broker.close()).await;
}

/// A recorder that hears of names alone.
#[derive(Default)]
struct Names(std::sync::Mutex<BTreeSet<String>>);

impl Names {
    fn described() -> BTreeSet<String> {
        let names = Self::default();
        metrics::with_local_recorder(&names, describe_metrics);
        names.0.into_inner().unwrap()
    }

    fn add(&self, name: KeyName) {
        self.0.lock().unwrap().insert(name.as_str().to_owned());
    }
}

impl Recorder for Names {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.add(name);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.add(name);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.add(name);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The names of metrics in a text; of a histogram, without what Prometheus adds to it.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
    let metrics = words.filter(|word| word.starts_with("rpc_") && *word != "rpc_runtime");
    metrics
        .map(|name| {
            let histogram = ["_bucket", "_sum", "_count"];
            let ending = histogram.iter().find_map(|ending| name.strip_suffix(ending));
            ending.unwrap_or(name).to_owned()
        })
        .collect()
}

#[test]
fn the_dashboard_and_the_documentation_list_every_metric() {
    let described = Names::described();
    let dashboard = names_in(include_str!("../../examples/grafana_dashboard.json"));
    assert_eq!(dashboard.difference(&described).collect::<Vec<_>>(), [""; 0]);
    assert!(dashboard.len() > 10);
    let page = include_str!("../../docs/observability.md");
    assert_eq!(names_in(page), described);
}
