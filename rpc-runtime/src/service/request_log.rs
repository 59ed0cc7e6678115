//! What a worker logs about the requests of one queue, or about those of discovery.
//!
//! A peer can cause any of these events as often as it likes, with any text. The text is therefore
//! escaped: subscribers escape the fields that are a `&str`, and what is formatted with `%` is
//! wrapped in [`Logged`]. At most one event of each kind is logged per second.

use tracing::Level;

use super::invocation::Invocation;
use super::rules::ForbiddenReplyAddress;
use crate::error::Chain;
use crate::escape::Logged;
use crate::protocol::{Fault, FaultCode, Properties, Request, ShortStr};
use crate::telemetry::{EventKind, LogLimit, Suppressed};

/// The log of one queue's requests, or of those of discovery.
#[derive(Debug)]
pub(crate) struct RequestLog {
    queue: String,
    limit: LogLimit,
}

/// What identifies a request in the log.
#[derive(Default)]
pub(crate) struct RequestLabel {
    method: Option<ShortStr>,
    correlation_id: Option<ShortStr>,
}

/// What has become of a request that is delivered again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PriorState {
    /// It is in progress here.
    InProgress,
    /// It has ended here, or a copy of it was forwarded or moved.
    Ended,
    /// It was rejected.
    Rejected,
}

impl RequestLabel {
    pub(crate) fn of(properties: &Properties) -> Self {
        Self {
            method: properties.kind.clone(),
            correlation_id: properties.correlation_id.clone(),
        }
    }

    pub(crate) fn of_batched(request: &Request) -> Self {
        Self {
            method: request.method.clone(),
            correlation_id: request.correlation_id.clone(),
        }
    }
}

impl RequestLog {
    pub(crate) fn new(queue: impl Into<String>) -> Self {
        let queue = queue.into();
        Self {
            limit: LogLimit::new(queue.clone()),
            queue,
        }
    }

    /// Logs a request that was refused before its method began.
    pub(crate) fn refused(&self, fault: &Fault, label: &RequestLabel) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::WARN, kind_of("refused", fault)) else {
            return;
        };
        let (queue, code) = (&self.queue, fault.code.as_str());
        let method = label.method.as_ref().map(ShortStr::as_str);
        let correlation_id = label.correlation_id.as_ref().map(ShortStr::as_str);
        tracing::warn!(
            queue,
            code,
            method,
            correlation_id,
            suppressed,
            "refused a request"
        );
    }

    /// Logs a request that is rejected without running it, because replies to its `reply_to` are
    /// not allowed.
    pub(crate) fn reply_address_forbidden(&self, ForbiddenReplyAddress(address): &ForbiddenReplyAddress) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::WARN, "reply_address") else {
            return;
        };
        let (queue, reply_to) = (&self.queue, address.as_str());
        tracing::warn!(
            queue,
            reply_to,
            suppressed,
            "rejected a request without running it: replies to its reply_to are not allowed, see ReplyAddresses"
        );
    }

    /// Logs that the sender of a one-way request is not told a batch size, because the address in
    /// the header `rpc-batch` must not get messages.
    pub(crate) fn batch_size_not_sent(&self, ForbiddenReplyAddress(address): &ForbiddenReplyAddress) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::DEBUG, "batch_size") else {
            return;
        };
        let (queue, address) = (&self.queue, address.as_str());
        tracing::debug!(
            queue,
            address,
            suppressed,
            "the header rpc-batch of a one-way request is no reply address, see ReplyAddresses"
        );
    }

    /// Logs a rejected request that gets no reply: a refused one-way request, a request with a
    /// forbidden `reply_to`, or a batch that can be neither read nor answered.
    pub(crate) fn rejected(&self) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::WARN, "rejected") else {
            return;
        };
        let queue = &self.queue;
        tracing::warn!(
            queue,
            suppressed,
            "rejected a request that gets no reply; it is lost unless the queue has a dead-letter queue (RequestQueue::dead_letter_to)"
        );
    }

    /// Logs a request that was acked without a reply because it was rejected too often.
    pub(crate) fn rejected_too_often(&self, rejections: u32) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::ERROR, "rejected_too_often") else {
            return;
        };
        let queue = &self.queue;
        tracing::error!(
            queue,
            rejections,
            suppressed,
            "dropped a request: it was rejected too often, and was delivered again each time"
        );
    }

    pub(crate) fn unreadable_batch(&self, error: &dyn std::error::Error) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::ERROR, "batch") else {
            return;
        };
        let (queue, error) = (&self.queue, Logged(Chain(error)));
        tracing::error!(queue, %error, suppressed, "refused a batch that cannot be read");
    }

    /// Logs a request that was delivered again and does not run for this delivery.
    pub(crate) fn redelivered(&self, prior: PriorState) {
        let (kind, message) = match prior {
            PriorState::InProgress => ("redelivered", "a request in progress was delivered again"),
            PriorState::Ended => (
                "redelivered_ended",
                "a request that has ended or was forwarded was delivered again",
            ),
            PriorState::Rejected => ("redelivered_rejected", "a rejected request was delivered again"),
        };
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::DEBUG, kind) else {
            return;
        };
        let queue = &self.queue;
        tracing::debug!(queue, suppressed, "{message}");
    }

    /// Logs a discovery request that was refused before its method began.
    pub(crate) fn refused_discovery(&self, fault: &Fault) {
        if let Some(Suppressed(suppressed)) = self
            .limit
            .admit(Level::DEBUG, kind_of("refused_discovery", fault))
        {
            let code = fault.code.as_str();
            tracing::debug!(code, suppressed, "refused a discovery request");
        }
    }

    pub(crate) fn discovery_timed_out(&self) {
        if let Some(Suppressed(suppressed)) = self.limit.admit(Level::DEBUG, "unanswered") {
            tracing::debug!(suppressed, "a discovery request was not answered in time");
        }
    }

    /// Logs that the broker refused the copy of a request that was to be forwarded.
    pub(crate) fn not_forwarded(&self, is_oneway: bool) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::ERROR, "not_forwarded") else {
            return;
        };
        let queue = &self.queue;
        let consequence = if is_oneway {
            "the request is rejected"
        } else {
            "its caller will time out"
        };
        tracing::error!(
            queue,
            suppressed,
            "the broker refused the copy of a request that was to be forwarded: {consequence}"
        );
    }

    /// Logs a fault of a method or of a layer around it.
    pub(crate) fn failed(&self, fault: &Fault, invocation: &Invocation) {
        // Layers may refuse many requests, and can log that themselves.
        let level = match fault.code {
            FaultCode::Panicked => Level::ERROR,
            FaultCode::Rejected | FaultCode::Unauthorized => Level::DEBUG,
            _ => Level::WARN,
        };
        let Some(Suppressed(suppressed)) = self.limit.admit(level, kind_of("failed", fault)) else {
            return;
        };
        // The fault's message is not logged: it may repeat parts of the request.
        let (queue, code) = (&self.queue, fault.code.as_str());
        let (method, correlation_id) = (invocation.method(), invocation.context().correlation_id());
        match level {
            Level::ERROR => tracing::error!(queue, method, correlation_id, suppressed, "a method panicked"),
            Level::DEBUG => {
                tracing::debug!(
                    queue,
                    code,
                    method,
                    correlation_id,
                    suppressed,
                    "a layer refused a request"
                );
            }
            _ => tracing::warn!(
                queue,
                code,
                method,
                correlation_id,
                suppressed,
                "a request ended with a fault"
            ),
        }
    }

    /// Logs a reply that is larger than the broker handle allows.
    pub(crate) fn too_large(&self, size: usize, limit: usize) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::WARN, "reply_size") else {
            return;
        };
        let queue = &self.queue;
        tracing::warn!(
            queue,
            size,
            limit,
            suppressed,
            "a reply is larger than the broker handle allows"
        );
    }
}

/// Returns the kind of an event about a fault. Codes that this version does not know share one
/// kind: they may be any text, and the log limit remembers every kind, so there must be a bound on
/// their number.
fn kind_of(event: &'static str, fault: &Fault) -> EventKind {
    EventKind {
        event,
        code: Some(fault.code.known_str().unwrap_or("other")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::super::admission::Received;
    use super::super::context::Context;
    use super::*;
    use crate::codec::Codec;
    use crate::protocol::Message;

    /// Records the levels of events.
    #[derive(Default, Clone)]
    struct Levels(Arc<Mutex<Vec<Level>>>);

    impl Subscriber for Levels {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn no_event_about_a_code_hides_another_one() {
        let mut request = Request::from_message(Message::default()).unwrap();
        let received = Received::at(tokio::time::Instant::now());
        let context = Context::new("f", &mut request, received, false);
        let invocation = Invocation::new(context, Codec::Json, Bytes::new());
        let levels = Levels::default();
        tracing::subscriber::with_default(levels.clone(), || {
            let log = RequestLog::new("q");
            for _ in 0..2 {
                let rejected = Fault::new(FaultCode::Rejected, "");
                log.refused_discovery(&rejected);
                log.failed(&rejected, &invocation);
                log.refused(&rejected, &RequestLabel::default());
                let expired = Fault::new(FaultCode::Expired, "");
                log.refused(&expired, &RequestLabel::default());
                log.failed(&expired, &invocation);
            }
            // What was suppressed is not logged before it is dropped.
            let levels = levels.0.lock().unwrap().clone();
            let once = [Level::DEBUG, Level::DEBUG, Level::WARN, Level::WARN, Level::WARN];
            assert_eq!(levels, once);
        });
    }
}
