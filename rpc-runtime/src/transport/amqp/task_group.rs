//! The background tasks of a transport.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks that run on one runtime and end together.
#[derive(Debug, Clone)]
pub(super) struct TaskGroup {
    tracker: TaskTracker,
    runtime: Handle,
    /// Cancelled when the tasks are to end. Each task has to watch this itself.
    pub(super) ending: CancellationToken,
}

impl TaskGroup {
    pub(super) fn new(runtime: &Handle) -> Self {
        Self {
            tracker: TaskTracker::new(),
            runtime: runtime.clone(),
            ending: CancellationToken::new(),
        }
    }

    /// Starts a task on the group's runtime, from whichever runtime this is called. The task is
    /// dropped at once if the group's runtime has ended.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_on(task, &self.runtime)
    }

    /// Tells the tasks to end, and waits until they have. Aborts none of them.
    pub(super) async fn end(&self) {
        self.ending.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
