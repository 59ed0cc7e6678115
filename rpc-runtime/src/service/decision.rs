//! What a worker decides about a request: run its method, refuse it with a fault, or do neither
//! because the call was cancelled.

use std::fmt;

use uuid::Uuid;

use super::invocation::{Invocation, Service};
use super::method_record::MethodRecord;
use crate::codec::Codec;
use crate::protocol::{Executed, Fault, FaultCode, Message, Reply, ShortStr, Volume};

/// What to do with a request.
pub(crate) enum Decision<'a> {
    /// Pass it to its service, then send the reply if one is expected.
    Run(AdmittedRequest<'a>),
    /// Do not run the method. Send this reply if one is expected.
    Refuse(Refusal<'a>),
    /// Neither run the method nor reply: the caller has cancelled the call.
    Cancelled(&'a MethodRecord),
}

/// A request that is not refused. Its method runs, or only layers may answer it; see
/// [`Invocation::may_run`].
pub(crate) struct AdmittedRequest<'a> {
    pub(crate) service: &'a dyn Service,
    pub(crate) invocation: Invocation,
    pub(crate) record: &'a MethodRecord,
    /// Whether the method's future is dropped once the caller no longer waits.
    pub(crate) can_be_cancelled: bool,
    /// Whether a caller waits for a reply message, so that it can cancel the call with another one.
    /// `false` for a caller in the same process, which drops the method itself.
    pub(crate) caller_waits: bool,
    /// Whether it is a job, so that only the worker learns its outcome.
    pub(crate) is_job: bool,
    /// Whether the caller asks how many calls of the method to put into one batch, and may batch
    /// them.
    pub(crate) asks_batch_size: bool,
    /// `None` unless the caller reads or sends a stream. Boxed because few do.
    pub(crate) stream: Option<Box<StreamRequest>>,
    /// `None` if no reply is expected, or if it is not sent as a message of its own: the request is
    /// part of a batch, or its caller is in the same process.
    pub(crate) reply_to: Option<ReplyTo>,
}

/// What the caller of a stream asks for. It reads a stream, sends one, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamRequest {
    /// The correlation id. Credit is granted to it.
    pub(crate) id: Uuid,
    /// What may be sent at first. `None` if the caller expects one reply.
    pub(crate) credit: Option<Volume>,
    /// Whether the caller sends items.
    pub(crate) sends_items: bool,
    /// Whether the caller has sent the request before.
    pub(crate) is_resent: bool,
}

/// A request whose method does not run.
pub(crate) struct Refusal<'a> {
    pub(crate) reply: Reply,
    pub(crate) fault: Fault,
    /// See [`AdmittedRequest::reply_to`].
    pub(crate) reply_to: Option<ReplyTo>,
    /// The record of the method, if [`Rules::admit`](super::rules::Rules::admit) refused the
    /// request: its time was up, or the method would not end in time.
    pub(crate) shed_method: Option<&'a MethodRecord>,
}

/// Where a reply goes, and what it copies from its request.
#[derive(Debug, Clone)]
pub(crate) struct ReplyTo {
    pub(crate) address: ShortStr,
    pub(crate) correlation_id: Option<ShortStr>,
    /// The content type as the request spells it, but without the charset US-ASCII. `None` if the
    /// codec's standard name is to be used.
    pub(crate) content_type: Option<ShortStr>,
}

impl ReplyTo {
    /// Returns the message that carries a reply.
    pub(crate) fn message(&self, reply: Reply) -> Message {
        let mut message = reply.into_message(self.correlation_id.clone());
        if let Some(content_type) = &self.content_type {
            message.properties.content_type = Some(content_type.clone());
        }
        message
    }
}

impl<'a> Decision<'a> {
    /// Refuses a request. `may_have_run` is whether an earlier delivery may have run the method:
    /// then the fault says so.
    pub(crate) fn refuse(codec: Codec, fault: Fault, reply_to: Option<ReplyTo>, may_have_run: bool) -> Self {
        let fault = replace_if_may_have_run(fault, may_have_run);
        Self::Refuse(Refusal {
            reply: Reply::fault(codec, &fault),
            fault,
            reply_to,
            shed_method: None,
        })
    }

    /// Records the method of a refused request; see [`Refusal::shed_method`].
    pub(super) fn with_shed_method(mut self, record: &'a MethodRecord) -> Self {
        if let Self::Refuse(refusal) = &mut self {
            refusal.shed_method = Some(record);
        }
        self
    }

    /// Where the reply goes; see [`AdmittedRequest::reply_to`].
    pub(crate) fn reply_to(&self) -> Option<&ReplyTo> {
        match self {
            Self::Run(AdmittedRequest { reply_to, .. }) | Self::Refuse(Refusal { reply_to, .. }) => {
                reply_to.as_ref()
            }
            Self::Cancelled(_) => None,
        }
    }
}

/// Replaces a fault that says that the method did not run with `interrupted`, if an earlier
/// delivery may have run it.
pub(super) fn replace_if_may_have_run(fault: Fault, may_have_run: bool) -> Fault {
    if may_have_run && fault.code.executed() == Executed::No {
        Fault {
            retry_after: fault.retry_after,
            ..interrupted(fault)
        }
    } else {
        fault
    }
}

/// The fault of a refused request if an earlier delivery may have run it.
pub(super) fn interrupted(reason: impl fmt::Display) -> Fault {
    let message = format!(
        "the method may have run for an earlier delivery of this request, and this one is refused: {reason}"
    );
    Fault::new(FaultCode::Interrupted, message)
}
