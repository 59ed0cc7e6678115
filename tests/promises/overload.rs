//! Overload: what cannot be answered in time is refused and does not run, all else is served, and
//! callers send less.
//!
//! A method that ends when the test says so holds the only place of a worker. What is sent
//! meanwhile waits in the queue.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt as _, poll};
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Consumer};
use rpc_runtime::middleware::IncomingCall;
use rpc_runtime::{
    Answer, Broker, CallError, Executed, Fault, FaultCode, RequestQueue, RunningServer, Server, WhenFull,
    service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{self, RawPeer};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service};

/// How long the method in the only place takes, and so how long the others are expected to take.
const HELD: Duration = Duration::from_secs(8);

/// The time of a call that waits meanwhile. When the place is free there is time left, but not
/// enough.
const TOO_SHORT: Duration = Duration::from_secs(12);

#[service]
trait Shop {
    /// Ends once the gate lets it.
    async fn visit(&self, name: &str) -> String;
    /// Ends at once.
    async fn look(&self, name: &str) -> String;
    /// Takes five milliseconds.
    async fn buy(&self) -> u32;
}

#[derive(Clone)]
struct Keeper {
    gate: Gate,
    /// Whose methods began.
    ran: Arc<Mutex<Vec<String>>>,
}

impl Keeper {
    fn new() -> Self {
        Self {
            gate: Gate::closed(),
            ran: Arc::default(),
        }
    }

    fn ran(&self) -> Vec<String> {
        let mut ran = self.ran.lock().unwrap().clone();
        ran.sort();
        ran
    }
}

impl Shop for Keeper {
    async fn visit(&self, name: &str) -> String {
        self.ran.lock().unwrap().push(name.to_owned());
        self.gate.pass().await;
        name.to_owned()
    }

    async fn look(&self, name: &str) -> String {
        self.ran.lock().unwrap().push(name.to_owned());
        name.to_owned()
    }

    async fn buy(&self) -> u32 {
        sleep(Duration::from_millis(5)).await;
        7
    }
}

fn server(broker: &Broker, queue: RequestQueue, keeper: &Keeper) -> Server {
    Server::new(broker)
        .concurrency(1)
        .serve_on(queue, ShopServer::new(keeper.clone()))
}

/// A worker with one place, which a method holds.
struct Busy {
    world: World,
    queue: String,
    keeper: Keeper,
    since: Instant,
    holds: Vec<JoinHandle<Result<String, CallError>>>,
    servers: Vec<RunningServer>,
}

impl Busy {
    async fn new(world: &World) -> Self {
        Self::on(world, |queue| queue, |server| server).await
    }

    async fn on(
        world: &World,
        choose: impl Fn(RequestQueue) -> RequestQueue,
        configure: impl Fn(Server) -> Server,
    ) -> Self {
        let mut busy = Self {
            world: world.clone(),
            queue: unique("overload"),
            keeper: Keeper::new(),
            since: Instant::now(),
            holds: Vec::new(),
            servers: Vec::new(),
        };
        let queue = choose(RequestQueue::new(&busy.queue));
        let server = server(&world.broker().await, queue, &busy.keeper);
        busy.servers.push(configure(server).start().await.unwrap());
        busy.hold(0).await;
        busy
    }

    /// One more worker, whose place is held too.
    async fn another(&mut self) {
        let queue = RequestQueue::new(&self.queue);
        let server = server(&self.world.broker().await, queue, &self.keeper);
        self.servers.push(server.start().await.unwrap());
        self.hold(0).await;
    }

    async fn hold(&mut self, priority: u8) {
        let client = self.client().await;
        self.holds
            .push(tokio::spawn(client.visit("holds").priority(priority)));
        self.keeper.gate.began(1).await;
        self.since = Instant::now();
    }

    /// A client of its own connection.
    async fn client(&self) -> ShopClient {
        let builder = ShopClient::builder(&self.world.broker().await);
        builder.queue(&self.queue).timeout(SOON).build()
    }

    /// A call that waits in the queue, with too little time.
    async fn late(&self, name: &'static str, priority: u8) -> JoinHandle<Result<String, CallError>> {
        let call = self.client().await.visit(name).priority(priority);
        tokio::spawn(call.timeout(TOO_SHORT).into_future())
    }

    /// Lets go what holds the places, and all that follows.
    async fn release(&mut self) {
        tokio::time::sleep_until(self.since + HELD).await;
        self.keeper.gate.let_all_go();
        for held in self.holds.drain(..) {
            soon("what was held ends", held).await.unwrap().unwrap();
        }
    }

    async fn stop(self) {
        for server in self.servers {
            server.stop().await.unwrap();
        }
    }
}

fn fault(outcome: Result<String, CallError>) -> Fault {
    match outcome {
        Err(CallError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// The refusal of a call that waited too long.
fn assert_refused(outcome: Result<String, CallError>) {
    let error = outcome.unwrap_err();
    assert_eq!(error.executed(), Executed::No, "{error:?}");
    assert!(error.is_retryable());
    assert!(error.retry_after().is_some());
    assert_eq!(fault(Err(error)).code, FaultCode::Expired);
}

on_both_brokers! {
    a_call_that_cannot_be_answered_in_time_is_refused_and_not_run,
    a_call_with_enough_time_is_run_however_long_the_queue_is,
    with_several_workers_late_calls_are_refused_too,
    important_calls_are_admitted_while_others_are_refused,
    a_worker_without_admission_runs_everything,
    a_client_that_is_refused_holds_its_calls_back,
    a_client_that_holds_its_calls_back_can_fail_them_at_once,
    a_client_pauses_no_longer_than_the_worker_asked,
    a_rejection_that_says_nothing_of_overload_changes_nothing,
    a_client_without_an_adaptive_limit_goes_on,
    calls_that_are_dropped_while_they_wait_leave_their_places_to_others,
    a_greedy_client_does_not_starve_another,
}

async fn a_call_that_cannot_be_answered_in_time_is_refused_and_not_run(world: World) {
    let mut busy = Busy::new(&world).await;
    let late = busy.late("late", 0).await;
    busy.release().await;
    assert_refused(soon("it is refused", late).await.unwrap());
    assert_eq!(busy.keeper.ran(), ["holds"]);
    busy.stop().await;
}

async fn a_call_with_enough_time_is_run_however_long_the_queue_is(world: World) {
    let mut busy = Busy::new(&world).await;
    let mut calls = Vec::new();
    for name in ["a", "b", "c"] {
        calls.push(tokio::spawn(busy.client().await.visit(name)));
    }
    busy.release().await;
    for call in calls {
        soon("it is run", call).await.unwrap().unwrap();
    }
    assert_eq!(busy.keeper.ran(), ["a", "b", "c", "holds"]);
    busy.stop().await;
}

async fn with_several_workers_late_calls_are_refused_too(world: World) {
    let mut busy = Busy::new(&world).await;
    busy.another().await;
    let late = [
        busy.late("late", 0).await,
        busy.late("late", 0).await,
        busy.late("late", 0).await,
        busy.late("late", 0).await,
    ];
    busy.release().await;
    for late in late {
        assert_refused(soon("it is refused", late).await.unwrap());
    }
    assert_eq!(busy.keeper.ran(), ["holds", "holds"]);
    busy.stop().await;
}

async fn important_calls_are_admitted_while_others_are_refused(world: World) {
    let mut busy = Busy::on(&world, |queue| queue.priorities(9), |server| server).await;
    // The worker knows of both priorities.
    let known = tokio::spawn(busy.client().await.visit("known").priority(9).into_future());
    tokio::time::sleep_until(busy.since + HELD).await;
    busy.keeper.gate.let_go(1);
    busy.keeper.gate.began(1).await;
    busy.since = Instant::now();
    let late = busy.late("late", 0).await;
    sleep(HELD - Duration::from_millis(250)).await;
    // It has as much time, and waits for less.
    let important = busy.late("important", 9).await;
    busy.release().await;
    soon("it ends", known).await.unwrap().unwrap();
    soon("it is run", important).await.unwrap().unwrap();
    assert_refused(soon("it is refused", late).await.unwrap());
    assert_eq!(busy.keeper.ran(), ["holds", "important", "known"]);
    busy.stop().await;
}

async fn a_worker_without_admission_runs_everything(world: World) {
    let mut busy = Busy::on(&world, |queue| queue, |server| server.admission(false)).await;
    let late = busy.late("late", 0).await;
    busy.release().await;
    soon("it is run", late).await.unwrap().unwrap();
    assert_eq!(busy.keeper.ran(), ["holds", "late"]);
    busy.stop().await;
}

/// A layer of a worker that sheds all requests while it is told to.
#[derive(Clone)]
struct Shedding {
    is_on: Arc<AtomicBool>,
    retry_after: Option<Duration>,
}

#[derive(Clone)]
struct Sheds<S> {
    inner: S,
    shedding: Shedding,
}

impl<S> Layer<S> for Shedding {
    type Service = Sheds<S>;

    fn layer(&self, inner: S) -> Sheds<S> {
        let shedding = self.clone();
        Sheds { inner, shedding }
    }
}

impl<S> Service<IncomingCall> for Sheds<S>
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
        let Shedding { is_on, retry_after } = &self.shedding;
        if !is_on.load(Ordering::SeqCst) {
            return Box::pin(self.inner.call(call));
        }
        let fault = Fault::new(FaultCode::Rejected, "too much to do");
        let fault = match retry_after {
            Some(time) => fault.with_retry_after(*time),
            None => fault,
        };
        Box::pin(async { Err(fault) })
    }
}

/// A worker that sheds, and clients of it.
struct Shed {
    queue: String,
    keeper: Keeper,
    broker: Broker,
    shedding: Shedding,
    server: RunningServer,
}

impl Shed {
    async fn new(world: &World, retry_after: Option<Duration>) -> Self {
        let shedding = Shedding {
            is_on: Arc::new(AtomicBool::new(true)),
            retry_after,
        };
        let (queue, keeper) = (unique("shed"), Keeper::new());
        let server = Server::new(&world.broker().await)
            .layer(shedding.clone())
            .serve_on(RequestQueue::new(&queue), ShopServer::new(keeper.clone()))
            .start()
            .await
            .unwrap();
        Self {
            queue,
            keeper,
            broker: world.broker().await,
            shedding,
            server,
        }
    }

    fn client(&self, when_full: WhenFull, is_adaptive: bool) -> ShopClient {
        ShopClient::builder(&self.broker)
            .queue(&self.queue)
            .timeout(SOON)
            .when_full(when_full)
            .adaptive_limit(is_adaptive)
            .build()
    }

    /// A call is shed, and no more are after it.
    async fn once(&self, client: &ShopClient) {
        self.shedding.is_on.store(true, Ordering::SeqCst);
        let refused = soon("it is shed", client.look("shed")).await;
        assert_eq!(fault(refused).code, FaultCode::Rejected);
        self.shedding.is_on.store(false, Ordering::SeqCst);
    }

    async fn stop(self) {
        self.keeper.gate.let_all_go();
        assert!(!self.keeper.ran().contains(&"shed".to_owned()));
        self.server.stop().await.unwrap();
    }
}

fn assert_overloaded(outcome: Result<String, CallError>) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, CallError::Overloaded { .. }), "{error:?}");
    assert_eq!(error.executed(), Executed::No);
    assert!(error.is_retryable());
}

async fn a_client_that_is_refused_holds_its_calls_back(world: World) {
    let shed = Shed::new(&world, Some(SOON)).await;
    let client = shed.client(WhenFull::Wait, true);
    shed.once(&client).await;
    let held_back = client.look("held back").timeout(Duration::from_millis(100));
    assert_overloaded(soon("its time is up", held_back).await);
    // A client of its own, which was refused nothing.
    let other = shed.client(WhenFull::Wait, true);
    soon("it is answered", other.look("other")).await.unwrap();
    assert_eq!(shed.keeper.ran(), ["other"]);
    shed.stop().await;
}

async fn a_client_that_holds_its_calls_back_can_fail_them_at_once(world: World) {
    let shed = Shed::new(&world, Some(SOON)).await;
    let client = shed.client(WhenFull::Fail, true);
    shed.once(&client).await;
    let begun = Instant::now();
    let outcome = client.look("too many").await;
    assert!(begun.elapsed() < SOON / 2);
    let retry_after = outcome.as_ref().unwrap_err().retry_after();
    assert!(retry_after.is_some_and(|time| time <= SOON), "{retry_after:?}");
    assert_overloaded(outcome);
    shed.stop().await;
}

async fn a_client_pauses_no_longer_than_the_worker_asked(world: World) {
    for when_full in [WhenFull::Wait, WhenFull::Fail] {
        let shed = Shed::new(&world, Some(Duration::from_millis(200))).await;
        let client = shed.client(when_full, true);
        shed.once(&client).await;
        until("a call is answered", SOON, async || {
            Ok(client.look("later").await.is_ok())
        })
        .await
        .unwrap();
        // As many as ever, one after another if need be.
        let patient = shed.client(WhenFull::Wait, true);
        shed.once(&patient).await;
        for answer in soon("all are", join_all((0..200).map(|_| patient.look("many")))).await {
            answer.unwrap();
        }
        shed.stop().await;
    }
}

async fn a_rejection_that_says_nothing_of_overload_changes_nothing(world: World) {
    let shed = Shed::new(&world, None).await;
    let client = shed.client(WhenFull::Fail, true);
    for _ in 0..10 {
        shed.once(&client).await;
    }
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(client.visit("many").into_future()))
        .collect();
    shed.keeper.gate.began(50).await;
    shed.keeper.gate.let_all_go();
    for call in calls {
        soon("it ends", call).await.unwrap().unwrap();
    }
    shed.stop().await;
}

async fn a_client_without_an_adaptive_limit_goes_on(world: World) {
    let shed = Shed::new(&world, Some(SOON)).await;
    let client = shed.client(WhenFull::Fail, false);
    shed.once(&client).await;
    soon("it is answered", client.look("next")).await.unwrap();
    shed.stop().await;
}

async fn calls_that_are_dropped_while_they_wait_leave_their_places_to_others(world: World) {
    let shed = Shed::new(&world, Some(Duration::from_millis(1))).await;
    let client = shed.client(WhenFull::Wait, true);
    shed.once(&client).await;
    let first = tokio::spawn(client.visit("first").into_future());
    shed.keeper.gate.began(1).await;
    for _ in 0..100 {
        let mut dropped = Box::pin(client.visit("dropped").into_future());
        assert!(poll!(&mut dropped).is_pending());
    }
    let last = tokio::spawn(client.visit("last").into_future());
    shed.keeper.gate.let_all_go();
    for call in [first, last] {
        soon("it ends", call).await.unwrap().unwrap();
    }
    assert!(!shed.keeper.ran().contains(&"dropped".to_owned()));
    shed.stop().await;
}

async fn a_greedy_client_does_not_starve_another(world: World) {
    const TIME: Duration = Duration::from_secs(1);
    let (queue, keeper) = (unique("greedy"), Keeper::new());
    let server = Server::new(&world.broker().await)
        .concurrency(4)
        .serve_on(RequestQueue::new(&queue), ShopServer::new(keeper))
        .start()
        .await
        .unwrap();
    let client = async || {
        let builder = ShopClient::builder(&world.broker().await);
        builder.queue(&queue).timeout(TIME).build()
    };
    let (greedy, modest) = (client().await, client().await);
    let answered = Arc::new(AtomicU32::new(0));
    let crowd: Vec<_> = (0..2000)
        .map(|_| {
            let (greedy, answered) = (greedy.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                loop {
                    if greedy.buy().await.is_ok() {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    until("the greedy client is answered", SOON, async || {
        Ok(answered.load(Ordering::Relaxed) > 0)
    })
    .await
    .unwrap();
    let mut of_modest = 0;
    until("the modest client is answered", SOON, async || {
        of_modest += u32::from(modest.buy().await.is_ok());
        Ok(of_modest >= 20)
    })
    .await
    .unwrap();
    let before = answered.load(Ordering::Relaxed);
    until("so is the greedy one", SOON, async || {
        Ok(answered.load(Ordering::Relaxed) > before)
    })
    .await
    .unwrap();
    for call in crowd {
        call.abort();
    }
    server.stop().await.unwrap();
}

/// A caller that knows nothing of this library but its types of messages.
struct Plain {
    peer: RawPeer,
    reply_to: String,
    replies: Consumer,
}

impl Plain {
    async fn new() -> Self {
        let peer = RawPeer::connect(shared().await).await.unwrap();
        let reply_to = peer.declare_exclusive().await.unwrap();
        Self {
            replies: peer.consume(&reply_to).await.unwrap(),
            reply_to,
            peer,
        }
    }

    fn request(&self, kind: &str, id: &str) -> BasicProperties {
        BasicProperties::default()
            .with_type(kind.into())
            .with_content_type("text/plain".into())
            .with_correlation_id(id.into())
            .with_reply_to(self.reply_to.as_str().into())
    }

    /// Calls `visit` with its id.
    async fn visit(&self, queue: &str, id: &str, expiration: Option<Duration>) {
        self.call(queue, "visit", id, expiration).await;
    }

    async fn call(&self, queue: &str, method: &str, id: &str, expiration: Option<Duration>) {
        let mut request = self.request(method, id);
        if let Some(time) = expiration {
            request = request.with_expiration(time.as_millis().to_string().into());
        }
        self.peer.publish(queue, request, id.as_bytes()).await.unwrap();
    }

    async fn reply(&mut self) -> Delivery {
        let reply = soon("a reply comes", self.replies.next()).await;
        reply.unwrap().unwrap()
    }

    /// Waits until a probe waits in a queue behind a request.
    async fn probe_is_in(&self, queue: &str) {
        until("a probe is in the queue", SOON, async || {
            Ok(self.peer.queue_depth(queue).await? > Some(1))
        })
        .await
        .unwrap();
    }

    /// Has a request wait in a queue, and takes it out with the probes around it.
    async fn take_probes(&self, queue: &str) -> Vec<Delivery> {
        self.call(queue, "look", "taken", None).await;
        self.probe_is_in(queue).await;
        let mut probes = Vec::new();
        let options = lapin::options::BasicGetOptions { no_ack: true };
        while let Some(got) = self
            .peer
            .channel()
            .basic_get(queue.into(), options)
            .await
            .unwrap()
        {
            probes.push(got.delivery);
        }
        probes.retain(|message| text(message.properties.kind().as_ref()) != "look");
        for probe in &probes {
            assert_eq!(text(probe.properties.kind().as_ref()), "rpc.probe");
        }
        probes
    }

    async fn is_empty(&self, queue: &str) {
        self.peer.wait_until_empty(queue, SOON).await.unwrap();
    }
}

fn text(property: Option<&lapin::types::ShortString>) -> &str {
    property.map_or("", lapin::types::ShortString::as_str)
}

/// The number in a header.
fn number(message: &Delivery, name: &str) -> Option<u32> {
    let headers = message.properties.headers().as_ref()?;
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string().parse().unwrap()),
        other => panic!("{other:?}"),
    }
}

const QUEUE_TIME: &str = "rpc-queue-time";

const RETRY_AFTER: &str = "rpc-retry-after";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_caller_gets_expired_if_too_little_time_is_left() {
    let mut busy = Busy::new(&World::RabbitMq).await;
    let mut plain = Plain::new().await;
    plain.visit(&busy.queue, "patient", None).await;
    plain.probe_is_in(&busy.queue).await;
    plain.visit(&busy.queue, "late", Some(TOO_SHORT)).await;
    busy.release().await;
    let reply = plain.reply().await;
    let kind = text(reply.properties.kind().as_ref());
    assert_eq!(
        (text(reply.properties.correlation_id().as_ref()), kind),
        ("patient", "result")
    );
    assert!(number(&reply, QUEUE_TIME) > Some(1000));
    assert_eq!(number(&reply, RETRY_AFTER), None);

    let reply = plain.reply().await;
    let kind = text(reply.properties.kind().as_ref());
    assert_eq!(
        (text(reply.properties.correlation_id().as_ref()), kind),
        ("late", "fault")
    );
    assert!(reply.data.starts_with(b"expired"), "{:?}", reply.data);
    assert!(number(&reply, QUEUE_TIME) > Some(1000));
    assert!(number(&reply, RETRY_AFTER) > Some(0));
    assert_eq!(busy.keeper.ran(), ["holds", "patient"]);
    busy.stop().await;
}

/// One of the calls in a batch, as docs/protocol.md has it.
fn batch(id: uuid::Uuid, method: &str, millis: Option<u64>) -> Vec<u8> {
    let arguments =
        rmp_serde::to_vec_named(&std::collections::BTreeMap::from([("name", "batched")])).unwrap();
    let (id, arguments) = (
        bytes::Bytes::copy_from_slice(id.as_bytes()),
        bytes::Bytes::from(arguments),
    );
    let headers = std::collections::BTreeMap::<String, String>::new();
    rmp_serde::to_vec(&[(id, method, millis, arguments, headers)]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_in_the_queue_of_batches_is_known_too() {
    let mut busy = Busy::new(&World::RabbitMq).await;
    let mut plain = Plain::new().await;
    let batches = format!("{}.batch", busy.queue);
    let [first, second, late] = [0; 3].map(|_| uuid::Uuid::new_v4());
    let properties = || {
        plain
            .request("rpc.batch", "any")
            .with_content_type("application/msgpack".into())
    };
    // The worker takes the first from the queue, and then no more.
    for id in [first, second] {
        let body = batch(id, "look", None);
        plain.peer.publish(&batches, properties(), &body).await.unwrap();
    }
    plain.probe_is_in(&batches).await;
    let body = batch(late, "visit", Some(TOO_SHORT.as_millis() as u64));
    plain.peer.publish(&batches, properties(), &body).await.unwrap();
    busy.release().await;
    let replies = [plain.reply().await, plain.reply().await, plain.reply().await];
    let of = |id: uuid::Uuid| {
        let id = id.to_string();
        let mut replies = replies.iter();
        replies.find(|reply| text(reply.properties.correlation_id().as_ref()) == id)
    };
    let kind = |reply: &Delivery| text(reply.properties.kind().as_ref()).to_owned();
    assert_eq!(kind(of(first).unwrap()), "result");
    let refusal = of(late).unwrap();
    assert_eq!(kind(refusal), "fault");
    assert!(String::from_utf8_lossy(&refusal.data).contains("expired"));
    assert!(number(refusal, QUEUE_TIME) > Some(1000));
    assert_eq!(busy.keeper.ran(), ["batched", "batched", "holds"]);
    plain.is_empty(&batches).await;
    busy.stop().await;
}

/// Asks as another worker does how long messages wait.
async fn assert_replies_to_probes(plain: &mut Plain, queue: &str) {
    let probe = BasicProperties::default()
        .with_type("rpc.probe".into())
        .with_correlation_id("probe 1".into())
        .with_reply_to(plain.reply_to.as_str().into());
    plain.peer.publish(queue, probe, b"").await.unwrap();
    let reply = plain.reply().await;
    assert_eq!(text(reply.properties.correlation_id().as_ref()), "probe 1");
    assert!(reply.data.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_replies_to_probes() {
    let world = World::RabbitMq;
    let mut plain = Plain::new().await;
    for admission in [true, false] {
        let queue = unique("probed");
        let server = server(&world.broker().await, RequestQueue::new(&queue), &Keeper::new());
        let server = server.admission(admission).start().await.unwrap();
        assert_replies_to_probes(&mut plain, &queue).await;
        assert_replies_to_probes(&mut plain, &format!("{queue}.batch")).await;
        server.stop().await.unwrap();
        assert_eq!(plain.peer.queue_depth(&queue).await.unwrap(), Some(0));
    }
}

/// A worker of another language, which takes all probes and does this with them, and nothing else.
async fn beside_a_worker_written_by_hand(replies_to_probes: bool) -> Option<u32> {
    let mut busy = Busy::new(&World::RabbitMq).await;
    let mut plain = Plain::new().await;
    while Instant::now() < busy.since + HELD {
        let mut probes = plain.take_probes(&busy.queue).await;
        probes.retain(|_| replies_to_probes);
        for probe in probes {
            let id = probe.properties.correlation_id().clone().unwrap();
            let reply = BasicProperties::default().with_correlation_id(id);
            let address = text(probe.properties.reply_to().as_ref());
            // Without `mandatory`, which does not go with direct replies.
            let options = lapin::options::BasicPublishOptions::default();
            let channel = plain.peer.channel();
            let publishing = channel.basic_publish("".into(), address.into(), options, b"", reply);
            publishing.await.unwrap().await.unwrap();
        }
    }
    busy.release().await;
    // The probes that were ignored are superseded by others.
    if !replies_to_probes {
        sleep(Duration::from_secs(1)).await;
    }
    plain.visit(&busy.queue, "next", Some(TOO_SHORT)).await;
    let reply = plain.reply().await;
    assert_eq!(text(reply.properties.kind().as_ref()), "result");
    busy.stop().await;
    number(&reply, QUEUE_TIME)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_written_by_hand_can_reply_to_probes() {
    let waited = beside_a_worker_written_by_hand(true).await;
    let half = HELD.as_millis() / 2;
    assert!(
        waited.is_none_or(|millis| u128::from(millis) < half),
        "{waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_written_by_hand_that_ignores_probes_does_no_harm() {
    beside_a_worker_written_by_hand(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_end_with_the_queue_and_none_is_left() {
    let mut busy = Busy::new(&World::RabbitMq).await;
    let plain = Plain::new().await;
    // They come while the worker is busy and a request waits ..
    let mut probes = Vec::new();
    until("a probe is taken", SOON, async || {
        probes = plain.take_probes(&busy.queue).await;
        Ok(!probes.is_empty())
    })
    .await
    .unwrap();
    let probe = &probes[0];
    assert!(probe.data.is_empty() && probe.properties.expiration().is_some());
    assert!(text(probe.properties.reply_to().as_ref()).starts_with("amq.rabbitmq.reply-to."));
    busy.release().await;
    // .. until one comes back to it.
    plain.is_empty(&busy.queue).await;
    sleep(Duration::from_millis(500)).await;
    let mut competitor = plain.peer.consume(&busy.queue).await.unwrap();
    let probe = raw::next(&mut competitor, Duration::from_secs(1)).await.unwrap();
    assert!(probe.is_none(), "{probe:?}");
    let queue = busy.queue.clone();
    busy.stop().await;
    assert_eq!(plain.peer.queue_depth(&queue).await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probes_that_a_worker_leaves_in_a_queue_are_taken_out_by_the_next() {
    let mut busy = Busy::new(&World::RabbitMq).await;
    let plain = Plain::new().await;
    plain.call(&busy.queue, "look", "waits", None).await;
    plain.probe_is_in(&busy.queue).await;
    let server = busy.servers.pop().unwrap();
    let stopping = tokio::spawn(server.stop());
    busy.release().await;
    soon("it stops", stopping).await.unwrap().unwrap();
    busy.another().await;
    busy.release().await;
    plain.is_empty(&busy.queue).await;
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_worker_leaves_an_empty_queue_empty() {
    let mut busy = Busy::new(&World::RabbitMq).await;
    let plain = Plain::new().await;
    // Whoever starts workers by the length of the queue must not be deceived.
    while busy.since.elapsed() < Duration::from_secs(1) {
        assert_eq!(plain.peer.queue_depth(&busy.queue).await.unwrap(), Some(0));
    }
    busy.release().await;
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_may_wait_for_however_long_are_not_probed() {
    let keeper = Keeper::new();
    let queue = unique("jobs");
    let broker = World::RabbitMq.broker().await;
    let server = server(&broker, RequestQueue::new(&queue), &keeper)
        .start()
        .await
        .unwrap();
    let plain = Plain::new().await;
    for name in ["first", "second"] {
        plain.visit(&queue, name, None).await;
    }
    keeper.gate.began(1).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(plain.peer.queue_depth(&queue).await.unwrap(), Some(1));
    keeper.gate.let_all_go();
    server.stop().await.unwrap();
}
