//! Begins a stream again after the last item that its reader got.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::inbox::ItemInbox;
use crate::client::call_path::CallPath;
use crate::client::in_flight_call::InFlightCall;
use crate::client::observed::ReplyFuture;
use crate::client::plan::{Arguments, CallPlan};
use crate::client::time_limit::TimeLimit;
use crate::codec::Codec;
use crate::error::{BrokerError, CallError};
use crate::protocol::{FaultCode, MAX_TIME_TO_LIVE, detach};
use crate::transport::Backoff;

/// The argument that gets the last item of an interrupted stream.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct ResumeArgument {
    name: &'static str,
    /// Encodes an item as the argument. `None` if that is impossible.
    encode: fn(Codec, &Bytes) -> Option<Bytes>,
}

impl ResumeArgument {
    /// An argument of the type `Option<T>`, for items of the type `T`.
    pub(in crate::client) fn new<T: 'static>(name: &'static str) -> Self {
        Self {
            name,
            encode: encode_argument::<T>,
        }
    }
}

/// Encodes the item after which a stream is resumed, as the argument that says so. `None` if the
/// item cannot be the argument.
fn encode_argument<T: 'static>(codec: Codec, item: &Bytes) -> Option<Bytes> {
    let argument = codec.argument_of_result::<T>(item)?;
    // The argument `None`, which is encoded like `()`, would begin the stream anew.
    let none = codec.encode(&()).ok()?;
    (argument != none).then_some(argument)
}

/// How a stream that is interrupted begins again, and when.
pub(super) struct Resumption {
    argument: ResumeArgument,
    path: CallPath,
    plan: CallPlan,
    /// The deadline of the handler that makes the call, if the call ends with it.
    ends_at: Option<Instant>,
    /// The last item that the reader got. `None` if there was none since the arguments were last
    /// set.
    last: Option<Bytes>,
    /// Whether the last item is still a part of its message, and keeps all of it in memory.
    keeps_message: bool,
    /// Whether the stream was interrupted after the last item.
    is_interrupted: bool,
    /// When the last call began.
    began_at: Instant,
    backoff: Backoff,
    /// The pause before the next call. `None` if no call is to begin.
    pause: Option<Pin<Box<Sleep>>>,
}

/// A call that resumes a stream.
pub(super) struct ResumingCall {
    pub(super) inbox: Arc<ItemInbox>,
    pub(super) reply: ReplyFuture,
}

impl Resumption {
    pub(super) fn new(
        argument: ResumeArgument,
        path: CallPath,
        mut plan: CallPlan,
        ends_at: Option<Instant>,
    ) -> Self {
        // Without the inbox of the first call: each call that resumes the stream has its own.
        plan.destination = Arc::new(plan.destination.of_one_call());
        Self {
            argument,
            path,
            plan,
            ends_at,
            last: None,
            keeps_message: false,
            is_interrupted: false,
            began_at: Instant::now(),
            backoff: Backoff::new(),
            pause: None,
        }
    }

    /// Records that the reader gets this item.
    pub(super) fn received(&mut self, item: Bytes) {
        self.last = Some(item);
        self.keeps_message = true;
        self.is_interrupted = false;
    }

    /// Records that the reader waits for the next item, perhaps for long. From now on, the last
    /// item does not keep its message in memory.
    pub(super) fn record_waiting(&mut self) {
        if std::mem::take(&mut self.keeps_message)
            && let Some(last) = &mut self.last
        {
            detach(last);
        }
    }

    /// Schedules the next call, after the one with this inbox has failed with this error.
    ///
    /// # Errors
    ///
    /// The error, if it ends the stream: it is final, the last item cannot be the argument, or the
    /// next call could not begin before its deadline.
    pub(super) fn schedule_next_call(
        &mut self,
        error: CallError,
        inbox: &ItemInbox,
    ) -> Result<(), CallError> {
        let is_interruption = is_interruption(&error, inbox.has_begun(), self.is_interrupted);
        if !is_interruption || self.put_last_item_into_arguments().is_none() {
            return Err(error);
        }
        let now = Instant::now();
        self.backoff.worked_for(now - self.began_at);
        let pause = self.backoff.next_delay();
        // A layer's fault may have any `retry_after`, even one that cannot be added.
        let next = now.checked_add(pause.max(error.retry_after().unwrap_or_default()));
        let deadline = self.time_limit(inbox.start_waiting()).deadline;
        let Some(next) = next.filter(|next| *next < deadline) else {
            return Err(error);
        };
        self.is_interrupted = true;
        self.pause = Some(Box::pin(sleep_until(next)));
        Ok(())
    }

    /// Waits for the end of the pause after an interruption, and begins the next call. `None` if no
    /// call is to begin. `inbox` is that of the call before.
    pub(super) fn poll_next_call(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &ItemInbox,
    ) -> Poll<Option<ResumingCall>> {
        let Some(pause) = &mut self.pause else {
            return Poll::Ready(None);
        };
        ready!(pause.as_mut().poll(cx));
        self.pause = None;
        self.began_at = Instant::now();
        let inbox = Arc::new(inbox.for_next_call());
        let mut plan = self.plan.clone();
        plan.destination = Arc::new(plan.destination.with_inbox(Arc::clone(&inbox)));
        let time_limit = self.time_limit(inbox.start_waiting());
        let call = Arc::new(InFlightCall::new(plan));
        let reply = self.path.clone().call_within(call, time_limit);
        Poll::Ready(Some(ResumingCall { inbox, reply }))
    }

    /// Moves the last item, if there is one, into the arguments. `None` if that is impossible.
    fn put_last_item_into_arguments(&mut self) -> Option<()> {
        if let Some(item) = &self.last {
            let plan = &mut self.plan;
            let value = (self.argument.encode)(plan.codec, item)?;
            let arguments = &plan.arguments.0;
            let arguments = plan.codec.with_value(arguments, self.argument.name, &value)?;
            plan.arguments = Arguments(arguments);
            self.last = None;
        }
        Some(())
    }

    /// The time limit of a call that resumes the stream. It starts when the reader begins to wait.
    fn time_limit(&self, waiting_since: Instant) -> TimeLimit {
        let limit = self.plan.timeout.min(MAX_TIME_TO_LIVE);
        let deadline = waiting_since + limit;
        TimeLimit {
            limit,
            deadline: self.ends_at.map_or(deadline, |end| end.min(deadline)),
        }
    }
}

/// Whether a stream that ends with this error is to be resumed. `has_begun` is whether the stream
/// of the failed call had begun, and `is_resuming` whether the stream was interrupted before and
/// has had no item since. If neither is so, this is the error of a call like any other.
fn is_interruption(error: &CallError, has_begun: bool, is_resuming: bool) -> bool {
    match error {
        CallError::Fault(fault) if fault.code == FaultCode::Interrupted => has_begun || is_resuming,
        // The request itself may be why the broker closes channels.
        CallError::Broker {
            source: BrokerError::ChannelClosed { .. },
            ..
        } => has_begun,
        CallError::Broker { source, .. } => source.is_transient() && (has_begun || is_resuming),
        // The node of the queue may be down.
        CallError::Refused { .. } => is_resuming,
        error => is_resuming && error.is_retryable(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::{Executed, Fault};

    fn fault(code: FaultCode) -> CallError {
        CallError::Fault(Fault::new(code, "x"))
    }

    fn no_server() -> CallError {
        CallError::no_server("q")
    }

    fn lost() -> CallError {
        CallError::Broker {
            source: BrokerError::Lost { source: None },
            executed: Executed::Maybe,
        }
    }

    #[test]
    fn a_stream_that_has_not_begun_is_no_stream_to_resume() {
        for error in [fault(FaultCode::Interrupted), lost(), no_server()] {
            assert!(!is_interruption(&error, false, false), "{error:?}");
        }
    }

    #[test]
    fn a_stream_is_resumed_after_what_another_worker_or_session_may_mend() {
        for error in [fault(FaultCode::Interrupted), lost()] {
            assert!(is_interruption(&error, true, false), "{error:?}");
            assert!(is_interruption(&error, false, true), "{error:?}");
        }
        // These are the errors of a call that cannot begin.
        let refused = CallError::Refused { queue: "q".into() };
        for error in [
            no_server(),
            refused,
            fault(FaultCode::Rejected),
            fault(FaultCode::Expired),
        ] {
            assert!(!is_interruption(&error, true, false), "{error:?}");
            assert!(is_interruption(&error, false, true), "{error:?}");
        }
        let timed_out = CallError::TimedOut {
            limit: Duration::ZERO,
            executed: Executed::Maybe,
            source: None,
        };
        let final_faults = [FaultCode::Panicked, FaultCode::Unauthorized, FaultCode::Abandoned].map(fault);
        for error in final_faults.into_iter().chain([timed_out]) {
            assert!(!is_interruption(&error, true, true), "{error:?}");
        }
    }

    #[test]
    fn an_item_becomes_the_argument() {
        let of = |codec, item: &'static [u8]| encode_argument::<u8>(codec, &Bytes::from_static(item));
        assert_eq!(of(Codec::Json, b"7").unwrap(), "7");
        assert_eq!(of(Codec::Json, b"null"), None, "it would begin the stream anew");
        assert_eq!(of(Codec::MessagePack, b"\xc0"), None);
        let bytes = Bytes::from_static(b"\xc4\x01\x07");
        let argument = encode_argument::<Vec<u8>>(Codec::MessagePack, &bytes);
        assert_eq!(argument.unwrap(), &b"\x91\x07"[..]);
    }
}
