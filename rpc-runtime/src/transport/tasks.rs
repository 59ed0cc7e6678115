//! Background tasks: what happens if one panics, or if their runtime ends.
//!
//! Every task has an owner that notices its end. A panic is a bug, and must not leave behind a
//! handle that looks fine and does nothing: [`catch_panic`] reports the panic to the owner, and
//! [`restart_on_panic`] starts the task again.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Weak;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::status::StatusBoard;
use crate::error::BrokerError;

/// A task panicked. The panic's message is not kept: the panic hook has printed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked {
    /// The task's name.
    pub(crate) task: &'static str,
}

impl From<Panicked> for BrokerError {
    fn from(Panicked { task }: Panicked) -> Self {
        Self::Panicked { task }
    }
}

/// Runs a task within the current one, and catches and logs a panic in it.
///
/// # Errors
///
/// Fails if the task panicked. Everything that it owned is dropped.
pub(crate) async fn catch_panic<T>(
    task: &'static str,
    running: impl Future<Output = T>,
) -> Result<T, Panicked> {
    let mut running = pin!(running);
    let polling = poll_fn(move |cx| {
        #[cfg(any(test, feature = "__panics"))]
        injected::panic_if_due(task);
        running.as_mut().poll(cx)
    });
    AssertUnwindSafe(polling).catch_unwind().await.map_err(|_| {
        tracing::error!(task, "a background task panicked");
        Panicked { task }
    })
}

/// Runs a task until it ends. If it panics, runs another one from `make` after a delay.
pub(crate) async fn restart_on_panic<T, F: Future<Output = T>>(
    task: &'static str,
    mut make: impl FnMut() -> F,
) -> T {
    let mut backoff = Backoff::new();
    loop {
        let since = Instant::now();
        if let Ok(ended) = catch_panic(task, make()).await {
            return ended;
        }
        backoff.worked_for(since.elapsed());
        backoff.wait().await;
    }
}

/// Makes the board report that the runtime ended, if that happens before `handle_ends` is
/// cancelled. The runtime cannot be asked, but it drops its tasks when it ends.
pub(crate) fn watch_runtime(runtime: &Handle, board: Weak<StatusBoard>, handle_ends: CancellationToken) {
    let reporter = RuntimeEndReporter(board);
    runtime.spawn(async move {
        handle_ends.cancelled().await;
        reporter.disarm();
    });
}

/// Held by a task that lives as long as its handle. If it is dropped before
/// [`disarm`](Self::disarm), only the ending runtime can have dropped it.
#[derive(Debug)]
struct RuntimeEndReporter(Weak<StatusBoard>);

impl RuntimeEndReporter {
    /// Drops the reporter without a report.
    fn disarm(mut self) {
        self.0 = Weak::new();
    }
}

impl Drop for RuntimeEndReporter {
    fn drop(&mut self) {
        if let Some(board) = self.0.upgrade() {
            board.runtime_ended();
        }
    }
}

/// Panics that tests inject into tasks.
#[cfg(any(test, feature = "__panics"))]
pub mod injected {
    use std::cell::RefCell;

    thread_local! {
        /// The tasks whose next poll on this thread panics.
        static DUE: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// Makes the next poll of a task with this name on this thread panic.
    pub fn panic_next(task: &'static str) {
        DUE.with_borrow_mut(|due| due.push(task));
    }

    /// Whether an injected panic has not happened yet.
    #[must_use]
    pub fn has_pending() -> bool {
        DUE.with_borrow(|due| !due.is_empty())
    }

    /// Removes the injected panics that have not happened yet.
    pub fn clear() {
        DUE.with_borrow_mut(Vec::clear);
    }

    pub(super) fn panic_if_due(task: &str) {
        let is_due = DUE.with_borrow_mut(|due| {
            let position = due.iter().position(|name| *name == task);
            position.map(|position| due.swap_remove(position)).is_some()
        });
        if is_due {
            // Unwinds like a panic, but does not call the panic hook, which prints a message.
            std::panic::resume_unwind(Box::new("injected"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::super::status::{Connectivity, Status};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_restarted_until_it_ends() {
        let runs = Cell::new(0);
        let ended = restart_on_panic("test", || async {
            runs.set(runs.get() + 1);
            if runs.get() < 3 {
                std::panic::resume_unwind(Box::new("planned"));
            }
            runs.get()
        });
        assert_eq!(ended.await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_always_panics_is_restarted_every_second_or_two() {
        let runs = Cell::new(0);
        let failing = restart_on_panic("test", || async {
            runs.set(runs.get() + 1);
            std::panic::resume_unwind(Box::new("planned"))
        });
        let failing = tokio::time::timeout(std::time::Duration::from_secs(60), failing);
        assert!(failing.await.map(|(): ()| ()).is_err());
        assert!((30..80).contains(&runs.get()), "{}", runs.get());
    }

    #[tokio::test]
    async fn an_injected_panic_hits_the_task_of_its_name_once() {
        injected::panic_next("one");
        assert_eq!(catch_panic("other", async { 1 }).await, Ok(1));
        assert!(injected::has_pending());
        assert_eq!(
            catch_panic("one", async { 1 }).await,
            Err(Panicked { task: "one" })
        );
        assert!(!injected::has_pending());
        assert_eq!(catch_panic("one", async { 1 }).await, Ok(1));
    }

    /// The status of a board whose runtime has ended.
    fn after_runtime(handle_ends_first: bool) -> Status {
        let board = Arc::new(StatusBoard::new(&Connectivity::Up));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle_ends = CancellationToken::new();
        watch_runtime(runtime.handle(), Arc::downgrade(&board), handle_ends.clone());
        if handle_ends_first {
            handle_ends.cancel();
            // Lets the task run and end.
            runtime.block_on(tokio::task::yield_now());
        }
        drop(runtime);
        board.status()
    }

    #[test]
    fn the_board_reports_the_end_of_the_runtime_unless_the_handle_ended_before() {
        assert!(matches!(after_runtime(false), Status::RuntimeEnded));
        assert!(after_runtime(true).is_ready());
    }
}
