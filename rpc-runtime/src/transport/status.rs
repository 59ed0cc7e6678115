//! The state of a handle's connections.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{BrokerError, Chain};
use crate::escape::{Logged, OneLine};
use crate::telemetry::{Event, count};

/// The state of the connections of a [`Broker`](crate::Broker) handle.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Status {
    /// At least one of the connections is missing, and is being made.
    #[non_exhaustive]
    Connecting {
        /// Why the last attempt failed, or why the connection was lost.
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
    /// Whether calls can be made right now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether the handle has ended.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Closed | Self::RuntimeEnded)
    }

    /// Why it is not ready. `None` if no reason is known.
    fn reason(&self) -> Option<String> {
        match self {
            Self::Connecting {
                last_error: Some(error),
            } => Some(Chain(error).to_string()),
            Self::Blocked { reason } => Some(reason.to_string()),
            _ => None,
        }
    }

    /// Why messages cannot be published. `None` if they can.
    pub(crate) fn obstacle(&self) -> Option<BrokerError> {
        match self {
            Self::Ready => None,
            Self::Connecting { last_error } => {
                Some(last_error.clone().unwrap_or(BrokerError::Lost { source: None }))
            }
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
/// [`Broker::status_changes`](crate::Broker::status_changes).
///
/// A status of the same kind with a new reason is a change too. Each reason is reported once until
/// the handle is ready again, however many attempts fail for it. Changes that are not read in time
/// are merged into one.
#[derive(Debug, Clone)]
pub struct StatusChanges {
    receiver: watch::Receiver<Connections>,
    /// The number of the last change that was seen.
    seen: Option<u64>,
    is_over: bool,
}

impl StatusChanges {
    /// Returns the current status at the first call, and then waits for each change. `None` after
    /// [`Status::Closed`] or [`Status::RuntimeEnded`].
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Status> {
        if self.is_over {
            return None;
        }
        let seen = self.seen;
        let changed = self
            .receiver
            .wait_for(|connections| seen != Some(connections.changes));
        let status = match changed.await {
            Ok(connections) => {
                self.seen = Some(connections.changes);
                connections.status()
            }
            // The transport was dropped with the handle.
            Err(_) => Status::Closed,
        };
        self.is_over = status.is_final();
        Some(status)
    }
}

/// One of a handle's connections.
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
    fn is_up(&self) -> bool {
        !matches!(self, Self::Down { .. })
    }

    fn is_blocked(&self) -> bool {
        matches!(self, Self::Blocked { .. })
    }
}

/// How a handle ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    RuntimeEnded,
}

/// How many reported reasons are remembered. A handle seldom has more than two.
const REASONS: usize = 16;

/// Both connections.
#[derive(Debug)]
struct Connections {
    publishing: Connectivity,
    consuming: Connectivity,
    end: Option<End>,
    /// How many changes of the status were reported.
    changes: u64,
    /// The reasons that were reported since the handle was ready, oldest first.
    told: VecDeque<String>,
}

impl Connections {
    fn get(&mut self, role: Role) -> &mut Connectivity {
        match role {
            Role::Publishing => &mut self.publishing,
            Role::Consuming => &mut self.consuming,
        }
    }

    /// Sets the state of a connection, and counts what that changes.
    fn set(&mut self, role: Role, after: Connectivity) {
        let before = self.get(role);
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

    /// Ends the handle. Does nothing if it has ended.
    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        for role in Role::ALL {
            self.set(role, Connectivity::Down { last_error: None });
        }
    }

    fn status(&self) -> Status {
        match self.end {
            Some(End::Closed) => return Status::Closed,
            Some(End::RuntimeEnded) => return Status::RuntimeEnded,
            None => {}
        }
        for connection in [&self.publishing, &self.consuming] {
            if let Connectivity::Down { last_error } = connection {
                return Status::Connecting {
                    last_error: last_error.clone(),
                };
            }
        }
        // The broker does not block connections that only consume.
        match &self.publishing {
            Connectivity::Blocked { reason } => Status::Blocked {
                reason: Arc::clone(reason),
            },
            _ => Status::Ready,
        }
    }

    /// Whether a new status is to be reported: it is of another kind, or has a reason that was not
    /// reported yet. Remembers the reason.
    fn is_news(&mut self, before: &Status, after: &Status) -> bool {
        let is_of_another_kind = std::mem::discriminant(before) != std::mem::discriminant(after);
        if after.is_ready() {
            self.told.clear();
        }
        let new_reason = after.reason().filter(|reason| !self.told.contains(reason));
        let is_news = is_of_another_kind || new_reason.is_some();
        if let Some(reason) = new_reason {
            if self.told.len() == REASONS {
                self.told.pop_front();
            }
            self.told.push_back(reason);
        }
        self.changes += u64::from(is_news);
        is_news
    }
}

/// Holds the state of the connections, and logs each change once.
#[derive(Debug)]
pub(crate) struct StatusBoard(watch::Sender<Connections>);

impl StatusBoard {
    pub(crate) fn new(connectivity: &Connectivity) -> Self {
        let down = || Connectivity::Down { last_error: None };
        let mut connections = Connections {
            publishing: down(),
            consuming: down(),
            end: None,
            changes: 0,
            told: VecDeque::new(),
        };
        for role in Role::ALL {
            connections.set(role, connectivity.clone());
        }
        Self(watch::Sender::new(connections))
    }

    pub(crate) fn status(&self) -> Status {
        self.0.borrow().status()
    }

    pub(crate) fn changes(&self) -> StatusChanges {
        StatusChanges {
            receiver: self.0.subscribe(),
            seen: None,
            is_over: false,
        }
    }

    /// Waits until a connection is down. Cancel safe.
    pub(crate) async fn down(&self, role: Role) {
        let mut connections = self.0.subscribe();
        let is_down = |connections: &Connections| {
            let connection = match role {
                Role::Publishing => &connections.publishing,
                Role::Consuming => &connections.consuming,
            };
            connections.end.is_some() || matches!(connection, Connectivity::Down { .. })
        };
        // The sender is borrowed, so it cannot be dropped.
        let _ = connections.wait_for(is_down).await;
    }

    pub(crate) fn set(&self, role: Role, connectivity: Connectivity) {
        self.change(|connections| {
            if connections.end.is_none() {
                connections.set(role, connectivity);
            }
        });
    }

    pub(crate) fn close(&self) {
        self.change(|connections| connections.end(End::Closed));
    }

    /// Notes that the runtime of the handle's tasks has ended.
    pub(crate) fn runtime_ended(&self) {
        self.change(|connections| connections.end(End::RuntimeEnded));
    }

    /// Why the handle has ended. `None` if it has not.
    pub(crate) fn over(&self) -> Option<BrokerError> {
        match self.0.borrow().end {
            Some(End::Closed) => Some(BrokerError::Closed),
            Some(End::RuntimeEnded) => Some(BrokerError::RuntimeEnded),
            None => None,
        }
    }

    /// Why a handle is over of which nothing else is known.
    pub(crate) fn why_over(&self) -> BrokerError {
        self.over().unwrap_or(BrokerError::Closed)
    }

    fn change(&self, change: impl FnOnce(&mut Connections)) {
        let mut news = None;
        self.0.send_modify(|connections| {
            let before = connections.status();
            change(connections);
            let after = connections.status();
            news = connections.is_news(&before, &after).then_some(after);
        });
        let Some(status) = news else { return };
        match status {
            Status::Ready | Status::Closed => tracing::info!(status = %Logged(&status), "broker"),
            _ => tracing::warn!(status = %Logged(&status), "broker"),
        }
    }
}

impl Drop for Connections {
    /// A handle that is dropped has no connections either.
    fn drop(&mut self) {
        self.end(End::Closed);
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
    fn a_handle_is_as_well_as_the_worse_of_its_connections() {
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

    #[tokio::test]
    async fn changes_are_told_once_each_and_end_with_the_handle() {
        let board = StatusBoard::new(&Connectivity::Up);
        let mut changes = board.changes();
        assert!(changes.next().await.unwrap().is_ready());
        assert!(changes.next().now_or_never().is_none());
        board.set(Role::Consuming, down("a"));
        assert!(matches!(changes.next().await, Some(Status::Connecting { .. })));
        // Each new reason is told once, whichever attempts fail for it.
        board.set(Role::Consuming, down("another reason"));
        assert!(matches!(changes.next().await, Some(Status::Connecting { .. })));
        for reason in ["a", "another reason", "a"] {
            board.set(Role::Consuming, down(reason));
            assert!(changes.next().now_or_never().is_none());
        }
        board.set(Role::Consuming, Connectivity::Up);
        assert!(changes.next().await.unwrap().is_ready());
        // And again after the handle was ready.
        board.set(Role::Consuming, down("a"));
        assert!(matches!(changes.next().await, Some(Status::Connecting { .. })));
        board.close();
        assert!(matches!(changes.next().await, Some(Status::Closed)));
        assert!(changes.next().await.is_none());
    }

    #[tokio::test]
    async fn the_end_of_the_runtime_is_told_and_is_the_last_change() {
        let board = StatusBoard::new(&Connectivity::Up);
        let mut changes = board.changes();
        changes.next().await;
        board.runtime_ended();
        assert!(matches!(board.over(), Some(BrokerError::RuntimeEnded)));
        board.close();
        assert!(matches!(changes.next().await, Some(Status::RuntimeEnded)));
        assert!(changes.next().await.is_none());
    }

    #[tokio::test]
    async fn changes_end_with_a_board_that_is_dropped() {
        let board = StatusBoard::new(&Connectivity::Up);
        let mut changes = board.changes();
        changes.next().await;
        drop(board);
        assert!(matches!(changes.next().await, Some(Status::Closed)));
    }
}
