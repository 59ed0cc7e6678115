//! A service whose methods receive streams, wait at a gate in their middle, and check what arrives.

use std::sync::{Arc, Mutex};

use futures_util::{Stream, stream};
use rpc_runtime::{CallError, Incoming, IncomingError, service};
use tokio::task::JoinHandle;

use crate::gate::Gate;
use crate::runs::Runs;

/// The [entry](crate::runs) to which the item belongs, and the number of the item, from 0.
pub type Item = (String, u64);

/// A task that awaits a call of one of the methods.
pub type Uploading = JoinHandle<Result<u64, CallError<String>>>;

/// Receives numbered items.
#[service]
pub trait Upload {
    /// Takes all items, which must be `total`, and returns their number; idempotent.
    #[rpc(idempotent)]
    async fn store(&self, entry: &str, total: u64, items: Incoming<Item>) -> Result<u64, String>;
    /// Takes all items, which must be `total`, and returns their number.
    async fn append(&self, entry: &str, total: u64, items: Incoming<Item>) -> Result<u64, String>;
}

/// Returns `total` items of an entry.
pub fn items(entry: &str, total: u64) -> impl Stream<Item = Item> + Send + use<> {
    let entry = entry.to_owned();
    stream::iter((0..total).map(move |number| (entry.clone(), number)))
}

/// The implementation. All clones share their counts.
#[derive(Debug, Clone)]
pub struct Sink {
    /// The gate at which methods wait.
    pub gate: Gate,
    /// Before which item they wait.
    waits_before: u64,
    /// The runs in all workers with this sink.
    pub runs: Runs,
    /// What was not as expected.
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Sink {
    /// Creates a sink whose methods wait at this gate before this item.
    pub fn behind(gate: Gate, waits_before: u64) -> Self {
        Self {
            gate,
            waits_before,
            runs: Runs::default(),
            wrong: Arc::default(),
        }
    }

    /// Checks that the methods that have ended got all their items in order, or those before an
    /// interruption.
    #[track_caller]
    pub fn assert_exact(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Takes all items, waits at the gate before one of them, and notes what is not as expected.
    /// Returns an error, but notes nothing, if the items are interrupted.
    async fn take(&self, entry: &str, total: u64, mut items: Incoming<Item>) -> Result<u64, String> {
        let _run = self.runs.begin(entry);
        let mut count = 0;
        let wrong = loop {
            if count == self.waits_before {
                self.gate.pass().await;
            }
            match items.next().await {
                Some(Ok((of, number))) if of == entry && number == count => count += 1,
                None if count == total => return Ok(count),
                Some(Err(error @ IncomingError::Interrupted)) => return Err(error.to_string()),
                other => break other,
            }
        };
        let wrong = format!("{entry} got {wrong:?} after {count} items");
        self.wrong.lock().unwrap().push(wrong.clone());
        Err(wrong)
    }
}

impl Upload for Sink {
    async fn store(&self, entry: &str, total: u64, items: Incoming<Item>) -> Result<u64, String> {
        self.take(entry, total, items).await
    }

    async fn append(&self, entry: &str, total: u64, items: Incoming<Item>) -> Result<u64, String> {
        self.take(entry, total, items).await
    }
}
