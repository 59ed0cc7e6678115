//! Connects to the broker that the options and the environment name.

use std::time::Duration;

use rpc_runtime::__tools::QueueReader;
use rpc_runtime::{Broker, BrokerBuilder, BrokerError, ReplyQueue};

use crate::failure::Failure;
use crate::options::Options;

const AMQP_URL: &str = "AMQP_URL";

/// The address if neither the option nor the variable is set.
const DEFAULT_URL: &str = "amqp://localhost";

/// How long closing may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

pub(crate) async fn connect(options: &Options) -> Result<Broker, Failure> {
    let settings = Settings::new(options.url.as_deref(), variables()?);
    Ok(settings.builder()?.addresses(settings.urls()).connect().await?)
}

/// Connects and opens a queue, to manage the messages in it. Also returns how many messages are
/// ready in it. Returns `None` if there is no such queue.
pub(crate) async fn open_queue(
    options: &Options,
    queue: &str,
) -> Result<Option<(QueueReader, u32)>, Failure> {
    let settings = Settings::new(options.url.as_deref(), variables()?);
    let builder = settings.builder()?.addresses(settings.urls());
    Ok(builder.open_queue(queue).await?)
}

/// Returns the addresses to show to people: without logins and options, separated by commas.
pub(crate) fn shown_address(options: &Options) -> Result<String, Failure> {
    let settings = Settings::new(options.url.as_deref(), variables()?);
    Ok(settings.urls().map(without_login).collect::<Vec<_>>().join(", "))
}

/// Returns an address without its login and its options.
fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("amqp", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    // The host follows the last `@`, in case a password has an unescaped one.
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

pub(crate) async fn close(broker: &Broker) {
    // If this takes too long, the end of the process closes the connections.
    let _ = tokio::time::timeout(CLOSE_LIMIT, broker.close()).await;
}

/// Returns the environment variables that say how to connect.
fn variables() -> Result<Vec<(String, String)>, Failure> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let is_ours = |name: &&str| *name == AMQP_URL || name.starts_with("RPC_RUNTIME_");
        let Some(name) = name.to_str().filter(is_ours) else {
            continue;
        };
        match value.into_string() {
            Ok(value) => variables.push((name.to_owned(), value)),
            Err(_) => {
                let message = format!("the environment variable {name} is not UTF-8");
                return Err(Failure::Usage { message, hint: None });
            }
        }
    }
    Ok(variables)
}

/// The address and the options of the connection.
struct Settings {
    /// One address, or several separated by commas.
    url: String,
    /// Without `AMQP_URL`.
    variables: Vec<(String, String)>,
}

impl Settings {
    /// The address of the command line takes precedence.
    fn new(url: Option<&str>, mut variables: Vec<(String, String)>) -> Self {
        let url = url
            .or_else(|| value_of(AMQP_URL, &variables))
            .unwrap_or(DEFAULT_URL);
        let url = url.to_owned();
        // The address is used here. The builder would refuse an invalid one even if `--url`
        // replaces it.
        variables.retain(|(name, _)| name != AMQP_URL);
        Self { url, variables }
    }

    fn is_set(&self, wanted: &str) -> bool {
        value_of(wanted, &self.variables).is_some()
    }

    fn urls(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim)
    }

    /// The builder without the addresses. Sets what suits a short-lived tool, except for options
    /// that the environment sets.
    fn builder(&self) -> Result<BrokerBuilder, BrokerError> {
        let mut builder = BrokerBuilder::from_vars(self.variables.iter().cloned())?;
        // An exclusive queue is deleted even if this process is killed.
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

/// The value of a variable. `None` if it is empty or not set.
fn value_of<'a>(wanted: &str, variables: &'a [(String, String)]) -> Option<&'a str> {
    let mut set = variables.iter().filter(|(_, value)| !value.is_empty());
    set.find(|(name, _)| name == wanted)
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: Option<&str>, variables: &[(&str, &str)]) -> Settings {
        let variables = variables
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Settings::new(url, variables.collect())
    }

    #[test]
    fn the_command_line_takes_precedence_over_the_environment() {
        let environment = [(AMQP_URL, "amqp://one, amqp://two")];
        assert_eq!(
            settings(None, &environment).urls().collect::<Vec<_>>(),
            ["amqp://one", "amqp://two"]
        );
        assert_eq!(
            settings(Some("amqp://three"), &environment)
                .urls()
                .collect::<Vec<_>>(),
            ["amqp://three"]
        );
        for nothing in [&[][..], &[(AMQP_URL, "")]] {
            assert_eq!(settings(None, nothing).urls().collect::<Vec<_>>(), [DEFAULT_URL]);
        }
    }

    #[test]
    fn a_shown_address_has_no_login() {
        for (url, shown) in [
            ("amqp://localhost", "amqp://localhost"),
            ("amqps://alice:p@ss/w:rd@box:5671/sales", "amqps://box:5671/sales"),
            ("amqp://bob@box/?password=secret", "amqp://box/"),
            ("alice:secret@box", "amqp://box"),
        ] {
            assert_eq!(without_login(url), shown, "{url}");
        }
    }

    #[test]
    fn unknown_variables_are_refused() {
        assert!(
            settings(None, &[("RPC_RUNTIME_REPLY_QUEUE", "direct")])
                .builder()
                .is_ok()
        );
        let error = settings(None, &[("RPC_RUNTIME_REPLAY_QUEUE", "direct")])
            .builder()
            .unwrap_err();
        assert!(matches!(error, BrokerError::Environment { .. }), "{error:?}");
    }
}
