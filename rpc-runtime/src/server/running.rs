//! A server that runs in a task of its own.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{BrokerError, ServerError};

/// A server that runs in a task of its own; see [`Server::start`].
///
/// Dropping it stops all handlers where they stand and gives their requests back to the broker. Prefer
/// [`stop`](Self::stop).
#[derive(Debug)]
#[must_use = "a server that is dropped stops at once"]
pub struct RunningServer {
    /// Gone once it was used.
    stop: Option<oneshot::Sender<()>>,
    task: AbortOnDropHandle<Result<(), ServerError>>,
    /// How the server ended, once it has.
    outcome: Option<Result<(), ServerError>>,
}

impl RunningServer {
    pub(super) fn new(stop: oneshot::Sender<()>, task: JoinHandle<Result<(), ServerError>>) -> Self {
        Self {
            stop: Some(stop),
            task: AbortOnDropHandle::new(task),
            outcome: None,
        }
    }

    /// Takes no more requests, lets those that run end, answers them, and returns. A server that has ended already
    /// returns how it ended.
    ///
    /// # Errors
    ///
    /// As [`Server::run_until`].
    pub async fn stop(mut self) -> Result<(), ServerError> {
        if let Some(stop) = self.stop.take() {
            // Where nobody listens, the server has ended already and says why.
            let _ = stop.send(());
        }
        self.ended().await
    }

    /// Waits until the server ends by itself, because its broker handle was closed: for a program that should end with it.
    ///
    /// Cancel safe. Returns the same outcome each time that it is called.
    ///
    /// # Errors
    ///
    /// As [`Server::run_until`].
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        if let Some(outcome) = &self.outcome {
            return outcome.clone();
        }
        let outcome = match (&mut self.task).await {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => {
                Err(ServerError::Broker(BrokerError::Panicked { task: "server" }))
            }
            // Only the end of its runtime cancels the task, and requests with it.
            Err(_) => Err(ServerError::Broker(BrokerError::RuntimeEnded)),
        };
        self.outcome.insert(outcome).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Broker, Server, service};

    #[service(queue = "numbers")]
    trait Numbers {
        async fn zero(&self) -> u64;
    }

    struct Zero;

    impl Numbers for Zero {
        async fn zero(&self) -> u64 {
            0
        }
    }

    async fn start(broker: &Broker) -> RunningServer {
        let server = Server::new(broker).serve(NumbersServer::new(Zero));
        server.start().await.unwrap()
    }

    #[tokio::test]
    async fn stop_returns_the_outcome_of_a_server_that_has_ended() {
        let broker = Broker::in_process();
        let mut server = start(&broker).await;
        broker.close().await;
        let is_closed =
            |ended: Result<(), ServerError>| matches!(ended, Err(ServerError::Broker(BrokerError::Closed)));
        for _ in 0..2 {
            assert!(is_closed(server.ended().await));
        }
        assert!(is_closed(server.stop().await));
    }
}
