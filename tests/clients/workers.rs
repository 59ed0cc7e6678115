//! Workers in all languages, in processes of their own.

use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rpc_conformance::{ConformanceServer, Reference};
use rpc_runtime::{Broker, RequestQueue, Server};
use rpc_tests::rabbit::shared;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::programs::{ErrorOutput, command};
use crate::project::{Python, TypeScript};

/// How long a worker may take to start or to stop. Generous, because other tests keep the machine
/// busy.
const LIMIT: Duration = Duration::from_secs(30);

/// How many bytes the workers send in one message, in all languages.
const MAX_SENT_BYTES: usize = 1 << 20;

/// The environment of a worker in Rust.
const QUEUES: &str = "RPC_TESTS_CLIENTS_QUEUES";

/// A language in which there are callers and workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Rust,
    Python,
    TypeScript,
}

impl Language {
    pub(crate) const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::TypeScript];

    /// Returns a command that runs a program of this name, which this language must have.
    pub(crate) async fn program(self, name: &str) -> Command {
        let mut command = match self {
            Self::Rust => panic!("programs in Rust are functions here"),
            Self::Python => Python::get().await.program(&format!("{name}.py")),
            Self::TypeScript => TypeScript::get().await.program(name),
        };
        command.env("AMQP_URL", shared().await);
        command
    }
}

impl fmt::Display for Language {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::TypeScript => "typescript",
        })
    }
}

/// Not a test: the worker that others run in a process of its own, and kill.
#[tokio::test]
#[ignore = "is there to be killed"]
async fn is_a_worker() {
    let Ok(queues) = std::env::var(QUEUES) else { return };
    let (queue, everyone) = queues.split_once(' ').unwrap();
    let broker = Broker::builder()
        .address(shared().await)
        .max_sent_bytes(MAX_SENT_BYTES);
    let broker = broker.connect().await.unwrap();
    let reference = Reference::default();
    let serve = |server: Server, queue| {
        let service = ConformanceServer::new(reference.clone());
        server.serve_on(RequestQueue::new(queue), service)
    };
    let server = [queue, everyone].into_iter().fold(Server::new(&broker), serve);
    let server = server.start().await.unwrap();
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    println!("\nready");
    stop.recv().await;
    server.stop().await.unwrap();
}

/// A worker that is killed when this is dropped.
pub(crate) struct Worker {
    process: Child,
    _errors: ErrorOutput,
}

impl Worker {
    /// Starts a worker. Returns once it serves both queues.
    pub(crate) async fn start(language: Language, queue: &str, everyone: &str) -> Self {
        let mut command = match language {
            Language::Rust => {
                let mut command = command(std::env::current_exe().unwrap());
                command
                    .args(["--exact", "workers::is_a_worker", "--ignored", "--nocapture"])
                    .env("AMQP_URL", shared().await)
                    .env(QUEUES, format!("{queue} {everyone}"));
                command
            }
            other => {
                let mut command = other.program("worker").await;
                command.args([queue, everyone]);
                command
            }
        };
        let errors = ErrorOutput::of(&mut command);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut says = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = async {
            loop {
                match says.next_line().await.unwrap().as_deref() {
                    Some("ready") => break,
                    Some(_) => {}
                    None => panic!("the worker in {language} ends before it is ready"),
                }
            }
        };
        timeout(LIMIT, ready)
            .await
            .unwrap_or_else(|_| panic!("the worker in {language} is not ready"));
        // What it still prints goes nowhere.
        tokio::spawn(async move { while let Ok(Some(_)) = says.next_line().await {} });
        Self {
            process,
            _errors: errors,
        }
    }

    async fn signal(&self, signal: &str) {
        let id = self.process.id().expect("it runs").to_string();
        let status = command("/bin/kill").args([signal, &id]).status().await.unwrap();
        assert!(status.success(), "{status}");
    }

    /// Stops it where it is, without its knowledge.
    pub(crate) async fn pause(&self) {
        self.signal("-STOP").await;
    }

    /// Ends it at once.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// Lets it stop by itself, and waits until it has.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal("-TERM").await;
        let ended = timeout(LIMIT, self.process.wait()).await;
        ended.expect("it stops in time").unwrap()
    }
}
