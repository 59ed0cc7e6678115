//! Publishing through one channel, with confirms.

mod in_flight;
mod publisher;
mod refusals;

pub(super) use publisher::AmqpPublisher;
