//! A peer can neither forge lines of a log nor fill it.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_runtime::{Broker, RequestQueue, RunningServer, Server, service};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::log::Log;
use rpc_tests::rabbit::{self, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use tracing::Level;

#[service]
trait Greeter {
    #[rpc(default)]
    async fn greet(&self, name: &str) -> String;
    async fn panic(&self);
}

struct Polite;

impl Greeter for Polite {
    async fn greet(&self, name: &str) -> String {
        format!("hello, {name}")
    }

    async fn panic(&self) {
        panic!("as it is asked to");
    }
}

async fn serve(broker: &Broker, queue: &str) -> RunningServer {
    Server::new(broker)
        .serve_on(RequestQueue::new(queue), GreeterServer::new(Polite))
        .start()
        .await
        .unwrap()
}

/// Begins a line of its own where it is printed as it is, clears a terminal, and turns the
/// direction of text.
const FORGED: &str = "x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}";

#[track_caller]
fn assert_nothing_is_forged(log: &Log) {
    let text = log.text();
    assert!(text.contains("forged"), "it is logged: {text}");
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01")), "{text}");
    let is_loose = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!text.contains(is_loose), "{text:?}");
}

/// Each place of a request that a peer chooses the text of.
fn forgeries(reply_to: &str) -> Vec<(BasicProperties, Vec<u8>)> {
    let with = || {
        BasicProperties::default()
            .with_reply_to(reply_to.into())
            .with_correlation_id(FORGED.into())
            .with_kind("greet")
    };
    let mut headers = FieldTable::default();
    headers.insert(FORGED.into(), AMQPValue::LongString(FORGED.into()));
    headers.insert("traceparent".into(), AMQPValue::LongString(FORGED.into()));
    vec![
        (with().with_reply_to(FORGED.into()), Vec::new()),
        (with().with_kind(FORGED), Vec::new()),
        (with().with_kind("panic"), Vec::new()),
        (with().with_content_type(FORGED.into()), FORGED.into()),
        (
            with()
                .with_content_type("application/json".into())
                .with_headers(headers),
            serde_json::to_vec(&serde_json::json!({"name": {FORGED: FORGED}})).unwrap(),
        ),
        (
            with().with_kind("rpc.batch").with_content_type(FORGED.into()),
            FORGED.into(),
        ),
        (with().with_app_id(FORGED.into()), vec![0xff]),
    ]
}

trait WithKind {
    fn with_kind(self, kind: &str) -> Self;
}

impl WithKind for BasicProperties {
    fn with_kind(self, kind: &str) -> Self {
        self.with_type(kind.into())
    }
}

#[tokio::test]
async fn no_request_begins_a_line_of_a_workers_log() {
    let (log, _guard) = Log::start(Level::TRACE);
    let queue = unique("logs");
    let broker = Broker::connect(rabbit::shared().await).await.unwrap();
    let server = serve(&broker, &queue).await;
    let peer = RawPeer::connect(rabbit::shared().await).await.unwrap();
    let replies = peer.declare_exclusive().await.unwrap();
    for to in [queue.clone(), format!("{queue}.batch")] {
        for (properties, body) in forgeries(&replies) {
            peer.publish(&to, properties, &body).await.unwrap();
        }
        soon("all are settled", async {
            peer.wait_until_empty(&to, SOON).await.unwrap();
        })
        .await;
    }
    soon("it serves", async {
        GreeterClient::builder(&broker)
            .queue(queue.as_str())
            .build()
            .greet("Ann")
            .await
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    assert_nothing_is_forged(&log);
}

#[tokio::test]
async fn no_reply_begins_a_line_of_a_callers_log() {
    let (log, _guard) = Log::start(Level::TRACE);
    let queue = unique("logs");
    let peer = RawPeer::connect(rabbit::shared().await).await.unwrap();
    peer.declare(&queue).await.unwrap();
    let mut requests = peer.consume(&queue).await.unwrap();
    let broker = Broker::connect(rabbit::shared().await).await.unwrap();
    let client = GreeterClient::builder(&broker).queue(queue.as_str()).build();
    let fault = serde_json::to_vec(&serde_json::json!({"code": FORGED, "message": FORGED})).unwrap();
    let replies = [
        ("fault", "application/json", fault),
        (FORGED, FORGED, FORGED.into()),
        ("result", FORGED, FORGED.into()),
        ("result", "application/json", FORGED.into()),
        (
            "result",
            "application/json",
            format!(r#"{{"{FORGED}": 1}}"#).into(),
        ),
        ("rpc.batch", FORGED, FORGED.into()),
    ];
    for (kind, content_type, body) in replies {
        let call = tokio::spawn(client.greet("Ann").timeout(Duration::from_secs(5)).into_future());
        let request = soon("a request", rpc_tests::raw::next(&mut requests, SOON))
            .await
            .unwrap()
            .unwrap();
        let reply_to = request.properties.reply_to().clone().unwrap();
        let properties = BasicProperties::default()
            .with_type(kind.into())
            .with_content_type(content_type.into())
            .with_correlation_id(request.properties.correlation_id().clone().unwrap());
        peer.publish(reply_to.as_str(), properties.clone(), &body)
            .await
            .unwrap();
        // And one that no call waits for.
        let stray = properties.with_correlation_id(FORGED.into());
        peer.publish(reply_to.as_str(), stray, &body).await.unwrap();
        let error = call.await.unwrap().unwrap_err();
        tracing::warn!(error = %rpc_runtime::Chain(&error), "forged replies are told by their chain");
    }
    broker.close().await;
    assert_nothing_is_forged(&log);
}

#[tokio::test]
async fn ten_thousand_bad_requests_are_a_handful_of_lines_and_a_count() {
    const FLOOD: u64 = 10_000;

    let (log, _guard) = Log::start(Level::DEBUG);
    let queue = unique("logs");
    let broker = Broker::connect(rabbit::shared().await).await.unwrap();
    let server = serve(&broker, &queue).await;
    let peer = RawPeer::connect(rabbit::shared().await).await.unwrap();
    let kinds = [
        BasicProperties::default().with_reply_to(FORGED.into()),
        BasicProperties::default().with_kind("missing"),
        BasicProperties::default().with_content_type("image/png".into()),
    ];
    for properties in &kinds {
        for _ in 0..FLOOD {
            let options = BasicPublishOptions::default();
            let published = peer.channel().basic_publish(
                "".into(),
                queue.as_str().into(),
                options,
                b"x",
                properties.clone(),
            );
            drop(published.await.unwrap());
        }
    }
    peer.wait_until_empty(&queue, Duration::from_secs(60))
        .await
        .unwrap();
    let suppressed = |line: &String| {
        let (_, count) = line.split_once("suppressed=")?;
        count.split_whitespace().next()?.parse::<u64>().ok()
    };
    // Workers of other tests are asked questions meanwhile, and so is this one.
    let about = |what: &str| {
        let mut lines = log.lines_about(what);
        lines.retain(|line| line.contains(&queue));
        lines
    };
    for what in [
        "reply_address",
        "refused: unknown_method",
        "refused: unsupported_content_type",
    ] {
        let shown = match what {
            "reply_address" => "its reply_to are not allowed",
            kind => kind.trim_start_matches("refused: "),
        };
        let lines = || {
            let summary = about(&format!("kind=\"{what}\""));
            let shown: Vec<_> = about(shown)
                .into_iter()
                .filter(|line| !line.contains("kind="))
                .collect();
            [shown, summary].concat()
        };
        until(&format!("all of {what} are counted"), SOON, async || {
            let lines = lines();
            let counted: u64 = lines.iter().filter_map(suppressed).sum();
            let shown = lines.iter().filter(|line| !line.contains("kind=")).count();
            Ok(counted + shown as u64 == FLOOD)
        })
        .await
        .unwrap();
        assert!(lines().len() < 30, "{what}: {:#?}", lines());
    }
    server.stop().await.unwrap();
}
