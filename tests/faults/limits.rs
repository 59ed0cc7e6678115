//! Limits of the broker's own that are lower than ours: what goes beyond them fails, and takes
//! nothing else along.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use rpc_runtime::{
    Broker, BrokerError, CallError, Executed, FaultCode, ReplyQueue, RequestQueue, Server, ServerError,
};
use rpc_tests::rabbit::{Node, shared_node, unique};
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::until;

use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::ledger::{Book, LedgerServer, client, fault, outcome, serve};

const MIB: usize = 1024 * 1024;

/// A node that takes no message of more than a mebibyte.
async fn narrow_node() -> Node {
    Node::start_with(&format!("max_message_size = {MIB}"))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_message_that_is_too_large_for_the_broker_fails_its_own_call() {
    let node = narrow_node().await;
    let (queue, book) = (unique("limits"), Book::behind(Gate::closed()));
    let worker = Broker::connect(node.url()).await.unwrap();
    let server = serve(&worker, RequestQueue::new(&queue), &book).await;
    let caller = Broker::connect(node.url()).await.unwrap();
    let ledger = client(&caller, &queue);

    // A reply: all replies leave at once, and the broker closes the channel over one of them.
    let others: Vec<_> = (0..20)
        .map(|number| tokio::spawn(ledger.write(&format!("beside a reply {number}"))))
        .collect();
    let too_large = tokio::spawn(ledger.produce(2 * MIB));
    book.gate.began(21).await;
    book.gate.let_all_go();
    let fault = fault(outcome(too_large).await);
    assert_eq!(fault.code, FaultCode::ReplyTooLarge);
    assert_eq!(fault.code.executed(), Executed::Yes);
    for other in others {
        outcome(other).await.unwrap();
    }

    // A request: the same happens to the caller's own channel.
    let large = vec![7; 2 * MIB];
    let reads = join_all((0..20).map(|number| ledger.read(&format!("beside a request {number}"))));
    let writes = join_all((0..20).map(|number| ledger.write(&format!("beside a request, write {number}"))));
    let too_large = async {
        for outcome in [ledger.consume(&large).await, ledger.look_at(&large).await] {
            match outcome.unwrap_err() {
                CallError::Broker {
                    source: BrokerError::ChannelClosed { .. },
                    executed,
                    ..
                } => assert_eq!(executed, Executed::Maybe),
                other => panic!("{other:?}"),
            }
        }
    };
    let all = async { tokio::join!(reads, writes, too_large) };
    let (reads, writes, ()) = soon("all calls end", all).await;
    for read in reads {
        read.unwrap();
    }
    soon("a call after all that", ledger.write("after"))
        .await
        .unwrap();
    server.stop().await.unwrap();
    for number in 0..20 {
        assert_eq!(book.runs(&format!("beside a reply {number}")), 1);
    }
    for (number, write) in writes.iter().enumerate() {
        book.assert_wrote_as_told(&format!("beside a request, write {number}"), write);
    }
}

/// The tag of the one consumer of a queue, which the broker has chosen; `None` where there is none,
/// for the moment.
async fn consumer_of(node: &Node, queue: &str) -> anyhow::Result<Option<String>> {
    let list = [
        "list_consumers",
        "queue_name",
        "consumer_tag",
        "--no-table-headers",
    ];
    let listed = node.ctl(&list).await?;
    let mut consumers = listed.lines().filter_map(|line| line.split_once('\t'));
    Ok(consumers.find_map(|(of, tag)| (of == queue).then(|| tag.to_owned())))
}

#[tokio::test]
async fn a_handler_that_outlasts_the_brokers_patience_runs_once_and_answers() {
    let node = Node::start_with("consumer_timeout = 1000").await.unwrap();
    // How often a channel looks; a minute, otherwise. It has no place in `rabbitmq.conf`.
    let often = "application:set_env(rabbit, channel_tick_interval, 500).";
    node.ctl(&["eval", often]).await.unwrap();
    let (queue, book) = (unique("limits"), Book::behind(Gate::closed()));
    let worker = Broker::connect(node.url()).await.unwrap();
    // RabbitMQ 4.3 has this limit for quorum queues only.
    let server = serve(&worker, RequestQueue::new(&queue).quorum(), &book).await;
    let caller = Broker::connect(node.url()).await.unwrap();
    let ledger = client(&caller, &queue);
    let first = consumer_of(&node, &queue).await.unwrap();
    assert!(first.is_some());

    let calls = [
        tokio::spawn(ledger.write("write").timeout(4 * SOON)),
        tokio::spawn(ledger.read("read").timeout(4 * SOON)),
    ];
    book.gate.began(2).await;
    // Twice, as it is delivered again and again.
    let mut seen = first;
    for _ in 0..2 {
        until("the broker has ended the consumer", 2 * SOON, async || {
            let now = consumer_of(&node, &queue).await?;
            let is_another = now.is_some() && now != seen;
            if is_another {
                seen = now;
            }
            Ok(is_another)
        })
        .await
        .unwrap();
    }
    book.gate.let_all_go();
    for call in calls {
        outcome(call).await.unwrap();
    }
    soon("a call after all that", ledger.write("after"))
        .await
        .unwrap();
    tokio::time::timeout(SOON, server.stop()).await.unwrap().unwrap();
    let runs = ["write", "read", "after"].map(|entry| book.runs(entry));
    assert_eq!(runs, [1; 3]);
    let peer = RawPeer::connect(node.url()).await.unwrap();
    peer.wait_until_empty(&queue, Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_queue_over_which_the_broker_closes_the_connection_is_refused_and_costs_others_one_connection() {
    // RabbitMQ 3 has no such setting, and does not start with it.
    if shared_node().await.version().await.unwrap() < (4, 0) {
        return;
    }
    let refusing = "deprecated_features.permit.transient_nonexcl_queues = false";
    let node = Node::start_with(refusing).await.unwrap();
    let (queue, book) = (unique("limits"), Book::behind(Gate::open()));
    let broker = Broker::connect(node.url()).await.unwrap();
    let beside = serve(&broker, RequestQueue::new(&queue), &book).await;

    let transient = unique("transient");
    for attempt in 0..2 {
        let mut changes = broker.status_changes();
        changes.next().await;
        let starting = Server::new(&broker)
            .serve_on(
                RequestQueue::new(&transient).transient(),
                LedgerServer::new(book.clone()),
            )
            .start();
        let Err(refused) = soon("the server does not start", starting).await else {
            panic!("it started");
        };
        let ServerError::Broker(BrokerError::Queue { queue, source, .. }) = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(*queue, transient);
        assert!(
            source.to_string().contains("transient_nonexcl_queues"),
            "{source}"
        );
        if attempt > 0 {
            // It was tried on a connection of its own.
            let change = changes.next().now_or_never();
            assert!(change.is_none(), "{change:?}");
        }
    }
    soon("another queue is served", client(&broker, &queue).write("beside"))
        .await
        .unwrap();
    beside.stop().await.unwrap();
}

#[tokio::test]
async fn headers_that_the_broker_adds_to_messages_change_no_call() {
    // RabbitMQ 4.2 and later; earlier versions do not start with it.
    if shared_node().await.version().await.unwrap() < (4, 2) {
        return;
    }
    let adding = "message_interceptors.incoming.set_header_timestamp.overwrite = true\n\
                  message_interceptors.incoming.set_header_routing_node.overwrite = true";
    let node = Node::start_with(adding).await.unwrap();
    let (queue, book) = (unique("limits"), Book::behind(Gate::open()));
    let worker = Broker::connect(node.url()).await.unwrap();
    let server = serve(&worker, RequestQueue::new(&queue), &book).await;
    let peer = RawPeer::connect(node.url()).await.unwrap();
    peer.declare("copy").await.unwrap();
    peer.publish("copy", Default::default(), b"").await.unwrap();
    let mut copies = peer.consume("copy").await.unwrap();
    let copy = next(&mut copies, SOON).await.unwrap().expect("a message");
    let headers = copy.properties.headers().clone().unwrap_or_default();
    assert!(
        headers.contains_key("timestamp_in_ms") && headers.contains_key("x-routed-by"),
        "{headers:?}"
    );

    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let caller = Broker::builder().reply_queue(replies);
        let caller = caller.address(node.url()).connect().await.unwrap();
        let ledger = client(&caller, &queue);
        // Alone, and then in batches.
        ledger.write("alone").await.unwrap();
        let together = (0..500).map(|number| ledger.write(&format!("{replies:?} {number}")));
        for outcome in join_all(together).await {
            outcome.unwrap();
        }
        until("the worker is found", SOON, async || {
            Ok(caller.discover().workers().await?.workers.len() == 1)
        })
        .await
        .unwrap();
    }
    server.stop().await.unwrap();
}
