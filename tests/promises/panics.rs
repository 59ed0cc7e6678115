//! A background task that panics is started again, and its handle answers: whichever task it is.

use std::time::Duration;

use rpc_runtime::{__panics as panics, Broker, ReplyQueue, RequestQueue};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::ledger::{Book, client, serve};
use rpc_tests::proxy::{Proxy, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::until;

/// Every task that a handle or a server has, and the reply queue with which it has it.
const TASKS: [(&str, ReplyQueue); 14] = [
    ("connection", ReplyQueue::Resumable),
    ("socket", ReplyQueue::Resumable),
    ("publisher", ReplyQueue::Resumable),
    ("acknowledgements", ReplyQueue::Resumable),
    ("reply consumer", ReplyQueue::Resumable),
    ("reply consumer", ReplyQueue::Exclusive),
    ("outgoing requests", ReplyQueue::Resumable),
    ("opening a queue", ReplyQueue::Exclusive),
    ("direct replies", ReplyQueue::Direct),
    ("replies", ReplyQueue::Resumable),
    ("reply channel", ReplyQueue::Resumable),
    ("request queue", ReplyQueue::Resumable),
    ("control", ReplyQueue::Resumable),
    ("control message", ReplyQueue::Resumable),
];

/// All tasks run on this test's own thread, so that panics hit no other test.
#[tokio::test]
async fn a_handle_answers_after_a_panic_in_any_of_its_tasks() {
    for (task, replies) in TASKS {
        let proxy = Proxy::start(shared().await).await.unwrap();
        let queue = unique("panics");
        let book = Book::behind(Gate::open());
        let worker = Broker::connect(proxy.url()).await.unwrap();
        let server = serve(&worker, RequestQueue::new(&queue), &book).await;
        let caller = Broker::builder()
            .reply_queue(replies)
            .address(proxy.url())
            .connect()
            .await
            .unwrap();
        let ledger = client(&caller, &queue);
        ledger.write("before").await.unwrap();

        panics::panic_next(task);
        // So many at once that they leave in batches.
        for _ in 0..4 {
            let reads = (0..64).map(|_| ledger.look_at(b"meanwhile"));
            for read in futures_util::future::join_all(reads).await {
                read.unwrap_or_else(|error| panic!("{task}: {error:?}"));
            }
        }
        // Some tasks have a turn only when they open something again, or are asked.
        proxy.reset(Target::All).await;
        for _ in 0..20 {
            let read = soon(task, ledger.read("after")).await;
            read.unwrap_or_else(|error| panic!("{task}: {error:?}"));
        }
        until("the worker is found", SOON, async || {
            let found = caller
                .discover()
                .window(Duration::from_millis(200))
                .workers()
                .await;
            Ok(found.is_ok_and(|found| !found.workers.is_empty()) && !panics::has_pending())
        })
        .await
        .unwrap_or_else(|error| panic!("{task}: {error:?}"));
        let write = soon(task, ledger.write("after")).await;
        write.unwrap_or_else(|error| panic!("{task}: {error:?}"));
        for broker in [&worker, &caller] {
            assert!(broker.status().is_ready(), "{task}: {}", broker.status());
        }
        let stopped = soon(task, server.stop()).await;
        stopped.unwrap_or_else(|error| panic!("{task}: {error:?}"));
    }
}
