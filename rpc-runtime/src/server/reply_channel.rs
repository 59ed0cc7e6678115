//! The channel on which replies are published. It is opened again whenever it is lost.

use std::sync::{Arc, Weak};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};
use tracing::Level;

use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::sync::watch;
use crate::telemetry::{LogLimit, Suppressed};
use crate::transport::{Backoff, Departure, Outgoing, Published, Publisher, Receipt, Transport, supervised};

/// Publishes the replies of a server until the broker confirms each of them.
#[derive(Debug)]
pub(super) struct ReplyChannel {
    state: watch::Receiver<ChannelState>,
    /// Weak, because replies that wait for their confirms hold the channel. They must not keep the
    /// connections of a server that was dropped.
    transport: Weak<dyn Transport>,
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
                "gave up a reply: there is no connection, and its caller no longer waits"
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
            tracing::error!(%error, suppressed, "a reply cannot be sent; its caller gets a fault");
        }
    }
}

#[derive(Debug, Clone)]
enum ChannelState {
    Opening,
    /// The broker refused to open it. Another attempt follows.
    Refused(BrokerError),
    Open(Arc<dyn Publisher>),
    /// The handle was closed.
    Closed,
}

/// The result of sending a reply.
#[derive(Debug)]
pub(super) enum SendOutcome {
    /// The broker has it.
    Confirmed,
    /// The broker refused it. `Some` if it cannot be sent at all, or closes each channel on which
    /// it is sent.
    Refused(Option<BrokerError>),
    /// It did not leave before its deadline: there was no connection, or the connection was
    /// blocked.
    Expired,
}

impl ReplyChannel {
    /// Returns a channel and the task that keeps it open.
    pub(super) fn new(transport: Arc<dyn Transport>) -> (Self, impl Future<Output = ()>) {
        let (sender, state) = watch::channel(ChannelState::Opening);
        let channel = Self {
            state,
            transport: Arc::downgrade(&transport),
            log: ReplyLog(LogLimit::new("replies")),
        };
        let task = async move {
            supervised("reply channel", || keep_open(&*transport, &sender)).await;
        };
        (channel, task)
    }

    /// Waits until the channel is open. Cancel safe.
    ///
    /// # Errors
    ///
    /// Returns an error if the handle was closed or the broker refuses to open the channel.
    pub(super) async fn ready(&self) -> Result<(), BrokerError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, ChannelState::Opening));
        match settled.await.as_deref() {
            Ok(ChannelState::Open(_)) => Ok(()),
            Ok(ChannelState::Refused(reason)) => Err(reason.clone()),
            _ => Err(self.why_over()),
        }
    }

    /// Returns why the handle ended.
    fn why_over(&self) -> BrokerError {
        let transport = self.transport.upgrade();
        transport.map_or(BrokerError::Closed, |transport| transport.status().why_over())
    }

    /// Sends a message without waiting. The receipt gets the confirm at the latest after
    /// `confirm_interval` messages are sent.
    ///
    /// # Errors
    ///
    /// Returns the message if it cannot leave at once.
    pub(super) fn try_send(
        &self,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        confirm_interval: usize,
    ) -> Result<(), Box<Outgoing>> {
        match &*self.state.borrow() {
            ChannelState::Open(publisher) => publisher.try_publish(outgoing, receipt, confirm_interval),
            ChannelState::Opening | ChannelState::Refused(_) | ChannelState::Closed => {
                Err(Box::new(outgoing))
            }
        }
    }

    /// Sends a message until the broker confirms it or the deadline has passed. A caller that gets
    /// a reply twice ignores the second one.
    ///
    /// `may_have_closed_channel` is whether a channel on which the message was sent was closed.
    ///
    /// # Errors
    ///
    /// Returns an error only if the handle was closed.
    pub(super) async fn send(
        &self,
        outgoing: Outgoing,
        deadline: Option<Instant>,
        mut may_have_closed_channel: bool,
    ) -> Result<SendOutcome, BrokerError> {
        let mut lost = None;
        let mut backoff = Backoff::new();
        loop {
            let opening = async {
                if may_have_closed_channel {
                    self.dedicated_publisher().await
                } else {
                    self.publisher(lost.as_ref()).await
                }
            };
            let Some(publisher) = before(deadline, opening).await else {
                return Ok(SendOutcome::Expired);
            };
            let publisher = publisher?;
            let Some(published) = publish(&*publisher, outgoing.clone(), deadline).await else {
                return Ok(SendOutcome::Expired);
            };
            match published {
                // `Returned` cannot happen, because no message here is mandatory.
                Published::Routed | Published::Returned => return Ok(SendOutcome::Confirmed),
                Published::Refused => return Ok(SendOutcome::Refused(None)),
                Published::Withdrawn => return Ok(SendOutcome::Expired),
                Published::Failed { source, written } => match source {
                    source if source.is_of_ended_handle() => return Err(source),
                    BrokerError::Unsendable { .. } => return Ok(SendOutcome::Refused(Some(source))),
                    // All unconfirmed messages fail with their channel, and one of them may have
                    // closed it. Each is sent again on a channel of its own. The message whose
                    // channel is closed again is refused.
                    BrokerError::ChannelClosed { .. } if written => {
                        if may_have_closed_channel {
                            return Ok(SendOutcome::Refused(Some(source)));
                        }
                        may_have_closed_channel = true;
                    }
                    _ => {}
                },
            }
            lost = if publisher.closed().now_or_never().is_some() {
                Some(publisher)
            } else {
                // Only this message failed.
                backoff.wait().await;
                None
            };
        }
    }

    /// Opens a publisher for one message. Tries again until it succeeds.
    async fn dedicated_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        let mut backoff = Backoff::new();
        loop {
            let Some(transport) = self.transport.upgrade() else {
                return Err(BrokerError::Closed);
            };
            match transport.open_publisher().await {
                Err(error) if !error.is_of_ended_handle() => backoff.wait_after(&error).await,
                opened => return opened,
            }
        }
    }

    /// Waits for an open publisher other than the lost one.
    async fn publisher(&self, lost: Option<&Arc<dyn Publisher>>) -> Result<Arc<dyn Publisher>, BrokerError> {
        let mut state = self.state.clone();
        let ready = state.wait_for(|state| match state {
            ChannelState::Opening | ChannelState::Refused(_) => false,
            ChannelState::Open(publisher) => lost.is_none_or(|lost| !Arc::ptr_eq(lost, publisher)),
            ChannelState::Closed => true,
        });
        match ready.await.as_deref() {
            Ok(ChannelState::Open(publisher)) => Ok(Arc::clone(publisher)),
            _ => Err(self.why_over()),
        }
    }
}

/// Publishes a message. Returns `None` if it has not left by the deadline: the broker does not
/// read, or there is no connection for direct replies.
async fn publish(
    publisher: &dyn Publisher,
    outgoing: Outgoing,
    deadline: Option<Instant>,
) -> Option<Published> {
    let departure = Departure::default();
    let mut publishing = publisher.publish(Outgoing {
        departure: departure.clone(),
        ..outgoing
    });
    match before(deadline, &mut publishing).await {
        Some(published) => Some(published),
        None if departure.withdraw() => None,
        None => Some(publishing.await),
    }
}

/// Waits for a future until the deadline. A future that is ready immediately is never too late.
async fn before<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => timeout_at(deadline, future).await.ok(),
    }
}

/// Keeps a publisher open: opens another one whenever it is lost, until the handle is closed.
async fn keep_open(transport: &dyn Transport, state: &watch::Sender<ChannelState>) {
    let mut backoff = Backoff::new();
    loop {
        let lost = match transport.open_publisher().await {
            Ok(publisher) => {
                let since = Instant::now();
                state.send_replace(ChannelState::Open(Arc::clone(&publisher)));
                let reason = publisher.closed().await;
                state.send_replace(ChannelState::Opening);
                tracing::debug!(error = %Logged(Chain(&reason)), "the reply channel was lost; opening another one");
                backoff.worked_for(since.elapsed());
                reason
            }
            Err(error) if error.is_of_ended_handle() => {
                state.send_replace(ChannelState::Closed);
                return;
            }
            Err(error) => {
                if !error.is_worth_reopening() {
                    state.send_replace(ChannelState::Refused(error.clone()));
                }
                tracing::warn!(error = %Logged(Chain(&error)), "the reply channel cannot be opened; trying again");
                error
            }
        };
        backoff.wait_after(&lost).await;
    }
}
