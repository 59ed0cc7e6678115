//! Batches of requests: how many calls of a method its workers want in one message, and the task
//! that collects requests into batches.
//!
//! A broker's work is per message, so workers that are busy ask for several calls in one message.
//! Requests that cannot be batched are published by [`RequestSender`](super::request_sender) at once.

mod batch_key;
mod held_requests;
mod learned_batch_size;
mod send_task;
#[cfg(test)]
mod tests;

pub(super) use batch_key::must_not_queue;
pub(super) use learned_batch_size::LearnedBatchSize;
pub(super) use send_task::SendTask;
