//! What the examples share: a service, as an application would keep it in a crate of its own, and the choice of a broker.

use std::collections::HashMap;

use rpc_runtime::{Broker, BrokerError, service};
use serde::{Deserialize, Serialize};

/// Why the directory could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DirectoryError {
    /// Nobody has this id.
    #[error("no user {id}")]
    UnknownUser {
        /// The id that was asked for.
        id: String,
    },
}

/// Looks users up.
#[service(queue = "rpc_queue")]
pub trait UserDirectory {
    /// The e-mail address of one user.
    #[rpc(default, idempotent)]
    async fn get_email(&self, id: &str) -> Result<String, DirectoryError>;

    /// How many users there are.
    #[rpc(idempotent)]
    async fn count(&self) -> u64;
}

/// A directory of two users.
#[derive(Debug, Clone)]
pub struct Directory {
    emails: HashMap<&'static str, &'static str>,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            emails: [
                ("user:12345", "alice@example.com"),
                ("user:67890", "bob@example.com"),
            ]
            .into(),
        }
    }
}

impl UserDirectory for Directory {
    async fn get_email(&self, id: &str) -> Result<String, DirectoryError> {
        match self.emails.get(id) {
            Some(email) => Ok((*email).to_owned()),
            None => Err(DirectoryError::UnknownUser { id: id.to_owned() }),
        }
    }

    async fn count(&self) -> u64 {
        self.emails.len() as u64
    }
}

/// The RabbitMQ at `AMQP_URL`, or, where that is not set, a broker within this process.
///
/// # Errors
///
/// Where RabbitMQ cannot be reached.
pub async fn broker() -> Result<Broker, BrokerError> {
    match std::env::var("AMQP_URL") {
        Ok(url) => Broker::connect(&url).await,
        Err(_) => Ok(Broker::in_process()),
    }
}

/// The RabbitMQ at `AMQP_URL`, by default the one on this machine: for programs that talk to another process.
///
/// # Errors
///
/// Where RabbitMQ cannot be reached.
pub async fn rabbitmq() -> Result<Broker, BrokerError> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    Broker::connect(&url).await
}

/// Logs to stderr, as `RUST_LOG` says; warnings by default.
pub fn log_to_stderr() {
    // lapin would warn of each request that no queue takes, with its payload; the caller's error says the same without it.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,lapin=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
