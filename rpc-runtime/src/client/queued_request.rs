//! A request that is to be published, and the report to its call.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::in_flight_call::InFlightCall;
use super::plan::CallPlan;
use crate::error::BrokerError;
use crate::transport::{HasLatestSend, Outgoing, Published, SendToken};

/// The name of the task that publishes requests.
pub(super) const SEND_TASK: &str = "outgoing requests";

/// A request that is to be published.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) confirm: PendingConfirm,
    pub(super) deadline: Instant,
    /// Whether an earlier request of the call may have reached a worker.
    pub(super) is_resent: bool,
    /// Its message, if it was built already. It is not built twice, because building it counts the
    /// request, and may record that it asks for the batch size.
    pub(super) built: Option<Box<Outgoing>>,
}

impl QueuedRequest {
    pub(super) fn plan(&self) -> &CallPlan {
        self.confirm.call.plan()
    }

    /// Whether nobody waits for this request: its call was given up before it was sent, or has sent
    /// another request since.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.confirm.is_withdrawn()
    }

    /// Returns the time left until the deadline; see [`time_to_live`]. `None` for a one-way
    /// request, which does not expire: its deadline applies only to the broker's confirm.
    pub(super) fn time_to_live(&self, now: Instant) -> Option<Duration> {
        let expires = !self.plan().method.is_oneway();
        expires.then(|| time_to_live(self.deadline, now))
    }
}

/// The duty to tell a call what became of one of its requests.
///
/// Whoever holds it calls [`resolve`](Self::resolve) once, or leaves that to the transport. If it
/// is dropped instead, because the task that publishes requests has panicked or ended with its
/// runtime, it reports a failure and withdraws a request that was not sent. It reports nothing if
/// the call has withdrawn the request.
#[derive(Debug)]
pub(super) struct PendingConfirm {
    call: Arc<InFlightCall>,
    /// The number of the request among those of its call.
    number: u32,
    /// Whether nothing is left to report from here.
    is_handed_off: bool,
}

impl PendingConfirm {
    pub(super) fn new(call: &Arc<InFlightCall>, number: u32) -> Self {
        Self {
            call: Arc::clone(call),
            number,
            is_handed_off: false,
        }
    }

    pub(super) fn call(&self) -> &Arc<InFlightCall> {
        &self.call
    }

    /// Reports the outcome to the call.
    pub(super) fn resolve(mut self, published: Published) {
        self.is_handed_off = true;
        self.call.deliver_outcome(published);
    }

    /// Leaves it to the transport to report the outcome to the call.
    pub(super) fn leave_to_transport(mut self) {
        self.is_handed_off = true;
    }

    /// Returns the token by which the transport marks the request as sent, unless the call has
    /// withdrawn it.
    pub(super) fn send_token(&self) -> SendToken {
        SendToken::new(Arc::clone(&self.call) as Arc<dyn HasLatestSend>, self.number)
    }

    /// Marks a request in a batch as sent, before the batch is written. Returns `false` if its call
    /// has withdrawn it. For a single request, the transport does that with the
    /// [`send_token`](Self::send_token).
    pub(super) fn mark_sent(&self) -> bool {
        self.call.latest_send().claim(self.number)
    }

    fn is_withdrawn(&self) -> bool {
        self.call.latest_send().is_withdrawn(self.number)
    }
}

impl Drop for PendingConfirm {
    fn drop(&mut self) {
        // No call waits for a request that it has withdrawn.
        if self.is_handed_off || self.is_withdrawn() {
            return;
        }
        // A request that can no longer be withdrawn was marked as sent.
        let written = !self.call.latest_send().withdraw(self.number);
        self.call.deliver_outcome(Published::Failed {
            source: BrokerError::Panicked { task: SEND_TASK },
            written,
        });
    }
}

/// Returns the time left until a deadline, as the expiration of a message: in whole milliseconds,
/// and at least one. It is rounded up, so that a request does not expire before its caller gives
/// up.
pub(super) fn time_to_live(deadline: Instant, now: Instant) -> Duration {
    let left = deadline.saturating_duration_since(now);
    let milliseconds = u64::try_from(left.as_nanos().div_ceil(1_000_000));
    Duration::from_millis(milliseconds.unwrap_or(u64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_to_live_is_rounded_up_and_never_zero() {
        let now = Instant::now();
        let of = |left| time_to_live(now + left, now);
        assert_eq!(of(Duration::ZERO), Duration::from_millis(1));
        assert_eq!(of(Duration::from_nanos(1_000_001)), Duration::from_millis(2));
        assert_eq!(of(Duration::from_millis(30)), Duration::from_millis(30));
    }
}
