//! The state of a handle's connections, as its user sees it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{BrokerError, Chain};
use crate::escape::{Logged, OneLine};
use crate::telemetry::{Event, count};

/// What a [`Broker`](crate::Broker) handle knows of its connections.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Status {
    /// At least one of its connections is not there, and is being made.
    Connecting {
        /// Why the last attempt failed, or what ended the connection that was there.
        last_error: Option<BrokerError>,
    },
    /// All is well.
    Ready,
    /// The broker reads nothing that is published, because of an [alarm](https://www.rabbitmq.com/docs/alarms): calls wait,
    /// replies still arrive.
    Blocked {
        /// The broker's reason, such as `low on memory`.
        reason: Arc<str>,
    },
    /// The handle was closed. It stays so.
    Closed,
}

impl Status {
    /// Whether calls can be made right now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether the two differ in kind, whatever their reasons.
    fn is_another(&self, other: &Self) -> bool {
        std::mem::discriminant(self) != std::mem::discriminant(other)
    }

    /// What keeps messages from leaving; nothing where they can.
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
        }
    }
}

/// The changes of a handle's [`Status`], from [`Broker::status_changes`](crate::Broker::status_changes).
///
/// Changes that follow each other faster than they are looked at are seen as one.
#[derive(Debug, Clone)]
pub struct StatusChanges {
    receiver: watch::Receiver<Connections>,
    seen: Option<Status>,
}

impl StatusChanges {
    /// The status as it is now, the first time; then waits until it is another one. `None` after [`Status::Closed`].
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Status> {
        if matches!(self.seen, Some(Status::Closed)) {
            return None;
        }
        let seen = self.seen.as_ref();
        let changed = self
            .receiver
            .wait_for(|connections| seen.is_none_or(|seen| connections.status().is_another(seen)));
        let status = match changed.await {
            Ok(connections) => connections.status(),
            // The transport is gone, and with it the handle.
            Err(_) => Status::Closed,
        };
        self.seen = Some(status.clone());
        Some(status)
    }
}

/// Which of a handle's connections.
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

/// Both connections.
#[derive(Debug)]
struct Connections {
    publishing: Connectivity,
    consuming: Connectivity,
    is_closed: bool,
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

    fn close(&mut self) {
        self.is_closed = true;
        for role in Role::ALL {
            self.set(role, Connectivity::Down { last_error: None });
        }
    }

    fn status(&self) -> Status {
        if self.is_closed {
            return Status::Closed;
        }
        for connection in [&self.publishing, &self.consuming] {
            if let Connectivity::Down { last_error } = connection {
                return Status::Connecting {
                    last_error: last_error.clone(),
                };
            }
        }
        // The broker blocks none that only consumes.
        match &self.publishing {
            Connectivity::Blocked { reason } => Status::Blocked {
                reason: Arc::clone(reason),
            },
            _ => Status::Ready,
        }
    }
}

/// Where the state of the connections is kept, and logged once a change.
#[derive(Debug)]
pub(crate) struct StatusBoard(watch::Sender<Connections>);

impl StatusBoard {
    pub(crate) fn new(connectivity: &Connectivity) -> Self {
        let down = || Connectivity::Down { last_error: None };
        let mut connections = Connections {
            publishing: down(),
            consuming: down(),
            is_closed: false,
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
        }
    }

    /// Waits until a connection is not there. Cancel safe.
    pub(crate) async fn down(&self, role: Role) {
        let mut connections = self.0.subscribe();
        let is_down = |connections: &Connections| {
            let connection = match role {
                Role::Publishing => &connections.publishing,
                Role::Consuming => &connections.consuming,
            };
            connections.is_closed || matches!(connection, Connectivity::Down { .. })
        };
        // The board is lent, so it is still there.
        let _ = connections.wait_for(is_down).await;
    }

    pub(crate) fn set(&self, role: Role, connectivity: Connectivity) {
        self.change(|connections| {
            if !connections.is_closed {
                connections.set(role, connectivity);
            }
        });
    }

    pub(crate) fn close(&self) {
        self.change(Connections::close);
    }

    fn change(&self, change: impl FnOnce(&mut Connections)) {
        let mut news = None;
        self.0.send_modify(|connections| {
            let before = connections.status();
            change(connections);
            let after = connections.status();
            news = after.is_another(&before).then_some(after);
        });
        match news {
            None => {}
            Some(status @ (Status::Ready | Status::Closed)) => {
                tracing::info!(status = %Logged(&status), "broker");
            }
            Some(status) => tracing::warn!(status = %Logged(&status), "broker"),
        }
    }
}

impl Drop for Connections {
    /// A handle that is dropped has no connections either.
    fn drop(&mut self) {
        self.close();
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
        board.set(Role::Consuming, down("another reason"));
        assert!(changes.next().now_or_never().is_none());
        board.close();
        assert!(matches!(changes.next().await, Some(Status::Closed)));
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
