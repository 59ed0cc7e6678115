//! Counts a call or a request, also if it is dropped before it ends.

use tokio::time::Instant;

use super::metrics::{self, Ending, Event, Method, count};
use super::outcome::Outcome;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    Calls,
    Attempts,
    Requests,
}

/// Counts a call or a request. One that is dropped counts as such.
pub(super) struct Counted {
    counts: Counts,
    method: Method,
    /// `None` if nothing is counted.
    began: Option<Instant>,
    ending: Ending,
}

impl Counted {
    pub(super) fn begin(counts: Counts, method: Method) -> Self {
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

    pub(super) fn ended(mut self, outcome: Outcome) {
        if let Some(began) = self.began {
            self.ending = Ending::So(outcome, began.elapsed());
        }
    }

    pub(super) fn not_run(mut self) {
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
