//! The state of a handle's connections.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{BoxStream, unfold};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;

use crate::error::{BrokerError, Chain};
use crate::escape::{Logged, OneLine};
use crate::telemetry::{Event, count};

/// The state of the connections of a [`Broker`](crate::Broker) handle.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Status {
    /// At least one of the connections is down. The handle keeps trying to open it.
    #[non_exhaustive]
    Connecting {
        /// Why the last attempt failed, or why the connection was lost. `None` before the end of
        /// the first attempt.
        last_error: Option<BrokerError>,
    },
    /// Both connections are open, and the broker does not block them.
    Ready,
    /// The broker blocks publishers because of an [alarm](https://www.rabbitmq.com/docs/alarms).
    /// Calls wait, and replies still arrive.
    #[non_exhaustive]
    Blocked {
        /// The broker's reason, such as `low on memory`.
        reason: Arc<str>,
    },
    /// The handle was closed. Final.
    Closed,
    /// The tokio runtime in which the handle was made has ended, and with it all tasks of the
    /// handle. Final.
    RuntimeEnded,
}

impl Status {
    /// Whether requests can be sent right now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether the handle has ended.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Closed | Self::RuntimeEnded)
    }

    /// The text of the error or the alarm because of which the handle is not ready. `None` if there
    /// is none, as for a handle that has ended. [`BoardState::record_if_new`] compares it with the
    /// reported ones.
    fn reason(&self) -> Option<String> {
        match self {
            Self::Connecting {
                last_error: Some(error),
            } => Some(Chain(error).to_string()),
            Self::Blocked { reason } => Some(reason.to_string()),
            _ => None,
        }
    }

    /// The error that says why the handle is not ready. `None` if it is.
    pub(crate) fn obstacle(&self) -> Option<BrokerError> {
        match self {
            Self::Ready => None,
            Self::Connecting { last_error } => Some(last_error.clone().unwrap_or(BrokerError::NotConnected)),
            Self::Blocked { reason } => Some(BrokerError::Blocked {
                reason: Arc::clone(reason),
            }),
            Self::Closed => Some(BrokerError::Closed),
            Self::RuntimeEnded => Some(BrokerError::RuntimeEnded),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { last_error: None } => f.write_str("connecting"),
            Self::Connecting {
                last_error: Some(error),
            } => write!(f, "connecting: {}", Chain(error)),
            Self::Ready => f.write_str("ready"),
            Self::Blocked { reason } => write!(f, "blocked: {}", OneLine(reason)),
            Self::Closed => f.write_str("closed"),
            Self::RuntimeEnded => f.write_str("the tokio runtime that the handle was made in has ended"),
        }
    }
}

/// The changes of a handle's [`Status`], from
/// [`Broker::status_changes`](crate::Broker::status_changes). Also a [`Stream`].
///
/// A status of the same kind with a new reason is a change too. Each reason is such a change only
/// once until the handle is ready again, however many attempts fail for it. Changes that are not
/// read in time are merged into one.
pub struct StatusChanges(BoxStream<'static, Status>);

impl StatusChanges {
    fn new(receiver: watch::Receiver<BoardState>) -> Self {
        struct Reader {
            receiver: watch::Receiver<BoardState>,
            /// The version of the status that was returned last. `None` before the first.
            seen: Option<u64>,
        }

        let first = Reader { receiver, seen: None };
        let changes = unfold(Some(first), async |reader| {
            let mut reader = reader?;
            let is_new = |state: &BoardState| reader.seen != Some(state.version);
            let (status, version) = match reader.receiver.wait_for(is_new).await {
                Ok(state) => (state.status(), Some(state.version)),
                // The transport was dropped with the handle.
                Err(_) => (Status::Closed, None),
            };
            reader.seen = version;
            let next = (!status.is_final()).then_some(reader);
            Some((status, next))
        });
        Self(changes.fuse().boxed())
    }

    /// Returns the current status at the first call, and then waits for each change. `None` after
    /// [`Status::Closed`] or [`Status::RuntimeEnded`].
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Status> {
        self.0.next().await
    }
}

impl Stream for StatusChanges {
    type Item = Status;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Status>> {
        self.0.poll_next_unpin(cx)
    }
}

impl fmt::Debug for StatusChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusChanges").finish_non_exhaustive()
    }
}

/// One of the two connections that a handle keeps open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Publishing,
    Consuming,
}

/// The state of one connection.
#[derive(Debug, Clone)]
pub(crate) enum Connectivity {
    Down { last_error: Option<BrokerError> },
    Up,
    Blocked { reason: Arc<str> },
}

impl Role {
    const ALL: [Self; 2] = [Self::Publishing, Self::Consuming];

    fn as_str(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Consuming => "consuming",
        }
    }
}

impl Connectivity {
    /// Also `true` if the broker blocks the connection.
    fn is_up(&self) -> bool {
        !matches!(self, Self::Down { .. })
    }

    fn is_blocked(&self) -> bool {
        matches!(self, Self::Blocked { .. })
    }
}

/// Why a handle has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    RuntimeEnded,
}

/// At most this many reported reasons are remembered. A handle seldom has more than two.
const MAX_REPORTED_REASONS: usize = 16;

/// The state of both connections, and what was reported of it.
#[derive(Debug)]
struct BoardState {
    publishing: Connectivity,
    consuming: Connectivity,
    end: Option<End>,
    /// Counts the reported changes of the status.
    version: u64,
    /// The reasons that were reported since the handle was last ready, oldest first.
    reported_reasons: VecDeque<String>,
}

impl BoardState {
    fn connectivity_mut(&mut self, role: Role) -> &mut Connectivity {
        match role {
            Role::Publishing => &mut self.publishing,
            Role::Consuming => &mut self.consuming,
        }
    }

    /// Sets the state of a connection, and counts the change in the metrics.
    fn set(&mut self, role: Role, after: Connectivity) {
        let before = self.connectivity_mut(role);
        let (is_up, is_blocked) = (after.is_up(), after.is_blocked());
        if is_up != before.is_up() {
            let role = role.as_str();
            count(Event::Connected { role, is_up });
        }
        if is_blocked != before.is_blocked() {
            count(Event::Blocked { is_blocked });
        }
        *before = after;
    }

    /// Ends the handle, and counts its connections as down in the metrics. Only the first end is
    /// kept.
    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        for role in Role::ALL {
            self.set(role, Connectivity::Down { last_error: None });
        }
    }

    /// What both connections together mean to the user.
    fn status(&self) -> Status {
        match self.end {
            Some(End::Closed) => return Status::Closed,
            Some(End::RuntimeEnded) => return Status::RuntimeEnded,
            None => {}
        }
        let connections = [&self.publishing, &self.consuming];
        if connections.iter().any(|connection| !connection.is_up()) {
            let last_error = connections.into_iter().find_map(|connection| match connection {
                Connectivity::Down { last_error } => last_error.clone(),
                Connectivity::Up | Connectivity::Blocked { .. } => None,
            });
            return Status::Connecting { last_error };
        }
        // The broker does not block connections that only consume.
        match &self.publishing {
            Connectivity::Blocked { reason } => Status::Blocked {
                reason: Arc::clone(reason),
            },
            _ => Status::Ready,
        }
    }

    /// Records `after` as reported if it is new: of another kind than `before`, or with a reason
    /// that was not reported since the handle was last ready. Returns whether it is new.
    fn record_if_new(&mut self, before: &Status, after: &Status) -> bool {
        let is_of_another_kind = std::mem::discriminant(before) != std::mem::discriminant(after);
        if after.is_ready() {
            self.reported_reasons.clear();
        }
        let new_reason = after
            .reason()
            .filter(|reason| !self.reported_reasons.contains(reason));
        let is_new = is_of_another_kind || new_reason.is_some();
        if let Some(reason) = new_reason {
            if self.reported_reasons.len() == MAX_REPORTED_REASONS {
                self.reported_reasons.pop_front();
            }
            self.reported_reasons.push_back(reason);
        }
        self.version += u64::from(is_new);
        is_new
    }
}

/// Holds the state of the connections, and logs each reported change.
#[derive(Debug)]
pub(crate) struct StatusBoard(watch::Sender<BoardState>);

impl StatusBoard {
    /// Makes a board with this state of both connections.
    pub(crate) fn new(connectivity: &Connectivity) -> Self {
        let down = || Connectivity::Down { last_error: None };
        let mut state = BoardState {
            publishing: down(),
            consuming: down(),
            end: None,
            version: 0,
            reported_reasons: VecDeque::new(),
        };
        // Only a change is counted in the metrics, so both begin as down.
        for role in Role::ALL {
            state.set(role, connectivity.clone());
        }
        Self(watch::Sender::new(state))
    }

    pub(crate) fn status(&self) -> Status {
        self.0.borrow().status()
    }

    pub(crate) fn changes(&self) -> StatusChanges {
        StatusChanges::new(self.0.subscribe())
    }

    /// Waits until a connection is down or the handle has ended. Cancel safe.
    pub(crate) async fn wait_down(&self, role: Role) {
        let mut receiver = self.0.subscribe();
        let is_down = |state: &BoardState| {
            let connection = match role {
                Role::Publishing => &state.publishing,
                Role::Consuming => &state.consuming,
            };
            state.end.is_some() || matches!(connection, Connectivity::Down { .. })
        };
        // The sender is borrowed, so it cannot be dropped.
        let _ = receiver.wait_for(is_down).await;
    }

    /// Sets the state of a connection. Does nothing once the handle has ended.
    pub(crate) fn set(&self, role: Role, connectivity: Connectivity) {
        self.change(|state| {
            if state.end.is_none() {
                state.set(role, connectivity);
            }
        });
    }

    pub(crate) fn close(&self) {
        self.change(|state| state.end(End::Closed));
    }

    /// Records that the runtime of the handle's tasks has ended.
    pub(crate) fn runtime_ended(&self) {
        self.change(|state| state.end(End::RuntimeEnded));
    }

    /// Why the handle has ended. `None` if it has not.
    pub(crate) fn end_reason(&self) -> Option<BrokerError> {
        match self.0.borrow().end {
            Some(End::Closed) => Some(BrokerError::Closed),
            Some(End::RuntimeEnded) => Some(BrokerError::RuntimeEnded),
            None => None,
        }
    }

    /// Why the handle has ended. [`BrokerError::Closed`] if no other reason is known.
    pub(crate) fn end_reason_or_closed(&self) -> BrokerError {
        self.end_reason().unwrap_or(BrokerError::Closed)
    }

    /// Changes the state, and logs the status if that is new.
    fn change(&self, change: impl FnOnce(&mut BoardState)) {
        let mut reported = None;
        self.0.send_modify(|state| {
            let before = state.status();
            change(state);
            let after = state.status();
            reported = state.record_if_new(&before, &after).then_some(after);
        });
        let Some(status) = reported else { return };
        match status {
            Status::Ready | Status::Closed => tracing::info!(status = %Logged(&status), "broker"),
            _ => tracing::warn!(status = %Logged(&status), "broker"),
        }
    }
}

impl Drop for StatusBoard {
    /// Counts the connections of a dropped handle as down. The state itself may live on: each
    /// [`StatusChanges`] shares it.
    fn drop(&mut self) {
        self.0.send_modify(|state| state.end(End::Closed));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn down(host: &str) -> Connectivity {
        Connectivity::Down {
            last_error: Some(BrokerError::Unresponsive {
                step: "connecting",
                limit: std::time::Duration::from_secs(host.len() as u64),
            }),
        }
    }

    #[test]
    fn the_status_is_that_of_the_worse_connection() {
        let board = StatusBoard::new(&Connectivity::Up);
        assert!(board.status().is_ready());
        board.set(Role::Consuming, down("a"));
        assert!(matches!(
            board.status(),
            Status::Connecting { last_error: Some(_) }
        ));
        let reason = "low on memory".into();
        board.set(Role::Publishing, Connectivity::Blocked { reason });
        assert!(matches!(board.status(), Status::Connecting { .. }));
        board.set(Role::Consuming, Connectivity::Up);
        assert_eq!(board.status().to_string(), "blocked: low on memory");
        board.close();
        board.set(Role::Publishing, Connectivity::Up);
        assert!(matches!(board.status(), Status::Closed));
    }

    #[test]
    fn a_handle_that_is_not_ready_says_why() {
        let board = StatusBoard::new(&Connectivity::Down { last_error: None });
        let obstacle = || board.status().obstacle();
        assert!(matches!(obstacle(), Some(BrokerError::NotConnected)));
        for role in Role::ALL {
            board.set(role, down("a"));
            assert!(matches!(obstacle(), Some(BrokerError::Unresponsive { .. })));
            board.set(role, Connectivity::Down { last_error: None });
        }
        for role in Role::ALL {
            board.set(role, Connectivity::Up);
        }
        assert!(obstacle().is_none());
        board.close();
        assert!(matches!(obstacle(), Some(BrokerError::Closed)));
    }

    #[tokio::test]
    async fn each_change_is_reported_once_and_changes_end_with_the_handle() {
        let board = StatusBoard::new(&Connectivity::Up);
        let mut changes = board.changes();
        assert!(changes.next().await.unwrap().is_ready());
        assert!(changes.next().now_or_never().is_none());
        board.set(Role::Consuming, down("a"));
        assert!(matches!(changes.next().await, Some(Status::Connecting { .. })));
        // Each new reason is reported once, however many attempts fail for it.
        board.set(Role::Consuming, down("another reason"));
        assert!(matches!(changes.next().await, Some(Status::Connecting { .. })));
        for reason in ["a", "another reason", "a"] {
            board.set(Role::Consuming, down(reason));
            assert!(changes.next().now_or_never().is_none());
        }
        board.set(Role::Consuming, Connectivity::Up);
        assert!(changes.next().await.unwrap().is_ready());
        // A reason is reported again after the handle was ready.
        board.set(Role::Consuming, down("a"));
        assert!(matches!(changes.next().await, Some(Status::Connecting { .. })));
        board.close();
        assert!(matches!(changes.next().await, Some(Status::Closed)));
        assert!(changes.next().await.is_none());
    }

    #[tokio::test]
    async fn the_end_of_the_runtime_is_the_last_change() {
        let board = StatusBoard::new(&Connectivity::Up);
        let mut changes = board.changes();
        changes.next().await;
        board.runtime_ended();
        assert!(matches!(board.end_reason(), Some(BrokerError::RuntimeEnded)));
        board.close();
        let rest: Vec<_> = changes.by_ref().collect().await;
        assert!(matches!(rest[..], [Status::RuntimeEnded]));
        assert!(changes.next().await.is_none());
    }

    #[tokio::test]
    async fn changes_end_when_the_board_is_dropped() {
        let board = StatusBoard::new(&Connectivity::Up);
        let mut changes = board.changes();
        changes.next().await;
        drop(board);
        assert!(matches!(changes.next().await, Some(Status::Closed)));
        assert!(changes.next().await.is_none());
    }

    /// Otherwise they would be counted as up in the metrics for as long as somebody keeps the
    /// changes of the status.
    #[test]
    fn the_connections_of_a_dropped_board_are_down() {
        let board = StatusBoard::new(&Connectivity::Up);
        let state = board.0.subscribe();
        drop(board);
        let state = state.borrow();
        assert!(!state.publishing.is_up() && !state.consuming.is_up());
    }
}
