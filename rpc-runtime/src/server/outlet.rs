//! How replies leave: through a publisher that is opened again when it is lost.

use std::sync::{Arc, Weak};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};
use tracing::Level;

use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::sync::watch;
use crate::telemetry::{LogLimit, Suppressed};
use crate::transport::{Backoff, Departure, Outgoing, Published, Publisher, Receipt, Transport, supervised};

/// Sends a server's replies, until the broker has each.
#[derive(Debug)]
pub(super) struct Outlet {
    current: watch::Receiver<Current>,
    /// Not kept: answers whose confirm is still to come have the outlet, and must not keep the connections of a server that was dropped.
    transport: Weak<dyn Transport>,
    pub(super) log: ReplyLog,
}

/// What is logged of replies that do not reach their callers. A caller can cause it at will.
#[derive(Debug)]
pub(super) struct ReplyLog(LogLimit);

impl ReplyLog {
    pub(super) fn given_up(&self) {
        if let Some(Suppressed(suppressed)) = self.0.admit(Level::WARN, "no_connection") {
            tracing::warn!(
                suppressed,
                "a reply was given up: there is no connection, and its caller is gone"
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
enum Current {
    /// It is being opened.
    Opening,
    /// The broker does not let it be opened. It is tried again.
    Refused(BrokerError),
    Ready(Arc<dyn Publisher>),
    /// For good.
    Closed,
}

/// What became of a reply.
#[derive(Debug)]
pub(super) enum Sent {
    /// The broker has it.
    Taken,
    /// The broker would not take it, or closes the channel over it.
    Refused(Option<BrokerError>),
    /// There was no connection, or it was blocked, for as long as its caller waited.
    TooLate,
}

impl Outlet {
    /// An outlet, and what keeps it open.
    pub(super) fn new(transport: Arc<dyn Transport>) -> (Self, impl Future<Output = ()>) {
        let (sender, current) = watch::channel(Current::Opening);
        let outlet = Self {
            current,
            transport: Arc::downgrade(&transport),
            log: ReplyLog(LogLimit::new("replies")),
        };
        let keeping = async move {
            supervised("reply channel", || keep(&*transport, &sender)).await;
        };
        (outlet, keeping)
    }

    /// Waits until messages can be sent. Cancel safe.
    ///
    /// # Errors
    ///
    /// Where the handle was closed, or the broker refuses it.
    pub(super) async fn ready(&self) -> Result<(), BrokerError> {
        let mut current = self.current.clone();
        let settled = current.wait_for(|current| !matches!(current, Current::Opening));
        match settled.await.as_deref() {
            Ok(Current::Ready(_)) => Ok(()),
            Ok(Current::Refused(reason)) => Err(reason.clone()),
            _ => Err(self.why_over()),
        }
    }

    /// Why the handle is over.
    fn why_over(&self) -> BrokerError {
        let transport = self.transport.upgrade();
        transport.map_or(BrokerError::Closed, |transport| transport.status().why_over())
    }

    /// Sends a reply at once, where that can be; else it comes back.
    pub(super) fn try_send(
        &self,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        in_a_row: usize,
    ) -> Result<(), Box<Outgoing>> {
        match &*self.current.borrow() {
            Current::Ready(publisher) => publisher.try_publish(outgoing, receipt, in_a_row),
            Current::Opening | Current::Refused(_) | Current::Closed => Err(Box::new(outgoing)),
        }
    }

    /// Sends a reply, as often as it takes until the broker has it; a caller who gets it twice takes the first.
    ///
    /// Where it has still not left at `worth_until`, it is given up. One that `is_suspect` was sent before by a channel that was closed.
    ///
    /// # Errors
    ///
    /// Only where the handle was closed.
    pub(super) async fn send(
        &self,
        outgoing: Outgoing,
        worth_until: Option<Instant>,
        mut is_suspect: bool,
    ) -> Result<Sent, BrokerError> {
        let mut lost = None;
        let mut backoff = Backoff::new();
        loop {
            let waiting = async {
                match is_suspect {
                    false => self.publisher(lost.as_ref()).await,
                    true => self.own_publisher().await,
                }
            };
            let Some(publisher) = unless_too_late(worth_until, waiting).await else {
                return Ok(Sent::TooLate);
            };
            let publisher = publisher?;
            let Some(published) = attempt(&*publisher, outgoing.clone(), worth_until).await else {
                return Ok(Sent::TooLate);
            };
            match published {
                // Not mandatory: a caller who is gone is no error.
                Published::Routed | Published::Returned => return Ok(Sent::Taken),
                Published::Refused => return Ok(Sent::Refused(None)),
                Published::Withdrawn => return Ok(Sent::TooLate),
                Published::Failed { source, written } => match source {
                    source if source.is_of_ended_handle() => return Err(source),
                    BrokerError::Unsendable { .. } => return Ok(Sent::Refused(Some(source))),
                    // All that was under way fails with the channel, and one of them is the reason. Each is tried once
                    // more, by a channel of its own: the one over which that is closed too is the one.
                    BrokerError::ChannelClosed { .. } if written => match is_suspect {
                        true => return Ok(Sent::Refused(Some(source))),
                        false => is_suspect = true,
                    },
                    _ => {}
                },
            }
            lost = match publisher.closed().now_or_never() {
                Some(_) => Some(publisher),
                // It found no way for this message alone.
                None => {
                    backoff.wait().await;
                    None
                }
            };
        }
    }

    /// A publisher for one reply, however often it takes to open it.
    async fn own_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
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

    /// The publisher, once there is one; another than that which was lost.
    async fn publisher(&self, lost: Option<&Arc<dyn Publisher>>) -> Result<Arc<dyn Publisher>, BrokerError> {
        let mut current = self.current.clone();
        let ready = current.wait_for(|current| match current {
            Current::Opening | Current::Refused(_) => false,
            Current::Ready(publisher) => lost.is_none_or(|lost| !Arc::ptr_eq(lost, publisher)),
            Current::Closed => true,
        });
        match ready.await.as_deref() {
            Ok(Current::Ready(publisher)) => Ok(Arc::clone(publisher)),
            _ => Err(self.why_over()),
        }
    }
}

/// Sends a reply; nothing where it has not left when it is worth it no more: the broker reads nothing, or there is no
/// connection for direct replies.
async fn attempt(
    publisher: &dyn Publisher,
    outgoing: Outgoing,
    worth_until: Option<Instant>,
) -> Option<Published> {
    let departure = Departure::default();
    let mut publishing = publisher.publish(Outgoing {
        departure: departure.clone(),
        ..outgoing
    });
    match unless_too_late(worth_until, &mut publishing).await {
        Some(published) => Some(published),
        None if departure.withdraw() => None,
        None => Some(publishing.await),
    }
}

/// Waits for something, but not beyond the time when it is worth it. What is ready at once is never too late.
async fn unless_too_late<T>(worth_until: Option<Instant>, what: impl Future<Output = T>) -> Option<T> {
    match worth_until {
        None => Some(what.await),
        Some(deadline) => timeout_at(deadline, what).await.ok(),
    }
}

/// Opens the publisher, and again whenever it is lost, until the handle is closed.
async fn keep(transport: &dyn Transport, current: &watch::Sender<Current>) {
    let mut backoff = Backoff::new();
    loop {
        let lost = match transport.open_publisher().await {
            Ok(publisher) => {
                let since = Instant::now();
                current.send_replace(Current::Ready(Arc::clone(&publisher)));
                let reason = publisher.closed().await;
                current.send_replace(Current::Opening);
                tracing::debug!(error = %Logged(Chain(&reason)), "reply channel lost");
                backoff.worked_for(since.elapsed());
                reason
            }
            Err(error) if error.is_of_ended_handle() => {
                current.send_replace(Current::Closed);
                return;
            }
            Err(error) => {
                if !error.is_worth_another_try() {
                    current.send_replace(Current::Refused(error.clone()));
                }
                tracing::warn!(error = %Logged(Chain(&error)), "no reply channel");
                error
            }
        };
        backoff.wait_after(&lost).await;
    }
}
