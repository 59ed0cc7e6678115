//! How long requests wait in their queues.
//!
//! RabbitMQ does not say how long a message waited. A worker that counts a request's time to live
//! from its arrival assumes that it has more time than it has. Once requests wait for longer than
//! their callers do, it runs every method for a caller that has given up.
//!
//! A worker therefore measures the wait. While its prefetch is full and messages wait, it publishes
//! small probes to its own request queues and measures how long each of them takes to come back.
//! The broker delivers a probe to this worker, or to another one, which replies to it. Probes need
//! neither synchronized clocks nor the callers' help. Once a measurement shows that the worker has
//! room for more requests and that none wait, it sends no more. Before a worker sends a probe, it
//! asks the broker for the depth of the queue, so that an empty queue stays empty.
//!
//! [`WaitEstimator`](estimator::WaitEstimator) turns probes into an estimate.
//! [`QueueWaitEstimates`] shares the estimates of a queue, one for each priority, between its
//! requests and the [`Probes`].

mod estimates;
mod estimator;
mod probes;

pub(super) use estimates::{PrefetchFullGuard, QueueWaitEstimates};
pub(super) use probes::{Probes, is_probe, probe_reply};
