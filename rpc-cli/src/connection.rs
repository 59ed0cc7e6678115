//! From options and environment to a connected broker.

use std::time::Duration;

use rpc_runtime::{Broker, BrokerBuilder, BrokerError, ReplyQueue};

use crate::cli::Options;
use crate::failure::Failure;

const AMQP_URL: &str = "AMQP_URL";

/// Where nothing else is said.
const DEFAULT_URL: &str = "amqp://localhost";

/// How long the connections may take to close: nothing depends on it.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Connects to the broker that the options and the environment name.
pub(crate) async fn connect(options: &Options) -> Result<Broker, Failure> {
    let plan = Plan::new(options.url.as_deref(), variables()?);
    Ok(plan.builder()?.addresses(plan.urls()).connect().await?)
}

/// Gives the broker a moment to see the connections close.
pub(crate) async fn close(broker: &Broker) {
    // One that takes longer sees them end with the process.
    let _ = tokio::time::timeout(CLOSE_LIMIT, broker.close()).await;
}

/// The variables that say how to connect.
fn variables() -> Result<Vec<(String, String)>, Failure> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name
            .to_str()
            .filter(|name| *name == AMQP_URL || name.starts_with("RPC_RUNTIME_"))
        else {
            continue;
        };
        match value.into_string() {
            Ok(value) => variables.push((name.to_owned(), value)),
            Err(_) => {
                let message = format!("the environment variable {name} is not text in UTF-8");
                return Err(Failure::Usage { message, hint: None });
            }
        }
    }
    Ok(variables)
}

/// How to connect.
struct Plan {
    url: String,
    /// Without `AMQP_URL`.
    variables: Vec<(String, String)>,
}

impl Plan {
    /// What the command line says wins.
    fn new(url: Option<&str>, mut variables: Vec<(String, String)>) -> Self {
        let set = |wanted: &str| {
            let mut set = variables.iter().filter(|(_, value)| !value.is_empty());
            set.find(|(name, _)| name == wanted)
                .map(|(_, value)| value.clone())
        };
        let url = url.map(str::to_owned).or_else(|| set(AMQP_URL));
        let url = url.unwrap_or_else(|| DEFAULT_URL.to_owned());
        // It is read where it is connected to; not at all where the command line says another.
        variables.retain(|(name, _)| name != AMQP_URL);
        Self { url, variables }
    }

    fn is_set(&self, wanted: &str) -> bool {
        let mut set = self.variables.iter().filter(|(_, value)| !value.is_empty());
        set.any(|(name, _)| name == wanted)
    }

    fn urls(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim)
    }

    fn builder(&self) -> Result<BrokerBuilder, BrokerError> {
        let mut builder = BrokerBuilder::from_vars(self.variables.iter().cloned())?;
        // Nothing is left behind by a process that is killed.
        if !self.is_set("RPC_RUNTIME_REPLY_QUEUE") {
            builder = builder.reply_queue(ReplyQueue::Exclusive);
        }
        if !self.is_set("RPC_RUNTIME_APP_ID") {
            builder = builder.app_id("rpc-cli");
        }
        if !self.is_set("RPC_RUNTIME_CONNECTION_NAME") {
            builder = builder.connection_name("rpc");
        }
        Ok(builder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(url: Option<&str>, variables: &[(&str, &str)]) -> Plan {
        let variables = variables
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Plan::new(url, variables.collect())
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let environment = [(AMQP_URL, "amqp://one, amqp://two")];
        assert_eq!(
            plan(None, &environment).urls().collect::<Vec<_>>(),
            ["amqp://one", "amqp://two"]
        );
        assert_eq!(
            plan(Some("amqp://three"), &environment)
                .urls()
                .collect::<Vec<_>>(),
            ["amqp://three"]
        );
        for nothing in [&[][..], &[(AMQP_URL, "")]] {
            assert_eq!(plan(None, nothing).urls().collect::<Vec<_>>(), [DEFAULT_URL]);
        }
    }

    #[test]
    fn options_come_from_the_environment_and_misspelt_ones_are_refused() {
        assert!(
            plan(None, &[("RPC_RUNTIME_REPLY_QUEUE", "direct")])
                .builder()
                .is_ok()
        );
        let error = plan(None, &[("RPC_RUNTIME_REPLAY_QUEUE", "direct")])
            .builder()
            .unwrap_err();
        assert!(matches!(error, BrokerError::Environment { .. }), "{error:?}");
    }
}
