//! How long requests took, as histograms that can be added and compared.

use std::collections::BTreeMap;
use std::time::Duration;

use rpc_runtime::discovery::MethodStats;

/// The number of requests by the longest duration of their bucket, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Durations(BTreeMap<u64, u64>);

impl Durations {
    pub(crate) fn of(stats: &MethodStats) -> Self {
        let mut durations = Self::default();
        for (longest, count) in &stats.durations {
            durations.add_to_bucket(*longest, *count);
        }
        durations
    }

    pub(crate) fn add(&mut self, more: &Self) {
        for (longest, count) in &more.0 {
            self.add_to_bucket(*longest, *count);
        }
    }

    /// Returns those of the requests that are not among the earlier ones.
    pub(crate) fn since(mut self, earlier: &Self) -> Self {
        self.0.retain(|longest, count| {
            *count = count.saturating_sub(earlier.0.get(longest).copied().unwrap_or(0));
            *count > 0
        });
        self
    }

    /// Returns the duration that this percentage of the requests did not exceed: the longest one of
    /// a bucket. `None` if there are no requests.
    pub(crate) fn percentile(&self, percent: u8) -> Option<Duration> {
        let all: u128 = self.0.values().map(|count| u128::from(*count)).sum();
        let wanted = (all * u128::from(percent)).div_ceil(100);
        let mut counted = 0;
        let bucket = self.0.iter().find(|(_, count)| {
            counted += u128::from(**count);
            counted >= wanted
        });
        bucket.map(|(longest, _)| Duration::from_nanos(*longest))
    }

    fn add_to_bucket(&mut self, longest: u64, count: u64) {
        let counted = self.0.entry(longest).or_default();
        *counted = counted.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn durations(buckets: &[(u64, u64)]) -> Durations {
        Durations::of(&from_value(json!({"durations": buckets})).unwrap())
    }

    #[test]
    fn percentiles_are_those_of_all_requests_together() {
        let mut all = durations(&[(10, 98)]);
        assert_eq!(all.percentile(99), Some(Duration::from_nanos(10)));
        all.add(&durations(&[(10, 0), (50, 2)]));
        assert_eq!(all.percentile(50), Some(Duration::from_nanos(10)));
        assert_eq!(all.percentile(99), Some(Duration::from_nanos(50)));
        assert_eq!(Durations::default().percentile(50), None);
    }

    #[test]
    fn only_the_requests_since_an_update_count() {
        let earlier = durations(&[(10, 1000), (20, 5)]);
        let later = durations(&[(10, 1000), (20, 4), (50, 1)]);
        assert_eq!(later.since(&earlier), durations(&[(50, 1)]));
    }

    #[test]
    fn extreme_numbers_of_a_worker_do_not_overflow() {
        let mut wild = durations(&[(1, u64::MAX), (u64::MAX, u64::MAX), (1, u64::MAX)]);
        wild.add(&wild.clone());
        assert_eq!(wild.percentile(50), Some(Duration::from_nanos(1)));
        assert_eq!(wild.percentile(99), Some(Duration::from_nanos(u64::MAX)));
    }
}
