//! TLS, a client certificate instead of a password, and a worker that checks who its caller is. The
//! address and the certificates come from the environment, so the program is the same wherever it
//! runs.
//!
//! It needs a RabbitMQ with TLS, the plugin `rabbitmq_auth_mechanism_ssl`, and a user with the name
//! in the certificate: see `docs/production.md`. The name before the `@` is that user's.
//!
//! ```sh
//! export AMQP_URL='amqps://shop@localhost?auth_mechanism=external'
//! export RPC_RUNTIME_TLS_CA_FILE=ca.pem
//! export RPC_RUNTIME_TLS_CERTIFICATE_FILE=shop.pem RPC_RUNTIME_TLS_KEY_FILE=shop.key
//! cargo run --example tls
//! ```

use rpc_examples::log_to_stderr;
use rpc_runtime::{BrokerBuilder, CallError, Context, Server, service};
use serde::{Deserialize, Serialize};

/// Why a refund was refused.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{user} may not make refunds")]
struct NotAllowed {
    user: String,
}

#[service(queue = "example.till")]
trait Till {
    /// Returns the caller's RabbitMQ user, or `None` if the caller does not send it.
    #[rpc(idempotent)]
    async fn who_am_i(&self, #[rpc(context)] cx: &Context) -> Option<String>;

    /// Makes a refund, if the caller may.
    async fn refund(&self, #[rpc(context)] cx: &Context, amount: u64) -> Result<u64, NotAllowed>;
}

struct OneTill;

impl Till for OneTill {
    async fn who_am_i(&self, cx: &Context) -> Option<String> {
        cx.user_id().map(str::to_owned)
    }

    async fn refund(&self, cx: &Context, amount: u64) -> Result<u64, NotAllowed> {
        // RabbitMQ has checked that this is the user of the caller's connection, which it takes
        // from the certificate.
        match cx.user_id() {
            Some("manager") => Ok(amount),
            user => Err(NotAllowed {
                user: user.unwrap_or("somebody").to_owned(),
            }),
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let broker = BrokerBuilder::from_env()?.send_user_id(true).connect().await?;
    let server = Server::new(&broker)
        .serve(TillServer::new(OneTill))
        .start()
        .await?;

    let till = TillClient::new(&broker);
    let user = till.who_am_i().await?;
    println!(
        "the worker knows its caller as {}",
        user.as_deref().unwrap_or("nobody")
    );
    match till.refund(5).await {
        Ok(amount) => println!("{amount} are refunded"),
        Err(CallError::Service(error)) => println!("refused: {error}"),
        Err(error) => return Err(error.into()),
    }

    server.stop().await?;
    broker.close().await;
    Ok(())
}
