//! The simulated link between a handle and the broker.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A [`Link`] must choose delays with which no message overtakes an earlier one.
    ToBroker,
    /// Answers and deliveries may overtake each other. The deliveries of a consumer stay in order.
    FromBroker,
}

/// The simulated link of one connection.
pub(crate) trait Link: Debug + Send + Sync {
    /// The delay of the next message.
    fn delay(&self, direction: Direction) -> Duration;

    /// Whether each delivery is on its way only once the one before has arrived. So the delay
    /// limits how many arrive in a second.
    fn is_narrow(&self) -> bool;

    /// Whether a request that was sent at this instant arrives although its connection is lost. A
    /// broker reads the bytes that it has received before it notices the loss.
    fn delivers_despite_loss(&self, sent: Instant) -> bool;
}
