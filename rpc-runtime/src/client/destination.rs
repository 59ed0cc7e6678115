//! The destination of a client's calls: a queue, and what is known about its workers.

use std::sync::Arc;

use super::batching::LearnedBatchSize;
use super::called_method::CalledService;
use super::gather::GatherTarget;
use super::limiter::Limiter;
use super::queue_check::QueueCheck;
use super::streaming::ItemInbox;
use super::uploading::Upload;
use crate::protocol::{BATCH_SUFFIX, ShortStr, Volume};
use crate::telemetry::Method;

/// The queue that a client's calls go to, with the state that its calls share. A call with a
/// stream, and a broadcast whose answers are gathered, has a copy of its own.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) service: CalledService,
    pub(crate) queue: ShortStr,
    /// The queue for batches of requests. `None` if each request is sent on its own.
    pub(super) batch_queue: Option<ShortStr>,
    /// Limits the calls in flight.
    pub(super) limiter: Arc<Limiter>,
    /// Finds out for calls whose requests were refused whether the queue exists.
    pub(super) queue_check: Arc<QueueCheck>,
    /// The methods of the service in spans and metrics.
    labels: Arc<[Method]>,
    /// The batch size of each method; empty if there is no queue for batches.
    batch_sizes: Box<[LearnedBatchSize]>,
    /// Where the answers to a broadcast go. `None` for a one-way broadcast and all other calls.
    pub(super) gather_target: Option<Arc<GatherTarget>>,
    /// Where a worker's messages about streams arrive: the items of its reply, or only what it says
    /// about the items that the call sends. `None` for a call without a stream.
    pub(super) inbox: Option<Arc<ItemInbox>>,
    /// The items that the call sends. `None` if it sends none. A call with an `upload` also has an
    /// `inbox`.
    pub(super) upload: Option<Arc<Upload>>,
}

/// The index of a method in a [`Destination`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MethodIndex(u16);

impl MethodIndex {
    /// The index of a method that the service does not have.
    pub(super) const NONE: Self = Self(u16::MAX);
}

impl Destination {
    pub(super) fn new(
        queue: ShortStr,
        service: CalledService,
        may_batch: bool,
        limiter: Arc<Limiter>,
    ) -> Self {
        // If the name is too long for the suffix, there is no queue for batches.
        let batch_queue = || ShortStr::new(format!("{queue}{BATCH_SUFFIX}")).ok();
        let batch_queue = may_batch.then(batch_queue).flatten();
        let batch_sizes = match batch_queue {
            Some(_) => (0..service.method_count())
                .map(|_| LearnedBatchSize::default())
                .collect(),
            None => Box::default(),
        };
        Self {
            labels: service.method_labels(),
            service,
            queue,
            batch_queue,
            limiter,
            queue_check: Arc::default(),
            batch_sizes,
            gather_target: None,
            inbox: None,
            upload: None,
        }
    }

    /// Returns the destination of one broadcast whose answers are gathered.
    pub(super) fn with_gather_target(&self, target: Arc<GatherTarget>) -> Self {
        Self {
            gather_target: Some(target),
            ..self.of_one_call()
        }
    }

    /// Returns a copy for one call, which is not batched: the worker's messages about its streams
    /// go to this inbox. The copy shares the limiter and the queue check.
    pub(super) fn with_inbox(&self, inbox: Arc<ItemInbox>) -> Self {
        Self {
            inbox: Some(inbox),
            ..self.of_one_call()
        }
    }

    /// Returns a copy like [`with_inbox`](Self::with_inbox), for a call that sends items.
    pub(super) fn with_upload(&self, upload: Arc<Upload>, inbox: Arc<ItemInbox>) -> Self {
        Self {
            upload: Some(upload),
            ..self.with_inbox(inbox)
        }
    }

    /// Returns what the worker may send at first. `None` if the worker is to reply without a
    /// stream.
    pub(super) fn credit(&self) -> Option<Volume> {
        let inbox = self.inbox.as_ref()?;
        Some(inbox.window()).filter(|window| window.items > 0)
    }

    /// Returns the destination of a call that is sent on its own.
    pub(super) fn of_one_call(&self) -> Self {
        Self {
            service: self.service.clone(),
            queue: self.queue.clone(),
            batch_queue: None,
            limiter: Arc::clone(&self.limiter),
            queue_check: Arc::clone(&self.queue_check),
            labels: Arc::clone(&self.labels),
            batch_sizes: Box::default(),
            gather_target: None,
            inbox: None,
            upload: None,
        }
    }

    /// Returns the index of a method; [`MethodIndex::NONE`] if the service does not have it.
    pub(super) fn method_index(&self, name: &str) -> MethodIndex {
        let index = self.service.method_index(name);
        index
            .and_then(|index| u16::try_from(index).ok())
            .map_or(MethodIndex::NONE, MethodIndex)
    }

    /// Returns the name of a method in spans and metrics. `None` if the service does not have it.
    pub(super) fn label(&self, MethodIndex(index): MethodIndex) -> Option<&Method> {
        self.labels.get(usize::from(index))
    }

    /// Returns the batch size of a method. `None` if its calls are always sent on their own.
    pub(super) fn batch_size(&self, MethodIndex(index): MethodIndex) -> Option<&LearnedBatchSize> {
        self.batch_sizes.get(usize::from(index))
    }
}

#[cfg(test)]
mod tests {
    use super::super::limiter::WhenFull;
    use super::*;
    use crate::describe::{MethodDescriptor, ServiceDescriptor};

    static SERVICE: ServiceDescriptor = ServiceDescriptor::new(
        "Store",
        "q",
        &[
            MethodDescriptor::new("read", &[]),
            MethodDescriptor::new("write", &[]),
        ],
    );

    fn destination(may_batch: bool) -> Destination {
        let limiter = Limiter::new("q", 1, WhenFull::Wait, true);
        let service = CalledService::Static(&SERVICE);
        Destination::new(ShortStr::from_static("q"), service, may_batch, limiter)
    }

    #[test]
    fn each_method_has_its_own_batch_size() {
        let destination = destination(true);
        let [read, write] =
            ["read", "write"].map(|name| destination.batch_size(destination.method_index(name)).unwrap());
        read.learn(7);
        assert_eq!((read.get(), write.get()), (7, 1));
    }

    #[test]
    fn an_unknown_method_and_a_client_without_batching_have_no_batch_size() {
        for (may_batch, method) in [(false, "read"), (true, "erase")] {
            let destination = destination(may_batch);
            assert!(destination.batch_size(destination.method_index(method)).is_none());
        }
    }

    #[test]
    fn a_call_that_is_sent_on_its_own_shares_what_limits_others() {
        let destination = destination(true);
        let single = destination.with_inbox(Arc::new(ItemInbox::new()));
        assert!(Arc::ptr_eq(&single.limiter, &destination.limiter));
        assert!(Arc::ptr_eq(&single.queue_check, &destination.queue_check));
        assert!(single.batch_size(single.method_index("read")).is_none());
    }
}
