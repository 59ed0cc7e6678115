//! What an operator sees of calls and requests: spans, the context of traces, metrics.
//!
//! The rest of the crate tells what happens, here and in no other place; where nobody listens, that costs next to nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, Span};

mod log_limit;
mod metrics;
mod outcome;
mod propagation;
mod span;

pub(crate) use log_limit::{LeftOut, LogLimit};
#[cfg(feature = "metrics")]
pub use metrics::describe as describe_metrics;
pub(crate) use metrics::{Event, count};
pub(crate) use outcome::Outcome;

use crate::client::{Calling, Slot};
use crate::server::{Handled, Invocation, Service};
use metrics::{Ending, Method};
use span::Side;

/// Makes a call under the eyes of whoever looks; as it is, where nobody does.
pub(crate) fn call(mut slot: Arc<Slot>, make: impl FnOnce(Arc<Slot>) -> Calling) -> Calling {
    let span = span::of_call(slot.plan(), "client");
    inject(&span, &mut slot);
    watched(span, slot, Counts::Calls, make)
}

/// The same of a call through layers, whose attempts are sent.
pub(crate) fn layered_call(slot: Arc<Slot>, make: impl FnOnce(Arc<Slot>) -> Calling) -> Calling {
    watched(span::of_call(slot.plan(), "internal"), slot, Counts::Calls, make)
}

/// The same of such an attempt.
pub(crate) fn attempt(mut slot: Arc<Slot>, make: impl FnOnce(Arc<Slot>) -> Calling) -> Calling {
    let span = span::of_call(slot.plan(), "client");
    inject(&span, &mut slot);
    watched(span, slot, Counts::Attempts, make)
}

fn inject(span: &Span, slot: &mut Arc<Slot>) {
    // Nobody else has it before it begins.
    if let Some(slot) = Arc::get_mut(slot) {
        propagation::inject(span, &mut slot.plan_mut().headers);
    }
}

fn watched(span: Span, slot: Arc<Slot>, counts: Counts, make: impl FnOnce(Arc<Slot>) -> Calling) -> Calling {
    if span.is_disabled() && !metrics::ARE_ON {
        return make(slot);
    }
    let id = tracing::field::display(slot.id());
    span.record("messaging.message.conversation_id", id);
    let method = Method {
        service: slot.plan().destination.service.name,
        method: slot.plan().method.name,
    };
    let calling = make(slot).instrument(span.clone());
    Box::pin(async move {
        let counted = Counted::begin(counts, method);
        let outcome = calling.await;
        let told = Outcome::of_call(&outcome);
        span::answered(&span, &outcome);
        span::ended(&span, Side::Caller, told);
        counted.ended(told);
        outcome
    })
}

/// The call that is polled waited in the client for so long until it found a place among those in flight, or none.
pub(crate) fn waited_in_client(time: Duration) {
    span::waited_in_client(&Span::current(), time);
}

/// A request that is run, under the eyes of whoever looks.
pub(crate) struct Handling {
    span: Span,
    context: propagation::Incoming,
    method: Method,
}

impl Handling {
    /// Nothing where nobody looks.
    pub(crate) fn of(service: &dyn Service, queue: &str, invocation: &Invocation) -> Option<Self> {
        let span = span::of_request(service, queue, invocation);
        if span.is_disabled() && !metrics::ARE_ON && !propagation::IS_ON {
            return None;
        }
        let context = propagation::Incoming::continued(&span, invocation.context().headers());
        let method = Method {
            service: service.descriptor().name,
            method: invocation.static_method(),
        };
        Some(Self {
            span,
            context,
            method,
        })
    }

    /// Runs the method.
    pub(crate) async fn run(self, running: impl Future<Output = Handled>) -> Handled {
        let Self {
            span,
            context,
            method,
        } = self;
        let counted = Counted::begin(Counts::Requests, method);
        let running = running.instrument(span.clone());
        let mut handled = context.around(&span, running).await;
        span::ended(&span, Side::Worker, handled.outcome);
        match handled.ran {
            true => counted.ended(handled.outcome),
            false => counted.not_run(),
        }
        propagation::inject(&span, &mut handled.reply.headers);
        handled
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Calls,
    Attempts,
    Requests,
}

/// Counts a call, or a request, also where nobody waits for its end.
struct Counted {
    counts: Counts,
    method: Method,
    /// Nothing where nothing is counted.
    began: Option<Instant>,
    ending: Ending,
}

impl Counted {
    fn begin(counts: Counts, method: Method) -> Self {
        match counts {
            Counts::Calls => count(Event::CallBegan(method)),
            Counts::Attempts => {}
            Counts::Requests => count(Event::RequestBegan(method)),
        }
        Self {
            counts,
            method,
            began: metrics::ARE_ON.then(Instant::now),
            ending: Ending::Dropped,
        }
    }

    fn ended(mut self, outcome: Outcome) {
        if let Some(began) = self.began {
            self.ending = Ending::So(outcome, began.elapsed());
        }
    }

    fn not_run(mut self) {
        self.ending = Ending::NotRun;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Self { method, ending, .. } = *self;
        count(match (self.counts, ending) {
            (Counts::Calls, ending) => Event::CallEnded(method, ending),
            (Counts::Requests, ending) => Event::RequestEnded(method, ending),
            (Counts::Attempts, Ending::So(outcome, _)) => Event::AttemptEnded(method, Some(outcome)),
            (Counts::Attempts, _) => Event::AttemptEnded(method, None),
        });
    }
}
