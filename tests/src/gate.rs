//! A gate that holds handlers until the test opens it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a test waits for an event that must happen.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits for an event that must happen. Panics if it does not within [`SOON`].
pub async fn soon<T>(what: &str, happening: impl Future<Output = T>) -> T {
    match timeout(SOON, happening).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {SOON:?}"),
    }
}

/// Counts handlers as they arrive, and holds them until the test lets them pass.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A permit for each handler that has arrived and that no test has waited for.
    began: Semaphore,
    /// A permit for each handler that may pass.
    may_end: Semaphore,
    inside: AtomicUsize,
    most_inside: AtomicUsize,
}

impl Gate {
    /// Creates a closed gate.
    pub fn closed() -> Self {
        Self(Arc::new(Inner {
            began: Semaphore::new(0),
            may_end: Semaphore::new(0),
            inside: AtomicUsize::new(0),
            most_inside: AtomicUsize::new(0),
        }))
    }

    /// Creates an open gate.
    pub fn open() -> Self {
        let gate = Self::closed();
        gate.let_all_go();
        gate
    }

    /// Waits until the test lets this handler pass. If it is cancelled here, it stays counted in
    /// [`most_inside`](Self::most_inside).
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

    /// Waits until this many handlers have arrived besides those that were waited for before.
    pub async fn began(&self, handlers: u32) {
        soon("handlers begin", self.0.began.acquire_many(handlers))
            .await
            .expect("gates are never removed")
            .forget();
    }

    /// Lets this many handlers pass, those first that arrived first. Later ones pass if fewer wait.
    pub fn let_go(&self, handlers: usize) {
        self.0.may_end.add_permits(handlers);
    }

    /// Lets all handlers pass, now and later.
    pub fn let_all_go(&self) {
        // More than any test uses, and few enough for others to be added.
        self.0.may_end.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Returns the greatest number of handlers that were at the gate at the same time.
    pub fn most_inside(&self) -> usize {
        self.0.most_inside.load(Ordering::SeqCst)
    }
}
