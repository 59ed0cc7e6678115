//! One-way calls that leave together: what a caller sends, seen by a worker that is none of ours.

use std::collections::BTreeSet;

use lapin::options::QueueDeleteOptions;
use rpc_runtime::{BrokerBuilder, ReplyQueue};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::rabbit::shared;
use rpc_tests::until;

use super::raw_worker::{Arrival, RawWorker, at_once, numbers, outcomes};
use super::*;

#[service]
trait Notes {
    #[rpc(oneway)]
    async fn note(&self, n: u64);
    #[rpc(oneway, idempotent)]
    async fn file(&self, n: u64);
}

async fn client_of(worker: &RawWorker, broker: BrokerBuilder) -> NotesClient {
    let broker = broker.address(shared().await).connect().await.unwrap();
    NotesClient::builder(&broker)
        .queue(&worker.queue)
        .timeout(SOON)
        .build()
}

/// The calls that ask for the batch size, with the address for the answer.
fn asks(arrivals: &[Arrival]) -> Vec<(Uuid, String)> {
    let calls = arrivals.iter().flat_map(|arrival| &arrival.calls);
    let asks = calls.filter_map(|call| Some((call.id(), call.headers.get(BATCHING)?.clone())));
    asks.collect()
}

/// Answers calls that ask for the batch size.
async fn advise(worker: &RawWorker, asks: &[(Uuid, String)], batch_size: &str) {
    for (id, address) in asks {
        let properties = BasicProperties::default()
            .with_correlation_id(id.to_string().into())
            .with_headers(header(BATCHING, batch_size));
        worker.peer.publish(address, properties, b"").await.unwrap();
    }
}

/// Makes calls until the batch size is known to the client: the answer is read by another task.
async fn teach(worker: &mut RawWorker, client: &NotesClient, batch_size: &str) {
    let noted = at_once((0..5).map(|n| client.file(n)));
    let arrivals = worker.arrivals(5).await;
    assert!(outcomes(noted).await.iter().all(Result::is_ok));
    advise(worker, &asks(&arrivals), batch_size).await;
    until("calls leave together", SOON, async || {
        let noted = at_once((0..5).map(|n| client.file(n)));
        let arrivals = worker.arrivals(5).await;
        assert!(outcomes(noted).await.iter().all(Result::is_ok));
        Ok(arrivals.iter().any(Arrival::is_batched))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn oneway_calls_leave_together_once_a_worker_has_asked_for_it() {
    let mut worker = RawWorker::new().await;
    let client = client_of(&worker, Broker::builder().app_id("shop")).await;
    // One after another: there is nothing to gain, and nothing is asked.
    for n in 0..3 {
        client.file(n).await.unwrap();
        let arrivals = worker.arrivals(1).await;
        assert!(arrivals[0].calls[0].headers.is_empty());
    }
    let filed = at_once((0..20).map(|n| client.file(n)));
    let arrivals = worker.arrivals(20).await;
    assert!(outcomes(filed).await.iter().all(Result::is_ok));
    assert_eq!(arrivals.len(), 20);
    let asks = asks(&arrivals);
    assert_eq!(asks.len(), 1, "once for all");
    assert!(asks[0].1.starts_with("rpc.reply."), "{asks:?}");
    for arrival in &arrivals {
        assert!(arrival.delivery.properties.reply_to().is_none(), "it is one-way");
    }
    advise(&worker, &asks, "1000").await;
    teach(&mut worker, &client, "1000").await;

    let filed = at_once((0..20).map(|n| client.file(n).priority(3).header("tenant", "a")));
    let arrivals = worker.arrivals(20).await;
    assert!(outcomes(filed).await.iter().all(Result::is_ok));
    assert_eq!(numbers(&arrivals), (0..20).collect());
    assert_eq!(arrivals.len(), 1, "one message");
    let properties = &arrivals[0].delivery.properties;
    let expected = BasicProperties::default()
        .with_type("rpc.batch".into())
        .with_content_type(MESSAGE_PACK.into())
        .with_correlation_id(properties.correlation_id().clone().expect("one"))
        .with_priority(3)
        .with_app_id("shop".into())
        .with_delivery_mode(2);
    assert_eq!(
        *properties, expected,
        "persistent, without an end, and nobody to answer"
    );
    let ids: BTreeSet<_> = arrivals[0].calls.iter().map(BatchedCall::id).collect();
    assert_eq!(ids.len(), 20, "each its own");
    for call in &arrivals[0].calls {
        assert_eq!((call.method.as_str(), call.millis), ("file", None));
        assert_eq!(call.headers.get("tenant").map(String::as_str), Some("a"));
    }
    // What is said of one method is said of no other.
    let noted = at_once((0..5).map(|n| client.note(n)));
    assert_eq!(worker.arrivals(5).await.len(), 5);
    assert!(outcomes(noted).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn an_answer_says_how_many_and_to_whom_only() {
    let mut worker = RawWorker::new().await;
    let client = client_of(&worker, Broker::builder()).await;
    for batch_size in ["", "many", "0", "1"] {
        let filed = at_once((0..5).map(|n| client.file(n)));
        let arrivals = worker.arrivals(5).await;
        assert!(outcomes(filed).await.iter().all(Result::is_ok));
        advise(&worker, &asks(&arrivals), batch_size).await;
        // Of a call that nobody made.
        let address = asks(&arrivals).pop().map(|(_, address)| address);
        if let Some(address) = address {
            advise(&worker, &[(Uuid::new_v4(), address)], "1000").await;
        }
        // Longer than until the next question.
        sleep(Duration::from_millis(300)).await;
        let filed = at_once((0..5).map(|n| client.file(n)));
        let arrivals = worker.arrivals(5).await;
        assert_eq!(arrivals.len(), 5, "{batch_size:?}");
        assert!(outcomes(filed).await.iter().all(Result::is_ok));
        sleep(Duration::from_millis(300)).await;
    }
}

/// A direct reply-to address is valid only in `reply_to`, and with that the call would not be
/// one-way.
#[tokio::test]
async fn oneway_calls_of_a_caller_with_direct_replies_leave_alone() {
    let mut worker = RawWorker::new().await;
    let client = client_of(&worker, Broker::builder().reply_queue(ReplyQueue::Direct)).await;
    let filed = at_once((0..20).map(|n| client.file(n)));
    let arrivals = worker.arrivals(20).await;
    assert!(outcomes(filed).await.iter().all(Result::is_ok));
    assert_eq!((arrivals.len(), asks(&arrivals).len()), (20, 0));
}

#[tokio::test]
async fn oneway_calls_leave_alone_if_the_batch_queue_is_gone_and_none_is_lost() {
    let mut worker = RawWorker::new().await;
    let client = client_of(&worker, Broker::builder()).await;
    teach(&mut worker, &client, "1000").await;
    let deleted = worker.peer.channel().queue_delete(
        batched(&worker.queue).as_str().into(),
        QueueDeleteOptions::default(),
    );
    soon("the queue is deleted", deleted).await.unwrap();
    let filed = at_once((0..20).map(|n| client.file(n)));
    let arrivals = worker.arrivals_alone(20).await;
    assert!(outcomes(filed).await.iter().all(Result::is_ok));
    assert_eq!(numbers(&arrivals), (0..20).collect());
    let is_resent = |arrival: &Arrival| arrival.calls[0].headers.contains_key("rpc-resent");
    assert!(!arrivals.iter().any(is_resent), "they reached nobody");
}
