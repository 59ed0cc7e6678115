//! A handle belongs to the runtime that it was made in, whoever uses it. When that one ends,
//! everybody is told at once.

use std::time::Duration;

use rpc_runtime::{
    Broker, BrokerError, CallError, Executed, ReplyQueue, RequestQueue, Server, ServerError, Status,
};
use rpc_tests::gate::{Gate, soon};
use rpc_tests::ledger::{Book, LedgerServer, client, serve};
use rpc_tests::rabbit::{shared, unique};
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// What is told at once is told within this time, on a busy machine. A call that is not told ends
/// after 30 seconds.
const AT_ONCE: Duration = Duration::from_secs(15);

fn runtime() -> Runtime {
    Runtime::new().unwrap()
}

/// Handles on either broker, made in this runtime.
fn handles(runtime: &Runtime) -> [Broker; 3] {
    runtime.block_on(async {
        let url = shared().await;
        let direct = Broker::builder().reply_queue(ReplyQueue::Direct);
        [
            Broker::connect(url).await.unwrap(),
            direct.address(url).connect().await.unwrap(),
            Broker::in_process(),
        ]
    })
}

#[test]
fn a_handle_goes_on_when_a_runtime_that_made_its_first_call_ends() {
    let home = runtime();
    for broker in handles(&home) {
        let queue = unique("runtimes");
        let book = Book::behind(Gate::open());
        let ledger = client(&broker, &queue);
        let other = runtime();
        // The server, too, is started elsewhere.
        let server = other.block_on(serve(&broker, RequestQueue::new(&queue), &book));
        other.block_on(ledger.read("first")).unwrap();
        drop(other);
        for _ in 0..3 {
            home.block_on(soon("a later call", ledger.read("later"))).unwrap();
        }
        let another = runtime();
        another
            .block_on(soon("a call from elsewhere", ledger.read("elsewhere")))
            .unwrap();
        assert!(broker.status().is_ready());
        home.block_on(server.stop()).unwrap();
    }
}

#[track_caller]
fn assert_ended(outcome: Result<(), CallError>, executed: Executed) {
    match outcome {
        Err(
            error @ CallError::Broker {
                source: BrokerError::RuntimeEnded,
                ..
            },
        ) => {
            assert_eq!(error.executed(), executed);
            assert!(!error.is_retryable());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_end_of_the_runtime_is_reported_at_once_by_status_and_errors() {
    let other = runtime();
    for number in 0..3 {
        let home = runtime();
        let broker = handles(&home)[number].clone();
        let queue = unique("runtimes");
        let book = Book::behind(Gate::closed());
        let mut server = other.block_on(serve(&broker, RequestQueue::new(&queue), &book));
        let ledger = client(&broker, &queue);
        let mut changes = broker.status_changes();
        assert!(
            other
                .block_on(changes.next())
                .is_some_and(|status| status.is_ready())
        );
        let in_flight = other.spawn(ledger.write("in flight"));
        other.block_on(book.gate.began(1));

        drop(home);
        let begun = Instant::now();
        assert!(matches!(broker.status(), Status::RuntimeEnded));
        assert!(matches!(
            other.block_on(changes.next()),
            Some(Status::RuntimeEnded)
        ));
        assert_ended(other.block_on(in_flight).unwrap(), Executed::Maybe);
        assert_ended(other.block_on(ledger.read("after")), Executed::No);
        let ended = other.block_on(server.ended());
        let is_told = |ended: &Result<(), ServerError>| {
            matches!(ended, Err(ServerError::Broker(BrokerError::RuntimeEnded)))
        };
        assert!(is_told(&ended), "{ended:?}");
        let started = Server::new(&broker)
            .serve_on(RequestQueue::new(&queue), LedgerServer::new(book.clone()))
            .start();
        let started = other.block_on(started).map(drop);
        assert!(is_told(&started), "{started:?}");
        other.block_on(broker.close());
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        assert!(matches!(broker.status(), Status::RuntimeEnded));
    }
}

/// A handle of which nobody has made a call.
#[test]
fn a_first_call_after_the_end_of_the_runtime_fails_at_once() {
    let other = runtime();
    for number in 0..3 {
        let home = runtime();
        let broker = handles(&home)[number].clone();
        drop(home);
        let begun = Instant::now();
        assert!(matches!(broker.status(), Status::RuntimeEnded));
        assert_ended(
            other.block_on(client(&broker, "runtimes").read("first")),
            Executed::No,
        );
        let discovered = other.block_on(broker.discover().workers());
        assert!(discovered.is_err(), "{discovered:?}");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_handle_that_is_made_outside_of_any_runtime_belongs_to_the_one_that_uses_it() {
    let broker = Broker::in_process();
    let queue = unique("runtimes");
    let home = runtime();
    let server = home.block_on(serve(
        &broker,
        RequestQueue::new(&queue),
        &Book::behind(Gate::open()),
    ));
    home.block_on(client(&broker, &queue).read("one")).unwrap();
    assert!(broker.status().is_ready());
    drop(home);
    assert!(matches!(broker.status(), Status::RuntimeEnded));
    drop(server);
}
