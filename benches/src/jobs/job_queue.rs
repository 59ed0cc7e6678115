//! What is measured: a queue with jobs, and those that are done.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{sleep, timeout};

use crate::load::Caller;

/// How long the jobs of one measurement may take to be done.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Counts the jobs that were done.
#[derive(Debug, Default)]
pub(super) struct Done(AtomicU64);

impl Done {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until this many jobs were done.
    pub(super) async fn reaches(&self, jobs: u64) -> anyhow::Result<()> {
        let waiting = async {
            while self.get() < jobs {
                sleep(Duration::from_micros(200)).await;
            }
        };
        timeout(LIMIT, waiting)
            .await
            .with_context(|| format!("{} of {jobs} jobs were done within {LIMIT:?}", self.get()))
    }
}

/// A way to hand out jobs and to do them. Its queue and its jobs survive a restart of the broker.
pub(super) trait JobQueue: Sized {
    /// Sends a job and waits until the broker has confirmed it. There is no reply, so it returns
    /// the size of the job's payload.
    type Caller: Caller;

    /// Connects to the broker. Declares a queue, unless the first worker does. `done` counts the
    /// jobs that workers do.
    fn open(broker: &str, done: &Arc<Done>) -> impl Future<Output = anyhow::Result<Self>>;

    fn caller(&self) -> Self::Caller;

    /// Starts the worker, which acknowledges each job once it is done.
    fn start_worker(&mut self) -> impl Future<Output = anyhow::Result<()>>;

    /// Stops the worker once it has done the jobs that were delivered to it.
    fn stop_worker(&mut self) -> impl Future<Output = anyhow::Result<()>>;

    /// Closes the connections. Deletes the queue, or leaves that to its expiry.
    fn close(self) -> impl Future<Output = anyhow::Result<()>>;
}
