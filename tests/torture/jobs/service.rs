//! The jobs, their worker, and what both sides record.

use std::time::Duration;

use rpc_runtime::{Context, RequestQueue, service};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::args::Seat;
use crate::history::{Journal, Micros, now};
use crate::service::QUEUE;

/// How many attempts a job has at most: the first one and the retries of `perform`.
pub(super) const ATTEMPTS: u32 = 4;

#[service(queue = "torture")]
pub(crate) trait Jobs {
    #[rpc(oneway, idempotent, retry = "3 times, 100ms to 1s")]
    async fn perform(&self, #[rpc(context)] cx: &Context, job: &Job) -> Result<(), PlannedError>;
}

/// A job, and what its attempts do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(super) name: String,
    /// How long each attempt takes.
    pub(super) work_ms: u64,
    /// How many attempts fail. The job is given up if it has no others.
    pub(super) failures: u32,
    /// Whether they fail by a panic.
    pub(super) panics: bool,
    /// Whether its caller knew that all faults were healed.
    pub(super) fresh: bool,
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("this attempt fails as planned")]
pub(crate) struct PlannedError;

/// What happened to a job, in a journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Record {
    Sent {
        at: Micros,
        job: Job,
        delay_ms: u64,
    },
    /// The call returned, with this error if it failed.
    Returned {
        at: Micros,
        job: String,
        error: Option<String>,
    },
    RunStarted {
        at: Micros,
        job: String,
        /// A number that no other run of the process has.
        run: u64,
        attempt: u32,
        redelivered: bool,
    },
    /// Written before the method returns or panics. Missing if it is dropped or its worker killed.
    RunEnded {
        at: Micros,
        job: String,
        attempt: u32,
        succeeded: bool,
    },
}

impl Record {
    pub(super) fn at(&self) -> Micros {
        match self {
            Self::Sent { at, .. }
            | Self::Returned { at, .. }
            | Self::RunStarted { at, .. }
            | Self::RunEnded { at, .. } => *at,
        }
    }
}

/// The request queue, as workers declare it.
pub(crate) fn queue(seat: &Seat) -> RequestQueue {
    let queue = RequestQueue::new(QUEUE);
    if seat.quorum { queue.quorum() } else { queue }
}

/// Does what each job says, and records each run.
pub(crate) struct Worker {
    pub(crate) journal: Journal,
}

impl Jobs for Worker {
    async fn perform(&self, cx: &Context, job: &Job) -> Result<(), PlannedError> {
        let attempt = cx.attempt();
        self.journal.write(&Record::RunStarted {
            at: now(),
            job: job.name.clone(),
            run: self.journal.next_number(),
            attempt,
            redelivered: cx.redelivered(),
        });
        if job.work_ms > 0 {
            sleep(Duration::from_millis(job.work_ms)).await;
        }
        let succeeded = attempt > job.failures;
        self.journal.write(&Record::RunEnded {
            at: now(),
            job: job.name.clone(),
            attempt,
            succeeded,
        });
        if succeeded {
            return Ok(());
        }
        assert!(!job.panics, "a planned panic");
        Err(PlannedError)
    }
}
