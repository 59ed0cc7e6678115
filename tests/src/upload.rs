//! A service whose methods receive streams, wait at a gate in their middle, and check what arrives.

use std::sync::{Arc, Mutex};

use futures_util::{Stream, stream};
use rpc_runtime::{CallError, Incoming, IncomingError, service};
use tokio::task::JoinHandle;

use crate::gate::Gate;
use crate::runs::Runs;

/// The entry to which the item belongs, and the number of the item.
pub type Item = (String, u64);

/// An upload that is on its way.
pub type Uploading = JoinHandle<Result<u64, CallError<String>>>;

/// Receives numbered items.
#[service]
pub trait Upload {
    /// Takes this many items, and returns how many it took; idempotent.
    #[rpc(idempotent)]
    async fn store(&self, entry: &str, total: u64, items: Incoming<Item>) -> Result<u64, String>;
    /// Takes this many items, and returns how many it took.
    async fn append(&self, entry: &str, total: u64, items: Incoming<Item>) -> Result<u64, String>;
}

/// Returns the items of an entry.
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

    /// Checks that the methods got all their items in order, or those before an interruption.
    #[track_caller]
    pub fn assert_exact(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Takes all items, waits at the gate once, and notes what is not as expected.
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
