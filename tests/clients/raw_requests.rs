//! Requests that no client sends: each worker answers them as the worker in Rust does, and as
//! docs/protocol.md says.

use std::fmt::{Debug, Display};
use std::fs;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{RawPeer, next};
use serde_json::{Value, json};

use crate::programs::root;
use crate::workers::{Language, Worker};

const LIMIT: Duration = Duration::from_secs(20);

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain";
const MSGPACK: &str = "application/msgpack";

/// An item as bytes.
type ByteBuf = bytes::Bytes;

/// A caller that writes its messages itself.
struct Caller {
    peer: RawPeer,
    replies: lapin::Consumer,
    reply_to: String,
    queue: String,
    /// What was not answered as expected.
    problems: Vec<String>,
}

/// What a worker replied: the `type`, the content type, and the body.
#[derive(Debug, PartialEq)]
struct Reply {
    kind: String,
    content_type: String,
    body: Vec<u8>,
}

impl Reply {
    fn of(delivery: &Delivery) -> Self {
        let text = |value: &Option<lapin::types::ShortString>| {
            value.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        Self {
            kind: text(delivery.properties.kind()),
            content_type: text(delivery.properties.content_type()),
            body: delivery.data.clone(),
        }
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap_or("no UTF-8")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| json!(error.to_string()))
    }

    /// Returns the code of a fault, or what else it is.
    fn fault(&self) -> String {
        let fault = match (&*self.kind, &*self.content_type) {
            ("fault", JSON) => self.json(),
            ("fault", MSGPACK) => rmp_serde::from_slice(&self.body).unwrap_or_default(),
            ("fault", _) => {
                let text = String::from_utf8_lossy(&self.body);
                return text.split(':').next().unwrap_or_default().to_owned();
            }
            _ => return format!("{self:?}"),
        };
        fault["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Caller {
    async fn new(queue: &str) -> Self {
        let peer = RawPeer::connect(shared().await).await.unwrap();
        let reply_to = peer.declare_exclusive().await.unwrap();
        let replies = peer.consume(&reply_to).await.unwrap();
        Self {
            peer,
            replies,
            reply_to,
            queue: queue.to_owned(),
            problems: Vec::new(),
        }
    }

    /// Notes a problem unless both are equal.
    fn same<T: PartialEq + Debug>(&mut self, what: impl Display, seen: T, expected: T) {
        if seen != expected {
            self.problems
                .push(format!("{what}: {seen:?} instead of {expected:?}"));
        }
    }

    fn is_fault(&mut self, what: impl Display, reply: &Reply, code: &str) {
        self.same(what, &*reply.fault(), code);
    }

    async fn send(&self, properties: BasicProperties, body: &[u8]) {
        let properties = properties
            .with_reply_to(self.reply_to.as_str().into())
            .with_correlation_id(uuid::Uuid::new_v4().to_string().into())
            .with_expiration("20000".into());
        self.peer.publish(&self.queue, properties, body).await.unwrap();
    }

    async fn reply(&mut self) -> Delivery {
        next(&mut self.replies, LIMIT).await.unwrap().expect("a reply")
    }

    /// Calls a method.
    async fn call(&mut self, properties: BasicProperties, body: &[u8]) -> Reply {
        self.send(properties, body).await;
        Reply::of(&self.reply().await)
    }

    /// Calls a method in JSON.
    async fn json(&mut self, method: &str, body: &str) -> Reply {
        self.call(request(method, JSON), body.as_bytes()).await
    }
}

fn request(method: &str, content_type: &str) -> BasicProperties {
    BasicProperties::default()
        .with_type(method.into())
        .with_content_type(content_type.into())
}

fn with_header(properties: BasicProperties, name: &str, value: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
    properties.with_headers(headers)
}

async fn arguments(caller: &mut Caller) {
    for (method, body, expected) in [
        // Positional, with values beyond the last argument.
        ("double", "[4]", json!(8)),
        ("double", "[4, {\"x\": []}, 9]", json!(8)),
        ("words.join", "[\"a\", null]", json!("a - three")),
        // Unknown names, other names, and names in another order.
        ("double", r#"{"other": [1, {}], "value": 5}"#, json!(10)),
        (
            "words.join",
            r#"{"class": "c", "two": "b", "first": "a"}"#,
            json!("a b c"),
        ),
        // An argument that may be missing, and an empty body.
        ("echo_option", "{}", Value::Null),
        ("echo_option", "", Value::Null),
        ("echo_option", r#"{"value": null}"#, Value::Null),
        // Fields that are unknown, and others that are missing.
        (
            "echo_event",
            r#"{"value": {"x": 1, "type": "moved", "z": 3, "y": 2}}"#,
            json!({"type": "moved", "x": 1, "y": 2}),
        ),
        ("echo_direction", r#"{"value": {"North": null}}"#, json!("North")),
        ("echo_pair", r#"{"value": [1, "b"]}"#, json!([1, "b"])),
        ("echo_f64", r#"{"value": 1.25e2}"#, json!(125.0)),
        ("echo_f32", r#"{"value": 2}"#, json!(2.0)),
    ] {
        let reply = caller.json(method, body).await;
        // A number without a fraction has no other form in JavaScript.
        let reply = reply.json();
        let is_equal = reply.is_number() && reply.as_f64() == expected.as_f64();
        if !is_equal {
            caller.same(format!("{method} {body}"), reply, expected);
        }
    }
}

async fn bad_requests(caller: &mut Caller) {
    for (method, body) in [
        ("double", "{"),
        ("double", "{}"),
        ("echo_unit", "{}"),
        ("double", "[]"),
        ("double", "7"),
        ("double", r#"{"value": 4294967296}"#),
        ("double", r#"{"value": -1}"#),
        ("double", r#"{"value": 1.5}"#),
        ("double", r#"{"value": "1"}"#),
        ("double", r#"{"value": true}"#),
        ("double", r#"{"value": 1} 2"#),
        ("echo_f64", r#"{"value": NaN}"#),
        ("echo_f64", r#"{"value": "1"}"#),
        ("echo_text", r#"{"value": 1}"#),
        ("echo_text", "{\"value\": \"\\ud800\"}"),
        ("echo_char", r#"{"value": "ab"}"#),
        ("echo_bytes", r#"{"value": [256]}"#),
        ("echo_unit", r#"{"value": 0}"#),
        ("echo_color", r#"{"value": "blue"}"#),
        ("echo_shape", r#"{"value": {"Circle": 1, "Nothing": null}}"#),
        ("echo_shape", r#"{"value": "Circle"}"#),
        ("echo_tuple", r#"{"value": [1]}"#),
        ("echo_numbered", r#"{"value": {"-1": ""}}"#),
        (
            "echo_i128",
            r#"{"value": 170141183460469231731687303715884105728}"#,
        ),
        // A stream is missing.
        ("sum", "{}"),
    ] {
        let reply = caller.json(method, body).await;
        caller.is_fault(format!("{method} {body}"), &reply, "bad_request");
    }
    let body = b"{\"value\": \"\xff\"}";
    let reply = caller.call(request("echo_text", JSON), body).await;
    caller.is_fault("invalid UTF-8", &reply, "bad_request");
    for body in [&b"\xc1"[..], b"\x81", b"\x81\xa5value", b"\xdd\xff\xff\xff\xff"] {
        let reply = caller.call(request("echo_text", MSGPACK), body).await;
        caller.is_fault(format!("{body:?}"), &reply, "bad_request");
    }
}

async fn content_types(caller: &mut Caller) {
    // Bytes may be an array of numbers.
    let body = b"\x81\xa5value\x93\x01\x02\xcc\xff";
    let reply = caller
        .call(request("echo_bytes", "application/x-msgpack"), body)
        .await;
    let expected = Reply {
        kind: "result".into(),
        content_type: "application/x-msgpack".into(),
        body: b"\xc4\x03\x01\x02\xff".into(),
    };
    caller.same("an array of bytes", reply, expected);
    let properties = request("double", "Application/JSON; charset=UTF-8");
    let reply = caller.call(properties, b"[2]").await;
    caller.same("another name of JSON", reply.text(), "4");

    // Plain text: for the default method, and for others.
    for (properties, body, expected) in [
        (BasicProperties::default(), "hello \u{1f980}", "hello \u{1f980}"),
        (request("double", PLAIN), "21", "42"),
        (request("echo_bool", PLAIN), "true", "true"),
        (request("echo_color", PLAIN), "dark-blue", "dark-blue"),
        (request("echo_bytes", PLAIN), "raw", "raw"),
        (request("stopped", PLAIN), "nobody", "0"),
    ] {
        let reply = caller.call(properties, body.as_bytes()).await;
        let what = format!("{body} in plain text");
        caller.same(&what, (&*reply.kind, &*reply.content_type), ("result", PLAIN));
        caller.same(&what, reply.text(), expected);
    }
    for (method, body) in [
        ("double", "x"),
        ("words.join", "a"),
        ("echo_option", "1"),
        ("echo_pair", "[1,\"b\"]"),
    ] {
        let reply = caller.call(request(method, PLAIN), body.as_bytes()).await;
        caller.is_fault(format!("{method} {body} in plain text"), &reply, "bad_request");
    }
    for properties in [
        request("double", "application/xml"),
        request("double", "application/json; charset=latin1"),
        request("double", JSON).with_content_encoding("gzip".into()),
    ] {
        let what = format!("{properties:?}");
        let reply = caller.call(properties, b"[1]").await;
        caller.is_fault(what, &reply, "unsupported_content_type");
    }
}

/// A method with a stream sends no more than is accepted, and all of it to a caller that knows
/// none.
async fn streams(caller: &mut Caller) {
    let reply = caller.json("count", "[3]").await;
    caller.same("a stream in one reply", reply.json(), json!([0, 1, 2]));

    let few = with_header(request("count", JSON), "rpc-credit", "4");
    caller.send(few, b"[100]").await;
    let mut items = 0;
    while items < 4 {
        let delivery = caller.reply().await;
        let kind = Reply::of(&delivery).kind;
        caller.same("a message of a stream", &*kind, "rpc.items");
        let (first, bodies, credit): (u64, Vec<ByteBuf>, u64) =
            rmp_serde::from_slice(&delivery.data).unwrap();
        caller.same(
            "the number of an item, and the credit",
            (first, credit),
            (items, 4),
        );
        items += bodies.len() as u64;
    }
    let more = next(&mut caller.replies, Duration::from_secs(1)).await.unwrap();
    caller.same("items with a credit of 4", (items, more.is_some()), (4, false));
}

async fn built_in_methods(caller: &mut Caller) {
    let worker = caller.json("rpc.ping", "").await.json();
    let pid = worker["pid"].as_u64();
    caller.same(
        "rpc.ping",
        (worker["id"].is_string(), pid.is_some()),
        (true, true),
    );

    let description = root().join("tests/fixtures/conformance/descriptions/conformance.json");
    let mut expected: Value = serde_json::from_slice(&fs::read(description).unwrap()).unwrap();
    expected["queue"] = json!(caller.queue);
    let described = caller.json("rpc.describe", "").await.json();
    caller.same("rpc.describe", described["worker"]["pid"].as_u64(), pid);
    let [queue] = described["queues"].as_array().map_or(&[][..], Vec::as_slice) else {
        panic!("expected one queue: {described}");
    };
    caller.same("rpc.describe", &queue["services"], &json!([expected]));

    let stats = caller.json("rpc.stats", "").await.json();
    caller.same("rpc.stats", stats.is_object(), true);
}

#[tokio::test]
async fn workers_of_all_languages_answer_foreign_requests_alike() {
    let problems = join_all(Language::ALL.map(async |language| {
        let (queue, everyone) = (unique("foreign"), unique("everyone"));
        let worker = Worker::start(language, &queue, &everyone).await;
        let mut caller = Caller::new(&queue).await;
        arguments(&mut caller).await;
        bad_requests(&mut caller).await;
        content_types(&mut caller).await;
        built_in_methods(&mut caller).await;
        streams(&mut caller).await;
        worker.kill().await;
        let problems = caller.problems.iter();
        problems
            .map(|problem| format!("worker in {language}: {problem}"))
            .collect::<Vec<_>>()
    }))
    .await
    .concat();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
