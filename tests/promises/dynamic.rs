//! A service that is known only by its description is called as one whose trait is at hand.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use rpc_runtime::describe::{MethodDescription, ServiceDescription};
use rpc_runtime::discovery::WorkerClient;
use rpc_runtime::middleware::OutgoingCall;
use rpc_runtime::{
    Broker, CallError, Chain, Codec, Context, DynamicClient, Executed, FaultCode, Incoming, MethodError,
    MethodKind, ReplyQueue, RequestQueue, RunningServer, Server, service,
};
use rpc_tests::gate::{Gate, soon};
use rpc_tests::ledger::{Book, serve};
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::world::World;
use rpc_tests::{on_both_brokers, until};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::util::MapRequestLayer;

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum Refusal {
    #[error("no {what} left")]
    SoldOut { what: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    price: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[service]
trait Shop {
    #[rpc(idempotent)]
    async fn look(&self, what: &str) -> String;
    async fn buy(&self, what: &str, count: Option<u32>) -> Result<Receipt, Refusal>;
    async fn weigh(&self, goods: &[u8]) -> Vec<u8>;
    async fn close(&self);
    async fn tenant(&self, #[rpc(context)] cx: &Context) -> Option<String>;
    #[rpc(oneway)]
    async fn leave_word(&self, what: &str);
    async fn sleep(&self);
    async fn unload(&self, floor: u8, goods: Incoming<String>) -> Result<Vec<String>, Refusal>;
    fn sell(&self, goods: Incoming<Vec<u8>>, stock: u128) -> impl Stream<Item = u128>;
}

#[derive(Clone)]
struct Keeper(Gate);

impl Shop for Keeper {
    async fn look(&self, what: &str) -> String {
        format!("a look at {what}")
    }

    async fn buy(&self, what: &str, count: Option<u32>) -> Result<Receipt, Refusal> {
        match what {
            "bread" => Ok(Receipt {
                price: 1.5 * f64::from(count.unwrap_or(1)),
                note: None,
            }),
            _ => Err(Refusal::SoldOut { what: what.into() }),
        }
    }

    async fn weigh(&self, goods: &[u8]) -> Vec<u8> {
        goods.iter().rev().copied().collect()
    }

    async fn close(&self) {}

    async fn tenant(&self, cx: &Context) -> Option<String> {
        cx.headers().get("tenant").map(str::to_owned)
    }

    async fn leave_word(&self, _: &str) {
        self.0.pass().await;
    }

    async fn sleep(&self) {
        self.0.pass().await;
    }

    async fn unload(&self, floor: u8, mut goods: Incoming<String>) -> Result<Vec<String>, Refusal> {
        let mut unloaded = Vec::new();
        while let Some(what) = goods.next().await {
            let what = what.map_err(|error| Refusal::SoldOut {
                what: error.to_string(),
            })?;
            if what.is_empty() {
                return Err(Refusal::SoldOut { what });
            }
            unloaded.push(format!("{floor}: {what}"));
        }
        Ok(unloaded)
    }

    fn sell(&self, goods: Incoming<Vec<u8>>, stock: u128) -> impl Stream<Item = u128> {
        goods.map(move |bytes| stock - bytes.unwrap().len() as u128)
    }
}

on_both_brokers! {
    a_described_method_is_called,
    undescribed_methods_are_refused_before_sending,
    options_are_those_of_all_clients,
    one_way_calls_end_with_the_brokers_word,
    many_calls_leave_together,
    layers_see_described_methods,
    items_are_sent_to_a_method_that_receives_a_stream,
}

/// A shop, and what it says of itself.
async fn open(broker: &Broker, gate: &Gate) -> (RunningServer, ServiceDescription) {
    let queue = unique("shop");
    let server = Server::new(broker)
        .serve_on(RequestQueue::new(&queue), ShopServer::new(Keeper(gate.clone())))
        .start()
        .await
        .unwrap();
    let described = WorkerClient::new(broker, &queue).describe().await.unwrap();
    (server, described.services().next().unwrap().clone())
}

async fn a_described_method_is_called(world: World) {
    let broker = world.broker().await;
    let (server, description) = open(&broker, &Gate::open()).await;
    for codec in [Codec::Json, Codec::MessagePack] {
        let shop = DynamicClient::builder(&broker, description.clone())
            .unwrap()
            .codec(codec)
            .build();
        let call = async |method: &str, arguments: Value| soon(method, shop.call(method, arguments)).await;
        assert_eq!(
            call("look", json!({"what": "bread"})).await.unwrap(),
            "a look at bread"
        );
        assert_eq!(call("look", json!(["bread"])).await.unwrap(), "a look at bread");
        assert_eq!(
            call("buy", json!({"what": "bread", "count": 2})).await.unwrap(),
            json!({"price": 3.0})
        );
        assert_eq!(
            call("buy", json!({"what": "bread"})).await.unwrap(),
            json!({"price": 1.5})
        );
        let refused = call("buy", json!({"what": "caviar"})).await.unwrap_err();
        assert_eq!(refused.executed(), Executed::Yes);
        let CallError::Service(refusal) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(refusal.to_string(), r#"{"SoldOut":{"what":"caviar"}}"#);
        assert_eq!(refusal.into_value(), json!({"SoldOut": {"what": "caviar"}}));
        assert_eq!(
            call("weigh", json!({"goods": [1, 2, 255]})).await.unwrap(),
            json!([255, 2, 1])
        );
        assert_eq!(call("close", json!(null)).await.unwrap(), Value::Null);
        // Any value that is a map will do.
        let arguments = std::collections::HashMap::from([("what", "bread")]);
        assert_eq!(shop.call("look", arguments).await.unwrap(), "a look at bread");
        assert_eq!(shop.call("close", ()).await.unwrap(), Value::Null);
        let missing = call("look", json!({})).await.unwrap_err();
        let CallError::Fault(fault) = missing else {
            panic!("{missing:?}");
        };
        assert_eq!(fault.code, FaultCode::BadRequest);
        assert!(fault.message.contains("what"), "{fault}");
    }
    let shop = DynamicClient::builder(&broker, description)
        .unwrap()
        .codec(Codec::Text)
        .build();
    assert_eq!(
        shop.call("look", json!({"what": "bread"})).await.unwrap(),
        "a look at bread"
    );
    server.stop().await.unwrap();
}

async fn undescribed_methods_are_refused_before_sending(world: World) {
    let broker = world.broker().await;
    let (server, mut description) = open(&broker, &Gate::open()).await;
    let shop = DynamicClient::new(&broker, description.clone()).unwrap();
    let unknown = shop.call("steal", ()).await.unwrap_err();
    assert!(
        matches!(&unknown, CallError::NotDescribed { method, .. } if method == "steal"),
        "{unknown:?}"
    );
    assert_eq!(unknown.executed(), Executed::No);
    for (arguments, why) in [
        (json!({"waht": "bread"}), "no argument \"waht\": it has what"),
        (json!(["bread", 1]), "2 arguments are too many"),
        (json!("bread"), "a map by name"),
    ] {
        let refused = shop.call("look", arguments).await.unwrap_err();
        let CallError::Encode(error) = &refused else {
            panic!("{refused:?}");
        };
        assert!(Chain(error).to_string().contains(why), "{}", Chain(error));
        assert_eq!(refused.executed(), Executed::No);
    }
    // A method that is described and not there is the worker's to refuse.
    description.methods.push(MethodDescription::new("steal"));
    let shop = DynamicClient::new(&broker, description).unwrap();
    let unknown = shop.call("steal", ()).await.unwrap_err();
    assert!(
        matches!(&unknown, CallError::Fault(fault) if fault.code == FaultCode::UnknownMethod),
        "{unknown:?}"
    );
    // And so is a queue.
    let nowhere = ServiceDescription::new("Shop", unique("nowhere"));
    let mut nowhere = nowhere;
    nowhere.methods.push(MethodDescription::new("look"));
    let nowhere = DynamicClient::new(&broker, nowhere).unwrap();
    let error = nowhere.call("look", ()).await.unwrap_err();
    assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
    server.stop().await.unwrap();
}

async fn options_are_those_of_all_clients(world: World) {
    let broker = world.broker().await;
    let gate = Gate::closed();
    let (server, mut description) = open(&broker, &gate).await;
    let shop = DynamicClient::new(&broker, description.clone()).unwrap();
    let tenant = shop.call("tenant", ()).header("tenant", "a").await.unwrap();
    assert_eq!(tenant, "a");
    assert_eq!(shop.call("tenant", ()).priority(3).await.unwrap(), Value::Null);
    let brief = Duration::from_millis(50);
    let is_of = |error: &CallError<MethodError>, told: Duration| matches!(error, CallError::TimedOut { limit, .. } if *limit == told);
    let late = soon("its time is up", shop.call("sleep", ()).timeout(brief))
        .await
        .unwrap_err();
    assert!(is_of(&late, brief), "{late:?}");
    // The description's time limit is the method's own.
    let sleep = description
        .methods
        .iter_mut()
        .find(|method| method.name == "sleep")
        .unwrap();
    sleep.timeout_ms = Some(60);
    let shop = DynamicClient::new(&broker, description.clone()).unwrap();
    let late = soon("its time is up", shop.call("sleep", ())).await.unwrap_err();
    assert!(is_of(&late, Duration::from_millis(60)), "{late:?}");
    // Another queue than the description's.
    let other = DynamicClient::builder(&broker, description)
        .unwrap()
        .queue(unique("nowhere"))
        .build();
    let error = other.call("look", ["bread"]).await.unwrap_err();
    assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
    gate.let_all_go();
    server.stop().await.unwrap();
}

async fn one_way_calls_end_with_the_brokers_word(world: World) {
    let broker = world.broker().await;
    let gate = Gate::closed();
    let (server, description) = open(&broker, &gate).await;
    let shop = DynamicClient::new(&broker, description).unwrap();
    let taken = soon("the broker takes it", shop.call("leave_word", ["hello"])).await;
    assert_eq!(taken.unwrap(), Value::Null);
    gate.began(1).await;
    gate.let_all_go();
    server.stop().await.unwrap();
}

async fn many_calls_leave_together(world: World) {
    let broker = world.broker().await;
    let (server, description) = open(&broker, &Gate::open()).await;
    let queue = description.queue.clone();
    let shop = DynamicClient::new(&broker, description).unwrap();
    let calls: Vec<_> = (0..500)
        .map(|number| {
            let shop = shop.clone();
            tokio::spawn(async move { (number, shop.call("look", [number.to_string()]).await) })
        })
        .collect();
    for call in calls {
        let (number, answer) = soon("it is answered", call).await.unwrap();
        assert_eq!(answer.unwrap(), format!("a look at {number}"));
    }
    let asked = WorkerClient::new(&broker, &queue);
    until("all are counted", rpc_tests::gate::SOON, async || {
        let stats = asked.stats().await?;
        Ok(stats.method("Shop", "look").unwrap().calls == 500)
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
}

async fn layers_see_described_methods(world: World) {
    let broker = world.broker().await;
    let (server, description) = open(&broker, &Gate::open()).await;
    let (seen, sees) = std::sync::mpsc::channel();
    let shop = DynamicClient::builder(&broker, description)
        .unwrap()
        .layer(MapRequestLayer::new(move |call: OutgoingCall| {
            let names = format!("{}/{}", call.service(), call.method());
            seen.send((names, call.is_idempotent())).unwrap();
            call
        }))
        .build();
    soon("it is answered", shop.call("look", ["bread"]))
        .await
        .unwrap();
    soon("it is answered", shop.call("close", ())).await.unwrap();
    let seen: Vec<_> = sees.try_iter().collect();
    assert_eq!(seen, [("Shop/look".into(), true), ("Shop/close".into(), false)]);
    server.stop().await.unwrap();
}

async fn items_are_sent_to_a_method_that_receives_a_stream(world: World) {
    let broker = world.broker().await;
    let (server, description) = open(&broker, &Gate::open()).await;
    for codec in [Codec::Json, Codec::MessagePack] {
        let shop = DynamicClient::builder(&broker, description.clone()).unwrap();
        let shop = shop.codec(codec).build();
        let unload = |goods: Vec<Value>| {
            let call = shop.call_with_items("unload", json!({"floor": 2}), stream::iter(goods));
            soon("it is answered", call)
        };
        let unloaded = unload(vec![json!("bread"), json!("jam")]).await.unwrap();
        assert_eq!(unloaded, json!(["2: bread", "2: jam"]), "{codec}");
        assert_eq!(unload(Vec::new()).await.unwrap(), json!([]), "{codec}");
        let Err(CallError::Service(error)) = unload(vec![json!("")]).await else {
            panic!("it is refused");
        };
        assert_eq!(*error.value(), json!({"SoldOut": {"what": ""}}));
        // What is no text is the method's to refuse.
        let unreadable = unload(vec![json!(7)]).await;
        assert!(matches!(unreadable, Err(CallError::Service(_))), "{unreadable:?}");

        // Items, arguments and results as text, with all their digits.
        let goods = stream::iter(["[1, 2]".to_owned(), "[]".to_owned()]);
        let arguments = format!("{{\"stock\": {}}}", u128::MAX);
        let sold = shop.stream_json_with_items("sell", &arguments, goods);
        let sold: Vec<_> = soon("they arrive", sold.map(Result::unwrap).collect()).await;
        let (one, other) = (u128::MAX - 2, u128::MAX);
        match codec {
            Codec::Json => assert_eq!(sold, [one.to_string(), other.to_string()]),
            _ => assert_eq!(sold, [format!("\"{one}\""), format!("\"{other}\"")]),
        }
        let goods = stream::iter(["[1, 2]".to_owned(), "[1, 2".to_owned()]);
        let broken = shop.stream_json_with_items("sell", "[7]", goods);
        let broken: Vec<_> = soon("they arrive", broken.collect()).await;
        assert!(
            matches!(broken.last(), Some(Err(CallError::BadItem { .. }))),
            "{broken:?}"
        );
        let goods = stream::iter([json!([1]), json!([1, 2])]);
        let sold = shop.stream_with_items("sell", json!({"stock": 7}), goods);
        let sold: Vec<_> = soon("they arrive", sold.map(Result::unwrap).collect()).await;
        let digits = sold.iter().map(|left| left.to_string().replace('"', ""));
        assert!(digits.eq(["6", "5"]), "{sold:?}");
    }
    let shop = DynamicClient::new(&broker, description).unwrap();
    let none = || stream::empty::<Value>();
    for (wrong, right) in [
        (shop.call("unload", [2]).await, MethodKind::Receiving),
        (shop.call("sell", ()).await, MethodKind::Receiving),
        (
            shop.call_with_items("look", ["bread"], none()).await,
            MethodKind::Unary,
        ),
    ] {
        assert!(
            matches!(&wrong, Err(CallError::WrongKind { kind, .. }) if *kind == right),
            "{wrong:?}"
        );
    }
    let wrong = shop
        .stream_with_items("unload", [2], none())
        .next()
        .await
        .unwrap();
    assert!(matches!(wrong, Err(CallError::WrongKind { .. })), "{wrong:?}");
    server.stop().await.unwrap();
}

/// What a lost connection means for a call is the description's to say.
#[tokio::test]
async fn only_methods_described_as_idempotent_are_sent_again() {
    let queue = unique("ledger");
    let book = Book::behind(Gate::closed());
    let worker = World::RabbitMq.broker().await;
    let server = serve(&worker, RequestQueue::new(&queue), &book).await;
    let description = WorkerClient::new(&worker, &queue).describe().await.unwrap();
    let description = description.services().next().unwrap().clone();
    let proxy = Proxy::start(shared().await).await.unwrap();
    let options = Broker::builder().reply_queue(ReplyQueue::Exclusive);
    let broker = options.address(proxy.url()).connect().await.unwrap();
    let ledger = DynamicClient::new(&broker, description).unwrap();
    let (read, write) = (ledger.call("read", ["a"]), ledger.call("write", ["b"]));
    let (read, write) = (tokio::spawn(read), tokio::spawn(write));
    book.gate.began(2).await;

    proxy.reset(Target::All).await;
    let lost = soon("it fails at once", write).await.unwrap().unwrap_err();
    assert_eq!(lost.executed(), Executed::Maybe);
    book.gate.began(1).await;
    book.gate.let_all_go();
    soon("it is answered", read).await.unwrap().unwrap();
    assert_eq!((book.runs("a"), book.runs("b")), (2, 1));
    server.stop().await.unwrap();
}
