//! Batches: several calls, several replies, or several cancellations, in one message.
//!
//! [`message`] encodes and decodes a batch, [`batcher`] decides what goes into it.

mod batcher;
mod cancelled_call;
mod message;

pub(crate) use batcher::{Batcher, Load, fair_share, receive_more};
pub(crate) use cancelled_call::{CANCEL_TYPE, CancelledCall};
pub(crate) use message::{
    BATCH_HEADER, BATCH_SUFFIX, BATCH_TYPE, BatchedCall, BatchedCallRef, BatchedReply, MAX_BATCH_BYTES,
    MAX_BATCH_CALLS, MAX_PART_BYTES, headers_size, read_batch, write_batch,
};
pub(in crate::protocol) use message::{Reader, UnreadableBatch, assert_ok, to_u32};
