//! A lost connection heals itself, of the worker and of the caller; calls that can get their reply
//! get it, and the others end at once and say whether their method ran.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_runtime::{
    Broker, BrokerBuilder, BrokerError, CallError, Executed, ReplyQueue, RequestQueue, RunningServer, Server,
    Status, StatusChanges, service,
};
use rpc_tests::proxy::{BASIC_ACK, Direction, Proxy, Sight, Target};
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use rpc_tests::gate::{Gate, SOON, soon};

const PUBLISHING: Target = Target::Named("rpc publish");
const CONSUMING: Target = Target::Named("rpc consume");

const REPLY_QUEUES: [ReplyQueue; 3] = [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct];

#[service]
trait Ledger {
    /// Counts how often it ran, and tells.
    #[rpc(idempotent)]
    async fn read(&self) -> usize;
    async fn write(&self) -> usize;
}

/// A ledger whose entries wait at a gate.
#[derive(Clone)]
struct Book {
    gate: Gate,
    runs: Arc<AtomicUsize>,
}

impl Book {
    fn behind(gate: Gate) -> Self {
        Self {
            gate,
            runs: Arc::default(),
        }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    async fn run(&self) -> usize {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        self.gate.pass().await;
        run
    }
}

impl Ledger for Book {
    async fn read(&self) -> usize {
        self.run().await
    }

    async fn write(&self) -> usize {
        self.run().await
    }
}

/// A handle that reaches the shared broker through a proxy of its own.
async fn behind_a_proxy(options: BrokerBuilder) -> (Proxy, Broker) {
    let proxy = Proxy::start(shared().await).await.unwrap();
    let broker = options.address(proxy.url()).connect().await.unwrap();
    (proxy, broker)
}

async fn serve(broker: &Broker, queue: &str, book: &Book) -> RunningServer {
    Server::new(broker)
        .serve_on(
            RequestQueue::new(queue).transient(),
            LedgerServer::new(book.clone()),
        )
        .start()
        .await
        .unwrap()
}

fn client(broker: &Broker, queue: &str) -> LedgerClient {
    LedgerClient::builder(broker).queue(queue).timeout(SOON).build()
}

/// One worker whose handlers wait, and a caller behind a proxy.
struct Scene {
    queue: String,
    book: Book,
    proxy: Proxy,
    caller: Broker,
    _worker: (Broker, RunningServer),
}

impl Scene {
    async fn new(replies: ReplyQueue) -> Self {
        let queue = unique("recovery");
        let book = Book::behind(Gate::closed());
        let worker = Broker::connect(shared().await).await.unwrap();
        let server = serve(&worker, &queue, &book).await;
        let (proxy, caller) = behind_a_proxy(Broker::builder().reply_queue(replies)).await;
        Self {
            queue,
            book,
            proxy,
            caller,
            _worker: (worker, server),
        }
    }

    fn read(&self) -> JoinHandle<Result<usize, CallError>> {
        tokio::spawn(client(&self.caller, &self.queue).read())
    }

    fn write(&self) -> JoinHandle<Result<usize, CallError>> {
        tokio::spawn(client(&self.caller, &self.queue).write())
    }

    /// The caller loses its connections, and knows it. Returns what happens next.
    async fn loses_its_connections(&self) -> StatusChanges {
        let mut changes = self.caller.status_changes();
        assert!(matches!(changes.next().await, Some(Status::Ready)));
        self.proxy.reset(Target::All).await;
        let status = soon("the loss is known", changes.next()).await;
        assert!(matches!(status, Some(Status::Connecting { .. })), "{status:?}");
        changes
    }

    /// A call gets through, and so everything is there again.
    async fn is_well_again(&self) {
        self.book.gate.let_all_go();
        // Made before the loss is noticed, one that is not idempotent would be lost with the
        // connection.
        let call = client(&self.caller, &self.queue).read();
        soon("a call after all that", call).await.unwrap();
    }
}

async fn outcome(call: JoinHandle<Result<usize, CallError>>) -> Result<usize, CallError> {
    soon("the call ends", call).await.unwrap()
}

#[track_caller]
fn assert_may_have_run(outcome: &Result<usize, CallError>) {
    match outcome {
        Err(error @ CallError::Broker { .. }) => assert_eq!(error.executed(), Executed::Maybe),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn confirmed_calls_get_their_reply_through_the_resumable_queue() {
    for target in [Target::All, PUBLISHING, CONSUMING] {
        let scene = Scene::new(ReplyQueue::Resumable).await;
        let call = scene.write();
        scene.book.gate.began(1).await;
        // Where the request runs, its confirm is on its way at the most: let it arrive.
        confirmed(&scene).await;
        scene.proxy.reset(target).await;
        scene.book.gate.let_all_go();
        assert_eq!(outcome(call).await.unwrap(), 1);
        assert_eq!(scene.book.runs(), 1);
        scene.is_well_again().await;
    }
}

/// Another call that is published behind the first and answered shows that the confirm of the first
/// has come.
async fn confirmed(scene: &Scene) {
    let nowhere = client(&scene.caller, &unique("nowhere"));
    let error = soon("the way to the broker and back", nowhere.write())
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::NoServer { .. }), "{error:?}");
}

#[tokio::test]
async fn calls_that_are_not_idempotent_fail_at_once_if_their_reply_is_lost() {
    for (replies, target) in [
        (ReplyQueue::Exclusive, CONSUMING),
        (ReplyQueue::Direct, PUBLISHING),
        (ReplyQueue::Exclusive, Target::All),
        (ReplyQueue::Direct, Target::All),
    ] {
        let scene = Scene::new(replies).await;
        let call = scene.write();
        scene.book.gate.began(1).await;
        confirmed(&scene).await;
        let refused = scene.proxy.refuse_new().await;
        scene.proxy.reset(target).await;
        assert_may_have_run(&outcome(call).await);
        refused.heal().await;
        scene.is_well_again().await;
    }
}

#[tokio::test]
async fn idempotent_calls_are_sent_again_if_their_reply_is_lost() {
    for replies in REPLY_QUEUES {
        let scene = Scene::new(replies).await;
        let call = scene.read();
        scene.book.gate.began(1).await;
        confirmed(&scene).await;
        scene.proxy.reset(Target::All).await;
        if replies == ReplyQueue::Direct {
            // Its reply address is another now, so the worker cannot know it again.
            scene.book.gate.began(1).await;
        }
        scene.book.gate.let_all_go();
        assert!(outcome(call).await.is_ok(), "{replies:?}");
        scene.is_well_again().await;
    }
}

#[tokio::test]
async fn a_request_that_was_written_and_not_confirmed_may_have_run() {
    for replies in REPLY_QUEUES {
        let scene = Scene::new(replies).await;
        // Once, so that all is open; its confirm is none of those below.
        scene.book.gate.let_go(1);
        outcome(scene.read()).await.unwrap();
        let cut = scene.proxy.cut_before(
            PUBLISHING,
            Sight::to_broker(scene.queue.as_bytes()).then_from_broker(BASIC_ACK),
        );
        let call = scene.write();
        cut.happened(SOON).await.unwrap();
        assert_may_have_run(&outcome(call).await);
        scene.is_well_again().await;
    }
}

#[tokio::test]
async fn an_idempotent_request_that_was_not_confirmed_is_sent_again_under_the_same_id() {
    let scene = Scene::new(ReplyQueue::Resumable).await;
    scene.book.gate.let_go(1);
    outcome(scene.read()).await.unwrap();
    let cut = scene.proxy.cut_before(
        PUBLISHING,
        Sight::to_broker(scene.queue.as_bytes()).then_from_broker(BASIC_ACK),
    );
    let call = scene.read();
    cut.happened(SOON).await.unwrap();
    scene.book.gate.began(1).await;
    // The worker has both by then, and knows the second again.
    scene.is_well_again().await;
    assert!(outcome(call).await.is_ok());
    assert_eq!(scene.book.runs(), 3);
}

#[tokio::test]
async fn a_call_that_waits_to_be_sent_again_takes_the_reply_to_its_first_request() {
    let scene = Scene::new(ReplyQueue::Resumable).await;
    scene.book.gate.let_go(1);
    outcome(scene.read()).await.unwrap();
    // The connection to publish is lost, and does not come again; that by which replies come stays.
    let refused = scene.proxy.refuse_new().await;
    let cut = scene.proxy.cut_before(
        PUBLISHING,
        Sight::to_broker(scene.queue.as_bytes()).then_from_broker(BASIC_ACK),
    );
    let call = scene.read();
    cut.happened(SOON).await.unwrap();
    scene.book.gate.began(1).await;
    scene.book.gate.let_all_go();
    assert_eq!(outcome(call).await.unwrap(), 2);
    assert_eq!(scene.book.runs(), 2);
    refused.heal().await;
    scene.is_well_again().await;
}

#[tokio::test]
async fn calls_without_a_connection_wait_for_one() {
    let scene = Scene::new(ReplyQueue::Resumable).await;
    scene.book.gate.let_all_go();
    let refused = scene.proxy.refuse_new().await;
    let mut changes = scene.loses_its_connections().await;
    let call = scene.write();
    refused.heal().await;
    assert_eq!(outcome(call).await.unwrap(), 1);
    let status = soon("it is connected again", changes.next()).await;
    assert!(matches!(status, Some(Status::Ready)), "{status:?}");
}

#[tokio::test]
async fn calls_without_a_connection_did_not_run_when_their_time_is_up() {
    let scene = Scene::new(ReplyQueue::Resumable).await;
    let _refused = scene.proxy.refuse_new().await;
    scene.loses_its_connections().await;
    let call = client(&scene.caller, &scene.queue)
        .write()
        .timeout(Duration::from_millis(300));
    let error = soon("the call ends", call).await.unwrap_err();
    assert!(
        matches!(error, CallError::TimedOut { source: Some(_), .. }),
        "{error:?}"
    );
    assert_eq!(error.executed(), Executed::No);
    assert!(error.is_retryable());
    assert_eq!(scene.book.runs(), 0);
}

#[tokio::test]
async fn a_peer_that_accepts_and_stays_silent_is_given_up() {
    let proxy = Proxy::start(shared().await).await.unwrap();
    let silent = proxy.silence_new();
    let options = Broker::builder().connect_timeout(Duration::from_millis(200));
    let error = soon("the attempt ends", options.clone().address(proxy.url()).connect()).await;
    assert!(error.is_err(), "{error:?}");
    // In the background it is tried again. Once it is served, it has time enough.
    let options = options.connect_timeout(Duration::from_secs(2));
    let broker = options.address(proxy.url()).lazy().unwrap();
    let mut changes = broker.status_changes();
    assert!(matches!(changes.next().await, Some(Status::Connecting { .. })));
    silent.heal().await;
    let is_ready = async { while !changes.next().await.is_some_and(|status| status.is_ready()) {} };
    soon("it is connected", is_ready).await;
    assert!(broker.status().is_ready());
    broker.close().await;
    assert!(matches!(broker.status(), Status::Closed));
}

#[tokio::test]
async fn a_call_whose_time_is_up_before_the_first_connection_says_so() {
    let proxy = Proxy::start(shared().await).await.unwrap();
    let _silent = proxy.silence_new();
    let broker = Broker::builder().address(proxy.url()).lazy().unwrap();
    let call = client(&broker, "nobody")
        .write()
        .timeout(Duration::from_millis(200));
    let error = soon("the call ends", call).await.unwrap_err();
    assert!(
        matches!(
            error,
            CallError::TimedOut {
                source: Some(BrokerError::NotConnected),
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.executed(), Executed::No);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn several_addresses_are_tried_in_turn() {
    let nobody = Proxy::start(shared().await).await.unwrap();
    let _refused = nobody.refuse_new().await;
    let first = Proxy::start(shared().await).await.unwrap();
    let second = Proxy::start(shared().await).await.unwrap();
    let broker = Broker::builder()
        .addresses([nobody.url(), first.url(), second.url()])
        .connect()
        .await
        .unwrap();
    let queue = unique("recovery");
    let server = serve(&broker, &queue, &Book::behind(Gate::open())).await;
    assert_eq!(second.counts(Target::All).accepted, 0);

    let _refused = first.refuse_new().await;
    first.reset(Target::All).await;
    soon("the second address serves", client(&broker, &queue).read())
        .await
        .unwrap();
    assert!(second.counts(Target::All).open >= 2);
    server.stop().await.unwrap();
}

/// A worker behind a proxy, and a caller that reaches the broker by itself.
struct WorkerScene {
    queue: String,
    book: Book,
    proxy: Proxy,
    worker: Broker,
    server: RunningServer,
    caller: Broker,
}

impl WorkerScene {
    async fn new(replies: ReplyQueue) -> Self {
        let queue = unique("recovery");
        let book = Book::behind(Gate::closed());
        let (proxy, worker) = behind_a_proxy(Broker::builder()).await;
        let server = serve(&worker, &queue, &book).await;
        let caller = Broker::builder()
            .reply_queue(replies)
            .address(shared().await)
            .connect()
            .await
            .unwrap();
        Self {
            queue,
            book,
            proxy,
            worker,
            server,
            caller,
        }
    }

    /// Waits until the worker has noticed that something of its connections is lost, and has it
    /// again.
    async fn recovers(&self) {
        let mut changes = self.worker.status_changes();
        let is_ready = async { while !changes.next().await.is_some_and(|status| status.is_ready()) {} };
        soon("the worker is connected again", is_ready).await;
    }
}

#[tokio::test]
async fn a_worker_that_loses_its_connections_answers_running_calls_and_runs_each_once() {
    for replies in REPLY_QUEUES {
        for target in [Target::All, PUBLISHING, CONSUMING] {
            let scene = WorkerScene::new(replies).await;
            let calls: Vec<_> = (0..3)
                .map(|_| tokio::spawn(client(&scene.caller, &scene.queue).write()))
                .collect();
            scene.book.gate.began(3).await;
            assert!(scene.proxy.reset(target).await > 0);
            scene.recovers().await;
            scene.book.gate.let_all_go();
            for call in calls {
                outcome(call).await.unwrap();
            }
            assert_eq!(scene.book.runs(), 3, "{replies:?} {target:?}");
            let call = client(&scene.caller, &scene.queue).write();
            soon("a call after all that", call).await.unwrap();
            scene.server.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_reply_whose_confirm_was_lost_is_not_repeated_by_another_run() {
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive] {
        let scene = WorkerScene::new(replies).await;
        let call = tokio::spawn(client(&scene.caller, &scene.queue).write());
        scene.book.gate.began(1).await;
        // The broker has the reply; the worker does not know, and the request is not settled.
        let cut = scene.proxy.cut_before(
            PUBLISHING,
            Sight::to_broker("application/msgpack").then_from_broker(BASIC_ACK),
        );
        scene.book.gate.let_all_go();
        cut.happened(SOON).await.unwrap();
        assert_eq!(outcome(call).await.unwrap(), 1);
        let call = client(&scene.caller, &scene.queue).write();
        assert_eq!(soon("a call after all that", call).await.unwrap(), 2);
        scene.server.stop().await.unwrap();
        assert_eq!(scene.book.runs(), 2);
    }
}

#[tokio::test]
async fn shutdown_ends_within_its_limit_without_a_broker() {
    let scene = WorkerScene::new(ReplyQueue::Resumable).await;
    let _call = tokio::spawn(client(&scene.caller, &scene.queue).write());
    scene.book.gate.began(1).await;
    let _hole = scene.proxy.black_hole(Target::All, Direction::Both);
    let worker = scene.worker.clone();
    scene.book.gate.let_all_go();
    soon("the handle is closed", worker.close()).await;
}

#[tokio::test]
async fn a_request_that_waits_in_a_worker_past_its_deadline_does_not_run() {
    let queue = unique("recovery");
    let (first_book, second_book) = (Book::behind(Gate::closed()), Book::behind(Gate::closed()));
    let one_at_a_time = async |broker: &Broker, book: &Book| {
        Server::new(broker)
            .concurrency(1)
            // Probes would count among those that wait in the queue.
            .admission(false)
            .serve_on(
                RequestQueue::new(&queue).transient(),
                LedgerServer::new(book.clone()),
            )
            .start()
            .await
            .unwrap()
    };
    let (proxy, first) = behind_a_proxy(Broker::builder()).await;
    let first = one_at_a_time(&first, &first_book).await;
    let caller = Broker::connect(shared().await).await.unwrap();
    let held = tokio::spawn(client(&caller, &queue).read());
    first_book.gate.began(1).await;

    // The worker loses its request to another, and still runs it: the next one that it is given has
    // to wait.
    let refused = proxy.refuse_new().await;
    proxy.reset(CONSUMING).await;
    let second = Broker::connect(shared().await).await.unwrap();
    let second = one_at_a_time(&second, &second_book).await;
    second_book.gate.began(1).await;
    let limit = Duration::from_secs(12);
    let late = tokio::spawn(client(&caller, &queue).write().timeout(limit));
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let waits = async |depth| {
        until("it waits there", SOON, async || {
            Ok(peer.queue_depth(&queue).await? == Some(depth))
        })
        .await
        .unwrap();
    };
    waits(1).await;
    refused.heal().await;
    waits(0).await;
    assert!(!late.is_finished(), "it has come to the worker in time");
    let arrived = Instant::now();

    let late = outcome(late).await;
    assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
    // The worker counts from its arrival.
    sleep_until(arrived + limit).await;
    first_book.gate.let_all_go();
    second_book.gate.let_all_go();
    outcome(held).await.unwrap();
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    assert_eq!((first_book.runs(), second_book.runs()), (1, 1));
}
