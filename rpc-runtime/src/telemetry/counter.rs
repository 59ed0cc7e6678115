//! Counts a call or a request, even if its future is dropped.

use tokio::time::Instant;

use super::metrics::{self, Ending, Event, Method, count};
use super::outcome::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Calls,
    Attempts,
    Requests,
}

/// Counts the start and the end of a call or a request. If it is dropped before it ends, it is
/// counted as cancelled.
pub(super) struct Counter {
    counted: Counted,
    method: Method,
    /// `None` if metrics are off.
    began: Option<Instant>,
    ending: Ending,
}

impl Counter {
    pub(super) fn begin(counted: Counted, method: Method) -> Self {
        match counted {
            Counted::Calls => count(Event::CallBegan(&method)),
            Counted::Attempts => {}
            Counted::Requests => count(Event::RequestBegan(&method)),
        }
        Self {
            counted,
            method,
            began: metrics::ARE_ON.then(Instant::now),
            ending: Ending::Dropped,
        }
    }

    /// Ends a call or a request that completed. Like every end, `drop` counts it.
    pub(super) fn ended(mut self, outcome: Outcome) {
        if let Some(began) = self.began {
            self.ending = Ending::Completed(outcome, began.elapsed());
        }
    }

    /// Ends a request that was refused. Its method did not run.
    pub(super) fn not_run(mut self) {
        self.ending = Ending::NotRun;
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let (method, ending) = (&self.method, self.ending);
        count(match (self.counted, ending) {
            (Counted::Calls, ending) => Event::CallEnded(method, ending),
            (Counted::Requests, ending) => Event::RequestEnded(method, ending),
            (Counted::Attempts, Ending::Completed(outcome, _)) => Event::AttemptEnded(method, Some(outcome)),
            (Counted::Attempts, _) => Event::AttemptEnded(method, None),
        });
    }
}
