//! Calls of methods that reply with a stream.
//!
//! A [`StreamingCall`] is a call whose reply ends the stream. The items reach its [`ItemInbox`]
//! beside the reply, and the [`Receiver`](receiver::Receiver) in it decides what they mean.

mod inbox;
mod receiver;
mod resumption;
mod run;
mod streaming_call;

pub(super) use inbox::{Arrival, ItemInbox, MAX_SILENCE, Overdue, worker_key};
pub(super) use resumption::ResumeArgument;
pub(super) use streaming_call::ReadItems;
pub use streaming_call::{FallibleStreamingCall, StreamingCall};
