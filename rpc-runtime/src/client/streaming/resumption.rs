//! Begins a stream again after the last item that its reader got.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep, sleep_until};

use super::inbox::ItemInbox;
use crate::client::call_path::CallPath;
use crate::client::in_flight_call::InFlightCall;
use crate::client::observed::ReplyFuture;
use crate::client::plan::{Arguments, CallPlan};
use crate::client::time_limit::TimeLimit;
use crate::codec::Codec;
use crate::error::CallError;
use crate::protocol::{Executed, Fault, FaultCode, MAX_TIME_TO_LIVE};
use crate::transport::Backoff;

/// The argument that gets the last item of an interrupted stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResumeArgument {
    name: &'static str,
    /// Encodes an item as the argument.
    encode: fn(Codec, &[u8]) -> Option<Bytes>,
}

impl ResumeArgument {
    /// An argument of the type `Option<T>`.
    pub(super) fn new<T: Serialize + DeserializeOwned + 'static>(name: &'static str) -> Self {
        let encode = |codec: Codec, item: &[u8]| {
            // An item may be encoded in another form than an argument: bytes are.
            let item = codec.decode_result::<T>(item).ok()?;
            let argument = codec.encode(&Some(item)).ok()?;
            // It would begin the stream anew.
            let is_none = argument == codec.encode(&None::<T>).ok()?;
            (!is_none).then_some(argument)
        };
        Self { name, encode }
    }
}

/// How a stream that is interrupted begins again, and how often.
pub(super) struct Resumption {
    argument: ResumeArgument,
    path: CallPath,
    plan: CallPlan,
    /// When the handler that reads the stream has to end.
    ends_at: Option<Instant>,
    /// The last item that the reader got. `None` if the arguments name it.
    last: Option<Bytes>,
    /// Whether the stream was interrupted after the last item.
    is_interrupted: bool,
    backoff: Backoff,
    /// The pause before the next attempt.
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
        plan: CallPlan,
        ends_at: Option<Instant>,
    ) -> Self {
        Self {
            argument,
            path,
            plan,
            ends_at,
            last: None,
            is_interrupted: false,
            backoff: Backoff::new(),
            pause: None,
        }
    }

    /// Records that the reader gets this item.
    pub(super) fn received(&mut self, item: Bytes) {
        self.last = Some(item);
        if std::mem::take(&mut self.is_interrupted) {
            self.backoff = Backoff::new();
        }
    }

    /// Decides whether the stream is resumed after this error: unless it is final, or the reader
    /// has waited for too long. `waiting_since` is since when it waits for the next item.
    ///
    /// # Errors
    ///
    /// The error of the stream.
    pub(super) fn interrupt(&mut self, error: CallError, waiting_since: Instant) -> Result<(), CallError> {
        if !is_interruption(&error, self.is_interrupted) || self.name_last_item().is_none() {
            return Err(self.final_error(error));
        }
        let pause = match self.is_interrupted {
            true => self.backoff.next_delay(),
            false => Duration::ZERO,
        };
        let next = Instant::now() + pause.max(error.retry_after().unwrap_or_default());
        if self.time_limit(waiting_since).deadline <= next {
            return Err(self.final_error(error));
        }
        self.is_interrupted = true;
        self.pause = Some(Box::pin(sleep_until(next)));
        Ok(())
    }

    /// Waits for the end of the pause after an interruption, and begins the next call. `None` if
    /// the stream is not interrupted. `inbox` is that of the call before.
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
        let inbox = Arc::new(inbox.for_next_call());
        let mut plan = self.plan.clone();
        plan.destination = Arc::new(plan.destination.with_items(Arc::clone(&inbox)));
        let time_limit = self.time_limit(inbox.waiting_since());
        let call = Arc::new(InFlightCall::new(plan));
        let reply = self.path.clone().call_within(call, time_limit);
        Poll::Ready(Some(ResumingCall { inbox, reply }))
    }

    /// Puts the last item into the arguments. `None` if that is impossible.
    fn name_last_item(&mut self) -> Option<()> {
        if let Some(item) = &self.last {
            let value = (self.argument.encode)(self.plan.codec, item)?;
            let Arguments(arguments) = &self.plan.arguments;
            let arguments = self
                .plan
                .codec
                .with_value(arguments, self.argument.name, &value)?;
            self.plan.arguments = Arguments(arguments);
            self.last = None;
        }
        Some(())
    }

    /// The time limit of a call that resumes the stream.
    fn time_limit(&self, waiting_since: Instant) -> TimeLimit {
        let limit = self.plan.timeout.min(MAX_TIME_TO_LIVE);
        let deadline = waiting_since + limit;
        TimeLimit {
            limit,
            deadline: self.ends_at.map_or(deadline, |end| end.min(deadline)),
        }
    }

    /// The error that the reader gets. It must not say that the method did not run if only the
    /// attempt to resume failed.
    fn final_error(&self, error: CallError) -> CallError {
        if !self.is_interrupted || error.executed() != Executed::No {
            return error;
        }
        let reason = format!("the stream was interrupted, and could not be resumed: {error}");
        CallError::Fault(Fault::new(FaultCode::Interrupted, reason))
    }
}

/// Whether a stream that ends with this error is to be resumed. `is_resuming` is whether the call
/// that failed was to resume it.
fn is_interruption(error: &CallError, is_resuming: bool) -> bool {
    match error {
        // A worker sends `abandoned` if it has not heard of the caller for a while.
        CallError::Fault(fault) if matches!(fault.code, FaultCode::Interrupted | FaultCode::Abandoned) => {
            true
        }
        CallError::Broker { source, .. } => source.is_transient(),
        error => is_resuming && error.is_retryable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BrokerError;

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
    fn a_stream_is_resumed_after_what_another_worker_or_session_may_mend() {
        for error in [fault(FaultCode::Interrupted), fault(FaultCode::Abandoned), lost()] {
            assert!(is_interruption(&error, false), "{error:?}");
        }
        // These are the errors of a call that cannot begin.
        for error in [no_server(), fault(FaultCode::Rejected), fault(FaultCode::Expired)] {
            assert!(
                !is_interruption(&error, false) && is_interruption(&error, true),
                "{error:?}"
            );
        }
        let timed_out = CallError::TimedOut {
            limit: Duration::ZERO,
            executed: Executed::Maybe,
            source: None,
        };
        for error in [
            timed_out,
            fault(FaultCode::Panicked),
            fault(FaultCode::Unauthorized),
        ] {
            assert!(!is_interruption(&error, true), "{error:?}");
        }
    }

    #[test]
    fn an_item_becomes_the_argument() {
        let of =
            |codec: Codec, item: &[u8]| (ResumeArgument::new::<Option<Vec<u8>>>("a").encode)(codec, item);
        let json = of(Codec::Json, b"[1,2]").unwrap();
        assert_eq!(&json[..], b"[1,2]");
        assert_eq!(of(Codec::Json, b"null"), None, "it would begin the stream anew");
        assert_eq!(of(Codec::MessagePack, b"\xc0"), None);
        assert_eq!(of(Codec::Json, b"7"), None);
    }
}
