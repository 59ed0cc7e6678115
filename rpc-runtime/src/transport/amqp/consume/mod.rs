//! Consuming one queue through one channel, and acknowledging its deliveries.

mod ack_batcher;
mod ack_sender;
mod subscription;

pub(super) use subscription::{AckMode, SubscriptionOptions, consume};
