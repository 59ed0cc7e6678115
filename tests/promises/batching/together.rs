//! Callers and workers of ours, under load: with foreign workers among them, with some that do not
//! batch, and while they stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use rpc_runtime::{CallError, RunningServer};
use rpc_tests::gate::{SOON, soon};
use rpc_tests::rabbit::Vhost;
use rpc_tests::raw::RawPeer;
use rpc_tests::trace::Trace;
use rpc_tests::until;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::*;

const QUEUE: &str = "kiosk";
const BATCHED: &str = "kiosk.batch";

/// A virtual host, and all that is published in it.
struct Scene {
    vhost: Vhost,
    trace: Trace,
    clerk: Clerk,
    next: AtomicU64,
}

impl Scene {
    async fn new() -> Self {
        let vhost = Vhost::new().await;
        Self {
            trace: Trace::of(&vhost.url()).await.unwrap(),
            vhost,
            clerk: Clerk::new(),
            next: AtomicU64::new(0),
        }
    }

    async fn broker(&self) -> Broker {
        Broker::connect(&self.vhost.url()).await.unwrap()
    }

    async fn serve(&self, batching: bool) -> RunningServer {
        let server = server(&self.broker().await, QUEUE, &self.clerk);
        server.batching(batching).start().await.unwrap()
    }

    async fn client(&self) -> KioskClient {
        KioskClient::builder(&self.broker().await)
            .queue(QUEUE)
            .timeout(SOON)
            .build()
    }

    /// How many messages were published to the queue so far.
    async fn published(&self, queue: &str) -> usize {
        self.trace.published(queue).await.unwrap()
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// So many calls at once, each of which is answered.
    async fn call(&self, client: &KioskClient, calls: usize) {
        let calls = (0..calls).map(|_| async {
            let n = self.number();
            assert_eq!(client.write(n).await.unwrap(), n);
        });
        soon("all calls are answered", join_all(calls)).await;
    }

    /// Calls until some of them were batched: a worker that is interrupted may take its methods for
    /// slow at first.
    async fn call_until_batched(&self, client: &KioskClient) {
        let before = self.published(BATCHED).await;
        until("calls are batched", SOON, async || {
            self.call(client, 50).await;
            Ok(self.published(BATCHED).await > before)
        })
        .await
        .unwrap();
    }

    /// Each call ran once.
    fn assert_ran_once(&self) {
        let mut expected: Vec<_> = (0..self.next.load(Ordering::Relaxed))
            .map(|n| format!("write {n}"))
            .collect();
        expected.sort();
        let runs = self.clerk.runs();
        assert_eq!(runs.len(), expected.len());
        assert!(runs == expected, "each call once");
    }

    /// Callers that call without a pause, some at a time, until they are told to stop.
    async fn load(self: &Arc<Self>, callers: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for _ in 0..callers {
            let (client, stop, scene) = (self.client().await, Arc::clone(&stop), Arc::clone(self));
            let calls = async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let calls = (0..20).map(|_| async {
                        let n = scene.number();
                        match client.write(n).await {
                            Ok(answer) => assert_eq!(answer, n),
                            Err(error) => return Some((n, error)),
                        }
                        None
                    });
                    failed.extend(join_all(calls).await.into_iter().flatten());
                }
                failed
            };
            tasks.push(AbortOnDropHandle::new(tokio::spawn(calls)));
        }
        Load { stop, tasks }
    }

    /// Waits until so many more calls were made.
    async fn calls_go_on(&self, calls: u64) {
        let enough = self.next.load(Ordering::Relaxed) + calls;
        until("more calls are made", SOON, async || {
            Ok(self.next.load(Ordering::Relaxed) >= enough)
        })
        .await
        .unwrap();
    }

    async fn batches_under_load(&self) {
        let before = self.published(BATCHED).await;
        until("calls are batched", SOON, async || {
            Ok(self.published(BATCHED).await > before)
        })
        .await
        .unwrap();
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<AbortOnDropHandle<Vec<(u64, CallError)>>>,
}

impl Load {
    /// Lets all calls end, and none has failed.
    async fn ends_well(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let failed = soon("the calls end", task).await.unwrap();
            assert!(
                failed.is_empty(),
                "{} failed, such as {:?}",
                failed.len(),
                failed[0]
            );
        }
    }
}

#[tokio::test]
async fn quick_calls_under_load_are_batched_and_slow_ones_never() {
    let scene = Scene::new().await;
    let server = scene.serve(true).await;
    let client = scene.client().await;
    for _ in 0..5 {
        let calls = join_all((0..40).map(|n| client.slow(n)));
        assert!(soon("they end", calls).await.iter().all(Result::is_ok));
    }
    assert_eq!(scene.published(BATCHED).await, 0);
    assert_eq!(scene.published(QUEUE).await, 200);

    scene.call_until_batched(&client).await;
    // Beside quick ones, too: what is batched is at most what was called of those.
    let (alone, calls) = (
        scene.published(QUEUE).await,
        join_all((0..40).map(|n| client.slow(n))),
    );
    let (_, slow) = tokio::join!(scene.call(&client, 100), calls);
    assert!(slow.iter().all(Result::is_ok));
    assert!(scene.published(QUEUE).await >= alone + 40);
    scene.assert_ran_once();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_batched_if_the_worker_disables_it() {
    let scene = Scene::new().await;
    let server = scene.serve(false).await;
    let client = scene.client().await;
    for _ in 0..5 {
        scene.call(&client, 50).await;
    }
    assert_eq!(scene.published(BATCHED).await, 0);
    assert_eq!(scene.published(QUEUE).await, 250);
    let queues = scene.vhost.queues(&["name"]).await;
    assert!(!queues.iter().any(|queue| queue == BATCHED), "{queues:?}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_batched_if_the_client_disables_it() {
    let scene = Scene::new().await;
    let server = scene.serve(true).await;
    let broker = scene.broker().await;
    let client = KioskClient::builder(&broker).queue(QUEUE).batching(false).build();
    for _ in 0..5 {
        scene.call(&client, 50).await;
    }
    assert_eq!(scene.published(BATCHED).await, 0);
    assert_eq!(scene.published(QUEUE).await, 250);
    // Another client of the same handle does.
    scene.call_until_batched(&scene.client().await).await;
    scene.assert_ran_once();
    server.stop().await.unwrap();
}

/// As in RabbitMQ's tutorial, but for the codec: takes one request at a time, and answers with what
/// it is asked.
async fn foreign_worker(url: &str, seen: Arc<AtomicU64>) -> AbortOnDropHandle<()> {
    let peer = RawPeer::connect(url).await.unwrap();
    peer.channel().basic_qos(1, Default::default()).await.unwrap();
    let mut requests = peer.consume_unsettled(QUEUE).await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(Ok(request)) = requests.next().await {
            let properties = &request.properties;
            assert_eq!(text(properties.kind()), "write");
            assert_eq!(text(properties.content_type()), MESSAGE_PACK);
            let Numbered { n } = read(MESSAGE_PACK, &request.data);
            let reply = BasicProperties::default()
                .with_content_type(MESSAGE_PACK.into())
                .with_correlation_id(properties.correlation_id().clone().expect("one"));
            let body = written(MESSAGE_PACK, &n);
            peer.publish(&text(properties.reply_to()), reply, &body)
                .await
                .unwrap();
            request.acker.ack(Default::default()).await.unwrap();
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }))
}

#[tokio::test]
async fn a_foreign_worker_beside_ours_sees_only_plain_requests() {
    let scene = Arc::new(Scene::new().await);
    let server = scene.serve(true).await;
    let seen = Arc::new(AtomicU64::new(0));
    let foreign = foreign_worker(&scene.vhost.url(), Arc::clone(&seen)).await;
    let clients = [scene.client().await, scene.client().await];
    // Those who batch leave little to a worker that takes no batched calls.
    let broker = scene.broker().await;
    let one_by_one = KioskClient::builder(&broker).queue(QUEUE).batching(false).build();
    until("both have much to do", SOON, async || {
        let [first, second] = &clients;
        tokio::join!(
            scene.call(first, 200),
            scene.call(second, 200),
            scene.call(&one_by_one, 20)
        );
        Ok(seen.load(Ordering::Relaxed) >= 20 && scene.published(BATCHED).await >= 20)
    })
    .await
    .unwrap();
    assert!(!foreign.is_finished(), "whatever it was sent, it understood");
    let ours = scene.clerk.runs().len() as u64;
    assert_eq!(
        ours + seen.load(Ordering::Relaxed),
        scene.next.load(Ordering::Relaxed)
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn with_the_last_worker_that_takes_batches_calls_their_queue_goes_and_calls_go_on() {
    let scene = Scene::new().await;
    let (first, second) = (scene.serve(true).await, scene.serve(true).await);
    let one_by_one = scene.serve(false).await;
    let clients = [scene.client().await, scene.client().await];
    for client in &clients {
        scene.call_until_batched(client).await;
    }
    first.stop().await.unwrap();
    assert_eq!(scene.trace.peer().queue_depth(BATCHED).await.unwrap(), Some(0));
    scene.call_until_batched(&clients[0]).await;
    second.stop().await.unwrap();
    assert_eq!(scene.trace.peer().queue_depth(BATCHED).await.unwrap(), None);
    for _ in 0..3 {
        for client in &clients {
            scene.call(client, 50).await;
        }
    }
    // And with a new one, batched again.
    let third = scene.serve(true).await;
    scene.call_until_batched(&clients[1]).await;
    scene.assert_ran_once();
    third.stop().await.unwrap();
    one_by_one.stop().await.unwrap();
    let queues = scene
        .vhost
        .queues(&["name", "messages"])
        .await
        .into_iter()
        .filter(|queue| queue.starts_with(QUEUE));
    assert_eq!(queues.collect::<Vec<_>>(), ["kiosk\t0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_under_batched_load_loses_no_call() {
    let scene = Arc::new(Scene::new().await);
    let (first, second) = (scene.serve(true).await, scene.serve(true).await);
    let load = scene.load(3).await;
    scene.batches_under_load().await;
    soon("it stops", first.stop()).await.unwrap();
    scene.batches_under_load().await;
    // One takes the place of the other, and so on.
    let third = scene.serve(true).await;
    scene.calls_go_on(500).await;
    soon("it stops", second.stop()).await.unwrap();
    scene.batches_under_load().await;
    load.ends_well().await;
    scene.assert_ran_once();
    third.stop().await.unwrap();
    assert_eq!(scene.trace.peer().queue_depth(BATCHED).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_worker_that_takes_batches_calls_stops_under_load_and_no_call_is_lost() {
    let scene = Arc::new(Scene::new().await);
    let one_by_one = scene.serve(false).await;
    for _ in 0..3 {
        let last = scene.serve(true).await;
        let load = scene.load(3).await;
        scene.batches_under_load().await;
        soon("it stops", last.stop()).await.unwrap();
        let left = scene.trace.peer().queue_depth(BATCHED).await.unwrap();
        assert_eq!(left, None, "calls that nobody takes out");
        scene.calls_go_on(500).await;
        load.ends_well().await;
    }
    scene.assert_ran_once();
    one_by_one.stop().await.unwrap();
    assert_eq!(scene.trace.peer().queue_depth(BATCHED).await.unwrap(), None);
}

#[tokio::test]
async fn a_worker_that_stops_goes_on_until_its_callers_have_heard_to_batch_no_more() {
    let (broker, clerk) = (Broker::in_process(), Clerk::new());
    let client = KioskClient::builder(&broker).queue(QUEUE).build();
    let burst = || join_all((0..300).map(|n| client.echo(n)));
    for (batching, least) in [(true, Duration::from_millis(100)), (false, Duration::ZERO)] {
        let server = server(&broker, QUEUE, &clerk).batching(batching);
        let server = server.start().await.unwrap();
        burst().await;
        let before_the_last = Instant::now();
        assert!(burst().await.iter().all(Result::is_ok));
        server.stop().await.unwrap();
        assert!(before_the_last.elapsed() >= least);
    }
}
