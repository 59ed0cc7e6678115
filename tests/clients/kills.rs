//! Workers in each language are killed, or stopped, while callers in each language wait for them.

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use rpc_conformance::ConformanceClient;
use rpc_runtime::{Broker, Codec};
use rpc_tests::programs::text;
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::RawPeer;
use rpc_tests::until;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::time::{sleep, timeout};

use crate::callers::{self, Outcome};
use crate::programs::ErrorOutput;
use crate::project::{Python, TypeScript};
use crate::survivor::{self, Steps};
use crate::workers::{Language, Worker};

/// How long callers may take until they have noticed everything.
const LIMIT: Duration = Duration::from_secs(90);

/// What each caller reports.
const CALLS: [&str; 4] = ["idempotent_call", "other_call", "resumable_stream", "stream"];

/// A caller in a process of its own.
struct Survivor {
    process: Child,
    says: BufReader<ChildStdout>,
    _errors: ErrorOutput,
}

impl Survivor {
    async fn start(language: Language, queue: &str, codec: Codec) -> Self {
        let mut command = language.program("survivor").await;
        command.args([queue, callers::name_of(codec)]);
        let errors = ErrorOutput::of(&mut command);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            says,
            _errors: errors,
        }
    }

    async fn says(&mut self, expected: &str) {
        let mut line = String::new();
        let reading = timeout(LIMIT, self.says.read_line(&mut line)).await;
        reading
            .unwrap_or_else(|_| panic!("it does not say {expected}"))
            .unwrap();
        assert_eq!(line.trim_end(), expected);
    }

    /// Plays the part of a caller: see `survivor.py`.
    async fn run(mut self, worker_is: &Steps) -> Result<Vec<callers::Report>, String> {
        self.says("begun").await;
        worker_is.next().await;
        worker_is.next().await;
        let mut stdin = self.process.stdin.take().unwrap();
        stdin.write_all(b"paused\n").await.unwrap();
        self.says("sent").await;
        worker_is.next().await;
        let mut rest = Vec::new();
        timeout(LIMIT, self.says.read_to_end(&mut rest))
            .await
            .expect("it ends")
            .unwrap();
        callers::read(&text(&rest))
    }
}

/// Kills a worker that callers in all languages use.
async fn kill(worker_in: Language) {
    // The callers wait for each other, and not for an installation.
    tokio::join!(Python::get(), TypeScript::get());
    let (queue, everyone) = (unique("killed"), unique("everyone"));
    let worker = Worker::start(worker_in, &queue, &everyone).await;
    let steps = Steps::new(Language::ALL.len() + 1);
    let callers = Language::ALL
        .into_iter()
        .zip([Codec::Json, Codec::MessagePack, Codec::Json]);
    let callers = join_all(callers.map(async |(language, codec)| {
        let reports = match language {
            Language::Rust => survivor::run(&queue, codec, &steps).await,
            other => Survivor::start(other, &queue, codec).await.run(&steps).await,
        };
        (language, reports)
    }));
    let replace = async {
        steps.next().await;
        worker.pause().await;
        steps.next().await;
        steps.next().await;
        // The paused worker has got all requests, so the next one gets them again.
        let peer = RawPeer::connect(shared().await).await.unwrap();
        peer.wait_until_empty(&queue, LIMIT).await.unwrap();
        worker.kill().await;
        Worker::start(worker_in, &queue, &everyone).await
    };
    let (outcomes, _worker) = tokio::join!(callers, replace);
    for (language, reports) in outcomes {
        let mut reports = reports.unwrap_or_else(|error| panic!("caller in {language}: {error}"));
        reports.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = CALLS.map(|name| (name.to_owned(), Outcome::Ok));
        assert_eq!(reports, expected, "caller in {language}, worker in {worker_in}");
    }
}

#[tokio::test]
async fn callers_survive_a_worker_in_rust_that_is_killed() {
    kill(Language::Rust).await;
}

#[tokio::test]
async fn callers_survive_a_worker_in_python_that_is_killed() {
    kill(Language::Python).await;
}

#[tokio::test]
async fn callers_survive_a_worker_in_typescript_that_is_killed() {
    kill(Language::TypeScript).await;
}

/// More calls than the worker runs at once, so that some wait in the queue when it stops.
const CALLS_AT_STOP: usize = 60;

/// Stops a worker that has requests, and starts another one.
async fn stop(language: Language) {
    let (queue, everyone) = (unique("stopped"), unique("everyone"));
    let worker = Worker::start(language, &queue, &everyone).await;
    let broker = Broker::connect(shared().await).await.unwrap();
    let client = ConformanceClient::builder(&broker)
        .queue(&queue)
        .batching(false)
        .build();
    // Not idempotent: none of them may begin twice, and none is lost.
    let calls = join_all((0..CALLS_AT_STOP).map(async |_| client.sleep(400).timeout(LIMIT).await));
    let replace = async {
        sleep(Duration::from_millis(200)).await;
        let (status, next) = tokio::join!(worker.stop(), async {
            sleep(Duration::from_millis(100)).await;
            Worker::start(language, &queue, &everyone).await
        });
        assert!(status.success(), "the worker in {language} ends with {status}");
        next
    };
    let (outcomes, _worker) = tokio::join!(calls, replace);
    for outcome in outcomes {
        assert!(matches!(outcome, Ok(400)), "worker in {language}: {outcome:?}");
    }
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let is_empty = async || Ok(peer.queue_depth(&queue).await? == Some(0));
    until("the queue is empty", LIMIT, is_empty).await.unwrap();
}

#[tokio::test]
async fn a_worker_in_rust_that_stops_loses_no_request() {
    stop(Language::Rust).await;
}

#[tokio::test]
async fn a_worker_in_python_that_stops_loses_no_request() {
    stop(Language::Python).await;
}

#[tokio::test]
async fn a_worker_in_typescript_that_stops_loses_no_request() {
    stop(Language::TypeScript).await;
}
