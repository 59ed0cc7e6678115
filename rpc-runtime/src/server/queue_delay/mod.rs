//! How long requests wait in their queues.
//!
//! RabbitMQ does not say how long a message waited. A worker that counts from arrival assumes that
//! it has more time than it has. Once the queue is longer than callers wait, it runs every method
//! for a caller that has given up.
//!
//! A worker therefore measures the wait. While its prefetch is exhausted and messages wait, it
//! publishes small probes to its own request queues and notes how long each of them takes to come
//! back, to itself or to another worker that replies to it. Probes need neither synchronized clocks
//! nor the callers' help. A worker that has room for more requests sends none, and the broker is
//! asked for the depth of a queue before a probe is sent, so that an empty queue stays empty.
//!
//! [`QueueDelay`](measure::QueueDelay) turns probes into an estimate, and [`QueueDelays`] shares
//! the estimates of a queue between its requests and the [`Probes`].

mod measure;
mod probes;
mod shared;

pub(super) use probes::{Probes, is_probe, probe_reply};
pub(super) use shared::{Exhausted, QueueDelays};
