//! Which streams a scenario has: what their methods yield, and how their callers read.

use std::time::Duration;

use fastrand::Rng;

use super::faults::{InjectedFault, time_near_a_fault};
use super::times::{LONG_TIMEOUT, millis};

/// In calm scenarios, a stream in either direction lasts about this long at most, or until its
/// caller leaves: a worker that stops must be able to end its streams before its drain times out.
pub(super) const LONGEST_DRAINED: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedStream {
    pub(super) caller: usize,
    /// `None` for a stream that begins after all faults are over.
    pub(super) at: Option<Duration>,
    pub(super) method: Method,
    /// The longest wait for an item.
    pub(super) timeout: Duration,
    /// In items.
    pub(super) credit: u32,
    /// How many items the method yields.
    pub(super) items: u64,
    pub(super) ending: Ending,
    /// Before which items the method waits.
    pub(super) yields: Pace,
    /// After which items the reader waits.
    pub(super) reads: Pace,
    /// After how many items the reader drops the stream. `None` if it does not.
    pub(super) dropped_after: Option<u64>,
    /// When the reader drops the stream, counted from its start. `None` if it does not.
    pub(super) cancelled_after: Option<Duration>,
    /// Whether the method waits after the first item until all such streams have begun.
    pub(super) waits_for_others: bool,
}

/// The method that yields a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// It is not idempotent.
    Watch,
    /// It is idempotent.
    List,
    /// It is idempotent, and its stream is resumed if it is interrupted.
    Replay,
}

/// How a method ends its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    End,
    Error,
    Panic,
}

/// A pause before or after every `items` items. If it is before items, there is also one before
/// the first item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) items: u64,
    pub(super) pause: Duration,
}

impl Pace {
    /// No pauses.
    pub(super) const FAST: Self = Self {
        items: u64::MAX,
        pause: Duration::ZERO,
    };

    /// Returns a pace without pauses, or with pauses that are fewer the longer they may be.
    pub(super) fn random(rng: &mut Rng, items: u64) -> Self {
        let (pauses, pause) = match rng.u8(..10) {
            ..5 => return Self::FAST,
            5..8 => (40, millis(rng, 50)),
            8 => (10, millis(rng, 500)),
            _ => (4, millis(rng, 4_000)),
        };
        Self::with_pauses(rng, items, pauses, pause)
    }

    /// Returns a pace with at most `pauses` pauses in a stream of `items`.
    pub(super) fn with_pauses(rng: &mut Rng, items: u64, pauses: u64, pause: Duration) -> Self {
        Self {
            items: rng.u64(items / pauses + 1..=items + 1),
            pause,
        }
    }

    /// Returns the pause when this many items have gone by, if there is one.
    pub(super) fn pause_at(&self, items: u64) -> Option<Duration> {
        let pause = items.is_multiple_of(self.items).then_some(self.pause);
        pause.filter(|pause| !pause.is_zero())
    }

    /// How long all pauses take at most.
    pub(super) fn total(&self, items: u64) -> Duration {
        let pauses = items / self.items + 1;
        self.pause * u32::try_from(pauses).unwrap_or(u32::MAX)
    }
}

impl PlannedStream {
    fn random(rng: &mut Rng, callers: usize, faults: &[(Duration, InjectedFault)]) -> Self {
        let items = match rng.u8(..8) {
            0 => 0,
            1..4 => rng.u64(1..=10),
            _ => rng.u64(1..=200),
        };
        Self {
            caller: rng.usize(..callers),
            at: Some(time_near_a_fault(rng, faults)),
            method: *rng
                .choice(&[Method::Watch, Method::List, Method::Replay])
                .unwrap(),
            timeout: match rng.u8(..10) {
                0 => millis(rng, 1_000),
                1 => Duration::from_secs(1) + millis(rng, 10_000),
                _ => LONG_TIMEOUT,
            },
            // Often less than the items, and rarely so little that there are many round trips.
            credit: match rng.u8(..8) {
                0 => rng.u32(1..=4),
                1..6 => rng.u32(4..=60),
                _ => 1024,
            },
            items,
            ending: match rng.u8(..8) {
                0 => Ending::Panic,
                1 | 2 => Ending::Error,
                _ => Ending::End,
            },
            yields: Pace::random(rng, items),
            reads: Pace::random(rng, items),
            dropped_after: (rng.u8(..8) == 0).then(|| rng.u64(..=items)),
            cancelled_after: (rng.u8(..12) == 0).then(|| millis(rng, 4_000)),
            waits_for_others: false,
        }
    }

    /// Whether the reader reads to the end and has time for it.
    pub(super) fn has_time(&self) -> bool {
        self.timeout >= LONG_TIMEOUT && self.dropped_after.is_none() && self.cancelled_after.is_none()
    }

    /// About how long the stream takes at most without faults. `latency` is the scenario's.
    fn longest(&self, latency: u64) -> Duration {
        // Half of the credit is granted at a time. A message may take ten times `latency`.
        let grants = self.items / u64::from(self.credit.div_ceil(2));
        let trips = Duration::from_millis(20 * latency) * u32::try_from(grants + 2).unwrap_or(u32::MAX);
        self.yields.total(self.items) + self.reads.total(self.items) + trips
    }
}

/// Plans streams for half of the scenarios. `is_calm` is whether workers are only stopped.
pub(super) fn random_streams(
    rng: &mut Rng,
    callers: usize,
    (is_calm, workers, concurrency, latency): (bool, usize, u16, u64),
    faults: &[(Duration, InjectedFault)],
) -> Vec<PlannedStream> {
    let mut streams = Vec::new();
    if rng.bool() {
        return streams;
    }
    for _ in 0..rng.u8(1..=12) {
        streams.push(PlannedStream::random(rng, callers, faults));
    }
    for caller in 0..callers {
        streams.push(PlannedStream {
            caller,
            at: None,
            timeout: LONG_TIMEOUT,
            dropped_after: None,
            cancelled_after: None,
            ..PlannedStream::random(rng, callers, faults)
        });
    }
    if is_calm {
        streams.retain(|stream| stream.longest(latency) < LONGEST_DRAINED);
    }
    if workers == 1 {
        // As many as a worker runs at once: `concurrency` streams, and as many in place of other
        // requests. They wait for one another, so none ends if a permit was not given back.
        let held = (0..2 * concurrency).map(|_| PlannedStream {
            caller: rng.usize(..callers),
            at: None,
            method: Method::Watch,
            timeout: LONG_TIMEOUT,
            credit: 1,
            items: 2,
            ending: Ending::End,
            yields: Pace::FAST,
            reads: Pace::FAST,
            dropped_after: None,
            cancelled_after: None,
            waits_for_others: true,
        });
        streams.extend(held);
    }
    streams
}
