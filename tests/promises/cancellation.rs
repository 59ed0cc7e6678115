//! Abandoned work stops: if a caller no longer waits, its method is cancelled, or never begins.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueBindOptions};
use lapin::types::{FieldTable, ShortString};
use rpc_runtime::describe::MethodStats;
use rpc_runtime::discovery::WorkerClient;
use rpc_runtime::{
    Broker, CallError, Context, Executed, FaultCode, RequestQueue, RunningServer, Server, service,
};
use rpc_tests::asking::until_found;
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::log::Log;
use rpc_tests::rabbit::{Permissions, Vhost, shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use tokio::task::JoinHandle;
use tracing::Level;

#[service(queue = "work")]
trait Work {
    /// Is cancelled, because it is `idempotent`.
    #[rpc(idempotent)]
    async fn read(&self, entry: &str);
    /// Is cancelled.
    #[rpc(cancel)]
    async fn build(&self, entry: &str);
    /// Runs to its end.
    async fn write(&self, entry: &str);
    /// Runs to its end, which comes once the caller is gone.
    async fn observe(&self, #[rpc(context)] cx: &Context, entry: &str);
}

on_both_brokers! {
    dropped_calls_are_cancelled_if_their_methods_allow_it,
    timed_out_calls_are_cancelled,
    cancelled_requests_that_wait_never_begin,
    batched_calls_are_cancelled_one_by_one,
    the_calls_of_a_cancelled_method_are_cancelled,
    a_closed_handle_cancels_its_calls,
    a_cancelled_method_does_not_hold_up_a_server_that_stops,
    a_method_that_panics_while_it_is_dropped_harms_no_other,
}

/// What happened to the methods, by their entries.
#[derive(Debug, Clone, Default, PartialEq)]
struct Fates {
    begun: BTreeSet<String>,
    dropped: BTreeSet<String>,
    ended: BTreeSet<String>,
}

#[derive(Clone)]
struct Desk {
    gate: Gate,
    fates: Arc<Mutex<Fates>>,
    /// Runs the methods from now on.
    slow: Arc<Mutex<Option<Self>>>,
}

/// A method that runs. If it is dropped before it ends, that is its fate.
struct Running {
    desk: Desk,
    entry: String,
    has_ended: bool,
}

impl Running {
    fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut fates = self.desk.fates.lock().unwrap();
        let fate = match self.has_ended {
            true => &mut fates.ended,
            false => &mut fates.dropped,
        };
        fate.insert(std::mem::take(&mut self.entry));
    }
}

impl Desk {
    fn new(gate: Gate) -> Self {
        Self {
            gate,
            fates: Arc::default(),
            slow: Arc::default(),
        }
    }

    fn closed() -> Self {
        Self::new(Gate::closed())
    }

    fn begin(&self, entry: &str) -> Running {
        self.fates.lock().unwrap().begun.insert(entry.to_owned());
        Running {
            desk: self.clone(),
            entry: entry.to_owned(),
            has_ended: false,
        }
    }

    async fn run(&self, entry: &str) {
        let desk = self.slow.lock().unwrap().clone();
        let desk = desk.as_ref().unwrap_or(self);
        let running = desk.begin(entry);
        desk.gate.pass().await;
        running.end();
    }

    fn fates(&self) -> Fates {
        self.fates.lock().unwrap().clone()
    }

    /// Waits until these methods, and no others, were dropped.
    async fn dropped(&self, entries: &[&str]) {
        let entries = set(entries);
        until("methods are dropped", SOON, async || {
            Ok(self.fates().dropped == entries)
        })
        .await
        .unwrap_or_else(|error| panic!("{error}: {:?}", self.fates()));
    }

    /// Waits until these methods, and no others, have ended.
    async fn ended(&self, entries: &[&str]) {
        let entries = set(entries);
        until("methods end", SOON, async || Ok(self.fates().ended == entries))
            .await
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.fates()));
    }
}

fn set(entries: &[&str]) -> BTreeSet<String> {
    entries.iter().map(|&entry| entry.to_owned()).collect()
}

impl Work for Desk {
    async fn read(&self, entry: &str) {
        self.run(entry).await;
    }

    async fn build(&self, entry: &str) {
        self.run(entry).await;
    }

    async fn write(&self, entry: &str) {
        self.run(entry).await;
    }

    async fn observe(&self, cx: &Context, entry: &str) {
        let running = self.begin(entry);
        tokio::select! {
            () = self.gate.pass() => {}
            () = cx.cancelled() => running.end(),
        }
    }
}

fn server(broker: &Broker, queue: &str, desk: &Desk) -> Server {
    Server::new(broker).serve_on(RequestQueue::new(queue), WorkServer::new(desk.clone()))
}

/// Starts the only worker of a queue.
async fn serve(world: &World, queue: &str, desk: &Desk) -> RunningServer {
    let broker = world.broker().await;
    start(server(&broker, queue, desk), &broker, queue).await
}

/// Starts the only worker of a queue, and waits until cancellations reach it.
async fn start(server: Server, broker: &Broker, queue: &str) -> RunningServer {
    let server = server.start().await.unwrap();
    until_found(broker, queue, |_| true).await;
    server
}

async fn client(world: &World, queue: &str) -> WorkClient {
    let broker = world.broker().await;
    WorkClient::builder(&broker)
        .queue(queue)
        .timeout(4 * SOON)
        .build()
}

/// Drops calls that run in tasks.
async fn drop_calls(calls: impl IntoIterator<Item = JoinHandle<Result<(), CallError>>>) {
    for call in calls {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
}

async fn stop(server: RunningServer) {
    soon("the server stops", server.stop()).await.unwrap();
}

/// What the worker of a queue has counted for a method.
async fn stats(world: &World, queue: &str, method: &str) -> MethodStats {
    let client = WorkerClient::new(&world.broker().await, queue);
    let stats = soon("the worker answers", client.stats()).await.unwrap();
    stats.method("Work", method).unwrap().clone()
}

async fn dropped_calls_are_cancelled_if_their_methods_allow_it(world: World) {
    let (queue, desk) = (unique("work"), Desk::closed());
    let server = serve(&world, &queue, &desk).await;
    let client = client(&world, &queue).await;
    let calls = [
        client.read("read"),
        client.build("build"),
        client.write("write"),
        client.observe("observe"),
    ];
    let calls = calls.map(tokio::spawn);
    until("all have begun", SOON, async || Ok(desk.fates().begun.len() == 4))
        .await
        .unwrap();
    drop_calls(calls).await;
    desk.dropped(&["build", "read"]).await;
    desk.ended(&["observe"]).await;
    desk.gate.let_all_go();
    desk.ended(&["observe", "write"]).await;
    desk.dropped(&["build", "read"]).await;
    stop(server).await;
}

async fn timed_out_calls_are_cancelled(world: World) {
    let (queue, desk) = (unique("work"), Desk::closed());
    let server = serve(&world, &queue, &desk).await;
    let client = client(&world, &queue).await;
    let limit = Duration::from_secs(3);
    // Opens the reply queue, which is not part of the limit then.
    desk.gate.let_go(1);
    soon("it is answered", client.write("first")).await.unwrap();
    let outcome = soon("it times out", client.read("late").timeout(limit)).await;
    match outcome {
        Err(CallError::TimedOut { executed, .. }) => assert_eq!(executed, Executed::Maybe),
        other => panic!("{other:?}"),
    }
    desk.dropped(&["late"]).await;
    let counted = stats(&world, &queue, "read").await;
    assert_eq!((counted.calls, counted.failures), (1, 0));
    assert_eq!((counted.cancelled, counted.in_flight), (1, 0));
    stop(server).await;
}

async fn cancelled_requests_that_wait_never_begin(world: World) {
    let (queue, desk) = (unique("work"), Desk::closed());
    let broker = world.broker().await;
    let server = server(&broker, &queue, &desk).concurrency(2);
    let server = start(server, &broker, &queue).await;
    let client = client(&world, &queue).await;
    let first = tokio::spawn(client.write("first"));
    let marker = tokio::spawn(client.read("marker"));
    desk.gate.began(2).await;
    let names: Vec<_> = (0..5)
        .flat_map(|n| [format!("read {n}"), format!("write {n}")])
        .collect();
    let call = |name: &String| match name.starts_with("read") {
        true => tokio::spawn(client.read(name)),
        false => tokio::spawn(client.write(name)),
    };
    let waiting: Vec<_> = names.iter().map(call).collect();
    if let World::InProcess(_) = world {
        // Until they are sent, so that they are not only withdrawn.
        tokio::time::sleep(Duration::from_millis(100)).await;
    } else {
        let peer = RawPeer::connect(shared().await).await.unwrap();
        until("all are in the queue", SOON, async || {
            // There may be probes too, by which the worker measures how long requests wait.
            Ok(peer.queue_depth(&queue).await? >= Some(10))
        })
        .await
        .unwrap();
    }
    drop_calls(waiting).await;
    // Workers learn of dropped calls in the order in which these are dropped.
    drop_calls([marker]).await;
    desk.dropped(&["marker"]).await;
    desk.gate.let_all_go();
    soon("the first ends", first).await.unwrap().unwrap();
    soon("the worker goes on", client.write("last")).await.unwrap();
    assert_eq!(desk.fates().begun, set(&["first", "marker", "last"]));
    stop(server).await;
}

async fn batched_calls_are_cancelled_one_by_one(world: World) {
    let (queue, desk) = (unique("work"), Desk::new(Gate::open()));
    let broker = world.broker().await;
    let server = server(&broker, &queue, &desk).concurrency(20);
    let server = start(server, &broker, &queue).await;
    let client = client(&world, &queue).await;
    // The method becomes known to be quick, so that its calls are batched.
    for _ in 0..3 {
        let calls = (0..100).map(|n| client.read(&format!("quick {n}")));
        let outcomes = soon("they are answered", join_all(calls)).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    let slow = Desk::closed();
    *desk.slow.lock().unwrap() = Some(slow.clone());
    let names: Vec<_> = (0..50).map(|n| format!("slow {n}")).collect();
    let calls: Vec<_> = names.iter().map(|name| tokio::spawn(client.read(name))).collect();
    slow.gate.began(20).await;
    let begun = slow.fates().begun;
    // Every other call is dropped, those that run last: workers learn of them in this order.
    let is_dropped = |name: &str| name[5..].parse::<usize>().unwrap() % 2 == 1;
    let (dropped, kept): (Vec<_>, Vec<_>) =
        (names.iter().zip(calls)).partition(|(name, _)| is_dropped(name.as_str()));
    let (running, waiting): (Vec<_>, Vec<_>) =
        dropped.into_iter().partition(|(name, _)| begun.contains(*name));
    let dropped: BTreeSet<_> = running.iter().map(|(name, _)| (*name).clone()).collect();
    drop_calls(waiting.into_iter().chain(running).map(|(_, call)| call)).await;
    until("those that run are dropped", SOON, async || {
        Ok(slow.fates().dropped == dropped)
    })
    .await
    .unwrap();
    slow.gate.let_all_go();
    for (_, call) in kept {
        soon("the others are answered", call).await.unwrap().unwrap();
    }
    let fates = slow.fates();
    assert_eq!(fates.ended.len(), 25, "{fates:?}");
    assert!(!fates.ended.iter().any(|name| is_dropped(name)), "{fates:?}");
    let counted = stats(&world, &queue, "read").await;
    // Calls that had not left the caller when they were dropped never reach a worker.
    let cancelled = dropped.len() as u64..=25;
    assert!(
        cancelled.contains(&counted.cancelled),
        "{counted:?} {cancelled:?}"
    );
    assert_eq!(counted.in_flight, 0);
    stop(server).await;
}

/// Panics when it is dropped.
struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        // Without the message of the panic hook.
        std::panic::resume_unwind(Box::new("planned"));
    }
}

#[service]
trait Fields {
    #[rpc(cancel)]
    async fn step(&self, is_mined: bool) -> bool;
}

#[derive(Clone)]
struct Field(Gate);

impl Fields for Field {
    async fn step(&self, is_mined: bool) -> bool {
        let mine = is_mined.then(|| Mine);
        self.0.pass().await;
        std::mem::forget(mine);
        is_mined
    }
}

async fn a_method_that_panics_while_it_is_dropped_harms_no_other(world: World) {
    let (queue, gate) = (unique("fields"), Gate::closed());
    let fields = FieldsServer::new(Field(gate.clone()));
    let broker = world.broker().await;
    let server = Server::new(&broker).serve_on(RequestQueue::new(&queue), fields);
    let server = start(server, &broker, &queue).await;
    let client = FieldsClient::builder(&world.broker().await).queue(&queue).build();
    let [other, mined] = [false, true].map(|is_mined| tokio::spawn(client.step(is_mined)));
    gate.began(2).await;
    mined.abort();
    mined.await.unwrap_err();
    let asked = WorkerClient::new(&world.broker().await, &queue);
    until("the method ends", SOON, async || {
        let stats = asked.stats().await?;
        Ok(stats.method("Fields", "step").unwrap().in_flight == 1)
    })
    .await
    .unwrap();
    gate.let_all_go();
    assert!(!soon("the other is answered", other).await.unwrap().unwrap());
    let stats = soon("the worker answers", asked.stats()).await.unwrap();
    // Neither ran twice.
    assert_eq!(stats.method("Fields", "step").unwrap().calls, 2);
    soon("the server stops", server.stop()).await.unwrap();
}

/// Calls the methods of another service.
struct Manager(WorkClient);

#[service]
trait Management {
    #[rpc(cancel)]
    async fn delegate(&self, entry: &str);
}

impl Management for Manager {
    async fn delegate(&self, entry: &str) {
        self.0.read(entry).await.unwrap();
    }
}

async fn the_calls_of_a_cancelled_method_are_cancelled(world: World) {
    let (queue, desk) = (unique("work"), Desk::closed());
    let server = serve(&world, &queue, &desk).await;
    let managed = unique("management");
    let manager = Manager(client(&world, &queue).await);
    let management = Server::new(&world.broker().await)
        .serve_on(RequestQueue::new(&managed), ManagementServer::new(manager));
    let management = management.start().await.unwrap();
    let client = ManagementClient::builder(&world.broker().await)
        .queue(&managed)
        .build();
    let call = tokio::spawn(client.delegate("nested"));
    desk.gate.began(1).await;
    drop_calls([call]).await;
    desk.dropped(&["nested"]).await;
    stop(management).await;
    stop(server).await;
}

async fn a_closed_handle_cancels_its_calls(world: World) {
    let (queue, desk) = (unique("work"), Desk::closed());
    let server = serve(&world, &queue, &desk).await;
    let broker = world.broker().await;
    let client = WorkClient::builder(&broker)
        .queue(&queue)
        .timeout(4 * SOON)
        .build();
    let calls = [client.read("read"), client.build("build"), client.write("write")].map(tokio::spawn);
    desk.gate.began(3).await;
    soon("it closes", broker.close()).await;
    for call in calls {
        soon("it fails", call).await.unwrap().unwrap_err();
    }
    desk.dropped(&["build", "read"]).await;
    desk.gate.let_all_go();
    desk.ended(&["write"]).await;
    stop(server).await;
}

async fn a_cancelled_method_does_not_hold_up_a_server_that_stops(world: World) {
    let (queue, desk) = (unique("work"), Desk::closed());
    let server = serve(&world, &queue, &desk).await;
    let client = client(&world, &queue).await;
    let call = tokio::spawn(client.read("read"));
    desk.gate.began(1).await;
    let stopping = tokio::spawn(server.stop());
    let mut late = 0;
    until("it takes no more requests", SOON, async || {
        late += 1;
        let entry = format!("late {late}");
        let outcome = client.read(&entry).timeout(Duration::from_millis(100)).await;
        Ok(outcome.is_err() && !desk.fates().begun.contains(&entry))
    })
    .await
    .unwrap();
    drop_calls([call]).await;
    soon("the server stops", stopping).await.unwrap().unwrap();
    assert!(desk.fates().dropped.contains("read"));
}

/// Receives what is published to the control exchange with a key.
async fn listen(peer: &RawPeer, key: &str) -> lapin::Consumer {
    let queue = peer.declare_exclusive().await.unwrap();
    let (name, exchange) = (ShortString::from(queue.as_str()), "rpc.control".into());
    let options = QueueBindOptions::default();
    let binding = peer
        .channel()
        .queue_bind(name, exchange, key.into(), options, FieldTable::default());
    binding.await.unwrap();
    peer.consume(&queue).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_calls_are_not_cancelled() {
    let world = World::RabbitMq;
    let (queue, desk) = (unique("work"), Desk::new(Gate::open()));
    let server = serve(&world, &queue, &desk).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let mut cancellations = listen(&peer, &queue).await;
    let client = client(&world, &queue).await;
    let calls = (0..100).map(|n| client.build(&n.to_string()));
    let outcomes = soon("they are answered", join_all(calls)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let slow = Desk::closed();
    *desk.slow.lock().unwrap() = Some(slow.clone());
    let call = tokio::spawn(client.build("dropped"));
    slow.gate.began(1).await;
    drop_calls([call]).await;
    // The first message, and it cancels one call.
    let message = next(&mut cancellations, SOON).await.unwrap().unwrap();
    assert_eq!(message.data[0], 0x91, "{:?}", message.data);
    slow.dropped(&["dropped"]).await;
    let counted = stats(&world, &queue, "build").await;
    assert_eq!((counted.calls, counted.cancelled), (101, 1));
    stop(server).await;
}

/// A request of a peer that does not cancel its calls.
async fn send_request(peer: &RawPeer, queue: &str, method: &str, id: &str, reply_to: &str) {
    let properties = BasicProperties::default()
        .with_type(method.into())
        .with_content_type("application/json".into())
        .with_correlation_id(id.into())
        .with_reply_to(reply_to.into())
        .with_expiration("300".into());
    let arguments = format!(r#"{{"entry": "{method}"}}"#);
    peer.publish(queue, properties, arguments.as_bytes())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_cancels_a_method_whose_caller_does_not() {
    let (queue, desk) = (unique("work"), Desk::closed());
    let server = serve(&World::RabbitMq, &queue, &desk).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let reply_to = peer.declare_exclusive().await.unwrap();
    let mut replies = peer.consume(&reply_to).await.unwrap();
    for method in ["read", "build", "write"] {
        send_request(&peer, &queue, method, method, &reply_to).await;
    }
    desk.dropped(&["build", "read"]).await;
    let mut answered = BTreeSet::new();
    for _ in 0..2 {
        let reply = next(&mut replies, SOON).await.unwrap().unwrap();
        let id = reply.properties.correlation_id().as_ref().unwrap();
        assert_eq!(reply.properties.kind().as_ref().unwrap().as_str(), "fault");
        let fault = String::from_utf8_lossy(&reply.data).into_owned();
        assert!(fault.contains(FaultCode::Abandoned.as_str()), "{fault}");
        answered.insert(id.to_string());
    }
    assert_eq!(answered, set(&["build", "read"]));
    desk.gate.let_all_go();
    desk.ended(&["write"]).await;
    let reply = next(&mut replies, SOON).await.unwrap().unwrap();
    assert_eq!(
        reply.properties.correlation_id().as_ref().unwrap().as_str(),
        "write"
    );
    stop(server).await;
}

/// Publishes a message to the control exchange.
async fn publish_control(peer: &RawPeer, key: &str, kind: &str, body: &[u8]) {
    let properties = BasicProperties::default().with_type(kind.into());
    let options = BasicPublishOptions::default();
    let (exchange, key) = ("rpc.control".into(), ShortString::from(key));
    let publishing = peer
        .channel()
        .basic_publish(exchange, key, options, body, properties);
    publishing.await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_cancels_its_calls_as_the_protocol_says() {
    let (queue, desk) = (unique("work"), Desk::closed());
    let server = serve(&World::RabbitMq, &queue, &desk).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let reply_to = peer.declare_exclusive().await.unwrap();
    let id = "00112233-4455-4677-8899-aabbccddeeff";
    let properties = BasicProperties::default()
        .with_type("read".into())
        .with_content_type("application/json".into())
        .with_correlation_id(id.into())
        .with_reply_to(reply_to.as_str().into());
    peer.publish(&queue, properties, br#"{"entry": "theirs"}"#)
        .await
        .unwrap();
    desk.gate.began(1).await;
    let id = 0x0011_2233_4455_4677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
    let cancelled = [b"\x91\x92\xc4\x10".as_slice(), &id, b"\xcd\x75\x30"].concat();
    publish_control(&peer, &queue, "rpc.cancel", &cancelled).await;
    desk.dropped(&["theirs"]).await;
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_cancels_nothing() {
    let (queue, desk) = (unique("work"), Desk::closed());
    let server = serve(&World::RabbitMq, &queue, &desk).await;
    let client = client(&World::RabbitMq, &queue).await;
    let call = tokio::spawn(client.read("read"));
    desk.gate.began(1).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let other = [b"\x91\x92\xc4\x10".as_slice(), &[7; 16], b"\x00"].concat();
    let too_many = b"\xdd\xff\xff\xff\xff".as_slice();
    for body in [
        b"".as_slice(),
        b"\xc0",
        b"\x91\x90",
        b"\x91\x92\xc4\x01a\x00",
        too_many,
        &other,
    ] {
        publish_control(&peer, &queue, "rpc.cancel", body).await;
    }
    // Sent to the queue, it is a request for a method of this name.
    let properties = BasicProperties::default().with_type("rpc.cancel".into());
    peer.publish(&queue, properties, &other).await.unwrap();
    // Workers handle cancellations in order.
    let marker = tokio::spawn(client.read("marker"));
    desk.gate.began(1).await;
    drop_calls([marker]).await;
    desk.dropped(&["marker"]).await;
    desk.gate.let_all_go();
    soon("it is answered", call).await.unwrap().unwrap();
    stop(server).await;
}

/// A worker or a caller that cannot use the control exchange.
const WITHOUT_CONTROL: Permissions<'_> = Permissions {
    configure: "^(work([.]batch)?|rpc[.]reply[.].*)$",
    write: "^amq[.]default$",
    read: "^(work([.]batch)?|rpc[.]reply[.].*)$",
};

/// A worker or a caller that can.
const WITH_CONTROL: Permissions<'_> = Permissions {
    configure: "^(work([.]batch)?|rpc[.]reply[.].*|rpc[.]control([.].*)?)$",
    write: "^(amq[.]default|rpc[.]control([.].*)?)$",
    read: "^(work([.]batch)?|rpc[.]reply[.].*|rpc[.]control([.].*)?)$",
};

#[tokio::test]
async fn without_permission_for_the_control_exchange_everything_else_works() {
    let (log, _guard) = Log::start(Level::INFO);
    let vhost = Vhost::new().await;
    let handle = async |may| Broker::connect(&vhost.url_of_user(may).await).await.unwrap();
    for (worker_may, caller_may) in [
        (WITH_CONTROL, WITHOUT_CONTROL),
        (WITHOUT_CONTROL, WITH_CONTROL),
        (WITHOUT_CONTROL, WITHOUT_CONTROL),
    ] {
        let desk = Desk::closed();
        let server = server(&handle(worker_may).await, "work", &desk)
            .start()
            .await
            .unwrap();
        let client = WorkClient::new(&handle(caller_may).await);
        let other = tokio::spawn(client.write("other"));
        desk.gate.began(1).await;
        for _ in 0..3 {
            let call = tokio::spawn(client.read("read").timeout(4 * SOON));
            desk.gate.began(1).await;
            drop_calls([call]).await;
        }
        // Longer than a cancellation takes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        desk.gate.let_all_go();
        soon("other calls are answered", other).await.unwrap().unwrap();
        soon("calls are answered", client.read("again")).await.unwrap();
        assert!(desk.fates().dropped.is_empty(), "{:?}", desk.fates());
        stop(server).await;
    }
    let lines = log.lines_about("cannot cancel dropped calls");
    assert!((1..=2).contains(&lines.len()), "{lines:?}");
}

#[tokio::test]
async fn the_least_permissions_are_enough_to_cancel() {
    let vhost = Vhost::new().await;
    let handle = async |may| Broker::connect(&vhost.url_of_user(may).await).await.unwrap();
    let caller = Permissions {
        configure: "^rpc[.]reply[.]",
        write: "^(amq[.]default|rpc[.]control)$",
        read: "^rpc[.]reply[.]",
    };
    let worker = Permissions {
        configure: "^(work([.]batch)?$|rpc[.]control([.]|$))",
        write: "^(amq[.]default$|rpc[.]control[.])",
        read: "^(work([.]batch)?$|rpc[.]control([.]|$))",
    };
    let desk = Desk::closed();
    let server = server(&handle(worker).await, "work", &desk);
    // The control queue is not only for discovery.
    let server = server.self_description(false).start().await.unwrap();
    until("it consumes from its control queue", SOON, async || {
        let queues = vhost.all_queues(&["name", "consumers"]).await;
        let is_control = |queue: &String| queue.starts_with("rpc.control.") && queue.ends_with("\t1");
        Ok(queues.iter().any(is_control))
    })
    .await
    .unwrap();
    let client = WorkClient::new(&handle(caller).await);
    let call = tokio::spawn(client.read("read"));
    desk.gate.began(1).await;
    drop_calls([call]).await;
    desk.dropped(&["read"]).await;
    stop(server).await;
}

/// The exchange exists only once a worker has declared it.
#[tokio::test]
async fn a_dropped_call_harms_nothing_if_the_control_exchange_does_not_exist() {
    let vhost = Vhost::new().await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    peer.declare_durable("work").await.unwrap();
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let client = WorkClient::new(&broker);
    for depth in 1..=3 {
        let call = tokio::spawn(client.read("read"));
        until("it is in the queue", SOON, async || {
            Ok(peer.queue_depth("work").await? == Some(depth))
        })
        .await
        .unwrap();
        drop_calls([call]).await;
    }
    let desk = Desk::new(Gate::open());
    let server = server(&broker, "work", &desk).start().await.unwrap();
    soon("it is answered", client.read("last")).await.unwrap();
    stop(server).await;
    soon("the handle closes", broker.close()).await;
}
