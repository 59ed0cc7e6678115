//! Channels that are closed before they are dropped.
//!
//! lapin closes a dropped channel and cancels a dropped consumer in the background, and takes it for a failure of the
//! whole connection where that meets with another close (its 4.12). So nothing here that is open is simply dropped:
//! a task of the transport closes it first.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use lapin::{Channel, Consumer};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::CLOSE_LIMIT;

/// The tasks of a transport, and the word for them to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    pub(super) ending: CancellationToken,
}

impl Tasks {
    /// Tells the tasks to end, and waits until they have.
    pub(super) async fn end(&self) {
        self.ending.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// An open channel.
pub(super) struct OpenChannel {
    channel: Channel,
    tasks: Tasks,
}

impl OpenChannel {
    pub(super) fn new(channel: Channel, tasks: &Tasks) -> Self {
        Self {
            channel,
            tasks: tasks.clone(),
        }
    }

    /// Closes the channel, within a limit; what it had not settled goes back to its queue.
    pub(super) async fn close(&self) {
        close(&self.channel).await;
    }

    /// Closes the channel in the background, and keeps something until that is done.
    fn close_then_drop(&self, kept: impl Send + 'static) {
        if !self.channel.status().connected() {
            return;
        }
        // Without a runtime the connection ends too, and takes the channel along.
        if let Ok(runtime) = Handle::try_current() {
            let channel = self.channel.clone();
            let closing = async move {
                close(&channel).await;
                drop(kept);
            };
            self.tasks.tracker.spawn_on(closing, &runtime);
        }
    }
}

async fn close(channel: &Channel) {
    if !channel.status().connected() {
        return;
    }
    match tokio::time::timeout(CLOSE_LIMIT, channel.close(200, "closed by its user".into())).await {
        // An error means that it was closed meanwhile.
        Ok(Ok(()) | Err(_)) => {}
        Err(_) => tracing::debug!("the broker did not close a channel in time"),
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        self.close_then_drop(());
    }
}

impl Deref for OpenChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl fmt::Debug for OpenChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "channel {}", self.channel.id())
    }
}

/// The deliveries of a consumer. Dropping it before their end closes its channel; after it, there may still be some to
/// settle.
pub(super) struct Deliveries {
    /// There until its last delivery.
    consumer: Option<Consumer>,
    channel: Arc<OpenChannel>,
}

impl Deliveries {
    pub(super) fn new(consumer: Consumer, channel: &Arc<OpenChannel>) -> Self {
        Self {
            consumer: Some(consumer),
            channel: Arc::clone(channel),
        }
    }
}

impl Stream for Deliveries {
    type Item = <Consumer as Stream>::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(consumer) = &mut self.consumer else {
            return Poll::Ready(None);
        };
        let next = std::task::ready!(Pin::new(consumer).poll_next(cx));
        if next.is_none() {
            self.consumer = None;
        }
        Poll::Ready(next)
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            self.channel.close_then_drop(consumer);
        }
    }
}
