//! The acks that a worker owes. The deliveries of a request that gets a reply are not acked before
//! the broker has the reply or the first message of its stream, or the reply is given up.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::{SmallVec, smallvec};
use tokio::sync::Notify;

use crate::service::{Deduplicator, RequestKey};
use crate::transport::Control;

/// One request's share in a delivery that is neither acked nor rejected yet: a batch is one
/// delivery of several requests. The delivery can be acked only on the subscription that delivered
/// it.
#[derive(Debug, Clone)]
pub(super) enum RequestShare {
    /// All of the delivery: no allocation is needed for it.
    Whole(UnackedDelivery),
    /// A share in a batch.
    OfBatch(Arc<UnackedBatch>),
}

/// A delivery that is neither acked nor rejected yet.
#[derive(Debug, Clone)]
pub(super) struct UnackedDelivery {
    control: Arc<dyn Control>,
    tag: u64,
    /// Notifies its consumer if it is abandoned. Counts it as unacknowledged for as long as this
    /// exists; see [`Counters::abandoned`].
    abandoned: Arc<Notify>,
}

/// A delivery of several requests.
#[derive(Debug)]
pub(super) struct UnackedBatch {
    delivery: UnackedDelivery,
    /// How many of its requests are neither acked nor rejected yet.
    remaining: AtomicUsize,
    /// Whether one of its requests was rejected.
    is_rejected: AtomicBool,
}

impl RequestShare {
    /// The share of the only request of a delivery. Only one clone of it may be acked or rejected.
    pub(super) fn whole(control: Arc<dyn Control>, tag: u64, in_progress: &RequestsInProgress) -> Self {
        Self::Whole(UnackedDelivery::new(control, tag, in_progress))
    }

    /// A share in a delivery of `requests` requests. Each request gets a clone. The delivery is
    /// acked or rejected once `requests` clones are.
    pub(super) fn of_batch(
        control: Arc<dyn Control>,
        tag: u64,
        requests: usize,
        in_progress: &RequestsInProgress,
    ) -> Self {
        Self::OfBatch(Arc::new(UnackedBatch {
            delivery: UnackedDelivery::new(control, tag, in_progress),
            remaining: AtomicUsize::new(requests),
            is_rejected: AtomicBool::new(false),
        }))
    }

    /// Acks one request. After the last one, the delivery is acked, or rejected if any of its
    /// requests was rejected.
    pub(super) fn ack(self) {
        match self {
            Self::Whole(delivery) => delivery.control.ack(delivery.tag),
            Self::OfBatch(batch) => batch.finish_one(),
        }
    }

    /// Rejects one request. The delivery is rejected after the last one.
    pub(super) fn reject(self) {
        match self {
            Self::Whole(delivery) => delivery.control.reject(delivery.tag),
            Self::OfBatch(batch) => {
                // Relaxed is enough: the AcqRel decrement of `remaining` publishes it.
                batch.is_rejected.store(true, Ordering::Relaxed);
                batch.finish_one();
            }
        }
    }

    /// Abandons one request. Its delivery is never acked or rejected. The consumer ends the
    /// subscription, so that the broker delivers it again.
    fn abandon(self) {
        self.delivery().abandoned.notify_one();
    }

    /// Whether the subscription of this control delivered it.
    pub(super) fn was_delivered_on(&self, control: &Arc<dyn Control>) -> bool {
        Arc::ptr_eq(&self.delivery().control, control)
    }

    fn delivery(&self) -> &UnackedDelivery {
        match self {
            Self::Whole(delivery) => delivery,
            Self::OfBatch(batch) => &batch.delivery,
        }
    }
}

impl UnackedDelivery {
    fn new(control: Arc<dyn Control>, tag: u64, in_progress: &RequestsInProgress) -> Self {
        Self {
            control,
            tag,
            abandoned: Arc::clone(&in_progress.0.abandoned),
        }
    }
}

impl UnackedBatch {
    /// Acks or rejects the delivery if this is its last request.
    fn finish_one(&self) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let UnackedDelivery { control, tag, .. } = &self.delivery;
        if self.is_rejected.load(Ordering::Relaxed) {
            control.reject(*tag);
        } else {
            control.ack(*tag);
        }
    }
}

/// Counts the requests of one consumer that are in progress, and its unacknowledged deliveries.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestsInProgress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicUsize,
    /// How many of them no longer have deliveries to ack: those of streams that go on.
    acked_early: AtomicUsize,
    /// Notified when the last request in progress ends.
    idle: Notify,
    /// Notified when a delivery is abandoned. Each unacknowledged delivery has a clone: the strong
    /// count, minus one, is their number. While a delivery changes hands, it may count twice.
    abandoned: Arc<Notify>,
}

impl RequestsInProgress {
    pub(super) fn count(&self) -> usize {
        self.0.requests.load(Ordering::Acquire)
    }

    /// Returns how many requests are in progress whose deliveries were acked early.
    pub(super) fn acked_early(&self) -> usize {
        self.0.acked_early.load(Ordering::Acquire)
    }

    /// Returns how many deliveries are unacknowledged.
    pub(super) fn unacked(&self) -> usize {
        Arc::strong_count(&self.0.abandoned) - 1
    }

    /// Waits until no request is in progress. Cancel safe.
    pub(super) async fn wait_idle(&self) {
        loop {
            // Before the check, so that no notification is lost.
            let idle = self.0.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Waits until a delivery of this consumer is abandoned. Its subscription must end then, so
    /// that the broker delivers it again. Cancel safe.
    pub(super) async fn wait_abandoned(&self) {
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

/// The deduplicator of a queue, shared by its consumers.
#[derive(Debug, Default)]
pub(super) struct SharedDeduplicator(Mutex<Deduplicator<RequestShare>>);

impl SharedDeduplicator {
    pub(super) fn lock(&self) -> MutexGuard<'_, Deduplicator<RequestShare>> {
        // Each change is a single step, so a panic elsewhere cannot leave a half-made change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ack that is still owed for one request.
#[derive(Debug)]
pub(super) enum PendingAck {
    /// Acks all deliveries of the request that the deduplicator tracks by this key.
    Tracked(RequestKey),
    /// Acks this delivery only.
    Untracked(RequestShare),
}

/// The acks of requests in progress.
///
/// If this is dropped before they are acked or rejected, the requests are abandoned: the
/// deduplicator forgets them, and each consumer with a delivery of one of them makes the broker
/// deliver it again. That may be another consumer than the one that runs the request.
pub(super) struct PendingAcks {
    deduplicator: Arc<SharedDeduplicator>,
    in_progress: RequestsInProgress,
    /// In most cases a single one.
    acks: SmallVec<[PendingAck; 1]>,
    /// How many further requests are in progress, whose deliveries were acked early.
    acked_early: usize,
}

impl PendingAcks {
    pub(super) fn new(deduplicator: &Arc<SharedDeduplicator>, in_progress: &RequestsInProgress) -> Self {
        Self {
            deduplicator: Arc::clone(deduplicator),
            in_progress: in_progress.clone(),
            acks: SmallVec::new(),
            acked_early: 0,
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

    /// Adds a request, which is in progress from now on.
    pub(super) fn push(&mut self, ack: PendingAck) {
        self.in_progress.add(1);
        self.acks.push(ack);
    }

    /// Adds the requests of `other`, which must be of the same consumer. None of them may have been
    /// acked early.
    pub(super) fn append(&mut self, mut other: Self) {
        self.acks.append(&mut other.acks);
    }

    /// Splits off the request that was added last.
    pub(super) fn split_last(&mut self) -> Self {
        let last = self.acks.pop();
        self.wrap_taken(last.into_iter().collect())
    }

    /// Splits into single requests, in the order in which they were added.
    pub(super) fn split(mut self) -> impl Iterator<Item = Self> {
        let acks = std::mem::take(&mut self.acks);
        acks.into_iter().map(move |ack| self.wrap_taken(smallvec![ack]))
    }

    /// Wraps acks that were taken out of this, whose requests already count as in progress.
    fn wrap_taken(&self, acks: SmallVec<[PendingAck; 1]>) -> Self {
        Self {
            acks,
            acked_early: 0,
            deduplicator: Arc::clone(&self.deduplicator),
            in_progress: self.in_progress.clone(),
        }
    }

    /// Tells the deduplicator that copies of the requests are about to be published. Must be called
    /// before they are.
    pub(super) fn mark_forwarded(&self) {
        self.for_each_tracked(Deduplicator::mark_forwarded);
    }

    /// Forgets the requests if no delivery of any of them can be acked any more: their subscription
    /// was lost, so the broker delivers them again. The next delivery is then handled as if they
    /// had not been in progress. Returns whether they were forgotten.
    pub(super) fn forget_lost(&mut self) -> bool {
        // Under one lock: a delivery that joins in between would never be acked.
        let mut deduplicator = self.deduplicator.lock();
        let is_lost = |ack: &PendingAck| match ack {
            PendingAck::Tracked(key) => !deduplicator.has_delivery(key),
            // Whether its subscription was lost is not known.
            PendingAck::Untracked(_) => false,
        };
        if !self.acks.iter().all(is_lost) {
            return false;
        }
        let requests = self.acks.len();
        for ack in self.acks.drain(..) {
            if let PendingAck::Tracked(key) = ack {
                // There are no deliveries to abandon.
                let _ = deduplicator.abandon(&key);
            }
        }
        self.in_progress.remove(requests);
        true
    }

    fn for_each_tracked(&self, change: fn(&mut Deduplicator<RequestShare>, &RequestKey)) {
        let mut deduplicator = self.deduplicator.lock();
        for ack in &self.acks {
            if let PendingAck::Tracked(key) = ack {
                change(&mut deduplicator, key);
            }
        }
    }

    /// Acks all deliveries of the requests. If they get replies, must not be called before the
    /// broker has these, or they are given up.
    pub(super) fn ack(self) {
        self.finish(RequestShare::ack);
    }

    /// Rejects all deliveries of the requests, so that a dead-letter queue can keep them.
    pub(super) fn reject(self) {
        self.for_each_tracked(Deduplicator::mark_rejected);
        self.finish(RequestShare::reject);
    }

    /// Acks all deliveries of the requests, which stay in progress until this is acked, rejected or
    /// dropped. Must not be called before the broker has a part of the replies.
    pub(super) fn ack_early(&mut self) {
        self.acked_early += self.acks.len();
        let acked_early = &self.in_progress.0.acked_early;
        acked_early.fetch_add(self.acks.len(), Ordering::AcqRel);
        self.end_deliveries(RequestShare::ack);
    }

    fn finish(mut self, ack_or_reject: fn(RequestShare)) {
        let requests = self.acks.len();
        self.end_deliveries(ack_or_reject);
        self.in_progress.remove(requests);
        self.end_acked_early();
    }

    /// Ends the requests whose deliveries were acked early.
    fn end_acked_early(&mut self) {
        let requests = std::mem::take(&mut self.acked_early);
        let acked_early = &self.in_progress.0.acked_early;
        acked_early.fetch_sub(requests, Ordering::AcqRel);
        self.in_progress.remove(requests);
    }

    /// Takes the requests out, and acks or rejects all their deliveries.
    fn end_deliveries(&mut self, ack_or_reject: fn(RequestShare)) {
        let shares = self.take_deliveries(Deduplicator::finish);
        shares.into_iter().for_each(ack_or_reject);
    }

    /// Takes the requests out, and returns all their deliveries. `end` removes a tracked request
    /// from the deduplicator and returns its deliveries.
    fn take_deliveries<D>(
        &mut self,
        end: impl Fn(&mut Deduplicator<RequestShare>, RequestKey) -> D,
    ) -> SmallVec<[RequestShare; 1]>
    where
        D: Iterator<Item = RequestShare>,
    {
        let acks = std::mem::take(&mut self.acks);
        let mut deduplicator = self.deduplicator.lock();
        let mut shares = SmallVec::with_capacity(acks.len());
        for ack in acks {
            match ack {
                PendingAck::Tracked(key) => shares.extend(end(&mut deduplicator, key)),
                PendingAck::Untracked(share) => shares.push(share),
            }
        }
        shares
    }
}

impl Drop for PendingAcks {
    fn drop(&mut self) {
        self.end_acked_early();
        if self.acks.is_empty() {
            return;
        }
        let requests = self.acks.len();
        let shares = self.take_deliveries(|deduplicator, key| deduplicator.abandon(&key));
        self.in_progress.remove(requests);
        shares.into_iter().for_each(RequestShare::abandon);
    }
}

impl fmt::Debug for PendingAcks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAcks")
            .field("requests", &self.acks.len())
            .finish_non_exhaustive()
    }
}
