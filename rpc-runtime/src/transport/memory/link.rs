//! The simulated link between a handle and the broker.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Messages in this direction arrive in the order in which they were sent.
    ToBroker,
    FromBroker,
}

/// The link of one connection.
pub(crate) trait Link: Debug + Send + Sync {
    /// How long the next message takes.
    fn delay(&self, direction: Direction) -> Duration;

    /// Whether a message sent at this instant arrives although its connection is lost: the broker
    /// reads what it has received before it sees the end.
    fn outlives_its_connection(&self, sent: Instant) -> bool;
}
