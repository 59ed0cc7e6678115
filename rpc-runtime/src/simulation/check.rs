//! What checks of a history have in common.

use std::time::Duration;

/// A timer may fire one tick late.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// `Err` says what is wrong.
pub(super) type Check = Result<(), &'static str>;

pub(super) fn fail_if(is_broken: bool, reason: &'static str) -> Check {
    if is_broken { Err(reason) } else { Ok(()) }
}

/// Returns how long it takes until all workers know of a cancellation. A message may have to wait
/// for the confirm of the one before. Each hop may take ten times the latency.
pub(super) fn longest_cancellation(latency: u64) -> Duration {
    Duration::from_millis(40 * latency) + 4 * TICK
}
