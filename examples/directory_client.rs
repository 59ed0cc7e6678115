//! A caller: asks the user directory over RabbitMQ for the e-mail addresses of the given ids.
//!
//! ```sh
//! AMQP_URL=amqp://localhost cargo run --example directory_client user:12345 user:67890
//! ```
//!
//! Prints `ID -> EMAIL` for each address, and each failed call to stderr. Exits with 1 if a call
//! failed. With `--text` it sends plain text, as RabbitMQ's tutorial does.

use std::process::ExitCode;

use rpc_examples::{UserDirectoryClient, log_to_stderr, rabbitmq};
use rpc_runtime::{Chain, Codec};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    log_to_stderr();
    let (options, ids): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let codec = match options.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Codec::default(),
        ["--text"] => Codec::Text,
        _ => anyhow::bail!("unknown option: the only one is --text"),
    };
    anyhow::ensure!(
        !ids.is_empty(),
        "no user: give one or more ids, such as user:12345"
    );

    let broker = rabbitmq().await?;
    let directory = UserDirectoryClient::builder(&broker).codec(codec).build();
    // All calls are in flight at once. Their results are printed in the order of the ids.
    let calls: Vec<_> = ids
        .iter()
        .map(|id| tokio::spawn(directory.get_email(id)))
        .collect();
    let mut status = ExitCode::SUCCESS;
    for (id, call) in ids.iter().zip(calls) {
        match call.await? {
            Ok(email) => println!("{id} -> {email}"),
            Err(error) => {
                eprintln!("{id}: {}", Chain(&error));
                status = ExitCode::FAILURE;
            }
        }
    }
    broker.close().await;
    Ok(status)
}
