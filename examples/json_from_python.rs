//! A worker that a program in another language calls, in JSON. This program serves, runs
//! [`json_from_python.py`](json_from_python.py), and ends with it. The script is a complete caller:
//! it needs only `pika`.
//!
//! ```sh
//! pip install pika
//! AMQP_URL=amqp://localhost cargo run --example json_from_python
//! ```
//!
//! `PYTHON` names the interpreter, by default `python3`. `docs/protocol.md` describes the protocol.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use rpc_examples::log_to_stderr;
use rpc_runtime::{Broker, Server, service};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Mutex;

/// `{"title": "..", "year": 1818}` in JSON; the year may be null, or missing.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Book {
    title: String,
    year: Option<u16>,
}

/// `{"Unknown": {"isbn": ".."}}` or `"Closed"` in JSON.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum LibraryError {
    #[error("there is no book {isbn}")]
    Unknown { isbn: String },
    #[error("the library is closed")]
    Closed,
}

#[service(queue = "example.library")]
trait Library {
    #[rpc(idempotent)]
    async fn find(&self, isbn: &str) -> Result<Book, LibraryError>;

    /// Adds a book, or replaces the one with this ISBN. Returns the number of books afterwards.
    async fn add(&self, isbn: &str, book: Book) -> Result<usize, LibraryError>;

    /// From then on, `add` fails.
    #[rpc(oneway)]
    async fn close(&self);
}

#[derive(Default)]
struct Shelves(Mutex<Stock>);

#[derive(Default)]
struct Stock {
    books: BTreeMap<String, Book>,
    is_closed: bool,
}

impl Library for Shelves {
    async fn find(&self, isbn: &str) -> Result<Book, LibraryError> {
        let stock = self.0.lock().await;
        let unknown = || LibraryError::Unknown {
            isbn: isbn.to_owned(),
        };
        stock.books.get(isbn).cloned().ok_or_else(unknown)
    }

    async fn add(&self, isbn: &str, book: Book) -> Result<usize, LibraryError> {
        let mut stock = self.0.lock().await;
        if stock.is_closed {
            return Err(LibraryError::Closed);
        }
        stock.books.insert(isbn.to_owned(), book);
        Ok(stock.books.len())
    }

    async fn close(&self) {
        self.0.lock().await.is_closed = true;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let broker = Broker::connect(&url).await?;
    let server = Server::new(&broker)
        // So that `close` has run before the next request begins.
        .concurrency(1)
        .serve(LibraryServer::new(Shelves::default()))
        .start()
        .await?;

    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("json_from_python.py");
    let ended = Command::new(&python)
        .arg(script)
        .env("AMQP_URL", &url)
        .status()
        .await
        .with_context(|| format!("cannot run {python}: set PYTHON to an interpreter that has pika"))?;
    ensure!(
        ended.success(),
        "the script failed: does {python} have the package pika?"
    );

    server.stop().await?;
    broker.close().await;
    Ok(())
}
