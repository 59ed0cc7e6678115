//! A method that returns a stream: the caller reads the lines of a log while the worker makes them,
//! and sets the pace.
//!
//! ```sh
//! cargo run --example streaming                            # within the process
//! AMQP_URL=amqp://localhost cargo run --example streaming  # over RabbitMQ
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{Stream, StreamExt, stream};
use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{CallError, Server, service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("the log is cut off after line {last}")]
struct CutOff {
    last: usize,
}

#[service(queue = "example.log")]
trait Log {
    /// The lines of a log. An error ends them.
    fn lines(&self, name: &str) -> impl Stream<Item = Result<String, CutOff>>;

    /// More lines than anyone wants to read.
    fn many(&self) -> impl Stream<Item = usize>;
}

struct Lines {
    /// How many lines `many` has yielded.
    made: Arc<AtomicUsize>,
}

impl Log for Lines {
    fn lines(&self, name: &str) -> impl Stream<Item = Result<String, CutOff>> {
        // In place of a file, the name itself has the lines, separated by commas. The arguments
        // live as long as the stream.
        let lines = name.split(',').enumerate();
        let last = name.split(',').count();
        let lines = lines.map(|(index, line)| Ok(format!("line {}: {line}", index + 1)));
        stream::iter(lines.chain([Err(CutOff { last })]))
    }

    fn many(&self) -> impl Stream<Item = usize> {
        stream::iter(1..=1_000_000).inspect(|_| {
            self.made.fetch_add(1, Ordering::Relaxed);
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let made = Arc::new(AtomicUsize::new(0));
    let lines = Lines {
        made: Arc::clone(&made),
    };
    let server = Server::new(&broker).serve(LogServer::new(lines)).start().await?;
    let log = LogClient::new(&broker);

    let mut lines = log.lines("the first,the second,the third");
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => println!("{line}"),
            Err(CallError::Service(cut_off)) => println!("{cut_off}"),
            Err(error) => return Err(error.into()),
        }
    }

    // Beyond what was read, the worker makes at most 16 lines and one that waits for credit.
    let mut many = log.many().credit(16);
    let mut read = 0;
    while let Some(line) = many.next().await {
        read += usize::from(line.is_ok());
        if read == 3 {
            break;
        }
    }
    let is_bounded = made.load(Ordering::Relaxed) < 50;
    println!(
        "read {read} of a million lines, and the worker made {} than 50",
        if is_bounded { "fewer" } else { "more" }
    );
    // Tells the worker to end the stream.
    drop(many);
    server.stop().await?;
    broker.close().await;
    Ok(())
}
