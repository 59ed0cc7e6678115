//! The session that all calls of one broker handle share: a reply consumer and a request sender.
//!
//! A task opens the session, hands replies to their calls, and reopens what is lost.

use std::convert::Infallible;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::in_flight_calls::InFlightCalls;
use super::options::CallerOptions;
use super::queued_request::SEND_TASK;
use super::reply_router::route_available;
use super::request_sender::RequestSender;
use super::resend::ReplyEpoch;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::ShortStr;
use crate::sync::watch;
use crate::transport::{
    Backoff, KeepOpen, Panicked, Publisher, ReplyQueue, ReplySubscription, Subscription, Transport,
    catch_panic, keep_open,
};

/// The name of the task that owns the reply consumer.
const SESSION_TASK: &str = "reply consumer";

/// An open session: calls send their requests through it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) requests: RequestSender,
    pub(super) epoch: ReplyEpoch,
}

/// The state of the session, which calls watch.
#[derive(Debug)]
pub(super) struct SessionState {
    pub(super) phase: SessionPhase,
    /// The epoch of the current session or, while none is open, of the next one as far as it is
    /// known: the numbers rise when the address is lost, and when a new consumer is open.
    pub(super) epoch: ReplyEpoch,
    /// Why the last session was lost. Stays while the next one is open. `None` if none was lost.
    pub(super) loss_reason: Option<BrokerError>,
}

#[derive(Debug)]
pub(super) enum SessionPhase {
    /// Calls wait until the session is open.
    Opening,
    Open(Arc<Session>),
    /// The broker refused the session. Calls fail, although the task tries again.
    Refused(BrokerError),
    /// Closed for good.
    Closed,
}

impl SessionPhase {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

impl SessionState {
    pub(super) fn opening() -> Self {
        Self {
            phase: SessionPhase::Opening,
            epoch: ReplyEpoch::default(),
            loss_reason: None,
        }
    }

    /// Returns the error of calls whose replies were lost with the last session.
    pub(super) fn loss_error(&self) -> BrokerError {
        let reason = self.loss_reason.clone();
        reason.unwrap_or(BrokerError::Lost { source: None })
    }
}

/// Opens the session, hands replies to their calls, reopens what is lost, and closes the session at
/// shutdown.
///
/// Only this task owns the reply consumer. Calls see the session through `state`. If the task
/// panics, it reopens the session. If the task is dropped with its runtime, calls fail.
pub(super) async fn run(
    transport: Arc<dyn Transport>,
    options: Arc<CallerOptions>,
    in_flight: Arc<InFlightCalls>,
    state: watch::Sender<SessionState>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    let mut task = SessionTask {
        transport,
        options,
        in_flight,
        state,
        reply_consumer: None,
        reply_to: None,
        publisher: None,
        send_task: None,
        tasks,
        is_closed: false,
    };
    shutdown.run_until_cancelled(task.keep_running()).await;
    task.is_closed = true;
    task.update(|state| state.phase = SessionPhase::Closed);
    if let Some(consumer) = task.reply_consumer.take() {
        consumer.control.close_and_delete().await;
    }
    tracing::debug!("reply consumer closed");
}

/// The task that owns the session. Its two halves, the reply consumer and the publisher, can be
/// lost independently.
struct SessionTask {
    transport: Arc<dyn Transport>,
    options: Arc<CallerOptions>,
    in_flight: Arc<InFlightCalls>,
    state: watch::Sender<SessionState>,
    reply_consumer: Option<Subscription>,
    /// The address of the reply consumer, or of the last one that was lost.
    reply_to: Option<ShortStr>,
    publisher: Option<Arc<dyn Publisher>>,
    /// The task that publishes queued requests.
    send_task: Option<JoinHandle<Result<(), Panicked>>>,
    tasks: TaskTracker,
    /// Whether calls were told, or are about to be told, that the session is closed.
    is_closed: bool,
}

impl Drop for SessionTask {
    /// Fails the calls if the runtime has dropped the task before its end. Calls on other runtimes
    /// still wait.
    fn drop(&mut self) {
        if !self.is_closed {
            // Before the update, which wakes calls: they read the reason there.
            self.transport.status().runtime_ended();
            self.update(|state| state.phase = SessionPhase::Closed);
        }
    }
}

/// How long the task may take to hand waiting replies to their calls, before calls may send
/// requests again.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);

impl SessionTask {
    /// Changes the state and notifies all calls in flight: of another epoch, of the end, or that
    /// the messages of streams can arrive again. Other changes need no notification: they concern
    /// only calls that wait for a session, which watch the state.
    fn update(&self, change: impl FnOnce(&mut SessionState)) {
        self.state.send_modify(change);
        self.in_flight.notify_session_changed();
    }

    /// Keeps the session open. After a panic, reopens both halves, because the panic may have lost
    /// a part of their state.
    async fn keep_running(&mut self) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            let since = Instant::now();
            let Err(panicked) = catch_panic(SESSION_TASK, keep_open(self)).await;
            self.state.send_modify(|state| {
                state.phase = SessionPhase::Opening;
                state.loss_reason = Some(panicked.into());
            });
            self.close_reply_consumer().await;
            self.publisher = None;
            // The task is not aborted: it ends once no call holds the lost session.
            self.send_task = None;
            backoff.worked_for(since.elapsed());
            backoff.wait().await;
        }
    }

    /// Records that a half of the session was lost. Calls wait for the next session.
    fn record_loss(&self, reason: &BrokerError) {
        tracing::debug!(error = %Logged(Chain(reason)), "lost the reply consumer or the request channel");
        self.state.send_modify(|state| {
            state.phase = SessionPhase::Opening;
            state.loss_reason = Some(reason.clone());
        });
    }

    /// Records that the session could not be opened. Calls fail if the broker refuses it. Otherwise
    /// they wait.
    fn record_failed_open(&self, error: &BrokerError) {
        let is_refusal = matches!(
            error,
            BrokerError::Queue { .. } | BrokerError::TooManyChannels { .. }
        );
        let phase = if is_refusal {
            tracing::warn!(
                error = %Logged(Chain(error)),
                "cannot open the reply consumer or the request channel"
            );
            SessionPhase::Refused(error.clone())
        } else {
            tracing::debug!(
                error = %Logged(Chain(error)),
                "cannot yet open the reply consumer or the request channel"
            );
            SessionPhase::Opening
        };
        self.state.send_modify(|state| state.phase = phase);
    }

    /// Opens the halves that are missing. Then calls may send requests, unless the reply consumer
    /// was lost again meanwhile, which [`serve`](Self::serve) reports.
    async fn open_missing_halves(&mut self) -> Result<(), BrokerError> {
        if self.reply_consumer.is_none() {
            self.open_reply_consumer().await?;
        }
        if self.publisher.is_none() {
            let transport = Arc::clone(&self.transport);
            let opened = self.while_routing(async move { transport.open_publisher().await });
            self.publisher = Some(opened.await?);
        }
        // The publisher may have been lost while the reply consumer was opened.
        if let Some(publisher) = &self.publisher
            && let Some(reason) = publisher.wait_closed().now_or_never()
        {
            self.publisher = None;
            return Err(reason);
        }
        // The reply consumer may have been lost while the publisher was opened.
        if let (Some(_), Some(reply_to), Some(publisher)) =
            (&self.reply_consumer, &self.reply_to, &self.publisher)
        {
            let (publisher, options) = (Arc::clone(publisher), Arc::clone(&self.options));
            let (requests, send_task) =
                RequestSender::new(publisher, reply_to.clone(), options, Arc::clone(&self.in_flight));
            let send_task = catch_panic(SEND_TASK, send_task);
            self.send_task = Some(self.tasks.spawn_on(send_task, &self.transport.runtime()));
            self.update(|state| {
                let epoch = state.epoch;
                state.phase = SessionPhase::Open(Arc::new(Session { requests, epoch }));
            });
        }
        Ok(())
    }

    /// Opens the reply consumer, hands the replies that wait at its address to their calls, and
    /// begins a new epoch.
    async fn open_reply_consumer(&mut self) -> Result<(), BrokerError> {
        let ReplySubscription {
            address,
            replies,
            resumed,
            publisher,
        } = self
            .transport
            .open_replies(self.options.reply_queue, self.reply_to.as_ref())
            .await?;
        self.reply_consumer = Some(replies);
        self.reply_to = Some(address);
        // Only this publisher may send requests with a direct reply-to address.
        if publisher.is_some() {
            self.publisher = publisher;
        }
        if let Some(waiting) = resumed {
            // Before the new epoch, in which calls send their requests again: those whose replies
            // wait at the address need not. After the limit, `serve` hands out the rest.
            let _ = timeout(CATCH_UP_LIMIT, self.catch_up(waiting)).await;
        }
        self.update(|state| {
            state.epoch.consumer += 1;
            state.epoch.address += u64::from(resumed.is_none());
        });
        Ok(())
    }

    /// Hands the replies in the next `waiting` deliveries to their calls, and those in further
    /// deliveries that have already arrived. Ends early if the reply consumer is lost.
    async fn catch_up(&mut self, waiting: u32) {
        let mut routed = 0;
        while routed < waiting
            && let Some(consumer) = &mut self.reply_consumer
        {
            let next = consumer.deliveries.next().await;
            match route_available(next, consumer, &self.in_flight).await {
                Ok(deliveries) => routed = routed.saturating_add(deliveries),
                Err(_) => return self.close_reply_consumer().await,
            }
        }
    }

    /// Hands replies to their calls until a half of the session is lost, or the send task ends.
    /// Returns the reason.
    async fn serve(&mut self) -> BrokerError {
        // A half that is missing was lost while the session was opened.
        let Some(publisher) = self.publisher.clone() else {
            return BrokerError::Lost { source: None };
        };
        let mut closed = pin!(publisher.wait_closed());
        loop {
            let (Some(consumer), Some(send_task)) = (&mut self.reply_consumer, &mut self.send_task) else {
                return BrokerError::Lost { source: None };
            };
            tokio::select! {
                biased;
                ended = send_task => {
                    self.send_task = None;
                    return send_task_error(ended);
                }
                reason = &mut closed => {
                    self.publisher = None;
                    // With direct reply-to, the reply consumer shares the publisher's channel.
                    if self.options.reply_queue == ReplyQueue::Direct {
                        self.close_reply_consumer().await;
                    }
                    return reason;
                }
                next = consumer.deliveries.next() => {
                    if let Err(reason) = route_available(next, consumer, &self.in_flight).await {
                        self.close_reply_consumer().await;
                        return reason;
                    }
                }
            }
        }
    }

    /// Waits for a future, and hands replies to their calls meanwhile. Closes the reply consumer if
    /// it is lost.
    async fn while_routing<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        while let Some(consumer) = &mut self.reply_consumer {
            tokio::select! {
                biased;
                output = &mut future => return output,
                next = consumer.deliveries.next() => {
                    if route_available(next, consumer, &self.in_flight).await.is_err() {
                        self.close_reply_consumer().await;
                    }
                }
            }
        }
        future.await
    }

    /// Closes the reply consumer. Unless the reply queue is resumable, its address is gone too:
    /// replies that have not arrived are lost, and calls are told. With direct reply-to, the
    /// publisher goes with it.
    async fn close_reply_consumer(&mut self) {
        let Some(consumer) = self.reply_consumer.take() else {
            return;
        };
        match self.options.reply_queue {
            ReplyQueue::Resumable => consumer.control.close().await,
            ReplyQueue::Exclusive | ReplyQueue::Direct => {
                self.update(|state| {
                    state.phase = SessionPhase::Opening;
                    state.epoch.address += 1;
                });
                consumer.control.close_and_delete().await;
            }
        }
        if self.options.reply_queue == ReplyQueue::Direct {
            self.publisher = None;
        }
    }
}

impl KeepOpen for SessionTask {
    type Opened = ();
    type End = Infallible;

    async fn open(&mut self) -> ControlFlow<Infallible, Result<(), BrokerError>> {
        ControlFlow::Continue(self.open_missing_halves().await)
    }

    async fn run(&mut self, (): ()) -> ControlFlow<Infallible, BrokerError> {
        let reason = self.serve().await;
        self.record_loss(&reason);
        ControlFlow::Continue(reason)
    }

    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<Infallible> {
        self.record_failed_open(error);
        ControlFlow::Continue(())
    }

    async fn pause(&mut self, delay: Duration) -> ControlFlow<Infallible> {
        self.while_routing(sleep(delay)).await;
        ControlFlow::Continue(())
    }
}

/// Returns the error of a send task that has ended. Unless it panics, it runs until the session's
/// [`RequestSender`] is dropped, or its runtime ends.
fn send_task_error(ended: Result<Result<(), Panicked>, JoinError>) -> BrokerError {
    match ended {
        Ok(Err(panicked)) => panicked.into(),
        Ok(Ok(())) | Err(_) => BrokerError::Lost { source: None },
    }
}
