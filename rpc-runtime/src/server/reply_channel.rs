//! A channel on which replies and copies of requests are published. It is opened again whenever it
//! is lost.

use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::Level;

use super::open_failure_log::OpenFailureLog;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::sync::watch;
use crate::telemetry::{LogLimit, Suppressed};
use crate::transport::{
    Backoff, ConfirmListener, KeepOpen, Outgoing, Published, Publisher, SendToken, Transport, keep_open,
    restart_on_panic, retry,
};

/// How long a message that has left may stay unconfirmed after its deadline.
pub(super) const CONFIRM_GRACE: Duration = Duration::from_secs(30);

/// How many messages may have a channel of their own at once. All messages that are in flight on a
/// channel may need one if the broker closes it, and a connection has a limit of channels.
const MAX_DEDICATED: usize = 4;

/// How long a message may have a channel of its own while other messages wait for one. A message
/// that has left by then is harmless: the broker would have closed the channel at once. Its queue
/// may never confirm it.
const DEDICATED_LIMIT: Duration = Duration::from_secs(30);

/// Publishes messages of a server. A server has one for the copies of jobs of each queue with jobs,
/// and one for everything else: replies, messages of streams, and copies of forwarded requests.
#[derive(Debug)]
pub(super) struct ReplyChannel {
    state: watch::Receiver<ChannelState>,
    /// Weak, because replies that wait for their confirms hold the channel. They must not keep the
    /// connections of a server open after it was dropped.
    transport: Weak<dyn Transport>,
    /// A permit for each message that may have a channel of its own.
    dedicated: Semaphore,
    pub(super) log: ReplyLog,
}

/// Logs replies that do not reach their callers. Callers can cause this as often as they like, so
/// the log is limited.
#[derive(Debug)]
pub(super) struct ReplyLog(LogLimit);

impl ReplyLog {
    pub(super) fn expired(&self) {
        if let Some(Suppressed(suppressed)) = self.0.admit(Level::WARN, "no_connection") {
            tracing::warn!(
                suppressed,
                "gave up a reply: it was not sent or not confirmed in time, so its caller may get none"
            );
        }
    }

    pub(super) fn refused(&self) {
        if let Some(Suppressed(suppressed)) = self.0.admit(Level::ERROR, "refused") {
            tracing::error!(suppressed, "the broker refused a reply; its caller will time out");
        }
    }

    pub(super) fn unsendable(&self, error: &BrokerError) {
        if let Some(Suppressed(suppressed)) = self.0.admit(Level::ERROR, "unsendable") {
            let error = Logged(Chain(error));
            tracing::error!(%error, suppressed, "a reply cannot be sent; sending its caller a fault instead");
        }
    }
}

#[derive(Debug, Clone)]
enum ChannelState {
    Opening,
    /// It could not be opened, for a reason that ends a server's start. Another attempt follows.
    Refused(BrokerError),
    Open(Arc<dyn Publisher>),
    /// The handle was closed, or its runtime has ended.
    Closed,
}

/// The result of sending a message.
#[derive(Debug)]
pub(super) enum SendOutcome {
    /// The broker has it.
    Confirmed,
    /// It was mandatory, and its queue does not exist.
    Unroutable,
    /// The broker refused it.
    Refused,
    /// It cannot be sent at all, or the broker closed each channel on which it was sent.
    Unsendable(BrokerError),
    /// It did not leave before its deadline: there was no connection, or the connection was
    /// blocked. Or it left, and was not confirmed for [`CONFIRM_GRACE`] after its deadline. A
    /// direct reply also expires before its deadline if its separate connection cannot be opened.
    Expired,
}

impl ReplyChannel {
    /// Returns a channel and the task that keeps it open.
    pub(super) fn new(transport: Arc<dyn Transport>) -> (Self, impl Future<Output = ()>) {
        let (sender, state) = watch::channel(ChannelState::Opening);
        let channel = Self {
            state,
            transport: Arc::downgrade(&transport),
            dedicated: Semaphore::new(MAX_DEDICATED),
            log: ReplyLog(LogLimit::new("replies")),
        };
        let task = async move {
            restart_on_panic("reply channel", async || {
                let mut keeper = PublisherKeeper {
                    transport: &*transport,
                    state: &sender,
                    failures: OpenFailureLog::default(),
                };
                keep_open(&mut keeper).await;
            })
            .await;
        };
        (channel, task)
    }

    /// Waits until the channel is open. Cancel safe.
    ///
    /// # Errors
    ///
    /// Returns an error if the handle has ended, or if the channel could not be opened for a reason
    /// that may last.
    pub(super) async fn wait_ready(&self) -> Result<(), BrokerError> {
        let mut state = self.state.clone();
        let decided = state.wait_for(|state| !matches!(state, ChannelState::Opening));
        match decided.await.as_deref() {
            Ok(ChannelState::Open(_)) => Ok(()),
            Ok(ChannelState::Refused(reason)) => Err(reason.clone()),
            _ => Err(self.end_reason_or_closed()),
        }
    }

    /// Returns why the handle ended. [`BrokerError::Closed`] if no other reason is known.
    fn end_reason_or_closed(&self) -> BrokerError {
        let transport = self.transport.upgrade();
        transport.map_or(BrokerError::Closed, |transport| {
            transport.status().end_reason_or_closed()
        })
    }

    /// Sends a message once, without waiting. The listener gets the outcome.
    ///
    /// # Errors
    ///
    /// Returns the message if it cannot leave at once. Over RabbitMQ, a direct reply never can.
    pub(super) fn try_send(
        &self,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
    ) -> Result<(), Box<Outgoing>> {
        match &*self.state.borrow() {
            ChannelState::Open(publisher) => publisher.try_publish(outgoing, listener),
            ChannelState::Opening | ChannelState::Refused(_) | ChannelState::Closed => {
                Err(Box::new(outgoing))
            }
        }
    }

    /// Sends a message, again after each failure that may pass, until its outcome is known. The
    /// message may arrive twice. A caller that gets a reply twice ignores the second one.
    ///
    /// Without a deadline, this waits for a connection and for the confirm without a limit.
    ///
    /// `may_have_closed_channel` is whether a channel on which the message was sent was closed,
    /// perhaps because of it. The message then gets a channel of its own, so that no other one
    /// fails if it closes that too.
    ///
    /// # Errors
    ///
    /// Returns an error only if the handle has ended or the server was dropped.
    pub(super) async fn send(
        &self,
        outgoing: Outgoing,
        deadline: Option<Instant>,
        mut may_have_closed_channel: bool,
    ) -> Result<SendOutcome, BrokerError> {
        // A publisher that was lost: the shared one must be another.
        let mut lost = None;
        let mut backoff = Backoff::new();
        loop {
            let opening = async {
                if may_have_closed_channel {
                    // Fails only if the semaphore is closed, which it never is.
                    let permit = self.dedicated.acquire().await.ok();
                    (self.dedicated_publisher().await, permit)
                } else {
                    (self.shared_publisher(lost.as_ref()).await, None)
                }
            };
            let Some((publisher, dedicated_permit)) = before(deadline, opening).await else {
                return Ok(SendOutcome::Expired);
            };
            let publisher = publisher?;
            // Each attempt can be withdrawn separately.
            let send_token = outgoing
                .send_token
                .as_ref()
                .map_or_else(SendToken::default, SendToken::next);
            let outgoing = Outgoing {
                send_token: Some(send_token.clone()),
                ..outgoing.clone()
            };
            let dedicated_until = dedicated_permit
                .as_ref()
                .map(|_| Instant::now() + DEDICATED_LIMIT);
            let publishing = publish(&*publisher, outgoing, deadline);
            let Some(published) = before(dedicated_until, publishing).await else {
                // Its time on a channel of its own is over. If it has not left, it is withdrawn and
                // gets another one. If it has left, it did not close its channel, so it may share
                // one.
                may_have_closed_channel = send_token.withdraw();
                continue;
            };
            let (source, written) = match published {
                None | Some(Published::Withdrawn) => return Ok(SendOutcome::Expired),
                Some(Published::Confirmed) => return Ok(SendOutcome::Confirmed),
                Some(Published::Returned) => return Ok(SendOutcome::Unroutable),
                Some(Published::Refused) => return Ok(SendOutcome::Refused),
                Some(Published::Failed { source, written }) => (source, written),
            };
            match source {
                source if source.is_handle_ended() => return Err(source),
                BrokerError::Unsendable { .. } => return Ok(SendOutcome::Unsendable(source)),
                // All unconfirmed messages fail with their channel, and one of them may have closed
                // it. Each is sent again on a channel of its own. The one that closes its own too
                // is given up.
                BrokerError::ChannelClosed { .. } if written => {
                    if may_have_closed_channel {
                        return Ok(SendOutcome::Unsendable(source));
                    }
                    may_have_closed_channel = true;
                }
                _ => {}
            }
            let is_publisher_lost = publisher.wait_closed().now_or_never().is_some();
            if !is_publisher_lost {
                // Only this message failed.
                backoff.wait().await;
            }
            lost = is_publisher_lost.then_some(publisher);
        }
    }

    /// Opens a publisher for one message. Tries again until that succeeds or the handle has ended.
    async fn dedicated_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        let open = async || match self.transport.upgrade() {
            Some(transport) => transport.open_publisher().await,
            None => Err(BrokerError::Closed),
        };
        retry(open, |error| !error.is_handle_ended()).await
    }

    /// Waits until the channel is open, with another publisher than the lost one.
    async fn shared_publisher(
        &self,
        lost: Option<&Arc<dyn Publisher>>,
    ) -> Result<Arc<dyn Publisher>, BrokerError> {
        let mut state = self.state.clone();
        let ready = state.wait_for(|state| match state {
            ChannelState::Opening | ChannelState::Refused(_) => false,
            ChannelState::Open(publisher) => lost.is_none_or(|lost| !Arc::ptr_eq(lost, publisher)),
            ChannelState::Closed => true,
        });
        match ready.await.as_deref() {
            Ok(ChannelState::Open(publisher)) => Ok(Arc::clone(publisher)),
            _ => Err(self.end_reason_or_closed()),
        }
    }
}

/// Ignores whether the broker confirms a message.
pub(super) struct IgnoreConfirm;

impl ConfirmListener for IgnoreConfirm {
    fn published(self: Arc<Self>, _: Published) {}
}

/// Publishes a message. Returns `None` if it has not left by the deadline, or has left and is still
/// unconfirmed [`CONFIRM_GRACE`] after the deadline.
async fn publish(
    publisher: &dyn Publisher,
    outgoing: Outgoing,
    deadline: Option<Instant>,
) -> Option<Published> {
    let send_token = outgoing.send_token.clone();
    let mut publishing = publisher.publish(outgoing);
    let Some(deadline) = deadline else {
        return Some(publishing.await);
    };
    if let Ok(published) = timeout_at(deadline, &mut publishing).await {
        return Some(published);
    }
    if send_token.is_some_and(|token| token.withdraw()) {
        return None;
    }
    // It has left. Its queue may never confirm it: a quorum queue without a majority does not.
    timeout_at(deadline + CONFIRM_GRACE, publishing).await.ok()
}

/// Waits for a future. `None` if the deadline passes first. A future that is ready immediately is
/// never too late.
pub(super) async fn before<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => timeout_at(deadline, future).await.ok(),
    }
}

/// Keeps a publisher open until the handle has ended.
struct PublisherKeeper<'a> {
    transport: &'a dyn Transport,
    state: &'a watch::Sender<ChannelState>,
    failures: OpenFailureLog,
}

impl KeepOpen for PublisherKeeper<'_> {
    type Opened = Arc<dyn Publisher>;
    type End = ();

    async fn open(&mut self) -> ControlFlow<(), Result<Arc<dyn Publisher>, BrokerError>> {
        ControlFlow::Continue(self.transport.open_publisher().await)
    }

    async fn run(&mut self, publisher: Arc<dyn Publisher>) -> ControlFlow<(), BrokerError> {
        self.failures = OpenFailureLog::default();
        self.state
            .send_replace(ChannelState::Open(Arc::clone(&publisher)));
        let reason = publisher.wait_closed().await;
        if reason.is_handle_ended() {
            self.state.send_replace(ChannelState::Closed);
            return ControlFlow::Break(());
        }
        self.state.send_replace(ChannelState::Opening);
        tracing::debug!(error = %Logged(Chain(&reason)), "the reply channel was lost; opening another one");
        ControlFlow::Continue(reason)
    }

    fn open_failed(&mut self, error: &BrokerError) -> ControlFlow<()> {
        if error.is_handle_ended() {
            self.state.send_replace(ChannelState::Closed);
            return ControlFlow::Break(());
        }
        // A server that is starting fails with such an error; see `wait_ready`. A server that runs
        // waits for the next attempt.
        if !error.is_waited_out() {
            self.state.send_replace(ChannelState::Refused(error.clone()));
        }
        if self.failures.admit(error) {
            tracing::warn!(error = %Logged(Chain(error)), "the reply channel cannot be opened; trying again");
        }
        ControlFlow::Continue(())
    }
}
