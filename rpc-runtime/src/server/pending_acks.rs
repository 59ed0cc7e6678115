//! The acks that a worker owes: a request's deliveries are acked once the broker has its reply, and
//! not before.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::service::{Deduplicator, RequestKey};
use crate::transport::Control;

/// One request of a delivery that is neither acked nor rejected. It can be acked only on the
/// subscription that delivered it.
#[derive(Debug, Clone)]
pub(super) struct UnsettledDelivery(Arc<DeliveryState>);

/// A delivery of one request or of a batch.
#[derive(Debug)]
struct DeliveryState {
    control: Arc<dyn Control>,
    tag: u64,
    /// How many of its requests are still to be acked or rejected.
    remaining: AtomicUsize,
    /// Whether one of its requests was rejected.
    is_rejected: AtomicBool,
    /// Counts the delivery for as long as this exists.
    _counted: Arc<()>,
}

impl UnsettledDelivery {
    /// A delivery of `requests` requests. Each of them must be acked or rejected once.
    pub(super) fn new(
        control: Arc<dyn Control>,
        tag: u64,
        requests: usize,
        in_progress: &RequestsInProgress,
    ) -> Self {
        Self(Arc::new(DeliveryState {
            control,
            tag,
            remaining: AtomicUsize::new(requests),
            is_rejected: AtomicBool::new(false),
            _counted: Arc::clone(&in_progress.0.deliveries),
        }))
    }

    /// Acks one request. The last one acks the delivery, or rejects it if one was rejected.
    pub(super) fn ack(self) {
        let DeliveryState {
            control,
            tag,
            remaining,
            is_rejected,
            ..
        } = &*self.0;
        if remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        if is_rejected.load(Ordering::Relaxed) {
            control.reject(*tag);
        } else {
            control.settle(*tag);
        }
    }

    /// Rejects one request. The delivery is rejected once none of its requests remains.
    pub(super) fn reject(self) {
        // `remaining` orders this store.
        self.0.is_rejected.store(true, Ordering::Relaxed);
        self.ack();
    }

    /// Whether this subscription delivered it.
    pub(super) fn is_of(&self, control: &Arc<dyn Control>) -> bool {
        Arc::ptr_eq(&self.0.control, control)
    }
}

/// Counts the requests of one consumer that are in progress.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestsInProgress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicUsize,
    /// Each unsettled delivery has a clone.
    deliveries: Arc<()>,
    /// Notified when no request is in progress.
    idle: Notify,
    /// Notified when a request was abandoned.
    abandoned: Notify,
}

impl RequestsInProgress {
    pub(super) fn count(&self) -> usize {
        self.0.requests.load(Ordering::Acquire)
    }

    /// Returns how many deliveries are unsettled.
    pub(super) fn deliveries(&self) -> usize {
        Arc::strong_count(&self.0.deliveries) - 1
    }

    /// Waits until no request is in progress. Cancel safe.
    pub(super) async fn idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Waits until a request was abandoned: the broker must deliver it again, for which its
    /// subscription has to end. Cancel safe.
    pub(super) async fn abandoned(&self) {
        self.0.abandoned.notified().await;
    }

    fn add(&self, requests: usize) {
        self.0.requests.fetch_add(requests, Ordering::AcqRel);
    }

    fn remove(&self, requests: usize) {
        if requests > 0 && self.0.requests.fetch_sub(requests, Ordering::AcqRel) == requests {
            self.0.idle.notify_waiters();
        }
    }
}

/// Recognises the requests of a queue that are delivered again.
#[derive(Debug, Default)]
pub(super) struct SharedDeduplicator(Mutex<Deduplicator<UnsettledDelivery>>);

impl SharedDeduplicator {
    pub(super) fn lock(&self) -> MutexGuard<'_, Deduplicator<UnsettledDelivery>> {
        // Each change is a single step, so a panic elsewhere cannot leave a half-made change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ack that one request waits for.
#[derive(Debug)]
pub(super) enum PendingAck {
    /// Acks all deliveries of the request that the deduplicator tracks by this key.
    Tracked(RequestKey),
    /// Acks this delivery only.
    Untracked(UnsettledDelivery),
}

/// The acks of requests in progress.
///
/// If it is dropped before they are acked, the requests are abandoned: the deduplicator forgets
/// them, and their consumer makes the broker deliver them again.
pub(super) struct PendingAcks {
    deduplicator: Arc<SharedDeduplicator>,
    in_progress: RequestsInProgress,
    acks: Vec<PendingAck>,
}

impl PendingAcks {
    pub(super) fn new(deduplicator: &Arc<SharedDeduplicator>, in_progress: &RequestsInProgress) -> Self {
        Self {
            deduplicator: Arc::clone(deduplicator),
            in_progress: in_progress.clone(),
            acks: Vec::new(),
        }
    }

    /// The ack of one request.
    pub(super) fn of_one(
        deduplicator: &Arc<SharedDeduplicator>,
        in_progress: &RequestsInProgress,
        ack: PendingAck,
    ) -> Self {
        let mut acks = Self::new(deduplicator, in_progress);
        acks.push(ack);
        acks
    }

    /// Returns how many requests of the same consumer are in progress.
    pub(super) fn requests_in_progress(&self) -> usize {
        self.in_progress.count()
    }

    /// Adds a request, which is in progress from now on.
    pub(super) fn push(&mut self, ack: PendingAck) {
        self.in_progress.add(1);
        self.acks.push(ack);
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.acks.append(&mut other.acks);
    }

    /// Splits off the request that was added last.
    pub(super) fn split_last(&mut self) -> Self {
        let last = self.acks.pop();
        Self {
            acks: last.into_iter().collect(),
            deduplicator: Arc::clone(&self.deduplicator),
            in_progress: self.in_progress.clone(),
        }
    }

    /// Splits into single requests, in the order in which they were added.
    pub(super) fn split(mut self) -> impl Iterator<Item = Self> {
        let acks = std::mem::take(&mut self.acks);
        acks.into_iter().map(move |ack| Self {
            acks: vec![ack],
            deduplicator: Arc::clone(&self.deduplicator),
            in_progress: self.in_progress.clone(),
        })
    }

    /// Tells the deduplicator that copies of the requests are about to be published. Must be called
    /// before they are.
    pub(super) fn mark_forwarded(&self) {
        let mut deduplicator = self.deduplicator.lock();
        for key in self.keys() {
            deduplicator.mark_forwarded(key);
        }
    }

    fn keys(&self) -> impl Iterator<Item = &RequestKey> {
        self.acks.iter().filter_map(|ack| match ack {
            PendingAck::Tracked(key) => Some(key),
            PendingAck::Untracked(_) => None,
        })
    }

    /// Acks all deliveries of the requests. Must be called only once the broker has the replies.
    pub(super) fn ack(self) {
        self.settle(UnsettledDelivery::ack);
    }

    /// Rejects all deliveries of the requests, so that a dead-letter queue keeps them.
    pub(super) fn reject(self) {
        {
            let mut deduplicator = self.deduplicator.lock();
            for key in self.keys() {
                deduplicator.mark_rejected(key);
            }
        }
        self.settle(UnsettledDelivery::reject);
    }

    fn settle(mut self, settle: fn(UnsettledDelivery)) {
        let acks = std::mem::take(&mut self.acks);
        let requests = acks.len();
        let deliveries = {
            let mut deduplicator = self.deduplicator.lock();
            let mut deliveries = Vec::with_capacity(requests);
            for ack in acks {
                match ack {
                    PendingAck::Tracked(key) => deliveries.extend(deduplicator.finish(key)),
                    PendingAck::Untracked(delivery) => deliveries.push(delivery),
                }
            }
            deliveries
        };
        deliveries.into_iter().for_each(settle);
        self.in_progress.remove(requests);
    }
}

impl Drop for PendingAcks {
    fn drop(&mut self) {
        if self.acks.is_empty() {
            return;
        }
        {
            let mut deduplicator = self.deduplicator.lock();
            for key in self.keys() {
                deduplicator.abandon(key);
            }
        }
        self.in_progress.remove(self.acks.len());
        self.in_progress.0.abandoned.notify_one();
    }
}

impl fmt::Debug for PendingAcks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAcks")
            .field("requests", &self.acks.len())
            .finish_non_exhaustive()
    }
}
