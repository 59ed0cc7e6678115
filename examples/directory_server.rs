//! A worker: serves the user directory over RabbitMQ until SIGINT or SIGTERM, and then finishes the
//! requests that it has.
//!
//! ```sh
//! AMQP_URL=amqp://localhost cargo run --example directory_server
//! ```

use rpc_examples::{Directory, UserDirectoryServer, log_to_stderr, rabbitmq};
use rpc_runtime::Server;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };

    let broker = rabbitmq().await?;
    Server::new(&broker)
        .serve(UserDirectoryServer::new(Directory::default()))
        .run_until(shutdown)
        .await?;
    broker.close().await;
    Ok(())
}
