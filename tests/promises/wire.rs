//! What goes over the wire, seen by a peer that knows nothing of this library; and what such a peer may send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Consumer};
use rpc_runtime::{
    Broker, Call, CallError, Codec, Executed, FaultCode, ReplyAddresses, RequestQueue, RunningServer, Server,
    service,
};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::world::World;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::gate::{SOON, soon};

const CONTENT_TYPES: [&str; 3] = ["application/msgpack", "application/json", "text/plain"];

#[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
enum Refusal {
    #[error("no greeting for {0}")]
    Unwelcome(String),
}

#[service]
trait Greeter {
    #[rpc(default)]
    async fn greet(&self, name: &str) -> Result<String, Refusal>;
    async fn pair(&self, name: &str, bytes: &[u8]) -> Vec<u8>;
    async fn count(&self) -> usize;
    #[rpc(oneway)]
    async fn note(&self, name: &str);
}

/// Counts what it ran, and gives the last byte back.
#[derive(Clone, Default)]
struct Host(Arc<AtomicUsize>);

impl Host {
    fn runs(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn ran(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl Greeter for Host {
    async fn greet(&self, name: &str) -> Result<String, Refusal> {
        self.ran();
        match name {
            "nobody" => Err(Refusal::Unwelcome(name.to_owned())),
            name => Ok(format!("hello {name}")),
        }
    }

    async fn pair(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        self.ran();
        [name.as_bytes(), bytes].concat()
    }

    async fn count(&self) -> usize {
        self.ran()
    }

    async fn note(&self, _name: &str) {
        self.ran();
    }
}

/// A worker of ours, and a foreign caller with its reply queue.
struct Foreign {
    peer: RawPeer,
    queue: String,
    reply_to: String,
    replies: Consumer,
    host: Host,
    server: RunningServer,
}

impl Foreign {
    async fn new() -> Self {
        Self::with(ReplyAddresses::default()).await
    }

    /// One request at a time: what is answered next proves that the one before was settled.
    async fn with(addresses: ReplyAddresses) -> Self {
        Self::start(addresses, 1).await
    }

    async fn start(addresses: ReplyAddresses, concurrency: u16) -> Self {
        let (queue, host) = (unique("greeter"), Host::default());
        let server = Server::new(&World::RabbitMq.broker().await)
            .concurrency(concurrency)
            .reply_addresses(addresses)
            .serve_on(RequestQueue::new(&queue), GreeterServer::new(host.clone()))
            .start()
            .await
            .unwrap();
        let peer = RawPeer::connect(shared().await).await.unwrap();
        let reply_to = peer.declare_exclusive().await.unwrap();
        let replies = peer.consume(&reply_to).await.unwrap();
        Self {
            peer,
            queue,
            reply_to,
            replies,
            host,
            server,
        }
    }

    /// Sends a message as it is.
    async fn send(&self, properties: BasicProperties, body: &[u8]) {
        self.peer.publish(&self.queue, properties, body).await.unwrap();
    }

    /// Sends a message that wants an answer, and waits for that.
    async fn ask(&mut self, properties: BasicProperties, body: &[u8]) -> Delivery {
        let properties = properties.with_reply_to(self.reply_to.as_str().into());
        self.send(properties, body).await;
        next(&mut self.replies, SOON)
            .await
            .unwrap()
            .expect("a reply comes")
    }

    /// Asks, and reads the reply's type, content type and body.
    async fn answer(&mut self, properties: BasicProperties, body: &[u8]) -> (String, String, Vec<u8>) {
        let reply = self.ask(properties, body).await;
        (
            text(reply.properties.kind()),
            text(reply.properties.content_type()),
            reply.data,
        )
    }

    /// The worker still serves, so it holds nothing unsettled; and nothing is left in its queue.
    async fn ends_well(mut self) {
        let answer = self.answer(BasicProperties::default(), b"Ann").await;
        assert_eq!(
            answer,
            ("result".into(), "text/plain".into(), b"hello Ann".to_vec())
        );
        soon("the drain", self.server.stop()).await.unwrap();
        self.peer.wait_until_empty(&self.queue, SOON).await.unwrap();
        let more = next(&mut self.replies, Duration::ZERO).await.unwrap();
        assert!(more.is_none(), "one request, one reply: {more:?}");
    }
}

fn text(property: &Option<lapin::types::ShortString>) -> String {
    property.as_ref().expect("the property is there").to_string()
}

fn request(method: &str, content_type: &str) -> BasicProperties {
    BasicProperties::default()
        .with_type(method.into())
        .with_content_type(content_type.into())
}

/// A value as it stands in a body of this content type.
fn written<T: Serialize>(content_type: &str, value: &T) -> Vec<u8> {
    match content_type {
        "application/msgpack" => rmp_serde::to_vec_named(value).unwrap(),
        "application/json" => serde_json::to_vec(value).unwrap(),
        other => panic!("{other} has no written values"),
    }
}

fn read<T: for<'de> Deserialize<'de>>(content_type: &str, body: &[u8]) -> T {
    match content_type {
        "application/msgpack" => rmp_serde::from_slice(body).unwrap(),
        "application/json" => serde_json::from_slice(body).unwrap(),
        other => panic!("{other} has no written values"),
    }
}

/// The code of a fault in a body of this content type.
fn fault_code(content_type: &str, body: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fault {
        code: String,
        message: String,
    }

    let (code, message) = match content_type {
        "text/plain" => {
            let text = std::str::from_utf8(body).unwrap();
            let (code, message) = text.split_once(": ").expect("code: message");
            (code.to_owned(), message.to_owned())
        }
        structured => {
            let Fault { code, message } = read(structured, body);
            (code, message)
        }
    };
    assert!(!message.is_empty());
    code
}

/// A queue of a foreign worker, and a client of ours for it.
struct ForeignWorker {
    peer: RawPeer,
    queue: String,
    requests: Consumer,
    broker: Broker,
}

impl ForeignWorker {
    async fn new() -> Self {
        let peer = RawPeer::connect(shared().await).await.unwrap();
        let queue = peer.declare_exclusive().await.unwrap();
        let requests = peer.consume(&queue).await.unwrap();
        Self {
            peer,
            queue,
            requests,
            broker: World::RabbitMq.broker().await,
        }
    }

    fn client(&self, codec: Codec) -> GreeterClient {
        GreeterClient::builder(&self.broker)
            .queue(&self.queue)
            .codec(codec)
            .build()
    }

    async fn request(&mut self) -> Delivery {
        next(&mut self.requests, SOON)
            .await
            .unwrap()
            .expect("a request comes")
    }

    /// Makes a call, and has it answered with these properties (beside the correlation id) and this body.
    async fn exchange<T: Send + 'static, E: Send + 'static>(
        &mut self,
        call: Call<T, E>,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<T, CallError<E>> {
        let call = tokio::spawn(call);
        let request = self.request().await;
        self.reply(&request, properties, body).await;
        soon("the call ends", call).await.unwrap()
    }

    /// Answers as RabbitMQ's tutorial does: the correlation id is echoed.
    async fn reply(&self, request: &Delivery, properties: BasicProperties, body: &[u8]) {
        let id = request.properties.correlation_id().clone().unwrap();
        self.reply_raw(request, properties.with_correlation_id(id), body)
            .await;
    }

    async fn reply_raw(&self, request: &Delivery, properties: BasicProperties, body: &[u8]) {
        let reply_to = text(request.properties.reply_to());
        self.peer.publish(&reply_to, properties, body).await.unwrap();
    }
}

// What a request looks like.

#[tokio::test]
async fn a_request_has_the_documented_properties_and_no_others() {
    let mut worker = ForeignWorker::new().await;
    let limit = Duration::from_secs(20);
    let call = worker.client(Codec::MessagePack).pair("Ann", &[0, 255]);
    let call = tokio::spawn(call.timeout(limit));

    let Delivery {
        properties,
        data,
        exchange,
        routing_key,
        redelivered,
        ..
    } = worker.request().await;
    assert_eq!((exchange.as_str(), routing_key.as_str()), ("", &*worker.queue));
    assert!(!redelivered);
    assert_eq!(text(properties.kind()), "pair");
    assert_eq!(text(properties.content_type()), "application/msgpack");
    let id = Uuid::parse_str(&text(properties.correlation_id())).expect("a UUID");
    assert_eq!(id.get_version_num(), 4, "random");
    let reply_to = text(properties.reply_to());
    assert!(reply_to.starts_with("rpc.reply."), "{reply_to}");
    let expiration: u128 = text(properties.expiration()).parse().expect("milliseconds");
    assert!((1..=limit.as_millis()).contains(&expiration), "{expiration}");
    assert_eq!(*properties.delivery_mode(), Some(1));
    // By name, and bytes as `bin`.
    assert_eq!(data, b"\x82\xa4name\xa3Ann\xa5bytes\xc4\x02\x00\xff");

    let expected = BasicProperties::default()
        .with_type("pair".into())
        .with_content_type("application/msgpack".into())
        .with_correlation_id(properties.correlation_id().clone().unwrap())
        .with_reply_to(properties.reply_to().clone().unwrap())
        .with_expiration(properties.expiration().clone().unwrap())
        .with_delivery_mode(1);
    assert_eq!(properties, expected);
    call.abort();
}

#[tokio::test]
async fn options_of_a_call_are_properties_of_its_request() {
    let mut worker = ForeignWorker::new().await;
    worker.broker = World::RabbitMq
        .broker_with(Broker::builder().app_id("shop").send_user_id(true))
        .await;
    let call = worker.client(Codec::Json).greet("Ann");
    let call = tokio::spawn(call.header("tenant", "a").header("tenant", "b").priority(3));

    let properties = worker.request().await.properties;
    assert_eq!(text(properties.app_id()), "shop");
    assert_eq!(text(properties.user_id()), "guest");
    assert_eq!(*properties.priority(), Some(3));
    let mut headers = FieldTable::default();
    headers.insert("tenant".into(), AMQPValue::LongString("b".into()));
    assert_eq!(*properties.headers(), Some(headers));
    call.abort();
}

#[tokio::test]
async fn a_one_way_request_is_persistent_and_wants_no_reply() {
    let mut worker = ForeignWorker::new().await;
    worker.client(Codec::Json).note("Ann").await.unwrap();
    let request = worker.request().await;
    assert_eq!(text(request.properties.kind()), "note");
    assert_eq!(*request.properties.delivery_mode(), Some(2));
    assert_eq!(*request.properties.reply_to(), None);
    assert_eq!(*request.properties.expiration(), None);
    assert_eq!(request.data, br#"{"name":"Ann"}"#);
}

#[tokio::test]
async fn each_codec_writes_its_own_body() {
    let mut worker = ForeignWorker::new().await;
    for (codec, content_type, greet, count) in [
        (
            Codec::MessagePack,
            "application/msgpack",
            &b"\x81\xa4name\xa3Ann"[..],
            &b"\x80"[..],
        ),
        (Codec::Json, "application/json", br#"{"name":"Ann"}"#, b"{}"),
        (Codec::Text, "text/plain", b"Ann", b""),
    ] {
        let call = tokio::spawn(worker.client(codec).greet("Ann"));
        let request = worker.request().await;
        assert_eq!(text(request.properties.content_type()), content_type);
        assert_eq!(request.data, greet);
        call.abort();
        let call = tokio::spawn(worker.client(codec).count());
        assert_eq!(worker.request().await.data, count);
        call.abort();
    }
    let call = tokio::spawn(worker.client(Codec::Json).pair("Ann", &[0, 255]));
    assert_eq!(worker.request().await.data, br#"{"name":"Ann","bytes":[0,255]}"#);
    call.abort();
}

// What a reply looks like.

#[tokio::test]
async fn a_reply_echoes_the_correlation_id_and_nothing_else() {
    let mut foreign = Foreign::new().await;
    let long = "x".repeat(255);
    for id in [
        "",
        "42",
        "-1",
        "tutorial ü/\" id",
        "00000000-0000-0000-0000-000000000000",
        &long,
    ] {
        let mut headers = FieldTable::default();
        headers.insert("tenant".into(), AMQPValue::LongString("a".into()));
        let asked = request("greet", "application/json")
            .with_correlation_id(id.into())
            .with_expiration("20000".into())
            .with_delivery_mode(2)
            .with_priority(3)
            .with_app_id("shop".into())
            .with_user_id("guest".into())
            .with_message_id("m".into())
            .with_timestamp(7)
            .with_headers(headers);
        let reply = foreign.ask(asked, br#"{"name":"Ann"}"#).await;
        let expected = BasicProperties::default()
            .with_type("result".into())
            .with_content_type("application/json".into())
            .with_correlation_id(id.into())
            .with_delivery_mode(1);
        assert_eq!(reply.properties, expected);
        assert_eq!(reply.data, br#""hello Ann""#);
    }
    let reply = foreign.ask(request("greet", "text/plain"), b"Ann").await;
    assert_eq!(*reply.properties.correlation_id(), None);
    foreign.ends_well().await;
}

#[tokio::test]
async fn a_reply_says_whether_it_is_a_result_an_error_or_a_fault() {
    let mut foreign = Foreign::new().await;
    for content_type in ["application/msgpack", "application/json"] {
        let asked = written(content_type, &[("name", "Ann")].into_iter().collect::<Map<'_>>());
        let (kind, answered_in, body) = foreign.answer(request("greet", content_type), &asked).await;
        assert_eq!((kind.as_str(), answered_in.as_str()), ("result", content_type));
        assert_eq!(read::<String>(content_type, &body), "hello Ann");

        let asked = written(
            content_type,
            &[("name", "nobody")].into_iter().collect::<Map<'_>>(),
        );
        let (kind, answered_in, body) = foreign.answer(request("greet", content_type), &asked).await;
        assert_eq!((kind.as_str(), answered_in.as_str()), ("error", content_type));
        assert_eq!(
            read::<Refusal>(content_type, &body),
            Refusal::Unwelcome("nobody".into())
        );
    }
    let answer = foreign.answer(request("greet", "text/plain"), b"nobody").await;
    assert_eq!(
        answer,
        (
            "error".into(),
            "text/plain".into(),
            b"no greeting for nobody".to_vec()
        )
    );
    for content_type in CONTENT_TYPES {
        let (kind, answered_in, body) = foreign.answer(request("nonsense", content_type), b"").await;
        assert_eq!((kind.as_str(), answered_in.as_str()), ("fault", content_type));
        assert_eq!(fault_code(content_type, &body), "unknown_method");
    }
    foreign.ends_well().await;
}

type Map<'a> = std::collections::BTreeMap<&'a str, &'a str>;

// What a worker does with what others send.

#[tokio::test]
async fn garbage_is_a_bad_request_in_its_own_content_type() {
    let deep_json = "[".repeat(100_000);
    let deep_argument = format!(r#"{{"name":"Ann","extra":{deep_json}"#);
    let deep_pack = vec![0x91; 100_000];
    let garbage: &[(&str, &[u8])] = &[
        ("application/msgpack", b"\xc1"),
        ("application/msgpack", b"\x81\xa4name"),
        ("application/msgpack", b"Ann"),
        ("application/msgpack", b"\x81\xa4name\x07"),
        ("application/msgpack", b"\x81\xa4name\xa3Ann\xc0"),
        ("application/msgpack", b"\x80"),
        ("application/msgpack", b""),
        // Lengths that nothing stands behind.
        ("application/msgpack", b"\xdf\xff\xff\xff\xff"),
        ("application/msgpack", b"\xdd\xff\xff\xff\xff"),
        ("application/msgpack", b"\x81\xa4name\xdb\xff\xff\xff\xff"),
        ("application/msgpack", b"\x81\xa4name\xc6\xff\xff\xff\xff"),
        ("application/msgpack", &deep_pack),
        ("application/json", b"{"),
        ("application/json", b"Ann"),
        ("application/json", b"null"),
        ("application/json", br#"{"name":7}"#),
        ("application/json", br#"{"name":"Ann"} {"name":"Bob"}"#),
        ("application/json", br#"{"name":"Ann","name":"Bob"}"#),
        ("application/json", b"{}"),
        ("application/json", b"[]"),
        ("application/json", b""),
        ("application/json", b"\xff\xfe"),
        ("application/json", deep_json.as_bytes()),
        ("application/json", deep_argument.as_bytes()),
        ("text/plain", b"\xff\xfe"),
    ];
    let mut foreign = Foreign::new().await;
    for (content_type, body) in garbage {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let (kind, answered_in, reply) = foreign.answer(request("greet", content_type), body).await;
        assert_eq!(
            (kind.as_str(), answered_in.as_str()),
            ("fault", *content_type),
            "{shown}"
        );
        assert_eq!(fault_code(content_type, &reply), "bad_request", "{shown}");
        // With nobody to tell, it is settled all the same.
        foreign.send(request("greet", content_type), body).await;
    }
    // A method with several arguments cannot be called in plain text.
    let (kind, _, reply) = foreign.answer(request("pair", "text/plain"), b"Ann").await;
    assert_eq!(
        (kind.as_str(), fault_code("text/plain", &reply).as_str()),
        ("fault", "bad_request")
    );
    assert_eq!(foreign.host.runs(), 0, "none of it ran");
    foreign.ends_well().await;
}

#[tokio::test]
async fn an_unknown_content_type_is_answered_in_plain_text() {
    let mut foreign = Foreign::new().await;
    for content_type in ["image/png", "application/x-python-serialize", "é", "/"] {
        let (kind, answered_in, body) = foreign.answer(request("greet", content_type), b"Ann").await;
        assert_eq!((kind.as_str(), answered_in.as_str()), ("fault", "text/plain"));
        assert_eq!(fault_code("text/plain", &body), "unsupported_content_type");
        foreign.send(request("greet", content_type), b"Ann").await;
    }
    assert_eq!(foreign.host.runs(), 0);
    foreign.ends_well().await;
}

#[tokio::test]
async fn a_request_with_neither_type_nor_content_type_is_plain_text_for_the_default_method() {
    let mut foreign = Foreign::new().await;
    for asked in [BasicProperties::default(), request("", "")] {
        let answer = foreign.answer(asked.clone(), b"Ann").await;
        assert_eq!(
            answer,
            ("result".into(), "text/plain".into(), b"hello Ann".to_vec())
        );
        let answer = foreign.answer(asked, b"").await;
        assert_eq!(answer.2, b"hello ", "an empty text is a text");
    }
    foreign.ends_well().await;
}

#[tokio::test]
async fn a_request_that_wants_no_reply_runs_and_is_settled() {
    let foreign = Foreign::new().await;
    for asked in [
        BasicProperties::default(),
        BasicProperties::default().with_reply_to("".into()),
        BasicProperties::default().with_correlation_id("7".into()),
    ] {
        foreign.send(asked, b"Ann").await;
    }
    foreign.send(request("nonsense", "text/plain"), b"").await;
    let host = foreign.host.clone();
    foreign.ends_well().await;
    // The last one is that of the end.
    assert_eq!(host.runs(), 4);
}

#[tokio::test]
async fn nothing_is_written_into_a_queue_that_is_no_reply_address() {
    let payments = unique("payments");
    let foreign = Foreign::new().await;
    declare(&foreign.peer, &payments).await;
    for asked in [
        request("greet", "text/plain"),
        // Not by way of a fault either.
        request("nonsense", "text/plain"),
        request("greet", "image/png"),
    ] {
        foreign
            .send(asked.with_reply_to(payments.as_str().into()), b"Ann")
            .await;
    }
    let (host, channel) = (foreign.host.clone(), foreign.peer.channel().clone());
    foreign.ends_well().await;
    // One request at a time: theirs were all done with before the one of the end.
    assert_eq!(host.runs(), 1, "none of them ran");
    let deleted = channel
        .queue_delete(payments.as_str().into(), Default::default())
        .await;
    assert_eq!(deleted.unwrap(), 0, "nothing was written");
}

#[tokio::test]
async fn an_allowed_reply_address_is_answered() {
    let (name, prefix) = (unique("replies"), unique("billing"));
    let prefixed = format!("{prefix}.7");
    let addresses = ReplyAddresses::default().allow(&name).allow_prefix(&prefix);
    let foreign = Foreign::with(addresses).await;
    for queue in [&name, &prefixed] {
        declare(&foreign.peer, queue).await;
        let mut replies = foreign.peer.consume(queue).await.unwrap();
        let asked = BasicProperties::default().with_reply_to(queue.as_str().into());
        foreign.send(asked, b"Ann").await;
        let reply = next(&mut replies, SOON).await.unwrap().expect("a reply");
        assert_eq!(reply.data, b"hello Ann");
    }
    foreign.ends_well().await;
}

/// An ordinary queue, which goes with the peer's connection or is deleted by the test.
async fn declare(peer: &RawPeer, queue: &str) {
    let options = lapin::options::QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    peer.channel()
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_caller_who_is_gone_harms_nothing() {
    let foreign = Foreign::new().await;
    let gone = format!("{DIRECT}{}", gone_direct_address().await);
    for reply_to in ["amq.gen-gone", "rpc.reply.gone", &gone] {
        foreign
            .send(BasicProperties::default().with_reply_to(reply_to.into()), b"Ann")
            .await;
    }
    let host = foreign.host.clone();
    foreign.ends_well().await;
    assert_eq!(host.runs(), 4);
}

/// RabbitMQ 3.10 ends the whole connection of whoever publishes to some of these (541, INTERNAL_ERROR): a worker that
/// answers there loses its broker, and so does the next one, to which the request is delivered again.
#[tokio::test]
async fn a_malformed_direct_reply_address_harms_nothing() {
    let gone = gone_direct_address().await;
    let (process, _) = gone.split_once('.').expect("it has two parts");
    // Erlang's external form of an atom, where that of a process should stand.
    let atom = "g3cBYQ==.key";
    for forged in ["", ".", "gone", "a.b.c", process, "gone.gone", "!!.!!", atom] {
        ask_for_a_direct_reply(forged).await.ends_well().await;
    }
}

/// As above: this one is well-formed, and of a node that is not (or no longer) in the cluster.
#[tokio::test]
async fn a_direct_reply_address_of_an_unknown_node_harms_nothing() {
    let process_of_node_99999 = "g1h2AAtyZXBseUA5OTk5OQAAAAEAAAAAAAAAAQ==";
    let foreign = ask_for_a_direct_reply(&format!("{process_of_node_99999}.Fe2bNGE4m+N8KWXJWL9nEA==")).await;
    foreign.ends_well().await;
}

/// Forged addresses take the connection that direct replies share; the honest ones are answered all the same.
#[tokio::test]
async fn forged_direct_reply_addresses_starve_no_honest_caller() {
    // All at once, so that honest replies are under way when a forged one takes the connection.
    let foreign = Foreign::start(ReplyAddresses::default(), 64).await;
    let honest = RawPeer::connect(shared().await).await.unwrap();
    let mut replies = honest.consume("amq.rabbitmq.reply-to").await.unwrap();
    let forged = BasicProperties::default().with_reply_to(format!("{DIRECT}gone.gone").into());
    let real = BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
    for _ in 0..5 {
        foreign.send(forged.clone(), b"Ann").await;
        for _ in 0..5 {
            honest
                .publish(&foreign.queue, real.clone(), b"Ann")
                .await
                .unwrap();
        }
    }
    for _ in 0..25 {
        let reply = next(&mut replies, SOON)
            .await
            .unwrap()
            .expect("each honest request is answered");
        assert_eq!(reply.data, b"hello Ann");
    }
    foreign.ends_well().await;
}

/// A worker that was sent a request with this direct reply-to address.
async fn ask_for_a_direct_reply(address: &str) -> Foreign {
    let foreign = Foreign::new().await;
    let reply_to = format!("{DIRECT}{address}");
    foreign
        .send(BasicProperties::default().with_reply_to(reply_to.into()), b"Ann")
        .await;
    foreign
}

/// How RabbitMQ's names of direct reply-to begin.
const DIRECT: &str = "amq.rabbitmq.reply-to.";

/// The address of a caller that used direct reply-to and whose channel is closed; without [`DIRECT`].
async fn gone_direct_address() -> String {
    let caller = RawPeer::connect(shared().await).await.unwrap();
    let _replies = caller.consume("amq.rabbitmq.reply-to").await.unwrap();
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let queue = peer.declare_exclusive().await.unwrap();
    let mut requests = peer.consume(&queue).await.unwrap();
    let properties = BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
    caller.publish(&queue, properties, b"").await.unwrap();
    let request = next(&mut requests, SOON).await.unwrap().expect("the request");
    caller.channel().close(200, "gone".into()).await.unwrap();
    text(request.properties.reply_to())
        .strip_prefix(DIRECT)
        .expect("a direct address")
        .to_owned()
}

#[tokio::test]
async fn arguments_may_come_by_position_with_strangers_or_not_at_all() {
    let mut foreign = Foreign::new().await;
    let mut result = async |method: &str, content_type: &str, body: &[u8]| {
        let (kind, _, reply) = foreign.answer(request(method, content_type), body).await;
        assert_eq!(kind, "result", "{}", String::from_utf8_lossy(&reply));
        reply
    };
    // By position.
    assert_eq!(
        result("pair", "application/json", br#"["A", [1, 2]]"#).await,
        b"[65,1,2]"
    );
    assert_eq!(
        result("pair", "application/msgpack", b"\x92\xa1A\xc4\x01\x02").await,
        b"\xc4\x02\x41\x02"
    );
    // By name in any order, with names that the method does not know.
    assert_eq!(
        result(
            "pair",
            "application/json",
            br#"{"bytes": [1], "later": {"x": [null]}, "name": "A"}"#
        )
        .await,
        b"[65,1]"
    );
    assert_eq!(
        result(
            "pair",
            "application/msgpack",
            b"\x83\xa5later\x91\xc0\xa5bytes\xc4\x00\xa4name\xa1A"
        )
        .await,
        b"\xc4\x01\x41"
    );
    // Bytes as an array of numbers, for codecs that have no bytes.
    assert_eq!(
        result("pair", "application/msgpack", b"\x92\xa1A\x92\x01\x02").await,
        b"\xc4\x03\x41\x01\x02"
    );
    // None at all, in each way to say so.
    let mut count = 5;
    for (content_type, body) in [
        ("application/json", &b""[..]),
        ("application/json", b"{}"),
        ("application/json", b"[]"),
        ("application/msgpack", b""),
        ("application/msgpack", b"\x80"),
        ("application/msgpack", b"\x90"),
        ("text/plain", b""),
    ] {
        count += 1;
        let reply = result("count", content_type, body).await;
        let expected = match content_type {
            "application/msgpack" => written(content_type, &count),
            _ => count.to_string().into_bytes(),
        };
        assert_eq!(reply, expected, "{content_type} {body:?}");
    }
    // Other spellings of the same content types.
    assert_eq!(
        result("greet", "Application/JSON; charset=utf-8", br#"["A"]"#).await,
        br#""hello A""#
    );
    assert_eq!(
        result("greet", "application/x-msgpack", b"\x91\xa1A").await,
        b"\xa7hello A"
    );
    foreign.ends_well().await;
}

// What a caller does with what others reply.

#[tokio::test]
async fn a_tutorial_worker_answers_a_plain_text_client() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Text);
    let answer = worker
        .exchange(client.greet("Ann"), BasicProperties::default(), b"hello Ann")
        .await;
    assert_eq!(answer.unwrap(), "hello Ann");
    let answer = worker
        .exchange(client.count(), BasicProperties::default(), b"17")
        .await;
    assert_eq!(answer.unwrap(), 17);
    // The same worker, answering a client that speaks JSON.
    let client = worker.client(Codec::Json);
    let answer = worker
        .exchange(client.count(), BasicProperties::default(), b"18")
        .await;
    assert_eq!(answer.unwrap(), 18);
}

#[tokio::test]
async fn replies_that_no_call_waits_for_are_discarded() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Json);
    let call = tokio::spawn(client.count());
    let request = worker.request().await;
    let stranger = Uuid::new_v4().to_string();
    for id in [None, Some(""), Some("7"), Some(stranger.as_str())] {
        for (kind, body) in [("result", &b"1"[..]), ("fault", b"{"), ("what?", b"\xff")] {
            let mut reply = BasicProperties::default().with_type(kind.into());
            if let Some(id) = id {
                reply = reply.with_correlation_id(id.into());
            }
            worker.reply_raw(&request, reply, body).await;
        }
    }
    worker.reply(&request, BasicProperties::default(), b"2").await;
    // Twice is once.
    worker.reply(&request, BasicProperties::default(), b"3").await;
    assert_eq!(soon("its own reply", call).await.unwrap().unwrap(), 2);

    let answer = worker
        .exchange(client.count(), BasicProperties::default(), b"4")
        .await;
    assert_eq!(answer.unwrap(), 4);
    // All of them were settled, and the reply queue goes with its handle.
    let reply_to = text(request.properties.reply_to());
    assert_eq!(worker.peer.queue_depth(&reply_to).await.unwrap(), Some(0));
    worker.broker.close().await;
    assert_eq!(worker.peer.queue_depth(&reply_to).await.unwrap(), None);
}

#[tokio::test]
async fn replies_that_cannot_be_read_end_their_call() {
    let mut worker = ForeignWorker::new().await;
    let client = worker.client(Codec::Json);
    let in_json = |kind: &str| request(kind, "application/json");
    for (properties, body, executed) in [
        // It may be a refusal, in words of a later version.
        (in_json("what?"), &b"1"[..], Executed::Maybe),
        (request("result", "image/png"), b"1", Executed::Maybe),
        (in_json("result"), b"", Executed::Yes),
        (in_json("result"), b"\"one\"", Executed::Yes),
        (in_json("result"), b"1 2", Executed::Yes),
        // The method has no error of its own.
        (in_json("error"), b"1", Executed::Yes),
    ] {
        let shown = format!("{properties:?} {body:?}");
        let error = worker
            .exchange(client.count(), properties, body)
            .await
            .expect_err(&shown);
        assert_eq!(error.executed(), executed, "{shown}");
        assert!(matches!(error, CallError::BadReply { .. }), "{shown}: {error:?}");
    }

    // A fault is a fault, whatever it says.
    for (properties, body, code) in [
        (in_json("fault"), &b"{"[..], "fault"),
        (
            in_json("fault"),
            br#"{"code":"out_of_ink","message":"-"}"#,
            "out_of_ink",
        ),
        (request("fault", "text/plain"), b"out of ink", "fault"),
    ] {
        let error = worker
            .exchange(client.count(), properties, body)
            .await
            .unwrap_err();
        assert_eq!(error.executed(), Executed::Maybe);
        match error {
            CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Other(code.into())),
            other => panic!("{other:?}"),
        }
    }

    // An error in another content type than the method's own error can be read from.
    let error = worker
        .exchange(client.greet("Ann"), request("error", "text/plain"), b"not today")
        .await
        .unwrap_err();
    match error {
        CallError::ServiceText(text) => assert_eq!(text, "not today"),
        other => panic!("{other:?}"),
    }
}
