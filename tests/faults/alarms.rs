//! A broker that reads nothing that is published, because it is low on memory: calls wait and say
//! so, replies arrive, and whoever stops, stops.

use std::time::Duration;

use rpc_runtime::{Broker, BrokerError, CallError, Executed, RequestQueue, Server, ServerError, Status};
use rpc_tests::proxy::{Direction, Proxy, Target};
use rpc_tests::rabbit::{Node, unique};
use rpc_tests::until;
use tokio::time::Instant;

use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::ledger::{Book, LedgerServer, assert_interrupted, client, outcome, serve};

/// How long closing a handle takes at most, as its documentation has it.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

async fn is_blocked(broker: &Broker) {
    until("the broker blocks it", SOON, async || {
        Ok(matches!(broker.status(), Status::Blocked { .. }))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_alarm_delays_calls_and_nothing_else() {
    let node = Node::start().await.unwrap();
    let (queue, book) = (unique("alarm"), Book::behind(Gate::closed()));
    let worker = Broker::connect(node.url()).await.unwrap();
    let first = serve(&worker, RequestQueue::new(&queue), &book).await;
    let proxy = Proxy::start(node.url()).await.unwrap();
    let caller = Broker::connect(proxy.url()).await.unwrap();
    let ledger = client(&caller, &queue);
    book.gate.let_go(1);
    ledger.read("first").await.unwrap();
    book.gate.began(1).await;

    // A reply that the broker has, and the caller has not: its worker has stopped, and so has the
    // broker's word on it.
    let hole = proxy.black_hole(Target::Named("rpc consume"), Direction::FromBroker);
    let replied = tokio::spawn(ledger.write("replied"));
    book.gate.began(1).await;
    book.gate.let_go(1);
    first.stop().await.unwrap();

    let drain = Duration::from_secs(1);
    let second = Server::new(&worker)
        .drain_timeout(drain)
        .serve_on(RequestQueue::new(&queue), LedgerServer::new(book.clone()))
        .start()
        .await
        .unwrap();
    let running = [
        tokio::spawn(ledger.write("running")),
        tokio::spawn(ledger.write("running too")),
    ];
    book.gate.began(2).await;

    node.ctl(&["set_vm_memory_high_watermark", "0.00001"])
        .await
        .unwrap();
    // The broker tells who publishes, and the first to do so may still get through.
    let telltale = tokio::spawn(ledger.write("telltale"));
    is_blocked(&caller).await;
    match caller.status() {
        Status::Blocked { reason, .. } => assert!(reason.contains("memory"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let error = ledger
        .write("blocked")
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    match &error {
        CallError::TimedOut {
            source: Some(BrokerError::Blocked { reason, .. }),
            executed: Executed::No,
            ..
        } => assert!(reason.contains("memory"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(error.is_retryable());

    assert!(!replied.is_finished());
    hole.heal().await;
    outcome(replied).await.unwrap();
    assert!(matches!(caller.status(), Status::Blocked { .. }));

    // Of the replies, one may get through; then the broker blocks the worker too.
    book.gate.let_go(1);
    is_blocked(&worker).await;
    book.gate.let_all_go();
    let begun = Instant::now();
    let stopped = soon("the worker stops", second.stop()).await;
    assert!(
        matches!(stopped, Err(ServerError::DrainTimedOut { .. })),
        "{stopped:?}"
    );
    assert!(begun.elapsed() < drain + CLOSE_LIMIT / 2, "{:?}", begun.elapsed());
    let begun = Instant::now();
    worker.close().await;
    assert!(begun.elapsed() < CLOSE_LIMIT, "{:?}", begun.elapsed());
    assert!(matches!(caller.status(), Status::Blocked { .. }));

    node.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"])
        .await
        .unwrap();
    let worker = Broker::connect(node.url()).await.unwrap();
    let third = serve(&worker, RequestQueue::new(&queue), &book).await;
    soon("a call after all that", ledger.read("after")).await.unwrap();
    assert!(caller.status().is_ready());
    let [one, other] = running;
    let running = [outcome(one).await, outcome(other).await];
    let telltale = outcome(telltale).await;
    soon("the worker stops", third.stop()).await.unwrap();
    assert_eq!(book.runs("replied"), 1);
    assert_eq!(book.runs("blocked"), 0);
    book.assert_wrote_as_told("telltale", &telltale);
    // At least one of the two was lost with its worker.
    let interrupted = running.into_iter().filter(Result::is_err);
    assert!(interrupted.map(assert_interrupted).count() > 0);
}

/// Calls that wait in a batch are dropped by their callers, all of them, before the first can
/// leave.
#[tokio::test]
async fn calls_that_are_dropped_during_an_alarm_take_no_later_ones_along() {
    let node = Node::start().await.unwrap();
    let (queue, book) = (unique("alarm"), Book::behind(Gate::open()));
    let worker = Broker::connect(node.url()).await.unwrap();
    let server = serve(&worker, RequestQueue::new(&queue), &book).await;
    let caller = Broker::connect(node.url()).await.unwrap();
    let ledger = client(&caller, &queue);
    // Until the worker has asked for batches.
    for _ in 0..4 {
        let calls = (0..64).map(|_| ledger.look_at(b"quick"));
        for outcome in futures_util::future::join_all(calls).await {
            outcome.unwrap();
        }
    }

    node.ctl(&["set_vm_memory_high_watermark", "0.00001"])
        .await
        .unwrap();
    let call = || tokio::spawn(ledger.look_at(b"dropped").timeout(Duration::from_secs(600)));
    // The first of these tell the broker that somebody publishes. They stay unconfirmed, and others
    // wait behind them in their batch.
    let mut dropped: Vec<_> = std::iter::repeat_with(call).take(1000).collect();
    is_blocked(&caller).await;
    // Those that are made from now on are not looked at before the alarm is over.
    dropped.extend(std::iter::repeat_with(call).take(4000));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for call in dropped {
        call.abort();
    }

    node.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"])
        .await
        .unwrap();
    for _ in 0..3 {
        soon("a call after all that", ledger.look_at(b"after"))
            .await
            .unwrap();
    }
    server.stop().await.unwrap();
}
