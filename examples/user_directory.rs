//! Worker and caller in one program: the shortest complete use of the library.
//!
//! ```sh
//! cargo run --example user_directory                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example user_directory       # over RabbitMQ
//! ```

use rpc_examples::{
    Directory, DirectoryError, UserDirectoryClient, UserDirectoryServer, broker, log_to_stderr,
};
use rpc_runtime::{CallError, Server};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = broker().await?;
    let server = Server::new(&broker)
        .serve(UserDirectoryServer::new(Directory::default()))
        .start()
        .await?;

    let directory = UserDirectoryClient::new(&broker);
    for id in ["user:12345", "user:67890", "user:99999"] {
        match directory.get_email(id).await {
            Ok(email) => println!("{id} -> {email}"),
            Err(CallError::Service(error @ DirectoryError::UnknownUser { .. })) => {
                println!("{id} -> {error}");
            }
            Err(error) => return Err(error.into()),
        }
    }

    server.stop().await?;
    broker.close().await;
    Ok(())
}
