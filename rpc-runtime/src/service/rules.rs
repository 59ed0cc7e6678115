//! The limits that a worker applies to requests and replies.

use std::time::Duration;

use tokio::time::Instant;

use super::admission::{Received, is_admitted};
use super::method_record::MethodRecord;
use crate::protocol::{
    Fault, FaultCode, MAX_BROADCAST_BYTES, Message, Reply, ReplyAddresses, Request, ShortStr,
};

/// The limits of a worker for the requests of one queue, and for their replies.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) reply_addresses: ReplyAddresses,
    /// The largest arguments that are accepted, in bytes.
    pub(crate) max_accepted_bytes: usize,
    /// The largest body that is sent, in bytes.
    pub(crate) max_sent_bytes: usize,
    /// How many times a request may be delivered; see [`rerun`](Self::rerun). A first delivery is
    /// always allowed, even if this is 0.
    pub(crate) max_deliveries: u32,
    /// Whether the queue is known to be classic, so that only workers count deliveries.
    pub(crate) is_classic: bool,
    /// Whether a request is refused if its method would not end in time; see
    /// [`admit`](Self::admit).
    pub(crate) admission: bool,
    /// Whether there are layers, which may know the outcome of a request that must not run again.
    pub(crate) layers_may_answer: bool,
}

/// A `reply_to`, or an address in the header `rpc-batch`, that must not get messages; see
/// [`ReplyAddresses`].
#[derive(Debug)]
pub(crate) struct ForbiddenReplyAddress(pub(crate) ShortStr);

impl Rules {
    /// Checks the `reply_to` of a request. An empty one asks for no reply.
    ///
    /// # Errors
    ///
    /// Returns the address if it must not get replies: it could be any queue.
    pub(crate) fn check_reply_address(&self, address: &ShortStr) -> Result<(), ForbiddenReplyAddress> {
        match address.as_str() {
            "" => Ok(()),
            name if self.reply_addresses.allows(name) => Ok(()),
            _ => Err(ForbiddenReplyAddress(address.clone())),
        }
    }

    pub(super) fn check_request_size(&self, request: &Request) -> Result<(), Fault> {
        check_size(request.arguments.len(), self.max_accepted_bytes)
    }

    pub(super) fn check_broadcast_size(&self, message: &Message) -> Result<(), Fault> {
        check_size(
            message.body.len(),
            self.max_accepted_bytes.min(MAX_BROADCAST_BYTES),
        )
    }

    /// Checks the size of a reply.
    ///
    /// # Errors
    ///
    /// Returns the fault to send instead.
    pub(super) fn check_reply_size(&self, reply: &Reply) -> Result<(), Fault> {
        let (size, limit) = (reply.body.len(), self.max_sent_bytes);
        if size <= limit {
            return Ok(());
        }
        let message = format!(
            "the method ran, and its reply of {size} bytes is larger than the {limit} that may be sent"
        );
        Err(Fault::new(FaultCode::ReplyTooLarge, message))
    }

    /// Checks that the caller has not given up yet. With admission, also checks that the method is
    /// likely to end before that, unless its duration is not known yet or the request waited only
    /// briefly; see [`is_admitted`].
    ///
    /// # Errors
    ///
    /// Returns the fault `expired`.
    pub(super) fn admit(
        &self,
        time_to_live: Duration,
        received: Received,
        now: Instant,
        record: &MethodRecord,
    ) -> Result<(), Fault> {
        let Some(deadline) = received.deadline(time_to_live) else {
            return Ok(());
        };
        if deadline <= now {
            let message = "the caller's time was up before the method could start";
            return Err(expired_fault(message, received));
        }
        let Some(duration) = record.recent_duration.mean().filter(|_| self.admission) else {
            return Ok(());
        };
        if is_admitted(received, time_to_live, deadline, now, duration) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(now);
        let message = format!("the caller waits for {left:.0?} more, and the method takes {duration:.0?}");
        Err(expired_fault(message, received))
    }
}

fn check_size(size: usize, limit: usize) -> Result<(), Fault> {
    if size <= limit {
        return Ok(());
    }
    let message = format!("the request has {size} bytes, and at most {limit} are accepted");
    Err(Fault::new(FaultCode::TooLarge, message))
}

/// Makes the fault `expired` of a request that cannot be answered in time. A caller that retries
/// before the queue is shorter gets the same fault. So the fault advises to wait as long as this
/// request has waited in the queue, if that is known.
fn expired_fault(reason: impl Into<String>, received: Received) -> Fault {
    let fault = Fault::new(FaultCode::Expired, reason);
    if received.waited.is_zero() {
        fault
    } else {
        fault.with_retry_after(received.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::super::decision::{Decision, Refusal};
    use super::super::fixtures::{decide, message, refused, request, rules, runs, store};
    use super::*;

    #[test]
    fn only_a_request_that_cannot_be_answered_in_time_is_shed() {
        let store = store();
        let shed = |method, waited| {
            let message = message(request(method));
            let now = Instant::now();
            let waited = Duration::from_millis(waited);
            let received = Received {
                waited,
                ..Received::at(now)
            };
            match store.decide(message, false, received, now, &rules()) {
                Ok(Decision::Refuse(Refusal { shed_method, .. })) => shed_method.map(|record| record.method),
                _ => Some("the method runs"),
            }
        };
        assert_eq!(shed("write", 1001), Some("write"));
        assert_eq!(shed("write", 999), Some("the method runs"));
        assert_eq!(shed("erase", 1001), None);
    }

    #[test]
    fn a_request_that_waited_here_past_its_deadline_does_not_run() {
        let dispatcher = store();
        let message = || message(request("read"));
        let arrived = Instant::now();
        let after = |time| {
            let decided =
                dispatcher.decide(message(), false, Received::at(arrived), arrived + time, &rules());
            decided.unwrap()
        };
        assert_eq!(runs(after(Duration::from_millis(999))), "read");
        assert_eq!(refused(after(Duration::from_secs(1))), FaultCode::Expired);
    }

    #[test]
    fn a_request_without_time_left_does_not_run() {
        let mut properties = request("read");
        properties.expiration = Some(Duration::ZERO);
        assert_eq!(refused(decide(properties, false)), FaultCode::Expired);
    }
}
