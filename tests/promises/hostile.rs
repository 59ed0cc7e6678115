//! No message can stop a worker or a caller: what cannot be read is answered or settled, and
//! nothing else notices.
//!
//! A stranger writes the frames by hand, as client libraries do not write most of these. All
//! handles go through a proxy, which counts their connections: none may be made again.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{
    Broker, BrokerBuilder, CallError, ReplyQueue, RequestQueue, RunningServer, Server, Tls, WhenFull, service,
};
use rpc_tests::certificates::Authority;
use rpc_tests::gate::{SOON, soon};
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{Node, shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::stranger::{Properties, Property, Stranger, long, nested, short};
use rpc_tests::until;

#[service]
trait Shop {
    #[rpc(default)]
    async fn look(&self, what: &str) -> String;
}

#[service]
trait Till {
    async fn pay(&self, amount: u32) -> u32;
}

struct Counter;

impl Shop for Counter {
    async fn look(&self, what: &str) -> String {
        what.to_owned()
    }
}

impl Till for Counter {
    async fn pay(&self, amount: u32) -> u32 {
        amount
    }
}

/// A worker with two queues and a caller, whose connections are counted, and a stranger.
struct Scene {
    /// The broker's, without TLS.
    url: String,
    proxy: Proxy,
    worker: Broker,
    caller: Broker,
    shop_queue: String,
    till_queue: String,
    server: RunningServer,
    shop: ShopClient,
    till: TillClient,
    peer: RawPeer,
    stranger: Stranger,
    replies: String,
}

/// Two of each handle.
const CONNECTIONS: usize = 4;

impl Scene {
    async fn new() -> Self {
        Self::with_parameters("").await
    }

    /// Of handles whose address ends like this.
    async fn with_parameters(parameters: &str) -> Self {
        let url = shared().await;
        let proxy = Proxy::start(url).await.unwrap();
        let through_proxy = format!("{}{parameters}", proxy.url());
        Self::behind(proxy, &through_proxy, Broker::builder, url).await
    }

    async fn behind(
        proxy: Proxy,
        through_proxy: &str,
        builder: impl Fn() -> BrokerBuilder,
        url: &str,
    ) -> Self {
        let worker = builder().address(through_proxy).connect().await.unwrap();
        let caller = builder().address(through_proxy).connect().await.unwrap();
        let (shop_queue, till_queue) = (unique("shop"), unique("till"));
        let server = Server::new(&worker)
            .serve_on(RequestQueue::new(&shop_queue), ShopServer::new(Counter))
            .serve_on(RequestQueue::new(&till_queue), TillServer::new(Counter));
        let server = server.start().await.unwrap();
        let mut stranger = Stranger::connect(url).await.unwrap();
        let scene = Self {
            url: url.to_owned(),
            proxy,
            server,
            shop: ShopClient::builder(&caller).queue(&shop_queue).build(),
            till: TillClient::builder(&caller).queue(&till_queue).build(),
            shop_queue,
            till_queue,
            worker,
            caller,
            peer: RawPeer::connect(url).await.unwrap(),
            replies: stranger.declare_exclusive().await.unwrap(),
            stranger,
        };
        scene.is_untouched().await;
        scene
    }

    /// The calls of others go on, over the connections that there were.
    async fn is_untouched(&self) {
        let look = soon("a call to the same queue ends", self.shop.look("tea")).await;
        assert_eq!(look.unwrap(), "tea");
        let pay = soon("a call to another queue ends", self.till.pay(7)).await;
        assert_eq!(pay.unwrap(), 7);
        assert_eq!(self.proxy.counts(Target::All).accepted, CONNECTIONS);
        assert!(self.worker.status().is_ready() && self.caller.status().is_ready());
    }

    /// Properties of a request that wants an answer.
    fn ordinary(&self, id: &str) -> Properties {
        Properties::default()
            .text(Property::ReplyTo, &self.replies)
            .text(Property::CorrelationId, id)
    }

    /// Publishes a request.
    async fn request(&mut self, properties: &Properties) -> anyhow::Result<()> {
        self.stranger.publish(&self.shop_queue, properties, b"tea").await
    }

    /// What a request is answered with: the properties on the wire, and the body.
    async fn answer(&mut self) -> (Vec<u8>, String) {
        let (properties, body) = self.stranger.get(&self.replies).await.unwrap();
        (properties, String::from_utf8(body).unwrap())
    }

    /// The request is refused with an answer that says why and has this correlation id.
    async fn is_refused(&mut self, id: impl AsRef<[u8]>, why: &str) {
        let (properties, body) = self.answer().await;
        let bytes = id.as_ref();
        let id = bytes.escape_ascii();
        assert!(contains(&properties, b"fault"), "{id}: {body}");
        assert!(
            body.starts_with("bad_request") && body.contains(why),
            "{id}: {body}"
        );
        assert!(contains(&properties, bytes), "{id} does not come back");
        self.is_untouched().await;
    }

    /// Nothing waits in the queue, nor comes again once the worker is gone.
    async fn end(self) {
        self.is_untouched().await;
        self.server.stop().await.unwrap();
        let depth = self.peer.queue_depth(&self.shop_queue).await.unwrap();
        assert_eq!(depth, Some(0), "a message came back");
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The properties that are short strings, but for the reply's address.
const TEXTS: [Property; 9] = [
    Property::ContentType,
    Property::ContentEncoding,
    Property::CorrelationId,
    Property::Expiration,
    Property::MessageId,
    Property::Type,
    Property::UserId,
    Property::AppId,
    Property::ClusterId,
];

/// Headers that cannot be read, by what is wrong with them.
fn malformed_headers() -> Vec<(&'static str, Vec<u8>)> {
    let odd_name = [short(b"\xff\xfe"), b"V".to_vec()].concat();
    let within_table = [short(b"a"), b"F".to_vec(), long(&odd_name)].concat();
    let within_array = [
        short(b"a"),
        b"A".to_vec(),
        long(&[&b"F"[..], &long(&odd_name)].concat()),
    ]
    .concat();
    vec![
        ("a header's name", odd_name),
        ("a name in a table", within_table),
        ("a name in a table in an array", within_array),
        ("33 tables", nested(b'F', 33)),
        ("200 tables", nested(b'F', 200)),
        ("1,200 tables", nested(b'F', 1200)),
        ("15,000 tables", nested(b'F', 15_000)),
        ("33 arrays", nested(b'A', 33)),
        ("1,200 arrays", nested(b'A', 1200)),
        ("20,000 arrays", nested(b'A', 20_000)),
    ]
}

async fn malformed_properties_are_refused(mut scene: Scene) {
    for property in TEXTS {
        let id = format!("{property:?}");
        let properties = scene.ordinary(&id).text(property, b"\xff\xfe");
        let published = scene.request(&properties).await;
        match property {
            Property::Expiration | Property::UserId => {
                // RabbitMQ looks at these, and closes the channel.
                published.unwrap_err();
                scene.stranger = Stranger::connect(&scene.url).await.unwrap();
                scene.replies = scene.stranger.declare_exclusive().await.unwrap();
            }
            Property::CorrelationId => {
                published.unwrap();
                scene
                    .is_refused(b"\x02\xff\xfe", "correlation_id is not UTF-8")
                    .await;
            }
            _ => {
                published.unwrap();
                scene.is_refused(&id, "is not UTF-8").await;
            }
        }
    }
    for (what, entries) in malformed_headers() {
        let properties = scene.ordinary(what).headers(&entries);
        scene.request(&properties).await.unwrap();
        scene.is_refused(what, "header").await;
    }
    // The bytes of a UUID.
    let id: Vec<u8> = (0xf0..=0xff).collect();
    let request = scene.ordinary("").text(Property::CorrelationId, &id);
    scene.request(&request).await.unwrap();
    scene.is_refused(&id, "correlation_id is not UTF-8").await;
    // A batch, by its type.
    let batch = scene.ordinary("batch").text(Property::Type, "rpc.batch");
    let batch = batch.text(Property::AppId, b"\xff");
    scene.request(&batch).await.unwrap();
    scene.is_refused("batch", "app_id").await;

    let batches = format!("{}.batch", scene.shop_queue);
    let batch = scene.ordinary("batches").text(Property::Type, "rpc.batch");
    let batch = batch.headers(&nested(b'F', 1200));
    scene.stranger.publish(&batches, &batch, b"tea").await.unwrap();
    scene.is_refused("batches", "nested").await;

    // Nobody can be answered.
    let nowhere = Properties::default().text(Property::ReplyTo, b"amq.gen-\xff");
    scene.request(&nowhere).await.unwrap();
    let nobody = Properties::default().text(Property::MessageId, b"\xff");
    scene.request(&nobody).await.unwrap();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_malformed_properties_is_refused_and_nothing_else_notices() {
    malformed_properties_are_refused(Scene::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_malformed_properties_is_refused_over_tls_too() {
    let authority = Authority::new().unwrap();
    let identity = authority.server(&["localhost"]).unwrap();
    let node = Node::start_with_tls(&authority, &identity, "").await.unwrap();
    let proxy = Proxy::start(&node.tls_url("guest:guest", "localhost"))
        .await
        .unwrap();
    let through_proxy = proxy.url().replace("127.0.0.1", "localhost");
    let builder = || Broker::builder().tls(Tls::new().ca_certificate_pem(authority.pem()));
    let scene = Scene::behind(proxy, &through_proxy, builder, node.url()).await;
    malformed_properties_are_refused(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_that_are_odd_and_valid_pass() {
    let mut scene = Scene::new().await;
    for (what, entries) in [("32 tables", nested(b'F', 32)), ("32 arrays", nested(b'A', 32))] {
        let properties = scene.ordinary(what).headers(&entries);
        scene.request(&properties).await.unwrap();
        let (_, body) = scene.answer().await;
        assert_eq!(body, "tea", "{what}");
    }
    // The mark by which the runtime knows malformed properties is not for others to set.
    for value in [&b"its headers are not a valid table"[..], &[0; 18]] {
        let forged = [&short(b"rpc-malformed")[..], b"S", &long(value)].concat();
        let properties = scene.ordinary("forged").headers(&forged);
        scene.request(&properties).await.unwrap();
        assert_eq!(scene.answer().await.1, "tea");
    }
    scene.end().await;
}

/// Frames are as large as a connection has agreed to, but another one may have agreed to larger
/// ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_that_are_larger_than_a_frame_are_refused() {
    let mut scene = Scene::with_parameters("?frame_max=8192").await;
    for size in [8_000, 8_200, 20_000, 100_000] {
        let header = [&short(b"a")[..], b"S", &long(&vec![b'x'; size])].concat();
        let properties = scene.ordinary("large").headers(&header);
        scene.request(&properties).await.unwrap();
        match size {
            8_000 => assert_eq!(scene.answer().await.1, "tea"),
            _ => scene.is_refused("large", "larger than a frame").await,
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routing_key_that_is_not_utf8_is_of_no_account() {
    let mut scene = Scene::new().await;
    let exchange = unique("orders");
    let channel = scene.peer.channel();
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    let name = || exchange.as_str().into();
    channel
        .exchange_declare(name(), ExchangeKind::Fanout, options, FieldTable::default())
        .await
        .unwrap();
    let queue = scene.shop_queue.as_str().into();
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue, name(), "".into(), options, FieldTable::default())
        .await
        .unwrap();
    for key in [&b"\xff"[..], b"orders.\xc3", &[0x80; 255]] {
        let properties = scene.ordinary("odd");
        let published = scene
            .stranger
            .publish_to(&exchange, key, &properties, b"tea")
            .await;
        published.unwrap();
        assert_eq!(scene.answer().await.1, "tea");
        scene.is_untouched().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_question_to_all_workers_is_ignored() {
    let mut scene = Scene::new().await;
    let question = |scene: &Scene| scene.ordinary("7").text(Property::Type, "rpc.ping");
    let mut questions: Vec<_> = malformed_headers()
        .into_iter()
        .map(|(_, entries)| question(&scene).headers(&entries))
        .collect();
    questions.push(question(&scene).text(Property::MessageId, b"\xff"));
    for properties in &questions {
        let published = scene
            .stranger
            .publish_to("rpc.control", b"rpc.discovery", properties, b"");
        published.await.unwrap();
        scene.is_untouched().await;
    }
    // One that can be read is answered.
    let properties = question(&scene);
    let published = scene
        .stranger
        .publish_to("rpc.control", b"rpc.discovery", &properties, b"");
    published.await.unwrap();
    assert!(contains(&scene.answer().await.0, b"result"));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_request_without_a_reply_address_is_dead_lettered() {
    let url = shared().await;
    let (queue, dead) = (unique("shop"), unique("dead"));
    let peer = RawPeer::connect(url).await.unwrap();
    peer.declare_durable(&dead).await.unwrap();
    let worker = Broker::connect(url).await.unwrap();
    let requests = RequestQueue::new(&queue).dead_letter_to(&dead);
    let server = Server::new(&worker).serve_on(requests, ShopServer::new(Counter));
    let server = server.start().await.unwrap();
    let mut malformed: Vec<_> = malformed_headers()
        .into_iter()
        .map(|(_, entries)| Properties::default().headers(&entries))
        .collect();
    for property in [Property::MessageId, Property::CorrelationId, Property::ReplyTo] {
        malformed.push(Properties::default().text(property, b"amq.gen-\xff"));
    }
    let no_address = Properties::default().text(Property::ReplyTo, "orders");
    malformed.push(no_address.text(Property::AppId, b"\xff"));
    let mut stranger = Stranger::connect(url).await.unwrap();
    for properties in &malformed {
        stranger.publish(&queue, properties, b"tea").await.unwrap();
    }
    let all = u32::try_from(malformed.len()).unwrap();
    until("all are kept", SOON, async || {
        Ok(peer.queue_depth(&dead).await? == Some(all))
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    assert_eq!(peer.queue_depth(&queue).await.unwrap(), Some(0));
    // They can be read there, with what the broker added to them.
    let mut kept = 0;
    while let Some((properties, body)) = stranger.try_get(&dead).await.unwrap() {
        assert_eq!(body, b"tea");
        assert!(contains(&properties, b"x-death"));
        kept += 1;
    }
    assert_eq!(kept, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_that_come_back_by_themselves_do_not_go_round_forever() {
    let url = shared().await;
    let queue = unique("shop");
    let worker = Broker::connect(&format!("{url}?frame_max=8192")).await.unwrap();
    // What it rejects comes back at once.
    let requests = RequestQueue::new(&queue).dead_letter_to(&queue);
    let server = Server::new(&worker).serve_on(requests, ShopServer::new(Counter));
    let server = server.start().await.unwrap();
    let mut stranger = Stranger::connect(url).await.unwrap();
    let large = [&short(b"a")[..], b"S", &long(&[b'x'; 20_000])].concat();
    let odd_name = [short(b"\xff"), b"V".to_vec()].concat();
    for entries in [odd_name, nested(b'F', 200), large] {
        let properties = Properties::default().headers(&entries);
        stranger.publish(&queue, &properties, b"tea").await.unwrap();
    }
    // Behind them in the queue.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let caller = Broker::connect(url).await.unwrap();
    let shop = ShopClient::builder(&caller).queue(&queue).build();
    let look = soon("the queue is served", shop.look("tea")).await;
    assert_eq!(look.unwrap(), "tea");
    server.stop().await.unwrap();
    let peer = RawPeer::connect(url).await.unwrap();
    assert_eq!(peer.queue_depth(&queue).await.unwrap(), Some(0));
}

/// Calls a worker that is a stranger, who answers first with this and then properly.
async fn answered(replies: ReplyQueue, flaw: &Properties) {
    let url = shared().await;
    let proxy = Proxy::start(url).await.unwrap();
    let caller = Broker::builder()
        .reply_queue(replies)
        .address(proxy.url())
        .connect()
        .await
        .unwrap();
    let peer = RawPeer::connect(url).await.unwrap();
    let queue = unique("foreign");
    peer.declare(&queue).await.unwrap();
    let mut requests = peer.consume(&queue).await.unwrap();
    let client = ShopClient::builder(&caller).queue(&queue).build();
    let call = |what: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.look(what).timeout(SOON).await })
    };
    // In flight all the time.
    let other = call("other");
    let mut next = async || {
        let request = soon("a request comes", requests.next()).await.unwrap().unwrap();
        let text = |value: &Option<lapin::types::ShortString>| value.clone().unwrap().to_string();
        let properties = &request.properties;
        (text(properties.reply_to()), text(properties.correlation_id()))
    };
    let asked_first = next().await;
    let mut stranger = Stranger::connect(url).await.unwrap();
    for round in 0..3 {
        let failing = call("failing");
        let (reply_to, id) = next().await;
        let reply = flaw.clone().text(Property::CorrelationId, &id);
        stranger.publish(&reply_to, &reply, b"coffee").await.unwrap();
        let error = soon("the call ends", failing).await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::BadReply { .. }), "{round}: {error:?}");

        let served = call("served");
        let (reply_to, id) = next().await;
        // A reply to nobody: its id cannot be read.
        let nobody = Properties::default().text(Property::CorrelationId, b"\xff");
        stranger.publish(&reply_to, &nobody, b"coffee").await.unwrap();
        let reply = Properties::default().text(Property::ContentType, "text/plain");
        let reply = reply.text(Property::CorrelationId, &id);
        stranger.publish(&reply_to, &reply, b"tea").await.unwrap();
        assert_eq!(soon("the call ends", served).await.unwrap().unwrap(), "tea");
    }
    let (reply_to, id) = asked_first;
    let reply = Properties::default().text(Property::ContentType, "text/plain");
    let reply = reply.text(Property::CorrelationId, &id);
    stranger.publish(&reply_to, &reply, b"other").await.unwrap();
    assert_eq!(soon("the call ends", other).await.unwrap().unwrap(), "other");
    assert_eq!(proxy.counts(Target::All).accepted, 2);
    assert!(caller.status().is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_reply_fails_its_own_call_alone() {
    for replies in [ReplyQueue::Exclusive, ReplyQueue::Resumable, ReplyQueue::Direct] {
        answered(replies, &Properties::default().text(Property::MessageId, b"\xff")).await;
        answered(replies, &Properties::default().headers(&nested(b'F', 1200))).await;
    }
    let flaws = malformed_headers()
        .into_iter()
        .map(|(_, entries)| Properties::default().headers(&entries));
    for flaw in flaws.chain([Properties::default().text(Property::Type, b"\xff")]) {
        answered(ReplyQueue::Exclusive, &flaw).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_probes_are_acked_and_nothing_else_notices() {
    let mut scene = Scene::new().await;
    let till_queue = scene.till_queue.clone();
    let longest = [b'1'; 255];
    let ids: [&[u8]; 6] = [
        b"",
        b"1",
        b"00000000000000000000000000000000.0.0.0",
        b"00000000000000000000000000000000.65535.255.18446744073709551615",
        b"\xff\xfe",
        &longest,
    ];
    let addresses: [&[u8]; 6] = [
        b"",
        b"orders",
        till_queue.as_bytes(),
        b"amq.gen-nobody",
        b"amq.gen-\xff",
        &longest,
    ];
    let batches = format!("{}.batch", scene.shop_queue);
    for queue in [scene.shop_queue.clone(), batches] {
        for address in addresses {
            for id in ids {
                let probe = Properties::default()
                    .text(Property::Type, "rpc.probe")
                    .text(Property::ReplyTo, address)
                    .text(Property::CorrelationId, id);
                scene.stranger.publish(&queue, &probe, b"tea").await.unwrap();
            }
            scene.is_untouched().await;
        }
        for (what, entries) in malformed_headers() {
            let probe = scene.ordinary(what).text(Property::Type, "rpc.probe");
            let probe = probe.headers(&entries);
            scene.stranger.publish(&queue, &probe, b"tea").await.unwrap();
            scene.answer().await;
        }
        // The reply has nothing of the probe but its id.
        let probe = scene.ordinary("7").text(Property::Type, "rpc.probe");
        scene
            .stranger
            .publish(&queue, &probe, &[7; 100_000])
            .await
            .unwrap();
        assert_eq!(scene.answer().await.1, "");
    }
    assert_eq!(scene.peer.queue_depth(&till_queue).await.unwrap(), Some(0));
    scene.is_untouched().await;
    // RabbitMQ closes the connection that replies to such an address. It is one of its own.
    let probe = Properties::default()
        .text(Property::Type, "rpc.probe")
        .text(Property::ReplyTo, "amq.rabbitmq.reply-to.nobody")
        .text(Property::CorrelationId, "1");
    for _ in 0..10 {
        scene.request(&probe).await.unwrap();
    }
    assert_eq!(soon("a call ends", scene.shop.look("tea")).await.unwrap(), "tea");
    assert!(scene.worker.status().is_ready());
    scene.server.stop().await.unwrap();
    let depth = scene.peer.queue_depth(&scene.shop_queue).await.unwrap();
    assert_eq!(depth, Some(0));
}

/// What replies say of overload, with this in both headers.
fn of_overload(value: AMQPValue) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert("rpc-queue-time".into(), value.clone());
    headers.insert("rpc-retry-after".into(), value);
    headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_lies_about_overload_slows_its_own_client_for_a_moment() {
    // A client is told to send nothing for as long as its call may take, and no longer.
    const TIME: Duration = Duration::from_secs(3);
    let url = shared().await;
    let caller = Broker::connect(url).await.unwrap();
    let peer = RawPeer::connect(url).await.unwrap();
    let queue = unique("liar");
    peer.declare(&queue).await.unwrap();
    let mut requests = peer.consume(&queue).await.unwrap();
    let builder = || ShopClient::builder(&caller).queue(&queue);
    let (lied_to, other) = (builder().build(), builder().when_full(WhenFull::Fail).build());
    let mut answer = async |client: &ShopClient, kind: &str, body: &str, headers: FieldTable| {
        let time = if kind == "fault" { TIME } else { SOON };
        let call = tokio::spawn(client.look("tea").timeout(time).into_future());
        let request = soon("a request comes", requests.next()).await.unwrap().unwrap();
        let asked = &request.properties;
        let reply = BasicProperties::default()
            .with_type(kind.into())
            .with_content_type("application/json".into())
            .with_correlation_id(asked.correlation_id().clone().unwrap())
            .with_headers(headers);
        let reply_to = asked.reply_to().clone().unwrap();
        peer.publish(reply_to.as_str(), reply, body.as_bytes())
            .await
            .unwrap();
        soon("the call ends", call).await.unwrap()
    };
    let texts = [
        "4294967295",
        "4294967296",
        "99999999999999999999",
        "-1",
        "1.5",
        "soon",
        "",
    ];
    let mut values: Vec<_> = texts
        .map(|text| AMQPValue::LongString(text.into()))
        .into_iter()
        .collect();
    values.push(AMQPValue::LongLongInt(i64::MIN));
    values.push(AMQPValue::LongUInt(u32::MAX));
    values.push(AMQPValue::Double(1e300));
    values.push(AMQPValue::FieldTable(of_overload(AMQPValue::Void)));
    for value in values {
        let headers = || of_overload(value.clone());
        let answered = answer(&lied_to, "result", "\"tea\"", headers()).await;
        assert_eq!(answered.unwrap(), "tea", "{value:?}");
        for code in ["expired", "rejected"] {
            let fault = format!(r#"{{"code":"{code}","message":"no"}}"#);
            let refused = answer(&lied_to, "fault", &fault, headers()).await;
            assert!(
                matches!(refused, Err(CallError::Fault(_))),
                "{value:?}: {refused:?}"
            );
            for client in [&other, &lied_to] {
                let answered = answer(client, "result", "\"tea\"", FieldTable::default()).await;
                assert_eq!(answered.unwrap(), "tea", "{value:?}");
            }
        }
    }
    assert!(caller.status().is_ready());
}
