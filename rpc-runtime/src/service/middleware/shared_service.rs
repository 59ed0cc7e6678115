//! A service of any type that its clones share.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::BoxFuture;
use tower_service::Service;

use super::BoxError;

/// A service of any type. All its clones use the same instance.
///
/// A layer such as `Retry` clones the service that it wraps, and a layer such as `LoadShed` asks it
/// whether it is ready. This type serves both, for a service that is not `Clone` too: a clone that
/// learns that the service is ready has the service for itself until it makes its call or is
/// dropped.
pub(crate) struct SharedService<Q, R> {
    shared: Arc<dyn Share<Q, R>>,
    clone: CloneId,
}

/// Distinguishes the clones of one service.
type CloneId = u64;

impl<Q, R> SharedService<Q, R> {
    pub(crate) fn new<S>(service: S) -> Self
    where
        S: Service<Q, Response = R, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static,
    {
        Self::of(Arc::new(Shared {
            next_clone: AtomicU64::default(),
            waiting: Arc::default(),
            state: Mutex::new(State {
                service,
                reserved_by: None,
            }),
        }))
    }

    fn of(shared: Arc<dyn Share<Q, R>>) -> Self {
        Self {
            clone: shared.new_clone_id(),
            shared,
        }
    }
}

impl<Q, R> Service<Q> for SharedService<Q, R> {
    type Response = R;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<R, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.shared.poll_ready(self.clone, cx)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        self.shared.call(request)
    }
}

impl<Q, R> Clone for SharedService<Q, R> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.shared))
    }
}

impl<Q, R> Drop for SharedService<Q, R> {
    fn drop(&mut self) {
        self.shared.remove_clone(self.clone);
    }
}

impl<Q, R> fmt::Debug for SharedService<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedService").finish_non_exhaustive()
    }
}

/// A [`Shared`] service, without its type.
trait Share<Q, R>: Send + Sync {
    fn new_clone_id(&self) -> CloneId;
    fn remove_clone(&self, clone: CloneId);
    fn poll_ready(&self, clone: CloneId, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;
    fn call(&self, request: Q) -> BoxFuture<'static, Result<R, BoxError>>;
}

struct Shared<S> {
    next_clone: AtomicU64,
    waiting: Arc<Waiting>,
    state: Mutex<State<S>>,
}

struct State<S> {
    service: S,
    /// The clone that was told that the service is ready.
    reserved_by: Option<CloneId>,
}

impl<S> Shared<S> {
    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q, R, S> Share<Q, R> for Shared<S>
where
    S: Service<Q, Response = R, Error: Into<BoxError>, Future: Send + 'static> + Send,
{
    fn new_clone_id(&self) -> CloneId {
        self.next_clone.fetch_add(1, Ordering::Relaxed)
    }

    fn remove_clone(&self, clone: CloneId) {
        self.waiting.remove(clone);
        let mut state = self.state();
        if state.reserved_by == Some(clone) {
            state.reserved_by = None;
            drop(state);
            self.waiting.wake_all();
        }
    }

    fn poll_ready(&self, clone: CloneId, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Added before the service is asked, so that no wake-up is lost.
        self.waiting.add(clone, cx.waker());
        let mut state = self.state();
        if state.reserved_by.is_some_and(|other| other != clone) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.waiting));
        let Poll::Ready(ready) = state.service.poll_ready(&mut Context::from_waker(&waker)) else {
            return Poll::Pending;
        };
        self.waiting.remove(clone);
        state.reserved_by = ready.is_ok().then_some(clone);
        drop(state);
        if ready.is_err() {
            self.waiting.wake_all();
        }
        Poll::Ready(ready.map_err(Into::into))
    }

    fn call(&self, request: Q) -> BoxFuture<'static, Result<R, BoxError>> {
        // Wakes the waiting clones once the lock is released, even if the service panics.
        let _wake_others = WakeAllOnDrop(&self.waiting);
        let mut state = self.state();
        state.reserved_by = None;
        let outcome = state.service.call(request);
        drop(state);
        Box::pin(async { outcome.await.map_err(Into::into) })
    }
}

/// The tasks that wait for the service. Each change wakes them all, because some no longer wait:
/// `LoadShed` asks once for each call.
#[derive(Debug, Default)]
struct Waiting(Mutex<HashMap<CloneId, Waker>>);

impl Waiting {
    fn wakers(&self) -> MutexGuard<'_, HashMap<CloneId, Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, clone: CloneId, waker: &Waker) {
        self.wakers().insert(clone, waker.clone());
    }

    fn remove(&self, clone: CloneId) {
        self.wakers().remove(&clone);
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.wakers());
        wakers.into_values().for_each(Waker::wake);
    }
}

struct WakeAllOnDrop<'a>(&'a Waiting);

impl Drop for WakeAllOnDrop<'_> {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, poll_fn, ready};
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::timeout;
    use tower::ServiceExt;
    use tower::limit::{ConcurrencyLimit, RateLimit, rate::Rate};

    use super::*;

    type Doubler = SharedService<u32, u32>;

    /// Doubles a number once it is told to.
    fn doubling(
        gate: &Arc<tokio::sync::Semaphore>,
    ) -> impl Service<u32, Response = u32, Error = BoxError, Future: Send + 'static> + Clone + Send + 'static
    {
        let gate = Arc::clone(gate);
        tower::service_fn(move |number: u32| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await?.forget();
                Ok::<_, BoxError>(number * 2)
            }
        })
    }

    async fn is_ready(service: &mut Doubler) -> bool {
        poll_fn(|cx| Poll::Ready(service.poll_ready(cx).is_ready())).await
    }

    #[tokio::test]
    async fn clones_see_when_the_one_service_is_ready() {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let mut first = Doubler::new(ConcurrencyLimit::new(doubling(&gate), 1));
        let mut second = first.clone();
        assert!(is_ready(&mut first).await);
        assert!(!is_ready(&mut second).await, "the first has it");
        let call = first.call(1);
        assert!(!is_ready(&mut second).await, "one call at a time");
        let waiting = tokio::spawn(second.oneshot(2));
        gate.add_permits(2);
        assert_eq!(call.await.unwrap(), 2);
        assert_eq!(waiting.await.unwrap().unwrap(), 4);
    }

    #[tokio::test]
    async fn a_clone_that_is_dropped_leaves_the_service_to_the_others() {
        let gate = Arc::new(tokio::sync::Semaphore::new(1));
        let mut first = Doubler::new(doubling(&gate));
        assert!(is_ready(&mut first).await);
        let second = tokio::spawn(first.clone().oneshot(1));
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert_eq!(second.await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn a_clone_that_asks_once_delays_no_other() {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let mut first = Doubler::new(ConcurrencyLimit::new(doubling(&gate), 1));
        assert!(is_ready(&mut first).await);
        let call = first.call(1);
        let mut asks_once = first.clone();
        assert!(!is_ready(&mut asks_once).await);
        let waiting = tokio::spawn(first.clone().oneshot(2));
        tokio::task::yield_now().await;
        gate.add_permits(2);
        call.await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_not_clone_is_shared_too() {
        let gate = Arc::new(tokio::sync::Semaphore::new(100));
        let rate = Rate::new(1, Duration::from_secs(1));
        let service = Doubler::new(RateLimit::new(doubling(&gate), rate));
        let calls = (0..3).map(|number| tokio::spawn(service.clone().oneshot(number)));
        let started = tokio::time::Instant::now();
        for call in calls.collect::<Vec<_>>() {
            timeout(Duration::from_secs(10), call)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
        }
        assert!(started.elapsed() >= Duration::from_secs(2));
    }

    /// Fails when it is asked whether it is ready, once it is told to.
    struct Failing(Arc<Mutex<(bool, Option<Waker>)>>);

    impl Service<u32> for Failing {
        type Response = u32;
        type Error = BoxError;
        type Future = Ready<Result<u32, BoxError>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            let mut state = self.0.lock().unwrap();
            if state.0 {
                return Poll::Ready(Err("broken".into()));
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        }

        fn call(&mut self, number: u32) -> Self::Future {
            ready(Ok(number))
        }
    }

    #[tokio::test]
    async fn all_that_wait_learn_that_the_service_has_failed() {
        let state = Arc::new(Mutex::new((false, None)));
        let service = Doubler::new(Failing(Arc::clone(&state)));
        let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(service.clone().oneshot(1))).collect();
        tokio::task::yield_now().await;
        let waker = {
            let mut state = state.lock().unwrap();
            state.0 = true;
            state.1.take()
        };
        waker.unwrap().wake();
        for call in waiting {
            assert_eq!(call.await.unwrap().unwrap_err().to_string(), "broken");
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicU64);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_service_that_panics_can_be_called_again() {
        let mut calls = 0;
        let service = tower::service_fn(move |number: u32| {
            calls += 1;
            assert!(calls > 1, "the first call panics");
            ready(Ok::<_, Infallible>(number))
        });
        let mut service = Doubler::new(service);
        let mut clone = service.clone();
        poll_fn(|cx| service.poll_ready(cx))
            .now_or_never()
            .unwrap()
            .unwrap();
        let wakes = Arc::<Wakes>::default();
        let waker = Waker::from(Arc::clone(&wakes));
        assert!(clone.poll_ready(&mut Context::from_waker(&waker)).is_pending());
        let call = std::panic::AssertUnwindSafe(|| service.call(1));
        assert!(std::panic::catch_unwind(call).is_err());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        poll_fn(|cx| clone.poll_ready(cx))
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(clone.call(2).now_or_never().unwrap().unwrap(), 2);
    }
}
