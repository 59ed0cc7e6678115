//! What goes over the wire, seen by a peer that knows nothing of this library; and what such a peer
//! may send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Consumer};
use rpc_runtime::{
    Broker, Call, CallError, Chain, Codec, Executed, FaultCode, ReplyAddresses, RequestQueue, RunningServer,
    Server, service,
};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::world::World;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use rpc_tests::gate::{SOON, soon};

mod foreign_callers;
mod foreign_workers;
mod replies;
mod requests;

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
    async fn find(&self, name: &str) -> Option<String>;
    async fn forget(&self, name: &str) -> Result<(), Refusal>;
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

    async fn find(&self, name: &str) -> Option<String> {
        self.ran();
        (name != "nobody").then(|| name.to_owned())
    }

    async fn forget(&self, _name: &str) -> Result<(), Refusal> {
        self.ran();
        Ok(())
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
            // A worker that is always busy says how long requests waited.
            .admission(false)
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

    /// Makes a call, and has it answered with these properties (beside the correlation id) and this
    /// body.
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
