//! What happened in a world: every call, and every run of a method.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{CallPlan, Plan};
use crate::error::{CallError, Chain};
use crate::protocol::{Executed, FaultCode};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    /// By their ids, which are their places in the plan.
    pub(super) calls: Vec<CallRecord>,
    /// In the order in which they began.
    pub(super) runs: Vec<Run>,
    /// What was wrong with the world itself when all was over.
    pub(super) left_overs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallRecord {
    pub(super) plan: CallPlan,
    /// When it was begun and ended, and how.
    pub(super) ended: Option<(Duration, Duration, Outcome)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With the id that the method returned.
    Answered(u64),
    /// A one-way call: the broker has it.
    Taken,
    Failed {
        executed: Executed,
        kind: Failure,
        text: String,
    },
    /// Its caller dropped it.
    GivenUp,
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
    /// Nothing: its worker ended before, or it panicked.
    pub(super) ended: Option<Duration>,
}

/// Notes down what happens.
#[derive(Debug)]
pub(super) struct Recorder {
    begun: Instant,
    history: Mutex<History>,
}

impl Recorder {
    pub(super) fn new(plan: &Plan) -> Arc<Self> {
        let calls = plan.calls.iter().map(|&plan| CallRecord { plan, ended: None });
        Arc::new(Self {
            begun: Instant::now(),
            history: Mutex::new(History {
                calls: calls.collect(),
                runs: Vec::new(),
                left_overs: Vec::new(),
            }),
        })
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn call_ended(&self, id: usize, begun: Duration, outcome: Outcome) {
        let now = self.now();
        self.lock().calls[id].ended = Some((begun, now, outcome));
    }

    /// A run begins; answers with its place.
    pub(super) fn run_begins(&self, call: u64, worker: usize) -> usize {
        let begun = self.now();
        let runs = &mut self.lock().runs;
        runs.push(Run {
            call,
            worker,
            begun,
            ended: None,
        });
        runs.len() - 1
    }

    pub(super) fn run_ends(&self, place: usize) {
        let now = self.now();
        self.lock().runs[place].ended = Some(now);
    }

    pub(super) fn left_over(&self, what: impl Into<String>) {
        self.lock().left_overs.push(what.into());
    }

    pub(super) fn history(&self) -> History {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }
}

impl History {
    pub(super) fn runs_of(&self, call: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.call == call as u64)
    }

    /// What happened to a call, for a person to read.
    pub(super) fn story(&self, call: usize) -> String {
        let CallRecord { plan, ended } = &self.calls[call];
        let mut story = format!("call {call} ({plan:?})");
        if let Some((begun, ended, outcome)) = ended {
            let _ = write!(
                story,
                "\n    was made at {begun:?} and ended at {ended:?}: {outcome:?}"
            );
        }
        for run in self.runs_of(call) {
            let Run {
                worker, begun, ended, ..
            } = run;
            let _ = write!(story, "\n    ran at worker {worker} from {begun:?} to {ended:?}");
        }
        story + "\n    It"
    }
}

impl From<CallError> for Outcome {
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
