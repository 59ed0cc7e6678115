//! Consuming one queue through one channel, and acknowledging its deliveries.

mod ack_batcher;
mod acks;
mod subscription;

pub(super) use subscription::{AckMode, SubscriptionOptions, consume, subscription};
