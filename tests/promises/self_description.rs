//! Workers say what they are and what they serve: to who asks on a service's queue, and to who asks
//! all of them.

use std::time::Duration;

use lapin::BasicProperties;
use rpc_runtime::describe::MethodDescription;
use rpc_runtime::discovery::{WorkerClient, WorkerStats};
use rpc_runtime::middleware::Authorize;
use rpc_runtime::{
    Answer, Broker, CallError, Codec, Fault, FaultCode, Invocation, MethodDescriptor, RequestQueue,
    RunningServer, Server, ServerError, Service, ServiceDescriptor, service,
};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::ledger::{Book, LedgerServer, client, fault, outcome};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SoldOut;

/// Sells.
#[service]
trait Shop {
    /// Looks for something.
    #[rpc(default, idempotent)]
    async fn look(&self, what: &str) -> String;
    async fn buy(&self, what: &str) -> Result<u32, SoldOut>;
}

struct Counter;

impl Shop for Counter {
    async fn look(&self, what: &str) -> String {
        what.to_owned()
    }

    async fn buy(&self, what: &str) -> Result<u32, SoldOut> {
        match what {
            "bread" => Ok(3),
            "a ghost" => panic!("boo"),
            _ => Err(SoldOut),
        }
    }
}

on_both_brokers! {
    a_worker_describes_itself,
    a_queue_describes_its_services,
    a_worker_counts_the_methods_it_ran,
    calls_that_leave_together_are_counted_each,
    a_worker_tells_of_overload,
    built_in_methods_can_be_turned_off,
    built_in_methods_are_authorized,
    names_of_built_in_methods_are_taken,
}

fn on(queue: &str) -> RequestQueue {
    RequestQueue::new(queue)
}

/// A worker of a shop on this queue.
async fn open_shop(broker: &Broker, queue: &str) -> RunningServer {
    let server = Server::new(broker).serve_on(on(queue), ShopServer::new(Counter));
    server.start().await.unwrap()
}

async fn a_worker_describes_itself(world: World) {
    let queue = unique("shop");
    let broker = world.broker_with(Broker::builder().app_id("market")).await;
    let server = Server::new(&broker)
        .worker_name("till 3")
        .version("2.3.1")
        .serve_on(on(&queue), ShopServer::new(Counter))
        .start()
        .await
        .unwrap();
    for codec in [Codec::MessagePack, Codec::Json] {
        let asked = WorkerClient::builder(&broker, &queue).codec(codec).build();
        let worker = soon("an answer", asked.ping()).await.unwrap();
        assert_eq!(worker.name.as_deref(), Some("till 3"));
        assert_eq!(worker.app_id.as_deref(), Some("market"));
        assert_eq!(worker.pid, std::process::id());
        assert_eq!(worker.version.as_deref(), Some("2.3.1"));
        assert_eq!(worker.runtime_version, env!("CARGO_PKG_VERSION"));
        assert_eq!(worker.id, asked.ping().await.unwrap().id);
        assert!(worker.uptime() < SOON);
    }
    // Another server is another worker, on the same queue in the same process.
    let first = WorkerClient::new(&broker, &queue).ping().await.unwrap();
    soon("it stops", server.stop()).await.unwrap();
    let server = open_shop(&broker, &queue).await;
    let second = WorkerClient::new(&broker, &queue).ping().await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!((second.name, second.version), (None, None));
    server.stop().await.unwrap();
}

async fn a_queue_describes_its_services(world: World) {
    let (queue, other) = (unique("shop"), unique("ledger"));
    let broker = world.broker().await;
    let server = Server::new(&broker)
        .serve_on(on(&queue), ShopServer::new(Counter))
        .serve_on(on(&other), LedgerServer::new(Book::behind(Gate::open())))
        .start()
        .await
        .unwrap();
    for codec in [Codec::MessagePack, Codec::Json] {
        let asked = WorkerClient::builder(&broker, &queue).codec(codec).build();
        let described = soon("an answer", asked.describe()).await.unwrap();
        // Who said so, and of no other queue.
        assert_eq!(described.worker.id, asked.ping().await.unwrap().id);
        assert_eq!(described.queues.len(), 1);
        assert_eq!(described.queues[0].queue, queue);
        let [shop] = &described.queues[0].services[..] else {
            panic!("{described:?}");
        };
        assert_eq!((shop.name.as_str(), shop.docs.as_str()), ("Shop", "Sells."));
        // Where it is served, and not where its trait says.
        assert_eq!(shop.queue, queue);
        let signatures: Vec<_> = shop.methods.iter().map(MethodDescription::signature).collect();
        assert_eq!(
            signatures,
            [
                "look(what: &str) -> String",
                "buy(what: &str) -> Result<u32, SoldOut>"
            ]
        );
        assert!(shop.method("look").unwrap().is_idempotent);
    }
    let described = WorkerClient::new(&broker, &other).describe().await.unwrap();
    let names: Vec<_> = described.services().map(|service| &service.name).collect();
    assert_eq!(names, ["Ledger"]);
    server.stop().await.unwrap();
}

/// Calls, failures, and those in flight.
fn counts(stats: &WorkerStats, service: &str, method: &str) -> (u64, u64, u64) {
    let stats = stats.method(service, method).unwrap();
    (stats.calls, stats.failures, stats.in_flight)
}

async fn a_worker_counts_the_methods_it_ran(world: World) {
    let queue = unique("shop");
    let broker = world.broker().await;
    let gate = Gate::closed();
    let server = Server::new(&broker)
        .serve_on(on(&queue), ShopServer::new(Counter))
        .serve_on(on(&queue), LedgerServer::new(Book::behind(gate.clone())))
        .start()
        .await
        .unwrap();
    let asked = WorkerClient::new(&broker, &queue);
    let shop = ShopClient::builder(&broker).queue(&queue).build();
    assert_eq!(shop.buy("bread").await.unwrap(), 3);
    assert!(matches!(
        shop.buy("caviar").await.unwrap_err(),
        CallError::Service(SoldOut)
    ));
    let panicked = match shop.buy("a ghost").await.unwrap_err() {
        CallError::Fault(fault) => fault,
        error => panic!("{error:?}"),
    };
    assert_eq!(panicked.code, FaultCode::Panicked);
    let ledger = client(&broker, &queue);
    let writes: Vec<_> = ["a", "b"].map(|entry| tokio::spawn(ledger.write(entry))).into();
    gate.began(2).await;

    let stats = soon("an answer", asked.stats()).await.unwrap();
    assert_eq!(stats.queues.len(), 1);
    assert_eq!(stats.queues[0].queue, queue);
    assert_eq!(counts(&stats, "Shop", "look"), (0, 0, 0));
    assert_eq!(counts(&stats, "Shop", "buy"), (3, 2, 0));
    assert_eq!(counts(&stats, "Ledger", "write"), (0, 0, 2));
    let buy = stats.method("Shop", "buy").unwrap();
    assert!(buy.mean() > Duration::ZERO && buy.p99() >= buy.mean(), "{buy:?}");
    let counted: u64 = buy.durations.iter().map(|(_, count)| count).sum();
    assert_eq!((counted, buy.durations.last().unwrap().0), (3, buy.p99_ns));
    assert_eq!(stats.worker.id, asked.ping().await.unwrap().id);

    gate.let_all_go();
    for write in writes {
        outcome(write).await.unwrap();
    }
    let stats = asked.stats().await.unwrap();
    assert_eq!(counts(&stats, "Ledger", "write"), (2, 0, 0));
    // What is built in is not counted, and was asked often.
    assert!(stats.queues[0].methods.iter().all(|stats| stats.service != "rpc"));
    server.stop().await.unwrap();
}

async fn calls_that_leave_together_are_counted_each(world: World) {
    let queue = unique("shop");
    let broker = world.broker().await;
    let server = open_shop(&broker, &queue).await;
    let shop = ShopClient::builder(&broker).queue(&queue).build();
    let calls: Vec<_> = (0..300).map(|_| tokio::spawn(shop.look("bread"))).collect();
    for call in calls {
        soon("it is answered", call).await.unwrap().unwrap();
    }
    let stats = WorkerClient::new(&broker, &queue).stats().await.unwrap();
    assert_eq!(counts(&stats, "Shop", "look"), (300, 0, 0));
    server.stop().await.unwrap();
}

async fn a_worker_tells_of_overload(world: World) {
    let queue = unique("ledger");
    let broker = world.broker().await;
    let gate = Gate::closed();
    let server = Server::new(&broker)
        .concurrency(1)
        .serve_on(on(&queue), LedgerServer::new(Book::behind(gate.clone())))
        .start()
        .await
        .unwrap();
    // The queue itself is too busy to be asked.
    let stats = async || {
        let found = broker.discover().window(Duration::from_millis(50)).stats();
        let queues = found
            .await
            .unwrap()
            .workers
            .into_iter()
            .flat_map(|worker| worker.queues);
        queues.into_iter().find(|stats| stats.queue == queue)
    };
    let queue_time = async |least: Duration| {
        let waits = until("requests wait", SOON, async || {
            Ok(stats().await.is_some_and(|stats| stats.queue_time() >= least))
        });
        waits.await.unwrap();
    };
    let ledger = rpc_tests::ledger::LedgerClient::builder(&broker)
        .queue(&queue)
        .batching(false)
        .build();
    let held = Duration::from_secs(8);
    let first = tokio::spawn(ledger.write("a"));
    gate.began(1).await;
    let second = tokio::spawn(ledger.write("b"));
    queue_time(held).await;
    gate.let_go(1);
    outcome(first).await.unwrap();
    gate.began(1).await;
    let late = tokio::spawn(ledger.write("c").timeout(held + held / 2));
    tokio::time::sleep(held).await;
    gate.let_go(1);
    outcome(second).await.unwrap();
    // The method takes longer than its caller still waits.
    assert_eq!(fault(outcome(late).await).code, FaultCode::Expired);

    let mut told = None;
    until("the worker tells", SOON, async || {
        told = stats().await;
        Ok(told.is_some())
    })
    .await
    .unwrap();
    let told = told.unwrap();
    assert_eq!((told.admitted, told.shed), (2, 1));
    assert_eq!(told.methods.iter().map(|method| method.shed).sum::<u64>(), 1);
    until("no request waits", SOON, async || {
        Ok(stats().await.is_some_and(|stats| stats.queue_time_ns == 0))
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
}

async fn built_in_methods_can_be_turned_off(world: World) {
    let queue = unique("shop");
    let broker = world.broker().await;
    let server = Server::new(&broker)
        .self_description(false)
        .serve_on(on(&queue), ShopServer::new(Counter))
        .start()
        .await
        .unwrap();
    let asked = WorkerClient::new(&broker, &queue);
    assert_eq!(fault(asked.ping().await).code, FaultCode::UnknownMethod);
    assert_eq!(fault(asked.describe().await).code, FaultCode::UnknownMethod);
    assert_eq!(fault(asked.stats().await).code, FaultCode::UnknownMethod);
    server.stop().await.unwrap();
}

async fn built_in_methods_are_authorized(world: World) {
    let queue = unique("shop");
    let broker = world.broker_with(Broker::builder().send_user_id(true)).await;
    let rules = Authorize::new()
        .allow_everybody(["rpc.ping"])
        .allow("guest", ["rpc.describe"]);
    let server = Server::new(&broker)
        .layer(rules)
        .serve_on(on(&queue), ShopServer::new(Counter))
        .start()
        .await
        .unwrap();
    let asked = WorkerClient::new(&broker, &queue);
    asked.ping().await.unwrap();
    asked.describe().await.unwrap();
    assert_eq!(fault(asked.stats().await).code, FaultCode::Unauthorized);
    let nobody = world.broker().await;
    let asked = WorkerClient::new(&nobody, &queue);
    asked.ping().await.unwrap();
    assert_eq!(fault(asked.describe().await).code, FaultCode::Unauthorized);
    server.stop().await.unwrap();
}

async fn names_of_built_in_methods_are_taken(world: World) {
    struct Impostor;

    impl Service for Impostor {
        fn descriptor(&self) -> &'static ServiceDescriptor {
            static IMPOSTOR: ServiceDescriptor =
                ServiceDescriptor::new("Impostor", "q", &[MethodDescriptor::new("rpc.ping", &[])]);
            &IMPOSTOR
        }

        fn handle<'a>(
            &'a self,
            invocation: &'a Invocation,
        ) -> futures_util::future::BoxFuture<'a, Result<Answer, Fault>> {
            Box::pin(async { invocation.answer(()) })
        }
    }

    let broker = world.broker().await;
    let server = Server::new(&broker).serve_on(on(&unique("shop")), Impostor);
    let refused = server.start().await.unwrap_err();
    assert!(
        matches!(
            refused,
            ServerError::ReservedMethod {
                method: "rpc.ping",
                ..
            }
        ),
        "{refused:?}"
    );
}

/// Asks as a client of RabbitMQ's tutorial would: in plain text, whatever the body.
#[tokio::test]
async fn a_question_in_plain_text_gets_a_readable_answer() {
    let queue = unique("shop");
    let broker = World::RabbitMq.broker().await;
    let server = open_shop(&broker, &queue).await;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let reply_to = peer.declare_exclusive().await.unwrap();
    let mut replies = peer.consume(&reply_to).await.unwrap();
    let mut ask = async |method: &str| {
        let properties = BasicProperties::default()
            .with_type(method.into())
            .with_reply_to(reply_to.as_str().into());
        peer.publish(&queue, properties, b"hello?").await.unwrap();
        let reply = next(&mut replies, SOON).await.unwrap().expect("a reply");
        assert_eq!(reply.properties.kind().as_ref().unwrap().as_str(), "result");
        assert_eq!(
            reply.properties.content_type().as_ref().unwrap().as_str(),
            "text/plain"
        );
        String::from_utf8(reply.data).unwrap()
    };
    let ping = ask("rpc.ping").await;
    assert!(
        ping.starts_with("worker ") && ping.contains(&format!("process {}", std::process::id())),
        "{ping}"
    );
    let described = ask("rpc.describe").await;
    let (worker, services) = described.split_once('\n').unwrap();
    assert!(worker.starts_with("worker "), "{described}");
    assert_eq!(
        services,
        format!(
            "Shop on {queue}\n  look(what: &str) -> String [default] [idempotent]\n  buy(what: &str) -> Result<u32, SoldOut>"
        )
    );
    let stats = ask("rpc.stats").await;
    assert!(
        stats.contains(&format!("Shop.buy on {queue}: 0 calls, 0 errors, 0 faults")),
        "{stats}"
    );
    server.stop().await.unwrap();
}
