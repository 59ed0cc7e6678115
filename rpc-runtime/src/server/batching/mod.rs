//! Messages that carry several requests, and replies that share a message.

mod handle_batch;
mod reply_batch;
mod reply_collector;

pub(super) use reply_batch::{BatchKey, ReplyGroup, send_together};
