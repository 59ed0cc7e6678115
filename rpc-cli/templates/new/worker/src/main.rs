//! The worker: serves until Ctrl-C or SIGTERM, and then finishes the requests that it has.
//!
//! `AMQP_URL` is the address of RabbitMQ, and `RUST_LOG` selects what is logged to stderr.

use std::future::Future;
use std::io::IsTerminal as _;

use rpc_runtime::{Broker, Server};
use tracing_subscriber::EnvFilter;

use {{crate}}_api::GreeterServer;
use {{crate}}_worker::English;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let shutdown = shutdown_signal()?;
    let broker = Broker::from_env().await?;
    Server::new(&broker)
        .version(env!("CARGO_PKG_VERSION"))
        .serve(GreeterServer::new(English))
        .run_until(shutdown)
        .await?;
    broker.close().await;
    Ok(())
}

fn log_to_stderr() {
    // The runtime reports lost connections itself. lapin, the AMQP library below it, may log
    // payloads.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,lapin=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Returns a future that is ready at Ctrl-C or SIGTERM, with which Docker and Kubernetes stop a
/// process.
#[cfg(unix)]
fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Returns a future that is ready at Ctrl-C.
#[cfg(windows)]
fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut ctrl_c = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        ctrl_c.recv().await;
    })
}
