//! Many callers and many workers at once: each reply reaches its own call, in whatever order
//! replies come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpc_runtime::{Broker, CallError, ReplyQueue, RequestQueue, RunningServer, Server, service};
use rpc_tests::on_both_brokers;
use rpc_tests::rabbit::unique;
use rpc_tests::world::World;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CALLERS: u64 = 4;
const WORKERS: usize = 3;

/// How long a call may wait behind all the others. A machine that is busy with other tests is slow,
/// but no call is lost.
const LIMIT: Duration = Duration::from_secs(180);

const REPLY_QUEUES: [ReplyQueue; 3] = [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct];

#[service]
trait Work {
    /// Takes a little time, another for each number, and returns the number.
    async fn echo(&self, number: u64) -> u64;
}

struct Sleepy {
    runs: Arc<AtomicU64>,
}

impl Work for Sleepy {
    async fn echo(&self, number: u64) -> u64 {
        self.runs.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(scattered(number) % 4)).await;
        number
    }
}

/// A number that has nothing to do with its neighbours', and is always the same.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

on_both_brokers! {
    ten_thousand_calls_at_once_from_each_of_four_callers_all_get_their_own_answer,
    calls_get_their_own_answer_by_every_reply_queue,
    replies_may_come_in_another_order_than_requests,
}

async fn ten_thousand_calls_at_once_from_each_of_four_callers_all_get_their_own_answer(world: World) {
    answers_all(&world, ReplyQueue::default(), 10_000).await;
}

async fn calls_get_their_own_answer_by_every_reply_queue(world: World) {
    for replies in REPLY_QUEUES {
        answers_all(&world, replies, 500).await;
    }
}

/// All callers make so many calls each, all of them at once; three workers answer.
async fn answers_all(world: &World, replies: ReplyQueue, calls_each: u64) {
    let queue = unique("load");
    let runs = Arc::new(AtomicU64::new(0));
    let mut servers = Vec::new();
    for _ in 0..WORKERS {
        let service = Sleepy {
            runs: Arc::clone(&runs),
        };
        let server = serve(world, &queue, WorkServer::new(service)).await;
        servers.push(server);
    }

    let mut brokers = Vec::new();
    let mut calls = JoinSet::new();
    for caller in 0..CALLERS {
        let broker = world.broker_with(Broker::builder().reply_queue(replies)).await;
        let work = WorkClient::builder(&broker).queue(&queue).timeout(LIMIT).build();
        for call in 0..calls_each {
            let number = caller * calls_each + call;
            let call = work.echo(number);
            calls.spawn(async move { (number, call.await) });
        }
        brokers.push(broker);
    }
    while let Some(ended) = calls.join_next().await {
        let (number, answer) = ended.unwrap();
        match answer {
            Ok(answer) => assert_eq!(answer, number, "the reply of another call, {replies:?}"),
            Err(error) => panic!("call {number} failed, {replies:?}: {error:?}"),
        }
    }
    // Nothing was lost, so nothing ran twice either.
    assert_eq!(runs.load(Ordering::Relaxed), CALLERS * calls_each);

    for broker in brokers {
        broker.close().await;
    }
    for server in servers {
        server.stop().await.unwrap();
    }
}

#[service]
trait Gate {
    /// Answers once the gate is open.
    async fn wait(&self, name: &str) -> String;
    async fn pass(&self, name: &str) -> String;
}

struct Gatekeeper {
    entered: Arc<Notify>,
    open: Arc<Notify>,
}

impl Gate for Gatekeeper {
    async fn wait(&self, name: &str) -> String {
        self.entered.notify_one();
        self.open.notified().await;
        name.to_owned()
    }

    async fn pass(&self, name: &str) -> String {
        name.to_owned()
    }
}

async fn replies_may_come_in_another_order_than_requests(world: World) {
    let queue = unique("gate");
    let (entered, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let keeper = Gatekeeper {
        entered: Arc::clone(&entered),
        open: Arc::clone(&open),
    };
    let server = serve(&world, &queue, GateServer::new(keeper)).await;
    for replies in REPLY_QUEUES {
        let broker = world.broker_with(Broker::builder().reply_queue(replies)).await;
        let gate = GateClient::builder(&broker).queue(&queue).build();
        let first = tokio::spawn(gate.wait("first"));
        timeout(LIMIT, entered.notified())
            .await
            .expect("the first call reaches its method");

        assert_eq!(gate.pass("second").await.unwrap(), "second", "{replies:?}");
        assert!(!first.is_finished(), "{replies:?}: nobody opened the gate");
        open.notify_one();
        let first: Result<String, CallError> = first.await.unwrap();
        assert_eq!(first.unwrap(), "first", "{replies:?}");
        broker.close().await;
    }
    server.stop().await.unwrap();
}

async fn serve(world: &World, queue: &str, service: impl rpc_runtime::Service) -> RunningServer {
    let broker = world.broker().await;
    Server::new(&broker)
        .concurrency(64)
        .serve_on(RequestQueue::new(queue), service)
        .start()
        .await
        .expect("the server starts")
}
