//! Batches of requests: how many calls of a method its workers ask for in one message, and the
//! task that collects requests into batches.
//!
//! A broker's work is per message, so workers ask for several calls of a quick method in one
//! message. [`RequestSender`](super::request_sender) publishes a request itself if the broker is
//! ready, no others wait in the task's backlog, and the request need not be batched or held back.
//! The task publishes the rest.

mod batch_key;
mod batch_size_asks;
mod held_requests;
mod learned_batch_size;
mod send_task;
#[cfg(test)]
mod tests;

pub(super) use batch_key::{fits_in_batch, publishes_at_once};
pub(super) use batch_size_asks::BatchSizeAsks;
pub(super) use learned_batch_size::LearnedBatchSize;
pub(super) use send_task::SendTask;
