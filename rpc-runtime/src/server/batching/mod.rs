//! Messages that carry several requests, and replies that share a message.

mod batch_size_ask;
mod handle_batch;
mod reply_batch;
mod reply_collector;

pub(super) use batch_size_ask::BatchSizeAsk;
pub(super) use reply_batch::{BatchKey, ReplyGroup, send_together};
