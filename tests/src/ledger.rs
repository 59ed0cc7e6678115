//! A service that counts how often each entry ran. Its entries, and `produce`, wait at a
//! [gate](Gate).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rpc_runtime::{
    Broker, CallError, Executed, Fault, FaultCode, RequestQueue, RunningServer, Server, service,
};
use tokio::task::JoinHandle;

use crate::gate::{Gate, SOON, soon};

/// Counts the runs of each entry.
#[service]
pub trait Ledger {
    /// Runs an entry; idempotent.
    #[rpc(idempotent)]
    async fn read(&self, entry: &str);
    /// Runs an entry at most once.
    async fn write(&self, entry: &str);
    /// Returns this many bytes, and counts nothing.
    async fn produce(&self, bytes: usize) -> Vec<u8>;
    /// Takes bytes and counts nothing.
    async fn consume(&self, bytes: &[u8]);
    /// Takes bytes and counts nothing; idempotent.
    #[rpc(idempotent)]
    async fn look_at(&self, bytes: &[u8]);
}

/// The implementation. All clones share their counts.
#[derive(Debug, Clone)]
pub struct Book {
    /// The gate at which entries and `produce` wait.
    pub gate: Gate,
    runs: Arc<Mutex<HashMap<String, usize>>>,
}

impl Book {
    /// Creates a book whose entries, and `produce`, wait at this gate.
    pub fn behind(gate: Gate) -> Self {
        Self {
            gate,
            runs: Arc::default(),
        }
    }

    /// Returns how many runs of an entry have begun, in all workers of this process with this book.
    pub fn runs(&self, entry: &str) -> usize {
        self.runs.lock().unwrap().get(entry).copied().unwrap_or(0)
    }

    /// Checks that this entry, which was written once, ran as often as its caller was told: at most
    /// once. An error must not say that it ran, because writes do not fail. Must be called after
    /// all runs have ended.
    #[track_caller]
    pub fn assert_wrote_as_told(&self, entry: &str, outcome: &Result<(), CallError>) {
        let runs = self.runs(entry);
        let is_told = match outcome.as_ref().map_err(CallError::executed) {
            Ok(()) => runs == 1,
            Err(Executed::No) => runs == 0,
            Err(Executed::Maybe) => runs <= 1,
            Err(Executed::Yes) => false,
        };
        assert!(is_told, "{entry} ran {runs} times: {outcome:?}");
    }

    /// Counts a run, and waits at the gate.
    async fn run(&self, entry: &str) {
        *self.runs.lock().unwrap().entry(entry.to_owned()).or_default() += 1;
        self.gate.pass().await;
    }
}

impl Ledger for Book {
    async fn read(&self, entry: &str) {
        self.run(entry).await;
    }

    async fn write(&self, entry: &str) {
        self.run(entry).await;
    }

    async fn produce(&self, bytes: usize) -> Vec<u8> {
        self.gate.pass().await;
        // Each element is one byte on the wire.
        vec![7; bytes]
    }

    async fn consume(&self, _: &[u8]) {}

    async fn look_at(&self, _: &[u8]) {}
}

/// Starts a worker with this book.
pub async fn serve(broker: &Broker, queue: RequestQueue, book: &Book) -> RunningServer {
    Server::new(broker)
        .serve_on(queue, LedgerServer::new(book.clone()))
        .start()
        .await
        .unwrap()
}

/// Creates a client whose calls time out after [`SOON`].
pub fn client(broker: &Broker, queue: &str) -> LedgerClient {
    LedgerClient::builder(broker).queue(queue).timeout(SOON).build()
}

/// Waits for a spawned call and returns its outcome. Panics if that takes longer than [`SOON`].
pub async fn outcome<T>(call: JoinHandle<Result<T, CallError>>) -> Result<T, CallError> {
    soon("the call ends", call).await.unwrap()
}

/// Returns the fault with which a call failed. Panics if the outcome is another one.
#[track_caller]
pub fn fault<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> Fault {
    match outcome {
        Err(CallError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// Checks that the call failed with the fault `interrupted`: its worker or the broker was lost,
/// and the method may have run.
#[track_caller]
pub fn assert_interrupted(outcome: Result<(), CallError>) {
    let fault = fault(outcome);
    assert_eq!(fault.code, FaultCode::Interrupted, "{fault:?}");
    assert_eq!(fault.code.executed(), Executed::Maybe);
}
