//! What workers count of each method.

use std::time::Duration;

use rpc_runtime::discovery::MethodStats;

use super::durations::Durations;

/// What workers have counted of a method.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    /// Requests that ended.
    pub(crate) calls: u64,
    /// Those of them that ended with the method's own error.
    pub(crate) errors: u64,
    /// Those of them that ended with a fault.
    pub(crate) failures: u64,
    /// Requests that were refused because the reply would have been late. They do not count as
    /// `calls`.
    pub(crate) shed: u64,
    /// Requests that did not run, or not to their end, because the caller no longer waited. Those
    /// that had begun also count as `calls`.
    pub(crate) cancelled: u64,
    /// The duration of all `calls` together, in nanoseconds.
    pub(crate) spent: u128,
    /// How long `calls` took. Empty if there are none, or no worker tells.
    pub(crate) durations: Durations,
}

impl Counts {
    pub(crate) fn of(stats: &MethodStats) -> Self {
        let spent = match stats.total_ns {
            // No request has ended, or the worker does not report it.
            0 => u128::from(stats.mean_ns) * u128::from(stats.calls),
            total => u128::from(total),
        };
        Self {
            calls: stats.calls,
            errors: stats.errors,
            // The worker's failures include the errors.
            failures: stats.failures.saturating_sub(stats.errors),
            shed: stats.shed,
            cancelled: stats.cancelled,
            spent,
            durations: Durations::of(stats),
        }
    }

    /// Adds what another worker has counted of the method.
    pub(crate) fn add(&mut self, more: &Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.errors = self.errors.saturating_add(more.errors);
        self.failures = self.failures.saturating_add(more.failures);
        self.shed = self.shed.saturating_add(more.shed);
        self.cancelled = self.cancelled.saturating_add(more.cancelled);
        self.spent = self.spent.saturating_add(more.spent);
        self.durations.add(&more.durations);
    }

    /// Returns what was counted after the `earlier` counts.
    pub(crate) fn since(self, earlier: &Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            errors: self.errors.saturating_sub(earlier.errors),
            failures: self.failures.saturating_sub(earlier.failures),
            shed: self.shed.saturating_sub(earlier.shed),
            cancelled: self.cancelled.saturating_sub(earlier.cancelled),
            spent: self.spent.saturating_sub(earlier.spent),
            durations: self.durations.since(&earlier.durations),
        }
    }

    /// Returns the mean duration of a request, or `None` if none ended.
    pub(crate) fn mean(&self) -> Option<Duration> {
        let mean = self.spent.checked_div(u128::from(self.calls))?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }
}
