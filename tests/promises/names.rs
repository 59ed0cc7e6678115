//! Names: a method may have any, a queue may not have one of the runtime's, and headers of the
//! runtime stay with it.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{
    Broker, CallError, Context, Executed, InvalidName, RequestQueue, Server, ServerError, service,
};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::on_both_brokers;
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{self, RawPeer};
use rpc_tests::world::World;

#[service]
trait Parcels {
    /// Named almost like the `type` of a batch.
    async fn batch(&self) -> u64;
    #[rpc(oneway)]
    async fn send(&self);
    /// The names of the headers.
    #[rpc(idempotent)]
    async fn headers(&self, #[rpc(context)] cx: &Context) -> Vec<String>;
    /// What the other service's handler sees of them, if this one sends them on.
    #[rpc(idempotent)]
    async fn forwarded(&self, #[rpc(context)] cx: &Context) -> Vec<String>;
}

struct Depot(ParcelsClient);

fn names(cx: &Context) -> Vec<String> {
    cx.headers().iter().map(|(name, _)| name.to_owned()).collect()
}

impl Parcels for Depot {
    async fn batch(&self) -> u64 {
        7
    }

    async fn send(&self) {}

    async fn headers(&self, cx: &Context) -> Vec<String> {
        names(cx)
    }

    async fn forwarded(&self, cx: &Context) -> Vec<String> {
        let headers = cx.headers().iter();
        let call = headers.fold(self.0.headers(), |call, (name, value)| call.header(name, value));
        call.await.expect("what is shown can be sent")
    }
}

fn client(broker: &Broker, queue: &str) -> ParcelsClient {
    ParcelsClient::builder(broker).queue(queue).build()
}

async fn serve(broker: &Broker, queue: &str) -> Result<rpc_runtime::RunningServer, ServerError> {
    let depot = Depot(client(broker, queue));
    let server = Server::new(broker).serve_on(RequestQueue::new(queue), ParcelsServer::new(depot));
    soon("it starts, or says why not", server.start()).await
}

on_both_brokers! {
    a_method_named_batch_is_answered,
    queues_named_like_those_of_the_runtime_are_refused,
    headers_of_the_runtime_cannot_be_sent,
}

async fn a_method_named_batch_is_answered(world: World) {
    let queue = unique("parcels");
    let broker = world.broker().await;
    let server = serve(&broker, &queue).await.unwrap();
    let client = client(&broker, &queue);
    // By itself, and with others in one message.
    assert_eq!(soon("the answer", client.batch()).await.unwrap(), 7);
    let calls = (0..300).map(|_| client.batch());
    for answer in soon("the answers", futures_util::future::join_all(calls)).await {
        assert_eq!(answer.unwrap(), 7);
    }
    server.stop().await.unwrap();
}

async fn queues_named_like_those_of_the_runtime_are_refused(world: World) {
    let broker = world.broker().await;
    let too_long = "n".repeat(256);
    for (name, reason) in [
        ("", InvalidName::Empty),
        ("amq.parcels", InvalidName::Reserved),
        ("rpc.parcels", InvalidName::ReservedByRuntime),
        ("parcels.batch", InvalidName::ReservedByRuntime),
        ("par\ncels", InvalidName::ControlCharacter),
        (&too_long, InvalidName::too_long(256, 255)),
    ] {
        match serve(&broker, name).await {
            Err(ServerError::InvalidQueue { queue, source, .. }) => {
                assert_eq!((queue.as_str(), source), (name, reason));
            }
            other => panic!("{name:?}: {other:?}"),
        }
        match client(&broker, name).batch().await {
            Err(error @ CallError::Invalid { source, .. }) => {
                assert_eq!((source, error.executed()), (reason, Executed::No));
            }
            other => panic!("{name:?}: {other:?}"),
        }
    }
}

async fn headers_of_the_runtime_cannot_be_sent(world: World) {
    let broker = world.broker().await;
    for name in [
        "rpc-resent",
        "rpc-anything",
        "x-death",
        "x-first-death-reason",
        "CC",
    ] {
        let call = client(&broker, &unique("nowhere")).batch().header(name, "1");
        match call.await {
            Err(CallError::Invalid {
                source: InvalidName::Reserved | InvalidName::ReservedByRuntime,
                ..
            }) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_message_of_the_type_batched_is_answered() {
    let queue = unique("parcels");
    let broker = Broker::connect(shared().await).await.unwrap();
    let server = serve(&broker, &queue).await.unwrap();
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let replies = peer.declare_exclusive().await.unwrap();
    let mut consumer = peer.consume(&replies).await.unwrap();
    for (queue, kind, expected) in [
        (queue.clone(), "rpc.batch", "fault"),
        (format!("{queue}.batch"), "rpc.batch", "fault"),
        (format!("{queue}.batch"), "headers", "fault"),
    ] {
        let properties = BasicProperties::default()
            .with_type(kind.into())
            .with_content_type("application/json".into())
            .with_reply_to(replies.as_str().into())
            .with_correlation_id("7".into());
        peer.publish(&queue, properties, b"[]").await.unwrap();
        let reply = raw::next(&mut consumer, SOON).await.unwrap().expect("a reply");
        assert_eq!(reply.properties.kind().as_ref().unwrap().as_str(), expected);
        assert_eq!(reply.properties.correlation_id().as_ref().unwrap().as_str(), "7");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_sees_no_headers_of_the_runtime_and_may_send_on_all_that_it_sees() {
    let queue = unique("parcels");
    let broker = Broker::connect(shared().await).await.unwrap();
    let server = serve(&broker, &queue).await.unwrap();
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let replies = peer.declare_exclusive().await.unwrap();
    let mut consumer = peer.consume(&replies).await.unwrap();
    let mut headers = FieldTable::default();
    for name in [
        "rpc-resent",
        "rpc-other",
        "x-first-death-reason",
        "x-delivery-count",
        "tenant",
    ] {
        headers.insert(name.into(), AMQPValue::LongString("1".into()));
    }
    for method in ["headers", "forwarded"] {
        let properties = BasicProperties::default()
            .with_type(method.into())
            .with_content_type("application/json".into())
            .with_headers(headers.clone())
            .with_reply_to(replies.as_str().into())
            .with_correlation_id(method.into());
        peer.publish(&queue, properties, b"[]").await.unwrap();
        let reply = raw::next(&mut consumer, SOON).await.unwrap().expect("a reply");
        assert_eq!(String::from_utf8_lossy(&reply.data), r#"["tenant"]"#, "{method}");
    }
    server.stop().await.unwrap();
}
