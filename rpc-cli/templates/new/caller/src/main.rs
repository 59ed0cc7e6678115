//! The caller: prints a greeting for the person whose name is its argument.
//!
//! `AMQP_URL` is the address of RabbitMQ, and `RUST_LOG` selects what is logged to stderr.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use rpc_runtime::{Broker, CallError, Chain, Executed};
use tracing_subscriber::EnvFilter;

use {{crate}}_api::{GreetError, GreeterClient};

/// How long a call may take, with the time that it waits for a worker.
const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    log_to_stderr();
    let name = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "world".to_owned());
    let broker = Broker::from_env().await?;
    let greeted = greet(&GreeterClient::new(&broker), &name).await;
    broker.close().await;
    Ok(match greeted {
        Ok(greeting) => {
            println!("{greeting}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    })
}

/// Returns the greeting, or what to tell the user if there is none.
async fn greet(greeter: &GreeterClient, name: &str) -> Result<String, String> {
    match greeter.greet(name).timeout(TIMEOUT).await {
        Ok(greeting) => Ok(greeting),
        // The method's own errors are typed.
        Err(CallError::Service(GreetError::NoName)) => Err("please give a name".to_owned()),
        Err(CallError::Service(error)) => Err(error.to_string()),
        // Any other error says whether the method ran.
        Err(error) if error.executed() == Executed::No => Err(format!(
            "not greeted, please try again later: {}",
            Chain(&error)
        )),
        Err(error) => Err(format!("perhaps greeted: {}", Chain(&error))),
    }
}

fn log_to_stderr() {
    // The runtime reports lost connections itself. lapin, the AMQP library below it, may log
    // payloads.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,lapin=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use {{crate}}_api::Greeter;

    /// A fake worker.
    struct Shy;

    impl Greeter for Shy {
        async fn greet(&self, name: &str) -> Result<String, GreetError> {
            match name {
                "" => Err(GreetError::NoName),
                _ => Err(GreetError::TooLong { limit: 0 }),
            }
        }
    }

    #[tokio::test]
    async fn an_error_of_the_method_is_explained() {
        let greeter = GreeterClient::in_process(Shy);
        let explained = greet(&greeter, "").await;
        assert_eq!(explained, Err("please give a name".to_owned()));
        let explained = greet(&greeter, "Ada").await;
        assert_eq!(
            explained,
            Err("the name is too long: the limit is 0 characters".to_owned())
        );
    }

    #[tokio::test]
    async fn a_call_without_a_worker_may_be_tried_again() {
        // A broker within the process, on which no worker was ever started.
        let broker = Broker::in_process();
        let explained = greet(&GreeterClient::new(&broker), "Ada").await;
        let reason = explained.expect_err("nobody serves the queue");
        assert!(
            reason.starts_with("not greeted, please try again later"),
            "{reason}"
        );
    }
}
