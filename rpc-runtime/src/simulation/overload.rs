//! Checks that overload costs latency and refusals, but not goodput. In most of these simulations,
//! callers make more calls than the workers can handle. No faults are injected, but one test stops
//! its worker for a while.
//!
//! `OVERLOADS=1000 cargo test -p rpc-runtime overload` tries more seeds; `OVERLOAD=…` repeats one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::network::Network;
use super::setting;
use crate::broker::{Broker, BrokerBuilder};
use crate::client::ClientBuilder;
use crate::protocol::Executed;
use crate::server::{RunningServer, Server};
use crate::service;
use crate::transport::memory::{InProcessBroker, MemoryTransport};

const DEFAULT_SEEDS: u64 = 40;

/// The approximate maximum number of calls under overload, so that a simulation takes little time.
const MOST_CALLS: f64 = 6000.0;

#[service(queue = "work")]
trait Work {
    /// Returns its argument, which is when the call was due.
    async fn work(&self, due_ms: u64) -> u64;
}

/// A cluster, the load that is offered to it, and when its calls are counted.
#[derive(Debug)]
struct Scenario {
    workers: usize,
    concurrency: u16,
    /// How long the method takes.
    work: Duration,
    /// The timeout of each call.
    deadline: Duration,
    callers: usize,
    batches: bool,
    /// Whether clients limit their calls in flight. Clients of other libraries do not.
    adapts: bool,
    /// See [`Network::new`].
    latency: u64,
    /// Whether links are [narrow](crate::transport::memory::Link::is_narrow).
    is_narrow: bool,
    /// The offered load, as a multiple of the measured capacity, or in
    /// [`outage`](Simulation::outage) of the nominal one.
    load: f64,
    /// How long the load is offered before the measurement.
    warm_up: Duration,
    /// How long the load is offered and measured.
    measured: Duration,
    /// Whether a low load follows, under which the cluster must recover.
    recovers: bool,
}

impl Scenario {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let work = Duration::from_millis([10, 20, 50, 100][rng.usize(..4)]);
        // Much longer than the error of the measured queue times (20 ms) and the delay of messages
        // (up to 10 ms).
        let deadline = (work * [10, 20, 50][rng.usize(..3)]).max(Duration::from_millis(200));
        let mut scenario = Self {
            workers: [1, 1, 2, 4][rng.usize(..4)],
            concurrency: rng.u16(1..=8),
            work,
            deadline,
            callers: [1, 1, 2, 10][rng.usize(..4)],
            batches: rng.bool(),
            adapts: true,
            latency: rng.u64(..=1),
            is_narrow: false,
            load: [0.5, 0.8, 1.2, 1.5, 3.0, 10.0][rng.usize(..6)],
            warm_up: Duration::from_secs(3) + 2 * deadline,
            measured: Duration::from_secs(2) + 2 * deadline,
            recovers: rng.bool(),
        };
        let most =
            MOST_CALLS / (scenario.nominal_capacity() * (scenario.warm_up + scenario.measured).as_secs_f64());
        // Still an overload, if it was one.
        scenario.load = scenario.load.min(most.max(1.2));
        scenario
    }

    /// Returns how many methods can run at once.
    fn concurrent_methods(&self) -> usize {
        usize::from(self.concurrency) * self.workers
    }

    /// Returns how many calls can be answered per second if messages take no time.
    fn nominal_capacity(&self) -> f64 {
        self.concurrent_methods() as f64 / self.work.as_secs_f64()
    }
}

/// Counts of the calls in a measured window.
#[derive(Debug, Default)]
struct Counts {
    made: AtomicU32,
    answered: AtomicU32,
    /// Methods that finished.
    ran: AtomicU32,
    /// Methods that finished after their caller had timed out.
    wasted: AtomicU32,
}

/// The calls that are due from `from` until `until`, and their counts. Both times are measured from
/// `start_time`.
#[derive(Debug, Clone)]
struct MeasuredWindow {
    start_time: Instant,
    deadline: Duration,
    from: Duration,
    until: Duration,
    counts: Arc<Counts>,
}

impl MeasuredWindow {
    /// Returns the counts for a call that is due at this time, or `None` if the time is not
    /// measured.
    fn counts(&self, due: Duration) -> Option<&Counts> {
        (self.from <= due && due < self.until).then_some(&*self.counts)
    }
}

fn add(count: &AtomicU32) {
    count.fetch_add(1, Ordering::Relaxed);
}

struct Worker {
    work: Duration,
    window: MeasuredWindow,
}

impl Work for Worker {
    async fn work(&self, due_ms: u64) -> u64 {
        sleep(self.work).await;
        let due = Duration::from_millis(due_ms);
        if let Some(counts) = self.window.counts(due) {
            add(&counts.ran);
            if self.window.start_time.elapsed() > due + self.window.deadline {
                add(&counts.wasted);
            }
        }
        due_ms
    }
}

struct Simulation {
    scenario: Scenario,
    rng: Rng,
    network: Arc<Network>,
    broker: InProcessBroker,
}

impl Simulation {
    /// Connects another process to the broker.
    fn handle(&self) -> Broker {
        let (publishing, consuming) = (self.network.link(), self.network.link());
        let transport = Arc::new(MemoryTransport::over_links(&self.broker, publishing, consuming));
        BrokerBuilder::default().with_transport(transport)
    }

    /// Starts a worker that counts what it runs in the window.
    async fn start(&self, window: &MeasuredWindow) -> RunningServer {
        let worker = Worker {
            work: self.scenario.work,
            window: window.clone(),
        };
        let server = Server::new(&self.handle())
            .concurrency(self.scenario.concurrency)
            .batching(self.scenario.batches)
            .serve(WorkServer::new(worker));
        server.start().await.unwrap()
    }

    /// Measures how many calls per second are answered while all workers are busy.
    async fn capacity(&self, client: &WorkClient) -> f64 {
        const MEASURED: Duration = Duration::from_secs(2);
        let (from, answered) = (Instant::now() + Duration::from_millis(500), AtomicU32::new(0));
        let calling = (0..4 * self.scenario.concurrent_methods()).map(async |_| {
            while Instant::now() < from + MEASURED {
                client.work(0).timeout(Duration::from_secs(60)).await.unwrap();
                if (from..from + MEASURED).contains(&Instant::now()) {
                    add(&answered);
                }
            }
        });
        join_all(calling).await;
        f64::from(answered.into_inner()) / MEASURED.as_secs_f64()
    }

    /// Makes calls at random times until the given time, measured from the start of the windows.
    /// Their tasks are in `calls` and may go on after that.
    async fn offer(
        &mut self,
        calls_per_second: f64,
        until: Duration,
        windows: &[MeasuredWindow],
        clients: &[WorkClient],
        calls: &mut JoinSet<()>,
    ) {
        let start_time = windows[0].start_time;
        let mut due = start_time.elapsed();
        loop {
            // The times between independent calls are exponentially distributed.
            due += Duration::from_secs_f64(-(1.0 - self.rng.f64()).ln() / calls_per_second);
            if due >= until {
                return sleep_until(start_time + until).await;
            }
            sleep_until(start_time + due).await;
            let client = clients[self.rng.usize(..clients.len())].clone();
            let windows = windows.to_vec();
            let deadline = self.scenario.deadline;
            calls.spawn(async move {
                // Rounded to what the worker sees, so that both count the call in the same window.
                let due_ms = u64::try_from(due.as_millis()).unwrap();
                let due = Duration::from_millis(due_ms);
                let counts = || windows.iter().filter_map(|window| window.counts(due));
                counts().for_each(|counts| add(&counts.made));
                match client.work(due_ms).timeout(deadline).await {
                    Ok(_) => counts().for_each(|counts| add(&counts.answered)),
                    Err(error) => assert_ne!(error.executed(), Executed::Yes, "{error}"),
                }
            });
        }
    }

    /// Measures the capacity, then offers the load to new workers and counts its outcome. If the
    /// scenario recovers, does so for a low load as well.
    async fn run(mut self) -> Measured {
        let unmeasured = MeasuredWindow {
            start_time: Instant::now(),
            deadline: Duration::MAX,
            from: Duration::ZERO,
            until: Duration::ZERO,
            counts: Arc::default(),
        };
        let (first, caller) = (self.start(&unmeasured).await, self.handle());
        let mut others = Vec::new();
        for _ in 1..self.scenario.workers {
            others.push(self.start(&unmeasured).await);
        }
        let capacity = self.capacity(&ClientBuilder::new(&caller).build()).await;
        for worker in others.into_iter().chain([first]) {
            worker.stop().await.unwrap();
        }
        let scenario = &self.scenario;
        let start_time = Instant::now();
        let window = |from: Duration, until: Duration| MeasuredWindow {
            start_time,
            deadline: scenario.deadline,
            from,
            until,
            counts: Arc::default(),
        };
        let end = scenario.warm_up + scenario.measured;
        // The cluster must have recovered two seconds after the last deadline.
        let recovered = end + scenario.deadline + Duration::from_secs(2);
        let windows = [
            window(scenario.warm_up, end),
            window(recovered, recovered + Duration::from_secs(2)),
        ];
        let mut workers = Vec::new();
        for _ in 0..scenario.workers {
            workers.push(self.start(&windows[0]).await);
        }
        let handles: Vec<_> = (0..scenario.callers).map(|_| self.handle()).collect();
        let clients: Vec<WorkClient> = (handles.iter())
            .map(|handle| {
                let client = ClientBuilder::new(handle).batching(self.scenario.batches);
                client.adaptive_limit(self.scenario.adapts).build()
            })
            .collect();
        let mut calls = JoinSet::new();
        let (load, recovers) = (scenario.load, scenario.recovers);
        self.offer(capacity * load, end, &windows, &clients, &mut calls)
            .await;
        if recovers {
            let until = windows[1].until;
            self.offer(capacity * 0.3, until, &windows, &clients, &mut calls)
                .await;
        }
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
        for worker in workers {
            worker.stop().await.unwrap();
        }
        let [under_load, afterwards] = windows.map(|window| window.counts);
        Measured {
            scenario: self.scenario,
            capacity,
            under_load,
            afterwards,
        }
    }

    /// Offers the load, stops the only worker for this long meanwhile, and counts the calls that
    /// are due between two and four seconds after it is back.
    async fn outage(mut self, lasts: Duration) -> Arc<Counts> {
        let [before, settles, measured] = [2, 2, 2].map(Duration::from_secs);
        let from = before + lasts + settles;
        let window = MeasuredWindow {
            start_time: Instant::now(),
            deadline: self.scenario.deadline,
            from,
            until: from + measured,
            counts: Arc::default(),
        };
        let handle = self.handle();
        let clients = [ClientBuilder::new(&handle)
            .batching(self.scenario.batches)
            .build()];
        let (windows, mut calls) = ([window.clone()], JoinSet::new());
        let rate = self.scenario.nominal_capacity() * self.scenario.load;
        let worker = self.start(&window).await;
        self.offer(rate, before, &windows, &clients, &mut calls).await;
        worker.stop().await.unwrap();
        self.offer(rate, before + lasts, &windows, &clients, &mut calls)
            .await;
        let worker = self.start(&window).await;
        self.offer(rate, window.until, &windows, &clients, &mut calls)
            .await;
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
        worker.stop().await.unwrap();
        window.counts
    }
}

/// The result of a simulation.
#[derive(Debug)]
struct Measured {
    scenario: Scenario,
    /// In calls per second.
    capacity: f64,
    under_load: Arc<Counts>,
    /// After recovery.
    afterwards: Arc<Counts>,
}

impl Measured {
    /// Returns the share of possible calls that were answered. Possible are the calls that were
    /// made, but no more than the capacity.
    fn goodput(&self) -> f64 {
        let possible = self.capacity * self.scenario.measured.as_secs_f64();
        read(&self.under_load.answered) / read(&self.under_load.made).min(possible)
    }

    /// Returns the share of finished methods that finished after their caller had timed out.
    fn wasted(&self) -> f64 {
        read(&self.under_load.wasted) / read(&self.under_load.ran).max(1.0)
    }

    /// Returns the share of calls that were answered after the overload.
    fn afterwards(&self) -> f64 {
        read(&self.afterwards.answered) / read(&self.afterwards.made).max(1.0)
    }
}

fn read(count: &AtomicU32) -> f64 {
    f64::from(count.load(Ordering::Relaxed))
}

fn measure(seed: u64, scenario: Scenario) -> Measured {
    run(seed, scenario, Simulation::run)
}

/// Runs a simulation in paused time. `course` says what happens in it.
fn run<T>(seed: u64, scenario: Scenario, course: impl AsyncFnOnce(Simulation) -> T) -> T {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let simulation = Simulation {
            rng: Rng::with_seed(!seed),
            network: match scenario.is_narrow {
                true => Network::narrow(seed, scenario.latency),
                false => Network::new(seed, scenario.latency),
            },
            broker: InProcessBroker::new(),
            scenario,
        };
        course(simulation).await
    })
}

/// Runs a simulation. Returns a report if it misses a goal.
fn report(seed: u64) -> Option<String> {
    let measured = measure(seed, Scenario::new(seed));
    let Measured { scenario, .. } = &measured;
    let [goodput, wasted, after] = [measured.goodput(), measured.wasted(), measured.afterwards()];
    let mut broken = Vec::new();
    // Calls are made at random times, so there are moments of overload at any load.
    let least = if scenario.load < 1.0 { 0.9 } else { 0.8 };
    if goodput < least {
        broken.push(format!("only {goodput:.2} of the possible calls were answered"));
    }
    if wasted > 0.03 {
        broken.push(format!(
            "{wasted:.2} of the methods ran for callers that had timed out"
        ));
    }
    if scenario.recovers && after < 0.97 {
        broken.push(format!(
            "only {after:.2} of the calls were answered after the overload"
        ));
    }
    explain(seed, &broken, &measured)
}

/// Returns a report of what is broken, or `None` if nothing is.
fn explain(seed: u64, broken: &[String], measured: &Measured) -> Option<String> {
    let broken = (!broken.is_empty()).then(|| broken.join(", "))?;
    Some(format!("OVERLOAD={seed}: {broken}\n{measured:#?}"))
}

/// Returns the seeds that the environment asks for, or the default number of seeds.
fn seeds(default: u64) -> std::ops::Range<u64> {
    match setting("OVERLOAD") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("OVERLOADS").unwrap_or(default),
    }
}

/// Fails with all reports, if there are any.
fn assert_none(reports: impl Iterator<Item = String>) {
    let reports: Vec<_> = reports.collect();
    let failures = reports.len();
    assert!(
        failures == 0,
        "{failures} simulations failed:\n{}",
        reports.join("\n")
    );
}

#[test]
fn overload_costs_no_goodput() {
    assert_none(seeds(DEFAULT_SEEDS).filter_map(report));
}

/// A scenario whose callers do not limit their calls, so that only the workers protect the goodput.
/// Messages take no time, as the workers cannot know of replies that arrive too late.
fn with_plain_callers(seed: u64) -> Scenario {
    let mut scenario = Scenario::new(seed);
    scenario.adapts = false;
    scenario.latency = 0;
    scenario.load = scenario.load.max(1.2);
    // Long enough for requests to wait as long as their deadline.
    scenario.warm_up = 8 * scenario.deadline;
    // Long enough for a meaningful number of calls.
    let enough = Duration::from_secs_f64(500.0 / scenario.nominal_capacity());
    scenario.measured = scenario.measured.max(enough);
    scenario
}

#[test]
fn admission_alone_keeps_the_goodput_of_callers_that_do_not_adapt() {
    let reports = seeds(DEFAULT_SEEDS / 4).filter_map(|seed| {
        let measured = measure(seed, with_plain_callers(seed));
        let broken = [
            (measured.goodput() < 0.9).then(|| format!("goodput {:.2}", measured.goodput())),
            (measured.wasted() > 0.03).then(|| format!("wasted {:.2}", measured.wasted())),
        ];
        explain(seed, &broken.into_iter().flatten().collect::<Vec<_>>(), &measured)
    });
    assert_none(reports);
}

#[test]
fn a_caller_that_cannot_receive_its_replies_in_time_makes_fewer_calls() {
    for (deadline, batches) in [(200, true), (500, false)] {
        let deadline = Duration::from_millis(deadline);
        let scenario = Scenario {
            workers: 4,
            concurrency: 8,
            work: Duration::from_millis(10),
            deadline,
            callers: 1,
            batches,
            adapts: true,
            // The workers can send twice as many replies as the caller can receive.
            latency: 1,
            is_narrow: true,
            load: 1.2,
            warm_up: Duration::from_secs(3) + 4 * deadline,
            measured: Duration::from_secs(2),
            recovers: true,
        };
        let measured = measure(7, scenario);
        assert!(measured.goodput() > 0.6, "{measured:#?}");
        assert!(measured.afterwards() > 0.97, "{measured:#?}");
    }
}

#[test]
fn calls_are_answered_as_before_two_seconds_after_an_outage() {
    for (work, deadline, batches) in [(10, 200, false), (20, 1000, true), (100, 500, true)] {
        let scenario = Scenario {
            workers: 1,
            concurrency: 8,
            work: Duration::from_millis(work),
            deadline: Duration::from_millis(deadline),
            batches,
            load: 0.5,
            ..Scenario::new(0)
        };
        let counts = run(7, scenario, async |simulation| {
            simulation.outage(Duration::from_secs(20)).await
        });
        let answered = read(&counts.answered) / read(&counts.made);
        assert!(answered > 0.97, "{answered} with {work} ms of {deadline} ms");
    }
}
