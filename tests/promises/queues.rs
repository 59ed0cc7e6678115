//! Request queues are what the worker asked for, or an error that says why not; reply queues come
//! and go with their handle.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{
    Broker, BrokerError, CallError, Executed, ReplyQueue, RequestQueue, RunningServer, Server, ServerError,
    service,
};
use rpc_tests::rabbit::{self, Vhost, shared, unique};
use rpc_tests::raw::{self, RawPeer};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use tokio::sync::Notify;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

#[service]
trait Desk {
    async fn file(&self, name: &str) -> String;

    #[rpc(idempotent)]
    async fn find(&self, name: &str) -> String;

    #[rpc(oneway)]
    async fn note(&self, name: &str);
}

/// Answers at once, with the name.
struct Clerk;

impl Desk for Clerk {
    async fn file(&self, name: &str) -> String {
        name.to_owned()
    }

    async fn find(&self, name: &str) -> String {
        name.to_owned()
    }

    async fn note(&self, _: &str) {}
}

async fn try_to_serve(broker: &Broker, queue: RequestQueue) -> Result<RunningServer, ServerError> {
    Server::new(broker)
        .serve_on(queue, DeskServer::new(Clerk))
        .start()
        .await
}

async fn serve(broker: &Broker, queue: RequestQueue) -> RunningServer {
    try_to_serve(broker, queue).await.expect("the server starts")
}

/// Makes sure that the server could not start because of this queue, and returns the broker's
/// reason.
fn refusal(started: Result<RunningServer, ServerError>, queue: &str) -> String {
    match started {
        Err(ServerError::Broker(error @ BrokerError::Queue { .. })) => {
            assert!(error.to_string().contains(queue), "{error} does not name {queue}");
            error.source().expect("the broker's reason").to_string()
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the server started on {queue}"),
    }
}

async fn assert_served(broker: &Broker, queue: &str) {
    let desk = DeskClient::builder(broker).queue(queue).timeout(SOON).build();
    assert_eq!(desk.file("letter").await.unwrap(), "letter", "queue {queue}");
}

on_both_brokers! {
    a_higher_priority_overtakes_a_lower_one,
    a_missing_queue_that_is_not_to_be_declared_is_an_error_that_names_it,
    an_existing_queue_is_served_whatever_its_properties,
    a_queue_that_exists_with_other_properties_is_refused_and_left_alone,
}

/// Remembers what it is given; the first request waits until the test lets it go.
struct BusyClerk {
    entered: Arc<Notify>,
    free: Arc<Notify>,
    filed: Arc<Mutex<Vec<String>>>,
}

impl Desk for BusyClerk {
    async fn file(&self, name: &str) -> String {
        self.filed.lock().unwrap().push(name.to_owned());
        if name == "first" {
            self.entered.notify_one();
            self.free.notified().await;
        }
        name.to_owned()
    }

    async fn find(&self, name: &str) -> String {
        name.to_owned()
    }

    async fn note(&self, name: &str) {
        self.filed.lock().unwrap().push(name.to_owned());
    }
}

async fn a_higher_priority_overtakes_a_lower_one(world: World) {
    let queue = unique("priorities");
    let clerk = BusyClerk {
        entered: Arc::default(),
        free: Arc::default(),
        filed: Arc::default(),
    };
    let (entered, free, filed) = (clerk.entered.clone(), clerk.free.clone(), clerk.filed.clone());
    let broker = world.broker().await;
    let server = Server::new(&broker)
        .concurrency(1)
        .serve_on(RequestQueue::new(&queue).priorities(9), DeskServer::new(clerk))
        .start()
        .await
        .unwrap();

    let caller = world.broker().await;
    let desk = DeskClient::builder(&caller).queue(&queue).timeout(SOON).build();
    let first = tokio::spawn(desk.file("first"));
    timeout(SOON, entered.notified())
        .await
        .expect("the worker is busy");

    // A one-way call ends when its request is in the queue.
    desk.note("none").await.unwrap();
    desk.note("low").priority(1).await.unwrap();
    desk.note("high").priority(9).await.unwrap();
    free.notify_one();
    first.await.unwrap().unwrap();
    until("all are filed", SOON, async || {
        Ok(filed.lock().unwrap().len() == 4)
    })
    .await
    .unwrap();
    assert_eq!(*filed.lock().unwrap(), ["first", "high", "low", "none"]);
    server.stop().await.unwrap();
}

/// RabbitMQ 4.3 orders a quorum queue by 32 priorities, of which nothing is said when it is
/// declared.
#[tokio::test]
async fn priorities_of_a_quorum_queue_are_not_declared() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let declared = RequestQueue::new("desk").quorum().priorities(9);
    let reason = refusal(try_to_serve(&broker, declared).await, "desk");
    assert!(reason.contains("x-max-priority"), "{reason}");

    let queue = RequestQueue::new("desk").quorum();
    serve(&broker, queue.clone()).await.stop().await.unwrap();
    let desk = DeskClient::builder(&broker).queue("desk").timeout(SOON).build();
    for (name, priority) in [("0", 0), ("2", 2), ("20", 20), ("9", 9), ("3", 3)] {
        desk.note(name).priority(priority).await.unwrap();
    }
    let clerk = BusyClerk {
        entered: Arc::default(),
        free: Arc::default(),
        filed: Arc::default(),
    };
    let filed = clerk.filed.clone();
    let server = Server::new(&broker)
        .concurrency(1)
        .serve_on(queue, DeskServer::new(clerk))
        .start()
        .await
        .unwrap();
    until("all are filed", SOON, async || {
        Ok(filed.lock().unwrap().len() == 5)
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    if vhost.version().await >= (4, 3) {
        assert_eq!(*filed.lock().unwrap(), ["20", "9", "3", "2", "0"]);
    }
}

async fn a_missing_queue_that_is_not_to_be_declared_is_an_error_that_names_it(world: World) {
    let broker = world.broker().await;
    let missing = unique("missing");
    for queue in [
        RequestQueue::new(&missing).existing(),
        RequestQueue::new(&missing).undeclared(),
    ] {
        let reason = refusal(try_to_serve(&broker, queue.clone()).await, &missing);
        assert!(reason.contains("NOT_FOUND"), "{queue:?}: {reason}");
    }

    // Only the server failed: the handle is as good as before, and nothing was declared behind its
    // back.
    let call = DeskClient::builder(&broker)
        .queue(&missing)
        .build()
        .file("letter");
    let error = call.await.unwrap_err();
    assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
    let server = serve(&broker, RequestQueue::new(&missing)).await;
    assert_served(&broker, &missing).await;
    server.stop().await.unwrap();
}

async fn an_existing_queue_is_served_whatever_its_properties(world: World) {
    let broker = world.broker().await;
    let queue = unique("existing");
    let declared = RequestQueue::new(&queue).transient().priorities(3);
    serve(&broker, declared).await.stop().await.unwrap();
    for queue in [
        RequestQueue::new(&queue).existing(),
        RequestQueue::new(&queue).undeclared(),
    ] {
        let server = serve(&broker, queue.clone()).await;
        assert_served(&broker, queue.name()).await;
        server.stop().await.unwrap();
    }
}

/// lapin does not use the number of a channel again that the broker has closed.
#[tokio::test]
async fn a_handle_can_be_refused_more_often_than_its_connection_has_channels() {
    let (queue, url) = (unique("refused"), format!("{}?channel_max=16", shared().await));
    let server = serve(
        &Broker::connect(shared().await).await.unwrap(),
        RequestQueue::new(&queue),
    )
    .await;
    let broker = Broker::connect(&url).await.unwrap();
    for attempt in 0..50 {
        let refused = try_to_serve(&broker, RequestQueue::new(&queue).transient()).await;
        let reason = refusal(refused, &queue);
        assert!(reason.contains("PRECONDITION_FAILED"), "{attempt}: {reason}");
    }
    assert_served(&broker, &queue).await;
    server.stop().await.unwrap();
}

async fn a_queue_that_exists_with_other_properties_is_refused_and_left_alone(world: World) {
    let (broker, queue) = (world.broker().await, unique("differs"));
    let server = serve(&broker, RequestQueue::new(&queue)).await;
    let other = world.broker().await;
    for differs in [
        RequestQueue::new(&queue).transient(),
        RequestQueue::new(&queue).quorum(),
        RequestQueue::new(&queue).priorities(3),
        RequestQueue::new(&queue).argument("x-max-length", 1),
    ] {
        let reason = refusal(try_to_serve(&other, differs.clone()).await, &queue);
        assert!(reason.contains("PRECONDITION_FAILED"), "{differs:?}: {reason}");
    }

    // Who serves it already does not notice, and the handle that was refused can still be used.
    assert_served(&other, &queue).await;
    let second = serve(&other, RequestQueue::new(&queue)).await;
    second.stop().await.unwrap();
    assert_served(&broker, &queue).await;
    server.stop().await.unwrap();
}

/// A queue's properties, as somebody else declares them.
#[derive(Debug, Clone, Copy)]
struct Properties {
    durable: bool,
    arguments: &'static [(&'static str, Value)],
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Number(i32),
    Text(&'static str),
}

impl Properties {
    /// Declares the queue; where the broker refuses, returns why.
    async fn declare(&self, peer: &RawPeer, queue: &str) -> Result<(), String> {
        // Each on a peer's channel of its own: a refusal closes it.
        let options = QueueDeclareOptions {
            durable: self.durable,
            ..Default::default()
        };
        let mut arguments = FieldTable::default();
        for (name, value) in self.arguments {
            let value = match value {
                Value::Number(number) => AMQPValue::LongInt(*number),
                Value::Text(text) => AMQPValue::LongString(text.as_bytes().into()),
            };
            arguments.insert((*name).into(), value);
        }
        let declared = peer
            .channel()
            .queue_declare(queue.into(), options, arguments)
            .await;
        declared.map(drop).map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn queues_are_declared_as_other_clients_would_declare_them() {
    const ALL: [Properties; 5] = [
        Properties {
            durable: true,
            arguments: &[],
        },
        Properties {
            durable: false,
            arguments: &[],
        },
        Properties {
            durable: true,
            arguments: &[("x-queue-type", Value::Text("quorum"))],
        },
        Properties {
            durable: true,
            arguments: &[("x-max-priority", Value::Number(5))],
        },
        Properties {
            durable: true,
            arguments: &[
                ("x-max-length", Value::Number(10)),
                ("x-overflow", Value::Text("reject-publish")),
            ],
        },
    ];
    type Choose = fn(RequestQueue) -> RequestQueue;
    // In the same order.
    const CHOICES: [Choose; 5] = [
        |queue| queue,
        |queue| queue.transient(),
        |queue| queue.quorum(),
        |queue| queue.priorities(5),
        |queue| {
            queue
                .argument("x-max-length", 10)
                .argument("x-overflow", "reject-publish")
        },
    ];

    let url = rabbit::shared().await;
    let broker = Broker::connect(url).await.unwrap();
    for (choose, own) in CHOICES.into_iter().zip(0..) {
        let queue = unique("declared");
        let server = serve(&broker, choose(RequestQueue::new(&queue))).await;
        assert_served(&broker, &queue).await;
        for (properties, other) in ALL.iter().zip(0..) {
            let peer = RawPeer::connect(url).await.unwrap();
            match (properties.declare(&peer, &queue).await, own == other) {
                (Ok(()), true) => {}
                (Err(reason), false) => assert!(reason.contains("PRECONDITION_FAILED"), "{reason}"),
                (declared, _) => panic!("{:?} as {properties:?}: {declared:?}", ALL[own]),
            }
        }
        server.stop().await.unwrap();
    }
    broker.close().await;
}

#[tokio::test]
async fn a_full_queue_that_rejects_is_an_error_at_once_and_the_call_never_runs() {
    let broker = Broker::connect(rabbit::shared().await).await.unwrap();
    let queue = unique("full");
    let bounded = RequestQueue::new(&queue)
        .argument("x-max-length", 2)
        .argument("x-overflow", "reject-publish");
    // The queue stays, and nobody takes anything out of it.
    serve(&broker, bounded.clone()).await.stop().await.unwrap();

    let desk = DeskClient::builder(&broker).queue(&queue).timeout(SOON).build();
    let accepted = [
        tokio::spawn(desk.file("letter")),
        tokio::spawn(desk.file("parcel")),
    ];
    let peer = RawPeer::connect(rabbit::shared().await).await.unwrap();
    until("both wait in the queue", SOON, async || {
        Ok(peer.queue_depth(&queue).await? == Some(2))
    })
    .await
    .unwrap();
    let error = desk.file("too much").await.unwrap_err();
    assert!(
        matches!(&error, CallError::Refused { queue: named, .. } if *named == queue),
        "{error:?}"
    );
    // A broker that refuses does not say why.
    assert_eq!(error.executed(), Executed::Maybe);

    // One that may be sent again is, for as long as it may take.
    let patient = tokio::spawn(desk.find("file"));
    let limited = desk.find("file").timeout(Duration::from_secs(3));
    let error = limited.await.unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }), "{error:?}");

    // What was accepted is answered all the same, and then there is room again.
    let clerk = BusyClerk {
        entered: Arc::default(),
        free: Arc::default(),
        filed: Arc::default(),
    };
    let filed = clerk.filed.clone();
    let server = Server::new(&broker)
        .serve_on(bounded, DeskServer::new(clerk))
        .start()
        .await
        .unwrap();
    for call in accepted {
        call.await.unwrap().unwrap();
    }
    assert_eq!(patient.await.unwrap().unwrap(), "file");
    assert_eq!(desk.file("stamp").await.unwrap(), "stamp");
    let filed: BTreeSet<_> = filed.lock().unwrap().drain(..).collect();
    assert_eq!(filed, ["letter", "parcel", "stamp"].map(str::to_owned).into());
    server.stop().await.unwrap();
    broker.close().await;
}

/// A worker that answers nobody, and sees where each request wants its reply.
struct Listener {
    peer: RawPeer,
    queue: String,
    requests: lapin::Consumer,
}

impl Listener {
    async fn new() -> Self {
        let peer = RawPeer::connect(rabbit::shared().await).await.unwrap();
        let queue = peer.declare_exclusive().await.unwrap();
        let requests = peer.consume(&queue).await.unwrap();
        Self {
            peer,
            queue,
            requests,
        }
    }

    /// The `reply_to` of the next request.
    async fn reply_to(&mut self) -> String {
        let request = raw::next(&mut self.requests, SOON).await.unwrap();
        let request = request.expect("a request");
        let reply_to = request.properties.reply_to().as_ref();
        reply_to.expect("an address").to_string()
    }

    async fn wait_until_gone(&self, queue: &str) {
        let what = format!("queue {queue} is gone");
        until(&what, SOON, async || {
            Ok(self.peer.queue_depth(queue).await?.is_none())
        })
        .await
        .unwrap();
    }
}

/// Makes sure that a call that nobody answered ended when its handle was closed.
async fn assert_closed(call: tokio::task::JoinHandle<Result<String, CallError>>) {
    let error = call.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Broker {
                source: BrokerError::Closed,
                executed: Executed::Maybe,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_resumable_reply_queue_outlives_its_connection_for_a_minute_and_not_its_handle() {
    let mut listener = Listener::new().await;
    let url = rabbit::shared().await;
    let broker = Broker::connect(url).await.unwrap();
    let desk = DeskClient::builder(&broker).queue(&listener.queue).build();
    let call = tokio::spawn(desk.file("letter"));
    let reply_queue = listener.reply_to().await;
    assert!(reply_queue.starts_with("rpc.reply."), "{reply_queue}");

    let peer = RawPeer::connect(url).await.unwrap();
    let durable_for_a_minute = Properties {
        durable: true,
        arguments: &[("x-expires", Value::Number(60_000))],
    };
    durable_for_a_minute.declare(&peer, &reply_queue).await.unwrap();
    let transient = Properties {
        durable: false,
        ..durable_for_a_minute
    };
    let reason = transient.declare(&peer, &reply_queue).await.unwrap_err();
    assert!(reason.contains("PRECONDITION_FAILED"), "{reason}");

    broker.close().await;
    assert_eq!(listener.peer.queue_depth(&reply_queue).await.unwrap(), None);
    assert_closed(call).await;
}

#[tokio::test]
async fn an_exclusive_reply_queue_is_its_connections_alone_and_goes_with_it() {
    let mut listener = Listener::new().await;
    let options = Broker::builder().reply_queue(ReplyQueue::Exclusive);
    let broker = options.address(rabbit::shared().await).connect().await.unwrap();
    let desk = DeskClient::builder(&broker).queue(&listener.queue).build();
    let call = tokio::spawn(desk.file("letter"));
    let reply_queue = listener.reply_to().await;
    assert!(reply_queue.starts_with("amq.gen-"), "{reply_queue}");
    let locked = listener.peer.queue_depth(&reply_queue).await.unwrap_err();
    assert!(format!("{locked:#}").contains("RESOURCE_LOCKED"), "{locked:#}");

    broker.close().await;
    listener.wait_until_gone(&reply_queue).await;
    assert_closed(call).await;
}

#[tokio::test]
async fn all_clients_of_a_handle_share_a_reply_queue_and_other_handles_have_their_own() {
    let mut listener = Listener::new().await;
    let url = rabbit::shared().await;
    let mut reply_queues = BTreeSet::new();
    let mut brokers = Vec::new();
    for _ in 0..2 {
        let broker = Broker::connect(url).await.unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let desk = DeskClient::builder(&broker.clone())
                .queue(&listener.queue)
                .build();
            let call = tokio::spawn(desk.file("letter"));
            seen.insert(listener.reply_to().await);
            call.abort();
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
        reply_queues.append(&mut seen);
        brokers.push(broker);
    }
    assert_eq!(reply_queues.len(), 2, "{reply_queues:?}");
    for broker in brokers {
        broker.close().await;
    }
}

#[tokio::test]
async fn a_handle_that_only_serves_has_no_reply_queue_and_direct_reply_to_needs_none() {
    let vhost = Vhost::new().await;
    let columns = ["name", "durable", "arguments"];
    let worker = Broker::connect(&vhost.url()).await.unwrap();
    let server = serve(&worker, RequestQueue::new("desk")).await;
    let direct = Broker::builder().reply_queue(ReplyQueue::Direct);
    let direct = direct.address(vhost.url()).connect().await.unwrap();
    assert_served(&direct, "desk").await;
    const OF_REQUESTS: [&str; 2] = [
        "desk\ttrue\t[{\"x-queue-type\",\"classic\"}]",
        "desk.batch\ttrue\t[{\"x-queue-type\",\"classic\"}]",
    ];
    assert_eq!(vhost.queues(&columns).await, OF_REQUESTS);

    let caller = Broker::connect(&vhost.url()).await.unwrap();
    assert_served(&caller, "desk").await;
    assert_served(&caller.clone(), "desk").await;
    let queues = vhost.queues(&columns).await;
    let [desk, batched, reply_queue] = &queues[..] else {
        panic!("{queues:?}");
    };
    assert_eq!([desk, batched], OF_REQUESTS);
    assert!(reply_queue.starts_with("rpc.reply."), "{reply_queue}");
    for property in [
        "\ttrue\t",
        "{\"x-expires\",60000}",
        "{\"x-queue-type\",\"classic\"}",
    ] {
        assert!(reply_queue.contains(property), "{reply_queue}");
    }

    caller.close().await;
    direct.close().await;
    server.stop().await.unwrap();
    worker.close().await;
    // The desk has a one-way method, so its queue for batched calls stays.
    assert_eq!(vhost.queues(&columns).await, OF_REQUESTS);
}

#[tokio::test]
async fn queues_are_classic_even_if_the_virtual_hosts_default_is_quorum() {
    let vhost = Vhost::with_default_queue_type("quorum").await;
    let worker = Broker::connect(&vhost.url()).await.unwrap();
    let servers = [
        serve(&worker, RequestQueue::new("classic")).await,
        serve(&worker, RequestQueue::new("priorities").priorities(5)).await,
        serve(&worker, RequestQueue::new("quorum").quorum()).await,
        serve(&worker, RequestQueue::new("transient").transient()).await,
    ];
    let mut callers = Vec::new();
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let caller = Broker::builder().reply_queue(replies);
        let caller = caller.address(vhost.url()).connect().await.unwrap();
        for queue in ["classic", "priorities", "quorum", "transient"] {
            assert_served(&caller, queue).await;
        }
        callers.push(caller);
    }
    until("all workers are found", SOON, async || {
        let found = callers[0].discover().workers().await?;
        Ok(found.workers.len() == servers.len())
    })
    .await
    .unwrap();

    let queues = vhost.all_queues(&["name", "type"]).await;
    let (quorum, classic): (Vec<_>, Vec<_>) = queues.iter().partition(|queue| queue.starts_with("quorum"));
    assert_eq!(quorum, ["quorum\tquorum", "quorum.batch\tquorum"]);
    // Three queues with their batches, two reply queues and four to listen on.
    assert_eq!(classic.len(), 12, "{classic:?}");
    assert!(
        classic.iter().all(|queue| queue.ends_with("\tclassic")),
        "{classic:?}"
    );

    // Nothing is left that would be deleted elsewhere, and no connection is closed over it.
    let mut changes = worker.status_changes();
    changes.next().await;
    for server in servers {
        server.stop().await.unwrap();
    }
    assert!(changes.next().now_or_never().is_none(), "{:?}", worker.status());
    for caller in callers {
        caller.close().await;
    }
    let left = vhost.all_queues(&["name"]).await;
    let names = ["classic", "priorities", "quorum", "transient"];
    let expected: Vec<_> = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}.batch")])
        .collect();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn a_queue_that_was_declared_without_a_type_is_the_same_queue() {
    let vhost = Vhost::new().await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    peer.declare_durable("desk").await.unwrap();
    let worker = Broker::connect(&vhost.url()).await.unwrap();
    let server = serve(&worker, RequestQueue::new("desk")).await;
    assert_served(&worker, "desk").await;
    peer.declare_durable("desk").await.unwrap();
    peer.declare_durable("desk.batch").await.unwrap();
    server.stop().await.unwrap();

    // A peer that leaves the type to a virtual host of quorum queues shares a quorum queue.
    let vhost = Vhost::with_default_queue_type("quorum").await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    peer.declare_durable("desk").await.unwrap();
    let worker = Broker::connect(&vhost.url()).await.unwrap();
    let reason = refusal(try_to_serve(&worker, RequestQueue::new("desk")).await, "desk");
    assert!(reason.contains("x-queue-type"), "{reason}");
    let server = serve(&worker, RequestQueue::new("desk").quorum()).await;
    assert_served(&worker, "desk").await;
    peer.declare_durable("desk").await.unwrap();
    server.stop().await.unwrap();
}
