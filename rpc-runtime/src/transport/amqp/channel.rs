//! Channels that are closed before they are dropped.
//!
//! lapin closes a dropped channel, and cancels a dropped consumer, in the background. If that
//! coincides with another close, lapin treats it as a failure of the whole connection (lapin 4.12).
//! So no open channel or consumer is simply dropped here: a task of the transport closes it first.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use lapin::{Channel, Consumer};
use tokio::sync::{mpsc, watch};

use super::connection::{CLOSE_LIMIT, ConnectionState, OpenConnection, wait_lost};
use super::errors::broker_error;
use super::task_group::TaskGroup;
use super::wire::{ContentChannel, Wire};
use crate::error::BrokerError;
use crate::transport::Delivery;

/// A channel that was opened. The broker may have closed it since then.
pub(super) struct OpenChannel {
    channel: Channel,
    /// The channel's content. Set once it goes past lapin: see [`content`](Self::content).
    content: OnceLock<Arc<ContentChannel>>,
    wire: Arc<Wire>,
    /// The maximum size of a frame, in bytes.
    max_frame: usize,
    connection: watch::Receiver<ConnectionState>,
    tasks: TaskGroup,
    /// How many calls of [`request`](Self::request) are not answered yet.
    pending: Arc<watch::Sender<usize>>,
    /// Whether `channel.close` was sent.
    is_close_sent: Arc<AtomicBool>,
}

impl OpenChannel {
    pub(super) fn new(channel: Channel, connection: &OpenConnection, tasks: &TaskGroup) -> Self {
        Self {
            channel,
            content: OnceLock::new(),
            wire: Arc::clone(connection.wire()),
            max_frame: connection.max_frame(),
            connection: connection.state(),
            tasks: tasks.clone(),
            pending: Arc::default(),
            is_close_sent: Arc::default(),
        }
    }

    /// The channel's content. From the first call on, lapin gets none of it any more, so the
    /// channel must not publish or acknowledge through lapin. Other requests, such as
    /// `basic.consume`, still go through lapin.
    pub(super) fn content(&self) -> &Arc<ContentChannel> {
        self.content.get_or_init(|| {
            let is_open = self.channel.status().connected();
            self.wire.attach(self.channel.id(), self.max_frame, is_open)
        })
    }

    /// The state of the channel's connection.
    pub(super) fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.connection.clone()
    }

    /// Waits for an answer, or until the connection is lost, because lapin leaves some requests
    /// unanswered then.
    pub(super) async fn wait_answer<T>(
        &self,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        tokio::select! {
            biased;
            answer = answer => answer.map_err(broker_error),
            reason = wait_lost(self.connection()) => Err(reason),
        }
    }

    /// Runs an operation of lapin, which sends a request when it is first polled, and waits for the
    /// answer, within a limit. The operation must own the channel. `step` names it in the error
    /// after the limit.
    ///
    /// Neither the limit nor dropping the future withdraws the request: a task waits for the answer
    /// then. Closing the channel waits for it, too.
    pub(super) async fn request<T: Send + 'static>(
        &self,
        limit: Duration,
        step: &'static str,
        operation: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let pending = PendingRequest::new(&self.pending);
        let counted_operation = async move {
            let _pending = pending;
            operation.await
        };
        let request = BrokerRequest::new(counted_operation, self.connection(), &self.tasks);
        match tokio::time::timeout(limit, self.wait_answer(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(BrokerError::Unresponsive { step, limit }),
        }
    }

    /// Closes the channel once all requests are answered. Unacknowledged deliveries go back to
    /// their queue. Gives up after [`CLOSE_LIMIT`]: the channel is then closed when it is dropped.
    pub(super) async fn close(&self) {
        self.closer().close().await;
    }

    fn closer(&self) -> ChannelCloser {
        ChannelCloser {
            channel: self.channel.clone(),
            connection: self.connection(),
            pending: self.pending.subscribe(),
            is_close_sent: Arc::clone(&self.is_close_sent),
        }
    }

    /// Closes the channel in the background, and keeps `kept` until that is done. Only drops `kept`
    /// if the channel is not open.
    fn close_then_drop(&self, kept: impl Send + 'static) {
        // lapin cancels no consumer of a channel that is closed or being closed, so `kept` may be
        // dropped here.
        if !self.channel.status().connected() {
            return;
        }
        // If the runtime has ended, the connection ends too and takes the channel along.
        let (closer, ending) = (self.closer(), self.tasks.ending.clone());
        self.tasks.spawn(async move {
            // Waits without the time limit of `close`, because an answer may take longer.
            tokio::select! {
                () = wait_all_answered(closer.pending.clone()) => {}
                _ = wait_lost(closer.connection.clone()) => {}
                () = ending.cancelled() => {}
            }
            closer.close().await;
            drop(kept);
        });
    }
}

/// Counts one request that is not answered yet.
struct PendingRequest(Arc<watch::Sender<usize>>);

impl PendingRequest {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Waits until all calls of [`OpenChannel::request`] are answered.
async fn wait_all_answered(mut pending: watch::Receiver<usize>) {
    // An error means that the count was dropped, with the last request.
    let _ = pending.wait_for(|pending| *pending == 0).await;
}

/// What closing a channel needs, for a task that may outlive its [`OpenChannel`].
struct ChannelCloser {
    channel: Channel,
    connection: watch::Receiver<ConnectionState>,
    pending: watch::Receiver<usize>,
    is_close_sent: Arc<AtomicBool>,
}

impl ChannelCloser {
    /// Closes the channel. Gives up after [`CLOSE_LIMIT`], or if the connection is lost.
    async fn close(self) {
        let connection = self.connection.clone();
        let closing = async {
            tokio::select! {
                () = self.close_when_answered() => {}
                _ = wait_lost(connection) => {}
            }
        };
        if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
            tracing::debug!("the broker did not close a channel in time");
        }
    }

    /// Waits until all requests are answered, sends `channel.close`, and waits for its answer.
    /// Sends nothing if the channel is not open, or if `channel.close` was sent before.
    ///
    /// The owners of a channel may close it at the same time, and lapin then sends `channel.close`
    /// twice. RabbitMQ closes the connection because of the second one, which names a channel that
    /// is no longer open.
    async fn close_when_answered(self) {
        if !self.channel.status().connected() {
            return;
        }
        wait_all_answered(self.pending).await;
        // lapin sends at the first poll, so the task that sets this flag also sends.
        if !self.is_close_sent.swap(true, Ordering::Relaxed) {
            // An error means that the channel was closed in the meantime.
            let _ = self.channel.close(200, "closed by its user".into()).await;
        }
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

/// A request to the broker that is not answered yet, with the channel that it was sent through.
///
/// A channel must not be closed while an answer is pending. If the broker then refuses the request,
/// both sides close the channel, and lapin treats the broker's `channel.close-ok` as a failure of
/// the whole connection. The answer may take long: RabbitMQ 4 reports only after more than a minute
/// that the node of a classic queue is down. So if this future is dropped early, a task of the
/// transport waits for the answer, and keeps the channel until then, or until the transport ends.
pub(super) struct BrokerRequest<T: Send + 'static> {
    /// `None` once the request is answered.
    answer: Option<BoxFuture<'static, lapin::Result<T>>>,
    connection: watch::Receiver<ConnectionState>,
    tasks: TaskGroup,
}

impl<T: Send + 'static> BrokerRequest<T> {
    /// `answer` must own the channel.
    pub(super) fn new(
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
        connection: watch::Receiver<ConnectionState>,
        tasks: &TaskGroup,
    ) -> Self {
        Self {
            answer: Some(Box::pin(answer)),
            connection,
            tasks: tasks.clone(),
        }
    }
}

impl<T: Send + 'static> Future for BrokerRequest<T> {
    type Output = lapin::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answer) = &mut self.answer else {
            return Poll::Pending;
        };
        let answer = std::task::ready!(answer.as_mut().poll(cx));
        self.answer = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for BrokerRequest<T> {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        // If the runtime has ended, the connection ends too.
        let (connection, ending) = (self.connection.clone(), self.tasks.ending.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                _ = answer => {}
                _ = wait_lost(connection) => {}
                () = ending.cancelled() => {}
            }
        });
    }
}

/// The deliveries of a consumer. Dropping this before they end closes the consumer's channel. After
/// they end the channel stays open, because some deliveries may still have to be acknowledged.
pub(super) struct Deliveries {
    received: mpsc::UnboundedReceiver<Delivery>,
    /// lapin's consumer, which tells when and why the deliveries end. `None` once it has ended
    /// without an error.
    consumer: Option<Consumer>,
    /// Whether lapin has reported the end. Earlier deliveries may still wait in `received`.
    has_ended: bool,
    /// Why they ended, to be returned after the last delivery.
    error: Option<BrokerError>,
    channel: Arc<OpenChannel>,
}

impl Deliveries {
    pub(super) fn new(
        received: mpsc::UnboundedReceiver<Delivery>,
        consumer: Consumer,
        channel: &Arc<OpenChannel>,
    ) -> Self {
        Self {
            received,
            consumer: Some(consumer),
            has_ended: false,
            error: None,
            channel: Arc::clone(channel),
        }
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery, BrokerError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(Some(delivery)) = this.received.poll_recv(cx) {
            return Poll::Ready(Some(Ok(delivery)));
        }
        if !this.has_ended {
            // A delivery waits, but tokio's cooperative budget is used up. tokio wakes the task
            // again.
            if !this.received.is_empty() {
                return Poll::Pending;
            }
            let Some(consumer) = &mut this.consumer else {
                return Poll::Ready(None);
            };
            match std::task::ready!(Pin::new(consumer).poll_next(cx)) {
                Some(Err(error)) => this.error = Some(broker_error(error)),
                // `Some(Ok(_))`, a delivery, does not occur, because lapin gets no content.
                Some(Ok(_)) | None => this.consumer = None,
            }
            this.has_ended = true;
        }
        // lapin reports the end after the last delivery, so this may have arrived meanwhile.
        match this.received.try_recv() {
            Ok(delivery) => Poll::Ready(Some(Ok(delivery))),
            Err(_) => Poll::Ready(this.error.take().map(Err)),
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            self.channel.close_then_drop(consumer);
        }
    }
}
