//! What an operator sees of calls and requests: spans, the context of traces, metrics.
//!
//! The rest of the crate tells what happens, here and in no other place; where nobody listens, that costs next to nothing.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::{Instrument, Span};

mod metrics;
mod outcome;
mod propagation;
mod span;

#[cfg(feature = "metrics")]
pub use metrics::describe as describe_metrics;
pub(crate) use metrics::{Event, count};
pub(crate) use outcome::Outcome;

use crate::client::Slot;
use crate::error::CallError;
use crate::protocol::Reply;
use crate::server::{Handled, Invocation, Service};
use metrics::Method;
use span::Side;

/// An attempt to call, and its reply.
type Calling = BoxFuture<'static, Result<Reply, CallError>>;

/// Makes a call under the eyes of whoever looks; as it is, where nobody does.
pub(crate) fn call(mut slot: Arc<Slot>, make: impl FnOnce(Arc<Slot>) -> Calling) -> Calling {
    let span = span::of_call(slot.plan());
    // Nobody else has it before it begins.
    if let Some(slot) = Arc::get_mut(&mut slot) {
        propagation::inject(&span, &mut slot.plan_mut().headers);
    }
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
        let counted = Counted::call(method);
        let outcome = calling.await;
        let told = Outcome::of_call(&outcome);
        span::ended(&span, Side::Caller, told);
        counted.ended(told);
        outcome
    })
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
        let counted = Counted::request(method);
        let running = running.instrument(span.clone());
        let mut handled = context.around(&span, running).await;
        span::ended(&span, Side::Worker, handled.outcome);
        counted.ended(handled.outcome);
        propagation::inject(&span, &mut handled.reply.headers);
        handled
    }
}

/// Counts a call, or a request, also where nobody waits for its end.
struct Counted {
    method: Method,
    side: Side,
    /// Nothing where nothing is counted.
    began: Option<Instant>,
    outcome: Option<Outcome>,
}

impl Counted {
    fn call(method: Method) -> Self {
        count(Event::CallBegan(method));
        Self::begin(method, Side::Caller)
    }

    fn request(method: Method) -> Self {
        count(Event::RequestBegan(method));
        Self::begin(method, Side::Worker)
    }

    fn begin(method: Method, side: Side) -> Self {
        Self {
            method,
            side,
            began: metrics::ARE_ON.then(Instant::now),
            outcome: None,
        }
    }

    fn ended(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let took = self.began.map(|began| began.elapsed());
        let ended = self.outcome.zip(took);
        count(match self.side {
            Side::Caller => Event::CallEnded(self.method, ended),
            Side::Worker => Event::RequestEnded(self.method, ended),
        });
    }
}
