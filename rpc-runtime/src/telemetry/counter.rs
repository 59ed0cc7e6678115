//! Records the end of a call or a request in its span and in metrics, even if its future is
//! dropped.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Span;

use super::items::ItemFlow;
use super::metrics::{Ending, Event, Method, count};
use super::outcome::Outcome;
use super::span::{Side, record_outcome};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Calls,
    Attempts,
    Requests,
}

impl Counted {
    fn side(self) -> Side {
        match self {
            Self::Calls | Self::Attempts => Side::Caller,
            Self::Requests => Side::Worker,
        }
    }
}

/// Counts the start and the end of a call or a request, and records the end in its span. If it is
/// dropped before it ends, it is recorded as cancelled.
pub(super) struct Counter {
    counted: Counted,
    method: Method,
    span: Span,
    /// The streams of the call or request. `None` if it has none.
    items: Option<Arc<ItemFlow>>,
    began: Instant,
    /// What `drop` counts. [`Ending::Dropped`] until the end is known.
    ending: Ending,
}

impl Counter {
    /// Counts the start, except of an attempt, which is only counted when it ends.
    pub(super) fn begin(counted: Counted, method: Method, span: Span, items: Option<Arc<ItemFlow>>) -> Self {
        match counted {
            Counted::Calls => count(Event::CallBegan(&method)),
            Counted::Attempts => {}
            Counted::Requests => count(Event::RequestBegan(&method)),
        }
        Self {
            counted,
            method,
            span,
            items,
            began: Instant::now(),
            ending: Ending::Dropped,
        }
    }

    /// Ends a call or a request that completed. `drop`, which follows at once, counts it.
    pub(super) fn ended(mut self, outcome: Outcome) {
        record_outcome(&self.span, self.counted.side(), outcome);
        self.ending = Ending::Completed(outcome, self.began.elapsed());
    }

    /// Ends a request that was refused. Its method did not run.
    pub(super) fn not_run(mut self, outcome: Outcome) {
        record_outcome(&self.span, self.counted.side(), outcome);
        self.ending = Ending::NotRun;
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let (method, ending) = (&self.method, self.ending);
        if matches!(ending, Ending::Dropped) {
            record_outcome(&self.span, self.counted.side(), Outcome::Cancelled);
        }
        if let Some(items) = &self.items {
            items.record(&self.span);
        }
        count(match (self.counted, ending) {
            (Counted::Calls, ending) => Event::CallEnded(method, ending),
            (Counted::Requests, ending) => Event::RequestEnded(method, ending),
            (Counted::Attempts, Ending::Completed(outcome, _)) => Event::AttemptEnded(method, Some(outcome)),
            (Counted::Attempts, _) => Event::AttemptEnded(method, None),
        });
    }
}
