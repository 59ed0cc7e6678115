//! Records the end of a call or a request in its span and in metrics, even if its future is
//! dropped.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Span;

use super::counted::Counted;
use super::items::ItemFlow;
use super::method::Method;
use super::metrics::{Ending, Event, count};
use super::outcome::Outcome;
use super::span::record_outcome;

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
        let began = Instant::now();
        count(Event::Began(counted, &method, began));
        Self {
            counted,
            method,
            span,
            items,
            began,
            ending: Ending::Dropped,
        }
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Ends a call or a request with this outcome. `drop`, which follows at once, counts it.
    pub(super) fn end(mut self, outcome: Outcome) {
        record_outcome(&self.span, self.counted.side(), outcome);
        self.ending = Ending::Completed(outcome, self.began.elapsed());
    }

    /// Ends a request whose method did not run. It counts as refused, not as run.
    pub(super) fn end_without_run(mut self, outcome: Outcome) {
        record_outcome(&self.span, self.counted.side(), outcome);
        self.ending = Ending::NotRun;
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let now = match self.ending {
            // When `end` read the clock.
            Ending::Completed(_, took) => self.began + took,
            Ending::NotRun => Instant::now(),
            Ending::Dropped => {
                record_outcome(&self.span, self.counted.side(), Outcome::Cancelled);
                Instant::now()
            }
        };
        if let Some(items) = &self.items {
            items.record(&self.span);
        }
        count(Event::Ended(self.counted, &self.method, self.ending, now));
    }
}
