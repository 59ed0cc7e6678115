//! The page for Spring AMQP, whose programs are not run: messages with the properties that Spring
//! gives them.

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{Broker, CallError, Codec, Server};
use rpc_tests::gate::soon;
use rpc_tests::programs::LIMIT;
use rpc_tests::rabbit::Vhost;
use rpc_tests::raw::{RawPeer, next};

use crate::directory::{Directory, DirectoryError, UserDirectoryClient, UserDirectoryServer};

const QUEUE: &str = "user-directory";

/// A message in JSON with the properties that Spring sets by itself.
fn message() -> BasicProperties {
    BasicProperties::default()
        .with_priority(0)
        .with_delivery_mode(1)
        .with_content_type("application/json".into())
}

/// What a `RabbitTemplate` sends with publisher returns, and after a converter for Jackson.
fn request(method: &str, correlation_id: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("__TypeId__", "java.util.ImmutableCollections$Map1"),
        (
            "spring_listener_return_correlation",
            "4f0c2f0e-1a2b-4c3d-8e9f-0a1b2c3d4e5f",
        ),
        ("spring_request_return_correlation", correlation_id),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    message()
        .with_content_encoding("UTF-8".into())
        .with_headers(headers)
        .with_type(method.into())
        .with_expiration("5000".into())
        .with_correlation_id(correlation_id.into())
        .with_reply_to("amq.rabbitmq.reply-to".into())
}

#[tokio::test]
async fn a_template_calls_rust() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = Server::new(&broker)
        .serve(UserDirectoryServer::new(Directory::default()))
        .start()
        .await
        .unwrap();
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    let mut replies = peer.consume("amq.rabbitmq.reply-to").await.unwrap();

    for (id, method, user, kind, body) in [
        ("1", "get_email", "user:12345", "result", r#""alice@example.com""#),
        (
            "2",
            "get_email",
            "user:99999",
            "error",
            r#"{"UnknownUser":{"id":"user:99999"}}"#,
        ),
        (
            "3",
            "erase",
            "user:12345",
            "fault",
            r#"{"code":"unknown_method","message":"the service has no method \"erase\""}"#,
        ),
    ] {
        let arguments = format!(r#"{{"id":"{user}"}}"#);
        peer.publish(QUEUE, request(method, id), arguments.as_bytes())
            .await
            .unwrap();
        let reply = next(&mut replies, LIMIT).await.unwrap().expect("a reply");
        let properties = &reply.properties;
        assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), id);
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), kind);
        assert_eq!(
            properties.content_type().as_ref().unwrap().as_str(),
            "application/json"
        );
        assert_eq!(String::from_utf8_lossy(&reply.data), body);
    }
    server.stop().await.unwrap();
    broker.close().await;
}

#[tokio::test]
async fn a_listener_is_called_by_rust() {
    let vhost = Vhost::new().await;
    let peer = RawPeer::connect(&vhost.url()).await.unwrap();
    peer.declare_durable(QUEUE).await.unwrap();
    let mut requests = peer.consume_unsettled(QUEUE).await.unwrap();
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let directory = UserDirectoryClient::builder(&broker).codec(Codec::Json).build();

    let listen = async {
        // The answers that the page describes: an error, a result of a converter that sets no
        // `type`, and a serialized exception, as with `returnExceptions`.
        answer(
            &peer,
            requests.next().await.unwrap().unwrap(),
            message().with_type("error".into()),
            r#"{"UnknownUser":{"id":"user:1"}}"#,
        )
        .await;
        answer(
            &peer,
            requests.next().await.unwrap().unwrap(),
            message().with_content_encoding("UTF-8".into()),
            r#""alice@example.com""#,
        )
        .await;
        let serialized = message().with_content_type("application/x-java-serialized-object".into());
        answer(
            &peer,
            requests.next().await.unwrap().unwrap(),
            serialized,
            "\u{ac}\u{ed}",
        )
        .await;
    };
    let call = async {
        match directory.get_email("user:1").timeout(LIMIT).await.unwrap_err() {
            CallError::Service(DirectoryError::UnknownUser { id }) => assert_eq!(id, "user:1"),
            other => panic!("{other:?}"),
        }
        let email = directory.get_email("user:12345").timeout(LIMIT).await.unwrap();
        assert_eq!(email, "alice@example.com");
        let unreadable = directory.get_email("user:1").timeout(LIMIT).await;
        assert!(
            matches!(unreadable, Err(CallError::BadReply { .. })),
            "{unreadable:?}"
        );
    };
    soon("the listener answers", async { tokio::join!(listen, call) }).await;
    broker.close().await;
}

/// Replies as the adapter of a listener does, and acknowledges.
async fn answer(peer: &RawPeer, request: Delivery, reply: BasicProperties, body: &str) {
    let properties = &request.properties;
    let id = properties.correlation_id().clone().unwrap();
    let reply_to = properties.reply_to().clone().unwrap();
    let reply = reply.with_correlation_id(id);
    peer.publish(reply_to.as_str(), reply, body.as_bytes())
        .await
        .unwrap();
    request.ack(BasicAckOptions::default()).await.unwrap();
}
