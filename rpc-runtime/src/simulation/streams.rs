//! Streams of a simulation, and what must become of them.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::check::{Check, TICK, fail_if, longest_cancellation, panic_as_planned};
use super::faults::{InjectedFault, Peer, Profile};
use super::scenario::Scenario;
use super::stream_plan::{Ending, Method, PlannedStream};
use super::times::LONG_TIMEOUT;
use crate::error::{CallError, Chain};
use crate::protocol::{Executed, FaultCode};
use crate::service;
use crate::service::Context;
use crate::sync::watch;

/// After how long without messages a stream ends whose worker is gone.
const MAX_SILENCE: Duration = Duration::from_secs(16);

/// An upper bound of how long a method goes on whose caller is gone and could not tell. Usually,
/// its worker ends it after about a minute without a grant.
pub(super) const LONGEST_ABANDONED: Duration = Duration::from_secs(90);

/// A service on the workers' queue. The methods get the id of their stream.
#[service(queue = "work")]
pub(super) trait Streams {
    #[rpc(idempotent)]
    fn list(&self, #[rpc(context)] cx: &Context, id: u64) -> impl Stream<Item = Result<Item, PlannedError>>;

    fn watch(&self, id: u64) -> impl Stream<Item = Result<Item, PlannedError>>;

    #[rpc(idempotent)]
    fn replay(
        &self,
        id: u64,
        #[rpc(resume)] after: Option<Item>,
    ) -> impl Stream<Item = Result<Item, PlannedError>>;
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Item {
    stream: u64,
    /// The number of the run that yielded it.
    run: usize,
    number: u64,
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("planned")]
pub(super) struct PlannedError;

/// What happened to the streams.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct StreamHistory {
    /// Indexed by id, as in the plan.
    reads: Vec<Read>,
    /// In the order in which they began.
    runs: Vec<Run>,
}

/// What the reader of a stream saw.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Read {
    begun: Option<Duration>,
    received: u64,
    /// When the reader took the last item.
    last_item: Option<Duration>,
    /// The run that yielded the first item, or the last one of a stream that is resumed.
    run: Option<usize>,
    /// The first item, or end, that should not have been there.
    disorder: Option<String>,
    /// The longest wait for an item or the end.
    longest_wait: Duration,
    /// The longest of these waits after the first item.
    longest_gap: Duration,
    /// `None` if it never ended.
    ended: Option<(Duration, Outcome)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    End,
    /// The error that the method yields.
    Error,
    Failed {
        executed: Executed,
        kind: Failure,
        text: String,
    },
    /// The reader dropped the stream.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Panicked,
    Interrupted,
    TimedOut,
    NoServer,
    BadReply,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    stream: u64,
    worker: usize,
    begun: Duration,
    /// Whether the request had been delivered before. Only `list` knows it.
    is_redelivered: bool,
    /// The number of its first item.
    first: u64,
    yielded: u64,
    /// How many of its items the reader took.
    received: u64,
    /// The largest number of items that were yielded and not yet read.
    most_unread: u64,
    /// When the method's stream ended or was dropped.
    ended: Option<Duration>,
}

/// Records what happens to the streams.
#[derive(Debug)]
pub(super) struct StreamRecorder {
    begun: Instant,
    history: Mutex<StreamHistory>,
    /// How many streams have begun that wait for one another.
    waiting: watch::Sender<usize>,
}

impl StreamRecorder {
    pub(super) fn new(plan: &[PlannedStream]) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            history: Mutex::new(StreamHistory {
                reads: vec![Read::default(); plan.len()],
                runs: Vec::new(),
            }),
            waiting: watch::Sender::new(0),
        })
    }

    pub(super) fn history(&self) -> StreamHistory {
        self.lock().clone()
    }

    /// How many runs have not ended.
    pub(super) fn running(&self) -> usize {
        let runs = &self.lock().runs;
        runs.iter().filter(|run| run.ended.is_none()).count()
    }

    fn change_read<T>(&self, id: usize, change: impl FnOnce(&mut Read) -> T) -> T {
        change(&mut self.lock().reads[id])
    }

    /// Records that the reader took an item. Returns how many it has. If the stream `is_resumable`,
    /// the item may be of another run than the one before.
    fn received(&self, id: usize, item: Item, is_resumable: bool) -> u64 {
        let now = self.begun.elapsed();
        if let Some(run) = self.lock().runs.get_mut(item.run) {
            run.received += 1;
        }
        self.change_read(id, |read| {
            if is_resumable {
                read.run = Some(item.run);
            }
            let expected = (id as u64, *read.run.get_or_insert(item.run), read.received);
            if (item.stream, item.run, item.number) != expected {
                let disorder = format!("{item:?} instead of {expected:?}");
                read.disorder.get_or_insert(disorder);
            }
            read.last_item = Some(now);
            read.received += 1;
            read.received
        })
    }

    fn lock(&self) -> MutexGuard<'_, StreamHistory> {
        self.history.lock().unwrap()
    }
}

/// Reads a stream and records what arrives.
pub(super) async fn read(
    id: usize,
    planned: PlannedStream,
    client: StreamsClient,
    recorder: Arc<StreamRecorder>,
) {
    let begun = recorder.begun.elapsed();
    recorder.change_read(id, |read| read.begun = Some(begun));
    let reading = read_to_end(id, &planned, client, &recorder);
    let outcome = match planned.cancelled_after {
        None => reading.await,
        Some(limit) => timeout(limit, reading).await.unwrap_or(Outcome::Dropped),
    };
    let ended = recorder.begun.elapsed();
    recorder.change_read(id, |read| read.ended = Some((ended, outcome)));
}

/// Makes the call, and reads until the stream ends, or its reader drops it after as many items as
/// planned. Returns how it ended.
async fn read_to_end(
    id: usize,
    planned: &PlannedStream,
    client: StreamsClient,
    recorder: &StreamRecorder,
) -> Outcome {
    let number = id as u64;
    let stream = match planned.method {
        Method::List => client.list(number),
        Method::Watch => client.watch(number),
        Method::Replay => client.replay(number, None),
    };
    // The stream does not need its client any more.
    drop(client);
    let mut stream = stream.timeout(planned.timeout).credit(planned.credit);
    let mut received = 0;
    let outcome = loop {
        if planned.dropped_after == Some(received) {
            return Outcome::Dropped;
        }
        let since = Instant::now();
        let next = stream.next().await;
        let waited = since.elapsed();
        recorder.change_read(id, |read| {
            read.longest_wait = read.longest_wait.max(waited);
            if received > 0 {
                read.longest_gap = read.longest_gap.max(waited);
            }
        });
        match next {
            Some(Ok(item)) => received = recorder.received(id, item, planned.method == Method::Replay),
            Some(Err(error)) => break Outcome::from(error),
            None => break Outcome::End,
        }
        if let Some(pause) = planned.reads.pause_at(received) {
            sleep(pause).await;
        }
    };
    if let Some(more) = stream.next().await {
        let more = format!("{more:?} after the end");
        recorder.change_read(id, |read| {
            read.disorder.get_or_insert(more);
        });
    }
    outcome
}

impl From<CallError<PlannedError>> for Outcome {
    fn from(error: CallError<PlannedError>) -> Self {
        let executed = error.executed();
        let kind = match &error {
            CallError::Service(PlannedError) => return Self::Error,
            CallError::Fault(fault) if fault.code == FaultCode::Panicked => Failure::Panicked,
            CallError::Fault(fault) if fault.code == FaultCode::Interrupted => Failure::Interrupted,
            CallError::TimedOut { .. } => Failure::TimedOut,
            CallError::NoServer { .. } => Failure::NoServer,
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
pub(super) struct RecordingStreams {
    pub(super) worker: usize,
    pub(super) scenario: Arc<Scenario>,
    pub(super) recorder: Arc<StreamRecorder>,
}

/// A run of a method, until its stream ends or is dropped.
struct Running {
    recorder: Arc<StreamRecorder>,
    run: usize,
}

impl Running {
    /// Records a new run, whose first item has the number `first`.
    fn begin(
        recorder: &Arc<StreamRecorder>,
        stream: u64,
        worker: usize,
        is_redelivered: bool,
        first: u64,
    ) -> Self {
        let runs = &mut recorder.lock().runs;
        runs.push(Run {
            stream,
            worker,
            begun: recorder.begun.elapsed(),
            is_redelivered,
            first,
            yielded: 0,
            received: 0,
            most_unread: 0,
            ended: None,
        });
        Self {
            recorder: Arc::clone(recorder),
            run: runs.len() - 1,
        }
    }

    /// Records that the method yields its next item, and returns it.
    fn yield_item(&self) -> Item {
        let run = &mut self.recorder.lock().runs[self.run];
        let number = run.first + run.yielded;
        run.yielded += 1;
        run.most_unread = run.most_unread.max(run.yielded - run.received);
        Item {
            stream: run.stream,
            run: self.run,
            number,
        }
    }

    /// The number of the next item.
    fn next_number(&self) -> u64 {
        let run = &self.recorder.lock().runs[self.run];
        run.first + run.yielded
    }

    /// Waits until this stream and the others that wait for one another have begun. `all` is their
    /// number.
    async fn wait_for_others(&self, all: usize) {
        self.recorder.waiting.send_modify(|begun| *begun += 1);
        let mut begun = self.recorder.waiting.subscribe();
        let _ = begun.wait_for(|begun| *begun >= all).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = self.recorder.begun.elapsed();
        self.recorder.lock().runs[self.run].ended = Some(now);
    }
}

impl RecordingStreams {
    /// Runs a method: yields the items from number `first` on, and ends as planned.
    fn run(
        &self,
        id: u64,
        is_redelivered: bool,
        first: u64,
    ) -> impl Stream<Item = Result<Item, PlannedError>> + use<> {
        let planned = self.scenario.streams[usize::try_from(id).unwrap()];
        let streams = self.scenario.streams.iter();
        let waiting = streams.filter(|stream| stream.waits_for_others).count();
        let running = Running::begin(&self.recorder, id, self.worker, is_redelivered, first);
        stream::unfold(Some(running), move |running| async move {
            let running = running?;
            let next = running.next_number();
            if let Some(pause) = planned.yields.pause_at(next) {
                sleep(pause).await;
            }
            if planned.waits_for_others && next == 1 {
                running.wait_for_others(waiting).await;
            }
            if next < planned.items {
                return Some((Ok(running.yield_item()), Some(running)));
            }
            match planned.ending {
                Ending::End => None,
                Ending::Error => Some((Err(PlannedError), None)),
                Ending::Panic => panic_as_planned(),
            }
        })
    }
}

impl Streams for RecordingStreams {
    fn list(&self, cx: &Context, id: u64) -> impl Stream<Item = Result<Item, PlannedError>> {
        self.run(id, cx.redelivered(), 0)
    }

    fn watch(&self, id: u64) -> impl Stream<Item = Result<Item, PlannedError>> {
        self.run(id, false, 0)
    }

    fn replay(&self, id: u64, after: Option<Item>) -> impl Stream<Item = Result<Item, PlannedError>> {
        self.run(id, false, after.map_or(0, |item| item.number + 1))
    }
}

/// Describes all broken promises.
pub(super) fn violations(scenario: &Scenario, history: &StreamHistory) -> Vec<String> {
    let mut broken = Vec::new();
    for (id, planned) in scenario.streams.iter().enumerate() {
        let read = &history.reads[id];
        let (Some(begun), Some((ended, outcome))) = (read.begun, &read.ended) else {
            broken.push(format!("stream {id} ({planned:?}) never ended: {read:?}"));
            continue;
        };
        let number = id as u64;
        let runs = history.runs.iter().enumerate();
        let judge = Judge {
            scenario,
            id,
            planned,
            read,
            begun,
            ended: *ended,
            outcome,
            runs: runs.filter(|(_, run)| run.stream == number).collect(),
        };
        let checks = [
            judge.is_in_order(),
            judge.ends_as_planned(),
            judge.ends_in_time(),
            judge.is_readable(),
            judge.reports_executed_correctly(),
            judge.runs_at_most_once(),
            judge.keeps_to_its_credit(),
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

/// A stream and all that happened to it.
struct Judge<'a> {
    scenario: &'a Scenario,
    id: usize,
    planned: &'a PlannedStream,
    read: &'a Read,
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

    /// Whether the reader got the end, the error or the panic of the method. For the items, see
    /// [`ends_as_planned`](Self::ends_as_planned).
    fn succeeded(&self) -> bool {
        match self.outcome {
            Outcome::End | Outcome::Error => true,
            Outcome::Failed { kind, .. } => {
                self.planned.ending == Ending::Panic && *kind == Failure::Panicked
            }
            Outcome::Dropped => false,
        }
    }

    /// No gap, no duplicate, no other order, no item of another stream, nothing after the end. All
    /// items are of one run, unless the stream is resumed.
    fn is_in_order(&self) -> Check {
        fail_if(
            self.read.disorder.is_some(),
            "has an item that should not have been there",
        )
    }

    /// No silent end: the regular end, and the method's error, come after all items. A panic is a
    /// planned one.
    fn ends_as_planned(&self) -> Check {
        let Self { planned, read, .. } = self;
        let is_complete = read.received == planned.items;
        match self.outcome {
            Outcome::End => {
                fail_if(!is_complete, "ended before all items")?;
                fail_if(planned.ending != Ending::End, "ended without its error")
            }
            Outcome::Error => {
                fail_if(!is_complete, "has its error before all items")?;
                fail_if(
                    planned.ending != Ending::Error,
                    "has an error that was not yielded",
                )
            }
            Outcome::Failed {
                kind: Failure::Panicked,
                ..
            } => fail_if(planned.ending != Ending::Panic, "panicked"),
            Outcome::Failed { .. } | Outcome::Dropped => Ok(()),
        }
    }

    /// No wait is longer than the timeout. A stream that has begun does not wait for as long as
    /// [`LONG_TIMEOUT`]: its worker sends messages, or counts as gone.
    fn ends_in_time(&self) -> Check {
        let Self { planned, read, .. } = self;
        fail_if(
            read.longest_wait > planned.timeout + TICK,
            "waited longer than its timeout",
        )?;
        let has_timed_out = self.failure() == Some(Failure::TimedOut);
        fail_if(
            has_timed_out && read.longest_wait < planned.timeout,
            "timed out before its time",
        )?;
        // A method that waits for others yields nothing until they have begun. A stream that is
        // resumed may wait for another worker.
        let has_begun = read.received > 0 && !planned.waits_for_others && !self.is_resumable();
        fail_if(
            has_timed_out && has_begun && planned.timeout >= LONG_TIMEOUT,
            "waited for its timeout, although it had begun",
        )?;
        let is_silent = matches!(
            self.outcome,
            Outcome::Failed { text, .. } if text.contains("has not gone on for")
        );
        fail_if(
            is_silent && self.ended < self.begun + MAX_SILENCE,
            "counts as silent before its time",
        )?;
        // The second silence is leeway. While a fault keeps messages from the caller, it does not
        // count the worker as silent.
        let longest = planned.yields.pause + MAX_SILENCE + MAX_SILENCE;
        fail_if(
            has_begun && !self.is_caller_disturbed() && read.longest_gap > longest,
            "waited for too long after it had begun",
        )
    }

    /// Whether the stream is resumed if it is interrupted.
    fn is_resumable(&self) -> bool {
        self.planned.method == Method::Replay
    }

    /// Whether a fault may keep messages from the caller, or its own from a worker.
    fn is_caller_disturbed(&self) -> bool {
        let own = Peer::Caller(self.planned.caller);
        let mut faults = self.scenario.faults.iter();
        faults.any(|(_, fault)| match fault {
            InjectedFault::Cut { peer, .. } | InjectedFault::Block { peer } => *peer == own,
            InjectedFault::BrokerDown
            | InjectedFault::Panic { .. }
            | InjectedFault::DeleteReplyQueues { .. } => true,
            _ => false,
        })
    }

    /// The workers send what a caller can read.
    fn is_readable(&self) -> Check {
        fail_if(
            self.failure() == Some(Failure::BadReply),
            "has messages that cannot be read",
        )
    }

    /// An error tells correctly whether the method ran.
    fn reports_executed_correctly(&self) -> Check {
        let Outcome::Failed { executed, .. } = self.outcome else {
            return Ok(());
        };
        let has_run = !self.runs.is_empty();
        // A redelivered request may run after it was refused: see the check of the same name in
        // `invariants`.
        let ran_on_first_delivery = self.runs.iter().any(|(_, run)| !run.is_redelivered);
        match executed {
            // The error of a stream that was resumed tells of the last attempt.
            Executed::No => fail_if(
                ran_on_first_delivery && !self.is_resumable(),
                "ran, but its error says that it did not",
            ),
            Executed::Yes => fail_if(!has_run, "never ran, but its error says that it did"),
            Executed::Maybe => Ok(()),
        }
    }

    fn runs_at_most_once(&self) -> Check {
        fail_if(
            self.planned.method == Method::Watch && self.runs.len() > 1,
            "is not idempotent, but ran twice",
        )
    }

    /// The method's stream is polled for one item beyond the credit, because it may end instead. If
    /// the call has several runs, each may get the credit for what the reader takes of the others.
    fn keeps_to_its_credit(&self) -> Check {
        let credit = u64::from(self.planned.credit);
        let exceeds = |run: &Run| {
            let of_other_runs = self.read.received.saturating_sub(run.received);
            run.most_unread > credit + 1 + of_other_runs
        };
        fail_if(
            self.runs.iter().any(|(_, run)| exceeds(run)),
            "yielded more than its credit",
        )
    }

    /// No method goes on forever, even if its caller could not tell its worker that it is gone.
    fn stops_in_the_end(&self) -> Check {
        let latest = self.ended + LONGEST_ABANDONED;
        let mut runs = self.runs.iter();
        fail_if(
            !runs.all(|(_, run)| run.ended.is_some_and(|ended| ended <= latest)),
            "went on long after its reader had left",
        )
    }

    /// If workers are only stopped, a method ends soon after its reader has left. A worker that is
    /// starting meanwhile may not hear of that.
    fn stops_when_dropped(&self) -> Check {
        if self.scenario.profile != Profile::Calm {
            return Ok(());
        }
        let known = self.ended + longest_cancellation(self.scenario.latency);
        let is_late = |run: &Run| run.ended.is_none_or(|ended| ended > known);
        let knows = |run: &Run| !self.scenario.starts_worker_between(self.ended, run.begun);
        fail_if(
            self.runs.iter().any(|(_, run)| is_late(run) && knows(run)),
            "went on after its reader had left",
        )
    }

    fn may_have_lost_its_queue(&self) -> bool {
        let deleted = self.scenario.queues_deleted_at();
        deleted.is_some_and(|deleted| self.ended >= deleted)
    }

    fn finds_its_queue(&self) -> Check {
        fail_if(
            self.failure() == Some(Failure::NoServer) && !self.may_have_lost_its_queue(),
            "found no queue, although there was one",
        )
    }

    /// A worker that stops lets its streams end. A worker that loses its connection loses no item;
    /// its caller may take it for gone.
    fn survives_mild_faults(&self) -> Check {
        if !self.planned.has_time() {
            return Ok(());
        }
        match self.scenario.profile {
            Profile::Storm => Ok(()),
            Profile::Calm => {
                fail_if(!self.succeeded(), "failed, although workers were only stopped")?;
                fail_if(
                    self.runs.len() != 1,
                    "should have run once, as workers were only stopped",
                )
            }
            Profile::CutWorker => {
                fail_if(
                    self.runs.len() > 1 && !self.is_resumable(),
                    "ran twice on the same worker",
                )?;
                let is_gone = self.failure() == Some(Failure::Interrupted) && !self.is_resumable();
                fail_if(
                    !self.runs.is_empty() && !self.succeeded() && !is_gone,
                    "ran, but was lost with a connection of its worker",
                )
            }
        }
    }

    /// Once all faults are over, each stream is complete.
    fn succeeds_without_faults(&self) -> Check {
        fail_if(
            self.planned.at.is_none() && !self.succeeded(),
            "should have succeeded",
        )
    }

    /// Describes what happened, and begins a sentence about it.
    fn describe(&self) -> String {
        let Self {
            id, planned, read, ..
        } = self;
        let mut text = format!("stream {id} ({planned:?})\n    {read:?}");
        for (number, run) in &self.runs {
            let _ = write!(text, "\n    run {number}: {run:?}");
        }
        text + "\n    It"
    }
}
