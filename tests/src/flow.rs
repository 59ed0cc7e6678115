//! A service whose streams wait at a gate in their middle, and a reader that checks what arrives.

use std::process;

use futures_util::{Stream, StreamExt, stream};
use rpc_runtime::{CallError, StreamingCall, service};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::gate::{Gate, soon};
use crate::runs::Runs;

/// The number of the run that yields the item, and the number of the item.
pub type Item = (u64, u64);

/// Yields numbered items.
#[service]
pub trait Flow {
    /// Yields this many items; idempotent.
    #[rpc(idempotent)]
    fn list(&self, entry: &str, items: u64) -> impl Stream<Item = Item>;
    /// Yields this many items.
    fn watch(&self, entry: &str, items: u64) -> impl Stream<Item = Item>;
}

/// The implementation. All clones share their counts.
#[derive(Debug, Clone)]
pub struct Source {
    /// The gate at which streams wait.
    pub gate: Gate,
    /// The number of the item before which they wait.
    waits_before: u64,
    /// The runs in all workers of this process with this source.
    pub runs: Runs,
}

impl Source {
    /// Creates a source whose streams wait at this gate before this item.
    pub fn behind(gate: Gate, waits_before: u64) -> Self {
        Self {
            gate,
            waits_before,
            runs: Runs::default(),
        }
    }

    /// Begins a run that yields this many items. It waits at the gate before item `waits_before`,
    /// if there is one, and ends when the stream is dropped.
    fn run(&self, entry: &str, items: u64) -> impl Stream<Item = Item> + use<> {
        let running = self.runs.begin(entry);
        // Workers in other processes number their own runs, also from 1.
        let run = (u64::from(process::id()) << 32) | running.number;
        let Self {
            gate, waits_before, ..
        } = self.clone();
        stream::iter(0..items).then(move |item| {
            // Moves the run into the stream.
            let _ = &running;
            let gate = (item == waits_before).then(|| gate.clone());
            async move {
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                (run, item)
            }
        })
    }
}

impl Flow for Source {
    fn list(&self, entry: &str, items: u64) -> impl Stream<Item = Item> {
        self.run(entry, items)
    }

    fn watch(&self, entry: &str, items: u64) -> impl Stream<Item = Item> {
        self.run(entry, items)
    }
}

/// A task that reads a stream, and panics unless the items are those of one run, in order and
/// without gaps.
#[derive(Debug)]
pub struct Reading {
    task: JoinHandle<(u64, Result<(), CallError>)>,
    read: watch::Receiver<u64>,
}

impl Reading {
    /// Begins to read a stream.
    pub fn of(mut stream: StreamingCall<Item>) -> Self {
        let (sender, read) = watch::channel(0);
        let task = tokio::spawn(async move {
            let (mut count, mut of_run) = (0, None);
            loop {
                match stream.next().await {
                    Some(Ok((run, item))) => {
                        let expected = (*of_run.get_or_insert(run), count);
                        assert_eq!((run, item), expected, "the run and the number of an item");
                        count += 1;
                        sender.send_replace(count);
                    }
                    Some(Err(error)) => {
                        assert!(stream.next().await.is_none(), "an item after the error");
                        return (count, Err(error));
                    }
                    None => return (count, Ok(())),
                }
            }
        });
        Self { task, read }
    }

    /// Waits until this many items are read, or the task has ended.
    pub async fn reached(&mut self, items: u64) {
        // An error: the task has ended before.
        let _ = soon("items arrive", self.read.wait_for(|read| *read >= items)).await;
    }

    /// Waits for the end of the stream. Returns the number of items, and the error with which the
    /// stream ended, if any. Panics if the task did.
    pub async fn ended(self) -> (u64, Result<(), CallError>) {
        soon("the stream ends", self.task).await.unwrap()
    }
}
