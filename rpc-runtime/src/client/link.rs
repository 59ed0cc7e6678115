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
        replies,
    } = match opened {
        Ok(link) => link,
        Err(error) => {
            state.send_replace(LinkState::Failed(error));
            return;
        }
    };
    let pending = Arc::new(Pending::default());
    state.send_replace(LinkState::Ready(Arc::new(Link {
        reply_to,
        publisher,
        pending: Arc::clone(&pending),
    })));

    let Subscription {
        mut deliveries,
        control,
    } = replies;
    let reason = loop {
        let next = tokio::select! {
            next = deliveries.next() => next,
            () = shutdown.cancelled() => break BrokerError::Closed,
        };
        match next {
            Some(Ok(delivery)) => {
                let mut last = route(&pending, delivery);
                // Replies come in bursts; what is here already is settled together.
                while let Some(Some(Ok(delivery))) = deliveries.next().now_or_never() {
                    last = route(&pending, delivery);
                }
                if let Err(error) = control.settle_up_to(last).await {
                    break error;
                }
            }
            Some(Err(error)) => break error,
            None => break BrokerError::Lost { source: None },
        }
    };
    match &reason {
        BrokerError::Closed => tracing::debug!("reply link closed"),
        error => tracing::warn!(error = error as &dyn std::error::Error, "reply link lost"),
    }
    pending.lose(reason.clone());
    state.send_replace(LinkState::Failed(reason));
    control.close().await;
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
