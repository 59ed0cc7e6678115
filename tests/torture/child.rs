//! What both kinds of child processes need: their orders, and their log.

use std::io::BufRead as _;

use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

/// The lines on standard input, each an order. The end of it is the end of the parent, and then of this process: at once,
/// whatever it does.
pub(crate) fn orders() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    // A thread of its own: tokio's standard input would keep the runtime from ending.
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

/// Logs to standard error, which the parent keeps in a file.
pub(crate) fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("rpc_runtime=debug"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
