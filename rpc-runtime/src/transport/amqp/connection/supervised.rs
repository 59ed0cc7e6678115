//! A connection that is opened again whenever it is lost.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::task_group::TaskGroup;
use super::connector::Connector;
use super::open::OpenConnection;
use crate::error::BrokerError;
use crate::transport::{Backoff, Connectivity, KeepOpen, Role, StatusBoard, keep_open, restart_on_panic};

/// The name of the task that keeps the connection open.
const TASK: &str = "connection";

/// A connection that a task keeps open.
#[derive(Debug)]
pub(crate) struct SupervisedConnection {
    current: watch::Receiver<CurrentConnection>,
    board: Arc<StatusBoard>,
}

#[derive(Debug, Clone)]
enum CurrentConnection {
    Down,
    Up(Arc<OpenConnection>),
    /// The handle was closed, or its runtime has ended.
    Closed,
}

impl SupervisedConnection {
    /// Keeps a connection open until the transport ends. Begins with `first` if it is given.
    pub(crate) fn start(
        connector: Connector,
        role: Role,
        first: Option<OpenConnection>,
        board: Arc<StatusBoard>,
        tasks: &TaskGroup,
    ) -> Self {
        let (sender, current) = watch::channel(CurrentConnection::Down);
        let supervisor = Supervisor {
            connector,
            role,
            board: Arc::clone(&board),
            current: sender,
        };
        tasks.spawn(supervisor.run(first, tasks.ending.clone()));
        Self { current, board }
    }

    /// Waits until the connection is open. Cancel safe.
    ///
    /// # Errors
    ///
    /// Fails only if the handle was closed, or its runtime has ended.
    pub(crate) async fn wait_ready(&self) -> Result<Arc<OpenConnection>, BrokerError> {
        let mut current = self.current.clone();
        loop {
            if let Some(reason) = self.board.end_reason() {
                return Err(reason);
            }
            match &*current.borrow_and_update() {
                CurrentConnection::Up(connection) if connection.is_open() => {
                    return Ok(Arc::clone(connection));
                }
                // The task that watches the connection has not noticed its loss yet.
                CurrentConnection::Up(connection) => connection.check(),
                CurrentConnection::Down => {}
                CurrentConnection::Closed => return Err(self.board.end_reason_or_closed()),
            }
            current
                .changed()
                .await
                .map_err(|_| self.board.end_reason_or_closed())?;
        }
    }
}

struct Supervisor {
    connector: Connector,
    role: Role,
    board: Arc<StatusBoard>,
    current: watch::Sender<CurrentConnection>,
}

impl Supervisor {
    /// Keeps the connection open until `ending` is cancelled, and then closes it.
    async fn run(self, mut first: Option<OpenConnection>, ending: CancellationToken) {
        let keeping = restart_on_panic(TASK, || {
            self.abandon_unwatched();
            let mut run = SupervisedRun {
                supervisor: &self,
                first: first.take(),
            };
            async move { keep_open(&mut run).await }
        });
        // Always `None`, because the connection is kept open until the transport ends.
        let _: Option<Infallible> = ending.run_until_cancelled(keeping).await;
        if let CurrentConnection::Up(connection) = self.current.send_replace(CurrentConnection::Closed) {
            connection.close().await;
        }
    }

    /// Gives up the connection of an earlier run that panicked, if there was one. Nothing watches
    /// it.
    fn abandon_unwatched(&self) {
        if let CurrentConnection::Up(unwatched) = self.current.send_replace(CurrentConnection::Down) {
            let reason = BrokerError::Panicked { task: TASK };
            unwatched.abandon(reason.clone());
            self.report_down(reason);
        }
    }

    fn report_down(&self, reason: BrokerError) {
        self.current.send_replace(CurrentConnection::Down);
        let last_error = Some(reason);
        self.board.set(self.role, Connectivity::Down { last_error });
    }

    /// Reports the broker's reason to block the connection, or with `None`, that it is not blocked
    /// any more.
    fn report_blocked(&self, reason: Option<&Arc<str>>) {
        let connectivity = match reason.cloned() {
            Some(reason) => Connectivity::Blocked { reason },
            None => Connectivity::Up,
        };
        self.board.set(self.role, connectivity);
    }
}

/// One run of the supervisor, until it panics or the transport ends.
struct SupervisedRun<'a> {
    supervisor: &'a Supervisor,
    /// The connection to begin with, if one was made before the supervisor started.
    first: Option<OpenConnection>,
}

impl KeepOpen for SupervisedRun<'_> {
    type Opened = OpenConnection;
    type End = Infallible;

    async fn open(&mut self) -> ControlFlow<Infallible, Result<OpenConnection, BrokerError>> {
        ControlFlow::Continue(match self.first.take() {
            Some(connection) => Ok(connection),
            None => {
                let Supervisor { connector, role, .. } = self.supervisor;
                connector.connect((*role).into()).await
            }
        })
    }

    async fn run(&mut self, connection: OpenConnection) -> ControlFlow<Infallible, BrokerError> {
        let Supervisor {
            current, board, role, ..
        } = self.supervisor;
        let connection = Arc::new(connection);
        current.send_replace(CurrentConnection::Up(Arc::clone(&connection)));
        board.set(*role, Connectivity::Up);
        let watching = connection.watch(|reason| self.supervisor.report_blocked(reason));
        let lost = watching.await;
        self.supervisor.report_down(lost.clone());
        ControlFlow::Continue(lost)
    }

    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<Infallible> {
        self.supervisor.report_down(error.clone());
        ControlFlow::Continue(())
    }

    /// Unlike the default, lengthens the delay after a loss too, because the connection itself is
    /// what has to be opened again.
    fn delay(&self, _: &BrokerError, backoff: &mut Backoff) -> Duration {
        backoff.next_delay()
    }
}

impl Drop for Supervisor {
    /// Abandons the connection if [`run`](Self::run) was dropped before its end: the runtime has
    /// ended, and no task drives the connection any more.
    fn drop(&mut self) {
        if let CurrentConnection::Up(connection) = self.current.send_replace(CurrentConnection::Closed) {
            connection.abandon(self.board.end_reason_or_closed());
        }
    }
}
