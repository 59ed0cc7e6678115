//! Records what happens in a simulation: every call of the service `Work`, every run of its
//! methods, and problems of the cluster. Jobs, broadcasts, streams and uploads have their own
//! recorders.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::broadcasts::BroadcastHistory;
use super::jobs::JobHistory;
use super::scenario::{PlannedCall, Scenario};
use super::streams::StreamHistory;
use super::uploads::UploadHistory;
use crate::error::{CallError, Chain};
use crate::protocol::{Executed, FaultCode};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    /// Indexed by id, as in the scenario.
    pub(super) calls: Vec<CallRecord>,
    /// In the order in which they started.
    pub(super) runs: Vec<Run>,
    pub(super) jobs: JobHistory,
    pub(super) broadcasts: BroadcastHistory,
    pub(super) streams: StreamHistory,
    pub(super) uploads: UploadHistory,
    /// Problems of the whole cluster, which belong to no single call.
    pub(super) problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallRecord {
    pub(super) planned: PlannedCall,
    /// When it started, when it ended, and its outcome. `None` if it never ended.
    pub(super) ended: Option<(Duration, Duration, CallOutcome)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallOutcome {
    /// The method returned this id.
    Answered(u64),
    /// The broker confirmed a one-way call.
    Confirmed,
    Failed {
        executed: Executed,
        kind: Failure,
        text: String,
    },
    /// The caller dropped the call.
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Panicked,
    NoServer,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) call: u64,
    pub(super) worker: usize,
    pub(super) begun: Duration,
    /// Whether the request had been delivered before. If so, only `read` runs.
    pub(super) is_redelivered: bool,
    /// `None` if the method panicked, was cancelled, or was aborted with its worker.
    pub(super) ended: Option<Duration>,
}

/// Records the history, except for what the other recorders record.
#[derive(Debug)]
pub(super) struct Recorder {
    begun: Instant,
    history: Mutex<History>,
}

impl Recorder {
    pub(super) fn new(scenario: &Scenario) -> Arc<Self> {
        let calls = scenario
            .calls
            .iter()
            .map(|&planned| CallRecord { planned, ended: None });
        Arc::new(Self {
            begun: Instant::now(),
            history: Mutex::new(History {
                calls: calls.collect(),
                runs: Vec::new(),
                jobs: JobHistory::default(),
                broadcasts: BroadcastHistory::default(),
                streams: StreamHistory::default(),
                uploads: UploadHistory::default(),
                problems: Vec::new(),
            }),
        })
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn call_ended(&self, id: usize, begun: Duration, outcome: CallOutcome) {
        let now = self.now();
        self.lock().calls[id].ended = Some((begun, now, outcome));
    }

    /// Records the start of a run. Returns the run's index, for
    /// [`run_finished`](Self::run_finished).
    pub(super) fn run_started(&self, call: u64, worker: usize, is_redelivered: bool) -> usize {
        let begun = self.now();
        let runs = &mut self.lock().runs;
        runs.push(Run {
            call,
            worker,
            begun,
            is_redelivered,
            ended: None,
        });
        runs.len() - 1
    }

    pub(super) fn run_finished(&self, run: usize) {
        let now = self.now();
        self.lock().runs[run].ended = Some(now);
    }

    pub(super) fn problem(&self, what: impl Into<String>) {
        self.lock().problems.push(what.into());
    }

    /// Returns the history, completed with what the other recorders have recorded.
    pub(super) fn history(
        &self,
        jobs: JobHistory,
        broadcasts: BroadcastHistory,
        streams: StreamHistory,
        uploads: UploadHistory,
    ) -> History {
        History {
            jobs,
            broadcasts,
            streams,
            uploads,
            ..self.lock().clone()
        }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }
}

impl History {
    pub(super) fn runs_of(&self, call: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.call == call as u64)
    }

    /// Describes what happened to a call, and begins a sentence about it.
    pub(super) fn describe_call(&self, call: usize) -> String {
        let CallRecord { planned, ended } = &self.calls[call];
        let mut text = format!("call {call} ({planned:?})");
        if let Some((begun, ended, outcome)) = ended {
            let _ = write!(
                text,
                "\n    started at {begun:?} and ended at {ended:?}: {outcome:?}"
            );
        }
        for run in self.runs_of(call) {
            let Run {
                worker, begun, ended, ..
            } = run;
            let _ = write!(text, "\n    ran on worker {worker} from {begun:?} to {ended:?}");
        }
        text + "\n    It"
    }
}

impl From<CallError> for CallOutcome {
    fn from(error: CallError) -> Self {
        Self::Failed {
            executed: error.executed(),
            kind: match &error {
                CallError::NoServer { .. } => Failure::NoServer,
                CallError::Fault(fault) if fault.code == FaultCode::Panicked => Failure::Panicked,
                _ => Failure::Other,
            },
            text: Chain(&error).to_string(),
        }
    }
}
