//! Jobs that leave together: each confirmed one ends done or dead, whatever happens to the others
//! in its message, to its worker or to the broker.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use rpc_runtime::{Broker, Context, RequestQueue, RunningServer, Server, service};
use rpc_tests::asking::depth;
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::rabbit::{Node, Vhost};
use rpc_tests::trace::Trace;
use rpc_tests::until;

const QUEUE: &str = "mail";
const BATCHED: &str = "mail.batch";
const DEAD: &str = "mail.dead";

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("no route to {0}")]
struct NoRoute(u64);

#[service]
trait Mail {
    #[rpc(oneway, idempotent, retry = "2 times, 100ms to 200ms")]
    async fn send(&self, #[rpc(context)] cx: &Context, to: u64) -> Result<(), NoRoute>;
    /// Not a job: it runs at most once.
    #[rpc(oneway)]
    async fn post(&self, to: u64);
}

/// Never delivered.
const NOWHERE: u64 = 1_000_013;

/// Delivered at the second attempt.
const LATER: u64 = 1_000_017;

#[derive(Clone)]
struct Office {
    gate: Gate,
    /// How often each job was done.
    done: Arc<Mutex<BTreeMap<u64, u32>>>,
    posted: Arc<Mutex<BTreeMap<u64, u32>>>,
}

impl Office {
    fn open() -> Self {
        Self::behind(Gate::open())
    }

    fn behind(gate: Gate) -> Self {
        Self {
            gate,
            done: Arc::default(),
            posted: Arc::default(),
        }
    }

    fn done(&self) -> BTreeMap<u64, u32> {
        self.done.lock().unwrap().clone()
    }

    fn forget(&self) {
        self.done.lock().unwrap().clear();
    }
}

impl Mail for Office {
    async fn send(&self, cx: &Context, to: u64) -> Result<(), NoRoute> {
        match to {
            NOWHERE => return Err(NoRoute(to)),
            LATER if cx.attempt() == 1 => return Err(NoRoute(to)),
            _ => {}
        }
        self.gate.pass().await;
        *self.done.lock().unwrap().entry(to).or_default() += 1;
        Ok(())
    }

    async fn post(&self, to: u64) {
        self.gate.pass().await;
        *self.posted.lock().unwrap().entry(to).or_default() += 1;
    }
}

async fn serve(url: &str, queue: RequestQueue, office: &Office, batching: bool) -> RunningServer {
    let broker = Broker::connect(url).await.unwrap();
    Server::new(&broker)
        .batching(batching)
        .serve_on(queue, MailServer::new(office.clone()))
        .start()
        .await
        .unwrap()
}

fn client(broker: &Broker, queue: &str) -> MailClient {
    MailClient::builder(broker).queue(queue).timeout(SOON).build()
}

/// Sends these jobs at once, each of which is confirmed.
async fn send(client: &MailClient, jobs: impl IntoIterator<Item = u64>) {
    let sending = jobs.into_iter().map(async |n| client.send(n).await.unwrap());
    soon("all jobs are confirmed", join_all(sending)).await;
}

/// Waits until all these jobs were done.
async fn until_done(office: &Office, jobs: Range<u64>) {
    until("all jobs are done", SOON, async || {
        let done = office.done();
        Ok(jobs.clone().all(|job| done.contains_key(&job)))
    })
    .await
    .unwrap();
}

async fn until_dead(broker: &Broker, jobs: u32) {
    until("the jobs are dead", SOON, async || {
        Ok(depth(broker, DEAD).await == jobs)
    })
    .await
    .unwrap();
}

fn assert_done_once(office: &Office, jobs: Range<u64>) {
    let expected: BTreeMap<_, _> = jobs.map(|job| (job, 1)).collect();
    assert_eq!(office.done(), expected);
}

/// A virtual host with everything that is published in it, a caller, and what workers did.
struct Scene {
    vhost: Vhost,
    trace: Trace,
    office: Office,
    broker: Broker,
    client: MailClient,
}

impl Scene {
    async fn new(office: Office) -> Self {
        let vhost = Vhost::new().await;
        let broker = Broker::connect(&vhost.url()).await.unwrap();
        Self {
            trace: Trace::of(&vhost.url()).await.unwrap(),
            client: client(&broker, QUEUE),
            vhost,
            office,
            broker,
        }
    }

    async fn serve(&self, batching: bool) -> RunningServer {
        serve(
            &self.vhost.url(),
            RequestQueue::new(QUEUE),
            &self.office,
            batching,
        )
        .await
    }

    async fn published(&self, queue: &str) -> usize {
        self.trace.published(queue).await.unwrap()
    }

    /// Sends jobs until some of them leave together, and forgets these jobs.
    async fn learn(&self) {
        until("jobs leave together", SOON, async || {
            send(&self.client, 0..50).await;
            until_done(&self.office, 0..50).await;
            Ok(self.published(BATCHED).await > 0)
        })
        .await
        .unwrap();
        self.until_empty().await;
        self.office.forget();
    }

    async fn until_empty(&self) {
        for queue in [QUEUE, BATCHED] {
            self.trace.peer().wait_until_empty(queue, SOON).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_leave_together_and_each_is_done_once() {
    let scene = Scene::new(Office::open()).await;
    let server = scene.serve(true).await;
    scene.learn().await;
    let before = scene.published(QUEUE).await + scene.published(BATCHED).await;
    send(&scene.client, 0..500).await;
    until_done(&scene.office, 0..500).await;
    let messages = scene.published(QUEUE).await + scene.published(BATCHED).await - before;
    assert!(messages < 250, "{messages} messages for 500 jobs");
    server.stop().await.unwrap();
    assert_done_once(&scene.office, 0..500);
    assert_eq!(depth(&scene.broker, DEAD).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_wait_in_their_batches_while_there_is_no_worker() {
    let scene = Scene::new(Office::open()).await;
    let server = scene.serve(true).await;
    scene.learn().await;
    server.stop().await.unwrap();
    send(&scene.client, 0..300).await;
    assert!(depth(&scene.broker, BATCHED).await > 0);
    let server = scene.serve(true).await;
    until_done(&scene.office, 0..300).await;
    server.stop().await.unwrap();
    assert_done_once(&scene.office, 0..300);
    assert_eq!(depth(&scene.broker, BATCHED).await, 0);
}

/// Workers come and go all the time, often the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_is_lost_while_workers_stop_and_start() {
    let scene = Scene::new(Office::open()).await;
    let server = scene.serve(true).await;
    scene.learn().await;
    server.stop().await.unwrap();
    let sending = async {
        for first in (0..3000).step_by(50) {
            send(&scene.client, first..first + 50).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let changing = async {
        loop {
            scene.serve(true).await.stop().await.unwrap();
        }
    };
    tokio::select! {
        () = sending => {}
        () = changing => {}
    }
    let server = scene.serve(true).await;
    until_done(&scene.office, 0..3000).await;
    server.stop().await.unwrap();
    let lost = depth(&scene.broker, DEAD).await;
    assert_eq!(lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_takes_no_other_with_it() {
    let scene = Scene::new(Office::open()).await;
    let server = scene.serve(true).await;
    scene.learn().await;
    server.stop().await.unwrap();
    let jobs = (0..200).chain([NOWHERE, LATER]);
    send(&scene.client, jobs).await;
    assert!(depth(&scene.broker, BATCHED).await > 0);
    let server = scene.serve(true).await;
    until_done(&scene.office, 0..200).await;
    until_done(&scene.office, LATER..LATER + 1).await;
    until_dead(&scene.broker, 1).await;
    server.stop().await.unwrap();
    assert_eq!(scene.office.done.lock().unwrap().remove(&LATER), Some(1));
    assert_done_once(&scene.office, 0..200);
    assert_eq!(depth(&scene.broker, BATCHED).await, 0);
}

/// A lost worker: its jobs are done by another one. What is no job ends in the dead-letter queue
/// if it may have run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_lost_worker_are_done_by_another_one() {
    let scene = Scene::new(Office::open()).await;
    let server = scene.serve(true).await;
    scene.learn().await;
    server.stop().await.unwrap();
    send(&scene.client, 0..200).await;
    let posting = (0..20).map(|n| scene.client.post(n).into_future());
    for posted in soon("all are confirmed", join_all(posting)).await {
        posted.unwrap();
    }
    assert!(depth(&scene.broker, BATCHED).await > 0);

    let url = scene.vhost.url();
    let queue = || RequestQueue::new(QUEUE);
    let lost = Office::behind(Gate::closed());
    let server = serve(&url, queue(), &lost, true).await;
    lost.gate.began(10).await;
    drop(server);
    assert!(lost.done().is_empty());
    let server = scene.serve(true).await;
    until_done(&scene.office, 0..200).await;
    until("all others ran or are dead", SOON, async || {
        let posted = scene.office.posted.lock().unwrap().clone();
        assert!(posted.values().all(|times| *times == 1), "{posted:?}");
        let dead = depth(&scene.broker, DEAD).await;
        Ok(posted.len() + dead as usize == 20)
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
    assert_done_once(&scene.office, 0..200);
    assert_eq!(depth(&scene.broker, BATCHED).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_takes_no_batches_does_what_is_left_in_them() {
    let scene = Scene::new(Office::open()).await;
    let server = scene.serve(true).await;
    scene.learn().await;
    server.stop().await.unwrap();
    send(&scene.client, 0..300).await;
    assert!(depth(&scene.broker, BATCHED).await > 0);
    let server = scene.serve(false).await;
    until_done(&scene.office, 0..300).await;
    scene.until_empty().await;
    assert_done_once(&scene.office, 0..300);
    // Callers hear that from it.
    until("jobs leave alone", SOON, async || {
        let before = scene.published(BATCHED).await;
        send(&scene.client, 0..50).await;
        Ok(scene.published(BATCHED).await == before)
    })
    .await
    .unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_leave_alone_if_their_workers_take_no_batches() {
    let scene = Scene::new(Office::open()).await;
    let server = scene.serve(false).await;
    for _ in 0..5 {
        send(&scene.client, 0..100).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_done(&scene.office, 0..100).await;
    let batches = scene.broker.queue_depth(BATCHED).await;
    assert!(batches.is_none(), "{batches:?}");
    assert_eq!(scene.published(BATCHED).await, 0);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_batches_of_jobs_survive_the_crash_of_the_broker() {
    let node = Node::start().await.unwrap();
    let queues = [
        RequestQueue::new("mail"),
        RequestQueue::new("quorum-mail").quorum(),
    ];
    let broker = Broker::connect(node.url()).await.unwrap();
    let offices = queues.iter().map(|queue| (queue, Office::open()));
    let offices: Vec<_> = offices.collect();
    for (queue, office) in &offices {
        let client = client(&broker, queue.name());
        let server = serve(node.url(), (*queue).clone(), office, true).await;
        send(&client, 0..50).await;
        until_done(office, 0..50).await;
        server.stop().await.unwrap();
        office.forget();
        node.flush().await.unwrap();
        let batched = format!("{}.batch", queue.name());
        // Each round waits for a hundred confirms of a quorum queue.
        until("jobs wait in a batch", 3 * SOON, async || {
            send(&client, 0..100).await;
            Ok(depth(&broker, &batched).await > 0)
        })
        .await
        .unwrap();
        send(&client, 100..200).await;
    }
    node.kill().await.unwrap();
    node.restart().await.unwrap();
    for (queue, office) in &offices {
        let server = serve(node.url(), (*queue).clone(), office, true).await;
        until_done(office, 0..200).await;
        server.stop().await.unwrap();
        let dead = format!("{}.dead", queue.name());
        assert_eq!(depth(&broker, &dead).await, 0);
    }
    broker.close().await;
    node.stop().await.unwrap();
}
