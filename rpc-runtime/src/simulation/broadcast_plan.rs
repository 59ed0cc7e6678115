//! Which broadcasts a scenario sends, and what their methods do.

use std::time::Duration;

use fastrand::Rng;

use super::faults::{InjectedFault, time_near_a_fault};
use super::times::{LONG_TIMEOUT, millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedBroadcast {
    pub(super) caller: usize,
    /// `None` for a broadcast that is sent after all faults are over.
    pub(super) at: Option<Duration>,
    pub(super) is_oneway: bool,
    /// How long sending may take, and gathering unless the broadcast is one-way.
    pub(super) limit: Duration,
    /// How many workers are expected to answer; ignored if the broadcast is one-way. `None` if the
    /// quiet window may end gathering.
    pub(super) expected: Option<usize>,
    /// When the caller drops the broadcast, counted from its start. `None` if it does not.
    pub(super) cancelled_after: Option<Duration>,
    /// How long the method takes.
    pub(super) work: Duration,
    /// Whether the method panics at its end.
    pub(super) panics: bool,
}

/// Plans broadcasts in half of the cases, otherwise none. `callers` and `workers` are numbers of
/// processes.
pub(super) fn random_broadcasts(
    rng: &mut Rng,
    callers: usize,
    workers: usize,
    faults: &[(Duration, InjectedFault)],
) -> Vec<PlannedBroadcast> {
    let mut broadcasts = Vec::new();
    if rng.bool() {
        return broadcasts;
    }
    for _ in 0..rng.u8(1..=20) {
        broadcasts.push(PlannedBroadcast {
            caller: rng.usize(..callers),
            at: Some(time_near_a_fault(rng, faults)),
            is_oneway: rng.u8(..4) == 0,
            limit: match rng.u8(..10) {
                0 => millis(rng, 200),
                1..4 => Duration::from_secs(1) + millis(rng, 10_000),
                _ => LONG_TIMEOUT,
            },
            expected: match rng.u8(..4) {
                0 => None,
                1 => Some(rng.usize(1..=workers + 1)),
                _ => Some(workers),
            },
            cancelled_after: (rng.u8(..15) == 0).then(|| millis(rng, 500)),
            work: match rng.u8(..10) {
                ..4 => Duration::ZERO,
                4..8 => millis(rng, 50),
                8 => millis(rng, 500),
                _ => millis(rng, 4_000),
            },
            panics: rng.u8(..10) == 0,
        });
    }
    for caller in 0..callers {
        broadcasts.extend([false, true].map(|is_oneway| PlannedBroadcast {
            caller,
            at: None,
            is_oneway,
            limit: LONG_TIMEOUT,
            expected: Some(workers),
            cancelled_after: None,
            work: Duration::from_millis(1),
            panics: false,
        }));
    }
    broadcasts
}
