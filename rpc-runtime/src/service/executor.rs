//! Runs the method of a request, wherever the request came from.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::context::with_ambient_deadline;
use super::dispatch::{Rules, truthful};
use super::invocation::{Answer, Invocation, Service};
use super::request_log::RequestLog;
use crate::protocol::{Executed, Fault, FaultCode, Reply};
use crate::telemetry::{Outcome, RequestEnd, RequestInfo, RequestSpan};

/// A request that was handed to its method, or to the layers around that.
pub(crate) struct Handled {
    pub(crate) reply: Reply,
    pub(crate) outcome: Outcome,
    /// The method may have run: its arguments could be read, and no layer refused the request.
    pub(crate) ran: bool,
}

impl Handled {
    fn end(&mut self) -> RequestEnd<'_> {
        RequestEnd {
            outcome: self.outcome,
            ran: self.ran,
            headers: &mut self.reply.headers,
        }
    }
}

/// Runs the method of a request from this queue. A panic is the fault `panicked`.
pub(crate) async fn run(
    service: &dyn Service,
    queue: &str,
    log: &RequestLog,
    rules: &Rules,
    invocation: &Invocation,
) -> Handled {
    let running = caught(service, log, rules, invocation);
    let context = invocation.context();
    let span = RequestSpan::new(RequestInfo {
        service: service.descriptor().name,
        method: invocation.static_method(),
        queue,
        correlation_id: context.correlation_id(),
        queue_time: context.queue_time(),
        bytes: invocation.bytes(),
        headers: context.headers(),
    });
    match span {
        None => running.await,
        // In a box, so that the future is no larger if nobody collects spans.
        Some(span) => Box::pin(span.run(running, Handled::end)).await,
    }
}

async fn caught(service: &dyn Service, log: &RequestLog, rules: &Rules, invocation: &Invocation) -> Handled {
    // Called in there, so that a panic before its future exists is caught too.
    let handling = with_ambient_deadline(invocation.context().tokio_deadline(), async {
        service.handle(invocation).await
    });
    let mut ran = true;
    let fault = match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(Ok(Answer(reply))) => match rules.check_reply(&reply) {
            Ok(()) => {
                let outcome = Outcome::of_answer(&reply);
                return Handled { reply, outcome, ran };
            }
            Err(too_large) => {
                log.too_large(reply.body.len(), rules.max_sent_bytes);
                too_large
            }
        },
        Ok(Err(fault)) => {
            ran = fault.code.executed() != Executed::No;
            let fault = truthful(fault, invocation.context().came_before());
            log.failed(&fault, invocation);
            fault
        }
        Err(_) => {
            // The panic's message went to the worker's own panic hook; it is not for the caller to read.
            let message = format!("the method {:?} panicked", invocation.method());
            let fault = Fault::new(FaultCode::Panicked, message);
            log.failed(&fault, invocation);
            fault
        }
    };
    Handled {
        reply: Reply::fault(invocation.codec(), &fault),
        outcome: Outcome::of_fault(&fault.code),
        ran,
    }
}
