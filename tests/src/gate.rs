//! A gate that handlers wait at, so that a test decides when they end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a test waits for what is bound to happen.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits for what is bound to happen, and fails the test where it does not.
pub async fn soon<T>(what: &str, happening: impl Future<Output = T>) -> T {
    match timeout(SOON, happening).await {
        Ok(value) => value,
        Err(_) => panic!("waited {SOON:?} in vain: {what}"),
    }
}

/// Tells when handlers begin, holds them until the test lets them go, and counts those in between.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Semaphore,
    may_end: Semaphore,
    inside: AtomicUsize,
    most_inside: AtomicUsize,
}

impl Gate {
    /// A gate that holds whoever comes.
    pub fn closed() -> Self {
        Self(Arc::new(Inner {
            began: Semaphore::new(0),
            may_end: Semaphore::new(0),
            inside: AtomicUsize::new(0),
            most_inside: AtomicUsize::new(0),
        }))
    }

    /// A gate that holds nobody.
    pub fn open() -> Self {
        let gate = Self::closed();
        gate.let_all_go();
        gate
    }

    /// A handler waits here until it is let go.
    pub async fn pass(&self) {
        let inside = self.0.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_inside.fetch_max(inside, Ordering::SeqCst);
        self.0.began.add_permits(1);
        self.0
            .may_end
            .acquire()
            .await
            .expect("gates are never removed")
            .forget();
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until so many more handlers have come to the gate.
    pub async fn began(&self, handlers: u32) {
        soon("handlers begin", self.0.began.acquire_many(handlers))
            .await
            .expect("gates are never removed")
            .forget();
    }

    /// Lets so many handlers go.
    pub fn let_go(&self, handlers: usize) {
        self.0.may_end.add_permits(handlers);
    }

    /// Lets all handlers go, also those that are still to come.
    pub fn let_all_go(&self) {
        self.0.may_end.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// The most handlers that were at the gate at once.
    pub fn most_inside(&self) -> usize {
        self.0.most_inside.load(Ordering::SeqCst)
    }
}
