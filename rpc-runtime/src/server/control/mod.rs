//! Handles what reaches this worker through the control exchange: broadcasts, the requests of
//! [`discovery`](crate::discovery), cancellations of calls, and credit for streams.
//!
//! Each worker consumes them from a queue of its own, beside its request queues. So a worker
//! answers even at its concurrency limit. A failure here never ends the server.

mod answers;
mod broadcasts;
mod calls;
mod methods;
mod responder;
mod subscription;

pub(super) use methods::{ControlMethods, ControlledQueue};
pub(crate) use responder::DISCOVERY_TIMEOUT;
pub(super) use subscription::{ControlResponder, START_TIMEOUT};
