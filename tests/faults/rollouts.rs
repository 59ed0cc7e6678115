//! Workers are replaced one by one under load, and no call notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rpc_runtime::{Broker, RequestQueue};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::until;
use tokio::task::JoinSet;
use tokio::time::Instant;

use rpc_tests::gate::{Gate, SOON};
use rpc_tests::ledger::{Book, client, serve};

const WORKERS: usize = 3;

/// How many calls are in flight.
const CALLERS: usize = 64;

/// How many calls are answered between two changes.
const SOME: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_replaced_one_by_one_and_no_call_fails() {
    let queue = unique("rollout");
    let book = Book::behind(Gate::open());
    let start = async || {
        let broker = Broker::connect(shared().await).await.unwrap();
        let server = serve(&broker, RequestQueue::new(&queue), &book).await;
        (broker, server)
    };
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(start().await);
    }

    let caller = Broker::connect(shared().await).await.unwrap();
    let ledger = client(&caller, &queue);
    let (answered, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut load = JoinSet::new();
    let since = Instant::now();
    for number in 0..CALLERS {
        let (ledger, answered, done) = (ledger.clone(), Arc::clone(&answered), Arc::clone(&done));
        load.spawn(async move {
            let mut made = 0;
            while !done.load(Ordering::Relaxed) {
                let entry = format!("{number}.{made}");
                made += 1;
                // Not idempotent: none may get lost, nor run twice.
                let outcome = ledger.write(&entry).await;
                outcome.unwrap_or_else(|error| panic!("{entry}: {error:?}"));
                answered.fetch_add(1, Ordering::Relaxed);
            }
            (number, made)
        });
    }
    let some_more = async || {
        let enough = answered.load(Ordering::Relaxed) + SOME;
        until("calls are answered", SOON, async || {
            Ok(answered.load(Ordering::Relaxed) >= enough)
        })
        .await
    };
    some_more().await.unwrap();
    for worker in &mut workers {
        let (broker, server) = std::mem::replace(worker, start().await);
        server.stop().await.unwrap();
        broker.close().await;
        some_more().await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for (number, made) in load.join_all().await {
        for call in 0..made {
            let entry = format!("{number}.{call}");
            assert_eq!(book.runs(&entry), 1, "{entry}");
        }
    }
    let answered = answered.load(Ordering::Relaxed);
    eprintln!(
        "{answered} calls, {:.0} a second",
        answered as f64 / since.elapsed().as_secs_f64()
    );
}
