//! Decides which requests may share a message.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tokio::time::Instant;

use super::learned_batch_size::LearnedBatchSize;
use crate::client::destination::Destination;
use crate::client::plan::CallPlan;
use crate::client::queued_request::QueuedRequest;
use crate::codec::Codec;
use crate::protocol::{Load, MAX_PART_BYTES};

/// What the requests in one message have in common. Requests with equal keys may share a message.
#[derive(Debug, Clone)]
pub(super) struct BatchKey {
    pub(super) destination: Arc<Destination>,
    codec: Codec,
    priority: Option<u8>,
    /// In milliseconds, [rounded](round_down): a batch expires with the first of its requests, so
    /// they must have about the same time left. `None` for one-way requests, which do not expire.
    time_to_live: Option<u32>,
}

impl BatchKey {
    /// Returns the request's key, and how much of a message it takes. `None` if the request does
    /// not fit in a batch, or if its workers are not known to ask for batches.
    pub(super) fn of(request: &QueuedRequest, now: Instant) -> Option<(Self, Load)> {
        let plan = request.plan();
        let batch_size = batch_size_in_use(plan)?;
        let time_to_live = request.time_to_live(now).map(|time| {
            let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            round_down(millis)
        });
        let key = Self {
            destination: Arc::clone(&plan.destination),
            codec: plan.codec,
            priority: plan.priority,
            time_to_live,
        };
        let bytes = max_variable_bytes(plan) + plan.method.name().len() + OVERHEAD;
        Some((key, Load::new(bytes, batch_size)))
    }

    fn properties(&self) -> (Codec, Option<u8>, Option<u32>) {
        (self.codec, self.priority, self.time_to_live)
    }
}

impl PartialEq for BatchKey {
    fn eq(&self, other: &Self) -> bool {
        // The pointers spare a comparison of names, as most requests come from the same client.
        let is_same_queue = Arc::ptr_eq(&self.destination, &other.destination)
            || self.destination.batch_queue == other.destination.batch_queue;
        is_same_queue && self.properties() == other.properties()
    }
}

impl Eq for BatchKey {}

impl Hash for BatchKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.destination.batch_queue.hash(state);
        self.properties().hash(state);
    }
}

/// Returns whether the request may be sent in a batch. Its workers must have asked for batches.
pub(super) fn can_share_message(request: &QueuedRequest) -> bool {
    batch_size_in_use(request.plan()).is_some()
}

/// Returns whether to publish the request at once, and not to batch it or to hold it back until the
/// batch size of its method is known. Counts the [first calls](LearnedBatchSize::holds_back) of the
/// method.
pub(in crate::client) fn publishes_at_once(request: &QueuedRequest) -> bool {
    let plan = request.plan();
    if batch_size_in_use(plan).is_some() {
        return false;
    }
    // One-way requests are never held back: no reply would end the wait, and their calls, which end
    // with the broker's confirm, would take longer.
    if plan.method.is_oneway() || !fits_in_batch(plan) {
        return true;
    }
    let is_held_back = plan.batch_size().is_some_and(LearnedBatchSize::holds_back);
    !is_held_back
}

/// Returns the batch size that workers ask for. `None` if the call does not [fit](fits_in_batch) in
/// a batch, or if its workers are not known to ask for batches.
fn batch_size_in_use(plan: &CallPlan) -> Option<u16> {
    let batch_size = plan.batch_size()?.get();
    (batch_size > 1 && fits_in_batch(plan)).then_some(batch_size)
}

/// Returns whether the codec and the size of a call allow it to be sent in a batch.
pub(in crate::client) fn fits_in_batch(plan: &CallPlan) -> bool {
    plan.codec != Codec::Text && max_variable_bytes(plan) <= MAX_PART_BYTES
}

/// Returns how many bytes a call's arguments and headers take in a batch, at most.
fn max_variable_bytes(plan: &CallPlan) -> usize {
    // Each header has two lengths, of at most five bytes.
    let max_header_lengths = 10 * plan.headers.len();
    plan.arguments.0.len() + plan.headers.wire_bytes() + max_header_lengths
}

/// How many bytes the id, the time to live and the lengths add to a call in a batch, at most.
const OVERHEAD: usize = 64;

/// Keeps the first six binary digits of a number, and sets the rest to zero. Numbers that are
/// rounded to the same value differ by less than a thirtieth.
fn round_down(number: u32) -> u32 {
    let digits = u32::BITS - number.leading_zeros();
    let cleared = digits.saturating_sub(6);
    number >> cleared << cleared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_rounded_alike_differ_little() {
        for number in [0, 1, 63, 64, 29_999, 30_000, u32::MAX] {
            let rounded = round_down(number);
            assert!(
                rounded <= number && number - rounded <= number / 32,
                "{number}: {rounded}"
            );
        }
        assert_ne!(round_down(1000), round_down(1050));
    }
}
