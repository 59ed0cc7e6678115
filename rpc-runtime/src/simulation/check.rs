//! What the services of a simulation and the checks of its history have in common.

use std::time::Duration;

/// A timer may fire this late: it rounds up to its resolution of a millisecond.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// Whether a promise was kept. `Err` says what is wrong.
pub(super) type Check = Result<(), &'static str>;

pub(super) fn fail_if(is_broken: bool, reason: &'static str) -> Check {
    if is_broken { Err(reason) } else { Ok(()) }
}

/// Panics without printing a message, because the panic hook is not called.
pub(super) fn panic_as_planned() -> ! {
    std::panic::resume_unwind(Box::new("planned"))
}

/// Returns how long it takes at most until all workers know of a cancellation. `latency` is the
/// scenario's, in milliseconds. There are four hops, each of up to ten times the latency: the
/// message may have to wait for the confirm of the one before.
pub(super) fn longest_cancellation(latency: u64) -> Duration {
    Duration::from_millis(40 * latency) + 4 * TICK
}
