//! What is owed for a request: to settle its deliveries once the broker has its answer, and not before.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::runs::Key;
use super::serve::Desk;
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
}

impl Unsettled {
    /// Each of the delivery's requests is to be settled once.
    pub(super) fn new(control: Arc<dyn Control>, tag: u64, requests: usize) -> Self {
        Self(Arc::new(Shipment {
            control,
            tag,
            requests: AtomicUsize::new(requests),
        }))
    }

    /// The request is done with; with the last one, the delivery is.
    pub(super) async fn settle(self) {
        let Shipment {
            control,
            tag,
            requests,
        } = &*self.0;
        if requests.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if let Err(error) = control.settle(*tag).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "a request was not settled: it will come again");
        }
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
    none_left: Notify,
}

impl Served {
    pub(super) fn count(&self) -> usize {
        self.0.requests.load(Ordering::Acquire)
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

    /// One more, until it is dropped.
    fn one_more(&self) -> OneServed {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        OneServed(self.clone())
    }
}

#[derive(Debug)]
struct OneServed(Served);

impl Drop for OneServed {
    fn drop(&mut self) {
        let Served(count) = &self.0;
        if count.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            count.none_left.notify_waiters();
        }
    }
}

/// A request that is served. Dropped before it was paid, the run is forgotten, and what was delivered comes again.
pub(super) struct Debt {
    desk: Arc<Desk>,
    owed: Owed,
    _served: OneServed,
}

enum Owed {
    /// By the run of that name, to all its deliveries: another run may have the same name once it is paid.
    Run(Key),
    /// To this delivery alone.
    Apart(Unsettled),
    Nothing,
}

impl Debt {
    pub(super) fn of_run(desk: &Arc<Desk>, served: &Served, key: Key) -> Self {
        Self::new(desk, served, Owed::Run(key))
    }

    pub(super) fn apart(desk: &Arc<Desk>, served: &Served, unsettled: Unsettled) -> Self {
        Self::new(desk, served, Owed::Apart(unsettled))
    }

    fn new(desk: &Arc<Desk>, served: &Served, owed: Owed) -> Self {
        Self {
            desk: Arc::clone(desk),
            owed,
            _served: served.one_more(),
        }
    }

    pub(super) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// The request is about to be sent on to a queue, from which it comes again: as another, if it comes here.
    pub(super) fn send_on(&self) {
        if let Owed::Run(key) = &self.owed {
            self.desk.runs().send_on(key);
        }
    }

    /// The broker has the answer, or there is none to come: settles all deliveries of the request.
    pub(super) async fn pay(mut self) {
        match std::mem::replace(&mut self.owed, Owed::Nothing) {
            Owed::Run(key) => {
                let deliveries = self.desk.runs().ended(key);
                for delivery in deliveries {
                    delivery.settle().await;
                }
            }
            Owed::Apart(delivery) => delivery.settle().await,
            Owed::Nothing => {}
        }
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        if let Owed::Run(key) = &self.owed {
            self.desk.runs().given_up(key);
        }
    }
}

impl fmt::Debug for Debt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debt").finish_non_exhaustive()
    }
}
