//! Jobs of a simulation, and what must become of them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::check::{Check, fail_if, panic_as_planned};
use super::job_plan::{Fate, JobPlan, PlannedJob};
use super::scenario::Scenario;
use crate::codec::Codec;
use crate::protocol::{Message, Properties, ShortStr, failed_attempts};
use crate::service;
use crate::service::Context;

/// The shortest delay before a retry: that of the retry policy, shortened by a fifth.
const SHORTEST_RETRY: Duration = Duration::from_millis(80);

/// The reason in the dead letters of jobs that came back too often.
const INTERRUPTED: &str = "interrupted";

/// A service on the workers' queue. Both methods get the id of their job.
#[service(queue = "work")]
pub(super) trait Jobs {
    #[rpc(oneway, idempotent, retry = "3 times, 100ms to 4s")]
    async fn retried(&self, #[rpc(context)] cx: &Context, id: u64) -> Result<(), PlannedError>;

    #[rpc(oneway, idempotent)]
    async fn tried_once(&self, #[rpc(context)] cx: &Context, id: u64) -> Result<(), PlannedError>;
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PlannedError;

/// The arguments of both methods.
#[derive(Debug, Deserialize)]
struct Arguments {
    id: u64,
}

/// What happened to the jobs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct JobHistory {
    /// Indexed by id, as in the plan.
    calls: Vec<JobCall>,
    /// In the order in which they began.
    runs: Vec<JobRun>,
    /// What is in the dead-letter queue at the end.
    letters: Vec<Letter>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct JobCall {
    /// `None` if the sender was killed before.
    begun: Option<Duration>,
    /// When the call ended, and `Ok` if it was confirmed, or else its error. `None` if it was
    /// dropped, its sender was killed, or it never ended.
    ended: Option<(Duration, Result<(), String>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct JobRun {
    job: u64,
    worker: usize,
    attempt: u32,
    redelivered: bool,
    begun: Duration,
    /// When it ended, and whether it succeeded. `None` if it was lost with its worker.
    ended: Option<(Duration, bool)>,
}

/// A message in the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Letter {
    /// `None` if the message is not a planned job, but another one-way request, for example.
    job: Option<u64>,
    reason: String,
    error: String,
    attempts: u32,
}

/// Records what happens to the jobs.
#[derive(Debug)]
pub(super) struct JobRecorder {
    begun: Instant,
    history: Mutex<JobHistory>,
}

impl JobRecorder {
    pub(super) fn new(plan: &JobPlan) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            history: Mutex::new(JobHistory {
                calls: vec![JobCall::default(); plan.jobs.len()],
                ..JobHistory::default()
            }),
        })
    }

    pub(super) fn call_begun(&self, job: usize) {
        let now = self.begun.elapsed();
        self.history.lock().unwrap().calls[job].begun = Some(now);
    }

    pub(super) fn call_ended(&self, job: usize, outcome: Result<(), String>) {
        let now = self.begun.elapsed();
        self.history.lock().unwrap().calls[job].ended = Some((now, outcome));
    }

    /// Records the messages of the dead-letter queue.
    pub(super) fn dead_letters(&self, letters: &[Message]) {
        let letters = letters.iter().map(|letter| {
            let Properties { kind, headers, .. } = &letter.properties;
            let kind = kind.as_ref().map(ShortStr::as_str);
            let is_job = matches!(kind, Some("retried" | "tried_once"));
            let arguments = Codec::MessagePack.decode::<Arguments>(&letter.body);
            Letter {
                job: arguments.ok().filter(|_| is_job).map(|arguments| arguments.id),
                reason: headers.get("rpc-reason").unwrap_or_default().to_owned(),
                error: headers.get("rpc-error").unwrap_or_default().to_owned(),
                attempts: failed_attempts(headers),
            }
        });
        self.history.lock().unwrap().letters = letters.collect();
    }

    pub(super) fn history(&self) -> JobHistory {
        self.history.lock().unwrap().clone()
    }
}

/// The implementation of [`Jobs`]. It records its runs.
pub(super) struct RecordingJobs {
    pub(super) worker: usize,
    pub(super) scenario: Arc<Scenario>,
    pub(super) recorder: Arc<JobRecorder>,
}

impl RecordingJobs {
    /// Runs an attempt of a job. It fails if its number is not above the planned failures.
    async fn attempt(&self, cx: &Context, id: u64) -> Result<(), PlannedError> {
        let JobRecorder { begun, history } = &*self.recorder;
        let run = {
            let runs = &mut history.lock().unwrap().runs;
            runs.push(JobRun {
                job: id,
                worker: self.worker,
                attempt: cx.attempt(),
                redelivered: cx.redelivered(),
                begun: begun.elapsed(),
                ended: None,
            });
            runs.len() - 1
        };
        let planned = &self.scenario.jobs.jobs[usize::try_from(id).unwrap()];
        if !planned.work.is_zero() {
            sleep(planned.work).await;
        }
        let succeeds = cx.attempt() > planned.failures;
        history.lock().unwrap().runs[run].ended = Some((begun.elapsed(), succeeds));
        if succeeds {
            return Ok(());
        }
        if planned.panics {
            panic_as_planned();
        }
        Err(PlannedError)
    }
}

impl Jobs for RecordingJobs {
    async fn retried(&self, cx: &Context, id: u64) -> Result<(), PlannedError> {
        self.attempt(cx, id).await
    }

    async fn tried_once(&self, cx: &Context, id: u64) -> Result<(), PlannedError> {
        self.attempt(cx, id).await
    }
}

/// Describes all broken promises.
pub(super) fn violations(scenario: &Scenario, history: &JobHistory) -> Vec<String> {
    let mut broken = Vec::new();
    for (id, planned) in scenario.jobs.jobs.iter().enumerate() {
        let job = Judge::new(scenario, history, id, planned);
        let checks = [
            job.is_confirmed(),
            job.ends(),
            job.ends_as_planned(),
            job.counts_its_attempts(),
            job.waits(),
            job.runs_once_without_faults(),
        ];
        for reason in checks.into_iter().filter_map(Result::err) {
            broken.push(format!("{} {reason}", job.describe()));
        }
    }
    broken
}

/// A job and all that happened to it.
struct Judge<'a> {
    id: usize,
    planned: &'a PlannedJob,
    call: &'a JobCall,
    runs: Vec<&'a JobRun>,
    letters: Vec<&'a Letter>,
    /// Whether its queue was deleted after it was sent, possibly with the job.
    may_be_lost: bool,
    /// Whether its call may have found no queue.
    may_have_no_queue: bool,
    /// Whether no fault could disturb it: its sender waits for the confirm, and it is sent after
    /// all faults, or workers are at most stopped and have time to drain.
    is_undisturbed: bool,
}

impl<'a> Judge<'a> {
    fn new(scenario: &'a Scenario, history: &'a JobHistory, id: usize, planned: &'a PlannedJob) -> Self {
        let number = id as u64;
        let call = &history.calls[id];
        let last_deletion = scenario.queues_last_deleted_at();
        Self {
            id,
            planned,
            call,
            runs: history.runs.iter().filter(|run| run.job == number).collect(),
            letters: (history.letters.iter().filter(|letter| letter.job == Some(number))).collect(),
            may_be_lost: call
                .begun
                .zip(last_deletion)
                .is_some_and(|(begun, deleted)| begun <= deleted),
            may_have_no_queue: (call.ended.as_ref())
                .zip(scenario.queues_deleted_at())
                .is_some_and(|((ended, _), deleted)| deleted <= *ended),
            is_undisturbed: planned.must_be_confirmed()
                && (planned.at.is_none() || !scenario.drains_may_time_out()),
        }
    }

    /// Whether its method has returned `Ok`.
    fn is_done(&self) -> bool {
        self.runs.iter().any(|run| matches!(run.ended, Some((_, true))))
    }

    /// Whether it was given up because it came back too often.
    fn was_interrupted(&self) -> bool {
        self.letters.iter().any(|letter| letter.reason == INTERRUPTED)
    }

    /// A call has time for all faults and is idempotent, so it is confirmed, unless it finds no
    /// queue.
    fn is_confirmed(&self) -> Check {
        let is_confirmed = matches!(self.call.ended, Some((_, Ok(()))));
        fail_if(
            self.planned.must_be_confirmed() && !is_confirmed && !self.may_have_no_queue,
            "should have been confirmed",
        )
    }

    /// A confirmed job is done or dead, unless its queue was deleted. So is a job that began,
    /// whatever its caller knows.
    fn ends(&self) -> Check {
        let is_known = matches!(self.call.ended, Some((_, Ok(())))) || !self.runs.is_empty();
        fail_if(
            is_known && !self.may_be_lost && !self.is_done() && self.letters.is_empty(),
            "was lost",
        )
    }

    /// A job is done or dead as planned, or was given up because it came back too often. An attempt
    /// may run twice, but ends the same way both times.
    fn ends_as_planned(&self) -> Check {
        if self.was_interrupted() {
            return fail_if(self.is_undisturbed, "was given up, although nothing lost it");
        }
        match self.planned.fate() {
            Fate::Done => fail_if(!self.letters.is_empty(), "should not have died"),
            Fate::Dead => {
                fail_if(self.is_done(), "should not have succeeded")?;
                let attempts = self.planned.max_attempts();
                let reason = if self.planned.panics { "panicked" } else { "error" };
                let is_right = |letter: &&Letter| letter.attempts == attempts && letter.reason == reason;
                fail_if(
                    !self.letters.iter().all(is_right),
                    "died with a wrong reason or a wrong number of attempts",
                )
            }
        }
    }

    /// The attempts are numbered from 1 without a gap, and are no more than planned. Each retry
    /// begins after its delay.
    fn counts_its_attempts(&self) -> Check {
        let attempts: BTreeSet<_> = self.runs.iter().map(|run| run.attempt).collect();
        fail_if(
            !attempts.iter().copied().eq(1..=attempts.len() as u32),
            "has a gap in its attempts",
        )?;
        fail_if(
            attempts.len() as u32 > self.planned.attempts(),
            "has too many attempts",
        )?;
        for run in self.runs.iter().filter(|run| run.attempt > 1) {
            let earlier = (self.runs.iter().filter(|other| other.attempt == run.attempt - 1))
                .filter_map(|other| Some(other.ended?.0));
            fail_if(
                earlier
                    .min()
                    .is_none_or(|ended| run.begun < ended + SHORTEST_RETRY),
                "was retried too early",
            )?;
        }
        Ok(())
    }

    /// A delayed job does not run before its time.
    fn waits(&self) -> Check {
        let Some((delay, begun)) = self.planned.delay.zip(self.call.begun) else {
            return Ok(());
        };
        fail_if(
            self.runs.iter().any(|run| run.begun < begun + delay),
            "ran before its time",
        )
    }

    /// Each attempt of an undisturbed job runs once, in order. None is redelivered, and the job has
    /// one dead letter if it dies.
    fn runs_once_without_faults(&self) -> Check {
        if !self.is_undisturbed {
            return Ok(());
        }
        let attempts = self.planned.attempts();
        fail_if(
            !self.runs.iter().map(|run| run.attempt).eq(1..=attempts),
            "should have run once for each attempt",
        )?;
        let letters = usize::from(self.planned.fate() == Fate::Dead);
        fail_if(
            self.letters.len() != letters,
            "has a wrong number of dead letters",
        )?;
        fail_if(
            self.runs.iter().any(|run| run.redelivered),
            "counts as redelivered, but its worker was never lost",
        )
    }

    /// Describes what happened, and begins a sentence about it.
    fn describe(&self) -> String {
        let mut text = format!("job {} ({:?})\n    {:?}", self.id, self.planned, self.call);
        for run in &self.runs {
            let _ = write!(text, "\n    {run:?}");
        }
        for letter in &self.letters {
            let _ = write!(text, "\n    {letter:?}");
        }
        text + "\n    It"
    }
}
