//! How a call can fail, and what its caller does about it. The method's own error is typed, and
//! every other error says whether the method ran.
//!
//! ```sh
//! cargo run --example typed_errors                                 # within the process
//! AMQP_URL=amqp://localhost cargo run --example typed_errors       # over RabbitMQ
//! ```

use std::time::Duration;

use rpc_examples::{broker, log_to_stderr};
use rpc_runtime::{CallError, Chain, Executed, Server, service};
use serde::{Deserialize, Serialize};

/// Why a transfer failed. It needs only serde; `Display` is for people, and for callers that use
/// plain text.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum BankError {
    #[error("account {account} has only {balance}")]
    NotEnough { account: String, balance: u64 },
    #[error("there is no account {0}")]
    NoAccount(String),
}

#[service(queue = "example.bank")]
trait Bank {
    /// Transfers money, and returns what is left. Not `idempotent`, so no request runs twice.
    async fn transfer(&self, from: &str, amount: u64) -> Result<u64, BankError>;

    /// Takes longer than its time limit.
    #[rpc(timeout = "2s")]
    async fn audit(&self) -> u64;
}

struct OneAccount;

impl Bank for OneAccount {
    async fn transfer(&self, from: &str, amount: u64) -> Result<u64, BankError> {
        let balance = match from {
            "alice" => 100_u64,
            "mallory" => panic!("a bug"),
            other => return Err(BankError::NoAccount(other.to_owned())),
        };
        balance.checked_sub(amount).ok_or(BankError::NotEnough {
            account: from.to_owned(),
            balance,
        })
    }

    async fn audit(&self) -> u64 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        100
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    // The panic of `transfer` is intended, and its message would confuse.
    std::panic::set_hook(Box::new(|_| {}));
    let broker = broker().await?;
    let server = Server::new(&broker)
        // The audit still runs when this example ends.
        .drain_timeout(Duration::ZERO)
        .serve(BankServer::new(OneAccount))
        .start()
        .await?;
    let bank = BankClient::new(&broker);

    for (from, amount) in [("alice", 30), ("alice", 130), ("bob", 1), ("mallory", 1)] {
        match bank.transfer(from, amount).await {
            Ok(left) => println!("{from} has {left} left"),
            // The method's own error, as it was returned.
            Err(CallError::Service(BankError::NotEnough { account, balance })) => {
                println!("{account} is {} short", amount - balance);
            }
            Err(CallError::Service(error)) => println!("refused: {error}"),
            // The worker's runtime answered in place of the method. Here the method panicked. Other
            // codes say, for example, that the request could not be served.
            Err(CallError::Fault(fault)) => println!("{}: the method panicked, and ran", fault.code),
            Err(error) => return Err(error.into()),
        }
    }

    // No reply in time: the method may have run. Here it still runs.
    let error = bank.audit().await.unwrap_err();
    assert_eq!(error.executed(), Executed::Maybe);
    println!("audit: {}; retryable: {}", Chain(&error), error.is_retryable());

    // No worker ever served this queue: an immediate error, and another attempt is safe.
    let nobody = BankClient::builder(&broker).queue("example.bank.nobody").build();
    let error = nobody.audit().await.unwrap_err();
    assert_eq!(error.executed(), Executed::No);
    println!("audit: {}; retryable: {}", Chain(&error), error.is_retryable());

    // The server stops the audit, and reports it.
    let stopped = server.stop().await.unwrap_err();
    println!("{stopped}");
    broker.close().await;
    Ok(())
}
