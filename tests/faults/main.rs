//! What the library promises where the broker itself fails, a node of it, or the process of a
//! worker.
//!
//! A target of its own: most of these have a RabbitMQ for themselves, and take the machine from the
//! tests of `promises`, which run before or after.

mod alarms;
mod children;
mod clusters;
mod connections;
mod crowds;
mod effects;
mod limits;
mod outages;
mod processes;
mod queues;
mod resumption;
mod rollouts;
mod streams;
mod uploads;
