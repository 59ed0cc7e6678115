//! What a caller batches, seen by a worker that is none of ours; and what such a worker may answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use rpc_runtime::{Broker, CallError, Codec, Executed, FaultCode, ReplyQueue, WhenFull};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::until;
use serde::Serialize;

use super::raw_worker::{RawWorker, assert_answered, at_once, numbers, outcomes};
use super::*;

#[tokio::test]
async fn calls_made_at_once_leave_in_one_message_once_a_worker_has_asked_for_it() {
    for codec in CODECS {
        let mut worker = RawWorker::new().await;
        let broker = Broker::builder().app_id("shop").send_user_id(true);
        let broker = broker.address(shared().await).connect().await.unwrap();
        let client = worker.client_of(&broker, codec);
        // Nobody has asked for it yet; the caller says that it can.
        let calls = at_once((0..5).map(|n| client.echo(n).header("tenant", "a")));
        let arrivals = worker.arrivals(5).await;
        assert_eq!(arrivals.len(), 5);
        for arrival in &arrivals {
            let expected = [(BATCHING, ""), ("tenant", "a")].map(|(name, value)| (name.into(), value.into()));
            assert_eq!(arrival.calls[0].headers, expected.into());
        }
        worker.answer(&arrivals, 0).await;
        assert_answered(calls, 0..5).await;

        worker.teach(client.echo(0).priority(3), "1000").await;
        let limit = Duration::from_secs(20);
        let call = |n: u64| {
            let call = client.echo(n).timeout(limit).priority(3);
            call.header("tenant", "b").header("number", n.to_string())
        };
        let calls = at_once((0..20).map(call));
        let arrivals = worker.arrivals(20).await;
        assert_eq!(arrivals.len(), 1, "one message");
        let arrival = &arrivals[0];

        let properties = &arrival.delivery.properties;
        assert_eq!(text(properties.kind()), "rpc.batch");
        let millis = arrival.calls.iter().map(|call| call.millis.expect("a limit"));
        let expected = BasicProperties::default()
            .with_type("rpc.batch".into())
            .with_content_type(codec.content_type().into())
            .with_correlation_id(properties.correlation_id().clone().expect("one"))
            .with_reply_to(properties.reply_to().clone().expect("one"))
            .with_expiration(millis.clone().min().expect("twenty").to_string().into())
            .with_priority(3)
            .with_app_id("shop".into())
            .with_user_id("guest".into())
            .with_delivery_mode(1);
        assert_eq!(*properties, expected);
        assert!(arrival.reply_to().starts_with("rpc.reply."));
        assert!(millis.clone().all(|millis| millis > 10_000 && millis <= 20_000));

        let ids: BTreeSet<_> = arrival.calls.iter().map(BatchedCall::id).collect();
        assert_eq!(ids.len(), 20, "each its own");
        for (n, call) in (0..20).zip(&arrival.calls) {
            assert_eq!(call.id().get_version_num(), 4, "random");
            assert_eq!(call.method, "echo");
            assert_eq!(call.arguments, written(codec.content_type(), &Numbered { n }));
            let expected = [("tenant", "b".to_owned()), ("number", n.to_string())];
            let expected = expected.map(|(name, value)| (name.to_owned(), value));
            assert_eq!(call.headers, expected.into());
        }
        worker.answer(&arrivals, 0).await;
        assert_answered(calls, 0..20).await;
    }
}

#[tokio::test]
async fn answers_reach_their_own_calls_batched_or_not_and_in_any_order() {
    for codec in CODECS {
        let mut worker = RawWorker::new().await;
        let client = worker.client(codec).await;
        let calls = worker.made_at_once(&client, 0..12).await;
        let arrivals = worker.arrivals(12).await;
        let arrival = &arrivals[0];
        assert_eq!(arrivals.len(), 1);
        let answers: Vec<_> = arrival.calls.iter().map(|call| arrival.answer(call, 7)).collect();
        // A few by themselves, the others in two messages, with that of nobody's call among them.
        for n in [3, 0, 11] {
            worker.reply_alone(arrival, &arrival.calls[n], None).await;
        }
        let stray = BatchedAnswer {
            id: Bytes::copy_from_slice(Uuid::new_v4().as_bytes()),
            ..answers[1].clone()
        };
        let [error, fault] = [1, 2].map(|kind| BatchedAnswer {
            kind,
            ..answers[kind as usize + 3].clone()
        });
        let fault_body = FaultBody {
            code: "panicked".into(),
            message: "it did".into(),
        };
        let fault = BatchedAnswer {
            body: written(codec.content_type(), &fault_body).into(),
            ..fault
        };
        let first = [answers[10].clone(), stray, error, answers[1].clone(), fault];
        worker.reply_batched(arrival, &first).await;
        let rest: Vec<_> = [9, 8, 7, 6, 2].map(|n: usize| answers[n].clone()).into();
        worker.reply_batched(arrival, &rest).await;

        for (n, outcome) in (0..).zip(outcomes(calls).await) {
            match (n, outcome) {
                // A method that has no error of its own does not read one.
                (4, Err(error)) => assert_eq!(error.executed(), Executed::Yes, "{error:?}"),
                (5, Err(CallError::Fault(fault))) => assert_eq!(fault.code, FaultCode::Panicked),
                (n, outcome) => assert_eq!(outcome.unwrap(), n),
            }
        }
    }
}

#[tokio::test]
async fn an_error_in_a_batched_reply_is_typed() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    let calls = worker.made_at_once(&client, 0..2).await;
    let refused = tokio::spawn(client.refuse(7));
    let arrivals = worker.arrivals(3).await;
    let arrival = arrivals
        .iter()
        .find(|arrival| arrival.calls.iter().any(|call| call.method == "refuse"));
    let arrival = arrival.expect("it arrived");
    let call = arrival.calls.iter().find(|call| call.method == "refuse").unwrap();
    let error = BatchedAnswer {
        kind: 1,
        body: written(MESSAGE_PACK, &Refusal { number: 7 }).into(),
        ..arrival.answer(call, 1)
    };
    worker.reply_batched(arrival, &[error]).await;
    match soon("the call ends", refused).await.unwrap() {
        Err(CallError::Service(refusal)) => assert_eq!(refusal, Refusal { number: 7 }),
        other => panic!("{other:?}"),
    }
    worker.answer(&arrivals, 1).await;
    assert_answered(calls, 0..2).await;
}

/// An answer with headers, and with more behind them.
fn with<H: Serialize>(answer: &BatchedAnswer, headers: H) -> impl Serialize {
    let more = (1.5, Some(()));
    (
        answer.id.clone(),
        answer.kind,
        answer.body.clone(),
        answer.wanted,
        headers,
        // The milliseconds that it has waited in the queue.
        3,
        "later",
        more,
    )
}

#[tokio::test]
async fn a_batched_reply_that_cannot_be_read_harms_nothing() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    let calls = worker.made_at_once(&client, 0..5).await;
    let arrivals = worker.arrivals(5).await;
    let arrival = &arrivals[0];
    let answers: Vec<_> = arrival.calls.iter().map(|call| arrival.answer(call, 7)).collect();
    let whole = batch(&answers);
    let unknown_kind = BatchedAnswer {
        kind: 9,
        ..answers[0].clone()
    };
    let short_id = BatchedAnswer {
        id: Bytes::from_static(b"0123456789"),
        ..answers[0].clone()
    };
    for body in [
        &b""[..],
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        &whole[..whole.len() - 1],
        &[&whole, &b"\xc0"[..]].concat(),
        &batch(&[unknown_kind]),
        &batch(&[short_id]),
        &batch(&[(1, 2)]),
    ] {
        worker.reply_batched_raw(arrival, body).await;
    }
    // Headers that are none.
    let no_headers: Vec<_> = answers.iter().map(|answer| with(answer, "none")).collect();
    worker.reply_batched_raw(arrival, &batch(&no_headers)).await;
    // What a later version may add is skipped.
    let headers = BTreeMap::from([("traceparent", "00-1-2-01")]);
    let more: Vec<_> = answers.iter().map(|answer| with(answer, &headers)).collect();
    worker.reply_batched(arrival, &[] as &[BatchedAnswer]).await;
    worker.reply_batched_raw(arrival, &batch(&more)).await;
    assert_answered(calls, 0..5).await;
}

#[tokio::test]
async fn no_message_has_more_calls_than_are_wanted() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    for (wanted, most) in [("3", 3), ("1", 1), ("2", 2)] {
        worker.teach(client.echo(0), wanted).await;
        let calls = at_once((0..20).map(|n| client.echo(n)));
        let arrivals = worker.arrivals(20).await;
        assert_eq!(numbers(&arrivals), (0..20).collect(), "{wanted}");
        let largest = arrivals.iter().map(|arrival| arrival.calls.len()).max();
        assert_eq!(largest, Some(most), "{wanted}");
        worker.answer(&arrivals, most as u16).await;
        assert_answered(calls, 0..20).await;
    }
    // What is said of one method is said of no other.
    worker.teach(client.echo(0), "1000").await;
    let calls = at_once((0..5).map(|n| client.read(n)));
    let arrivals = worker.arrivals(5).await;
    assert_eq!(arrivals.len(), 5);
    worker.answer(&arrivals, 0).await;
    assert_answered(calls, 0..5).await;
}

#[tokio::test]
async fn a_number_that_is_none_harms_nothing() {
    let mut worker = RawWorker::new().await;
    for wanted in ["", "many", "-1", "1.5", "99999999999999999999", "0"] {
        let client = worker.client(Codec::MessagePack).await;
        worker.teach(client.echo(0), wanted).await;
        let calls = at_once((0..5).map(|n| client.echo(n)));
        let arrivals = worker.arrivals(5).await;
        assert_eq!(arrivals.len(), 5, "{wanted:?}");
        worker.answer(&arrivals, 0).await;
        assert_answered(calls, 0..5).await;
    }
}

#[tokio::test]
async fn an_answer_that_says_nothing_of_batching_changes_nothing() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    let mut calls = worker.made_at_once(&client, 0..5).await;
    for _ in 0..2 {
        let arrivals = worker.arrivals(5).await;
        assert_eq!(arrivals.len(), 1);
        worker.answer(&arrivals, 0).await;
        assert_answered(calls, 0..5).await;
        calls = at_once((0..5).map(|n| client.echo(n)));
    }
    // Nor where it comes by itself.
    let arrivals = worker.arrivals(5).await;
    assert_eq!(arrivals.len(), 1);
    for call in &arrivals[0].calls {
        worker.reply_alone(&arrivals[0], call, None).await;
    }
    assert_answered(calls, 0..5).await;
    let calls = at_once((0..5).map(|n| client.echo(n)));
    let arrivals = worker.arrivals(5).await;
    assert_eq!(arrivals.len(), 1);
    worker.answer(&arrivals, 0).await;
    assert_answered(calls, 0..5).await;
}

#[tokio::test]
async fn calls_that_cannot_be_batched_are_sent_on_their_own() {
    let mut worker = RawWorker::new().await;
    let broker = Broker::connect(shared().await).await.unwrap();

    // Neither plain text nor a client that is not to: nor do they say that they could.
    let text = worker.client_of(&broker, Codec::Text);
    let one_by_one = KioskClient::builder(&broker)
        .queue(&worker.queue)
        .batching(false)
        .build();
    for client in [text.clone(), one_by_one] {
        let call = tokio::spawn(client.echo(1));
        let arrival = worker.arrivals(1).await.remove(0);
        assert_eq!(arrival.calls[0].headers, BTreeMap::new());
        // As if they had asked.
        worker
            .reply_alone(&arrival, &arrival.calls[0], Some("1000"))
            .await;
        assert_eq!(soon("the call ends", call).await.unwrap().unwrap(), 1);
        let calls = at_once((0..5).map(|n| client.echo(n)));
        assert_eq!(worker.arrivals(5).await.len(), 5);
        calls.abort();
    }

    let client = worker.client_of(&broker, Codec::MessagePack);
    // More than 8 KiB of arguments, or of headers.
    worker.teach(client.weigh(b""), "1000").await;
    let (small, large) = (vec![1; 1000], vec![1; 8 * 1024 + 1]);
    let calls = (0..10).map(|n| match n % 2 {
        0 => client.weigh(&small),
        _ => client.weigh(&large),
    });
    let calls = at_once(calls);
    let arrivals = worker.arrivals(10).await;
    let (batched, alone): (Vec<_>, Vec<_>) = arrivals.iter().partition(|arrival| arrival.is_batched());
    assert_eq!((batched.len(), alone.len()), (1, 5));
    assert_eq!(batched[0].calls.len(), 5);
    assert!(batched[0].calls.iter().all(|call| call.arguments.len() < 2000));
    calls.abort();
}

#[tokio::test]
async fn a_message_is_never_larger_than_128_kib() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    worker.teach(client.weigh(b""), "1024").await;
    let bytes = vec![1; 8000];
    let calls = at_once((0..30).map(|_| client.weigh(&bytes)));
    let arrivals = worker.arrivals(30).await;
    assert!(arrivals.len() < 30, "some came together");
    assert!(
        arrivals
            .iter()
            .all(|arrival| arrival.delivery.data.len() <= 128 * 1024)
    );
    calls.abort();
}

#[tokio::test]
async fn calls_are_sent_singly_if_the_batch_queue_is_gone_and_none_fails() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    let batched = batched(&worker.queue);
    for round in 0..2 {
        let calls = worker.made_at_once(&client, 0..20).await;
        let arrivals = worker.arrivals(20).await;
        assert_eq!(arrivals.len(), 1, "round {round}");
        worker.answer(&arrivals, 1000).await;
        assert_answered(calls, 0..20).await;

        let channel = worker.peer.channel().clone();
        let deleted = channel.queue_delete(batched.as_str().into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
        let calls = at_once((0..20).map(|n| client.echo(n)));
        let arrivals = worker.arrivals_alone(20).await;
        assert_eq!(numbers(&arrivals), (0..20).collect());
        for arrival in &arrivals {
            assert!(
                !arrival.calls[0].headers.contains_key("rpc-resent"),
                "it reached nobody"
            );
        }
        worker.answer(&arrivals, 0).await;
        assert_answered(calls, 0..20).await;
        // With the queue there again, all is as before.
        worker.peer.declare(&batched).await.unwrap();
        worker.together = worker.peer.consume(&batched).await.unwrap();
    }
}

#[tokio::test]
async fn calls_whose_queues_are_both_gone_did_not_run() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    worker.teach(client.echo(0), "1000").await;
    for queue in [batched(&worker.queue), worker.queue.clone()] {
        let options = QueueDeleteOptions::default();
        worker
            .peer
            .channel()
            .queue_delete(queue.into(), options)
            .await
            .unwrap();
    }
    for outcome in outcomes(at_once((0..5).map(|n| client.echo(n)))).await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
        assert_eq!(error.executed(), Executed::No);
    }
}

#[tokio::test]
async fn calls_with_different_limits_are_in_messages_that_live_as_long_as_all_of_them() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    worker.teach(client.echo(0), "1000").await;
    let limits = [5, 7, 30, 600].map(Duration::from_secs);
    let call = |n: u64| client.echo(n).timeout(limits[n as usize % limits.len()]);
    let calls = at_once((0..20).map(call));
    let arrivals = worker.arrivals(20).await;
    assert_eq!(arrivals.len(), limits.len());
    for arrival in &arrivals {
        let millis: Vec<_> = arrival.calls.iter().map(|call| call.millis.unwrap()).collect();
        let (shortest, longest) = (*millis.iter().min().unwrap(), *millis.iter().max().unwrap());
        let expiration: u64 = text(arrival.delivery.properties.expiration()).parse().unwrap();
        assert_eq!(expiration, shortest);
        assert!(longest - shortest <= longest / 30, "{millis:?}");
    }
    worker.answer(&arrivals, 0).await;
    assert_answered(calls, 0..20).await;
}

#[tokio::test]
async fn unread_batches_expire_and_later_calls_are_sent_singly() {
    let mut worker = RawWorker::new().await;
    let client = worker.client(Codec::MessagePack).await;
    worker.teach(client.echo(0), "1000").await;
    // The last worker is lost without a word: the queue stays.
    let batched = batched(&worker.queue);
    let tag = worker.together.tag();
    let cancelled = worker.peer.channel().basic_cancel(tag, Default::default());
    cancelled.await.unwrap();
    let limit = Duration::from_secs(3);
    for outcome in outcomes(at_once((0..5).map(|n| client.echo(n).timeout(limit)))).await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
        assert_eq!(error.executed(), Executed::Maybe);
    }
    worker.peer.wait_until_empty(&batched, SOON).await.unwrap();
    let calls = at_once((0..5).map(|n| client.echo(n)));
    let arrivals = worker.arrivals_alone(5).await;
    worker.answer(&arrivals, 0).await;
    assert_answered(calls, 0..5).await;
}

#[tokio::test]
async fn each_of_the_calls_in_a_message_is_in_flight() {
    let mut worker = RawWorker::new().await;
    let broker = Broker::connect(shared().await).await.unwrap();
    let client = KioskClient::builder(&broker)
        .queue(&worker.queue)
        .max_in_flight(4)
        .when_full(WhenFull::Fail)
        .build();
    for _ in 0..2 {
        let calls = worker.made_at_once(&client, 0..10).await;
        let arrivals = worker.arrivals(4).await;
        assert_eq!(arrivals.len(), 1);
        worker.answer(&arrivals, 1000).await;
        let outcomes = outcomes(calls).await;
        let (answered, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(answered.len(), 4);
        for error in failed.into_iter().map(Result::unwrap_err) {
            assert!(
                matches!(error, CallError::TooManyCalls { limit: 4, .. }),
                "{error:?}"
            );
        }
    }
}

/// Where the connection is lost after the broker had the message: each call as if it had been sent
/// by itself.
#[tokio::test]
async fn batched_calls_of_a_lost_connection_end_independently() {
    let mut worker = RawWorker::new().await;
    let proxy = Proxy::start(shared().await).await.unwrap();
    let broker = Broker::builder().reply_queue(ReplyQueue::Resumable);
    let broker = broker.address(proxy.url()).connect().await.unwrap();
    let client = worker.client_of(&broker, Codec::MessagePack);
    worker.teach(client.read(0), "1000").await;
    worker.teach(client.write(0), "1000").await;
    let calls = at_once((0..10).map(|n| match n % 2 {
        0 => client.read(n),
        _ => client.write(n),
    }));
    let first = worker.arrivals(10).await;
    assert_eq!(first.len(), 1);
    // What is published behind the message is answered: so the broker's confirm of that has come.
    let nowhere = KioskClient::builder(&broker).queue(unique("nowhere")).build();
    let error = soon("the way to the broker and back", nowhere.echo(0)).await;
    assert!(matches!(error, Err(CallError::NoServer { .. })), "{error:?}");
    assert!(proxy.reset(Target::All).await > 0);
    // The idempotent ones are sent again, under their own ids.
    let again = worker.arrivals(5).await;
    let written_first: Vec<_> = first[0]
        .calls
        .iter()
        .filter(|call| call.method == "read")
        .collect();
    for call in again.iter().flat_map(|arrival| &arrival.calls) {
        assert_eq!(call.headers.get("rpc-resent").map(String::as_str), Some(""));
        assert!(
            written_first
                .iter()
                .any(|first| first.id == call.id && first.arguments == call.arguments)
        );
    }
    worker.answer(&first, 1000).await;
    assert_answered(calls, 0..10).await;
    // And all goes on, answered twice or not.
    worker.answer(&again, 1000).await;
    until("calls are batched again", SOON, async || {
        let calls = at_once((0..10).map(|n| client.read(n)));
        let arrivals = worker.arrivals(10).await;
        worker.answer(&arrivals, 1000).await;
        assert_answered(calls, 0..10).await;
        Ok(arrivals.len() == 1)
    })
    .await
    .unwrap();
}
