//! What an operator limits and mistypes: the error has a type and says what to do, and nothing is
//! tried without pause or told again and again.

use std::time::Duration;

use lapin::BasicProperties;
use rpc_runtime::{Broker, BrokerError, CallError, Executed, RequestQueue, Server, ServerError, Status};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::ledger::{Book, LedgerServer, client, serve};
use rpc_tests::log::Log;
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{Node, Permissions, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::until;
use tokio::time::{Instant, sleep, timeout};
use tracing::Level;

const EVERYTHING: Permissions<'_> = Permissions {
    configure: ".*",
    write: ".*",
    read: ".*",
};

/// The URL of a node for a user, and with more behind it.
fn url_of(node: &Node, user: &str, rest: &str) -> String {
    let (_, server) = node.url().split_once('@').expect("a URL with a user");
    format!("amqp://{user}@{server}{rest}")
}

/// A server of so many queues, which nobody else has.
fn server_of(broker: &Broker, queues: usize) -> Server {
    let book = Book::behind(Gate::open());
    (0..queues).fold(Server::new(broker), |server, _| {
        server.serve_on(
            RequestQueue::new(unique("limits")),
            LedgerServer::new(book.clone()),
        )
    })
}

#[track_caller]
fn assert_too_many_channels(ended: Result<(), ServerError>) {
    match ended {
        Err(ServerError::Broker(error @ BrokerError::TooManyChannels { .. })) => {
            assert!(error.to_string().contains("channel_max"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// One number of a closed channel that cannot be used again is not the reason for the limit.
#[tokio::test]
async fn a_limit_of_channels_costs_no_connection_after_a_refusal() {
    let node = Node::start().await.unwrap();
    let proxy = Proxy::start(node.url()).await.unwrap();
    let broker = Broker::connect(&format!("{}?channel_max=8", proxy.url()))
        .await
        .unwrap();
    let (queue, book) = (unique("limits"), Book::behind(Gate::open()));
    let server = serve(&broker, RequestQueue::new(&queue), &book).await;
    let connections = proxy.counts(Target::All).accepted;
    let refused = Server::new(&broker)
        .serve_on(
            RequestQueue::new(&queue).transient(),
            LedgerServer::new(book.clone()),
        )
        .start();
    assert!(soon("the server does not start", refused).await.is_err());
    for _ in 0..3 {
        let started = soon("the server does not start", server_of(&broker, 9).start()).await;
        assert_too_many_channels(started.map(drop));
    }
    let caller = Broker::connect(node.url()).await.unwrap();
    client(&caller, &queue).read("served").await.unwrap();
    assert_eq!(proxy.counts(Target::All).accepted, connections);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_needs_more_channels_than_its_address_allows_does_not_start() {
    let node = Node::start().await.unwrap();
    for (channels, queues) in [(1, 2), (2, 3), (3, 5)] {
        let broker = Broker::connect(&format!("{}?channel_max={channels}", node.url()))
            .await
            .unwrap();
        let starting = server_of(&broker, queues).start();
        let started = soon("the server starts, or not", starting).await;
        assert_too_many_channels(started.map(drop));
        assert!(broker.status().is_ready());
    }

    // Two are enough for a queue that is served without discovery, whose calls can be cancelled.
    // Its caller needs another.
    let broker = Broker::connect(&format!("{}?channel_max=2", node.url()))
        .await
        .unwrap();
    let queue = unique("limits");
    let starting = Server::new(&broker)
        .batching(false)
        .self_description(false)
        .serve_on(
            RequestQueue::new(&queue),
            LedgerServer::new(Book::behind(Gate::open())),
        )
        .start();
    let server = soon("the server starts", starting).await.unwrap();
    for _ in 0..2 {
        let begun = Instant::now();
        match client(&broker, &queue).read("one").await {
            Err(CallError::Broker {
                source: BrokerError::TooManyChannels { .. },
                executed: Executed::No,
                ..
            }) => {}
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < SOON / 3);
    }
    let caller = Broker::connect(node.url()).await.unwrap();
    client(&caller, &queue).read("two").await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_needs_more_channels_than_the_broker_allows_does_not_start() {
    let node = Node::start_with("channel_max = 3").await.unwrap();
    let broker = Broker::connect(node.url()).await.unwrap();
    let starting = server_of(&broker, 5).start();
    let started = soon("the server starts, or not", starting).await;
    assert_too_many_channels(started.map(drop));
}

/// RabbitMQ closes the connection of who opens one channel more.
#[tokio::test]
async fn a_channel_limit_is_reported_and_retried_with_pauses() {
    let node = Node::start().await.unwrap();
    node.add_user("narrow", "narrow", EVERYTHING).await.unwrap();
    node.ctl(&["set_user_limits", "narrow", r#"{"max-channels": 1}"#])
        .await
        .unwrap();
    let proxy = Proxy::start(&url_of(&node, "narrow:narrow", "")).await.unwrap();
    let broker = Broker::connect(proxy.url()).await.unwrap();
    let starting = server_of(&broker, 3).start();
    let started = soon("the server starts, or not", starting).await;
    assert_too_many_channels(started.map(drop));

    let ledger = client(&broker, &unique("limits"));
    match soon("the call ends", ledger.read("one")).await {
        Err(CallError::Broker {
            source: BrokerError::TooManyChannels { .. },
            executed: Executed::No,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    let before = proxy.counts(Target::All).accepted;
    sleep(Duration::from_secs(5)).await;
    let tried = proxy.counts(Target::All).accepted - before;
    assert!(tried <= 5, "{tried} connections in five seconds");
}

#[tokio::test]
async fn direct_replies_without_a_connection_are_given_up_and_other_callers_are_served() {
    const PLACES: u16 = 8;

    let node = Node::start().await.unwrap();
    let queue = unique("limits");
    let worker = Broker::connect(node.url()).await.unwrap();
    let server = Server::new(&worker)
        .concurrency(PLACES)
        .serve_on(
            RequestQueue::new(&queue),
            LedgerServer::new(Book::behind(Gate::open())),
        )
        .start()
        .await
        .unwrap();
    let caller = Broker::connect(node.url()).await.unwrap();
    let ledger = client(&caller, &queue);
    ledger.consume(b"").await.unwrap();
    let peer = RawPeer::connect(node.url()).await.unwrap();
    let mut replies = peer.consume("amq.rabbitmq.reply-to").await.unwrap();
    let ask = || {
        let properties = BasicProperties::default()
            .with_reply_to("amq.rabbitmq.reply-to".into())
            .with_type("consume".into())
            .with_content_type("application/json".into());
        peer.publish(&queue, properties, b"[[1]]")
    };

    // As many as there are now.
    node.ctl(&["set_vhost_limits", r#"{"max-connections": 5}"#])
        .await
        .unwrap();
    let flood = async {
        for _ in 0..40 {
            for _ in 0..PLACES {
                ask().await.unwrap();
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let calling = async {
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            let begun = Instant::now();
            ledger.consume(b"").await.unwrap();
            longest = longest.max(begun.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
        longest
    };
    let ((), longest) = tokio::join!(flood, calling);
    assert!(longest < Duration::from_secs(15), "{longest:?}");

    // Once there is room for the connection, direct callers are served too.
    node.ctl(&["clear_vhost_limits"]).await.unwrap();
    until("a direct reply comes", SOON, async || {
        ask().await?;
        Ok(next(&mut replies, Duration::from_secs(1)).await?.is_some())
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_invalid_address_is_reported_once() {
    let node = Node::start().await.unwrap();
    let nowhere = format!("amqp://localhost:{}", unused_port());
    for url in [
        url_of(&node, "guest:wrong", ""),
        format!("{}nowhere", node.url().trim_end_matches("%2f")),
        nowhere,
    ] {
        let (log, guard) = Log::start(Level::WARN);
        let broker = Broker::builder().address(&url).lazy().unwrap();
        let mut changes = broker.status_changes();
        let first = changes.next().await;
        assert!(
            matches!(first, Some(Status::Connecting { last_error: None, .. })),
            "{first:?}"
        );
        match soon("the first attempt fails", changes.next()).await {
            Some(Status::Connecting {
                last_error: Some(_), ..
            }) => {}
            other => panic!("{url}: {other:?}"),
        }
        // Some more attempts.
        let more = timeout(Duration::from_secs(3), changes.next()).await;
        assert!(more.is_err(), "{url}: {more:?}");
        broker.close().await;
        drop(guard);
        let warnings = log.lines_about("rpc_runtime");
        assert_eq!(warnings.len(), 1, "{url}: {warnings:#?}");
    }
}

/// A port at which nobody listens.
fn unused_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn connections_have_names_for_operators() {
    let node = Node::start().await.unwrap();
    let named = Broker::builder()
        .connection_name("shop")
        .address(node.url())
        .connect()
        .await
        .unwrap();
    let _unnamed = Broker::connect(node.url()).await.unwrap();
    let queue = unique("names");
    let server = serve(&named, RequestQueue::new(&queue), &Book::behind(Gate::open())).await;
    let caller = Broker::builder()
        .reply_queue(rpc_runtime::ReplyQueue::Direct)
        .connection_name("caller")
        .address(node.url())
        .connect()
        .await
        .unwrap();
    client(&caller, &queue).read("one").await.unwrap();

    let list = ["list_connections", "--no-table-headers", "client_properties"];
    let listed = node.ctl(&list).await.unwrap();
    let lines: Vec<_> = listed.lines().collect();
    for name in [
        "shop: rpc publish",
        "shop: rpc consume",
        "shop: rpc direct replies",
        "caller: rpc publish",
        // The test's own program.
        "faults-",
    ] {
        let line = lines.iter().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {lines:#?}"));
        let version = env!("CARGO_PKG_VERSION");
        let pid = std::process::id().to_string();
        for property in ["rpc-runtime", version, "rust", &pid] {
            assert!(line.contains(property), "no {property} in {line}");
        }
    }
    server.stop().await.unwrap();
}
