//! The broker goes away and comes back, and workers and callers with it, with nobody doing a thing.

use std::time::Duration;

use rpc_runtime::{Broker, CallError, Executed, RequestQueue, RunningServer, Status};
use rpc_tests::rabbit::{Node, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;

use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::ledger::{Book, LedgerClient, client, outcome, serve};

/// How long a broker may take to come back, on a machine that is busy.
const OUTAGE: Duration = Duration::from_secs(180);

/// A worker and a caller.
struct Scene {
    node: Node,
    queue: String,
    book: Book,
    server: RunningServer,
    worker: Broker,
    caller: Broker,
}

impl Scene {
    async fn new() -> Self {
        let node = Node::start().await.unwrap();
        // It serves clients a moment before it obeys every command.
        node.ctl(&["await_startup"]).await.unwrap();
        let (queue, book) = (unique("outage"), Book::behind(Gate::closed()));
        let worker = Broker::connect(node.url()).await.unwrap();
        let caller = Broker::connect(node.url()).await.unwrap();
        let server = serve(&worker, RequestQueue::new(&queue), &book).await;
        // So that the reply queue is there.
        book.gate.let_go(1);
        client(&caller, &queue).write("first").await.unwrap();
        book.gate.began(1).await;
        Self {
            node,
            queue,
            book,
            server,
            worker,
            caller,
        }
    }

    /// Whose calls have time enough for an outage.
    fn client(&self) -> LedgerClient {
        LedgerClient::builder(&self.caller)
            .queue(&self.queue)
            .timeout(OUTAGE)
            .build()
    }

    /// Waits until the caller has the confirms of all that it has sent. That its methods run does
    /// not show it.
    async fn has_confirms(&self) {
        let nowhere = client(&self.caller, &unique("nowhere"));
        assert_confirmed(&nowhere).await;
    }

    async fn both_notice(&self) {
        until("both have noticed", SOON, async || {
            let is_down = |broker: &Broker| matches!(broker.status(), Status::Connecting { .. });
            Ok(is_down(&self.worker) && is_down(&self.caller))
        })
        .await
        .unwrap();
    }

    async fn goes_well(self) -> Book {
        soon("a call after all that", self.client().write("after"))
            .await
            .unwrap();
        soon("the worker stops", self.server.stop()).await.unwrap();
        self.book
    }
}

/// A call that is published behind others, and returned, shows that their confirms have come.
async fn assert_confirmed(nowhere: &LedgerClient) {
    let returned = nowhere.write("").await;
    assert!(
        matches!(returned, Err(CallError::NoServer { .. })),
        "{returned:?}"
    );
}

#[tokio::test]
async fn a_broker_that_closes_all_connections_fails_no_call() {
    let scene = Scene::new().await;
    let read = tokio::spawn(scene.client().read("read"));
    let write = tokio::spawn(scene.client().write("write"));
    scene.book.gate.began(2).await;
    scene.has_confirms().await;
    let mut changes = scene.caller.status_changes();
    changes.next().await;

    // It is connected again before the command returns.
    let close = ["close_all_connections", "on purpose"];
    let noticed = soon("the caller has noticed", changes.next());
    let (closed, noticed) = tokio::join!(scene.node.ctl(&close), noticed);
    closed.unwrap();
    assert!(matches!(noticed, Some(Status::Connecting { .. })), "{noticed:?}");
    scene.book.gate.let_all_go();
    outcome(read).await.unwrap();
    outcome(write).await.unwrap();
    let book = scene.goes_well().await;
    assert_eq!(book.runs("write"), 1);
    // Sent again after it was answered, it runs again: its caller may have lost the answer.
    assert!((1..=2).contains(&book.runs("read")));
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_fails_no_call_that_it_need_not() {
    let scene = Scene::new().await;
    // Else it may forget the queues with the power.
    scene.node.flush().await.unwrap();
    let client = scene.client();
    let running = tokio::spawn(client.write("running"));
    let running_read = tokio::spawn(client.read("running read"));
    scene.book.gate.began(2).await;
    scene.has_confirms().await;

    scene.node.kill().await.unwrap();
    scene.both_notice().await;
    let during = tokio::spawn(client.write("during"));
    let error = client
        .write("hasty")
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::TimedOut { source: Some(_), .. }),
        "{error:?}"
    );
    assert_eq!(error.executed(), Executed::No);
    scene.book.gate.let_all_go();
    assert!(!during.is_finished());

    scene.node.restart().await.unwrap();
    for call in [running, running_read, during] {
        outcome(call).await.unwrap();
    }
    let book = scene.goes_well().await;
    let runs = ["running", "during", "hasty"].map(|entry| book.runs(entry));
    assert_eq!(runs, [1, 1, 0]);
}

#[tokio::test]
async fn a_request_lost_with_a_killed_broker_is_sent_again_if_it_is_idempotent() {
    let scene = Scene::new().await;
    scene.node.flush().await.unwrap();
    // The worker is gone, so requests stay in the queue. They are not written to disk.
    let Scene {
        node,
        queue,
        book,
        server,
        worker,
        caller,
    } = scene;
    server.stop().await.unwrap();
    let patient = LedgerClient::builder(&caller)
        .queue(&queue)
        .timeout(OUTAGE)
        .build();
    let read = tokio::spawn(patient.read("read"));
    let write = tokio::spawn(patient.write("write").timeout(SOON));
    let peer = RawPeer::connect(node.url()).await.unwrap();
    until("both wait in the queue", SOON, async || {
        Ok(peer.queue_depth(&queue).await? == Some(2))
    })
    .await
    .unwrap();
    drop(peer);
    assert_confirmed(&client(&caller, &unique("nowhere"))).await;

    node.kill().await.unwrap();
    node.restart().await.unwrap();
    book.gate.let_all_go();
    let server = soon(
        "the worker serves",
        serve(&worker, RequestQueue::new(&queue), &book),
    )
    .await;
    soon("the read is answered", read).await.unwrap().unwrap();
    let write = tokio::time::timeout(2 * SOON, write)
        .await
        .expect("it ends")
        .unwrap();
    assert!(
        matches!(
            write,
            Err(CallError::TimedOut {
                executed: Executed::Maybe,
                ..
            })
        ),
        "{write:?}"
    );
    server.stop().await.unwrap();
    book.assert_wrote_as_told("write", &write);
    assert!(book.runs("read") > 0);
}
