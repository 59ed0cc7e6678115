//! What checks of a history have in common.

use std::time::Duration;

/// A timer may fire one tick late.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// `Err` says what is wrong.
pub(super) type Check = Result<(), &'static str>;

pub(super) fn fail_if(is_broken: bool, reason: &'static str) -> Check {
    if is_broken { Err(reason) } else { Ok(()) }
}
