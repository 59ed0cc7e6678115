//! A method that receives a stream: the caller sends the parts of a file while the worker stores
//! them. And a chat, in which both send.
//!
//! ```sh
//! cargo run --example upload                            # within the process
//! AMQP_URL=amqp://localhost cargo run --example upload  # over RabbitMQ
//! ```

use futures_util::{Stream, StreamExt, stream};
use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{CallError, Incoming, Server, service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum StoreError {
    #[error("it is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("it breaks off: {0}")]
    Incomplete(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    parts: usize,
    bytes: usize,
}

#[service(queue = "example.store")]
trait Store {
    /// Stores a file, and returns how large it is.
    async fn upload(&self, name: &str, parts: Incoming<Vec<u8>>) -> Result<Stored, StoreError>;

    /// Repeats each line, with the name of the room.
    fn chat(&self, room: &str, lines: Incoming<String>) -> impl Stream<Item = String>;
}

/// The largest file, in bytes.
const LIMIT: usize = 10;

/// Only counts what it would store.
struct Disk;

impl Store for Disk {
    async fn upload(&self, _name: &str, mut parts: Incoming<Vec<u8>>) -> Result<Stored, StoreError> {
        let mut stored = Stored { parts: 0, bytes: 0 };
        while let Some(part) = parts.next().await {
            // A file is complete only if its stream ends without an error.
            let part = part.map_err(|error| StoreError::Incomplete(error.to_string()))?;
            stored.parts += 1;
            stored.bytes += part.len();
            if stored.bytes > LIMIT {
                // The caller's stream is dropped.
                return Err(StoreError::TooLarge { limit: LIMIT });
            }
        }
        Ok(stored)
    }

    fn chat(&self, room: &str, lines: Incoming<String>) -> impl Stream<Item = String> {
        // An error is the last item, and ends the chat. Usually the caller is gone, and nobody
        // would read it.
        let lines = lines.filter_map(async |line| line.ok());
        lines.map(move |line| format!("{room}: {line}"))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let server = Server::new(&broker).serve(StoreServer::new(Disk)).start().await?;
    let store = StoreClient::new(&broker);

    let parts = stream::iter([vec![1], vec![2, 2], vec![3, 3, 3]]);
    let Stored { parts, bytes } = store.upload("a.bin", parts).await?;
    println!("stored a.bin: {parts} parts, {bytes} bytes");

    let endless = stream::repeat_with(|| vec![0; 4]);
    match store.upload("b.bin", endless).await {
        Err(CallError::Service(reason)) => println!("refused b.bin: {reason}"),
        other => println!("unexpected: {other:?}"),
    }

    let lines = stream::iter(["hello", "goodbye"].map(str::to_owned));
    let mut answers = store.chat("lobby", lines);
    while let Some(answer) = answers.next().await {
        println!("{}", answer?);
    }
    server.stop().await?;
    broker.close().await;
    Ok(())
}
