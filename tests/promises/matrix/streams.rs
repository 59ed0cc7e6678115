//! Each fault that a network has, at each connection that a stream takes, for each way that replies
//! come, in the middle of streams and while they begin: a stream is exact, or ends with an error
//! where its items go with a connection. None ends in silence, and no method goes on.

use rpc_runtime::{Broker, CallError, ReplyQueue, RequestQueue, RunningServer, Server};
use rpc_tests::flow::{FlowClient, FlowServer, Reading, Source};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::proxy::{Direction, Proxy};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;

use super::{
    Cell, Outcome, Trouble, assert_is_true, befall, longest_recovery, network_troubles, play_cells, proxied,
};

/// How many items a stream has.
const ITEMS: u64 = 2000;

/// How many of them arrive before the fault.
const BEFORE: u64 = 700;

/// Less than the items before and after the fault.
const CREDIT: u32 = 100;

/// The streams of both methods that began at some time.
struct Pair {
    began: &'static str,
    list: Reading,
    watch: Reading,
}

/// A caller and a worker, one of them behind a proxy.
struct Scene {
    queue: String,
    source: Source,
    proxy: Proxy,
    caller: Broker,
    server: RunningServer,
    _worker: Broker,
}

impl Scene {
    async fn new(cell: Cell) -> Self {
        let queue = unique("matrix");
        let source = Source::behind(Gate::closed(), BEFORE);
        let (proxy, [caller_url, worker_url]) = proxied(cell.trouble, cell.is_at_caller()).await;
        let worker = Broker::connect(&worker_url).await.unwrap();
        let requests = RequestQueue::new(&queue).transient();
        let server = Server::new(&worker).serve_on(requests, FlowServer::new(source.clone()));
        let server = server.start().await.unwrap();
        let options = Broker::builder().reply_queue(cell.replies);
        let scene = Self {
            caller: options.address(&caller_url).connect().await.unwrap(),
            queue,
            source,
            proxy,
            server,
            _worker: worker,
        };
        // Once, so that all connections are there.
        scene.is_exact("first", BEFORE).await;
        scene
    }

    fn client(&self) -> FlowClient {
        let client = FlowClient::builder(&self.caller).queue(&self.queue);
        client.timeout(SOON).build()
    }

    fn begin(&self, began: &'static str) -> Pair {
        let client = self.client();
        let list = client.list(&format!("list {began}"), ITEMS);
        let watch = client.watch(&format!("watch {began}"), ITEMS);
        Pair {
            began,
            list: Reading::of(list.credit(CREDIT)),
            watch: Reading::of(watch.credit(CREDIT)),
        }
    }

    /// Reads a whole stream, which is idempotent.
    async fn is_exact(&self, entry: &str, items: u64) {
        let reading = Reading::of(self.client().list(entry, items).credit(CREDIT));
        let (read, end) = reading.ended().await;
        assert!(end.is_ok() && read == items, "{entry}: {end:?} after {read}");
    }

    /// Reads streams until one is complete. Those before it met a connection that was lost.
    async fn gets_through(&self) {
        until("a stream is complete", SOON, async || {
            let stream = self.client().list("list after", ITEMS);
            let (read, end) = Reading::of(stream.credit(CREDIT)).ended().await;
            Ok(self.is_complete("list after", read, &end))
        })
        .await
        .unwrap();
    }

    /// Checks how a stream has ended. Returns whether it is complete.
    fn is_complete(&self, entry: &str, read: u64, end: &Result<(), CallError>) -> bool {
        let Err(error) = end else {
            assert_eq!(read, ITEMS, "{entry} ended in silence");
            return true;
        };
        assert_is_true(error, entry, &self.source.runs);
        false
    }

    /// Waits for both streams. Returns whether each is complete.
    async fn ended(&self, Pair { began, list, watch }: Pair) -> [bool; 2] {
        let ((lists, list), (watches, watch)) = tokio::join!(list.ended(), watch.ended());
        let complete = [
            self.is_complete(&format!("list {began}"), lists, &list),
            self.is_complete(&format!("watch {began}"), watches, &watch),
        ];
        if complete != [true; 2] {
            eprintln!("{began}: {lists} and {list:?}; {watches} and {watch:?}");
        }
        complete
    }
}

/// What becomes of a stream in whose middle the fault strikes.
fn expected(cell: Cell) -> Outcome {
    // Its credit does not arrive, and its items go with the connection.
    let lacks_credit = cell.trouble == Trouble::Dead(Direction::ToBroker) && cell.is_at_caller();
    match cell.expected() {
        Outcome::Answered if lacks_credit && cell.replies != ReplyQueue::Resumable => Outcome::Either,
        expected => expected,
    }
}

/// Plays one cell.
async fn play(cell: Cell) {
    let scene = Scene::new(cell).await;
    let mut before = scene.begin("before");
    before.list.reached(BEFORE).await;
    before.watch.reached(BEFORE).await;
    let begin = || scene.begin("during");
    let (during, faults, since) = befall(cell, &scene.proxy, &scene.source.gate, begin).await;
    scene.gets_through().await;
    let recovery = since.elapsed();

    let before = scene.ended(before).await;
    match expected(cell) {
        Outcome::Answered => assert_eq!(before, [true; 2]),
        Outcome::Lost => assert_eq!(before, [false; 2], "their items were lost"),
        Outcome::Either => {}
    }
    scene.ended(during).await;
    drop(faults);
    let longest = longest_recovery(cell.trouble);
    assert!(recovery < longest, "it took {recovery:?} to recover");
    assert_nothing_is_left(scene).await;
}

/// Checks that no request waits, no method goes on, and each ran as often as it may.
async fn assert_nothing_is_left(scene: Scene) {
    let Scene {
        queue,
        source,
        server,
        ..
    } = scene;
    let peer = RawPeer::connect(shared().await).await.unwrap();
    peer.wait_until_empty(&queue, SOON).await.unwrap();
    source.runs.end(SOON).await;
    soon("the worker stops", server.stop()).await.unwrap();
    for began in ["before", "during"] {
        assert!(source.runs.of(&format!("watch {began}")) <= 1);
        assert!(source.runs.of(&format!("list {began}")) <= 2);
    }
}

async fn play_all(_: &'static str, trouble: Trouble) {
    play_cells(trouble, play).await;
}

network_troubles!(play_all);
