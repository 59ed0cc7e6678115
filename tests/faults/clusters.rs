//! A cluster loses the node that leads the request queue, and that everybody is connected to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use rpc_runtime::{Broker, BrokerError, CallError, RequestQueue, Server, ServerError, Status};
use rpc_tests::rabbit::{Cluster, shared_node, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use rpc_tests::gate::{Gate, SOON};
use rpc_tests::ledger::{Book, LedgerClient, LedgerServer, client, serve};

/// How many calls of each kind are in flight.
const CALLERS: usize = 16;

/// How many calls are answered before the node is killed, and afterwards.
const SOME: usize = 300;

/// How long the cluster may take to serve again, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long it may take until calls are answered again. A channel of RabbitMQ 3.10 may refuse for
/// ten seconds; RabbitMQ 4 takes more than a minute to say that the node of a classic queue is
/// down.
const RECOVERY_LIMIT: Duration = Duration::from_secs(40);

/// When RabbitMQ 4 has answered all that was asked about classic queues of a killed node.
const LATE_ANSWERS: Duration = Duration::from_secs(90);

/// How long a write may take that was lost: nobody can say so before.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Calls of both kinds, one after the other in each of many tasks, until they are told to stop.
struct Load {
    tasks: JoinSet<Vec<(String, Result<(), CallError>)>>,
    reads: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl Load {
    fn start(ledger: &LedgerClient) -> Self {
        let mut load = Self {
            tasks: JoinSet::new(),
            reads: Arc::default(),
            writes: Arc::default(),
            done: Arc::default(),
        };
        for number in 0..CALLERS {
            let (reader, done) = (ledger.clone(), Arc::clone(&load.done));
            let (reads, writes) = (Arc::clone(&load.reads), Arc::clone(&load.writes));
            load.tasks.spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let outcome = reader.read("read").await;
                    outcome.unwrap_or_else(|error| panic!("a read failed: {error:?}"));
                    reads.fetch_add(1, Ordering::Relaxed);
                }
                Vec::new()
            });
            let (ledger, done) = (ledger.clone(), Arc::clone(&load.done));
            load.tasks.spawn(async move {
                let mut made = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let entry = format!("write {number}.{}", made.len());
                    let outcome = ledger.write(&entry).timeout(WRITE_LIMIT).await;
                    writes.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
                    made.push((entry, outcome));
                }
                made
            });
        }
        load
    }

    /// Waits until some more calls of both kinds are answered.
    async fn goes_on(&self) {
        let counters = [&self.reads, &self.writes];
        let enough = counters.map(|counter| counter.load(Ordering::Relaxed) + SOME);
        until("calls are answered", PATIENCE, async || {
            let now = counters.map(|counter| counter.load(Ordering::Relaxed));
            Ok(now[0] >= enough[0] && now[1] >= enough[1])
        })
        .await
        .unwrap();
    }
}

/// Makes many calls at once that may not run again, and returns how many fail.
async fn failures(ledger: &LedgerClient) -> usize {
    let writes = (0..SOME).map(|number| ledger.write(&format!("many {number}")));
    let outcomes = join_all(writes).await;
    outcomes.iter().filter(|outcome| outcome.is_err()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_a_leader_fails_no_call_that_may_run_again() {
    let cluster = Cluster::start(3).await.unwrap();
    let urls = cluster.urls();
    let (queue, book) = (unique("cluster"), Book::behind(Gate::open()));
    let mut servers = Vec::new();
    // The first declares the queue at the node that it is connected to; one worker is elsewhere.
    for first in [0, 0, 1] {
        let urls = [urls[first], urls[(first + 1) % 3], urls[(first + 2) % 3]];
        let worker = Broker::builder().addresses(urls).connect().await.unwrap();
        servers.push(serve(&worker, RequestQueue::new(&queue).quorum(), &book).await);
    }
    // A classic queue of the node that is killed, and a worker that is connected to another one.
    let classic = unique("classic");
    let declaring = Broker::connect(urls[0]).await.unwrap();
    let declared = serve(&declaring, RequestQueue::new(&classic), &book).await;
    declared.stop().await.unwrap();
    declaring.close().await;
    let beside = Broker::builder().addresses(&urls[1..]).connect().await.unwrap();
    servers.push(serve(&beside, RequestQueue::new(&classic), &book).await);

    // A queue of another node, whose batches are at the one that is killed.
    let split = unique("split");
    let peer = RawPeer::connect(urls[0]).await.unwrap();
    peer.declare_durable(&format!("{split}.batch")).await.unwrap();
    servers.push(serve(&beside, RequestQueue::new(&split), &book).await);

    let caller = Broker::builder().addresses(&urls).connect().await.unwrap();
    assert_eq!(failures(&client(&caller, &split)).await, 0);
    assert_eq!(failures(&client(&caller, &split)).await, 0);
    let ledger = LedgerClient::builder(&caller)
        .queue(&queue)
        .timeout(PATIENCE)
        .build();
    let mut load = Load::start(&ledger);
    load.goes_on().await;

    // Everybody is connected to it, and a busy machine may have elected another.
    until("the first node leads the queue", PATIENCE, async || {
        let leads = cluster.leader_of(&queue).await? == Some(0);
        if !leads {
            cluster.move_leader(&queue, 0).await?;
        }
        Ok(leads)
    })
    .await
    .unwrap();
    cluster.kill(0).await.unwrap();
    let killed = Instant::now();
    // A channel of RabbitMQ 3.10 whose first request meets the queue in the moment without a leader
    // goes on asking the dead node: after ten seconds of refusals, the caller gives it up. The node
    // stays dead.
    load.goes_on().await;
    let recovered = killed.elapsed();
    eprintln!("{SOME} calls of each kind were answered {recovered:?} after the kill");
    assert!(recovered < RECOVERY_LIMIT, "{recovered:?}");

    // Nobody takes out what is in a queue of the node; its callers are told, although they may run
    // again. Only batches are sent elsewhere.
    let begun = Instant::now();
    let nobody = client(&caller, &classic).read("nobody").timeout(PATIENCE).await;
    assert!(
        matches!(
            nobody,
            Err(CallError::Refused { .. } | CallError::NoServer { .. })
        ),
        "{nobody:?}"
    );
    eprintln!("a call to its queue failed after {:?}", begun.elapsed());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let by_split = client(&caller, &split);
    until("calls of the other queue succeed", SOON, async || {
        Ok(failures(&by_split).await == 0)
    })
    .await
    .unwrap();
    assert_eq!(failures(&by_split).await, 0);

    // RabbitMQ 4 answers late what was asked about the classic queues of the node: the reply queue
    // of the caller, and the request queue. That costs no connection.
    let mut changes = [caller.status_changes(), beside.status_changes()];
    for changes in &mut changes {
        changes.next().await;
    }

    load.done.store(true, Ordering::Relaxed);
    let mut writes = Vec::new();
    let ending = async {
        while let Some(ended) = load.tasks.join_next().await {
            writes.append(&mut ended.unwrap());
        }
    };
    timeout(PATIENCE, ending).await.expect("all calls end");
    if shared_node().await.version().await.unwrap() >= (4, 0) {
        sleep_until(killed + LATE_ANSWERS).await;
    }
    for changes in &mut changes {
        let change = changes.next().now_or_never();
        assert!(change.is_none(), "{change:?}");
    }
    ledger.read("after all that").await.unwrap();

    // A worker that starts now is told that its queue is not there.
    let begun = Instant::now();
    let starting = Server::new(&beside)
        .serve_on(RequestQueue::new(&classic), LedgerServer::new(book.clone()))
        .start();
    let refused = timeout(PATIENCE, starting).await.expect("it ends").err();
    assert!(
        matches!(refused, Some(ServerError::Broker(BrokerError::Queue { .. }))),
        "{refused:?}"
    );
    eprintln!("the server did not start after {:?}", begun.elapsed());
    assert!(begun.elapsed() < RECOVERY_LIMIT);

    for server in servers {
        timeout(PATIENCE, server.stop()).await.expect("it stops").unwrap();
    }
    // While a channel is refused, so is each write at once, and its task makes the next: that is
    // thousands in ten seconds.
    let failed = writes.iter().filter(|(_, outcome)| outcome.is_err()).count();
    let is_refused = |outcome: &_| matches!(outcome, Err(CallError::Refused { .. }));
    let refused = writes.iter().filter(|(_, outcome)| is_refused(outcome)).count();
    eprintln!(
        "{failed} of {} writes failed, {refused} of them as the broker refused them",
        writes.len()
    );
    for (entry, outcome) in &writes {
        book.assert_wrote_as_told(entry, outcome);
    }
}

/// RabbitMQ does not answer the `basic.consume` of a quorum queue without a majority, and closes
/// the connection later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_without_a_majority_interrupts_other_queues_once() {
    // RabbitMQ closes the connection this long and five seconds after the question.
    let cluster = Cluster::start_with(3, "net_ticktime = 5").await.unwrap();
    let node = &cluster.nodes()[0];
    let worker = Broker::builder()
        .address(node.url())
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await
        .unwrap();
    let (classic, quorum, book) = (unique("classic"), unique("quorum"), Book::behind(Gate::open()));
    let server = serve(&worker, RequestQueue::new(&classic), &book).await;
    let beside = serve(&worker, RequestQueue::new(&quorum).quorum(), &book).await;
    let others = [1, 2].map(|index| cluster.kill(index));
    for killed in join_all(others).await {
        killed.unwrap();
    }

    let mut changes = worker.status_changes();
    node.ctl(&["close_all_connections", "test"]).await.unwrap();
    let mut losses = 0;
    let watching = async {
        while let Some(status) = changes.next().await {
            losses += usize::from(matches!(status, Status::Connecting { .. }));
        }
    };
    let _ = timeout(Duration::from_secs(45), watching).await;
    assert!(losses <= 2, "{losses} losses");
    let caller = Broker::connect(node.url()).await.unwrap();
    // RabbitMQ 4.3 declares nothing without a majority of the nodes, not even a reply queue.
    if node.version().await.unwrap() < (4, 3) {
        client(&caller, &classic).read("after all that").await.unwrap();
    }

    let stopping = Instant::now();
    timeout(PATIENCE, beside.stop()).await.expect("it stops").unwrap();
    assert!(stopping.elapsed() < RECOVERY_LIMIT, "{:?}", stopping.elapsed());

    for index in [1, 2] {
        cluster.restart(index).await.unwrap();
    }
    until("the queue has a leader", PATIENCE, async || {
        Ok(cluster.leader_of(&quorum).await?.is_some())
    })
    .await
    .unwrap();
    let beside = serve(&worker, RequestQueue::new(&quorum).quorum(), &book).await;
    for queue in [&classic, &quorum] {
        let reading = client(&caller, queue).read("with a majority");
        reading.timeout(PATIENCE).await.unwrap();
    }
    for server in [server, beside] {
        timeout(PATIENCE, server.stop()).await.expect("it stops").unwrap();
    }
}
