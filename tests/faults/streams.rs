//! A stream whose worker or caller is killed ends in time, on both sides; one whose broker is
//! killed goes on if its reply queue is resumable, or ends with an error; one that lasts longer
//! than the broker waits for acknowledgements is exact; and a worker that stops ends its streams
//! within its limit.

use std::env;
use std::time::Duration;

use futures_util::future::join_all;
use rpc_runtime::{
    Broker, CallError, FaultCode, ReplyQueue, RequestQueue, RunningServer, Server, ServerError,
};
use rpc_tests::flow::{FlowClient, FlowServer, Reading, Source};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::rabbit::{Node, shared, unique};
use rpc_tests::until;
use tokio::time::{Instant, sleep};

use crate::children::{self, ChildProcess};

/// What tells the other process what to do.
const URL: &str = "RPC_TESTS_STREAMS_URL";
const QUEUE: &str = "RPC_TESTS_STREAMS_QUEUE";
const REPLIES: &str = "RPC_TESTS_STREAMS_REPLIES";

/// After how long without messages a stream ends.
const MAX_SILENCE: Duration = Duration::from_secs(16);

/// How long a worker tries to send a message of a stream.
const SEND_LIMIT: Duration = Duration::from_secs(60);

/// How long a worker may go on with a stream whose caller is gone.
const LONGEST_ABANDONED: Duration = Duration::from_secs(90);

/// How much later things may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

const CREDIT: u32 = 100;

/// How many items a stream yields before the other process is killed.
const BEFORE: u64 = 1000;

const REPLY_QUEUES: [ReplyQueue; 3] = [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct];

async fn serve(broker: &Broker, queue: &str, source: &Source) -> RunningServer {
    let server = Server::new(broker).serve_on(RequestQueue::new(queue), FlowServer::new(source.clone()));
    soon("the worker starts", server.start()).await.unwrap()
}

fn client(broker: &Broker, queue: &str) -> FlowClient {
    FlowClient::builder(broker).queue(queue).timeout(4 * SOON).build()
}

/// Checks that a stream is whole.
async fn is_exact(client: &FlowClient, items: u64) {
    let reading = Reading::of(client.list("exact", items).credit(CREDIT));
    let (read, end) = reading.ended().await;
    assert!(end.is_ok() && read == items, "{end:?} after {read}");
}

fn assert_interrupted(end: &Result<(), CallError>) {
    let is_interrupted = matches!(end, Err(CallError::Fault(fault)) if fault.code == FaultCode::Interrupted);
    assert!(is_interrupted, "{end:?}");
}

/// Not a test: a worker in a process of its own, whose streams have no end.
#[tokio::test]
#[ignore = "is there to be killed"]
async fn is_a_worker() {
    let Ok(url) = env::var(URL) else { return };
    let broker = Broker::connect(&url).await.unwrap();
    let source = Source::behind(Gate::open(), u64::MAX);
    let server = serve(&broker, &env::var(QUEUE).unwrap(), &source).await;
    children::is_ready().await;
    server.stop().await.unwrap();
}

/// Not a test: a caller in a process of its own, which reads a stream without an end.
#[tokio::test]
#[ignore = "is there to be killed"]
async fn is_a_caller() {
    let Ok(url) = env::var(URL) else { return };
    let wanted = env::var(REPLIES).unwrap();
    let replies = REPLY_QUEUES.into_iter().find(|it| format!("{it:?}") == wanted);
    let options = Broker::builder().reply_queue(replies.unwrap());
    let broker = options.address(&url).connect().await.unwrap();
    let client = client(&broker, &env::var(QUEUE).unwrap());
    let mut reading = Reading::of(client.watch("endless", u64::MAX).credit(CREDIT));
    reading.reached(BEFORE).await;
    children::is_ready().await;
}

#[tokio::test]
async fn the_streams_of_a_killed_worker_are_interrupted() {
    let queue = unique("streams");
    let variables = [(URL, shared().await), (QUEUE, queue.as_str())];
    let mut victim = ChildProcess::start("streams::is_a_worker", variables).await;
    let mut readings = Vec::new();
    let mut callers = Vec::new();
    for replies in REPLY_QUEUES {
        let options = Broker::builder().reply_queue(replies).address(shared().await);
        let caller = options.connect().await.unwrap();
        let client = client(&caller, &queue);
        for stream in [client.list("list", u64::MAX), client.watch("watch", u64::MAX)] {
            let mut reading = Reading::of(stream.credit(CREDIT));
            reading.reached(BEFORE).await;
            readings.push(reading);
        }
        callers.push((caller, client));
    }
    victim.process.kill().await.unwrap();
    let killed = Instant::now();
    let source = Source::behind(Gate::open(), u64::MAX);
    let broker = Broker::connect(shared().await).await.unwrap();
    let survivor = serve(&broker, &queue, &source).await;
    for reading in readings {
        let (read, end) = reading.ended().await;
        assert_interrupted(&end);
        assert!(read >= BEFORE);
    }
    let took = killed.elapsed();
    assert!(took < MAX_SILENCE + SLACK, "that took {took:?}");
    for entry in ["list", "watch"] {
        assert_eq!(source.runs.of(entry), 0, "a stream does not begin anew");
    }
    for (_, client) in &callers {
        is_exact(client, 2 * BEFORE).await;
    }
    soon("the worker stops", survivor.stop()).await.unwrap();
}

#[tokio::test]
async fn a_worker_gives_up_the_streams_of_killed_callers() {
    let (queue, source) = (unique("streams"), Source::behind(Gate::open(), u64::MAX));
    let worker = Broker::connect(shared().await).await.unwrap();
    let server = serve(&worker, &queue, &source).await;
    // A worker gives up callers with `ReplyQueue::Direct` only after ten minutes.
    let reply_queues = [ReplyQueue::Resumable, ReplyQueue::Exclusive];
    for replies in reply_queues {
        let replies = format!("{replies:?}");
        let variables = [
            (URL, shared().await),
            (QUEUE, queue.as_str()),
            (REPLIES, replies.as_str()),
        ];
        let mut victim = ChildProcess::start("streams::is_a_caller", variables).await;
        victim.process.kill().await.unwrap();
    }
    assert_eq!(source.runs.of("endless"), reply_queues.len());
    source.runs.end(LONGEST_ABANDONED).await;
    let caller = Broker::connect(shared().await).await.unwrap();
    is_exact(&client(&caller, &queue), 2 * BEFORE).await;
    soon("the worker stops", server.stop()).await.unwrap();
}

#[tokio::test]
async fn streams_with_a_resumable_reply_queue_go_on_after_their_broker_was_killed() {
    let node = Node::start().await.unwrap();
    // It serves clients a moment before it obeys every command.
    node.ctl(&["await_startup"]).await.unwrap();
    let (queue, source) = (unique("streams"), Source::behind(Gate::closed(), BEFORE));
    let worker = Broker::connect(node.url()).await.unwrap();
    let server = serve(&worker, &queue, &source).await;
    let mut callers = Vec::new();
    for replies in REPLY_QUEUES {
        let options = Broker::builder().reply_queue(replies).address(node.url());
        let caller = options.connect().await.unwrap();
        let client = client(&caller, &queue);
        let mut readings = Vec::new();
        for stream in [client.list("list", 2 * BEFORE), client.watch("watch", 2 * BEFORE)] {
            let mut reading = Reading::of(stream.credit(CREDIT));
            reading.reached(BEFORE).await;
            readings.push(reading);
        }
        callers.push((replies, caller, client, readings));
    }
    // Else it may forget the queues with the power.
    node.flush().await.unwrap();
    let killed = Instant::now();
    node.kill().await.unwrap();
    source.gate.let_all_go();
    node.restart().await.unwrap();
    for (replies, _caller, client, readings) in callers {
        for reading in readings {
            let (read, end) = reading.ended().await;
            match (replies, &end) {
                (ReplyQueue::Resumable, Ok(())) => assert_eq!(read, 2 * BEFORE),
                // The broker was away for longer than the worker waits.
                (ReplyQueue::Resumable, Err(CallError::Fault(fault))) => {
                    assert_eq!(fault.code, FaultCode::Abandoned);
                    assert!(killed.elapsed() > SEND_LIMIT, "{fault}");
                }
                // The reply queue was lost with its connection.
                (ReplyQueue::Exclusive | ReplyQueue::Direct, Err(CallError::Broker { .. })) => {}
                _ => panic!("{replies:?}: {end:?} after {read}"),
            }
        }
        is_exact(&client, 2 * BEFORE).await;
    }
    source.runs.end(LONGEST_ABANDONED).await;
    for entry in ["list", "watch"] {
        assert_eq!(source.runs.of(entry), REPLY_QUEUES.len(), "{entry}");
    }
    soon("the worker stops", server.stop()).await.unwrap();
}

#[tokio::test]
async fn a_stream_may_last_longer_than_the_broker_waits_for_acknowledgements() {
    let node = Node::start_with("consumer_timeout = 3000").await.unwrap();
    // How often a channel looks; a minute, otherwise. It has no place in `rabbitmq.conf`.
    let often = "application:set_env(rabbit, channel_tick_interval, 500).";
    node.ctl(&["eval", often]).await.unwrap();
    let (queue, source) = (unique("streams"), Source::behind(Gate::closed(), BEFORE));
    let worker = Broker::connect(node.url()).await.unwrap();
    // RabbitMQ 4.3 has this limit for quorum queues only.
    let requests = RequestQueue::new(&queue).quorum();
    let server = Server::new(&worker).serve_on(requests, FlowServer::new(source.clone()));
    let server = server.start().await.unwrap();
    let caller = Broker::connect(node.url()).await.unwrap();
    let client = client(&caller, &queue);
    let consumers = async || {
        let list = [
            "list_consumers",
            "queue_name",
            "consumer_tag",
            "--no-table-headers",
        ];
        let listed = node.ctl(&list).await.unwrap();
        let of_requests = listed.lines().filter(|line| line.starts_with(&queue));
        of_requests.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut readings = Vec::new();
    for stream in [client.list("list", 2 * BEFORE), client.watch("watch", 2 * BEFORE)] {
        let mut reading = Reading::of(stream.credit(CREDIT));
        reading.reached(BEFORE).await;
        readings.push(reading);
    }
    let mut before = Vec::new();
    until("the broker lists the consumer", SOON, async || {
        before = consumers().await;
        Ok(!before.is_empty())
    })
    .await
    .unwrap();
    // More than twice the limit.
    sleep(Duration::from_secs(8)).await;
    assert_eq!(consumers().await, before, "the broker has ended the consumer");
    source.gate.let_all_go();
    for reading in readings {
        let (read, end) = reading.ended().await;
        assert!(end.is_ok() && read == 2 * BEFORE, "{end:?} after {read}");
    }
    for entry in ["list", "watch"] {
        assert_eq!(source.runs.of(entry), 1, "{entry}");
    }
    soon("the worker stops", server.stop()).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_stops_lets_streams_end_and_interrupts_the_others_at_its_limit() {
    const LIMIT: Duration = Duration::from_secs(10);
    let (queue, source) = (unique("streams"), Source::behind(Gate::closed(), BEFORE));
    let worker = Broker::connect(shared().await).await.unwrap();
    let server = Server::new(&worker)
        .drain_timeout(LIMIT)
        .serve_on(RequestQueue::new(&queue), FlowServer::new(source.clone()));
    let server = server.start().await.unwrap();
    let caller = Broker::connect(shared().await).await.unwrap();
    let client = client(&caller, &queue);
    let mut readings = Vec::new();
    for items in [2 * BEFORE, u64::MAX] {
        for stream in [client.list("list", items), client.watch("watch", items)] {
            let mut reading = Reading::of(stream.credit(CREDIT));
            reading.reached(BEFORE).await;
            readings.push((items, reading));
        }
    }
    let stopping = tokio::spawn(server.stop());
    let since = Instant::now();
    source.gate.let_all_go();
    let ends = readings.into_iter().map(async |(items, reading)| {
        let (read, end) = reading.ended().await;
        if items == u64::MAX {
            assert_interrupted(&end);
        } else {
            assert!(end.is_ok() && read == items, "{end:?} after {read}");
        }
    });
    join_all(ends).await;
    let took = since.elapsed();
    assert!(took < LIMIT + SLACK, "that took {took:?}");
    let stopped = soon("the worker stops", stopping).await.unwrap();
    let is_cut_short = matches!(stopped, Err(ServerError::DrainTimedOut { unfinished: 2, .. }));
    assert!(is_cut_short, "{stopped:?}");
    assert_eq!(source.runs.running(), 0);
}
