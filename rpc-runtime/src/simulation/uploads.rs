//! Calls of a simulation that send items, and what must become of them.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{FutureExt, Stream, stream};
use serde::{Deserialize, Serialize, Serializer};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::check::{Check, TICK, fail_if, longest_cancellation, panic_as_planned};
use super::faults::{InjectedFault, Peer, Profile};
use super::job_plan::Sender;
use super::scenario::Scenario;
use super::times::{FAULTS_END, LONG_TIMEOUT};
use super::upload_plan::{Answer, Method, PlannedUpload, Sending};
use crate::error::{CallError, Chain};
use crate::protocol::{Executed, FaultCode, MAX_UNTAKEN_BYTES};
use crate::service;
use crate::service::{Incoming, IncomingError};

/// After how long without messages one side counts the other as gone.
const MAX_SILENCE: Duration = Duration::from_secs(16);

/// How long a method may go on whose caller is gone and could not tell: the time without messages,
/// and the time that messages may be on their way and a worker may need to open its queue again.
const LONGEST_LEFT: Duration = Duration::from_secs(32 + 15);

/// How many items the caller's stream may yield that the method has not taken.
const WINDOW: u64 = 1024;

/// A service on the workers' queue. The methods get the id of their call.
#[service(queue = "work")]
pub(super) trait Uploads {
    async fn collect(&self, id: u64, parts: Incoming<Part>) -> Result<Summary, MethodError>;

    #[rpc(idempotent)]
    async fn store(&self, id: u64, parts: Incoming<Part>) -> Result<Summary, MethodError>;

    /// Yields the summary after each part.
    fn chat(&self, id: u64, parts: Incoming<Part>) -> impl Stream<Item = Result<Summary, MethodError>>;
}

/// An item of a caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Part {
    upload: u64,
    number: u64,
    padding: String,
    #[serde(serialize_with = "unless_bad")]
    is_bad: bool,
}

/// Serializes `false`, and fails for `true`.
fn unless_bad<S: Serializer>(is_bad: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    if *is_bad {
        return Err(serde::ser::Error::custom("planned"));
    }
    serializer.serialize_bool(false)
}

/// What a run has taken.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    /// The number of the run.
    run: usize,
    count: u64,
    sum: u64,
}

impl Summary {
    /// The summary after the next item.
    fn plus(self, number: u64) -> Self {
        Self {
            count: self.count + 1,
            // Depends on the order of the items, so that a summary shows their order too.
            sum: self.sum.wrapping_mul(31).wrapping_add(number + 1),
            ..self
        }
    }

    /// The summary of a run that has taken the first `count` items.
    fn of_first(run: usize, count: u64) -> Self {
        let none = Self {
            run,
            ..Self::default()
        };
        (0..count).fold(none, Self::plus)
    }
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub(super) enum MethodError {
    #[error("planned")]
    Planned(Summary),
    /// The items broke off.
    #[error("broken")]
    Broken(Summary),
}

/// What happened to the calls that send items.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct UploadHistory {
    /// Indexed by id, as in the plan.
    calls: Vec<UploadCall>,
    /// In the order in which they began.
    runs: Vec<Run>,
}

/// What a caller did and saw.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct UploadCall {
    begun: Option<Duration>,
    /// How many items the caller's stream has yielded, without one that cannot be encoded.
    yielded: u64,
    /// When it last yielded one, or had none left.
    last_yield: Option<Duration>,
    /// The largest number of items that were yielded and not yet taken by a method.
    most_untaken: u64,
    /// When the caller's stream was dropped.
    dropped: Option<Duration>,
    /// When the last item of a stream that the method returns was read.
    last_read: Option<Duration>,
    /// The first item of that stream that should not have been there.
    disorder: Option<String>,
    /// `None` if it never ended.
    ended: Option<(Duration, Outcome)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// The method's result, or the last item that it yielded.
    Returned(Summary),
    /// The error that the method returns.
    Error(Summary),
    /// The error of a method whose items broke off.
    Broken(Summary),
    Failed {
        executed: Executed,
        kind: Failure,
        text: String,
    },
    /// The caller's stream panicked.
    Panicked,
    /// The caller dropped the call, or its process was killed.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Panicked,
    Interrupted,
    TimedOut,
    NoServer,
    BadItem,
    BadReply,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    upload: u64,
    worker: usize,
    begun: Duration,
    taken: Summary,
    last_taken: Option<Duration>,
    /// The first item that should not have been there.
    disorder: Option<String>,
    /// How the items ended. `None` if the method has read neither the end nor an error.
    end: Option<(Duration, End)>,
    /// When the method had enough and dropped its stream. It may go on after that.
    stopped: Option<Duration>,
    /// When the method ended or was dropped.
    ended: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Regular,
    Interrupted,
    Bad(String),
}

/// Records what happens to the calls.
#[derive(Debug)]
pub(super) struct UploadRecorder {
    begun: Instant,
    history: Mutex<UploadHistory>,
}

impl UploadRecorder {
    pub(super) fn new(plan: &[PlannedUpload]) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            history: Mutex::new(UploadHistory {
                calls: vec![UploadCall::default(); plan.len()],
                runs: Vec::new(),
            }),
        })
    }

    pub(super) fn history(&self) -> UploadHistory {
        self.lock().clone()
    }

    /// How many runs have not ended.
    pub(super) fn running(&self) -> usize {
        let runs = &self.lock().runs;
        runs.iter().filter(|run| run.ended.is_none()).count()
    }

    /// How many streams of callers are left.
    pub(super) fn sources(&self) -> usize {
        let calls = &self.lock().calls;
        let is_left = |call: &&UploadCall| call.begun.is_some() && call.dropped.is_none();
        calls.iter().filter(is_left).count()
    }

    fn change_call(&self, id: usize, change: impl FnOnce(&mut UploadCall, Duration)) {
        let now = self.begun.elapsed();
        change(&mut self.lock().calls[id], now);
    }

    fn change_run<T>(&self, run: usize, change: impl FnOnce(&mut Run, Duration) -> T) -> T {
        let now = self.begun.elapsed();
        change(&mut self.lock().runs[run], now)
    }

    fn lock(&self) -> MutexGuard<'_, UploadHistory> {
        self.history.lock().unwrap()
    }
}

/// The stream of a caller, until it is dropped.
struct Source {
    recorder: Arc<UploadRecorder>,
    id: usize,
    planned: PlannedUpload,
    next: u64,
}

impl Source {
    /// Yields the next item, or ends as planned.
    async fn next(mut self) -> Option<(Part, Self)> {
        let Self {
            id, planned, next, ..
        } = self;
        if let Some(pause) = planned.sends.pause_at(next) {
            sleep(pause).await;
        }
        // Beyond the planned items, only an item that cannot be encoded is yielded.
        let is_bad = next >= planned.items;
        if is_bad {
            self.recorder
                .change_call(id, |call, now| call.last_yield = Some(now));
            match planned.sending {
                Sending::BadItem => {}
                Sending::End => return None,
                Sending::Never => std::future::pending().await,
                Sending::Panic => panic_as_planned(),
            }
        } else {
            self.record_yield();
        }
        self.next += 1;
        let part = Part {
            upload: id as u64,
            number: next,
            padding: "x".repeat(planned.bytes),
            is_bad,
        };
        Some((part, self))
    }

    /// Records an item, and how many items the run that has taken most of them has not taken yet.
    fn record_yield(&self) {
        let now = self.recorder.begun.elapsed();
        let UploadHistory { calls, runs } = &mut *self.recorder.lock();
        let runs = runs.iter().filter(|run| run.upload == self.id as u64);
        let taken = runs.map(|run| run.taken.count).max().unwrap_or(0);
        let call = &mut calls[self.id];
        call.yielded += 1;
        call.last_yield = Some(now);
        call.most_untaken = call.most_untaken.max(call.yielded.saturating_sub(taken));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.recorder
            .change_call(self.id, |call, now| call.dropped = Some(now));
    }
}

/// Makes a call and records its outcome.
pub(super) async fn send(
    id: usize,
    planned: PlannedUpload,
    client: UploadsClient,
    killed: CancellationToken,
    recorder: Arc<UploadRecorder>,
) {
    recorder.change_call(id, |call, now| call.begun = Some(now));
    let calling = AssertUnwindSafe(call(id, planned, client, &recorder)).catch_unwind();
    let calling = killed.run_until_cancelled(calling);
    let ended = match planned.cancelled_after {
        None => calling.await,
        Some(limit) => timeout(limit, calling).await.unwrap_or(None),
    };
    let outcome = ended.map_or(Outcome::Dropped, |ended| ended.unwrap_or(Outcome::Panicked));
    recorder.change_call(id, |call, now| call.ended = Some((now, outcome)));
}

/// Makes a call, and reads the stream that its method may return.
async fn call(
    id: usize,
    planned: PlannedUpload,
    client: UploadsClient,
    recorder: &Arc<UploadRecorder>,
) -> Outcome {
    let source = Source {
        recorder: Arc::clone(recorder),
        id,
        planned,
        next: 0,
    };
    let parts = stream::unfold(source, Source::next);
    let number = id as u64;
    let call = match planned.method {
        Method::Collect => client.collect(number, parts),
        Method::Store => client.store(number, parts),
        Method::Chat => {
            let mut answers = client.chat(number, parts).timeout(planned.timeout);
            // A clone of the client would keep its process alive.
            drop(client);
            let mut last = None;
            while let Some(answer) = answers.next().await {
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(error) => return Outcome::from(error),
                };
                recorder.change_call(id, |call, now| {
                    let before = last.unwrap_or(Summary::of_first(answer.run, 0));
                    if answer != before.plus(before.count) {
                        let disorder = format!("{answer:?} after {before:?}");
                        call.disorder.get_or_insert(disorder);
                    }
                    call.last_read = Some(now);
                });
                last = Some(answer);
            }
            // A run that has taken nothing yields nothing. No run has the number `usize::MAX`.
            let run = recorder.lock().runs.iter().position(|run| run.upload == number);
            return Outcome::Returned(last.unwrap_or(Summary::of_first(run.unwrap_or(usize::MAX), 0)));
        }
    };
    drop(client);
    call.timeout(planned.timeout)
        .await
        .map_or_else(Outcome::from, Outcome::Returned)
}

impl From<CallError<MethodError>> for Outcome {
    fn from(error: CallError<MethodError>) -> Self {
        let executed = error.executed();
        let kind = match &error {
            CallError::Service(MethodError::Planned(summary)) => return Self::Error(*summary),
            CallError::Service(MethodError::Broken(summary)) => return Self::Broken(*summary),
            CallError::Fault(fault) if fault.code == FaultCode::Panicked => Failure::Panicked,
            CallError::Fault(fault) if fault.code == FaultCode::Interrupted => Failure::Interrupted,
            CallError::TimedOut { .. } => Failure::TimedOut,
            CallError::NoServer { .. } => Failure::NoServer,
            CallError::BadItem { .. } => Failure::BadItem,
            CallError::BadReply { .. } => Failure::BadReply,
            _ => Failure::Other,
        };
        Self::Failed {
            executed,
            kind,
            text: Chain(&error).to_string(),
        }
    }
}

/// The implementation of the service. It records its runs.
pub(super) struct RecordingUploads {
    pub(super) worker: usize,
    pub(super) scenario: Arc<Scenario>,
    pub(super) recorder: Arc<UploadRecorder>,
}

/// A run of a method, until it ends or is dropped.
struct Running {
    recorder: Arc<UploadRecorder>,
    planned: PlannedUpload,
    run: usize,
    /// `None` once the method has read enough, or to the end.
    parts: Option<Incoming<Part>>,
}

impl Running {
    /// Takes the next item. Returns the summary with it, or breaks with the method's answer.
    async fn next(&mut self) -> ControlFlow<Result<Summary, MethodError>, Summary> {
        let (planned, taken) = (self.planned, self.taken());
        let Some(parts) = self.parts.as_mut() else {
            return ControlFlow::Break(Ok(taken));
        };
        if planned.stops_after == Some(taken.count) {
            self.change(|run, now| run.stopped = Some(now));
            return ControlFlow::Break(self.answer().await);
        }
        match parts.next().await {
            Some(Ok(part)) => {
                let taken = self.change(|run, now| run.take(&part, now));
                if let Some(pause) = planned.takes.pause_at(taken.count) {
                    sleep(pause).await;
                }
                ControlFlow::Continue(taken)
            }
            Some(Err(error)) => {
                let end = match error {
                    IncomingError::Interrupted => End::Interrupted,
                    error => End::Bad(Chain(&error).to_string()),
                };
                self.change(|run, now| run.end = Some((now, end)));
                ControlFlow::Break(Err(MethodError::Broken(taken)))
            }
            None => {
                self.change(|run, now| run.end = Some((now, End::Regular)));
                ControlFlow::Break(self.answer().await)
            }
        }
    }

    /// Drops the items that are left, works, and ends as planned.
    async fn answer(&mut self) -> Result<Summary, MethodError> {
        self.parts = None;
        if !self.planned.work.is_zero() {
            sleep(self.planned.work).await;
        }
        match self.planned.answer {
            Answer::Result => Ok(self.taken()),
            Answer::Error => Err(MethodError::Planned(self.taken())),
            Answer::Panic => panic_as_planned(),
            Answer::Never => std::future::pending().await,
        }
    }

    fn taken(&self) -> Summary {
        self.change(|run, _| run.taken)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Run, Duration) -> T) -> T {
        self.recorder.change_run(self.run, change)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.change(|run, now| run.ended = Some(now));
    }
}

impl Run {
    /// Records an item that the method took. Returns the summary with it.
    fn take(&mut self, part: &Part, now: Duration) -> Summary {
        let expected = (self.upload, self.taken.count);
        if (part.upload, part.number) != expected {
            let disorder = format!("{:?} instead of {expected:?}", (part.upload, part.number));
            self.disorder.get_or_insert(disorder);
        }
        self.taken = self.taken.plus(part.number);
        self.last_taken = Some(now);
        self.taken
    }
}

impl RecordingUploads {
    /// Records a new run.
    fn begin(&self, id: u64, parts: Incoming<Part>) -> Running {
        let begun = self.recorder.begun.elapsed();
        let runs = &mut self.recorder.lock().runs;
        runs.push(Run {
            upload: id,
            worker: self.worker,
            begun,
            taken: Summary::of_first(runs.len(), 0),
            last_taken: None,
            disorder: None,
            end: None,
            stopped: None,
            ended: None,
        });
        Running {
            recorder: Arc::clone(&self.recorder),
            planned: self.scenario.uploads[usize::try_from(id).unwrap()],
            run: runs.len() - 1,
            parts: Some(parts),
        }
    }

    /// Runs a method: takes items until the plan, the end or an error stops it.
    async fn take_items(&self, id: u64, parts: Incoming<Part>) -> Result<Summary, MethodError> {
        let mut running = self.begin(id, parts);
        loop {
            if let ControlFlow::Break(answer) = running.next().await {
                return answer;
            }
        }
    }
}

impl Uploads for RecordingUploads {
    async fn collect(&self, id: u64, parts: Incoming<Part>) -> Result<Summary, MethodError> {
        self.take_items(id, parts).await
    }

    async fn store(&self, id: u64, parts: Incoming<Part>) -> Result<Summary, MethodError> {
        self.take_items(id, parts).await
    }

    fn chat(&self, id: u64, parts: Incoming<Part>) -> impl Stream<Item = Result<Summary, MethodError>> {
        stream::unfold(Some(self.begin(id, parts)), |running| async {
            let mut running = running?;
            match running.next().await {
                ControlFlow::Continue(taken) => Some((Ok(taken), Some(running))),
                ControlFlow::Break(Ok(_)) => None,
                ControlFlow::Break(Err(error)) => Some((Err(error), None)),
            }
        })
    }
}

/// Describes all broken promises.
pub(super) fn violations(scenario: &Scenario, history: &UploadHistory) -> Vec<String> {
    let mut broken = Vec::new();
    for (id, planned) in scenario.uploads.iter().enumerate() {
        let call = &history.calls[id];
        // Its sender was killed before the call.
        if call.begun.is_none() && planned.sender == Sender::Killed {
            continue;
        }
        let (Some(begun), Some((ended, outcome))) = (call.begun, &call.ended) else {
            broken.push(format!("upload {id} ({planned:?}) never ended: {call:?}"));
            continue;
        };
        let number = id as u64;
        let runs = history.runs.iter().enumerate();
        let judge = Judge {
            scenario,
            id,
            planned,
            call,
            begun,
            ended: *ended,
            outcome,
            runs: runs.filter(|(_, run)| run.upload == number).collect(),
        };
        let checks = [
            judge.takes_a_prefix(),
            judge.ends_after_all_items(),
            judge.breaks_off_only_in_silence(),
            judge.takes_on_one_worker(),
            judge.answers_with_what_was_taken(),
            judge.ends_as_planned(),
            judge.keeps_to_its_window(),
            judge.drops_the_stream_of_its_caller(),
            judge.ends_in_time(),
            judge.reports_executed_correctly(),
            judge.runs_at_most_once(),
            judge.stops_in_the_end(),
            judge.stops_when_dropped(),
            judge.finds_its_queue(),
            judge.survives_mild_faults(),
            judge.succeeds_without_faults(),
        ];
        for reason in checks.into_iter().filter_map(Result::err) {
            broken.push(format!("{} {reason}", judge.describe()));
        }
    }
    broken
}

/// A call and all that happened to it.
struct Judge<'a> {
    scenario: &'a Scenario,
    id: usize,
    planned: &'a PlannedUpload,
    call: &'a UploadCall,
    begun: Duration,
    ended: Duration,
    outcome: &'a Outcome,
    /// With their numbers.
    runs: Vec<(usize, &'a Run)>,
}

impl Judge<'_> {
    fn failure(&self) -> Option<Failure> {
        match self.outcome {
            Outcome::Failed { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the call ended as the plan of the method, or of the caller's stream, says.
    fn succeeded(&self) -> bool {
        let planned = self.planned;
        // The caller's stream is also polled for items that the method does not take. So it may
        // fail although the method wants no more.
        let stops = planned.stops_after.is_some();
        let answer = match self.outcome {
            Outcome::Returned(_) => Answer::Result,
            Outcome::Error(_) => Answer::Error,
            Outcome::Failed {
                kind: Failure::Panicked,
                ..
            } => Answer::Panic,
            Outcome::Failed {
                kind: Failure::BadItem,
                ..
            } => return planned.sending == Sending::BadItem,
            Outcome::Panicked => return planned.sending == Sending::Panic,
            Outcome::Failed { .. } | Outcome::Broken(_) | Outcome::Dropped => return false,
        };
        answer == planned.answer && (stops || planned.sending == Sending::End)
    }

    /// No gap, no duplicate, no other order, no item of another call, neither among the items that
    /// the method takes nor in the stream that it may return.
    fn takes_a_prefix(&self) -> Check {
        for (_, run) in &self.runs {
            fail_if(
                run.disorder.is_some(),
                "took an item that should not have been there",
            )?;
            fail_if(
                run.taken.count > self.call.yielded,
                "took items that its caller did not send",
            )?;
        }
        fail_if(
            self.call.disorder.is_some(),
            "has an answer that should not have been there",
        )
    }

    /// No silent end: a method sees the end after all items, and only if its caller's stream ends.
    fn ends_after_all_items(&self) -> Check {
        let is_regular = |run: &Run| matches!(run.end, Some((_, End::Regular)));
        for (_, run) in self.runs.iter().filter(|(_, run)| is_regular(run)) {
            fail_if(
                run.taken.count != self.planned.items,
                "ended before the method had all items",
            )?;
            fail_if(
                self.planned.sending != Sending::End,
                "ended for the method, but not for its caller",
            )?;
        }
        Ok(())
    }

    /// The only error that a method sees is that its items broke off. While its call goes on and no
    /// fault disturbs its caller, it sees that only after a long silence.
    fn breaks_off_only_in_silence(&self) -> Check {
        for (_, run) in &self.runs {
            match &run.end {
                None | Some((_, End::Regular)) => {}
                Some((_, End::Bad(_))) => return Err("has messages that its method cannot read"),
                Some((at, End::Interrupted)) => fail_if(
                    *at < run.begun + MAX_SILENCE && !self.is_caller_disturbed() && *at <= self.ended,
                    "broke off before its time",
                )?,
            }
        }
        Ok(())
    }

    /// Once a worker has sent a message, no other worker gets items. The same one may run an
    /// idempotent method again, if the caller had sent its request twice before that message.
    fn takes_on_one_worker(&self) -> Check {
        let runs = self.runs.iter().map(|(_, run)| run);
        let takes: Vec<_> = runs.filter(|run| run.taken.count > 0).collect();
        let runs_again = |pair: &[&&Run]| {
            let is_after = pair[0].ended.is_some_and(|ended| ended <= pair[1].begun);
            pair[0].worker == pair[1].worker && is_after
        };
        fail_if(
            !takes.windows(2).all(runs_again),
            "has items that two runs took at once",
        )
    }

    /// The answer is that of a run which has taken what it says: all that it should, unless its
    /// items broke off.
    fn answers_with_what_was_taken(&self) -> Check {
        let (summary, is_complete) = match self.outcome {
            Outcome::Returned(summary) | Outcome::Error(summary) => (summary, true),
            Outcome::Broken(summary) => (summary, false),
            _ => return Ok(()),
        };
        let Some((_, run)) = self.runs.iter().find(|(number, _)| *number == summary.run) else {
            return Err("has the answer of a run that did not happen");
        };
        fail_if(
            *summary != run.taken || *summary != Summary::of_first(summary.run, summary.count),
            "has an answer about other items than were taken",
        )?;
        fail_if(
            is_complete && summary.count != self.planned.taken(),
            "has an answer of a method that did not take all that it should",
        )?;
        let tells_the_end = match &run.end {
            Some((_, end)) => is_complete == (*end == End::Regular),
            None => is_complete && self.planned.stops_after.is_some(),
        };
        fail_if(
            !tells_the_end,
            "has an answer that does not tell how its items ended",
        )
    }

    /// Answers, panics and bad items are those of the plan, and each reply can be read. Other
    /// failures may come from faults.
    fn ends_as_planned(&self) -> Check {
        let Self { planned, outcome, .. } = self;
        let is_planned = match outcome {
            Outcome::Error(_) => planned.answer == Answer::Error,
            Outcome::Returned(_) => planned.answer == Answer::Result,
            Outcome::Panicked => planned.sending == Sending::Panic,
            Outcome::Failed { kind, .. } => match kind {
                Failure::Panicked => planned.answer == Answer::Panic,
                Failure::BadItem => planned.sending == Sending::BadItem,
                Failure::BadReply => false,
                _ => true,
            },
            Outcome::Broken(_) | Outcome::Dropped => true,
        };
        fail_if(!is_planned, "has an outcome that was not planned")
    }

    /// A slow method slows its caller down. One item may go beyond the bytes.
    fn keeps_to_its_window(&self) -> Check {
        let most = self.call.most_untaken;
        fail_if(most > WINDOW, "yielded more items than the method has room for")?;
        let bytes = most.saturating_sub(1) * self.planned.bytes as u64;
        fail_if(
            bytes > MAX_UNTAKEN_BYTES as u64,
            "yielded more bytes than the method has room for",
        )
    }

    /// The caller's stream is dropped with the call, or once the method wants no more.
    fn drops_the_stream_of_its_caller(&self) -> Check {
        let Some(dropped) = self.call.dropped else {
            return Err("kept the stream of its caller");
        };
        fail_if(
            dropped > self.ended + TICK,
            "kept the stream of its caller for too long",
        )?;
        if !self.is_undisturbed() || self.failure().is_some() {
            return Ok(());
        }
        // The worker tells the caller, and each message may take ten times the latency. Earlier
        // ones may have to be confirmed first, or a channel may have to be opened.
        let known = Duration::from_millis(100 * self.scenario.latency + 1_000);
        let stopped = self.runs.iter().filter_map(|(_, run)| run.stopped).max();
        fail_if(
            stopped.is_some_and(|stopped| dropped > stopped + known),
            "kept the stream of its caller although the method wants no more",
        )
    }

    /// A call ends within a bounded time after it last went on, but not before its timeout or
    /// [`MAX_SILENCE`] is over if it fails because of that.
    fn ends_in_time(&self) -> Check {
        let Self { planned, call, .. } = self;
        let took = self.ended - self.begun;
        let has_timed_out = self.failure() == Some(Failure::TimedOut);
        fail_if(
            has_timed_out && took < planned.timeout,
            "timed out before its time",
        )?;
        // The caller's stream is polled only once a worker has begun.
        let has_begun = call.yielded > 0;
        fail_if(
            has_timed_out && has_begun && planned.timeout >= LONG_TIMEOUT,
            "waited for its timeout, although it had begun",
        )?;
        let is_silent = matches!(
            self.outcome,
            Outcome::Failed { text, .. } if text.contains("has not gone on for")
        );
        fail_if(
            is_silent && took < MAX_SILENCE,
            "counts as silent before its time",
        )?;
        let of_run = |(_, run): &(usize, &Run)| {
            [run.last_taken, run.ended.filter(|ended| *ended < self.ended)]
                .into_iter()
                .flatten()
                .max()
        };
        // When something last went on, on either side.
        let last = [Some(self.begun), call.last_yield, call.last_read];
        let last = last
            .into_iter()
            .flatten()
            .chain(self.runs.iter().filter_map(of_run))
            .max();
        let faults = planned.at.map_or(Duration::ZERO, |_| FAULTS_END);
        let last = last.unwrap_or_default().max(faults);
        let pause = planned.sends.pause.max(planned.takes.pause).max(planned.work);
        // One such wait is for its worker, another one for a connection.
        let wait = if has_begun {
            MAX_SILENCE.min(planned.timeout)
        } else {
            planned.timeout
        };
        fail_if(
            self.ended > last + pause + 2 * wait + MAX_SILENCE,
            "waited for too long",
        )
    }

    /// Whether a fault may keep messages from the caller, or those of the caller from the method.
    fn is_caller_disturbed(&self) -> bool {
        let Sender::Caller(number) = self.planned.sender else {
            return true;
        };
        let own = Peer::Caller(number);
        let mut faults = self.scenario.faults.iter();
        faults.any(|(_, fault)| match fault {
            InjectedFault::Cut { peer, .. } | InjectedFault::Block { peer } => *peer == own,
            InjectedFault::BrokerDown
            | InjectedFault::Panic { .. }
            | InjectedFault::LoseItems { .. }
            | InjectedFault::DeleteReplyQueues { .. } => true,
            _ => false,
        })
    }

    /// Whether the call meets no faults but those of a calm scenario.
    fn is_undisturbed(&self) -> bool {
        self.planned.at.is_none() || self.scenario.profile == Profile::Calm
    }

    /// An error tells correctly whether the method ran.
    fn reports_executed_correctly(&self) -> Check {
        let Outcome::Failed { executed, .. } = self.outcome else {
            return Ok(());
        };
        let has_run = !self.runs.is_empty();
        match executed {
            Executed::No => fail_if(has_run, "ran, but its error says that it did not"),
            Executed::Yes => fail_if(!has_run, "never ran, but its error says that it did"),
            Executed::Maybe => Ok(()),
        }
    }

    fn runs_at_most_once(&self) -> Check {
        fail_if(
            self.planned.method != Method::Store && self.runs.len() > 1,
            "is not idempotent, but ran twice",
        )
    }

    /// No method goes on forever, even if its caller could not tell its worker that it is gone.
    fn stops_in_the_end(&self) -> Check {
        let faults = self.planned.at.map_or(Duration::ZERO, |_| FAULTS_END);
        let is_late = |run: &Run| {
            let latest = self.ended.max(faults).max(run.begun) + LONGEST_LEFT;
            run.ended.is_none_or(|ended| ended > latest)
        };
        fail_if(
            self.runs.iter().any(|(_, run)| is_late(run)),
            "went on long after its caller had left",
        )
    }

    /// If workers are only stopped, a method ends soon after its caller has left, unless the caller
    /// was killed. A worker that is starting meanwhile may not hear of that.
    fn stops_when_dropped(&self) -> Check {
        if self.scenario.profile != Profile::Calm || self.planned.sender == Sender::Killed {
            return Ok(());
        }
        let known = self.ended + longest_cancellation(self.scenario.latency);
        let is_late = |run: &Run| run.ended.is_none_or(|ended| ended > known);
        let knows = |run: &Run| !self.scenario.starts_worker_between(self.ended, run.begun);
        fail_if(
            self.runs.iter().any(|(_, run)| is_late(run) && knows(run)),
            "went on after its caller had left",
        )
    }

    fn finds_its_queue(&self) -> Check {
        let deleted = self.scenario.queues_deleted_at();
        fail_if(
            self.failure() == Some(Failure::NoServer) && deleted.is_none_or(|deleted| self.ended < deleted),
            "found no queue, although there was one",
        )
    }

    /// A worker that stops lets its calls end. A worker that loses its connection loses no item;
    /// its caller may take it for gone.
    fn survives_mild_faults(&self) -> Check {
        if !self.planned.has_time() {
            return Ok(());
        }
        match self.scenario.profile {
            Profile::Storm => Ok(()),
            // A worker whose drain timed out gave the request back. That counts as redelivered, so
            // no other worker runs its method unless it is idempotent.
            Profile::Calm
                if self.scenario.drains_may_time_out()
                    && self.runs.is_empty()
                    && self.failure() == Some(Failure::Interrupted) =>
            {
                Ok(())
            }
            Profile::Calm => {
                fail_if(!self.succeeded(), "failed, although workers were only stopped")?;
                fail_if(
                    self.runs.len() != 1,
                    "should have run once, as workers were only stopped",
                )
            }
            Profile::CutWorker => {
                fail_if(self.runs.len() > 1, "ran twice on the same worker")?;
                let is_gone = self.failure() == Some(Failure::Interrupted);
                fail_if(
                    !self.runs.is_empty() && !self.succeeded() && !is_gone,
                    "ran, but was lost with a connection of its worker",
                )
            }
        }
    }

    /// Once all faults are over, each call ends as planned.
    fn succeeds_without_faults(&self) -> Check {
        fail_if(
            self.planned.at.is_none() && !self.succeeded(),
            "should have ended as planned",
        )
    }

    /// Describes what happened, and begins a sentence about it.
    fn describe(&self) -> String {
        let Self {
            id, planned, call, ..
        } = self;
        let mut text = format!("upload {id} ({planned:?})\n    {call:?}");
        for (number, run) in &self.runs {
            let _ = write!(text, "\n    run {number}: {run:?}");
        }
        text + "\n    It"
    }
}
