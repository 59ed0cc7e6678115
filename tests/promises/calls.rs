//! A call reaches its method and comes back with its answer.

use std::time::Duration;

use rpc_runtime::{
    CallError, Codec, Context, Executed, ReplyQueue, RequestQueue, RunningServer, Server, service,
};
use rpc_tests::on_both_brokers;
use rpc_tests::rabbit::unique;
use rpc_tests::world::World;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i32,
    y: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
enum EchoError {
    #[error("refused {0}")]
    Refused(String),
}

/// Every shape of argument and answer.
#[service]
trait Echo {
    async fn text(&self, text: &str) -> String;
    async fn bytes(&self, bytes: &[u8]) -> Vec<u8>;
    async fn owned_bytes(&self, bytes: Vec<u8>) -> Vec<u8>;
    async fn owned(&self, text: String, bytes: Vec<u8>) -> (String, Vec<u8>);
    async fn borrowed(&self, point: &Point, points: &[Point]) -> Vec<Point>;
    async fn fallible(&self, text: &str) -> Result<String, EchoError>;
    async fn nothing(&self);
    async fn about(&self, #[rpc(context)] cx: &Context, header: &str) -> Vec<Option<String>>;
}

struct Mirror;

impl Echo for Mirror {
    async fn text(&self, text: &str) -> String {
        text.to_owned()
    }

    async fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    async fn owned_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    async fn owned(&self, text: String, bytes: Vec<u8>) -> (String, Vec<u8>) {
        (text, bytes)
    }

    async fn borrowed(&self, point: &Point, points: &[Point]) -> Vec<Point> {
        [std::slice::from_ref(point), points].concat()
    }

    async fn fallible(&self, text: &str) -> Result<String, EchoError> {
        Err(EchoError::Refused(text.to_owned()))
    }

    async fn nothing(&self) {}

    async fn about(&self, cx: &Context, header: &str) -> Vec<Option<String>> {
        let remaining = cx.remaining().expect("a call has a deadline");
        assert!(
            remaining > Duration::from_secs(30) && remaining <= Duration::from_secs(60),
            "{remaining:?}"
        );
        assert_eq!(cx.method(), "about");
        assert!(cx.correlation_id().is_some());
        assert!(!cx.redelivered());
        vec![
            cx.headers().get(header).map(str::to_owned),
            cx.app_id().map(str::to_owned),
            cx.user_id().map(str::to_owned),
            cx.priority().map(|priority| priority.to_string()),
        ]
    }
}

async fn serve(world: &World, queue: &str) -> RunningServer {
    let broker = world.broker().await;
    Server::new(&broker)
        .serve_on(RequestQueue::new(queue), EchoServer::new(Mirror))
        .start()
        .await
        .expect("the server starts")
}

on_both_brokers! {
    every_shape_of_argument_and_answer_travels,
    every_reply_queue_works,
    a_method_knows_its_caller,
    plain_text_works_for_scalars_and_refuses_the_rest,
}

async fn every_shape_of_argument_and_answer_travels(world: World) {
    let queue = unique("echo");
    let server = serve(&world, &queue).await;
    let broker = world.broker().await;
    for codec in [Codec::MessagePack, Codec::Json] {
        let echo = EchoClient::builder(&broker).queue(&queue).codec(codec).build();
        assert_eq!(echo.text("grüße \"du\"\n").await.unwrap(), "grüße \"du\"\n");
        assert_eq!(echo.bytes(&[0, 255, 7]).await.unwrap(), [0, 255, 7]);
        assert_eq!(
            echo.owned("a".into(), vec![1]).await.unwrap(),
            ("a".into(), vec![1])
        );
        let (first, second) = (Point { x: 1, y: None }, Point { x: -2, y: Some(3) });
        let points = echo
            .borrowed(&first, std::slice::from_ref(&second))
            .await
            .unwrap();
        assert_eq!(points, [first, second]);
        match echo.fallible("that").await.unwrap_err() {
            CallError::Service(error) => assert_eq!(error, EchoError::Refused("that".into())),
            other => panic!("{other:?}"),
        }
        echo.nothing().await.unwrap();
    }
    server.stop().await.unwrap();
    broker.close().await;
}

async fn every_reply_queue_works(world: World) {
    let queue = unique("echo");
    let server = serve(&world, &queue).await;
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let broker = world
            .broker_with(rpc_runtime::Broker::builder().reply_queue(replies))
            .await;
        let echo = EchoClient::builder(&broker).queue(&queue).build();
        for text in ["one", "two", "three"] {
            assert_eq!(echo.text(text).await.unwrap(), text, "{replies:?}");
        }
        broker.close().await;
        let closed = echo.text("late").await.unwrap_err();
        assert_eq!(closed.executed(), Executed::No, "{closed:?}");
    }
    server.stop().await.unwrap();
}

async fn a_method_knows_its_caller(world: World) {
    let queue = unique("echo");
    let server = serve(&world, &queue).await;
    let options = rpc_runtime::Broker::builder().app_id("shop").send_user_id(true);
    let echo = EchoClient::builder(&world.broker_with(options).await)
        .queue(&queue)
        .build();
    let about = echo
        .about("tenant")
        .timeout(Duration::from_secs(60))
        .header("tenant", "a")
        .priority(4)
        .await
        .unwrap();
    let expected = ["a", "shop", "guest", "4"].map(|text| Some(text.to_owned()));
    assert_eq!(about, expected);

    let echo = EchoClient::builder(&world.broker().await).queue(&queue).build();
    let about = echo
        .about("tenant")
        .timeout(Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(about, [None, None, None, None]);
    server.stop().await.unwrap();
}

async fn plain_text_works_for_scalars_and_refuses_the_rest(world: World) {
    let queue = unique("echo");
    let server = serve(&world, &queue).await;
    let echo = EchoClient::builder(&world.broker().await)
        .queue(&queue)
        .codec(Codec::Text)
        .build();
    assert_eq!(echo.text("plain").await.unwrap(), "plain");
    assert_eq!(echo.bytes(&[0, 255]).await.unwrap(), [0, 255]);
    assert_eq!(echo.owned_bytes(vec![0, 255]).await.unwrap(), [0, 255]);
    match echo.fallible("that").await.unwrap_err() {
        CallError::ServiceText(text) => assert_eq!(text, "refused that"),
        other => panic!("{other:?}"),
    }
    // Two arguments: refused before anything is sent.
    let refused = echo.owned("a".into(), vec![]).await.unwrap_err();
    assert!(matches!(refused, CallError::Encode(_)), "{refused:?}");
    assert_eq!(refused.executed(), Executed::No);
    server.stop().await.unwrap();
}
