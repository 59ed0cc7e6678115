//! When the calls of a simulation begin and its faults end, and random times between.

use std::time::Duration;

use fastrand::Rng;

/// When the first calls are made, except those just before the first fault. The workers have
/// started by then.
pub(super) const START: Duration = Duration::from_secs(5);

/// No fault is injected after this time.
pub(super) const FAULTS_END: Duration = Duration::from_secs(25);

/// A timeout that is longer than all faults and their recovery together.
pub(super) const LONG_TIMEOUT: Duration = Duration::from_secs(300);

/// Returns a random duration of at most `limit` milliseconds.
pub(super) fn millis(rng: &mut Rng, limit: u64) -> Duration {
    Duration::from_millis(rng.u64(..=limit))
}

/// Returns a random time between [`START`] and [`FAULTS_END`].
pub(super) fn random_time(rng: &mut Rng) -> Duration {
    whole_millis(START + (FAULTS_END - START).mul_f32(rng.f32()))
}

/// Rounds down to the resolution of the timer.
pub(super) fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis().try_into().unwrap())
}
