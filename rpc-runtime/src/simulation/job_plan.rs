//! Which jobs a scenario sends, and what their methods do.

use std::time::Duration;

use fastrand::Rng;

use super::faults::{InjectedFault, time_near_a_fault};
use super::hostile::QUEUE;
use super::times::millis;
use crate::transport::RequestQueue;

/// How often a job is retried, unless it is tried once: as the method's `retry` option says.
const RETRIES: u32 = 3;

/// The jobs of a scenario.
#[derive(Debug, Default)]
pub(super) struct JobPlan {
    /// Whether the request queue is a quorum queue.
    pub(super) is_quorum: bool,
    /// Indexed by id. Empty if the workers serve no jobs.
    pub(super) jobs: Vec<PlannedJob>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedJob {
    pub(super) sender: Sender,
    /// `None` for a job that is sent after all faults are over.
    pub(super) at: Option<Duration>,
    pub(super) delay: Option<Duration>,
    /// When the caller drops the call, counted from its start. `None` if it does not.
    pub(super) cancelled_after: Option<Duration>,
    /// Whether its method has a retry policy.
    pub(super) is_retried: bool,
    /// How many attempts fail, from the first one on. All if it is `u32::MAX`.
    pub(super) failures: u32,
    /// Whether attempts that fail panic, instead of returning an error.
    pub(super) panics: bool,
    /// How long an attempt takes.
    pub(super) work: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Caller(usize),
    /// A process that is killed by [`InjectedFault::KillSender`].
    Killed,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its method returned `Ok`.
    Done,
    /// It is in the dead-letter queue.
    Dead,
}

impl JobPlan {
    /// Plans jobs in half of the cases, otherwise none. `callers` says how many there are.
    pub(super) fn random(rng: &mut Rng, callers: usize, faults: &[(Duration, InjectedFault)]) -> Self {
        if rng.bool() {
            return Self::default();
        }
        let mut jobs = Vec::new();
        for _ in 0..rng.u8(1..=30) {
            let sender = match rng.u8(..6) {
                0 => Sender::Killed,
                _ => Sender::Caller(rng.usize(..callers)),
            };
            let job = PlannedJob::random(rng, sender, faults);
            jobs.push(job);
            // For a quarter of them, the same sender sends one to six others at the same time,
            // which may share a batch.
            let has_others = rng.u8(..4) == 3;
            let others = rng.u8(1..=6);
            for _ in 0..if has_others { others } else { 0 } {
                jobs.push(PlannedJob {
                    at: job.at,
                    ..PlannedJob::random(rng, sender, faults)
                });
            }
        }
        for caller in 0..callers {
            for _ in 0..2 {
                jobs.push(PlannedJob {
                    at: None,
                    cancelled_after: None,
                    ..PlannedJob::random(rng, Sender::Caller(caller), faults)
                });
            }
        }
        Self {
            is_quorum: rng.bool(),
            jobs,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The request queue as the workers declare it, also in scenarios without jobs.
    pub(super) fn request_queue(&self) -> RequestQueue {
        let queue = RequestQueue::new(QUEUE);
        if self.is_quorum { queue.quorum() } else { queue }
    }
}

impl PlannedJob {
    fn random(rng: &mut Rng, sender: Sender, faults: &[(Duration, InjectedFault)]) -> Self {
        let is_retried = rng.u8(..3) > 0;
        let at = time_near_a_fault(rng, faults);
        Self {
            sender,
            at: Some(at),
            delay: (rng.u8(..5) == 0).then(|| millis(rng, 8_000)),
            cancelled_after: (rng.u8(..15) == 0).then(|| millis(rng, 500)),
            is_retried,
            failures: match rng.u8(..10) {
                ..5 => 0,
                5..8 => rng.u32(..=RETRIES),
                _ => u32::MAX,
            },
            panics: rng.u8(..4) == 0,
            work: match rng.u8(..10) {
                ..4 => Duration::ZERO,
                4..8 => millis(rng, 50),
                8 => millis(rng, 500),
                _ => millis(rng, 4_000),
            },
        }
    }

    /// What must become of the job, unless it comes back too often.
    pub(super) fn fate(&self) -> Fate {
        if self.failures < self.max_attempts() {
            Fate::Done
        } else {
            Fate::Dead
        }
    }

    /// How many attempts a job has that fails each time.
    pub(super) fn max_attempts(&self) -> u32 {
        if self.is_retried { 1 + RETRIES } else { 1 }
    }

    /// How many attempts the job has, unless it comes back too often.
    pub(super) fn attempts(&self) -> u32 {
        self.max_attempts().min(self.failures.saturating_add(1))
    }

    /// Whether its sender waits for the confirm: it is not killed, and does not drop the call.
    pub(super) fn must_be_confirmed(&self) -> bool {
        self.sender != Sender::Killed && self.cancelled_after.is_none()
    }
}
