//! A caller process: calls of all kinds until all faults are healed, then calls that must succeed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _, stream};
use rpc_runtime::{Broker, BrokerError, CallError, Executed, GatherEnd, Gathered, ReplyQueue, StreamingCall};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::args::Seat;
use crate::child;
use crate::history::{End, Journal, Method, Outcome, Ran, Received, Record, now};
use crate::random::Random;
use crate::service::{Done, Ending, Job, Part, Refused, Row, Stored, TRAP, TortureClient, checksum};

/// How long a process may need after the last fault: heartbeats must detect dead connections, and
/// reconnects wait for their backoff.
const SETTLING: Duration = Duration::from_secs(8);

/// The time limit of calls that are made when all faults are healed.
const AMPLE: Duration = Duration::from_secs(20);

/// How often, in percent, several calls start at once and can share a batch, instead of one call.
const BURSTS: u64 = 20;

/// How often, in percent, the hostile queue is called too, which reveals the reply address.
const TRAPPED: u64 = 10;

/// The pause after each round of calls that must succeed.
const PAUSE: Duration = Duration::from_millis(100);

/// The percentage of single calls that are broadcasts.
const BROADCASTS: u64 = 4;

/// The percentage of single calls that are streams.
const STREAMS: u64 = 4;

/// The largest number of items of a stream.
const MAX_ITEMS: u64 = 1500;

/// A caller pauses before the first part that it sends, and again after each such number of parts.
const STEP: usize = 1000;

/// How much longer the reader of a stream that is resumed waits: a lost worker is noticed after 16
/// seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a caller's stream may exist after its call has ended.
const DROP_LIMIT: Duration = Duration::from_secs(5);

/// The largest number of milliseconds that a method works before each step of a stream.
const MAX_STEP_MS: u64 = 500;

/// How many items of a stream may wait for the caller.
const CREDIT: u32 = 200;

/// How many rounds of calls of all kinds each handle makes at the end.
const LAST_ROUNDS: usize = 10;

/// The usual size of arguments and results in bytes, and the number of items of a fresh stream.
const SMALL: usize = 100;

/// The largest size of arguments and results in bytes.
const LARGE: usize = 300_000;

pub(crate) async fn run(seat: Seat) -> anyhow::Result<ExitCode> {
    child::log();
    let mut orders = child::orders();
    let journal = Arc::new(Journal::create(&seat.journal)?);
    let mut handles = Vec::new();
    for replies in [ReplyQueue::Resumable, ReplyQueue::Exclusive, ReplyQueue::Direct] {
        let broker = Broker::builder().reply_queue(replies).address(&seat.url).lazy()?;
        handles.push(Handle {
            name: format!("{}-{replies:?}", seat.name),
            client: TortureClient::builder(&broker).batching(seat.batching).build(),
            trap: TortureClient::builder(&broker).queue(TRAP).build(),
            workers: seat.workers,
            broker,
            journal: Arc::clone(&journal),
        });
    }

    let mut random = Random::new(seed_of(&seat));
    let mut calls = JoinSet::new();
    let mut next = Instant::now();
    loop {
        // The mean interval matches the rate; the intervals differ.
        next += Duration::from_micros(random.between(0..=2_000_000 / seat.rate));
        tokio::select! {
            () = sleep_until(next) => {}
            _ = orders.recv() => break,
        }
        let handle = handles[random.index(handles.len())].clone();
        if random.percent(TRAPPED) {
            calls.spawn(handle.clone().call_the_stranger());
        }
        let plans = match random.percent(BURSTS) {
            true => Plan::burst(&mut random),
            false => vec![Plan::any(&mut random, seat.workers)],
        };
        calls.spawn(async move { handle.call_at_once(plans).await });
        while calls.try_join_next().is_some() {}
    }
    join_all(handles.iter().map(Handle::must_succeed)).await;
    while calls.join_next().await.is_some() {}
    join_all(handles.iter().map(|handle| handle.broker.close())).await;
    Ok(ExitCode::SUCCESS)
}

/// Returns the seed of a caller's random numbers, which differ from those of other callers.
fn seed_of(seat: &Seat) -> u64 {
    seat.seed ^ checksum(seat.name.as_bytes())
}

/// A call to make.
struct Plan {
    method: Method,
    limit: Duration,
    work_ms: u64,
    ending: Ending,
    /// The size of the arguments, or the number of parts.
    sent: usize,
    /// See [`Job::wanted`].
    wanted: usize,
    /// How long the caller pauses before each [`STEP`] of the parts.
    pause_ms: u64,
    /// How many workers should answer, if it is a broadcast. `None` if the caller does not say.
    expected: Option<usize>,
    /// Whether it is made when all faults are healed, and must succeed.
    fresh: bool,
}

impl Plan {
    /// A random call while faults happen.
    fn any(random: &mut Random, workers: usize) -> Self {
        let size = |random: &mut Random| match random.percent(3) {
            true => random.between(SMALL as u64..=LARGE as u64) as usize,
            false => SMALL,
        };
        let method = match random.between(0..=99) {
            _ if random.percent(BROADCASTS) => random.pick(&[Method::Survey, Method::Announce]),
            _ if random.percent(STREAMS) => {
                random.pick(&[Method::List, Method::List, Method::Follow, Method::Store])
            }
            0..=44 => Method::Read,
            45..=89 => Method::Write,
            _ => Method::Note,
        };
        Self {
            method,
            limit: match method {
                Method::Follow => PATIENCE,
                _ => Duration::ZERO,
            } + Duration::from_millis(random.between(2_000..=20_000)),
            work_ms: match random.between(0..=99) {
                // So that faults meet streams whose items wait.
                _ if method.is_stream() => random.between(0..=MAX_STEP_MS),
                0..=59 => random.between(0..=20),
                60..=94 => random.between(20..=400),
                _ => random.between(400..=3_000),
            },
            ending: match random.between(0..=99) {
                0..=93 => Ending::Answer,
                94..=98 => Ending::Refuse,
                _ => Ending::Panic,
            },
            sent: match method {
                Method::Store => random.between(0..=MAX_ITEMS) as usize,
                _ => size(random),
            },
            wanted: match method {
                Method::Store if random.percent(80) => usize::MAX,
                _ if method.is_stream() => random.between(0..=MAX_ITEMS) as usize,
                _ => size(random),
            },
            pause_ms: match random.between(0..=99) {
                0..=79 => random.between(0..=50),
                80..=94 => random.between(50..=3_000),
                // So long that the runtime sends messages without parts meanwhile.
                _ => random.between(5_000..=7_000),
            },
            expected: random.percent(50).then_some(workers),
            fresh: false,
        }
    }

    /// Short calls with the same time limit.
    fn burst(random: &mut Random) -> Vec<Self> {
        let limit = Duration::from_millis(random.between(2_000..=20_000));
        let calls = 0..random.between(5..=30);
        calls
            .map(|_| Self {
                method: random.pick(&[Method::Read, Method::Write]),
                limit,
                work_ms: 0,
                ending: match random.between(0..=99) {
                    0..=94 => Ending::Answer,
                    95..=98 => Ending::Refuse,
                    _ => Ending::Panic,
                },
                sent: SMALL,
                wanted: SMALL,
                pause_ms: 0,
                expected: None,
                fresh: false,
            })
            .collect()
    }

    /// Short calls that must succeed.
    fn fresh_burst(method: Method) -> Vec<Self> {
        let call = |_| Self {
            work_ms: 0,
            ..Self::fresh(method)
        };
        (0..10).map(call).collect()
    }

    /// A call that is made when all faults are healed, and must succeed.
    fn fresh(method: Method) -> Self {
        Self {
            method,
            limit: AMPLE,
            work_ms: 5,
            ending: Ending::Answer,
            sent: SMALL,
            wanted: match method {
                Method::Store => usize::MAX,
                _ => SMALL,
            },
            pause_ms: 0,
            expected: None,
            fresh: true,
        }
    }

    /// A broadcast that must reach all workers.
    fn fresh_broadcast(method: Method, workers: usize) -> Self {
        Self {
            expected: Some(workers),
            ..Self::fresh(method)
        }
    }
}

/// A broker handle with one kind of reply queue.
#[derive(Clone)]
struct Handle {
    name: String,
    client: TortureClient,
    /// A client of the hostile queue.
    trap: TortureClient,
    /// How many workers there are.
    workers: usize,
    broker: Broker,
    journal: Arc<Journal>,
}

impl Handle {
    /// Makes calls that must succeed. Idempotent ones must from now on, others once each dead
    /// connection is detected, so they begin after [`SETTLING`].
    async fn must_succeed(&self) {
        let settled = Instant::now() + SETTLING;
        while Instant::now() < settled {
            self.call(Plan::fresh(Method::Read)).await;
            self.call_at_once(Plan::fresh_burst(Method::Read)).await;
            sleep(PAUSE).await;
        }
        for _ in 0..LAST_ROUNDS {
            self.call(Plan::fresh(Method::Write)).await;
            self.call_at_once(Plan::fresh_burst(Method::Write)).await;
            for method in [Method::List, Method::Follow, Method::Store] {
                self.call(Plan::fresh(method)).await;
            }
            for method in [Method::Announce, Method::Survey] {
                self.call(Plan::fresh_broadcast(method, self.workers)).await;
            }
            sleep(PAUSE).await;
        }
    }

    /// Calls the hostile queue and ignores the outcome.
    async fn call_the_stranger(self) {
        let job = Job {
            call: "none".to_owned(),
            work_ms: 0,
            ending: Ending::Answer,
            payload: Vec::new().into(),
            wanted: 0,
        };
        let _ = self.trap.write(&job).timeout(Duration::from_secs(1)).await;
    }

    async fn call_at_once(&self, plans: Vec<Plan>) {
        join_all(plans.into_iter().map(|plan| self.call(plan))).await;
    }

    /// Makes the call and records its begin and end.
    async fn call(&self, plan: Plan) {
        let call = format!("{}-{}", self.name, self.journal.next_number());
        let job = Job {
            call: call.clone(),
            work_ms: plan.work_ms,
            ending: plan.ending,
            payload: match plan.method {
                Method::Store => Vec::new(),
                _ => vec![3; plan.sent],
            }
            .into(),
            wanted: plan.wanted,
        };
        self.journal.write(&Record::Called {
            at: now(),
            call: call.clone(),
            handle: self.name.clone(),
            method: plan.method,
            limit_us: plan.limit.as_micros() as u64,
            work_ms: plan.work_ms,
            sent: plan.sent,
            expected: plan.expected,
            fresh: plan.fresh,
        });
        let begun = Instant::now();
        // `peek` and `jot` are `read` and `write` without delay, which can be batched.
        let outcome = match plan.method {
            Method::Read if plan.work_ms == 0 => {
                outcome(self.client.peek(&job).timeout(plan.limit).await, &job)
            }
            Method::Write if plan.work_ms == 0 => {
                outcome(self.client.jot(&job).timeout(plan.limit).await, &job)
            }
            Method::Read => outcome(self.client.read(&job).timeout(plan.limit).await, &job),
            Method::Write => outcome(self.client.write(&job).timeout(plan.limit).await, &job),
            Method::Note => sent(self.client.note(&job).timeout(plan.limit).await),
            Method::Announce => sent(self.client.announce(&job).timeout(plan.limit).await),
            Method::List => {
                let stream = self.client.list(&job).timeout(plan.limit).credit(CREDIT);
                streamed(stream, &job, plan.method).await
            }
            Method::Follow => {
                let stream = self.client.follow(&job, None).timeout(plan.limit).credit(CREDIT);
                streamed(stream, &job, plan.method).await
            }
            Method::Store => {
                let (parts, dropped) = parts(&plan, &call);
                let outcome = stored(
                    self.client.store(&job, parts).timeout(plan.limit).await,
                    &job,
                    plan.sent,
                );
                match timeout(DROP_LIMIT, dropped).await {
                    Ok(_) => outcome,
                    Err(_) => Outcome::named("not dropped", outcome.executed),
                }
            }
            Method::Survey => {
                let mut survey = self.client.survey(&job).limit(plan.limit);
                if let Some(expected) = plan.expected {
                    survey = survey.expect_workers(expected);
                }
                match survey.send().await {
                    Ok(answers) => gathered(answers.collect().await, &job, plan.expected),
                    Err(error) => failure(&error),
                }
            }
        };
        self.journal.write(&Record::Ended {
            at: now(),
            call,
            took_us: begun.elapsed().as_micros() as u64,
            outcome,
        });
    }
}

/// The outcome of a one-way call.
fn sent(result: Result<(), CallError>) -> Outcome {
    match result {
        Ok(()) => Outcome::named("sent", Ran::Maybe),
        Err(error) => failure(&error),
    }
}

/// Returns the parts that a plan sends, and a receiver that resolves once they are dropped.
fn parts(plan: &Plan, call: &str) -> (impl Stream<Item = Part> + Send + 'static, oneshot::Receiver<()>) {
    let (owned, dropped) = oneshot::channel::<()>();
    let (call, pause) = (call.to_owned(), Duration::from_millis(plan.pause_ms));
    let parts = stream::iter(0..plan.sent).then(move |number| {
        let _ = &owned;
        let call = call.clone();
        async move {
            if number.is_multiple_of(STEP) {
                sleep(pause).await;
            }
            Part { call, number }
        }
    });
    (parts, dropped)
}

/// The outcome of a call that sends this many parts.
fn stored(result: Result<Stored, CallError<Refused>>, job: &Job, sent: usize) -> Outcome {
    let Stored { call, run, received } = match result {
        Ok(stored) => stored,
        Err(CallError::Service(refused)) => return outcome(Err(CallError::Service(refused)), job),
        Err(error) => return failure(&error),
    };
    let all = Received {
        items: sent.min(job.wanted),
        in_order: true,
        end: Some(if sent < job.wanted {
            End::Regular
        } else {
            End::Enough
        }),
    };
    let kind = match received.end {
        _ if call != job.call => "mismatch",
        Some(End::Interrupted) if received.in_order => "broken off",
        _ if received == all && job.ending == Ending::Answer => "ok",
        _ => "mismatch",
    };
    Outcome {
        run: Some(run),
        ..Outcome::named(kind, Ran::Yes)
    }
}

/// Reads a stream to its end, or to the first wrong item. Returns the outcome of the call.
async fn streamed(mut stream: StreamingCall<Row, Refused>, job: &Job, method: Method) -> Outcome {
    let is_resumed = method == Method::Follow;
    let (mut rows, mut of_run) = (0, None);
    let error = loop {
        match stream.next().await {
            Some(Ok(Row { call, run, number })) => {
                let same_run = *of_run.get_or_insert_with(|| run.clone()) == run;
                let fits = call == job.call && number == rows && (same_run || is_resumed);
                if !fits {
                    return Outcome::named("mismatch", Ran::Yes);
                }
                rows += 1;
            }
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    let is_whole = rows == job.wanted;
    match error {
        Some(CallError::Service(_)) | None if !is_whole => Outcome::named("mismatch", Ran::Yes),
        Some(error) => outcome(Err(error), job),
        None => Outcome {
            kind: if job.ending == Ending::Answer {
                "ok"
            } else {
                "mismatch"
            }
            .to_owned(),
            // `of_run` is the first run. If the stream was resumed, that run may not have ended.
            run: of_run.filter(|_| !is_resumed),
            ..Outcome::named("", Ran::Yes)
        },
    }
}

/// The outcome of a broadcast with answers.
fn gathered(gathered: Gathered<Done, Refused>, job: &Job, expected: Option<usize>) -> Outcome {
    let answers = gathered.answers.into_iter();
    let answers = answers.map(|(worker, answer)| (worker.name.unwrap_or_default(), outcome(answer, job)));
    let answers: Vec<_> = answers.collect();
    let missing = expected.map(|expected| expected.saturating_sub(answers.len()));
    let kind = match gathered.end {
        _ if gathered.missing != missing => "miscounted",
        GatherEnd::Expected | GatherEnd::Quiet => "gathered",
        GatherEnd::Limit => "limit",
        GatherEnd::Lost(_) => "answers lost",
        _ => "another",
    };
    Outcome {
        answers,
        ..Outcome::named(kind, Ran::Maybe)
    }
}

/// The outcome of a call with one reply, or of a failed call: "mismatch" if the reply is not what
/// the job asks for.
fn outcome(result: Result<Done, CallError<Refused>>, job: &Job) -> Outcome {
    match result {
        Ok(done) => {
            let fits = done.call == job.call
                && done.checksum == checksum(&job.payload)
                && done.payload.len() == job.wanted
                && job.ending == Ending::Answer;
            Outcome {
                kind: if fits { "ok" } else { "mismatch" }.to_owned(),
                executed: Ran::Yes,
                run: Some(done.run),
                error: None,
                answers: Vec::new(),
            }
        }
        Err(CallError::Service(Refused { call, run })) => Outcome {
            kind: match call == job.call && job.ending == Ending::Refuse {
                true => "service",
                false => "mismatch",
            }
            .to_owned(),
            executed: Ran::Yes,
            run: Some(run),
            error: None,
            answers: Vec::new(),
        },
        Err(error) => failure(&error),
    }
}

/// The outcome of a call that failed without an error of the method.
fn failure<E: std::error::Error + 'static>(error: &CallError<E>) -> Outcome {
    let executed = match error.executed() {
        Executed::No => Ran::No,
        Executed::Maybe => Ran::Maybe,
        Executed::Yes => Ran::Yes,
    };
    Outcome {
        error: Some(rpc_runtime::Chain(error).to_string()),
        ..Outcome::named(&kind(error), executed)
    }
}

fn kind<E>(error: &CallError<E>) -> String {
    match error {
        CallError::NoServer { .. } => "no_server".to_owned(),
        CallError::NoWorkers { .. } => "no_workers".to_owned(),
        CallError::TimedOut { .. } => "timed_out".to_owned(),
        CallError::Overloaded { .. } => "overloaded".to_owned(),
        CallError::Refused { .. } => "refused".to_owned(),
        CallError::Fault(fault) => fault.code.to_string(),
        CallError::Broker { source, .. } => match source {
            BrokerError::Lost { .. } => "broker: lost",
            BrokerError::Queue { .. } => "broker: queue",
            BrokerError::ChannelClosed { .. } => "broker: channel closed",
            BrokerError::Cancelled { .. } => "broker: cancelled",
            BrokerError::Unresponsive { .. } => "broker: unresponsive",
            BrokerError::Closed => "broker: closed",
            _ => "broker: another",
        }
        .to_owned(),
        _ => "another".to_owned(),
    }
}
