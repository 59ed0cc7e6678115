//! A stack of layers that many share.

use tokio::sync::Mutex;
use tower_service::Service;

/// Layers around a service, used by many calls at once.
///
/// tower's contract is that a service is asked whether it is ready, and then called, by one at a time. The lock is held for
/// no longer than that, and it is fair: who came first is served first.
pub(crate) struct Stack<S>(Mutex<S>);

impl<S> Stack<S> {
    pub(crate) fn new(service: S) -> Self {
        Self(Mutex::new(service))
    }

    /// Waits until the layers are ready, and hands them the request. The future that is returned is the rest of the way.
    ///
    /// Cancel safe: a service that was found ready stays so for the next call.
    pub(crate) async fn begin<R>(&self, request: R) -> Result<S::Future, S::Error>
    where
        S: Service<R>,
    {
        let mut service = self.0.lock().await;
        std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
        Ok(service.call(request))
    }
}
