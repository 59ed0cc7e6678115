//! What callers tell about their calls: that they no longer wait, and how many items of a stream
//! they accept.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::escape::Logged;
use crate::protocol::{
    CANCEL_TYPE, CONTROL_EXCHANGE, CREDIT_TYPE, CancelledCall, ShortStr, read_batch, read_grants,
};
use crate::server::streams::Streams;
use crate::service::Cancellations;
use crate::telemetry::{LogLimit, Suppressed};
use crate::transport::Delivery;

/// Handles what callers tell about the calls that this worker answers.
pub(super) struct Calls {
    /// The routing key of this worker.
    pub(super) worker: ShortStr,
    /// By the routing key of the queue.
    pub(super) cancellations: HashMap<ShortStr, Arc<Cancellations>>,
    pub(super) streams: Option<Arc<Streams>>,
    pub(super) log: ControlLog,
}

/// Logs messages that are ignored. Peers can cause this as often as they like, so the log is
/// limited.
pub(super) struct ControlLog(LogLimit);

impl Default for ControlLog {
    fn default() -> Self {
        Self(LogLimit::new(CONTROL_EXCHANGE))
    }
}

impl ControlLog {
    pub(super) fn ignored(&self, kind: &'static str, reason: impl std::fmt::Display) {
        if let Some(Suppressed(suppressed)) = self.0.admit(tracing::Level::DEBUG, kind) {
            tracing::debug!(reason = %Logged(reason), suppressed, "ignored a control message");
        }
    }
}

impl Calls {
    /// Handles a message about calls. Returns `false` if it is another kind of message, or credit
    /// that this worker cannot use: it has no streams, or the message has no routing key.
    pub(super) fn handle(&self, delivery: &Delivery) -> bool {
        let kind = delivery.message.properties.kind.as_ref();
        match (kind.map(ShortStr::as_str), &self.streams, &delivery.control_key) {
            // Without a key, a message did not come through the control exchange. It must neither
            // grant nor cancel anything; `cancel` checks that itself.
            (Some(CANCEL_TYPE), ..) => self.cancel(delivery),
            (Some(CREDIT_TYPE), Some(streams), Some(_)) => self.grant(streams, delivery),
            _ => return false,
        }
        true
    }

    /// Raises the credit of streams.
    fn grant(&self, streams: &Streams, delivery: &Delivery) {
        match (delivery.malformed, read_grants(&delivery.message.body)) {
            (None, Ok(grants)) => streams.grant(grants),
            (Some(malformed), _) => self.log.ignored("malformed", malformed),
            (None, Err(unreadable)) => self.log.ignored("unreadable", unreadable),
        }
    }

    /// Cancels the calls that a message lists. Its routing key is that of a queue, or that of this
    /// worker: then it ends streams that this worker sends or receives. Without such a key, it is
    /// ignored.
    fn cancel(&self, delivery: &Delivery) {
        let calls = match (
            delivery.malformed,
            read_batch::<CancelledCall>(&delivery.message.body),
        ) {
            (None, Ok(calls)) => calls,
            (Some(malformed), _) => return self.log.ignored("malformed", malformed),
            (None, Err(unreadable)) => return self.log.ignored("unreadable", unreadable),
        };
        let key = delivery.control_key.as_ref();
        if let Some(cancellations) = key.and_then(|key| self.cancellations.get(key)) {
            cancellations.cancel(calls, Instant::now());
        } else if let Some(streams) = &self.streams
            && key == Some(&self.worker)
        {
            let ids = calls.iter().map(|call| call.id);
            let ids: Vec<_> = ids.filter(|id| streams.contains(*id)).collect();
            for cancellations in self.cancellations.values() {
                cancellations.cancel_running(&ids);
            }
        } else {
            self.log
                .ignored("foreign", "it cancels calls of a queue that has none");
        }
    }
}
