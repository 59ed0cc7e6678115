//! Checks whether a queue exists. Concurrent calls share one check.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

/// How long a result is reused, unless the queue does not exist.
const VALID_FOR: Duration = Duration::from_secs(1);

/// How long the result that the queue does not exist is reused. That is also the result if the
/// broker does not answer, as RabbitMQ 4 if the queue's node is down. Such a check ends soon, but
/// holds a channel until the broker answers after all, which may take more than a minute.
const MISSING_VALID_FOR: Duration = Duration::from_secs(10);

/// A check that is running. Its result is `None` if it is unknown whether the queue exists.
type Check = Shared<BoxFuture<'static, Option<bool>>>;

/// Whether a queue exists, according to the last check.
#[derive(Default)]
pub(super) struct QueueCheck(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unchecked,
    Checking(Check),
    Checked {
        at: Instant,
        exists: Option<bool>,
    },
}

impl QueueCheck {
    /// Returns whether the queue exists; `None` if that is unknown. Begins a check with `start`,
    /// unless one is running or the last result is still valid.
    ///
    /// Cancel safe: another call of this function continues the check. Nothing else does.
    pub(super) async fn exists(
        &self,
        start: impl FnOnce() -> BoxFuture<'static, Option<bool>>,
    ) -> Option<bool> {
        let check = match self.known_or_check(start) {
            ControlFlow::Continue(check) => check,
            ControlFlow::Break(exists) => return exists,
        };
        let exists = check.clone().await;
        let mut state = self.lock();
        // Another caller that waited for the check may have stored its result, and a new check may
        // have begun since.
        if matches!(&*state, State::Checking(current) if current.ptr_eq(&check)) {
            let at = Instant::now();
            *state = State::Checked { at, exists };
        }
        exists
    }

    /// Breaks with the last result if it is still valid. Otherwise returns the check to wait for:
    /// the one that is running, or a new one.
    fn known_or_check(
        &self,
        start: impl FnOnce() -> BoxFuture<'static, Option<bool>>,
    ) -> ControlFlow<Option<bool>, Check> {
        let mut state = self.lock();
        match &*state {
            State::Checking(check) => return ControlFlow::Continue(check.clone()),
            State::Checked { at, exists } if at.elapsed() < valid_for(*exists) => {
                return ControlFlow::Break(*exists);
            }
            State::Unchecked | State::Checked { .. } => {}
        }
        let check = start().shared();
        *state = State::Checking(check.clone());
        ControlFlow::Continue(check)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the result of a check is reused. It is `None` if the broker did not tell.
fn valid_for(exists: Option<bool>) -> Duration {
    match exists {
        Some(false) => MISSING_VALID_FOR,
        Some(true) | None => VALID_FOR,
    }
}

impl fmt::Debug for QueueCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueueCheck")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_check_goes_on_when_the_calls_that_wait_for_it_are_dropped() {
        let check = QueueCheck::default();
        let started = Cell::new(0);
        let start = || {
            started.set(started.get() + 1);
            async {
                sleep(Duration::from_secs(2)).await;
                Some(false)
            }
            .boxed()
        };
        for _ in 0..30 {
            let checked = timeout(Duration::from_millis(50), check.exists(start)).await;
            assert!(checked.is_err());
        }
        assert_eq!(check.exists(start).await, Some(false));
        sleep(MISSING_VALID_FOR / 2).await;
        assert_eq!(check.exists(start).await, Some(false));
        assert_eq!(started.get(), 1);
        sleep(MISSING_VALID_FOR).await;
        assert_eq!(check.exists(start).await, Some(false));
        assert_eq!(started.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_exists_is_checked_again_after_a_second() {
        let check = QueueCheck::default();
        assert_eq!(check.exists(|| async { Some(true) }.boxed()).await, Some(true));
        assert_eq!(check.exists(|| async { None }.boxed()).await, Some(true));
        sleep(VALID_FOR).await;
        assert_eq!(check.exists(|| async { None }.boxed()).await, None);
    }
}
