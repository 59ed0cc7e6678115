//! Each fault that a network has, at each connection that a stream from a caller takes, for each
//! way that replies come, in the middle of streams and while they begin: a method gets all items in
//! order, or those before an interruption where its reply goes with a connection. No call ends in
//! silence, and no method goes on.

use rpc_runtime::{Broker, CallError, ReplyQueue, RequestQueue, RunningServer, Server};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Direction, Proxy};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use rpc_tests::upload::{Sink, UploadClient, UploadServer, Uploading, items};

use super::{
    CallerPublishing, Cell, Outcome, Trouble, assert_is_true, befall, longest_recovery, network_troubles,
    play_cells, proxied,
};

/// How many items a stream has. The worker accepts 1024 that its method has not taken, so the
/// caller sends the last ones after the fault.
const ITEMS: u64 = 2000;

/// How many of them the method takes before the fault.
const BEFORE: u64 = 700;

/// A caller and a worker, one of them behind a proxy.
struct Scene {
    queue: String,
    sink: Sink,
    proxy: Proxy,
    caller: Broker,
    server: RunningServer,
    _worker: Broker,
}

/// What became of the calls of some entries.
type Outcomes = Vec<(String, Result<u64, CallError<String>>)>;

impl Scene {
    async fn new(cell: Cell) -> Self {
        let queue = unique("matrix");
        let sink = Sink::behind(Gate::closed(), BEFORE);
        let (proxy, [caller_url, worker_url]) = proxied(cell.trouble, cell.is_at_caller()).await;
        let worker = Broker::connect(&worker_url).await.unwrap();
        let requests = RequestQueue::new(&queue).transient();
        let server = Server::new(&worker).serve_on(requests, UploadServer::new(sink.clone()));
        let server = server.start().await.unwrap();
        let options = Broker::builder().reply_queue(cell.replies);
        let scene = Self {
            caller: options.address(&caller_url).connect().await.unwrap(),
            queue,
            sink,
            proxy,
            server,
            _worker: worker,
        };
        // Once, so that all connections are there.
        let few = BEFORE - 1;
        let first = scene.client().append("first", few, items("first", few)).await;
        assert_eq!(first.unwrap(), few);
        scene
    }

    fn client(&self) -> UploadClient {
        let client = UploadClient::builder(&self.caller).queue(&self.queue);
        client.timeout(SOON).build()
    }

    fn begin(&self, began: &str) -> [(String, Uploading); 2] {
        let client = self.client();
        let [store, append] = ["store", "append"].map(|method| format!("{method} {began}"));
        let storing = tokio::spawn(client.store(&store, ITEMS, items(&store, ITEMS)));
        let appending = tokio::spawn(client.append(&append, ITEMS, items(&append, ITEMS)));
        [(store, storing), (append, appending)]
    }

    /// Sends streams until one is answered. Those before it met a connection that was lost.
    async fn gets_through(&self) -> Outcomes {
        let mut outcomes = Vec::new();
        until("a stream is answered", SOON, async || {
            let entry = format!("store after {}", outcomes.len());
            let outcome = self.client().store(&entry, ITEMS, items(&entry, ITEMS)).await;
            let is_answered = outcome.is_ok();
            outcomes.push((entry, outcome));
            Ok(is_answered)
        })
        .await
        .unwrap();
        outcomes
    }
}

async fn ended(uploads: [(String, Uploading); 2]) -> Outcomes {
    let mut outcomes = Vec::new();
    for (entry, upload) in uploads {
        let outcome = soon("the call ends", upload).await.unwrap();
        if let Err(error) = &outcome {
            eprintln!("{entry}: {error:?}");
        }
        outcomes.push((entry, outcome));
    }
    outcomes
}

/// What becomes of a stream in whose middle the fault strikes.
fn expected(cell: Cell) -> Outcome {
    // The connection is lost while the items wait for it.
    let lacks_items = cell.trouble == Trouble::Dead(Direction::ToBroker) && cell.is_at_caller();
    match (cell.place, cell.replies) {
        (_, ReplyQueue::Direct) if lacks_items => Outcome::Lost,
        // Replies come by the other connection.
        (CallerPublishing, ReplyQueue::Exclusive) => Outcome::Answered,
        // The broker gives the connection up for lost, while replies still come by it.
        (_, ReplyQueue::Exclusive) if lacks_items => Outcome::Either,
        _ => cell.expected(),
    }
}

/// Plays one cell.
async fn play(cell: Cell) {
    let scene = Scene::new(cell).await;
    let before = scene.begin("before");
    scene.sink.gate.began(2).await;
    let begin = || scene.begin("during");
    let (during, faults, since) = befall(cell, &scene.proxy, &scene.sink.gate, begin).await;
    let mut outcomes = scene.gets_through().await;
    let recovery = since.elapsed();

    let before = ended(before).await;
    let answered = before.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    match expected(cell) {
        Outcome::Answered => assert_eq!(answered, 2),
        Outcome::Lost => assert_eq!(answered, 0, "their replies were lost"),
        Outcome::Either => {}
    }
    outcomes.extend(before);
    outcomes.extend(ended(during).await);
    drop(faults);
    let longest = longest_recovery(cell.trouble);
    assert!(recovery < longest, "it took {recovery:?} to recover");
    assert_nothing_is_left(scene, outcomes).await;
}

/// Checks that no request waits, no method goes on, each ran as often as it may, and the outcomes
/// are true.
async fn assert_nothing_is_left(scene: Scene, outcomes: Outcomes) {
    let Scene {
        queue, sink, server, ..
    } = scene;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    peer.wait_until_empty(&queue, SOON).await.unwrap();
    // A method whose caller cannot tell that it has given up ends after 32 seconds.
    sink.runs.end(2 * SOON).await;
    soon("the worker stops", server.stop()).await.unwrap();
    sink.assert_exact();
    for (entry, outcome) in outcomes {
        let ran = sink.runs.of(&entry);
        // Once its worker has sent a message, a request is not sent again.
        let has_begun = entry == "store before" || entry.starts_with("append");
        let most = if has_begun { 1 } else { 2 };
        assert!(ran <= most, "{entry} ran {ran} times");
        match outcome {
            Ok(count) => assert!(count == ITEMS && ran > 0, "{entry} took {count} items"),
            Err(error) => assert_is_true(&error, &entry, &sink.runs),
        }
    }
}

async fn play_all(_: &'static str, trouble: Trouble) {
    play_cells(trouble, play).await;
}

network_troubles!(play_all);
