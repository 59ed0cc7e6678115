//! The link to the broker that all calls of one handle share: one reply address, one consumer, one publisher.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::pending::Pending;
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::ReplyQueue;
use crate::transport::{CallerLink, Delivery, Publisher, Subscription, Transport};

/// What calls need: where replies go, who waits for them, and how requests leave.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) reply_to: ShortStr,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) pending: Arc<Pending>,
}

/// The link's state, as calls see it.
#[derive(Debug, Clone)]
pub(super) enum LinkState {
    Opening,
    Ready(Arc<Link>),
    /// It could not be opened, or it was lost.
    Failed(BrokerError),
}

/// Opens the link, hands replies to their calls, and closes it at shutdown.
///
/// This task alone owns the reply consumer; calls see the link through `state`.
pub(super) async fn run(
    transport: Arc<dyn Transport>,
    replies: ReplyQueue,
    state: watch::Sender<LinkState>,
    shutdown: CancellationToken,
) {
    let opened = tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(BrokerError::Closed),
        opened = transport.open_caller(replies) => opened,
    };
    let CallerLink {
        reply_to,
        publisher,
        mut replies,
    } = match opened {
        Ok(link) => link,
        Err(error) => {
            state.send_replace(LinkState::Failed(error));
            return;
        }
    };
    let pending = Arc::new(Pending::default());
    // Should this task be dropped with its runtime, no call waits in vain.
    let mut end = End {
        state,
        pending: Arc::clone(&pending),
        reason: BrokerError::Closed,
    };
    let link = Link {
        reply_to: reply_to.clone(),
        publisher: Arc::clone(&publisher),
        pending,
    };
    end.state.send_replace(LinkState::Ready(Arc::new(link)));

    end.reason = loop {
        tokio::select! {
            () = shutdown.cancelled() => break BrokerError::Closed,
            reason = publisher.closed() => break reason,
            next = replies.deliveries.next() => {
                if let Err(reason) = route_burst(next, &mut replies, &end.pending).await {
                    break reason.unwrap_or_else(|| BrokerError::Cancelled { queue: reply_to.to_string() });
                }
            }
        }
    };
    match &end.reason {
        BrokerError::Closed => tracing::debug!("reply link closed"),
        error => tracing::warn!(error = error as &dyn std::error::Error, "reply link lost"),
    }
    drop(end);
    replies.control.close().await;
}

/// Ends all calls of a link when it ends, however it does.
struct End {
    state: watch::Sender<LinkState>,
    pending: Arc<Pending>,
    reason: BrokerError,
}

impl Drop for End {
    fn drop(&mut self) {
        // In this order: a call that is refused here asks for a new link.
        self.state.send_replace(LinkState::Failed(self.reason.clone()));
        self.pending.lose(self.reason.clone());
    }
}

/// How many replies are settled together at the most.
const BURST: usize = 256;

/// Hands on a reply and those that are here already, and settles them together.
///
/// # Errors
///
/// Why no more will come, where the broker gave a reason.
async fn route_burst(
    first: Option<Result<Delivery, BrokerError>>,
    replies: &mut Subscription,
    pending: &Pending,
) -> Result<(), Option<BrokerError>> {
    let mut last = route(pending, first.ok_or(None)?.map_err(Some)?);
    for _ in 1..BURST {
        match replies.deliveries.next().now_or_never() {
            Some(next) => last = route(pending, next.ok_or(None)?.map_err(Some)?),
            None => break,
        }
    }
    replies.control.settle_up_to(last).await.map_err(Some)
}

/// Hands a reply to the call that waits for it, and returns its tag.
fn route(pending: &Pending, delivery: Delivery) -> u64 {
    let id = delivery.message.properties.correlation_id.as_ref();
    let routed = match id.and_then(|id| Uuid::parse_str(id.as_str()).ok()) {
        Some(id) => pending.complete(id, delivery.message),
        None => false,
    };
    if !routed {
        tracing::debug!("discarded a reply that no call waits for: it is late, or not ours");
    }
    delivery.tag
}
