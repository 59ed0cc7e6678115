//! A batched request that comes again is judged call by call.

use lapin::options::{BasicGetOptions, BasicNackOptions};
use rpc_runtime::{CallError, FaultCode, RunningServer};
use rpc_tests::gate::soon;
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::shared;
use rpc_tests::raw::RawPeer;

use super::raw_caller::{RawCaller, broker};
use super::raw_worker::{Arrival, RawWorker, at_once, outcomes};
use super::*;

/// Some that may run again, and some that may not.
fn calls() -> Vec<BatchedCall> {
    let methods = ["read", "write", "read", "write", "read"];
    (1..)
        .zip(methods)
        .map(|(n, method)| BatchedCall::numbered(method, n))
        .collect()
}

/// Each call was answered: the idempotent ones by their numbers, the others as told.
async fn assert_judged_each(caller: &mut RawCaller, calls: &[BatchedCall]) {
    let answers = caller.answers(calls.len()).await;
    for (n, call) in (1..).zip(calls) {
        let answer = &answers[&call.id()];
        match call.method.as_str() {
            "read" => assert_eq!(answer.value::<u64>(), n),
            _ => assert_eq!(answer.fault(), "interrupted"),
        }
    }
}

async fn serve(queue: &str, clerk: &Clerk) -> RunningServer {
    server(&broker().await, queue, clerk).start().await.unwrap()
}

#[tokio::test]
async fn returned_batched_calls_run_again_if_they_are_idempotent() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::new();
    let queue = batched(&caller.queue);
    caller.peer.declare_durable(&queue).await.unwrap();

    let mut calls = calls();
    // With no time of its own and in a queue that does not count, it could go round for ever.
    calls.push(BatchedCall {
        millis: None,
        ..BatchedCall::numbered("write", 6)
    });
    caller.send(&calls).await;
    let got = caller
        .peer
        .channel()
        .basic_get(queue.as_str().into(), BasicGetOptions::default());
    let got = got.await.unwrap().expect("the message");
    let options = BasicNackOptions {
        requeue: true,
        ..Default::default()
    };
    got.delivery.acker.nack(options).await.unwrap();

    let server = serve(&caller.queue, &clerk).await;
    assert_judged_each(&mut caller, &calls).await;
    assert_eq!(clerk.runs(), ["read 1", "read 3", "read 5"]);
    caller.ends_well(server).await;
}

#[tokio::test]
async fn batched_calls_of_a_lost_worker_run_elsewhere_if_they_are_idempotent() {
    let mut caller = RawCaller::new().await;
    let (lost, other) = (Clerk::behind(Gate::closed()), Clerk::new());
    let worker = serve(&caller.queue, &lost).await;
    let calls = calls();
    caller.send(&calls).await;
    lost.gate.began(calls.len() as u32).await;
    let server = serve(&caller.queue, &other).await;
    drop(worker);
    assert_judged_each(&mut caller, &calls).await;
    assert_eq!(other.runs(), ["read 1", "read 3", "read 5"]);
    assert_eq!(lost.runs().len(), 5);
    caller.ends_well(server).await;
}

#[tokio::test]
async fn a_worker_that_loses_its_connections_runs_batched_calls_once_and_answers_them() {
    for target in [
        Target::All,
        Target::Named("rpc publish"),
        Target::Named("rpc consume"),
    ] {
        let mut caller = RawCaller::new().await;
        let proxy = Proxy::start(shared().await).await.unwrap();
        let broker = Broker::connect(proxy.url()).await.unwrap();
        let clerk = Clerk::behind(Gate::closed());
        let server = server(&broker, &caller.queue, &clerk).start().await.unwrap();
        let calls = calls();
        caller.send(&calls).await;
        clerk.gate.began(calls.len() as u32).await;
        // Two are answered before.
        clerk.gate.let_go(2);
        let mut answers = caller.answers(2).await;
        caller.repeated = answers.keys().copied().collect();
        let mut changes = broker.status_changes();
        assert!(proxy.reset(target).await > 0);
        let is_ready = async { while !changes.next().await.is_some_and(|status| status.is_ready()) {} };
        soon("the worker is connected again", is_ready).await;
        clerk.gate.let_all_go();
        answers.extend(caller.answers(3).await);
        for (n, call) in (1..).zip(&calls) {
            assert_eq!(answers[&call.id()].value::<u64>(), n, "{target:?}");
        }
        assert_eq!(clerk.runs().len(), calls.len(), "{target:?}");
        caller.ends_well(server).await;
    }
}

#[tokio::test]
async fn calls_that_a_caller_sends_again_while_they_run_are_run_once_and_answered_once() {
    let mut caller = RawCaller::new().await;
    let clerk = Clerk::behind(Gate::closed());
    let server = serve(&caller.queue, &clerk).await;
    let calls = calls();
    caller.send(&calls).await;
    clerk.gate.began(5).await;
    let again: Vec<_> = calls
        .iter()
        .filter(|call| call.method == "read")
        .map(|call| BatchedCall {
            headers: [("rpc-resent".to_owned(), String::new())].into(),
            ..call.clone()
        })
        .collect();
    let other = BatchedCall::numbered("echo", 9);
    caller
        .send(&[&again[..], std::slice::from_ref(&other)].concat())
        .await;
    // What came with them is answered: so they have arrived.
    assert_eq!(caller.answers(1).await[&other.id()].value::<u64>(), 9);
    clerk.gate.let_all_go();
    let answers = caller.answers(5).await;
    for (n, call) in (1..).zip(&calls) {
        assert_eq!(answers[&call.id()].value::<u64>(), n);
    }
    assert_eq!(clerk.runs().len(), 6);
    caller.ends_well(server).await;
}

/// With our own caller: it is told of each of its calls what became of that.
#[tokio::test]
async fn a_caller_hears_of_each_of_its_batched_calls_that_was_interrupted() {
    let mut lost = RawWorker::lost_later().await;
    let client = lost.client(Codec::MessagePack).await;
    lost.teach(client.read(0), "1000").await;
    lost.teach(client.write(0), "1000").await;
    let batched_calls = at_once((0..10).map(|n| match n % 2 {
        0 => client.read(n),
        _ => client.write(n),
    }));
    let arrivals = lost.arrivals(10).await;
    assert!(arrivals.iter().any(Arrival::is_batched), "{arrivals:?}");
    let (queue, clerk) = (lost.queue.clone(), Clerk::new());
    drop((arrivals, lost));
    let server = serve(&queue, &clerk).await;
    for (n, outcome) in (0..).zip(outcomes(batched_calls).await) {
        match n % 2 {
            0 => assert_eq!(outcome.unwrap(), n),
            _ => match outcome.unwrap_err() {
                CallError::Fault(fault) => assert_eq!(fault.code, FaultCode::Interrupted),
                other => panic!("{other:?}"),
            },
        }
    }
    assert_eq!(clerk.runs(), ["read 0", "read 2", "read 4", "read 6", "read 8"]);
    soon("the drain", server.stop()).await.unwrap();
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let options = lapin::options::QueueDeleteOptions::default();
    let deleted = peer.channel().queue_delete(queue.as_str().into(), options);
    assert_eq!(deleted.await.unwrap(), 0, "all was settled");
}
