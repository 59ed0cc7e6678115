//! Checks a reply as it was received.

use crate::codec::Codec;
use crate::error::CallError;
use crate::protocol::{BadReply, Executed, Fault, FaultCode, Reply, ReplyKind};

/// A reply as it was received. It may be unreadable.
pub(super) type ReceivedReply = Result<Reply, BadReply>;

/// Checks a reply before it is returned to its call. `is_resent` says whether several of the call's
/// requests may have reached workers. Then a fault that says that the method did not run is
/// replaced.
///
/// # Errors
///
/// [`CallError::BadReply`] if the reply cannot be read or has more than `max_bytes`.
pub(super) fn check_reply(
    reply: ReceivedReply,
    max_bytes: usize,
    is_resent: bool,
) -> Result<Reply, CallError> {
    let reply = reply.map_err(bad_reply)?;
    let size = reply.body.len();
    if size > max_bytes {
        return Err(bad_reply(format!(
            "it has {size} bytes, and at most {max_bytes} are accepted"
        )));
    }
    if is_resent && reply.kind == ReplyKind::Fault {
        return Ok(fault_of_resent(reply));
    }
    Ok(reply)
}

/// Returns the reply that ends a one-way call or a broadcast: the encoded `()`.
pub(super) fn empty_reply(codec: Codec) -> Result<Reply, CallError> {
    let body = codec.encode(&()).map_err(CallError::Encode)?;
    Ok(Reply::new(ReplyKind::Result, codec, body))
}

/// Returns the fault for the caller, given the fault that answers one of several requests of a
/// call. A worker that refuses a request does not know the others, which may run. So a fault that
/// says that the method did not run becomes `interrupted`. The reply's headers stay.
fn fault_of_resent(reply: Reply) -> Reply {
    let fault = reply.read_fault();
    if fault.code.executed() != Executed::No {
        return reply;
    }
    let message =
        format!("the request was sent several times and may have run; one of them was refused: {fault}");
    let interrupted = Reply::fault(reply.codec, &Fault::new(FaultCode::Interrupted, message));
    Reply {
        body: interrupted.body,
        ..reply
    }
}

/// Builds the error for a reply that is malformed, unsupported or too large. Whatever the kind of
/// the reply, the error says that the method may have run.
fn bad_reply(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CallError {
    CallError::BadReply {
        source: source.into(),
        executed: Executed::Maybe,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::QueueTime;

    #[test]
    fn a_fault_of_one_of_several_requests_does_not_say_that_the_method_did_not_run() {
        let codes = FaultCode::KNOWN.into_iter();
        for code in codes.chain([FaultCode::Other("teapot".into())]) {
            let fault = Fault::new(code.clone(), "no").with_retry_after(Duration::from_millis(70));
            for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
                let queue_time = QueueTime::from_millis(3000);
                let reply = Reply {
                    queue_time,
                    ..Reply::fault(codec, &fault)
                };
                let changed = fault_of_resent(reply);
                assert_eq!(changed.queue_time, queue_time);
                let changed = changed.read_fault();
                if code.executed() != Executed::No {
                    assert_eq!(changed, fault);
                    continue;
                }
                assert_eq!(changed.code, FaultCode::Interrupted, "{code}");
                assert_eq!(changed.retry_after, fault.retry_after);
                assert!(changed.message.ends_with(&fault.to_string()), "{changed}");
            }
        }
    }
}
