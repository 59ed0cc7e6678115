//! The in-process broker, for tests, examples, and programs with callers and workers in one
//! process.
//!
//! [`queue`] and [`queues`] are the broker, without I/O, tasks or a clock. [`connection`] is a
//! handle's connection to it. In the simulation, a connection has a `link` with delays, and
//! `faults` interrupt it.

mod broker;
mod connection;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod link;
mod queue;
mod queues;
mod transport;

pub use broker::InProcessBroker;
#[cfg(test)]
pub(crate) use link::{Direction, Link};
#[cfg(test)]
pub(crate) use queue::MALFORMED_HEADER;
pub(crate) use transport::MemoryTransport;
