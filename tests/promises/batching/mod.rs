//! Several calls in one message: by and for whom that can, and nothing that was promised of a call
//! is any different for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{Broker, Codec, Context, RequestQueue, Server, service};
use rpc_tests::gate::Gate;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use uuid::Uuid;

mod caller;
mod oneway;
mod raw_caller;
mod raw_worker;
mod redelivery;
mod together;
mod worker;

/// What can be batched is of one of these.
const CODECS: [Codec; 2] = [Codec::MessagePack, Codec::Json];

const MESSAGE_PACK: &str = "application/msgpack";

const BATCHING: &str = "rpc-batch";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("not {number}")]
struct Refusal {
    number: u64,
}

/// What a handler knows of its call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct About {
    method: String,
    correlation_id: Option<String>,
    headers: BTreeMap<String, String>,
    app_id: Option<String>,
    user_id: Option<String>,
    priority: Option<u8>,
    redelivered: bool,
    remaining_ms: Option<u64>,
}

#[service]
trait Kiosk {
    /// Gives the number back at once.
    #[rpc(default, idempotent)]
    async fn echo(&self, n: u64) -> u64;
    /// Gives the number back once the gate lets it.
    #[rpc(idempotent)]
    async fn read(&self, n: u64) -> u64;
    /// As `read`, and not idempotent.
    async fn write(&self, n: u64) -> u64;
    /// Takes 10 milliseconds.
    async fn slow(&self, n: u64) -> u64;
    async fn refuse(&self, n: u64) -> Result<u64, Refusal>;
    async fn explode(&self) -> u64;
    async fn weigh(&self, bytes: &[u8]) -> u64;
    async fn produce(&self, bytes: usize) -> Vec<u8>;
    async fn about(&self, #[rpc(context)] cx: &Context) -> About;
}

/// The implementation: all clones write into one journal.
#[derive(Debug, Clone)]
struct Clerk {
    gate: Gate,
    journal: Arc<Mutex<Vec<String>>>,
}

impl Clerk {
    fn behind(gate: Gate) -> Self {
        Self {
            gate,
            journal: Arc::default(),
        }
    }

    fn new() -> Self {
        Self::behind(Gate::open())
    }

    /// What ran, such as `read 7`, in order of the alphabet.
    fn runs(&self) -> Vec<String> {
        let mut runs = self.journal.lock().unwrap().clone();
        runs.sort();
        runs
    }

    fn note_run(&self, method: &str, n: u64) {
        self.journal.lock().unwrap().push(format!("{method} {n}"));
    }
}

impl Kiosk for Clerk {
    async fn echo(&self, n: u64) -> u64 {
        self.note_run("echo", n);
        n
    }

    async fn read(&self, n: u64) -> u64 {
        self.note_run("read", n);
        self.gate.pass().await;
        n
    }

    async fn write(&self, n: u64) -> u64 {
        self.note_run("write", n);
        self.gate.pass().await;
        n
    }

    async fn slow(&self, n: u64) -> u64 {
        sleep(Duration::from_millis(10)).await;
        n
    }

    async fn refuse(&self, n: u64) -> Result<u64, Refusal> {
        self.note_run("refuse", n);
        Err(Refusal { number: n })
    }

    async fn explode(&self) -> u64 {
        panic!("as asked");
    }

    async fn weigh(&self, bytes: &[u8]) -> u64 {
        bytes.len() as u64
    }

    async fn produce(&self, bytes: usize) -> Vec<u8> {
        vec![7; bytes]
    }

    async fn about(&self, cx: &Context) -> About {
        let headers = cx.headers().iter();
        About {
            method: cx.method().to_owned(),
            correlation_id: cx.correlation_id().map(str::to_owned),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            app_id: cx.app_id().map(str::to_owned),
            user_id: cx.user_id().map(str::to_owned),
            priority: cx.priority(),
            redelivered: cx.redelivered(),
            remaining_ms: cx.remaining().map(|time| time.as_millis() as u64),
        }
    }
}

fn server(broker: &Broker, queue: &str, clerk: &Clerk) -> Server {
    Server::new(broker).serve_on(RequestQueue::new(queue), KioskServer::new(clerk.clone()))
}

/// The queue for batched requests beside this one.
fn batched(queue: &str) -> String {
    format!("{queue}.batch")
}

/// One of the calls in a batched request, as docs/protocol.md has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BatchedCall {
    id: Bytes,
    method: String,
    millis: Option<u64>,
    arguments: Bytes,
    headers: BTreeMap<String, String>,
}

impl BatchedCall {
    /// With arguments in MessagePack, and half a minute left.
    fn new(method: &str, arguments: &impl Serialize) -> Self {
        Self {
            id: Bytes::copy_from_slice(Uuid::new_v4().as_bytes()),
            method: method.to_owned(),
            millis: Some(30_000),
            arguments: written(MESSAGE_PACK, arguments).into(),
            headers: BTreeMap::new(),
        }
    }

    fn numbered(method: &str, n: u64) -> Self {
        Self::new(method, &Numbered { n })
    }

    fn id(&self) -> Uuid {
        Uuid::from_slice(&self.id).expect("sixteen bytes")
    }
}

/// One of the answers in a batched reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BatchedAnswer {
    id: Bytes,
    kind: u8,
    body: Bytes,
    wanted: u16,
}

/// The arguments of most methods.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Numbered {
    n: u64,
}

/// The body of a fault.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FaultBody {
    code: String,
    message: String,
}

/// Reads a batched message's body, in which each thing has the MessagePack type that is documented.
#[track_caller]
fn unbatched<T: Serialize + DeserializeOwned>(body: &[u8]) -> Vec<T> {
    let parts: Vec<T> = rmp_serde::from_slice(body).unwrap();
    assert_eq!(batch(&parts), body, "byte for byte");
    parts
}

fn batch<T: Serialize>(parts: &[T]) -> Vec<u8> {
    rmp_serde::to_vec(parts).unwrap()
}

/// A value as it stands in a body of this content type.
fn written<T: Serialize>(content_type: &str, value: &T) -> Vec<u8> {
    match content_type {
        MESSAGE_PACK => rmp_serde::to_vec_named(value).unwrap(),
        // Of a number, its text is the same.
        "application/json" | "text/plain" => serde_json::to_vec(value).unwrap(),
        other => panic!("{other} has no written values"),
    }
}

#[track_caller]
fn read<T: DeserializeOwned>(content_type: &str, body: &[u8]) -> T {
    match content_type {
        MESSAGE_PACK => rmp_serde::from_slice(body).unwrap(),
        "application/json" => serde_json::from_slice(body).unwrap(),
        other => panic!("{other} has no written values"),
    }
}

/// A property that must be there.
#[track_caller]
fn text(property: &Option<lapin::types::ShortString>) -> String {
    property.as_ref().expect("the property is there").to_string()
}

fn is_batched(delivery: &Delivery) -> bool {
    let kind = delivery.properties.kind().as_ref();
    kind.is_some_and(|kind| kind.as_str() == "rpc.batch")
}

/// The headers of a message, which are all text.
fn headers(properties: &BasicProperties) -> BTreeMap<String, String> {
    let table = properties.headers().clone().unwrap_or_default();
    let read = |value: &AMQPValue| match value {
        AMQPValue::LongString(value) => value.to_string(),
        other => panic!("a header that is no text: {other:?}"),
    };
    let headers = table.inner().iter();
    headers
        .map(|(name, value)| (name.to_string(), read(value)))
        .collect()
}

fn header(name: &str, value: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(name.into(), AMQPValue::LongString(value.into()));
    table
}
