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
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use lapin::{Channel, Consumer};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{ConnectionState, lost};
use super::{CLOSE_LIMIT, broker_error};
use crate::error::BrokerError;

/// The tasks of a transport, the runtime that they run on, and the word for them to end.
#[derive(Debug, Clone)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    runtime: Handle,
    pub(super) ending: CancellationToken,
}

impl Tasks {
    pub(super) fn new(runtime: &Handle) -> Self {
        Self {
            tracker: TaskTracker::new(),
            runtime: runtime.clone(),
            ending: CancellationToken::new(),
        }
    }

    /// Starts a task on the transport's own runtime, whoever asks for it. It is dropped at once where that has ended.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_on(task, &self.runtime)
    }

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
    connection: watch::Receiver<ConnectionState>,
    tasks: Tasks,
    /// How many questions are not answered yet.
    due: Arc<watch::Sender<usize>>,
}

impl OpenChannel {
    pub(super) fn new(channel: Channel, connection: watch::Receiver<ConnectionState>, tasks: &Tasks) -> Self {
        Self {
            channel,
            connection,
            tasks: tasks.clone(),
            due: Arc::default(),
        }
    }

    /// What becomes of the channel's connection.
    pub(super) fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.connection.clone()
    }

    /// Waits for an answer, but not for one that can come no more: lapin leaves some questions unanswered when the
    /// connection is lost under them.
    pub(super) async fn answer<T>(
        &self,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        tokio::select! {
            biased;
            answer = answer => answer.map_err(broker_error),
            reason = lost(self.connection()) => Err(reason),
        }
    }

    /// Asks the broker something through this channel, within a limit. Dropping the future does not
    /// call the question back, and the channel is not closed before it is answered.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        step: &'static str,
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let due = Due::new(&self.due);
        let answer = async move {
            let answer = answer.await;
            drop(due);
            answer
        };
        let question = Question::new(answer, self.connection(), &self.tasks);
        match tokio::time::timeout(limit, self.answer(question)).await {
            Ok(answer) => answer,
            Err(_) => Err(BrokerError::Unresponsive { step, limit }),
        }
    }

    /// Closes the channel, within a limit; what it had not settled goes back to its queue.
    pub(super) async fn close(&self) {
        close(&self.channel, self.connection(), self.due.subscribe()).await;
    }

    /// Closes the channel in the background, and keeps something until that is done.
    fn close_then_drop(&self, kept: impl Send + 'static) {
        if !self.channel.status().connected() {
            return;
        }
        // Without its runtime the connection ends too, and takes the channel along.
        let (channel, connection) = (self.channel.clone(), self.connection());
        let (due, ending) = (self.due.subscribe(), self.tasks.ending.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = answered(due.clone()) => {}
                _ = lost(connection.clone()) => {}
                () = ending.cancelled() => {}
            }
            close(&channel, connection, due).await;
            drop(kept);
        });
    }
}

/// A question that is not answered yet.
struct Due(Arc<watch::Sender<usize>>);

impl Due {
    fn new(due: &Arc<watch::Sender<usize>>) -> Self {
        due.send_modify(|due| *due += 1);
        Self(Arc::clone(due))
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        self.0.send_modify(|due| *due -= 1);
    }
}

/// Waits until all questions are answered.
async fn answered(mut due: watch::Receiver<usize>) {
    // Without a sender, nobody asks.
    let _ = due.wait_for(|due| *due == 0).await;
}

async fn close(channel: &Channel, connection: watch::Receiver<ConnectionState>, due: watch::Receiver<usize>) {
    if !channel.status().connected() {
        return;
    }
    let closing = async {
        let closing = async {
            answered(due).await;
            // An error means that it was closed meanwhile.
            let _ = channel.close(200, "closed by its user".into()).await;
        };
        tokio::select! {
            () = closing => {}
            _ = lost(connection) => {}
        }
    };
    if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
        tracing::debug!("the broker did not close a channel in time");
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

/// A question to the broker, and the channel through which it was asked.
///
/// A channel must not be closed while an answer is due: if the broker then refuses what it was
/// asked, both sides close the channel, and lapin takes the second answer for a failure of the whole
/// connection. The answer may take long. RabbitMQ 4 says only after more than a minute that the node
/// of a classic queue is down. So if the question is dropped before, a task of the transport keeps
/// it, and with it the channel.
pub(super) struct Question<T: Send + 'static> {
    /// `None` once it was answered.
    answer: Option<BoxFuture<'static, lapin::Result<T>>>,
    connection: watch::Receiver<ConnectionState>,
    tasks: Tasks,
}

impl<T: Send + 'static> Question<T> {
    /// The future must own the channel.
    pub(super) fn new(
        answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
        connection: watch::Receiver<ConnectionState>,
        tasks: &Tasks,
    ) -> Self {
        Self {
            answer: Some(Box::pin(answer)),
            connection,
            tasks: tasks.clone(),
        }
    }
}

impl<T: Send + 'static> Future for Question<T> {
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

impl<T: Send + 'static> Drop for Question<T> {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        // Without its runtime the connection ends too.
        let (connection, ending) = (self.connection.clone(), self.tasks.ending.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                _ = answer => {}
                _ = lost(connection) => {}
                () = ending.cancelled() => {}
            }
        });
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
