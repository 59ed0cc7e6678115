//! Layers of tower around calls and around methods: they work as they are, and errors go on being
//! honest.

use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::TryFutureExt;
use futures_util::future::{BoxFuture, Ready, join_all, ready};
use rpc_runtime::discovery::WorkerClient;
use rpc_runtime::middleware::{
    Authorize, BoxError, CallReply, CallService, HandlerLayer, IncomingCall, OutgoingCall,
};
use rpc_runtime::{
    Answer, Broker, CallError, Executed, Fault, FaultCode, RequestQueue, RunningServer, Server, service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::on_both_brokers;
use rpc_tests::rabbit::unique;
use rpc_tests::world::World;
use serde::{Deserialize, Serialize};
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::retry::{Policy, RetryLayer};
use tower::timeout::TimeoutLayer;
use tower::util::MapRequestLayer;
use tower::{Layer, Service};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Closed;

#[service]
trait Shop {
    #[rpc(idempotent)]
    async fn look(&self, #[rpc(context)] cx: &rpc_runtime::Context, what: &str) -> String;
    async fn enter(&self);
    async fn buy(&self) -> Result<(), Closed>;
}

#[derive(Clone)]
struct Keeper(Gate);

impl Shop for Keeper {
    async fn look(&self, cx: &rpc_runtime::Context, what: &str) -> String {
        format!("{what} for {}", cx.headers().get("tenant").unwrap_or("nobody"))
    }

    async fn enter(&self) {
        self.0.pass().await;
    }

    async fn buy(&self) -> Result<(), Closed> {
        Err(Closed)
    }
}

on_both_brokers! {
    a_worker_sheds_requests_beyond_its_limit,
    a_request_that_waits_in_a_layer_past_its_deadline_does_not_run,
    a_request_that_a_server_layer_gives_up_on_may_have_run,
    a_caller_calls_no_more_often_than_it_may,
    a_caller_repeats_what_is_safe_to_repeat,
    a_layer_that_repeats_calls_fits_around_all_others,
    a_call_that_a_client_layer_gives_up_on_may_have_run,
    a_later_attempt_does_not_hide_an_earlier_one,
    layers_of_a_caller_see_calls_and_outcomes,
    layers_of_a_caller_see_calls_that_leave_together,
    layers_of_a_worker_see_requests_and_outcomes,
    callers_do_what_they_are_allowed_to,
    a_server_layer_passes_values_to_the_method,
    shed_requests_do_not_count_as_runs_of_the_method,
    a_worker_at_its_limits_says_how_it_is,
}

/// A queue, and a worker on it with a layer.
struct Counter {
    queue: String,
    gate: Gate,
    server: RunningServer,
}

impl Counter {
    async fn open(broker: &Broker, layer: impl HandlerLayer) -> Self {
        let (queue, gate) = (unique("shop"), Gate::closed());
        let service = ShopServer::new(Keeper(gate.clone()));
        let server = Server::new(broker).layer(layer);
        let server = server.serve_on(RequestQueue::new(&queue), service).start();
        Self {
            queue,
            gate,
            server: server.await.unwrap(),
        }
    }

    async fn close(self) {
        self.gate.let_all_go();
        self.server.stop().await.unwrap();
    }
}

fn fault(error: CallError) -> Fault {
    match error {
        CallError::Fault(fault) => fault,
        error => panic!("{error:?}"),
    }
}

fn of_layer(error: CallError) -> (BoxError, Executed) {
    match error {
        CallError::Middleware { source, executed, .. } => (source, executed),
        error => panic!("{error:?}"),
    }
}

/// A layer that does nothing.
fn none() -> tower::layer::util::Identity {
    tower::layer::util::Identity::new()
}

async fn a_worker_sheds_requests_beyond_its_limit(world: World) {
    let broker = world.broker().await;
    let layers = tower::ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1));
    let counter = Counter::open(&broker, layers.into_inner()).await;
    let shop = ShopClient::builder(&broker).queue(&counter.queue).build();
    let first = tokio::spawn(shop.enter());
    counter.gate.began(1).await;
    let error = soon("it is shed", shop.enter()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(error.executed(), Executed::No);
    let fault = fault(error);
    assert_eq!(fault.code, FaultCode::Rejected);
    assert!(fault.message.contains("overloaded"), "{fault}");
    counter.gate.let_all_go();
    first.await.unwrap().unwrap();
    assert_eq!(counter.gate.most_inside(), 1);
    counter.close().await;
}

async fn a_request_that_waits_in_a_layer_past_its_deadline_does_not_run(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, ConcurrencyLimitLayer::new(1)).await;
    let shop = ShopClient::builder(&broker).queue(&counter.queue).build();
    let first = tokio::spawn(shop.enter());
    counter.gate.began(1).await;
    let late = shop
        .enter()
        .timeout(Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(
        matches!(late, CallError::TimedOut { .. } | CallError::Fault(_)),
        "{late:?}"
    );
    counter.gate.let_all_go();
    first.await.unwrap().unwrap();
    // The layer has forgotten the late one: another goes through it, and it is the second that
    // began.
    soon("another is served", shop.enter()).await.unwrap();
    counter.gate.began(1).await;
    assert_eq!(counter.gate.most_inside(), 1);
    counter.close().await;
}

async fn a_request_that_a_server_layer_gives_up_on_may_have_run(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, TimeoutLayer::new(Duration::from_millis(50))).await;
    let shop = ShopClient::builder(&broker).queue(&counter.queue).build();
    let error = soon("the layer gives up", shop.enter()).await.unwrap_err();
    assert_eq!(error.executed(), Executed::Maybe);
    assert_eq!(fault(error).code, FaultCode::Abandoned);
    counter.close().await;
}

async fn a_caller_calls_no_more_often_than_it_may(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, none()).await;
    let shop = ShopClient::builder(&broker)
        .queue(&counter.queue)
        .layer(RateLimitLayer::new(2, Duration::from_secs(3600)))
        .build();
    // Clones share the limit.
    shop.look("bread").await.unwrap();
    shop.clone().look("bread").await.unwrap();
    let limit = Duration::from_millis(50);
    let error = soon("its time is up", shop.look("bread").timeout(limit))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::TimedOut { limit: told, executed: Executed::No, .. } if told == limit),
        "{error:?}"
    );
    counter.close().await;
}

async fn shed_requests_do_not_count_as_runs_of_the_method(world: World) {
    let broker = world.broker().await;
    let layers = tower::ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1));
    let counter = Counter::open(&broker, layers.into_inner()).await;
    let shop = ShopClient::builder(&broker).queue(&counter.queue).build();
    // One that takes long, so that callers are told to send one by one.
    let slow = tokio::spawn(shop.enter());
    counter.gate.began(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    counter.gate.let_go(1);
    slow.await.unwrap().unwrap();

    let held = tokio::spawn(shop.enter());
    counter.gate.began(1).await;
    for _ in 0..5 {
        for shed in join_all((0..100).map(|_| shop.enter())).await {
            assert_eq!(fault(shed.unwrap_err()).code, FaultCode::Rejected);
        }
    }
    counter.gate.let_all_go();
    held.await.unwrap().unwrap();
    let stats = WorkerClient::new(&broker, &counter.queue).stats().await.unwrap();
    let enter = stats.method("Shop", "enter").unwrap();
    assert_eq!((enter.calls, enter.failures), (2, 0), "{enter:?}");
    assert!(enter.mean() > Duration::from_millis(5), "{enter:?}");
    counter.close().await;
}

async fn a_worker_at_its_limits_says_how_it_is(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, ConcurrencyLimitLayer::new(1)).await;
    let shop = ShopClient::builder(&broker).queue(&counter.queue).build();
    let held = tokio::spawn(shop.enter());
    counter.gate.began(1).await;
    let workers = WorkerClient::new(&broker, &counter.queue);
    let stats = soon("it answers", workers.stats()).await.unwrap();
    assert_eq!(stats.method("Shop", "enter").unwrap().in_flight, 1);
    counter.gate.let_all_go();
    held.await.unwrap().unwrap();
    counter.close().await;
}

/// Who calls, by what a header says.
struct Tenant(String);

async fn a_server_layer_passes_values_to_the_method(world: World) {
    #[service]
    trait Desk {
        async fn who(&self, #[rpc(context)] cx: &rpc_runtime::Context) -> Option<String>;
    }
    struct Clerk;
    impl Desk for Clerk {
        async fn who(&self, cx: &rpc_runtime::Context) -> Option<String> {
            cx.extensions().get().map(|Tenant(name)| name.clone())
        }
    }
    let (broker, queue) = (world.broker().await, unique("desk"));
    let server = Server::new(&broker)
        .layer(MapRequestLayer::new(|mut call: IncomingCall| {
            if let Some(name) = call.context().headers().get("tenant").map(str::to_owned) {
                call.extensions_mut().insert(Tenant(name));
            }
            call
        }))
        .serve_on(RequestQueue::new(&queue), DeskServer::new(Clerk))
        .start()
        .await
        .unwrap();
    let desk = DeskClient::builder(&broker).queue(&queue).build();
    assert_eq!(
        desk.who().header("tenant", "acme").await.unwrap().as_deref(),
        Some("acme")
    );
    assert_eq!(desk.who().await.unwrap(), None);
    server.stop().await.unwrap();
}

/// Tries once more what is safe to try again.
#[derive(Clone)]
struct Once(u32);

impl Policy<OutgoingCall, CallReply, CallError> for Once {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        call: &mut OutgoingCall,
        outcome: &mut Result<CallReply, CallError>,
    ) -> Option<Ready<()>> {
        let is_safe = |error: &CallError| error.is_retryable() || call.is_idempotent();
        self.0 = self.0.checked_sub(1)?;
        outcome
            .as_ref()
            .err()
            .filter(|error| is_safe(error))
            .map(|_| ready(()))
    }

    fn clone_request(&mut self, call: &OutgoingCall) -> Option<OutgoingCall> {
        Some(call.clone())
    }
}

/// Fails the first calls of a worker.
#[derive(Clone)]
struct FailsAtFirst<S> {
    inner: S,
    faults: Arc<Mutex<Vec<FaultCode>>>,
}

/// The layer of [`FailsAtFirst`]: these faults, the last one first.
fn fails_at_first<S>(faults: impl Into<Vec<FaultCode>>) -> impl Layer<S, Service = FailsAtFirst<S>> {
    let faults = Arc::new(Mutex::new(faults.into()));
    tower::layer::layer_fn(move |inner| FailsAtFirst {
        inner,
        faults: Arc::clone(&faults),
    })
}

impl<S> Service<IncomingCall> for FailsAtFirst<S>
where
    S: Service<IncomingCall, Response = Answer, Error = Fault, Future: Send + 'static>,
{
    type Response = Answer;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<Answer, Fault>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Fault>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: IncomingCall) -> Self::Future {
        match self.faults.lock().unwrap().pop() {
            Some(code) => Box::pin(ready(Err(Fault::new(code, "not yet")))),
            None => Box::pin(self.inner.call(call)),
        }
    }
}

async fn a_caller_repeats_what_is_safe_to_repeat(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, fails_at_first([FaultCode::Rejected])).await;
    counter.gate.let_all_go();
    let shop = ShopClient::builder(&broker)
        .queue(&counter.queue)
        .layer(RetryLayer::new(Once(1)))
        .build();
    shop.enter().await.unwrap();

    // The method may have run, and is not idempotent.
    let other = Counter::open(&broker, fails_at_first([FaultCode::Abandoned])).await;
    let shop = ShopClient::builder(&broker)
        .queue(&other.queue)
        .layer(RetryLayer::new(Once(1)))
        .build();
    assert_eq!(fault(shop.enter().await.unwrap_err()).code, FaultCode::Abandoned);
    counter.close().await;
    other.close().await;
}

async fn a_layer_that_repeats_calls_fits_around_all_others(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, fails_at_first([FaultCode::Rejected])).await;
    counter.gate.let_all_go();
    let shop: ShopClient = ShopClient::builder(&broker)
        .queue(&counter.queue)
        .layer(RetryLayer::new(Once(1)))
        .layer(LoadShedLayer::new())
        .layer(RateLimitLayer::new(2, Duration::from_secs(3600)))
        .build();
    shop.enter().await.unwrap();
    let (source, executed) = of_layer(soon("it is shed", shop.enter()).await.unwrap_err());
    assert!(
        source.is::<tower::load_shed::error::Overloaded>(),
        "the first call was two: {source:?}"
    );
    assert_eq!(executed, Executed::No);
    counter.close().await;
}

async fn a_call_that_a_client_layer_gives_up_on_may_have_run(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, none()).await;
    let shop = ShopClient::builder(&broker)
        .queue(&counter.queue)
        .layer(TimeoutLayer::new(Duration::from_millis(50)))
        .build();
    let (source, executed) = of_layer(soon("the layer gives up", shop.enter()).await.unwrap_err());
    assert!(source.is::<tower::timeout::error::Elapsed>(), "{source:?}");
    assert_eq!(executed, Executed::Maybe);
    counter.close().await;
}

async fn a_later_attempt_does_not_hide_an_earlier_one(world: World) {
    let broker = world.broker().await;
    let faults = [FaultCode::Rejected, FaultCode::Abandoned];
    let counter = Counter::open(&broker, fails_at_first(faults)).await;
    let shop = ShopClient::builder(&broker)
        .queue(&counter.queue)
        .layer(RetryLayer::new(Once(1)))
        .build();
    let (source, executed) = of_layer(shop.look("bread").await.unwrap_err());
    let last = *source.downcast::<CallError>().unwrap();
    assert_eq!(fault(last).code, FaultCode::Rejected);
    assert_eq!(executed, Executed::Maybe);
    counter.close().await;
}

/// What a layer saw.
type Seen = Arc<Mutex<Vec<String>>>;

fn taken(seen: &Seen) -> Vec<String> {
    std::mem::take(&mut *seen.lock().unwrap())
}

#[derive(Clone)]
struct Watch<S> {
    inner: S,
    seen: Seen,
}

fn watch<S>(seen: &Seen) -> impl Layer<S, Service = Watch<S>> + use<S> {
    let seen = Arc::clone(seen);
    tower::layer::layer_fn(move |inner| Watch {
        inner,
        seen: Arc::clone(&seen),
    })
}

impl Service<OutgoingCall> for Watch<CallService> {
    type Response = CallReply;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<CallReply, CallError>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: OutgoingCall) -> Self::Future {
        let name = format!("{}.{}", call.service(), call.method());
        let tenant = call.headers().get("tenant").map(str::to_owned);
        assert!(call.remaining() <= SOON && call.remaining() > SOON / 2);
        let seen = Arc::clone(&self.seen);
        let calling = self.inner.call(call);
        Box::pin(async move {
            let outcome = calling.await;
            let told = match &outcome {
                Ok(reply) if reply.is_error() => "its own error".to_owned(),
                Ok(_) => "answered".to_owned(),
                Err(error) => format!("{:?}", error.executed()),
            };
            let line = format!("{name} for {}: {told}", tenant.as_deref().unwrap_or("nobody"));
            seen.lock().unwrap().push(line);
            outcome
        })
    }
}

async fn layers_of_a_caller_see_calls_and_outcomes(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, none()).await;
    let seen = Seen::default();
    let client = |queue: &str| {
        ShopClient::builder(&broker)
            .queue(queue)
            .timeout(SOON)
            // The first layer sees a call first, and what the second sees has gone through it.
            .layer(MapRequestLayer::new(|mut call: OutgoingCall| {
                call.insert_header("tenant", "acme").unwrap();
                assert!(call.insert_header("CC", "everybody").is_err());
                call
            }))
            .layer(watch(&seen))
            .build()
    };
    let shop = client(&counter.queue);
    assert_eq!(shop.look("bread").await.unwrap(), "bread for acme");
    assert!(matches!(shop.buy().await, Err(CallError::Service(Closed))));
    let nowhere = client(&unique("nowhere"));
    assert!(matches!(nowhere.enter().await, Err(CallError::NoServer { .. })));
    assert_eq!(
        taken(&seen),
        [
            "Shop.look for acme: answered",
            "Shop.buy for acme: its own error",
            "Shop.enter for acme: No",
        ]
    );
    counter.close().await;
}

async fn layers_of_a_caller_see_calls_that_leave_together(world: World) {
    let broker = world.broker().await;
    let counter = Counter::open(&broker, none()).await;
    let seen = Seen::default();
    let shop = ShopClient::builder(&broker)
        .queue(&counter.queue)
        .timeout(SOON)
        .layer(watch(&seen))
        .build();
    for _ in 0..3 {
        let calls = (0..300).map(|n| shop.look("bread").header("tenant", n.to_string()));
        for (n, answer) in join_all(calls).await.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), format!("bread for {n}"));
        }
        assert_eq!(taken(&seen).len(), 300);
    }
    counter.close().await;
}

impl<S> Service<IncomingCall> for Watch<S>
where
    S: Service<IncomingCall, Response = Answer, Error = Fault, Future: Send + 'static>,
{
    type Response = Answer;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<Answer, Fault>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Fault>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: IncomingCall) -> Self::Future {
        let name = format!("{}.{}", call.service(), call.method());
        let by = call.context().app_id().unwrap_or("somebody").to_owned();
        assert!(call.context().remaining().is_some_and(|time| time <= SOON));
        let seen = Arc::clone(&self.seen);
        let tell = move |told: &str| seen.lock().unwrap().push(format!("{name} by {by}: {told}"));
        let told = tell.clone();
        let running = self.inner.call(call);
        Box::pin(
            running
                .inspect_ok(move |answer| {
                    tell(if answer.is_error() {
                        "its own error"
                    } else {
                        "answered"
                    });
                })
                .inspect_err(move |fault| told(fault.code.as_str())),
        )
    }
}

async fn layers_of_a_worker_see_requests_and_outcomes(world: World) {
    let seen = Seen::default();
    let counter = Counter::open(&world.broker().await, watch(&seen)).await;
    let broker = world.broker_with(Broker::builder().app_id("till")).await;
    let shop = ShopClient::builder(&broker)
        .queue(&counter.queue)
        .timeout(SOON)
        .build();
    shop.look("bread").await.unwrap();
    assert!(matches!(shop.buy().await, Err(CallError::Service(Closed))));
    assert_eq!(
        taken(&seen),
        ["Shop.look by till: answered", "Shop.buy by till: its own error"]
    );
    counter.close().await;
}

async fn callers_do_what_they_are_allowed_to(world: World) {
    // The in-process broker has one user of this name, and so has a new RabbitMQ.
    let rules = Authorize::new()
        .allow("guest", ["Shop.look"])
        .allow_everybody(["Shop.enter"]);
    let counter = Counter::open(&world.broker().await, rules).await;
    counter.gate.let_all_go();
    let client = async |send| {
        let broker = world.broker_with(Broker::builder().send_user_id(send)).await;
        ShopClient::builder(&broker).queue(&counter.queue).build()
    };
    let (guest, stranger) = (client(true).await, client(false).await);
    guest.look("bread").await.unwrap();
    guest.enter().await.unwrap();
    stranger.enter().await.unwrap();
    // Many at once leave together, and are told apart all the same.
    let looks = join_all((0..200).map(|_| guest.look("bread"))).await;
    assert!(looks.iter().all(Result::is_ok));
    let looks = join_all((0..200).map(|_| stranger.look("bread"))).await;
    for error in looks.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.executed(), Executed::No);
        assert_eq!(fault(error).code, FaultCode::Unauthorized);
    }
    let Err(CallError::Fault(fault)) = guest.buy().await else {
        panic!("it is not allowed");
    };
    assert_eq!(fault.code, FaultCode::Unauthorized);
    assert_eq!(fault.message, r#"user "guest" may not call "Shop.buy""#);
    counter.close().await;
}
