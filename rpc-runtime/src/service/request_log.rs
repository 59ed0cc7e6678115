//! What a worker logs of the requests of one queue.
//!
//! A peer can cause any of it as often as it likes, with any text: so the text is escaped, and of each kind of event one in a second is logged.

use tracing::Level;

use super::dispatch::NoReplyAddress;
use super::invocation::Invocation;
use crate::error::Chain;
use crate::escape::Logged;
use crate::protocol::{Fault, FaultCode, Malformed, Properties, Request, ShortStr};
use crate::telemetry::{LogLimit, Suppressed};

/// The log of one queue's requests.
#[derive(Debug)]
pub(crate) struct RequestLog {
    queue: String,
    limit: LogLimit,
}

/// What the log calls a request by.
pub(crate) struct Names {
    method: Option<ShortStr>,
    correlation_id: Option<ShortStr>,
}

impl Names {
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

    /// A request was refused before its method could begin.
    pub(crate) fn refused(&self, fault: &Fault, names: &Names) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::WARN, kind_of(fault)) else {
            return;
        };
        let (queue, code) = (&self.queue, fault.code.as_str());
        let method = names.method.as_ref().map(ShortStr::as_str);
        let correlation_id = names.correlation_id.as_ref().map(ShortStr::as_str);
        tracing::warn!(
            queue,
            code,
            method,
            correlation_id,
            suppressed,
            "refused a request"
        );
    }

    /// A request was dropped: there is nobody who may be answered.
    pub(crate) fn dropped(&self, NoReplyAddress(address): &NoReplyAddress) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::WARN, "reply_address") else {
            return;
        };
        let (queue, reply_to) = (&self.queue, address.as_str());
        tracing::warn!(
            queue,
            reply_to,
            suppressed,
            "dropped a request: its reply_to is not a reply address, see ReplyAddresses"
        );
    }

    /// A request was rejected: it was refused, and there is nobody to tell.
    pub(crate) fn rejected(&self) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::WARN, "rejected_oneway") else {
            return;
        };
        let queue = &self.queue;
        tracing::warn!(
            queue,
            suppressed,
            "rejected a request that has no caller to tell: a dead-letter queue would keep it, see RequestQueue::dead_letter_to"
        );
    }

    /// A request was dropped that was rejected before and came back each time.
    pub(crate) fn went_round(&self, rejections: u32) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::ERROR, "went_round") else {
            return;
        };
        let queue = &self.queue;
        tracing::error!(
            queue,
            rejections,
            suppressed,
            "dropped a request: it was rejected too often and came back each time"
        );
    }

    /// A message of several requests was dropped.
    pub(crate) fn unreadable(&self, error: &dyn std::error::Error) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::ERROR, "batch") else {
            return;
        };
        let (queue, error) = (&self.queue, Logged(Chain(error)));
        tracing::error!(queue, %error, suppressed, "dropped a message of batched requests");
    }

    /// A request came again that runs here, or was done with.
    pub(crate) fn came_again(&self, is_answered: bool) {
        let kind = match is_answered {
            true => "came_again_answered",
            false => "came_again",
        };
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::DEBUG, kind) else {
            return;
        };
        let queue = &self.queue;
        match is_answered {
            true => tracing::debug!(queue, suppressed, "a request that was answered came again"),
            false => tracing::debug!(queue, suppressed, "a request that runs here came again"),
        }
    }

    /// A question to all workers was refused.
    pub(crate) fn refused_question(&self, fault: &Fault) {
        if let Some(Suppressed(suppressed)) = self.limit.admit(Level::DEBUG, kind_of(fault)) {
            let code = fault.code.as_str();
            tracing::debug!(code, suppressed, "refused a question to all workers");
        }
    }

    /// A question to all workers was malformed.
    pub(crate) fn malformed_question(&self, malformed: Malformed) {
        if let Some(Suppressed(suppressed)) = self.limit.admit(Level::DEBUG, "malformed") {
            tracing::debug!(reason = %malformed, suppressed, "ignored a malformed question to all workers");
        }
    }

    /// A question to all workers was not answered while somebody waited for the answer.
    pub(crate) fn unanswered_question(&self) {
        if let Some(Suppressed(suppressed)) = self.limit.admit(Level::DEBUG, "unanswered") {
            tracing::debug!(suppressed, "a question to all workers was not answered in time");
        }
    }

    /// The queue did not take a request that was sent on to it.
    pub(crate) fn not_sent_on(&self, is_oneway: bool) {
        let Some(Suppressed(suppressed)) = self.limit.admit(Level::ERROR, "not_sent_on") else {
            return;
        };
        let queue = &self.queue;
        match is_oneway {
            true => tracing::error!(
                queue,
                suppressed,
                "the queue refused a one-way request that came before; it is rejected"
            ),
            false => tracing::error!(
                queue,
                suppressed,
                "the queue refused a request that came before; its caller will time out"
            ),
        }
    }

    /// A method, or a layer around it, answered with a fault.
    pub(crate) fn failed(&self, fault: &Fault, invocation: &Invocation) {
        // What a layer refuses is its business to tell of, and may be much.
        let level = match fault.code {
            FaultCode::Panicked => Level::ERROR,
            FaultCode::Rejected | FaultCode::Unauthorized => Level::DEBUG,
            _ => Level::WARN,
        };
        let Some(Suppressed(suppressed)) = self.limit.admit(level, kind_of(fault)) else {
            return;
        };
        // Its message may repeat parts of what the caller sent, which does not belong into logs.
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

    /// A reply was larger than may be sent.
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
            "a reply is larger than may be sent"
        );
    }
}

fn kind_of(fault: &Fault) -> &'static str {
    fault.code.known().unwrap_or("other")
}
