//! A server that runs in a task of its own.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{BrokerError, ServerError};

/// A server that runs in a task of its own; see [`Server::start`](crate::Server::start).
///
/// Dropping it cancels all running methods and returns their requests to the broker, except those
/// of streams that have begun. Prefer [`stop`](Self::stop).
#[derive(Debug)]
#[must_use = "a server that is dropped stops at once"]
pub struct RunningServer {
    /// Taken by [`stop`](Self::stop).
    stop: Option<oneshot::Sender<()>>,
    task: AbortOnDropHandle<Result<(), ServerError>>,
    /// `None` until the server has ended.
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

    /// Drains the server: it cancels its consumers, waits for the requests in progress and sends
    /// their replies. If the server has already ended, this returns its outcome.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Server::run_until`](crate::Server::run_until).
    pub async fn stop(mut self) -> Result<(), ServerError> {
        if let Some(stop) = self.stop.take() {
            // This fails if the server has already ended.
            let _ = stop.send(());
        }
        // Unlike for other callers, this may be `Ok`: the server does not end by itself.
        self.ended().await
    }

    /// Waits until the server ends by itself, usually because its broker handle was closed.
    ///
    /// Cancel safe. Each call returns the same outcome.
    ///
    /// # Errors
    ///
    /// Always returns an error, which says why the server ended.
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        if let Some(outcome) = &self.outcome {
            return outcome.clone();
        }
        let outcome = match (&mut self.task).await {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => {
                Err(ServerError::Broker(BrokerError::Panicked { task: "server" }))
            }
            // Only the end of the runtime cancels the task.
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
