//! Streams that are resumed are exact, while their workers are killed one after another.

use std::collections::VecDeque;
use std::env;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use rpc_runtime::{Broker, RequestQueue, Server, StreamingCall, service};
use rpc_tests::gate::SOON;
use rpc_tests::rabbit::{shared, unique};
use tokio::time::{interval, sleep, timeout};

use crate::children::{self, ChildProcess};

/// What tells the other process what to do.
const URL: &str = "RPC_TESTS_RESUMPTION_URL";
const QUEUE: &str = "RPC_TESTS_RESUMPTION_QUEUE";

const STREAMS: u16 = 1000;

/// How many items a stream has.
const ITEMS: u64 = 50;

/// How long the method takes for an item.
const PACE: Duration = Duration::from_millis(200);

const WORKERS: usize = 3;

/// How many workers are killed, one every two seconds.
const KILLS: usize = 10;

#[service]
trait Ticker {
    #[rpc(idempotent)]
    fn ticks(&self, stream: u16, #[rpc(resume)] after: Option<(u16, u64)>) -> impl Stream<Item = (u16, u64)>;
}

struct Clock;

impl Ticker for Clock {
    fn ticks(&self, stream: u16, after: Option<(u16, u64)>) -> impl Stream<Item = (u16, u64)> {
        let first = after.map_or(0, |(_, number)| number + 1);
        stream::iter(first..ITEMS).then(move |number| async move {
            sleep(PACE).await;
            (stream, number)
        })
    }
}

/// Not a test: a worker in a process of its own.
#[tokio::test]
#[ignore = "is there to be killed"]
async fn is_a_worker() {
    let Ok(url) = env::var(URL) else { return };
    let broker = Broker::connect(&url).await.unwrap();
    let server = Server::new(&broker).concurrency(STREAMS).serve_on(
        RequestQueue::new(env::var(QUEUE).unwrap()),
        TickerServer::new(Clock),
    );
    let server = server.start().await.unwrap();
    children::is_ready().await;
    server.stop().await.unwrap();
}

/// A stream that moved to another worker got no item twice, and lost none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_exact_while_their_workers_are_killed() {
    let queue = unique("resumption");
    let variables = [(URL, shared().await), (QUEUE, queue.as_str())];
    let start = || ChildProcess::start("resumption::is_a_worker", variables);
    let mut workers = VecDeque::new();
    for _ in 0..WORKERS {
        workers.push_back(start().await);
    }
    let caller = Broker::connect(shared().await).await.unwrap();
    let client = TickerClient::builder(&caller)
        .queue(&queue)
        .timeout(3 * SOON)
        .build();
    let read = async |stream: u16, mut ticks: StreamingCall<(u16, u64)>| {
        for number in 0..ITEMS {
            let tick = ticks.next().await.expect("it goes on").unwrap();
            assert_eq!(tick, (stream, number));
        }
        assert!(ticks.next().await.is_none());
    };
    let readers =
        Vec::from_iter((0..STREAMS).map(|stream| tokio::spawn(read(stream, client.ticks(stream, None)))));
    let mut seconds = interval(Duration::from_secs(2));
    seconds.tick().await;
    for _ in 0..KILLS {
        seconds.tick().await;
        workers.push_back(start().await);
        let mut oldest = workers.pop_front().unwrap();
        oldest.process.kill().await.unwrap();
    }
    for reader in readers {
        timeout(6 * SOON, reader).await.expect("the stream ends").unwrap();
    }
}
