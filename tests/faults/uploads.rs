//! A stream from a caller ends in time, on both sides, if its worker or its caller is killed. If
//! the broker is killed, it goes on once the broker is back and the reply queue is resumable.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use rpc_runtime::{Broker, CallError, FaultCode, ReplyQueue, RequestQueue, RunningServer, Server};
use rpc_tests::gate::{Gate, SOON, soon};
use rpc_tests::rabbit::{Node, shared, unique};
use rpc_tests::until;
use rpc_tests::upload::{Sink, UploadClient, UploadServer, Uploading, items};
use tokio::time::{Instant, timeout};

use crate::children::{self, ChildProcess};

/// What tells the other process what to do.
const URL: &str = "RPC_TESTS_UPLOADS_URL";
const QUEUE: &str = "RPC_TESTS_UPLOADS_QUEUE";
const REPLIES: &str = "RPC_TESTS_UPLOADS_REPLIES";

/// After how long without messages a stream ends.
const MAX_SILENCE: Duration = Duration::from_secs(16);

/// How much later things may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

/// How long a broker may take to come back, on a machine that is busy.
const OUTAGE: Duration = Duration::from_secs(180);

/// How many items a caller sends before a process is killed. The worker accepts 1024 that its
/// method has not taken.
const BEFORE: u64 = 3000;

const REPLY_QUEUES: [ReplyQueue; 3] = [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct];

async fn serve(broker: &Broker, queue: &str, sink: &Sink) -> RunningServer {
    let server = Server::new(broker).serve_on(RequestQueue::new(queue), UploadServer::new(sink.clone()));
    soon("the worker starts", server.start()).await.unwrap()
}

async fn connect(url: &str, replies: ReplyQueue) -> Broker {
    let options = Broker::builder().reply_queue(replies).address(url);
    options.connect().await.unwrap()
}

fn client(broker: &Broker, queue: &str) -> UploadClient {
    UploadClient::builder(broker).queue(queue).timeout(OUTAGE).build()
}

/// Begins an upload with each method. Returns once each has sent some items.
async fn begin(client: &UploadClient, total: u64) -> [Uploading; 2] {
    let sent = [(); 2].map(|()| Arc::<AtomicU64>::default());
    let counted = |entry: &str, sent: &Arc<AtomicU64>| {
        let sent = Arc::clone(sent);
        items(entry, total).inspect(move |_| {
            sent.fetch_add(1, Ordering::SeqCst);
        })
    };
    let uploads = [
        tokio::spawn(client.store("store", total, counted("store", &sent[0]))),
        tokio::spawn(client.append("append", total, counted("append", &sent[1]))),
    ];
    let are_sent = async || Ok(sent.iter().all(|sent| sent.load(Ordering::SeqCst) >= BEFORE));
    until("items are sent", SOON, are_sent).await.unwrap();
    uploads
}

/// Sends a whole stream.
async fn is_exact(client: &UploadClient) {
    let upload = client.append("exact", BEFORE, items("exact", BEFORE));
    assert_eq!(soon("it is answered", upload).await.unwrap(), BEFORE);
}

/// Not a test: a worker in a process of its own.
#[tokio::test]
#[ignore = "is there to be killed"]
async fn is_a_worker() {
    let Ok(url) = env::var(URL) else { return };
    let broker = Broker::connect(&url).await.unwrap();
    let sink = Sink::behind(Gate::open(), 0);
    let server = serve(&broker, &env::var(QUEUE).unwrap(), &sink).await;
    children::is_ready().await;
    server.stop().await.unwrap();
}

/// Not a test: a caller in a process of its own, which sends streams without an end.
#[tokio::test]
#[ignore = "is there to be killed"]
async fn is_a_caller() {
    let Ok(url) = env::var(URL) else { return };
    let wanted = env::var(REPLIES).unwrap();
    let replies = REPLY_QUEUES.into_iter().find(|it| format!("{it:?}") == wanted);
    let broker = connect(&url, replies.unwrap()).await;
    let _uploads = begin(&client(&broker, &env::var(QUEUE).unwrap()), u64::MAX).await;
    children::is_ready().await;
}

#[tokio::test]
async fn the_uploads_to_a_killed_worker_are_interrupted() {
    let queue = unique("uploads");
    let variables = [(URL, shared().await), (QUEUE, queue.as_str())];
    let mut victim = ChildProcess::start("uploads::is_a_worker", variables).await;
    let (mut uploads, mut callers) = (Vec::new(), Vec::new());
    for replies in REPLY_QUEUES {
        let caller = connect(shared().await, replies).await;
        let client = client(&caller, &queue);
        uploads.extend(begin(&client, u64::MAX).await);
        callers.push((caller, client));
    }
    victim.process.kill().await.unwrap();
    let killed = Instant::now();
    let sink = Sink::behind(Gate::open(), 0);
    let broker = Broker::connect(shared().await).await.unwrap();
    let survivor = serve(&broker, &queue, &sink).await;
    for upload in uploads {
        let outcome = soon("the call ends", upload).await.unwrap();
        let is_interrupted = matches!(
            &outcome,
            Err(CallError::Fault(fault)) if fault.code == FaultCode::Interrupted
        );
        assert!(is_interrupted, "{outcome:?}");
    }
    let took = killed.elapsed();
    assert!(took < MAX_SILENCE + SLACK, "that took {took:?}");
    for entry in ["store", "append"] {
        assert_eq!(sink.runs.of(entry), 0, "an upload does not begin anew");
    }
    for (_, client) in &callers {
        is_exact(client).await;
    }
    sink.assert_exact();
    soon("the worker stops", survivor.stop()).await.unwrap();
}

#[tokio::test]
async fn a_worker_ends_the_uploads_of_killed_callers() {
    let (queue, sink) = (unique("uploads"), Sink::behind(Gate::open(), 0));
    let worker = Broker::connect(shared().await).await.unwrap();
    let server = serve(&worker, &queue, &sink).await;
    for replies in REPLY_QUEUES {
        let replies = format!("{replies:?}");
        let variables = [
            (URL, shared().await),
            (QUEUE, queue.as_str()),
            (REPLIES, replies.as_str()),
        ];
        let mut victim = ChildProcess::start("uploads::is_a_caller", variables).await;
        victim.process.kill().await.unwrap();
    }
    for entry in ["store", "append"] {
        assert_eq!(sink.runs.of(entry), REPLY_QUEUES.len());
    }
    sink.runs.end(MAX_SILENCE + SLACK).await;
    let caller = Broker::connect(shared().await).await.unwrap();
    is_exact(&client(&caller, &queue)).await;
    sink.assert_exact();
    soon("the worker stops", server.stop()).await.unwrap();
}

#[tokio::test]
async fn uploads_with_a_resumable_reply_queue_go_on_after_their_broker_was_killed() {
    const TOTAL: u64 = 3 * BEFORE;
    let node = Node::start().await.unwrap();
    // It serves clients a moment before it obeys every command.
    node.ctl(&["await_startup"]).await.unwrap();
    let (queue, sink) = (unique("uploads"), Sink::behind(Gate::closed(), BEFORE));
    let worker = Broker::connect(node.url()).await.unwrap();
    let server = serve(&worker, &queue, &sink).await;
    let mut callers = Vec::new();
    for replies in REPLY_QUEUES {
        let caller = connect(node.url(), replies).await;
        let client = client(&caller, &queue);
        let uploads = begin(&client, TOTAL).await;
        callers.push((replies, caller, client, uploads));
    }
    sink.gate.began(6).await;
    // Else it may forget the queues with the power.
    node.flush().await.unwrap();
    node.kill().await.unwrap();
    sink.gate.let_all_go();
    node.restart().await.unwrap();
    for (replies, _caller, client, uploads) in callers {
        for upload in uploads {
            let outcome = timeout(OUTAGE, upload).await.expect("the call ends").unwrap();
            match (replies, outcome) {
                (ReplyQueue::Resumable, Ok(count)) => assert_eq!(count, TOTAL),
                // The reply queue was lost with its connection.
                (ReplyQueue::Exclusive | ReplyQueue::Direct, Err(CallError::Broker { .. })) => {}
                (_, outcome) => panic!("{replies:?}: {outcome:?}"),
            }
        }
        is_exact(&client).await;
    }
    sink.runs.end(2 * SOON).await;
    for entry in ["store", "append"] {
        assert_eq!(sink.runs.of(entry), REPLY_QUEUES.len());
    }
    sink.assert_exact();
    soon("the worker stops", server.stop()).await.unwrap();
}
