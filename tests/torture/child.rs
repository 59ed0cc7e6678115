//! What both kinds of child processes share: orders and the log.

use std::io::BufRead as _;

use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

/// The exit code of a worker that did not finish its requests within the drain timeout.
pub(crate) const UNFINISHED: u8 = 3;

/// Receives a `()` for each line on standard input. The only order is to make the last calls, so
/// the text does not matter. If the input ends while the receiver exists, the process exits:
/// the parent has ended.
pub(crate) fn orders() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    // On a thread of its own: tokio's standard input would keep the runtime from shutting down.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || sender.blocking_send(()).is_err() {
                break;
            }
        }
        if !sender.is_closed() {
            std::process::exit(1);
        }
    });
    receiver
}

/// Logs to standard error, which the parent writes to a file.
pub(crate) fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("rpc_runtime=debug"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
