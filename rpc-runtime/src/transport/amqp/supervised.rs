//! A connection that is made again whenever it is lost.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Address;
use super::channel::Tasks;
use super::connection::{ConnectionNames, ConnectionRole, OpenConnection};
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::transport::{Backoff, Connectivity, Role, StatusBoard, supervised};

/// The broker's addresses, and how to connect to them.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Tried in turn; at least one.
    pub(super) addresses: Arc<[Address]>,
    /// How long each step may take.
    pub(super) limit: Duration,
    names: Arc<ConnectionNames>,
}

impl Target {
    pub(super) fn new(addresses: Vec<Address>, name: Option<&str>, limit: Duration) -> Self {
        Self {
            addresses: addresses.into(),
            limit,
            names: Arc::new(ConnectionNames::new(name)),
        }
    }

    /// Connects to the first address that answers.
    pub(super) async fn connect(&self, role: ConnectionRole) -> Result<OpenConnection, BrokerError> {
        let mut outcome = Err(BrokerError::NoAddress);
        for address in &*self.addresses {
            outcome = OpenConnection::open(address, &self.names, role, self.limit).await;
            match &outcome {
                Ok(_) => break,
                Err(error) => tracing::debug!(
                    broker = %address,
                    error = %Logged(Chain(error)),
                    "no connection"
                ),
            }
        }
        outcome
    }
}

/// The connection as its users see it.
#[derive(Debug)]
pub(super) struct SupervisedConnection {
    current: watch::Receiver<Current>,
    board: Arc<StatusBoard>,
}

#[derive(Debug, Clone)]
enum Current {
    Down,
    Up(Arc<OpenConnection>),
    /// For good.
    Closed,
}

impl SupervisedConnection {
    /// Keeps a connection until the transport ends, with the one that was made already, if any.
    pub(super) fn start(
        target: Target,
        role: Role,
        first: Option<OpenConnection>,
        board: Arc<StatusBoard>,
        tasks: &Tasks,
    ) -> Self {
        let (sender, current) = watch::channel(Current::Down);
        let supervisor = Supervisor {
            target,
            role,
            board: Arc::clone(&board),
            current: sender,
        };
        tasks.spawn(supervisor.run(first, tasks.ending.clone()));
        Self { current, board }
    }

    /// The connection, once it is there. Cancel safe.
    ///
    /// # Errors
    ///
    /// Only where the handle was closed, or its runtime has ended.
    pub(super) async fn ready(&self) -> Result<Arc<OpenConnection>, BrokerError> {
        let mut current = self.current.clone();
        loop {
            if let Some(over) = self.board.over() {
                return Err(over);
            }
            match &*current.borrow_and_update() {
                Current::Up(connection) if connection.is_open() => return Ok(Arc::clone(connection)),
                Current::Up(connection) => connection.suspect(),
                Current::Down => {}
                Current::Closed => return Err(self.board.why_over()),
            }
            current.changed().await.map_err(|_| self.board.why_over())?;
        }
    }
}

struct Supervisor {
    target: Target,
    role: Role,
    board: Arc<StatusBoard>,
    current: watch::Sender<Current>,
}

impl Supervisor {
    async fn run(self, mut first: Option<OpenConnection>, ending: CancellationToken) {
        let keeping = supervised("connection", || self.keep(first.take()));
        ending.run_until_cancelled(keeping).await;
        if let Current::Up(connection) = self.current.send_replace(Current::Closed) {
            connection.close().await;
        }
    }

    /// Makes the connection again whenever it is lost.
    async fn keep(&self, first: Option<OpenConnection>) -> Infallible {
        self.abandon("connection");
        let mut backoff = Backoff::new();
        let mut made = first;
        loop {
            let connection = match made.take() {
                Some(connection) => connection,
                None => match self.target.connect(self.role.into()).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        self.is_down(error);
                        backoff.wait().await;
                        continue;
                    }
                },
            };
            let since = Instant::now();
            let connection = Arc::new(connection);
            self.current.send_replace(Current::Up(Arc::clone(&connection)));
            self.board.set(self.role, Connectivity::Up);
            let reason = connection.watch(|blocked| self.is_blocked(blocked)).await;
            self.is_down(reason);
            backoff.worked_for(since.elapsed());
            backoff.wait().await;
        }
    }

    /// Gives up the connection of a run before, which panicked: nobody watches it.
    fn abandon(&self, task: &'static str) {
        if let Current::Up(unwatched) = self.current.send_replace(Current::Down) {
            let reason = BrokerError::Panicked { task };
            unwatched.abandon(reason.clone());
            self.is_down(reason);
        }
    }

    fn is_down(&self, reason: BrokerError) {
        self.current.send_replace(Current::Down);
        let last_error = Some(reason);
        self.board.set(self.role, Connectivity::Down { last_error });
    }

    fn is_blocked(&self, blocked: Option<&Arc<str>>) {
        let connectivity = match blocked.cloned() {
            Some(reason) => Connectivity::Blocked { reason },
            None => Connectivity::Up,
        };
        self.board.set(self.role, connectivity);
    }
}

impl Drop for Supervisor {
    /// The runtime may have ended under it: the connection has nobody who drives it any more.
    fn drop(&mut self) {
        if let Current::Up(connection) = self.current.send_replace(Current::Closed) {
            connection.abandon(self.board.why_over());
        }
    }
}
