//! Who looks for workers finds them, and nobody is harmed by being looked for.
//!
//! Tests on the shared RabbitMQ find the workers of others too, and look at their own only.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use rpc_runtime::discovery::{Discovered, Worker, WorkerClient, WorkerDescription};
use rpc_runtime::middleware::Authorize;
use rpc_runtime::{Broker, BrokerError, FaultCode, ReplyQueue, RequestQueue, RunningServer, Server, service};
use rpc_tests::asking::until_found;
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::ledger::{Book, LedgerServer, client, outcome};
use rpc_tests::log::Log;
use rpc_tests::proxy::{Direction, Proxy, Target};
use rpc_tests::rabbit::{Permissions, Vhost, shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde_json::Value;
use tracing::Level;

const EXCHANGE: &str = "rpc.control";

/// The window of a search that misses nobody, although the machine is busy.
const PATIENT: Duration = Duration::from_secs(3);

/// The routing key of discovery requests.
const KEY: &str = "rpc.discovery";

#[service]
trait Shop {
    #[rpc(idempotent)]
    async fn look(&self, what: &str) -> String;
}

struct Counter;

impl Shop for Counter {
    async fn look(&self, what: &str) -> String {
        what.to_owned()
    }
}

on_both_brokers! {
    workers_are_found_with_all_that_they_serve,
    a_stopped_worker_is_no_longer_found,
    a_busy_worker_is_found,
    a_worker_without_self_description_is_not_found,
    discovery_without_permission_is_an_error,
    no_more_is_collected_than_is_wanted,
    discovery_works_with_every_kind_of_reply_queue,
}

/// Starts a worker, and waits until it can be found.
async fn open_shop(broker: &Broker, queue: &str) -> RunningServer {
    let name = unique("shop");
    let server = Server::new(broker).worker_name(name.as_str());
    let server = server.serve_on(RequestQueue::new(queue), ShopServer::new(Counter));
    let server = server.start().await.unwrap();
    until_found(broker, queue, |worker| {
        worker.name.as_deref() == Some(name.as_str())
    })
    .await;
    server
}

/// Starts a worker that cannot be found, or cannot search.
async fn open_hidden_shop(broker: &Broker, queue: &str) -> RunningServer {
    let server = Server::new(broker).serve_on(RequestQueue::new(queue), ShopServer::new(Counter));
    server.start().await.unwrap()
}

/// Looks for all workers that serve one of these queues.
async fn look_for(broker: &Broker, queues: &[&str]) -> Vec<WorkerDescription> {
    let found = soon("the search ends", broker.discover().services())
        .await
        .unwrap();
    on_queues(found, queues)
}

/// Looks for all workers that serve one of these queues until so many answer, and never more. On a
/// busy machine, one may answer too late.
async fn find(broker: &Broker, queues: &[&str], workers: usize) -> Vec<WorkerDescription> {
    let mut found = Vec::new();
    until("the workers are found", SOON, async || {
        found = look_for(broker, queues).await;
        assert!(found.len() <= workers, "{found:?}");
        Ok(found.len() == workers)
    })
    .await
    .unwrap();
    found
}

fn on_queues(found: Discovered<WorkerDescription>, queues: &[&str]) -> Vec<WorkerDescription> {
    let is_ours = |worker: &WorkerDescription| {
        let mut served = worker.queues.iter();
        served.any(|queue| queues.contains(&queue.queue.as_str()))
    };
    let mut workers = found.workers;
    workers.retain(is_ours);
    workers
}

async fn workers_are_found_with_all_that_they_serve(world: World) {
    let (shop, ledger) = (unique("shop"), unique("ledger"));
    let broker = world.broker().await;
    // Handles, and so connections, of their own.
    let mut servers = Vec::new();
    for name in ["one", "two"] {
        let server = Server::new(&world.broker().await)
            .worker_name(name)
            .serve_on(RequestQueue::new(&shop), ShopServer::new(Counter));
        servers.push(server.start().await.unwrap());
    }
    let both = Server::new(&broker)
        .worker_name("three")
        .serve_on(RequestQueue::new(&shop), ShopServer::new(Counter))
        .serve_on(
            RequestQueue::new(&ledger),
            LedgerServer::new(Book::behind(Gate::open())),
        );
    servers.push(both.start().await.unwrap());

    find(&broker, &[&shop], 3).await;
    let found = broker.discover().window(PATIENT).timeout(SOON).services();
    let found = soon("the search ends", found).await.unwrap();
    assert!(found.is_complete);
    let services = found.services();
    let at = |queue: &str| services.iter().find(|service| service.queue == queue).unwrap();
    let names = |queue: &str| {
        let mut names: Vec<_> = at(queue)
            .workers
            .iter()
            .map(|worker| worker.name.as_deref().unwrap())
            .collect();
        names.sort_unstable();
        names
    };
    assert_eq!(
        (at(&shop).name, names(&shop)),
        ("Shop", vec!["one", "three", "two"])
    );
    assert_eq!((at(&ledger).name, names(&ledger)), ("Ledger", vec!["three"]));
    let [description] = &at(&shop).descriptions[..] else {
        panic!("they are alike: {:?}", at(&shop).descriptions);
    };
    assert_eq!(description.methods[0].signature(), "look(what: &str) -> String");

    let ours = on_queues(found.clone(), &[&shop]);
    let queues_of = |name: &str| {
        let worker = ours
            .iter()
            .find(|found| found.worker.name.as_deref() == Some(name));
        let queues = worker.unwrap().queues.iter();
        queues.map(|queue| queue.queue.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(queues_of("one"), [&shop]);
    assert_eq!(queues_of("three"), [&shop, &ledger]);

    // The other questions are answered by the same workers.
    ShopClient::builder(&broker)
        .queue(&shop)
        .build()
        .look("bread")
        .await
        .unwrap();
    let stats = broker.discover().window(PATIENT).timeout(SOON).stats();
    let stats = soon("the search ends", stats).await.unwrap();
    let served: u64 = stats
        .workers
        .iter()
        .flat_map(|worker| &worker.queues)
        .filter(|queue| queue.queue == shop)
        .map(|queue| queue.methods[0].calls)
        .sum();
    assert_eq!(served, 1);
    let workers = broker.discover().window(PATIENT).timeout(SOON).workers();
    let workers = soon("the search ends", workers).await.unwrap();
    let is_there = |worker: &Worker| workers.workers.iter().any(|other| other.id == worker.id);
    assert!(ours.iter().all(|found| is_there(&found.worker)));
    for server in servers {
        server.stop().await.unwrap();
    }
}

async fn a_stopped_worker_is_no_longer_found(world: World) {
    let queue = unique("shop");
    let broker = world.broker().await;
    assert_eq!(look_for(&broker, &[&queue]).await, []);
    let first = open_shop(&broker, &queue).await;
    let second = open_shop(&world.broker().await, &queue).await;
    find(&broker, &[&queue], 2).await;
    soon("it stops", second.stop()).await.unwrap();
    find(&broker, &[&queue], 1).await;
    // One that is dropped goes as well, a moment later.
    drop(first);
    until("it is gone", SOON, async || {
        Ok(look_for(&broker, &[&queue]).await.is_empty())
    })
    .await
    .unwrap();
}

async fn a_busy_worker_is_found(world: World) {
    let queue = unique("ledger");
    let broker = world.broker().await;
    let gate = Gate::closed();
    let server = Server::new(&broker)
        .concurrency(1)
        .serve_on(
            RequestQueue::new(&queue),
            LedgerServer::new(Book::behind(gate.clone())),
        )
        .start()
        .await
        .unwrap();
    let ledger = client(&broker, &queue);
    let writes: Vec<_> = ["a", "b"].map(|entry| tokio::spawn(ledger.write(entry))).into();
    gate.began(1).await;
    let found = find(&broker, &[&queue], 1).await;
    let stats = broker.discover().window(PATIENT).timeout(SOON).stats();
    let stats = soon("the search ends", stats).await.unwrap();
    let stats = stats
        .workers
        .into_iter()
        .find(|worker| worker.worker.id == found[0].worker.id)
        .unwrap();
    let write = stats.method("Ledger", "write").unwrap();
    assert_eq!((write.calls, write.in_flight), (0, 1));
    gate.let_all_go();
    for write in writes {
        outcome(write).await.unwrap();
    }
    server.stop().await.unwrap();
}

async fn a_worker_without_self_description_is_not_found(world: World) {
    let (queue, silent) = (unique("shop"), unique("shop"));
    let broker = world.broker().await;
    let server = Server::new(&broker)
        .self_description(false)
        .serve_on(RequestQueue::new(&silent), ShopServer::new(Counter))
        .start()
        .await
        .unwrap();
    let found = open_shop(&broker, &queue).await;
    let workers = find(&broker, &[&queue, &silent], 1).await;
    assert_eq!(workers[0].queues[0].queue, queue);
    found.stop().await.unwrap();
    server.stop().await.unwrap();
}

async fn discovery_without_permission_is_an_error(world: World) {
    let queue = unique("shop");
    let broker = world.broker_with(Broker::builder().send_user_id(true)).await;
    let rules = Authorize::new()
        .allow("guest", ["rpc.describe"])
        .allow_everybody(["rpc.ping"]);
    let server = Server::new(&broker)
        .layer(rules)
        .serve_on(RequestQueue::new(&queue), ShopServer::new(Counter))
        .start()
        .await
        .unwrap();
    find(&broker, &[&queue], 1).await;
    let nobody = world.broker().await;
    let refused = nobody.discover().window(PATIENT).timeout(SOON).services();
    let refused = soon("the search ends", refused).await.unwrap();
    let is_refused = |code: &FaultCode| *code == FaultCode::Unauthorized;
    assert!(
        refused.refusals.iter().any(|fault| is_refused(&fault.code)),
        "{refused:?}"
    );
    assert_eq!(on_queues(refused, &[&queue]), []);
    let pinged = nobody.discover().window(PATIENT).timeout(SOON).workers();
    let pinged = soon("the search ends", pinged).await.unwrap();
    assert!(!pinged.workers.is_empty());
    server.stop().await.unwrap();
}

async fn no_more_is_collected_than_is_wanted(world: World) {
    let broker = world.broker().await;
    let queue = unique("shop");
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(open_shop(&broker, &queue).await);
    }
    let few = broker
        .discover()
        .window(SOON)
        .timeout(SOON)
        .max_workers(2)
        .services();
    let few = soon("the search ends", few).await.unwrap();
    assert_eq!((few.workers.len(), few.is_complete), (2, false));
    // However patient the search is, it ends with as many.
    let patient = broker.discover().max_workers(2);
    let patient = patient.window(Duration::MAX).timeout(Duration::MAX).workers();
    let patient = soon("the search ends", patient).await.unwrap();
    assert_eq!((patient.workers.len(), patient.is_complete), (2, false));
    // A timeout shorter than the window ends the search early.
    let timeout = Duration::from_secs(3);
    let brief = broker.discover().window(SOON).timeout(timeout).services();
    let brief = soon("the search ends", brief).await.unwrap();
    assert!(!brief.is_complete);
    for server in servers {
        server.stop().await.unwrap();
    }
}

async fn discovery_works_with_every_kind_of_reply_queue(world: World) {
    let queue = unique("shop");
    let server = open_shop(&world.broker().await, &queue).await;
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let broker = world.broker_with(Broker::builder().reply_queue(replies)).await;
        let shop = ShopClient::builder(&broker).queue(&queue).build();
        // Calls go on beside the search.
        let ours = [queue.as_str()];
        let (found, calls) = tokio::join!(find(&broker, &ours, 1), async {
            for _ in 0..50 {
                soon("it is answered", shop.look("bread")).await.unwrap();
            }
        });
        assert_eq!((found.len(), calls), (1, ()), "{replies:?}");
        broker.close().await;
        assert!(matches!(
            broker.discover().services().await,
            Err(BrokerError::Closed)
        ));
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn discovery_without_an_exchange_returns_at_once() {
    let vhost = Vhost::new().await;
    let in_process = World::in_process().broker().await;
    for broker in [Broker::connect(&vhost.url()).await.unwrap(), in_process] {
        let patient = broker.discover().window(SOON * 10).timeout(SOON * 10).services();
        let found = soon("the search ends at once", patient).await.unwrap();
        assert!(found.workers.is_empty() && found.is_complete);
    }
    // Nor where those who did are gone: the exchange is left.
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = open_shop(&broker, "shop").await;
    find(&broker, &["shop"], 1).await;
    server.stop().await.unwrap();
    let patient = broker.discover().window(SOON * 10).timeout(SOON * 10).services();
    let found = soon("the search ends at once", patient).await.unwrap();
    assert!(found.workers.is_empty() && found.is_complete);
    assert_eq!(vhost.all_queues(&["name"]).await, ["shop"]);
}

#[tokio::test]
async fn a_search_that_is_given_up_leaves_no_queue_behind() {
    /// As long as the frames that open a channel and declare the queue; longer than the first of
    /// them and a heartbeat.
    const DECLARED: u64 = 13 + 20;

    let vhost = Vhost::new().await;
    let proxy = Proxy::start(&vhost.url()).await.unwrap();
    let broker = Broker::connect(proxy.url()).await.unwrap();
    let consuming = Target::Named("rpc consume");
    // Time to see what is asked before it is answered.
    let slow = proxy.delay(consuming, Direction::FromBroker, Duration::from_secs(3));
    let before = proxy.counts(consuming).to_broker;
    let search = tokio::spawn(broker.discover().workers());
    until("the queue is declared", SOON, async || {
        Ok(proxy.counts(consuming).to_broker >= before + DECLARED)
    })
    .await
    .unwrap();
    let silence = proxy.black_hole(consuming, Direction::FromBroker);
    search.abort();
    assert!(search.await.unwrap_err().is_cancelled());
    until("it is there, and nobody consumes from it", SOON, async || {
        let queues = vhost.all_queues(&["name", "consumers"]).await;
        Ok(queues.len() == 1 && queues[0].starts_with("amq.gen-") && queues[0].ends_with("\t0"))
    })
    .await
    .unwrap();
    drop((slow, silence));
    until("it is gone", SOON, async || {
        Ok(vhost.all_queues(&["name"]).await.is_empty())
    })
    .await
    .unwrap();
    broker.close().await;
}

/// Binds a queue to the exchange that is full: the broker refuses what is sent to the exchange, as
/// RabbitMQ 4.3 does for a moment after a worker's connection vanished.
async fn bind_full_queue(peer: &RawPeer) -> String {
    let queue = unique("full");
    let channel = peer.channel();
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let options = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.as_str().into(), options, arguments)
        .await
        .unwrap();
    let (name, exchange) = (queue.as_str().into(), EXCHANGE.into());
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    channel
        .queue_bind(name, exchange, KEY.into(), options, arguments)
        .await
        .unwrap();
    peer.publish(&queue, BasicProperties::default(), b"")
        .await
        .unwrap();
    queue
}

#[tokio::test]
async fn a_question_that_the_broker_refuses_for_a_moment_is_asked_again() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = open_shop(&broker, "shop").await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    // On a busy machine, the moment may be longer than the search goes on asking.
    until(
        "the worker is found and nobody is missing",
        2 * SOON,
        async || {
            let full = bind_full_queue(&peer).await;
            let search = broker.discover().window(PATIENT).timeout(SOON);
            let looking = tokio::spawn(search.workers());
            tokio::time::sleep(Duration::from_millis(500)).await;
            let deleting = peer.channel().queue_delete(full.into(), Default::default());
            deleting.await?;
            let found = soon("the search ends", looking).await?;
            Ok(found.is_ok_and(|found| (found.workers.len(), found.is_complete) == (1, true)))
        },
    )
    .await
    .unwrap();

    // A queue that stays full hides nobody else.
    bind_full_queue(&peer).await;
    let found = broker.discover().window(PATIENT).timeout(SOON).workers();
    let found = soon("the search ends", found).await.unwrap();
    assert_eq!((found.workers.len(), found.is_complete), (1, false));
    server.stop().await.unwrap();
    let refused = soon("the search ends", broker.discover().workers()).await;
    assert!(
        matches!(refused, Err(BrokerError::Exchange { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_queue_that_a_worker_listens_on_cannot_pile_up() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = open_shop(&broker, "shop").await;
    let queues = vhost
        .all_queues(&["name", "exclusive", "auto_delete", "arguments"])
        .await;
    let listening: Vec<_> = queues
        .iter()
        .filter(|queue| queue.starts_with("rpc.control."))
        .collect();
    let [queue] = listening[..] else {
        panic!("{queues:?}");
    };
    let (_, terms) = queue.split_once('\t').unwrap();
    assert!(terms.starts_with("true\ttrue\t"), "{terms}");
    for limit in [
        r#"{"x-message-ttl",60000}"#,
        r#"{"x-max-length",1024}"#,
        r#"{"x-max-length-bytes",8388608}"#,
    ] {
        assert!(terms.contains(limit), "{terms}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_is_found_again_after_a_lost_connection() {
    let queue = unique("shop");
    let proxy = Proxy::start(shared().await).await.unwrap();
    let broker = Broker::connect(proxy.url()).await.unwrap();
    let server = open_shop(&broker, &queue).await;
    let seeker = World::RabbitMq.broker().await;
    let before = find(&seeker, &[&queue], 1).await;
    for connections in [
        Target::Named("rpc consume"),
        Target::Named("rpc publish"),
        Target::All,
    ] {
        assert!(proxy.reset(connections).await > 0);
        until("it is found again", SOON, async || {
            let found = look_for(&seeker, &[&queue]).await;
            // Never twice, though the broker may not have noticed yet.
            assert!(found.len() <= 1, "{found:?}");
            Ok(found.iter().any(|found| found.worker.id == before[0].worker.id))
        })
        .await
        .unwrap();
        // And it finds others, or itself.
        until("it finds itself", SOON, async || {
            Ok(look_for(&broker, &[&queue]).await.len() == 1)
        })
        .await
        .unwrap();
    }
    server.stop().await.unwrap();
}

/// A worker that serves and calls, and no more; see the table in `docs/production.md`.
const UNSEEN: Permissions<'_> = Permissions {
    configure: "^(shop([.]batch)?$|rpc[.]reply[.])",
    write: "^amq[.]default$",
    read: "^(shop([.]batch)?$|rpc[.]reply[.])",
};

/// A worker that can be found as well.
const SEEN: Permissions<'_> = Permissions {
    configure: "^(shop([.]batch)?$|rpc[.]control([.]|$))",
    write: "^(amq[.]default$|rpc[.]control[.])",
    read: "^(shop([.]batch)?$|rpc[.]control([.]|$))",
};

/// A worker that can be found where somebody else has declared the exchange.
const SEEN_ONCE_DECLARED: Permissions<'_> = Permissions {
    configure: "^(shop([.]batch)?$|rpc[.]control[.])",
    ..SEEN
};

/// Who looks for workers, and no more.
const SEEKER: Permissions<'_> = Permissions {
    configure: "^amq[.]gen-",
    write: "^rpc[.]control$",
    read: "^amq[.]gen-",
};

async fn handle_of(vhost: &Vhost, may: Permissions<'_>) -> Broker {
    Broker::connect(&vhost.url_of_user(may).await).await.unwrap()
}

#[tokio::test]
async fn a_worker_without_discovery_permissions_serves_and_logs_what_it_lacks() {
    let (log, _guard) = Log::start(Level::INFO);
    let vhost = Vhost::new().await;
    let broker = handle_of(&vhost, UNSEEN).await;
    let server = soon("it starts", open_hidden_shop(&broker, "shop")).await;
    let shop = ShopClient::builder(&broker).queue("shop").build();
    assert_eq!(soon("it serves", shop.look("bread")).await.unwrap(), "bread");
    let asked = WorkerClient::new(&broker, "shop").ping().await.unwrap();
    assert_eq!(asked.pid, std::process::id());
    assert_lacks(&log, "permission on queues rpc.control.*").await;
    // Nor does anything else of the handle suffer.
    assert_eq!(shop.look("bread").await.unwrap(), "bread");
    server.stop().await.unwrap();
}

/// One line says so, and why.
async fn assert_lacks(log: &Log, what: &str) {
    let lines = || log.lines_about("serving without broadcasts and discovery");
    until("it says so", SOON, async || Ok(!lines().is_empty()))
        .await
        .unwrap();
    let lines = lines();
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert!(line.contains("INFO") && line.contains("ACCESS_REFUSED"), "{line}");
    assert!(line.contains(what), "{line}");
}

#[tokio::test]
async fn a_worker_that_may_not_bind_its_discovery_queue_leaves_none_behind() {
    let (log, _guard) = Log::start(Level::INFO);
    let vhost = Vhost::new().await;
    let may = Permissions {
        read: UNSEEN.read,
        ..SEEN
    };
    let server = open_hidden_shop(&handle_of(&vhost, may).await, "shop").await;
    assert_lacks(&log, "read permission on the exchange rpc.control").await;
    until("no queue is left", SOON, async || {
        let queues = vhost.all_queues(&["name"]).await;
        Ok(queues == ["shop", "shop.batch"])
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_finds_the_exchange_is_not_told_to_declare_it() {
    let (log, _guard) = Log::start(Level::INFO);
    let vhost = Vhost::new().await;
    let first = open_hidden_shop(&handle_of(&vhost, SEEN).await, "shop").await;
    let may = Permissions {
        read: UNSEEN.read,
        ..SEEN_ONCE_DECLARED
    };
    let server = open_hidden_shop(&handle_of(&vhost, may).await, "shop").await;
    assert_lacks(&log, "read permission on the exchange rpc.control").await;
    server.stop().await.unwrap();
    first.stop().await.unwrap();
}

#[tokio::test]
async fn the_least_permissions_are_enough_to_find_and_to_be_found() {
    let (log, _guard) = Log::start(Level::INFO);
    let vhost = Vhost::new().await;
    let seeker = handle_of(&vhost, SEEKER).await;
    assert_eq!(look_for(&seeker, &["shop"]).await, []);
    let early = open_hidden_shop(&handle_of(&vhost, SEEN_ONCE_DECLARED).await, "shop").await;
    assert_lacks(&log, "configure permission on the exchange rpc.control").await;
    assert_eq!(look_for(&seeker, &["shop"]).await, []);
    let seen = open_hidden_shop(&handle_of(&vhost, SEEN).await, "shop").await;
    let late = open_hidden_shop(&handle_of(&vhost, SEEN_ONCE_DECLARED).await, "shop").await;
    find(&seeker, &["shop"], 2).await;

    let no_seeker = Permissions {
        write: "^amq[.]default$",
        ..SEEKER
    };
    let no_seeker = handle_of(&vhost, no_seeker).await;
    let refused = soon("the search ends", no_seeker.discover().services())
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, BrokerError::Exchange { exchange, action: "publish to", .. } if exchange == EXCHANGE),
        "{refused:?}"
    );
    for server in [early, seen, late] {
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn an_exchange_of_another_kind_keeps_no_worker_from_serving() {
    let vhost = Vhost::new().await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    let declared = peer.channel().exchange_declare(
        EXCHANGE.into(),
        ExchangeKind::Fanout,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    declared.await.unwrap();
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = soon("it starts", open_hidden_shop(&broker, "shop")).await;
    let shop = ShopClient::builder(&broker).queue("shop").build();
    assert_eq!(shop.look("bread").await.unwrap(), "bread");
    server.stop().await.unwrap();
}

/// A peer that asks all workers, without this library.
struct Stranger {
    peer: RawPeer,
    reply_to: String,
}

impl Stranger {
    async fn in_vhost(vhost: &Vhost) -> Self {
        let peer = RawPeer::connect(&vhost.url()).await.unwrap();
        let reply_to = peer.declare_exclusive().await.unwrap();
        Self { peer, reply_to }
    }

    async fn send(&self, properties: BasicProperties, body: &[u8]) {
        let confirm = self.peer.channel().basic_publish(
            EXCHANGE.into(),
            KEY.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        );
        assert!(confirm.await.unwrap().await.unwrap().is_ack());
    }

    fn question(&self, method: &str) -> BasicProperties {
        BasicProperties::default()
            .with_type(method.into())
            .with_reply_to(self.reply_to.as_str().into())
            .with_correlation_id("7".into())
    }
}

#[tokio::test]
async fn peers_in_other_languages_can_ask_all_workers() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = open_shop(&broker, "shop").await;
    let stranger = Stranger::in_vhost(&vhost).await;
    let mut replies = stranger.peer.consume(&stranger.reply_to).await.unwrap();

    let json = stranger
        .question("rpc.describe")
        .with_content_type("application/json".into());
    stranger.send(json, b"").await;
    let reply = next(&mut replies, SOON).await.unwrap().expect("a reply");
    assert_eq!(reply.properties.correlation_id().as_ref().unwrap().as_str(), "7");
    let described: Value = serde_json::from_slice(&reply.data).unwrap();
    assert_eq!(described["worker"]["pid"], std::process::id());
    assert_eq!(described["queues"][0]["queue"], "shop");
    assert_eq!(described["queues"][0]["services"][0]["name"], "Shop");

    stranger.send(stranger.question("rpc.ping"), b"anybody?").await;
    let reply = next(&mut replies, SOON).await.unwrap().expect("a reply");
    let text = String::from_utf8(reply.data).unwrap();
    assert!(text.starts_with("worker "), "{text}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn foreign_discovery_messages_affect_no_worker() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = open_shop(&broker, "shop").await;
    let stranger = Stranger::in_vhost(&vhost).await;
    stranger.peer.declare_durable("payments").await.unwrap();

    let nothing = BasicProperties::default();
    for properties in [
        nothing.clone(),
        stranger.question("look"),
        stranger.question("rpc.shutdown"),
        stranger
            .question("rpc.batch")
            .with_content_type("application/msgpack".into()),
        stranger
            .question("rpc.ping")
            .with_content_type("image/png".into()),
        stranger.question("rpc.ping").with_reply_to("payments".into()),
        stranger
            .question("rpc.ping")
            .with_reply_to("amq.rabbitmq.reply-to.nonsense".into()),
        stranger.question("rpc.ping").with_expiration("0".into()),
    ] {
        stranger.send(properties.clone(), b"\xc1").await;
        stranger.send(properties, &vec![0xdd; 2 * 1024 * 1024]).await;
    }
    // A flood, most of which the queue drops.
    for _ in 0..2000 {
        stranger.send(nothing.clone(), &[0; 1000]).await;
    }
    let shop = ShopClient::builder(&broker).queue("shop").build();
    assert_eq!(soon("it serves", shop.look("bread")).await.unwrap(), "bread");
    until("it is found", SOON, async || {
        Ok(look_for(&broker, &["shop"]).await.len() == 1)
    })
    .await
    .unwrap();
    assert_eq!(stranger.peer.queue_depth("payments").await.unwrap(), Some(0));
    server.stop().await.unwrap();
}
