//! What a worker does with batched requests, sent by a caller that is none of ours.

use std::collections::HashMap;

use rpc_runtime::{RunningServer, ServerError};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::rabbit::unique;
use tokio::time::{Instant, sleep_until};

use super::raw_caller::{RawCaller, broker};
use super::*;

async fn serve(queue: &str, clerk: &Clerk) -> RunningServer {
    serve_by(|server| server, queue, clerk).await.unwrap()
}

async fn serve_by(
    with: impl FnOnce(Server) -> Server,
    queue: &str,
    clerk: &Clerk,
) -> Result<RunningServer, ServerError> {
    with(server(&broker().await, queue, clerk)).start().await
}

#[tokio::test]
async fn each_call_of_a_batched_request_gets_its_own_answer() {
    for codec in CODECS {
        let content_type = codec.content_type();
        let mut caller = RawCaller::new().await;
        let clerk = Clerk::new();
        let server = serve(&caller.queue, &clerk).await;
        let call = |method, n| BatchedCall {
            arguments: written(content_type, &Numbered { n }).into(),
            ..BatchedCall::numbered(method, n)
        };
        let garbage = BatchedCall {
            arguments: Bytes::from_static(b"\xc1{"),
            ..call("write", 4)
        };
        let expired = BatchedCall {
            millis: Some(0),
            ..call("write", 5)
        };
        let timeless = BatchedCall {
            millis: None,
            ..call("write", 6)
        };
        let calls = [
            call("echo", 1),
            call("write", 2),
            call("refuse", 3),
            garbage,
            expired,
            timeless,
            call("explode", 7),
            call("nonsense", 8),
            call("", 9),
        ];
        caller
            .send_raw(caller.request(content_type), &batch(&calls))
            .await;
        let answers = caller.answers(calls.len()).await;
        let answers: Vec<_> = calls.iter().map(|call| &answers[&call.id()]).collect();
        assert!(answers.iter().all(|answer| answer.content_type == content_type));
        // Without a name, the default method runs.
        for n in [1, 2, 6, 9] {
            assert_eq!(answers[n as usize - 1].value::<u64>(), n);
        }
        assert_eq!(answers[2].kind, 1);
        assert_eq!(
            read::<Refusal>(content_type, &answers[2].body),
            Refusal { number: 3 }
        );
        for (n, code) in [
            (4, "bad_request"),
            (5, "expired"),
            (7, "panicked"),
            (8, "unknown_method"),
        ] {
            assert_eq!(answers[n - 1].fault(), code);
        }
        for n in [1, 2, 3, 6, 7, 9] {
            let wanted = answers[n - 1].wanted;
            assert!(
                wanted.is_some_and(|wanted| (1..=1024).contains(&wanted)),
                "{wanted:?}"
            );
        }
        assert_eq!(
            clerk.runs(),
            ["echo 1", "echo 9", "refuse 3", "write 2", "write 6"]
        );
        caller.ends_well(server).await;
    }
}

#[tokio::test]
async fn fields_of_later_versions_are_skipped() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::new();
    let server = serve(&caller.queue, &clerk).await;
    let calls: Vec<_> = (0..3).map(|n| BatchedCall::numbered("echo", n)).collect();
    let later: Vec<_> = calls
        .iter()
        .map(|call| {
            let BatchedCall {
                id,
                method,
                millis,
                arguments,
                headers,
            } = call;
            let added = (1.5, "later", [Some(7), None], HashMap::from([("a", -1)]));
            (id, method, millis, arguments, headers, added, id)
        })
        .collect();
    caller
        .send_raw(caller.request(MESSAGE_PACK), &batch(&later))
        .await;
    let answers = caller.answers(3).await;
    for (n, call) in (0..).zip(&calls) {
        assert_eq!(answers[&call.id()].value::<u64>(), n);
    }
    caller.ends_well(server).await;
}

#[tokio::test]
async fn an_unreadable_batch_is_acked_and_affects_no_other_call() {
    let caller = RawCaller::new().await;
    let clerk = Clerk::new();
    let server = serve(&caller.queue, &clerk).await;
    let calls = [
        BatchedCall::numbered("write", 1),
        BatchedCall::numbered("write", 2),
    ];
    let whole = batch(&calls);
    let short_id = BatchedCall {
        id: Bytes::from_static(b"0123456789"),
        ..calls[0].clone()
    };
    let long_name = BatchedCall {
        method: "x".repeat(256),
        ..calls[0].clone()
    };
    let too_many: Vec<_> = (0..1025).map(|n| BatchedCall::numbered("write", n)).collect();
    let mut deep = whole.clone();
    // The first call announces one element more, which never ends.
    deep[1] = 0x96;
    deep.truncate(whole.len() / 2);
    deep.extend([0x91; 100_000]);
    let garbage = [
        b"".to_vec(),
        b"\xc1".to_vec(),
        b"write".to_vec(),
        b"\xdd\xff\xff\xff\xff".to_vec(),
        b"\x91\xdd\xff\xff\xff\xff".to_vec(),
        b"\x91\x90".to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [&whole, &b"\xc0"[..]].concat(),
        batch(&[short_id, calls[1].clone()]),
        batch(&[long_name]),
        batch(&too_many),
        deep,
        // No call at all.
        b"\x90".to_vec(),
    ];
    for body in &garbage {
        caller
            .send_raw(caller.request_without_id(MESSAGE_PACK), body)
            .await;
        // With nobody to tell, too.
        caller
            .send_raw(BasicProperties::default().with_type("rpc.batch".into()), body)
            .await;
    }
    for content_type in ["image/png", "é"] {
        caller
            .send_raw(caller.request_without_id(content_type), &whole)
            .await;
    }
    caller.ends_well(server).await;
    assert_eq!(clerk.runs(), ["echo 77"], "nothing else ran");
}

#[tokio::test]
async fn a_batched_request_is_answered_only_to_a_reply_address() {
    let caller = RawCaller::new().await;
    let clerk = Clerk::new();
    let server = serve(&caller.queue, &clerk).await;
    let payments = unique("payments");
    caller.peer.declare(&payments).await.unwrap();
    let calls = [
        BatchedCall::numbered("write", 1),
        BatchedCall::numbered("nonsense", 2),
    ];
    for content_type in [MESSAGE_PACK, "image/png"] {
        let asked = caller
            .request(content_type)
            .with_reply_to(payments.as_str().into());
        caller.send_raw(asked, &batch(&calls)).await;
    }
    let channel = caller.peer.channel().clone();
    caller.ends_well(server).await;
    assert_eq!(clerk.runs(), ["echo 77"], "nothing else ran");
    let deleted = channel.queue_delete(payments.as_str().into(), Default::default());
    assert_eq!(deleted.await.unwrap(), 0, "nothing was written");
}

#[tokio::test]
async fn batched_calls_that_want_no_answer_run_and_are_acked() {
    let caller = RawCaller::new().await;
    let clerk = Clerk::new();
    let server = serve(&caller.queue, &clerk).await;
    let asked = BasicProperties::default()
        .with_type("rpc.batch".into())
        .with_content_type(MESSAGE_PACK.into());
    let calls = |n| {
        [
            BatchedCall::numbered("write", n),
            BatchedCall::numbered("nonsense", n),
        ]
    };
    caller.send_raw(asked.clone(), &batch(&calls(1))).await;
    caller
        .send_raw(asked.with_reply_to("".into()), &batch(&calls(2)))
        .await;
    let gone = caller.request(MESSAGE_PACK).with_reply_to("amq.gen-gone".into());
    caller.send_raw(gone, &batch(&calls(3))).await;
    caller.ends_well(server).await;
    assert_eq!(clerk.runs(), ["echo 77", "write 1", "write 2", "write 3"]);
}

#[tokio::test]
async fn a_slow_call_does_not_hold_back_the_answers_of_quick_ones_that_came_with_it() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::behind(Gate::closed());
    let server = serve(&caller.queue, &clerk).await;
    let slow = [
        BatchedCall::numbered("read", 0),
        BatchedCall::numbered("write", 1),
    ];
    let mut calls = vec![slow[0].clone()];
    calls.extend((2..10).map(|n| BatchedCall::numbered("echo", n)));
    calls.push(slow[1].clone());
    caller.send(&calls).await;
    clerk.gate.began(2).await;
    let answers = caller.answers(8).await;
    for (n, call) in (2..).zip(&calls[1..9]) {
        assert_eq!(answers[&call.id()].value::<u64>(), n);
    }
    // Nor those of the messages behind it.
    for n in 0..10 {
        let call = BatchedCall::numbered("echo", n);
        caller.send(std::slice::from_ref(&call)).await;
        assert_eq!(caller.answers(1).await[&call.id()].value::<u64>(), n);
    }
    clerk.gate.let_go(1);
    let first = caller.answers(1).await;
    clerk.gate.let_all_go();
    let mut answers = caller.answers(1).await;
    answers.extend(first);
    for (n, call) in (0..).zip(&slow) {
        assert_eq!(answers[&call.id()].value::<u64>(), n);
    }
    caller.ends_well(server).await;
}

#[tokio::test]
async fn no_more_calls_run_at_once_than_allowed_however_they_came() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::behind(Gate::closed());
    let server = serve_by(|server| server.concurrency(3), &caller.queue, &clerk)
        .await
        .unwrap();
    let calls: Vec<_> = (0..10).map(|n| BatchedCall::numbered("write", n)).collect();
    for calls in calls.chunks(5) {
        caller.send(calls).await;
    }
    for _ in 0..10 {
        clerk.gate.began(1).await;
        clerk.gate.let_go(1);
    }
    let answers = caller.answers(10).await;
    for (n, call) in (0..).zip(&calls) {
        assert_eq!(answers[&call.id()].value::<u64>(), n);
    }
    assert!(clerk.gate.most_inside() <= 3, "{}", clerk.gate.most_inside());
    clerk.gate.let_all_go();
    caller.ends_well(server).await;
}

#[tokio::test]
async fn a_call_that_waits_past_its_own_time_is_not_run_and_those_with_more_are() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::behind(Gate::closed());
    let server = serve_by(|server| server.concurrency(1), &caller.queue, &clerk)
        .await
        .unwrap();
    let body = written(MESSAGE_PACK, &Numbered { n: 0 });
    let asked = plain(&caller, "read", false);
    caller.peer.publish(&caller.queue, asked, &body).await.unwrap();
    clerk.gate.began(1).await;
    let limited = |n, millis| BatchedCall {
        millis,
        ..BatchedCall::numbered("write", n)
    };
    let calls = [
        limited(1, Some(100)),
        limited(2, Some(60_000)),
        limited(3, Some(50)),
        limited(4, None),
    ];
    caller.send(&calls).await;
    caller
        .peer
        .wait_until_empty(&batched(&caller.queue), SOON)
        .await
        .unwrap();
    // The worker has it, or it is on its way there.
    sleep_until(Instant::now() + Duration::from_secs(2)).await;
    clerk.gate.let_all_go();
    let answers = caller.answers(5).await;
    for (n, call) in (1..).zip(&calls) {
        match n {
            1 | 3 => assert_eq!(answers[&call.id()].fault(), "expired"),
            n => assert_eq!(answers[&call.id()].value::<u64>(), n),
        }
    }
    assert_eq!(clerk.runs(), ["read 0", "write 2", "write 4"]);
    caller.ends_well(server).await;
}

#[tokio::test]
async fn a_handler_knows_of_a_batched_call_all_that_it_knows_of_another() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::new();
    let server = serve(&caller.queue, &clerk).await;
    let call = |name: &str, tenant: &str, millis| BatchedCall {
        headers: [(name, tenant), ("rpc-resent", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        millis,
        ..BatchedCall::new("about", &())
    };
    let calls = [
        call("tenant", "ü", Some(20_000)),
        call("tenant", "", Some(60_000)),
        call("other", "c", None),
    ]
    .map(|call| BatchedCall {
        arguments: Bytes::from_static(b"\x80"),
        ..call
    });
    let asked = caller
        .request(MESSAGE_PACK)
        .with_priority(4)
        .with_app_id("shop".into())
        .with_user_id("guest".into())
        .with_expiration("20000".into());
    caller.send_raw(asked, &batch(&calls)).await;
    let answers = caller.answers(3).await;
    for call in &calls {
        let about: About = answers[&call.id()].value();
        match (call.millis, about.remaining_ms) {
            (None, None) => {}
            (Some(limit), Some(remaining)) => {
                assert!(
                    remaining <= limit && remaining + 10_000 > limit,
                    "{remaining} of {limit}"
                );
            }
            other => panic!("{other:?}"),
        }
        // As the same call that comes by itself.
        let mut table = FieldTable::default();
        for (name, value) in &call.headers {
            table.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
        }
        let alone = BasicProperties::default()
            .with_type("about".into())
            .with_content_type(MESSAGE_PACK.into())
            .with_correlation_id(call.id().to_string().into())
            .with_reply_to(caller.reply_to.as_str().into())
            .with_priority(4)
            .with_app_id("shop".into())
            .with_user_id("guest".into())
            .with_headers(table);
        let published = caller.peer.publish(&caller.queue, alone, b"\x80");
        published.await.unwrap();
        let alone: About = caller.answers(1).await[&call.id()].value();
        let about = About {
            remaining_ms: None,
            ..about
        };
        assert_eq!(about, alone);
        assert_eq!(
            (about.priority, about.app_id.as_deref(), about.redelivered),
            (Some(4), Some("shop"), false)
        );
    }
    caller.ends_well(server).await;
}

#[tokio::test]
async fn large_replies_are_sent_on_their_own() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::new();
    let server = serve(&caller.queue, &clerk).await;
    let sizes = [0, 100, 8 * 1024 - 10, 8 * 1024 + 1, 300_000, 17 * 1024 * 1024, 5];
    let calls = sizes.map(|bytes| BatchedCall::new("produce", &HashMap::from([("bytes", bytes)])));
    caller.send(&calls).await;
    let answers = caller.answers(sizes.len()).await;
    for (size, call) in sizes.into_iter().zip(&calls) {
        let answer = &answers[&call.id()];
        match size {
            size if size > 16 * 1024 * 1024 => assert_eq!(answer.fault(), "reply_too_large"),
            size => assert_eq!(answer.value::<Bytes>().len(), size),
        }
    }
    caller.ends_well(server).await;
}

/// A plain request, with or without the word that its caller can batch.
fn plain(caller: &RawCaller, method: &str, can_batch: bool) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_type(method.into())
        .with_content_type(MESSAGE_PACK.into())
        .with_correlation_id(Uuid::new_v4().to_string().into())
        .with_reply_to(caller.reply_to.as_str().into());
    match can_batch {
        true => properties.with_headers(header(BATCHING, "")),
        false => properties,
    }
}

#[tokio::test]
async fn only_callers_that_can_batch_get_a_batch_size() {
    let mut caller = RawCaller::new().await;
    let server = serve(&caller.queue, &Clerk::new()).await;
    let body = written(MESSAGE_PACK, &Numbered { n: 7 });
    for can_batch in [true, false] {
        let published = caller
            .peer
            .publish(&caller.queue, plain(&caller, "echo", can_batch), &body);
        published.await.unwrap();
        let reply = caller.reply().await;
        assert_eq!(text(reply.properties.kind()), "result");
        match can_batch {
            true => {
                let headers = headers(&reply.properties);
                assert_eq!(headers.len(), 1, "{headers:?}");
                let wanted: u16 = headers[BATCHING].parse().unwrap();
                assert!((1..=1024).contains(&wanted));
            }
            false => assert_eq!(*reply.properties.headers(), None),
        }
    }
    // Of what takes 10 milliseconds, each is wanted by itself.
    for _ in 0..3 {
        let published = caller
            .peer
            .publish(&caller.queue, plain(&caller, "slow", true), &body);
        published.await.unwrap();
        assert_eq!(headers(&caller.reply().await.properties)[BATCHING], "1");
    }
    caller.ends_well(server).await;
}

#[tokio::test]
async fn a_worker_that_is_not_to_takes_no_batched_calls_and_asks_for_none() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::new();
    let server = serve_by(|server| server.batching(false), &caller.queue, &clerk)
        .await
        .unwrap();
    let body = written(MESSAGE_PACK, &Numbered { n: 7 });
    for _ in 0..3 {
        let published = caller
            .peer
            .publish(&caller.queue, plain(&caller, "echo", true), &body);
        published.await.unwrap();
        let reply = caller.reply().await;
        assert_eq!(text(reply.properties.kind()), "result");
        assert_eq!(*reply.properties.headers(), None);
    }
    assert_eq!(
        caller.peer.queue_depth(&batched(&caller.queue)).await.unwrap(),
        None
    );
    soon("the drain", server.stop()).await.unwrap();
}
