//! Broadcasts of a simulation, and what must become of them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::broadcast_plan::PlannedBroadcast;
use super::check::{Check, TICK, fail_if, panic_as_planned};
use super::faults::{InjectedFault, Profile};
use super::scenario::Scenario;
use super::times::{LONG_TIMEOUT, START};
use crate::client::{GatherEnd, Gathered};
use crate::error::{CallError, Chain};
use crate::protocol::Executed;
use crate::service;

/// A service on the workers' queue. Both methods get the id of their broadcast.
#[service(queue = "work")]
pub(super) trait Broadcasts {
    /// Returns the number of the run: its position in the history.
    #[rpc(broadcast)]
    async fn survey(&self, id: u64) -> usize;

    #[rpc(broadcast, oneway)]
    async fn announce(&self, id: u64);
}

/// What happened to the broadcasts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct BroadcastHistory {
    /// When each began and ended, and its outcome. Indexed by id, as in the plan. `None` if it
    /// never ended.
    ended: Vec<Option<(Duration, Duration, Outcome)>>,
    /// In the order in which they began.
    runs: Vec<Run>,
    /// The worker of each process, in the order in which the processes started.
    processes: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// A one-way broadcast was confirmed.
    Sent,
    Gathered {
        answers: Vec<Answer>,
        missing: Option<usize>,
        end: End,
        /// See [`Gathered::is_confirmed`].
        is_confirmed: bool,
    },
    Failed {
        executed: Executed,
        text: String,
    },
    /// The caller dropped it.
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Expected,
    Quiet,
    Limit,
    /// A lost connection, or too many answers.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    /// The name of the worker, which is the number of its process. `None` if the answer has none.
    worker: Option<String>,
    /// The number of the run, or else whether the method ran, as the error says, and its text.
    run: Result<usize, (Executed, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    broadcast: u64,
    process: usize,
    begun: Duration,
    /// `None` if the method panicked, or was aborted with its worker.
    ended: Option<Duration>,
}

/// Records what happens to the broadcasts.
#[derive(Debug)]
pub(super) struct BroadcastRecorder {
    begun: Instant,
    history: Mutex<BroadcastHistory>,
}

impl BroadcastRecorder {
    pub(super) fn new(plan: &[PlannedBroadcast]) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            history: Mutex::new(BroadcastHistory {
                ended: vec![None; plan.len()],
                ..BroadcastHistory::default()
            }),
        })
    }

    /// Records that a process of this worker starts. Returns the number of the process.
    pub(super) fn process_started(&self, worker: usize) -> usize {
        let processes = &mut self.lock().processes;
        processes.push(worker);
        processes.len() - 1
    }

    pub(super) fn history(&self) -> BroadcastHistory {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BroadcastHistory> {
        self.history.lock().unwrap()
    }
}

/// Sends a broadcast, gathers its answers unless it is one-way, and records its outcome.
pub(super) async fn send(
    id: usize,
    planned: PlannedBroadcast,
    client: BroadcastsClient,
    recorder: Arc<BroadcastRecorder>,
) {
    let begun = recorder.begun.elapsed();
    let sending = async {
        match planned.is_oneway {
            true => (client.announce(id as u64).timeout(planned.limit).await).map(|()| Outcome::Sent),
            false => {
                let mut survey = client.survey(id as u64).limit(planned.limit);
                if let Some(expected) = planned.expected {
                    survey = survey.expect_workers(expected);
                }
                Ok(survey.send().await?.collect().await.into())
            }
        }
    };
    let sending = async { sending.await.unwrap_or_else(Outcome::from) };
    let outcome = match planned.cancelled_after {
        None => sending.await,
        Some(limit) => timeout(limit, sending).await.unwrap_or(Outcome::Cancelled),
    };
    let ended = recorder.begun.elapsed();
    recorder.lock().ended[id] = Some((begun, ended, outcome));
}

impl From<CallError> for Outcome {
    fn from(error: CallError) -> Self {
        Self::Failed {
            executed: error.executed(),
            text: Chain(&error).to_string(),
        }
    }
}

impl From<Gathered<usize>> for Outcome {
    fn from(gathered: Gathered<usize>) -> Self {
        let answers = gathered.answers.into_iter().map(|(worker, answer)| Answer {
            worker: worker.name,
            run: answer.map_err(|error| (error.executed(), Chain(&error).to_string())),
        });
        Self::Gathered {
            answers: answers.collect(),
            missing: gathered.missing,
            end: match gathered.end {
                GatherEnd::Expected => End::Expected,
                GatherEnd::Quiet => End::Quiet,
                GatherEnd::Limit => End::Limit,
                _ => End::Other,
            },
            is_confirmed: gathered.is_confirmed,
        }
    }
}

/// The implementation of [`Broadcasts`]. It records its runs.
pub(super) struct RecordingBroadcasts {
    pub(super) process: usize,
    pub(super) scenario: Arc<Scenario>,
    pub(super) recorder: Arc<BroadcastRecorder>,
}

impl RecordingBroadcasts {
    /// Runs a broadcast as planned. Returns the number of the run.
    async fn run(&self, id: u64) -> usize {
        let recorder = &self.recorder;
        let number = {
            let runs = &mut recorder.lock().runs;
            runs.push(Run {
                broadcast: id,
                process: self.process,
                begun: recorder.begun.elapsed(),
                ended: None,
            });
            runs.len() - 1
        };
        let planned = &self.scenario.broadcasts[usize::try_from(id).unwrap()];
        sleep(planned.work).await;
        if planned.panics {
            panic_as_planned();
        }
        recorder.lock().runs[number].ended = Some(recorder.begun.elapsed());
        number
    }
}

impl Broadcasts for RecordingBroadcasts {
    async fn survey(&self, id: u64) -> usize {
        self.run(id).await
    }

    async fn announce(&self, id: u64) {
        self.run(id).await;
    }
}

/// Describes all broken promises.
pub(super) fn violations(scenario: &Scenario, history: &BroadcastHistory) -> Vec<String> {
    let mut broken = Vec::new();
    for (id, planned) in scenario.broadcasts.iter().enumerate() {
        let Some((begun, ended, outcome)) = &history.ended[id] else {
            broken.push(format!("broadcast {id} ({planned:?}) never ended"));
            continue;
        };
        let number = id as u64;
        let judge = Judge {
            scenario,
            history,
            id,
            planned,
            begun: *begun,
            ended: *ended,
            outcome,
            runs: (history.runs.iter().filter(|run| run.broadcast == number)).collect(),
        };
        let checks = [
            judge.ends_in_time(),
            judge.runs_at_most_once(),
            judge.has_its_own_answers(),
            judge.counts_the_missing(),
            judge.reports_executed_correctly(),
            judge.loses_no_answer(),
            judge.reaches_all_workers(),
            judge.reaches_undisturbed_workers(),
        ];
        for reason in checks.into_iter().filter_map(Result::err) {
            broken.push(format!("{} {reason}", judge.describe()));
        }
    }
    broken
}

/// A broadcast and all that happened to it.
struct Judge<'a> {
    scenario: &'a Scenario,
    history: &'a BroadcastHistory,
    id: usize,
    planned: &'a PlannedBroadcast,
    begun: Duration,
    ended: Duration,
    outcome: &'a Outcome,
    runs: Vec<&'a Run>,
}

impl Judge<'_> {
    fn answers(&self) -> &[Answer] {
        match self.outcome {
            Outcome::Gathered { answers, .. } => answers,
            _ => &[],
        }
    }

    fn gathering_ended_with(&self, what: End) -> bool {
        matches!(self.outcome, Outcome::Gathered { end, .. } if *end == what)
    }

    /// Whether the caller does not drop it, and its limit is longer than all faults and recovery.
    fn has_time(&self) -> bool {
        self.planned.limit >= LONG_TIMEOUT && self.planned.cancelled_after.is_none()
    }

    /// The workers that ran it, whichever of their processes did.
    fn workers(&self) -> BTreeSet<usize> {
        let workers = self.runs.iter().map(|run| self.history.processes[run.process]);
        workers.collect()
    }

    fn ends_in_time(&self) -> Check {
        let limit = self.begun + self.planned.limit;
        fail_if(self.ended > limit + TICK, "ended after its limit")?;
        fail_if(
            self.gathering_ended_with(End::Limit) && self.ended < limit,
            "ended with its limit, but before it",
        )
    }

    /// No process of a worker runs it twice.
    fn runs_at_most_once(&self) -> Check {
        let processes: BTreeSet<_> = self.runs.iter().map(|run| run.process).collect();
        fail_if(processes.len() < self.runs.len(), "ran twice on the same worker")
    }

    /// Each answer is of this broadcast and of the worker that it names, which is listed once. If
    /// it is an error, it says correctly whether the method ran there.
    fn has_its_own_answers(&self) -> Check {
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        for Answer { worker, run } in self.answers() {
            let process = worker.as_ref().and_then(|name| name.parse().ok());
            let Some(process) = process else {
                return Err("has an answer of an unknown worker");
            };
            fail_if(!seen.insert(process), "lists a worker twice")?;
            let own = self.runs.iter().find(|run| run.process == process);
            match run {
                Ok(number) => {
                    let run = self.history.runs.get(*number);
                    fail_if(
                        run.is_none_or(|run| run.broadcast != self.id as u64),
                        "has an answer of another broadcast",
                    )?;
                    fail_if(
                        run.is_none_or(|run| run.process != process),
                        "has an answer of another worker",
                    )?;
                    fail_if(
                        run.is_none_or(|run| run.ended.is_none_or(|ended| ended > self.ended)),
                        "has an answer of a run that had not ended",
                    )?;
                }
                Err((Executed::Yes, _)) => fail_if(
                    own.is_none() || !self.planned.panics,
                    "has a wrong answer that says that the method ran",
                )?,
                Err((Executed::No, _)) => {
                    fail_if(own.is_some(), "ran on a worker that says that it did not")?;
                }
                Err((Executed::Maybe, _)) => return Err("has an answer that cannot be read"),
            }
        }
        Ok(())
    }

    /// The number of missing workers is right, and fits how gathering ended.
    fn counts_the_missing(&self) -> Check {
        let Outcome::Gathered { answers, missing, .. } = self.outcome else {
            return Ok(());
        };
        let expected = self.planned.expected;
        fail_if(
            *missing != expected.map(|expected| expected.saturating_sub(answers.len())),
            "counts the missing workers wrongly",
        )?;
        fail_if(
            self.gathering_ended_with(End::Expected) != (*missing == Some(0)),
            "ended with the last expected worker, or went on after it",
        )?;
        fail_if(
            self.gathering_ended_with(End::Quiet) && (expected.is_some() || answers.is_empty()),
            "ended with the quiet window, but waits for a number or for the first answer",
        )
    }

    /// The error of a broadcast that fails as a whole tells correctly whether the method ran. It
    /// never says `Yes`: errors of methods are answers.
    fn reports_executed_correctly(&self) -> Check {
        let Outcome::Failed { executed, .. } = self.outcome else {
            return Ok(());
        };
        match executed {
            Executed::No => fail_if(!self.runs.is_empty(), "ran, but its error says that it did not"),
            Executed::Maybe => Ok(()),
            Executed::Yes => Err("failed, and its error says that it ran"),
        }
    }

    /// A worker that stops, or that loses its connection, sends the answers of what it runs.
    fn loses_no_answer(&self) -> Check {
        fail_if(
            self.scenario.profile != Profile::Storm
                && self.has_time()
                && self.gathering_ended_with(End::Limit)
                && self.answers().len() < self.runs.len(),
            "lost the answer of a worker that ran it",
        )
    }

    /// Once all faults are over, every worker runs a broadcast once, and answers.
    fn reaches_all_workers(&self) -> Check {
        if self.planned.at.is_some() {
            return Ok(());
        }
        let is_complete = match self.outcome {
            Outcome::Sent => true,
            Outcome::Gathered {
                is_confirmed,
                answers,
                ..
            } => *is_confirmed && answers.iter().all(|answer| answer.run.is_ok()),
            Outcome::Failed { .. } | Outcome::Cancelled => false,
        };
        fail_if(!is_complete, "should have succeeded")?;
        let workers = self.scenario.workers;
        fail_if(
            self.runs.len() != workers || self.workers().len() != workers,
            "should have run once on every worker",
        )?;
        fail_if(
            !self.planned.is_oneway && !self.gathering_ended_with(End::Expected),
            "should have the answer of every worker",
        )
    }

    /// If workers are only stopped, the others get every broadcast that has time. At the beginning,
    /// a worker may miss broadcasts, because its control queue takes long to open.
    fn reaches_undisturbed_workers(&self) -> Check {
        // Opening a queue takes several round trips.
        let may_be_starting = self.begun < START + Duration::from_millis(25 * self.scenario.latency);
        if self.scenario.profile != Profile::Calm || !self.has_time() || may_be_starting {
            return Ok(());
        }
        let is_stopped = |worker: usize| {
            let mut faults = self.scenario.faults.iter();
            faults.any(|(at, fault)| *at <= self.ended && *fault == InjectedFault::Stop { worker })
        };
        let mut undisturbed = (0..self.scenario.workers).filter(|worker| !is_stopped(*worker));
        let ran = self.workers();
        fail_if(
            !undisturbed.all(|worker| ran.contains(&worker)),
            "did not run on a worker that was there all the time",
        )
    }

    /// Describes what happened, and begins a sentence about it.
    fn describe(&self) -> String {
        let Self {
            id,
            planned,
            begun,
            ended,
            outcome,
            ..
        } = self;
        let mut text = format!(
            "broadcast {id} ({planned:?})\n    started at {begun:?} and ended at {ended:?}: {outcome:?}"
        );
        for run in &self.runs {
            let _ = write!(
                text,
                "\n    {run:?} of worker {}",
                self.history.processes[run.process]
            );
        }
        text + "\n    It"
    }
}
