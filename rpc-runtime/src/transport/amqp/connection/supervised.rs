//! A connection that is made again whenever it is lost.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::task_group::TaskGroup;
use super::open::OpenConnection;
use super::target::Target;
use crate::error::BrokerError;
use crate::transport::{Backoff, Connectivity, Role, StatusBoard, supervised};

/// The connection as its users see it.
#[derive(Debug)]
pub(crate) struct SupervisedConnection {
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
    pub(crate) fn start(
        target: Target,
        role: Role,
        first: Option<OpenConnection>,
        board: Arc<StatusBoard>,
        tasks: &TaskGroup,
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
    pub(crate) async fn ready(&self) -> Result<Arc<OpenConnection>, BrokerError> {
        let mut current = self.current.clone();
        loop {
            if let Some(over) = self.board.over() {
                return Err(over);
            }
            match &*current.borrow_and_update() {
                Current::Up(connection) if connection.is_open() => return Ok(Arc::clone(connection)),
                Current::Up(connection) => connection.check(),
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
