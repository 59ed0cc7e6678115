//! Counts the outcomes of calls and their latencies.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use rpc_runtime::{CallError, MethodError};

use crate::failure::Failure;

/// The longest latency in the histogram, in nanoseconds: a day. A longer one counts as this.
const MAX_NS: u64 = 24 * 3600 * 1_000_000_000;

/// The counts of calls that ended.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// The number of calls by outcome.
    pub(super) outcomes: BTreeMap<Cow<'static, str>, u64>,
    /// The number of items of streams that ended without a failure.
    pub(super) items: u64,
    /// The latencies of calls that the method answered, in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// The first failure other than the method's own error.
    pub(super) failure: Option<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            outcomes: BTreeMap::new(),
            items: 0,
            latencies: histogram(),
            failure: None,
        }
    }
}

/// Returns a histogram with three significant digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NS, 3).expect("the bounds are valid")
}

/// The outcome of a call with a result.
const OK: &str = "ok";

/// The outcome of a call with the method's own error.
const ERROR: &str = "error";

/// The outcome of a call whose task panicked.
const CRASHED: &str = "crashed";

impl Tally {
    /// Counts a call that ended after this time. Its result is the number of its items.
    pub(super) fn add(&mut self, answer: Result<u64, CallError<MethodError<String>>>, time: Duration) {
        match answer {
            Ok(items) => {
                self.items += items;
                self.add_answered(OK, time);
            }
            Err(CallError::Service(_) | CallError::ServiceText(_)) => self.add_answered(ERROR, time),
            Err(error) => {
                *self.outcomes.entry(outcome_of(&error)).or_default() += 1;
                let message = || Failure::from(error).message();
                self.failure.get_or_insert_with(message);
            }
        }
    }

    fn add_answered(&mut self, outcome: &'static str, time: Duration) {
        *self.outcomes.entry(outcome.into()).or_default() += 1;
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanos.clamp(1, MAX_NS));
    }

    /// Counts a task that panicked as one failed call: a bug of this program.
    pub(super) fn add_panic(&mut self) {
        *self.outcomes.entry(CRASHED.into()).or_default() += 1;
        let failure = || "a task of this program panicked: this is a bug in rpc-cli".to_owned();
        self.failure.get_or_insert_with(failure);
    }

    pub(super) fn calls(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Whether any call had no result. The method's own error counts too, unlike in `failure`.
    pub(super) fn has_failed(&self) -> bool {
        self.outcomes.keys().any(|outcome| outcome != OK)
    }
}

/// Returns the outcome of a call that its method did not answer.
fn outcome_of(error: &CallError<MethodError<String>>) -> Cow<'static, str> {
    match error {
        CallError::Fault(fault) => fault.code.as_str().to_owned().into(),
        CallError::TimedOut { .. } => "timed out".into(),
        CallError::NoServer { .. } => "no server".into(),
        CallError::Refused { .. } => "refused".into(),
        CallError::Broker { .. } => "broker failed".into(),
        CallError::BadReply { .. } => "bad reply".into(),
        // Failures before the request is sent, or a one-way broadcast that reached no worker.
        _ => "not sent".into(),
    }
}

#[cfg(test)]
mod tests {
    use rpc_runtime::{Executed, Fault, FaultCode};

    use super::*;

    #[test]
    fn calls_are_counted_by_outcome() {
        let ms = Duration::from_millis;
        let mut tally = Tally::default();
        tally.add(Ok(3), ms(1));
        assert!(!tally.has_failed());
        tally.add(
            Err(CallError::Service(MethodError::new("\"no\"".to_owned()))),
            ms(3),
        );
        tally.add(
            Err(CallError::Fault(Fault::new(FaultCode::Panicked, "oh"))),
            ms(5),
        );
        let late = CallError::timed_out(ms(7), Executed::Maybe);
        tally.add(Err(late), ms(7));

        let outcomes: Vec<_> = tally
            .outcomes
            .iter()
            .map(|(name, count)| (&**name, *count))
            .collect();
        assert_eq!(
            outcomes,
            [("error", 1), ("ok", 1), ("panicked", 1), ("timed out", 1)]
        );
        assert_eq!((tally.calls(), tally.items, tally.has_failed()), (4, 3, true));
        // Calls without an answer have no latency.
        assert_eq!(tally.latencies.len(), 2);
        assert_eq!(
            tally.failure.as_deref(),
            Some("the worker answered with a fault: panicked: oh")
        );
    }

    #[test]
    fn a_panic_counts_as_a_failure() {
        let mut tally = Tally::default();
        tally.add(Ok(0), Duration::from_millis(1));
        tally.add_panic();
        assert!(tally.has_failed());
        assert_eq!(
            (tally.outcomes["crashed"], tally.calls(), tally.latencies.len()),
            (1, 2, 1)
        );
        assert!(tally.failure.is_some());
    }

    #[test]
    fn the_size_of_the_histogram_is_bounded() {
        let mut tally = Tally::default();
        let counters = tally.latencies.distinct_values();
        for time in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            tally.add(Ok(0), time);
        }
        assert_eq!(
            (tally.latencies.len(), tally.latencies.distinct_values()),
            (3, counters)
        );
        assert!(counters < 100_000, "{counters}");
    }
}
