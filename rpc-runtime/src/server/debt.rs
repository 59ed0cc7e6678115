//! What is owed for requests: to settle their deliveries once the broker has their answers, and not before.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::service::{Key, Runs};
use crate::transport::Control;

/// A request of a delivery, for when it is settled: within the subscription that it came by, and no other.
#[derive(Debug, Clone)]
pub(super) struct Unsettled(Arc<Shipment>);

/// A delivery, with one request or several.
#[derive(Debug)]
struct Shipment {
    control: Arc<dyn Control>,
    tag: u64,
    /// How many of its requests are not done with.
    requests: AtomicUsize,
    /// One of them is rejected, and the delivery with it.
    is_rejected: AtomicBool,
    /// Counts the delivery for as long as this is kept.
    _counted: Arc<()>,
}

impl Unsettled {
    /// Each of the delivery's requests is to be settled once.
    pub(super) fn new(control: Arc<dyn Control>, tag: u64, requests: usize, served: &Served) -> Self {
        Self(Arc::new(Shipment {
            control,
            tag,
            requests: AtomicUsize::new(requests),
            is_rejected: AtomicBool::new(false),
            _counted: Arc::clone(&served.0.deliveries),
        }))
    }

    /// The request is done with; with the last one, the delivery is.
    pub(super) fn settle(self) {
        let Shipment {
            control,
            tag,
            requests,
            is_rejected,
            ..
        } = &*self.0;
        if requests.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        match is_rejected.load(Ordering::Relaxed) {
            true => control.reject(*tag),
            false => control.settle(*tag),
        }
    }

    /// The request is rejected: once the last of the delivery is done with, the delivery is.
    pub(super) fn reject(self) {
        // Ordered by the count of requests.
        self.0.is_rejected.store(true, Ordering::Relaxed);
        self.settle();
    }

    /// Whether it came by this subscription.
    pub(super) fn is_of(&self, control: &Arc<dyn Control>) -> bool {
        Arc::ptr_eq(&self.0.control, control)
    }
}

/// How many requests of a line are served at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Served(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    requests: AtomicUsize,
    /// Shared with each delivery that is not settled.
    deliveries: Arc<()>,
    none_left: Notify,
    /// The requests that a queue's worker recognises if they come again, with their unsettled deliveries.

    /// A request will not be answered here.
    given_up: Notify,
}

impl Served {
    pub(super) fn count(&self) -> usize {
        self.0.requests.load(Ordering::Acquire)
    }

    /// How many deliveries are not settled.
    pub(super) fn deliveries(&self) -> usize {
        Arc::strong_count(&self.0.deliveries) - 1
    }

    /// Waits until none is served. Cancel safe.
    pub(super) async fn ends(&self) {
        loop {
            let none_left = self.0.none_left.notified();
            if self.count() == 0 {
                return;
            }
            none_left.await;
        }
    }

    /// Waits until a request of the line was given up: it is to be delivered again, once its subscription is over. Cancel safe.
    pub(super) async fn gave_up(&self) {
        self.0.given_up.notified().await;
    }

    fn more(&self, requests: usize) {
        self.0.requests.fetch_add(requests, Ordering::AcqRel);
    }

    fn fewer(&self, requests: usize) {
        if requests > 0 && self.0.requests.fetch_sub(requests, Ordering::AcqRel) == requests {
            self.0.none_left.notify_waiters();
        }
    }
}

/// The requests that a queue's worker recognises if they come again, with their unsettled deliveries.
#[derive(Debug, Default)]
pub(super) struct KnownRequests(Mutex<Runs<Unsettled>>);

impl KnownRequests {
    pub(super) fn lock(&self) -> MutexGuard<'_, Runs<Unsettled>> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request owes.
#[derive(Debug)]
pub(super) enum Owed {
    /// To all deliveries of the run of that name: another run may have the same name once it is paid.
    Run(Key),
    /// To this delivery alone.
    Apart(Unsettled),
}

/// Requests that are served. Dropped before they were paid, their runs are forgotten, and their line has the broker deliver them again.
pub(super) struct Debt {
    known: Arc<KnownRequests>,
    served: Served,
    owed: Vec<Owed>,
}

impl Debt {
    /// Of no request yet.
    pub(super) fn none(known: &Arc<KnownRequests>, served: &Served) -> Self {
        Self {
            known: Arc::clone(known),
            served: served.clone(),
            owed: Vec::new(),
        }
    }

    /// Of one request.
    pub(super) fn of(known: &Arc<KnownRequests>, served: &Served, owed: Owed) -> Self {
        let mut debt = Self::none(known, served);
        debt.add(owed);
        debt
    }

    /// How many requests of the same line are served.
    pub(super) fn all_served(&self) -> usize {
        self.served.count()
    }

    /// One more request is served.
    pub(super) fn add(&mut self, owed: Owed) {
        self.served.more(1);
        self.owed.push(owed);
    }

    /// The requests of another debt are owed here.
    pub(super) fn add_all(&mut self, mut other: Self) {
        self.owed.append(&mut other.owed);
    }

    /// The request that was added last, by itself.
    pub(super) fn split_last(&mut self) -> Self {
        let last = self.owed.pop();
        Self {
            owed: last.into_iter().collect(),
            known: Arc::clone(&self.known),
            served: self.served.clone(),
        }
    }

    /// Each request by itself, in the order in which they were added.
    pub(super) fn split(mut self) -> impl Iterator<Item = Self> {
        let owed = std::mem::take(&mut self.owed);
        owed.into_iter().map(move |owed| Self {
            owed: vec![owed],
            known: Arc::clone(&self.known),
            served: self.served.clone(),
        })
    }

    /// The requests are about to be sent on to a queue, from which their copies come.
    pub(super) fn send_on(&self) {
        let mut runs = self.known.lock();
        for key in self.runs() {
            runs.send_on(key);
        }
    }

    fn runs(&self) -> impl Iterator<Item = &Key> {
        self.owed.iter().filter_map(|owed| match owed {
            Owed::Run(key) => Some(key),
            Owed::Apart(_) => None,
        })
    }

    /// The broker has the answers, or there are none to come: settles all deliveries of the requests.
    pub(super) fn pay(self) {
        self.end(Unsettled::settle);
    }

    /// The requests are refused, and there is nobody to tell: rejects all their deliveries, so that a
    /// dead-letter queue keeps them.
    pub(super) fn reject(self) {
        {
            let mut runs = self.known.lock();
            for key in self.runs() {
                runs.reject(key);
            }
        }
        self.end(Unsettled::reject);
    }

    fn end(mut self, settle: fn(Unsettled)) {
        let owed = std::mem::take(&mut self.owed);
        let requests = owed.len();
        let deliveries = {
            let mut runs = self.known.lock();
            let mut deliveries = Vec::with_capacity(requests);
            for owed in owed {
                match owed {
                    Owed::Run(key) => deliveries.extend(runs.ended(key)),
                    Owed::Apart(delivery) => deliveries.push(delivery),
                }
            }
            deliveries
        };
        deliveries.into_iter().for_each(settle);
        self.served.fewer(requests);
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        {
            let mut runs = self.known.lock();
            for key in self.runs() {
                runs.given_up(key);
            }
        }
        self.served.fewer(self.owed.len());
        self.served.0.given_up.notify_one();
    }
}

impl fmt::Debug for Debt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debt")
            .field("requests", &self.owed.len())
            .finish_non_exhaustive()
    }
}
