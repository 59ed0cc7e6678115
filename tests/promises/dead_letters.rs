//! Dead letters, and requests that come back: what another queue gave up came before, what is
//! refused without a caller to tell is kept, and nothing comes back forever.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use rpc_runtime::{Broker, CallError, Context, FaultCode, RequestQueue, RunningServer, Server, service};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::rabbit::{Node, shared, unique};
use rpc_tests::raw::{self, RawPeer};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};

#[service]
trait Till {
    async fn pay(&self, what: &str);
    /// Whether the request came before.
    #[rpc(idempotent)]
    async fn look_up(&self, #[rpc(context)] cx: &Context, what: &str) -> bool;
    #[rpc(oneway)]
    async fn note(&self, what: &str);
    #[rpc(oneway, idempotent)]
    async fn send(&self, what: &str);
}

type Journal = Arc<Mutex<Vec<String>>>;

/// Notes what it runs, and holds it at the gate.
#[derive(Clone)]
struct Clerk {
    gate: Gate,
    journal: Journal,
}

impl Clerk {
    fn new(gate: &Gate, journal: &Journal) -> Self {
        let (gate, journal) = (gate.clone(), Arc::clone(journal));
        Self { gate, journal }
    }

    async fn run(&self, method: &str, what: &str) {
        self.journal.lock().unwrap().push(format!("{method} {what}"));
        self.gate.pass().await;
    }
}

impl Till for Clerk {
    async fn pay(&self, what: &str) {
        self.run("pay", what).await;
    }

    async fn look_up(&self, cx: &Context, what: &str) -> bool {
        self.run("look_up", what).await;
        cx.redelivered()
    }

    async fn note(&self, what: &str) {
        self.run("note", what).await;
    }

    async fn send(&self, what: &str) {
        self.run("send", what).await;
    }
}

async fn serve(broker: &Broker, queue: RequestQueue, clerk: &Clerk) -> RunningServer {
    let server = Server::new(broker).serve_on(queue, TillServer::new(clerk.clone()));
    server.start().await.expect("the server starts")
}

fn till(broker: &Broker, queue: &str) -> TillClient {
    TillClient::builder(broker).queue(queue).build()
}

/// The names of a queue and of its dead-letter queue. Jobs that fail go to the same one.
fn queues() -> (String, String) {
    let queue = unique("till");
    let dead = format!("{queue}.dead");
    (queue, dead)
}

fn journal(journal: &Journal) -> Vec<String> {
    let mut entries = journal.lock().unwrap().clone();
    entries.sort();
    entries
}

#[track_caller]
fn assert_fault<T: std::fmt::Debug>(outcome: Result<T, CallError>, code: &FaultCode) {
    match outcome {
        Err(CallError::Fault(fault)) if fault.code == *code => {}
        other => panic!("{other:?}"),
    }
}

on_both_brokers! {
    a_call_that_was_dead_lettered_runs_again_only_if_it_is_idempotent,
    a_one_way_request_whose_worker_is_lost_is_dead_lettered_unless_it_is_idempotent,
    a_one_way_request_that_loses_each_of_its_workers_ends_as_a_dead_letter,
    a_one_way_request_that_cannot_be_read_is_dead_lettered,
}

async fn a_call_that_was_dead_lettered_runs_again_only_if_it_is_idempotent(world: World) {
    let (queue, dead) = (unique("till"), unique("dead"));
    let (gate, entries) = (Gate::closed(), Journal::default());
    let next = Clerk::new(&Gate::open(), &entries);
    let server = serve(&world.broker().await, RequestQueue::new(&dead), &next).await;
    let limited = RequestQueue::new(&queue)
        .quorum()
        .delivery_limit(0)
        .dead_letter_to(&dead);
    let lost = serve(&world.broker().await, limited, &Clerk::new(&gate, &entries)).await;

    let till = till(&world.broker().await, &queue);
    let paid = tokio::spawn(till.pay("a"));
    let looked_up = tokio::spawn(till.look_up("b"));
    gate.began(2).await;
    drop(lost);
    assert_fault(soon("the fault", paid).await.unwrap(), &FaultCode::Interrupted);
    assert!(
        soon("the answer", looked_up).await.unwrap().unwrap(),
        "the handler is told that it may be a repetition"
    );
    server.stop().await.unwrap();
    assert_eq!(journal(&entries), ["look_up b", "look_up b", "pay a"]);
}

async fn a_one_way_request_whose_worker_is_lost_is_dead_lettered_unless_it_is_idempotent(world: World) {
    let (queue, dead) = queues();
    let (gate, entries, found) = (Gate::closed(), Journal::default(), Journal::default());
    // Nothing that it runs came before. It keeps what it refuses.
    let keeper = Keeper(Arc::clone(&found));
    let keeping = Server::new(&world.broker().await)
        .serve_on(RequestQueue::new(&dead), ArchiveServer::new(keeper))
        .start()
        .await
        .unwrap();
    let requests = || RequestQueue::new(&queue).dead_letter_to(&dead);
    let lost = serve(&world.broker().await, requests(), &Clerk::new(&gate, &entries)).await;
    let till = till(&world.broker().await, &queue);
    till.note("a").await.unwrap();
    till.send("b").await.unwrap();
    gate.began(2).await;
    drop(lost);

    let next = Clerk::new(&Gate::open(), &entries);
    let server = serve(&world.broker().await, requests(), &next).await;
    until("it is kept", SOON, async || Ok(!found.lock().unwrap().is_empty()))
        .await
        .unwrap();
    until("the other runs again", SOON, async || {
        Ok(entries.lock().unwrap().len() == 3)
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    keeping.stop().await.unwrap();
    assert_eq!(journal(&found), ["note a"]);
    assert_eq!(journal(&entries), ["note a", "send b", "send b"]);
}

/// Takes dead letters: the same methods, of which one is idempotent here.
#[service]
trait Archive {
    #[rpc(oneway, idempotent)]
    async fn note(&self, what: &str);
    #[rpc(oneway, idempotent)]
    async fn send(&self, what: &str);
    /// Takes what names no method that is known.
    #[rpc(oneway, idempotent, default)]
    async fn other(&self);
}

struct Keeper(Journal);

impl Archive for Keeper {
    async fn note(&self, what: &str) {
        self.0.lock().unwrap().push(format!("note {what}"));
    }

    async fn send(&self, what: &str) {
        self.0.lock().unwrap().push(format!("send {what}"));
    }

    async fn other(&self) {
        self.0.lock().unwrap().push("other".to_owned());
    }
}

async fn a_one_way_request_that_loses_each_of_its_workers_ends_as_a_dead_letter(world: World) {
    let (queue, dead) = queues();
    let (entries, found) = (Journal::default(), Journal::default());
    let keeping = Server::new(&world.broker().await)
        .serve_on(
            RequestQueue::new(&dead),
            ArchiveServer::new(Keeper(Arc::clone(&found))),
        )
        .start()
        .await
        .unwrap();
    let (broker, caller) = (world.broker().await, world.broker().await);
    let mut workers = 0;
    let mut is_sent = false;
    while found.lock().unwrap().is_empty() {
        workers += 1;
        assert!(workers < 100, "it comes back forever");
        let gate = Gate::closed();
        let requests = RequestQueue::new(&queue).dead_letter_to(&dead);
        let server = serve(&broker, requests, &Clerk::new(&gate, &entries)).await;
        if !std::mem::replace(&mut is_sent, true) {
            till(&caller, &queue).send("poison").await.unwrap();
        }
        tokio::select! {
            () = gate.began(1) => {}
            kept = until("it is kept", SOON, async || Ok(!found.lock().unwrap().is_empty())) => kept.unwrap(),
        }
        drop(server);
    }
    keeping.stop().await.unwrap();
    // A worker that is lost before the broker has its ack of the original leaves two requests.
    assert!(found.lock().unwrap().iter().all(|kept| kept == "send poison"));
    assert!(entries.lock().unwrap().len() >= 20, "it is given up too early");
}

async fn a_one_way_request_that_cannot_be_read_is_dead_lettered(world: World) {
    let (queue, dead) = queues();
    let (entries, found) = (Journal::default(), Journal::default());
    let keeping = Server::new(&world.broker().await)
        .serve_on(
            RequestQueue::new(&dead),
            ArchiveServer::new(Keeper(Arc::clone(&found))),
        )
        .start()
        .await
        .unwrap();
    let requests = RequestQueue::new(&queue).dead_letter_to(&dead);
    let clerk = Clerk::new(&Gate::open(), &entries);
    let server = serve(&world.broker().await, requests, &clerk).await;
    // The worker knows no such method.
    let caller = world.broker().await;
    let archive = ArchiveClient::builder(&caller).queue(&queue).build();
    archive.other().await.unwrap();
    // It is dead-lettered under its own name, which the archive knows.
    until("it is kept", SOON, async || Ok(!found.lock().unwrap().is_empty()))
        .await
        .unwrap();
    server.stop().await.unwrap();
    keeping.stop().await.unwrap();
    assert_eq!(journal(&found), ["other"]);
    assert!(journal(&entries).is_empty());
}

fn headers(headers: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    BasicProperties::default().with_headers(table)
}

/// A request of a method with one argument.
fn request(properties: BasicProperties, method: &str) -> BasicProperties {
    properties
        .with_type(method.into())
        .with_content_type("application/json".into())
}

/// Declares a durable queue with these arguments.
async fn declare(peer: &RawPeer, queue: &str, arguments: &[(&str, AMQPValue)]) {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    peer.channel()
        .queue_declare(queue.into(), options, table)
        .await
        .unwrap();
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_expired_is_answered_so_and_not_run() {
    let ((queue, dead), entries) = (queues(), Journal::default());
    let peer = RawPeer::connect(shared().await).await.unwrap();
    for by_queue in [false, true] {
        let queue = format!("{queue}-{by_queue}");
        let mut arguments = vec![
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&dead)),
        ];
        if by_queue {
            arguments.push(("x-message-ttl", AMQPValue::LongInt(50)));
        }
        declare(&peer, &queue, &arguments).await;
        let broker = Broker::connect(shared().await).await.unwrap();
        let clerk = Clerk::new(&Gate::open(), &entries);
        let server = serve(&broker, RequestQueue::new(&dead), &clerk).await;
        let replies = peer.declare_exclusive().await.unwrap();
        let mut consumer = peer.consume(&replies).await.unwrap();
        for method in ["pay", "look_up"] {
            let mut properties = request(BasicProperties::default(), method)
                .with_reply_to(replies.as_str().into())
                .with_correlation_id(method.into());
            if !by_queue {
                properties = properties.with_expiration("50".into());
            }
            peer.publish(&queue, properties, b"[\"a\"]").await.unwrap();
            let reply = raw::next(&mut consumer, SOON).await.unwrap().expect("a reply");
            assert_eq!(reply.properties.kind().as_ref().unwrap().as_str(), "fault");
            let body: serde_json::Value = serde_json::from_slice(&reply.data).unwrap();
            assert_eq!(body["code"], "expired", "{method}");
        }
        server.stop().await.unwrap();
    }
    assert!(journal(&entries).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counts_of_dead_letters_end_a_cycle() {
    let (queue, entries) = (unique("till"), Journal::default());
    let broker = Broker::connect(shared().await).await.unwrap();
    let clerk = Clerk::new(&Gate::open(), &entries);
    let server = serve(&broker, RequestQueue::new(&queue), &clerk).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let replies = peer.declare_exclusive().await.unwrap();
    let mut consumer = peer.consume(&replies).await.unwrap();
    let deaths = |count| {
        let mut death = FieldTable::default();
        death.insert("reason".into(), text("rejected"));
        death.insert("queue".into(), text("elsewhere"));
        death.insert("count".into(), AMQPValue::LongLongInt(count));
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)]))
    };
    // RabbitMQ 3 goes on counting from a forged count.
    for (count, kind) in [(1, "result"), (20, "fault"), (i64::MAX, "fault"), (-1, "fault")] {
        // RabbitMQ 4 takes x-death for its own: this stands for a queue of version 3.
        let properties = headers(&[
            ("x-death", deaths(count)),
            ("x-first-death-reason", text("rejected")),
        ]);
        let properties = request(properties, "look_up")
            .with_reply_to(replies.as_str().into())
            .with_correlation_id(count.to_string().as_str().into());
        peer.publish(&queue, properties, b"[\"a\"]").await.unwrap();
        let reply = raw::next(&mut consumer, SOON).await.unwrap().expect("a reply");
        let told = reply.properties.kind().clone();
        assert_eq!(told.unwrap().as_str(), kind, "count {count}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_requests_that_were_inspected_run_or_are_kept() {
    let ((queue, dead), entries) = (queues(), Journal::default());
    let peer = RawPeer::connect(shared().await).await.unwrap();
    declare(&peer, &dead, &[]).await;
    let requests = || RequestQueue::new(&queue).dead_letter_to(&dead);
    let broker = Broker::connect(shared().await).await.unwrap();
    let clerk = Clerk::new(&Gate::open(), &entries);
    serve(&broker, requests(), &clerk).await.stop().await.unwrap();

    let till = till(&broker, &queue);
    for n in 0..20 {
        till.note(&n.to_string()).await.unwrap();
        till.send(&n.to_string()).await.unwrap();
    }
    // As the management page does.
    let mut seen = Vec::new();
    while let Some(message) = peer
        .channel()
        .basic_get(queue.as_str().into(), BasicGetOptions::default())
        .await
        .unwrap()
    {
        seen.push(message.delivery.delivery_tag);
    }
    assert_eq!(seen.len(), 40);
    let back = BasicNackOptions {
        requeue: true,
        multiple: true,
    };
    peer.channel()
        .basic_nack(*seen.last().unwrap(), back)
        .await
        .unwrap();

    let server = serve(&broker, requests(), &clerk).await;
    until("all have run or are kept", SOON, async || {
        let kept = peer.queue_depth(&dead).await?.unwrap_or(0) as usize;
        Ok(kept + entries.lock().unwrap().len() == 40)
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    assert_eq!(peer.queue_depth(&dead).await.unwrap(), Some(20));
    assert_eq!(peer.queue_depth(&queue).await.unwrap(), Some(0));
    let entries = journal(&entries);
    assert!(
        entries.iter().all(|entry| entry.starts_with("send")),
        "{entries:?}"
    );
}

/// RabbitMQ marks all that a classic queue recovers after an unclean stop as delivered before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_requests_outlive_a_broker_that_is_killed() {
    const EACH: usize = 200;
    let node = Node::start().await.unwrap();
    let (entries, gate) = (Journal::default(), Gate::open());
    let clerk = Clerk::new(&gate, &entries);
    let requests = || RequestQueue::new("till").dead_letter_to("till.dead");
    let peer = RawPeer::connect(node.url()).await.unwrap();
    declare(&peer, "till.dead", &[]).await;
    let broker = Broker::connect(node.url()).await.unwrap();
    serve(&broker, requests(), &clerk).await.stop().await.unwrap();
    let till = till(&broker, "till");
    for n in 0..EACH {
        till.note(&n.to_string()).await.unwrap();
        till.send(&n.to_string()).await.unwrap();
    }
    node.flush().await.unwrap();
    drop(peer);
    node.kill().await.unwrap();
    node.restart().await.unwrap();

    let server = soon("the server starts", serve(&broker, requests(), &clerk)).await;
    let peer = RawPeer::connect(node.url()).await.unwrap();
    until("all have run or are kept", SOON, async || {
        let kept = peer.queue_depth("till.dead").await?.unwrap_or(0) as usize;
        let entries = entries.lock().unwrap();
        let sent = entries.iter().filter(|entry| entry.starts_with("send")).count();
        Ok(sent == EACH && kept + entries.len() == 2 * EACH)
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    assert_eq!(peer.queue_depth("till").await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_that_come_back_by_themselves_do_not_go_round_forever() {
    let (queue, entries) = (unique("till"), Journal::default());
    let broker = Broker::connect(shared().await).await.unwrap();
    // What it rejects comes back at once.
    let requests = RequestQueue::new(&queue).dead_letter_to(&queue);
    let clerk = Clerk::new(&Gate::open(), &entries);
    let server = serve(&broker, requests, &clerk).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let properties = request(BasicProperties::default(), "no such method");
    let options = BasicPublishOptions::default();
    peer.channel()
        .basic_publish("".into(), queue.as_str().into(), options, b"[]", properties)
        .await
        .unwrap()
        .await
        .unwrap();
    // Behind it in the queue.
    tokio::time::sleep(Duration::from_millis(500)).await;
    soon("the queue is served", till(&broker, &queue).pay("a"))
        .await
        .unwrap();
    server.stop().await.unwrap();
    assert_eq!(peer.queue_depth(&queue).await.unwrap(), Some(0));
}

/// RabbitMQ 4.3 counts what a consumer returned only in `x-acquired-count`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_returned_too_often_is_refused() {
    const MOST: usize = 20;
    let (queue, entries) = (unique("till"), Journal::default());
    let broker = Broker::connect(shared().await).await.unwrap();
    let clerk = Clerk::new(&Gate::open(), &entries);
    let requests = || RequestQueue::new(&queue).quorum();
    serve(&broker, requests(), &clerk).await.stop().await.unwrap();

    let peer = RawPeer::connect(shared().await).await.unwrap();
    let replies = peer.declare_exclusive().await.unwrap();
    let mut consumer = peer.consume(&replies).await.unwrap();
    for (times, kind) in [(MOST - 1, "result"), (MOST, "fault")] {
        let properties = request(BasicProperties::default(), "look_up")
            .with_reply_to(replies.as_str().into())
            .with_correlation_id(times.to_string().as_str().into())
            .with_expiration("60000".into());
        peer.publish(&queue, properties, b"[\"a\"]").await.unwrap();
        let mut returned = 0;
        while returned < times {
            let options = BasicGetOptions::default();
            let got = peer.channel().basic_get(queue.as_str().into(), options).await;
            if let Some(message) = got.unwrap() {
                let back = BasicNackOptions {
                    requeue: true,
                    ..Default::default()
                };
                message.acker.nack(back).await.unwrap();
                returned += 1;
            }
        }
        let server = serve(&broker, requests(), &clerk).await;
        let reply = raw::next(&mut consumer, SOON).await.unwrap().expect("a reply");
        let told = reply.properties.kind().clone();
        assert_eq!(told.unwrap().as_str(), kind, "returned {times} times");
        server.stop().await.unwrap();
    }
}
