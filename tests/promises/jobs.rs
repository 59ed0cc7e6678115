//! Jobs: a failed one is retried with delays, and ends in the dead-letter queue with the reason. No
//! confirmed job is lost.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::options::BasicGetOptions;
use lapin::types::AMQPValue;
use rpc_runtime::{
    Broker, BrokerError, CallError, Context, RequestQueue, RunningServer, Server, ServerError, service,
};
use rpc_tests::asking::depth;
use rpc_tests::gate::{Gate, SOON};
use rpc_tests::rabbit::{Permissions, Vhost, shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("no route to {0}")]
struct NoRoute(String);

#[service]
trait Mail {
    #[rpc(oneway, idempotent, retry = "2 times, 100ms to 200ms")]
    async fn send(&self, #[rpc(context)] cx: &Context, to: &str) -> Result<(), NoRoute>;
    /// Without retries.
    #[rpc(oneway, idempotent)]
    async fn note(&self, #[rpc(context)] cx: &Context, what: &str);
    async fn count(&self) -> u64;
}

#[derive(Default, Clone)]
struct Office {
    /// What ran, with the number of the attempt.
    ran: Arc<Mutex<Vec<(String, u32)>>>,
}

impl Office {
    fn ran(&self, what: &str, cx: &Context) {
        self.ran.lock().unwrap().push((what.to_owned(), cx.attempt()));
    }

    fn attempts(&self, what: &str) -> Vec<u32> {
        let ran = self.ran.lock().unwrap();
        ran.iter()
            .filter(|(ran, _)| ran == what)
            .map(|(_, attempt)| *attempt)
            .collect()
    }
}

impl Mail for Office {
    async fn send(&self, cx: &Context, to: &str) -> Result<(), NoRoute> {
        self.ran(to, cx);
        match to {
            "nowhere" => Err(NoRoute(to.to_owned())),
            "later" if cx.attempt() < 3 => Err(NoRoute(to.to_owned())),
            "poison" => panic!("a planned panic"),
            _ => Ok(()),
        }
    }

    async fn note(&self, cx: &Context, what: &str) {
        self.ran(what, cx);
        assert!(what != "poison", "a planned panic");
    }

    async fn count(&self) -> u64 {
        0
    }
}

async fn serve(broker: &Broker, queue: &str, office: &Office) -> RunningServer {
    Server::new(broker)
        .serve_on(RequestQueue::new(queue), MailServer::new(office.clone()))
        .start()
        .await
        .unwrap()
}

fn client(broker: &Broker, queue: &str) -> MailClient {
    MailClient::builder(broker).queue(queue).build()
}

async fn dead(broker: &Broker, queue: &str) -> u32 {
    depth(broker, &format!("{queue}.dead")).await
}

async fn until_dead(broker: &Broker, queue: &str, jobs: u32) {
    until("the jobs are dead", SOON, async || {
        Ok(dead(broker, queue).await == jobs)
    })
    .await
    .unwrap();
}

on_both_brokers! {
    a_job_that_fails_is_retried_with_delays_and_then_kept,
    a_job_that_succeeds_in_the_end_is_not_kept,
    a_job_without_retries_that_panics_is_kept,
    a_request_that_cannot_be_read_is_kept,
    a_job_is_delayed,
    only_a_job_can_be_delayed,
    only_a_job_whose_worker_was_lost_is_redelivered,
}

async fn a_job_that_fails_is_retried_with_delays_and_then_kept(world: World) {
    let (broker, queue, office) = (world.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    let begun = Instant::now();
    client(&broker, &queue).send("nowhere").await.unwrap();
    client(&broker, &queue).send("poison").await.unwrap();
    until_dead(&broker, &queue, 2).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begun.elapsed()
    );
    for what in ["nowhere", "poison"] {
        assert_eq!(office.attempts(what), [1, 2, 3]);
    }
    server.stop().await.unwrap();
}

async fn a_job_that_succeeds_in_the_end_is_not_kept(world: World) {
    let (broker, queue, office) = (world.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    client(&broker, &queue).send("later").await.unwrap();
    until("it runs", SOON, async || Ok(office.attempts("later").len() == 3))
        .await
        .unwrap();
    server.stop().await.unwrap();
    assert_eq!(office.attempts("later"), [1, 2, 3]);
    assert_eq!(dead(&broker, &queue).await, 0);
}

async fn a_job_without_retries_that_panics_is_kept(world: World) {
    let (broker, queue, office) = (world.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    client(&broker, &queue).note("poison").await.unwrap();
    until_dead(&broker, &queue, 1).await;
    assert_eq!(office.attempts("poison"), [1]);
    server.stop().await.unwrap();
}

async fn a_request_that_cannot_be_read_is_kept(world: World) {
    #[service]
    trait Newer {
        #[rpc(oneway)]
        async fn unknown(&self, what: &str);
        #[rpc(oneway, idempotent, name = "send")]
        async fn send_by_number(&self, to: u32);
    }

    let (broker, queue, office) = (world.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    let newer: NewerClient = NewerClient::builder(&broker).queue(&queue).build();
    newer.unknown("what").await.unwrap();
    newer.send_by_number(7).await.unwrap();
    until_dead(&broker, &queue, 2).await;
    assert!(office.ran.lock().unwrap().is_empty());
    server.stop().await.unwrap();
}

async fn a_job_is_delayed(world: World) {
    let (broker, queue, office) = (world.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    let begun = Instant::now();
    let delay = Duration::from_millis(1300);
    client(&broker, &queue).send("alice").delay(delay).await.unwrap();
    until("it runs", SOON, async || Ok(office.attempts("alice") == [1]))
        .await
        .unwrap();
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
    server.stop().await.unwrap();
}

async fn only_a_job_can_be_delayed(world: World) {
    let broker = world.broker().await;
    let mail = client(&broker, &unique("mail"));
    let refused = mail.count().delay(Duration::from_secs(1)).await;
    assert!(
        matches!(refused, Err(CallError::CannotDelay { .. })),
        "{refused:?}"
    );
    let too_long = mail
        .send("alice")
        .delay(Duration::from_secs(40 * 24 * 60 * 60))
        .await;
    assert!(
        matches!(too_long, Err(CallError::CannotDelay { .. })),
        "{too_long:?}"
    );
}

/// Records each attempt, and whether it is redelivered. They wait at a gate.
#[derive(Clone)]
struct Marks(Gate, Arc<Mutex<Vec<(u32, bool)>>>);

impl Mail for Marks {
    async fn send(&self, cx: &Context, to: &str) -> Result<(), NoRoute> {
        let mark = (cx.attempt(), cx.redelivered());
        self.1.lock().unwrap().push(mark);
        self.0.pass().await;
        match to {
            "later" if cx.attempt() < 3 => Err(NoRoute(to.to_owned())),
            _ => Ok(()),
        }
    }

    async fn note(&self, _: &Context, _: &str) {}

    async fn count(&self) -> u64 {
        0
    }
}

async fn only_a_job_whose_worker_was_lost_is_redelivered(world: World) {
    let broker = world.broker().await;
    let caller = world.broker().await;
    for (kind, is_quorum) in [("classic", false), ("quorum", true)] {
        let queue = unique("mail");
        let requests = match is_quorum {
            true => RequestQueue::new(&queue).quorum(),
            false => RequestQueue::new(&queue),
        };
        let serve = async |marks: &Marks| {
            let server = Server::new(&broker).serve_on(requests.clone(), MailServer::new(marks.clone()));
            server.start().await.unwrap()
        };
        let marks = Marks(Gate::open(), Arc::default());
        let server = serve(&marks).await;
        client(&caller, &queue)
            .send("later")
            .delay(Duration::from_millis(100))
            .await
            .unwrap();
        marks.0.began(3).await;
        server.stop().await.unwrap();
        let retried = [(1, false), (2, false), (3, false)];
        assert_eq!(*marks.1.lock().unwrap(), retried, "{kind}");

        let marks = Marks(Gate::closed(), Arc::default());
        let server = serve(&marks).await;
        client(&caller, &queue).send("alice").await.unwrap();
        marks.0.began(1).await;
        drop(server);
        let server = serve(&marks).await;
        marks.0.began(1).await;
        marks.0.let_all_go();
        server.stop().await.unwrap();
        assert_eq!(*marks.1.lock().unwrap(), [(1, false), (1, true)], "{kind}");
    }
}

/// The headers of a dead letter, as an operator sees them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_says_why_and_when_it_failed() {
    let (broker, queue, office) = (World::RabbitMq.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    client(&broker, &queue)
        .send("nowhere")
        .header("tenant", "acme")
        .await
        .unwrap();
    until_dead(&broker, &queue, 1).await;
    server.stop().await.unwrap();

    let peer = RawPeer::connect(shared().await).await.unwrap();
    let dead = format!("{queue}.dead");
    let letter = peer
        .channel()
        .basic_get(dead.into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap()
        .expect("it is kept");
    let properties = &letter.delivery.properties;
    let headers = properties.headers().as_ref().unwrap().inner();
    let text = |name: &str| match headers.get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(text("rpc-origin"), queue);
    assert_eq!(text("rpc-reason"), "error");
    assert_eq!(text("rpc-error"), "nowhere");
    assert_eq!(text("rpc-attempts"), "3");
    assert_eq!(text("tenant"), "acme");
    let failed = |name| text(name).parse::<u64>().unwrap();
    let (first, last) = (failed("rpc-first-failure"), failed("rpc-last-failure"));
    assert!((200..60_000).contains(&(last - first)), "{first} {last}");
    assert!(
        properties
            .kind()
            .as_ref()
            .is_some_and(|kind| kind.as_str() == "send")
    );
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(*properties.expiration(), None);
}

/// A job that kills each of its workers ends in the dead-letter queue, on a classic queue too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_loses_each_of_its_workers_is_kept() {
    let (broker, queue) = (World::RabbitMq.broker().await, unique("mail"));
    let (gate, office) = (Gate::closed(), Office::default());
    let held = || Held(gate.clone(), office.clone());
    let requests = || RequestQueue::new(&queue);
    let mut workers = 0;
    let mut is_sent = false;
    loop {
        let server = Server::new(&broker).serve_on(requests(), MailServer::new(held()));
        let server = server.start().await.unwrap();
        if !std::mem::replace(&mut is_sent, true) {
            client(&broker, &queue).send("alice").await.unwrap();
        }
        tokio::select! {
            () = gate.began(1) => {}
            () = until_dead(&broker, &queue, 1) => break,
        }
        drop(server);
        workers += 1;
        assert!(workers < 100, "it comes back forever");
    }
    assert!(office.attempts("alice").iter().all(|attempt| *attempt == 1));
    assert!(workers >= 20, "{workers}");
}

/// Holds each job at a gate.
struct Held(Gate, Office);

impl Mail for Held {
    async fn send(&self, cx: &Context, to: &str) -> Result<(), NoRoute> {
        self.1.ran(to, cx);
        self.0.pass().await;
        Ok(())
    }

    async fn note(&self, _: &Context, _: &str) {}

    async fn count(&self) -> u64 {
        0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_job_of_a_restarted_worker_is_retried_by_another_one() {
    let (broker, queue, office) = (World::RabbitMq.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    client(&broker, &queue).send("later").await.unwrap();
    until("it fails", SOON, async || {
        Ok(!office.attempts("later").is_empty())
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    let server = serve(&broker, &queue, &office).await;
    until(
        "it runs",
        SOON,
        async || Ok(office.attempts("later") == [1, 2, 3]),
    )
    .await
    .unwrap();
    server.stop().await.unwrap();
    assert_eq!(dead(&broker, &queue).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_permissions_are_enough_for_jobs() {
    let vhost = Vhost::new().await;
    let may = Permissions {
        configure: "^mail([.]batch|[.]dead|[.]retry[.][0-9]+)?$",
        write: "^amq[.]default$",
        read: "^mail([.]batch|[.]retry[.][0-9]+)?$",
    };
    let worker = Broker::connect(&vhost.url_of_user(may).await).await.unwrap();
    let caller = Broker::connect(&vhost.url()).await.unwrap();
    let office = Office::default();
    let server = serve(&worker, "mail", &office).await;
    client(&caller, "mail").send("nowhere").await.unwrap();
    until_dead(&caller, "mail", 1).await;
    assert_eq!(office.attempts("nowhere"), [1, 2, 3]);
    server.stop().await.unwrap();

    let lacks = Permissions {
        configure: "^mail([.]batch)?$",
        ..may
    };
    let worker = Broker::connect(&vhost.url_of_user(lacks).await).await.unwrap();
    let server = Server::new(&worker).serve_on(RequestQueue::new("mail"), MailServer::new(office));
    match server.start().await.map(drop) {
        Err(ServerError::Broker(BrokerError::Queue { queue, .. })) => assert_eq!(queue, "mail.dead"),
        other => panic!("{other:?}"),
    }
}

/// A classic queue that takes no more messages than this.
fn limited(queue: &str, messages: i64) -> RequestQueue {
    RequestQueue::new(queue)
        .argument("x-max-length", messages)
        .argument("x-overflow", "reject-publish")
}

/// Redelivered jobs go to the end of their queue. If it is full, they must not occupy the worker,
/// which alone can empty it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_come_back_to_a_full_queue_do_not_stop_the_worker() {
    let (broker, queue) = (World::RabbitMq.broker().await, unique("mail"));
    let (gate, office) = (Gate::closed(), Office::default());
    let server = |gate: &Gate| {
        let service = MailServer::new(Held(gate.clone(), office.clone()));
        Server::new(&broker)
            .concurrency(2)
            .serve_on(limited(&queue, 3), service)
            .start()
    };
    let first = server(&gate).await.unwrap();
    let mail = client(&broker, &queue);
    for to in ["a", "b", "c", "d", "e"] {
        mail.send(to).await.unwrap();
    }
    gate.began(2).await;
    drop(first);
    let open = Gate::open();
    let second = server(&open).await.unwrap();
    for to in ["a", "b", "c", "d", "e"] {
        until("each job runs", SOON, async || {
            Ok(!office.attempts(to).is_empty())
        })
        .await
        .unwrap();
    }
    open.began(5).await;
    second.stop().await.unwrap();
    assert_eq!(dead(&broker, &queue).await, 0);
}

/// Declares the queues of jobs as `docs/jobs.md` says, for a worker that declares none. The
/// dead-letter queue takes no more than this many letters.
async fn declare_all(peer: &RawPeer, queue: &str, letters: i64) {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let declare = async |name: String, arguments: Vec<(&str, AMQPValue)>| {
        let mut table = lapin::types::FieldTable::default();
        for (name, value) in arguments {
            table.insert(name.into(), value);
        }
        let durable = lapin::options::QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let declaring = peer.channel().queue_declare(name.into(), durable, table);
        declaring.await.unwrap();
    };
    for name in [queue.to_owned(), format!("{queue}.batch")] {
        declare(name, Vec::new()).await;
    }
    let arguments = vec![
        ("x-max-length", AMQPValue::LongLongInt(letters)),
        ("x-overflow", text("reject-publish")),
    ];
    declare(format!("{queue}.dead"), arguments).await;
    for millis in [100, 200, 2000, 10_000] {
        let arguments = vec![
            ("x-queue-type", text("quorum")),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(queue)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
            ("x-message-ttl", AMQPValue::LongLongInt(millis)),
        ];
        declare(format!("{queue}.retry.{millis}"), arguments).await;
    }
}

/// Jobs that a full dead-letter queue does not take occupy no worker, and are kept once there is
/// room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_wait_for_a_full_dead_letter_queue_without_occupying_the_worker() {
    let (broker, queue, office) = (World::RabbitMq.broker().await, unique("mail"), Office::default());
    let peer = RawPeer::connect(shared().await).await.unwrap();
    declare_all(&peer, &queue, 3).await;
    let (batches, dead_queue) = (format!("{queue}.batch"), format!("{queue}.dead"));
    for _ in 0..3 {
        let filler = lapin::BasicProperties::default();
        peer.publish(&dead_queue, filler, b"filler").await.unwrap();
    }
    let serve = || {
        let requests = RequestQueue::new(&queue).existing();
        let server = Server::new(&broker).concurrency(1);
        server.serve_on(requests, MailServer::new(office.clone())).start()
    };
    let server = serve().await.unwrap();
    let mail = client(&broker, &queue);
    for what in ["poison", "poison", "fine"] {
        mail.note(what).await.unwrap();
    }
    let properties = lapin::BasicProperties::default()
        .with_type("rpc.batch".into())
        .with_content_type("application/msgpack".into());
    let body = batch(&["poison", "fine"].map(|what| ("note", what, &[][..])));
    peer.publish(&batches, properties, &body).await.unwrap();
    let waiting = format!("{queue}.retry.10000");
    until("the others run", SOON, async || {
        let waiting = peer.queue_depth(&waiting).await?;
        Ok(office.attempts("fine").len() == 2 && waiting == Some(3))
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    for empty in [&queue, &batches] {
        assert_eq!(peer.queue_depth(empty).await.unwrap(), Some(0), "{empty}");
    }

    let purge = lapin::options::QueuePurgeOptions::default();
    peer.channel()
        .queue_purge(dead_queue.as_str().into(), purge)
        .await
        .unwrap();
    let server = serve().await.unwrap();
    until_dead(&broker, &queue, 3).await;
    server.stop().await.unwrap();
    assert_eq!(office.attempts("poison"), [1, 1, 1]);
    for empty in [&queue, &waiting] {
        assert_eq!(peer.queue_depth(empty).await.unwrap(), Some(0), "{empty}");
    }
    for _ in 0..3 {
        let options = BasicGetOptions { no_ack: true };
        let letter = peer.channel().basic_get(dead_queue.as_str().into(), options);
        let letter = letter.await.unwrap().expect("it is kept").delivery;
        let headers = letter.properties.headers().as_ref().unwrap().inner();
        let reason = AMQPValue::LongString("panicked".into());
        assert_eq!(headers.get("rpc-reason"), Some(&reason));
        assert_eq!(headers.get("rpc-given-up"), None);
    }
}

/// A batch: one call of `note`, which is to wait for 100 ms, with another header.
fn batch_with_header(name: &str, value: &str) -> Vec<u8> {
    batch(&[("note", "forged", &[("rpc-delay", "100"), (name, value)])])
}

/// A method, its argument, and headers.
type BatchedCall<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// A message for the queue of batches.
fn batch(calls: &[BatchedCall<'_>]) -> Vec<u8> {
    let text = |text: &str| {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[0xdb], &length[..], text.as_bytes()].concat()
    };
    let mut body = vec![0x90 | u8::try_from(calls.len()).unwrap()];
    for (method, argument, headers) in calls {
        // A call is an array of five elements.
        body.extend([0x95, 0xc4, 16]);
        body.extend(uuid::Uuid::new_v4().as_bytes());
        body.extend(text(method));
        // No time limit, and the arguments: an array of one text.
        let arguments = [&[0x91], &text(argument)[..]].concat();
        body.extend([0xc0, 0xc4, u8::try_from(arguments.len()).unwrap()]);
        body.extend(arguments);
        body.push(0x80 | u8::try_from(headers.len()).unwrap());
        for (name, value) in *headers {
            body.extend(text(name));
            body.extend(text(value));
        }
    }
    body
}

/// Headers in the body of a batch may be larger than a frame. In a copy they would close each
/// connection on which it is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_headers_of_a_batch_do_not_close_the_connection() {
    let (broker, queue, office) = (World::RabbitMq.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let properties = lapin::BasicProperties::default()
        .with_type("rpc.batch".into())
        .with_content_type("application/msgpack".into());
    let batches = format!("{queue}.batch");
    // Larger ones are refused.
    for bytes in [15_000, 200_000] {
        for name in ["rpc-origin", "rpc-error", "note"] {
            let body = batch_with_header(name, &"x".repeat(bytes));
            peer.publish(&batches, properties.clone(), &body).await.unwrap();
        }
    }
    until("all run", SOON, async || Ok(office.attempts("forged").len() == 3))
        .await
        .unwrap();
    until_dead(&broker, &queue, 3).await;
    client(&broker, &queue).send("nowhere").await.unwrap();
    until_dead(&broker, &queue, 4).await;
    server.stop().await.unwrap();
}

/// A job that fails at once is moved at once, whatever the others in its batch still do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_job_does_not_wait_for_the_rest_of_its_batch() {
    let (broker, queue) = (World::RabbitMq.broker().await, unique("mail"));
    let (gate, office) = (Gate::closed(), Office::default());
    let service = MailServer::new(Held(gate.clone(), office.clone()));
    let server = Server::new(&broker).serve_on(RequestQueue::new(&queue), service);
    let server = server.start().await.unwrap();
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let properties = lapin::BasicProperties::default()
        .with_type("rpc.batch".into())
        .with_content_type("application/msgpack".into());
    // In this order, and in the other one.
    for (number, methods) in [(1, ["send", "unknown"]), (2, ["unknown", "send"])] {
        let body = batch(&methods.map(|method| (method, "alice", &[][..])));
        let batches = format!("{queue}.batch");
        peer.publish(&batches, properties.clone(), &body).await.unwrap();
        gate.began(1).await;
        until_dead(&broker, &queue, number).await;
    }
    gate.let_all_go();
    server.stop().await.unwrap();
    assert_eq!(office.attempts("alice"), [1, 1]);
}

/// Nobody but the broker says which user sent a job: a header that the sender forged is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_names_no_user_that_its_sender_forged() {
    let (broker, queue, office) = (World::RabbitMq.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    let url: lapin::uri::AMQPUri = shared().await.parse().unwrap();
    let user = url.authority.userinfo.username;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let text = |text: &str| AMQPValue::LongString(text.into());
    for (is_copy, sends_user) in [(false, false), (false, true), (true, true)] {
        let mut headers = lapin::types::FieldTable::default();
        headers.insert("rpc-user".into(), text("forged"));
        if is_copy {
            headers.insert("rpc-copy".into(), text("1"));
        }
        let mut properties = lapin::BasicProperties::default()
            .with_type("note".into())
            .with_content_type("application/json".into())
            .with_headers(headers);
        if sends_user {
            properties = properties.with_user_id(user.as_str().into());
        }
        peer.publish(&queue, properties, br#"["poison"]"#).await.unwrap();
        until_dead(&broker, &queue, 1).await;
        let dead = format!("{queue}.dead");
        let options = BasicGetOptions { no_ack: true };
        let letter = peer.channel().basic_get(dead.into(), options).await.unwrap();
        let letter = letter.expect("it is kept").delivery;
        let headers = letter.properties.headers().as_ref().unwrap().inner();
        let named = sends_user.then(|| text(&user));
        assert_eq!(headers.get("rpc-user"), named.as_ref(), "{is_copy}");
        assert_eq!(*letter.properties.user_id(), None);
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_be_read_is_kept() {
    let (broker, queue, office) = (World::RabbitMq.broker().await, unique("mail"), Office::default());
    let server = serve(&broker, &queue, &office).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let properties = lapin::BasicProperties::default().with_type("rpc.batch".into());
    let batches = format!("{queue}.batch");
    peer.publish(&batches, properties, b"no batch").await.unwrap();
    until_dead(&broker, &queue, 1).await;
    server.stop().await.unwrap();
}
