//! A stack of layers that concurrent requests share.

use tokio::sync::Mutex;
use tower_service::Service;

/// Layers around a service that many requests use at once.
///
/// tower requires that a caller polls a service until it is ready and then calls it, without
/// another caller in between. The lock is held for that long only. It is fair, so requests are
/// served in their order.
pub(crate) struct Stack<S>(Mutex<S>);

impl<S> Stack<S> {
    pub(crate) fn new(service: S) -> Self {
        Self(Mutex::new(service))
    }

    /// Waits until the layers are ready and calls them. Returns the future of the call.
    ///
    /// Cancel safe: a service that is ready stays ready for the next call.
    pub(crate) async fn begin<R>(&self, request: R) -> Result<S::Future, S::Error>
    where
        S: Service<R>,
    {
        let mut service = self.0.lock().await;
        std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
        Ok(service.call(request))
    }
}
