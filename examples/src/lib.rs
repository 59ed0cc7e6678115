//! What the examples share: a service, which an application would keep in its own crate, the choice
//! of a broker, the log, and a database.

mod database;

use std::collections::HashMap;

use rpc_runtime::{Broker, BrokerError, service};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use database::{Database, crash_point};

/// Why the directory could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
pub enum DirectoryError {
    /// No user has this id.
    #[error("no user {id}")]
    UnknownUser {
        /// The requested id.
        id: String,
    },
}

/// Looks users up.
#[service(queue = "rpc_queue", schema)]
pub trait UserDirectory {
    /// Returns the e-mail address of one user.
    #[rpc(default, idempotent)]
    async fn get_email(&self, id: &str) -> Result<String, DirectoryError>;

    /// Returns the number of users.
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

/// Connects to the RabbitMQ at `AMQP_URL`. Returns a broker within this process if the variable is
/// not set.
///
/// # Errors
///
/// Fails if the address is invalid, or RabbitMQ does not accept the connection.
pub async fn broker() -> Result<Broker, BrokerError> {
    match std::env::var("AMQP_URL") {
        Ok(url) => Broker::connect(&url).await,
        Err(_) => Ok(Broker::in_process()),
    }
}

/// Connects to the RabbitMQ at `AMQP_URL`, by default the one on this machine. For programs that
/// talk to another process.
///
/// # Errors
///
/// Fails if the address is invalid, or RabbitMQ does not accept the connection.
pub async fn rabbitmq() -> Result<Broker, BrokerError> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    Broker::connect(&url).await
}

/// Logs to stderr, filtered by `RUST_LOG`. By default, logs warnings and errors, except lapin's.
pub fn log_to_stderr() {
    // lapin, the AMQP library, logs a lost connection as an error although the runtime reconnects.
    // The runtime logs it as well.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,lapin=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
