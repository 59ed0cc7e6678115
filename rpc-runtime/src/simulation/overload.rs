//! Overload costs latency and refusals, not goodput: worlds in which more is called than workers can
//! do, and nothing else goes wrong.
//!
//! `OVERLOADS=1000 cargo test -p rpc-runtime overload` tries more of them; `OVERLOAD=…` tries one again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::setting;
use super::weather::Weather;
use crate::broker::{Broker, BrokerBuilder};
use crate::client::ClientBuilder;
use crate::protocol::Executed;
use crate::server::{RunningServer, Server};
use crate::service;
use crate::transport::memory::{InProcessBroker, MemoryTransport};

const DEFAULT_SEEDS: u64 = 40;

/// A world calls no more often than this while it is overloaded, so that many can be tried.
const MOST_CALLS: f64 = 6000.0;

/// How many replies a caller can take in a second, if they are held up at times.
const MOST_REPLIES: f64 = 600.0;

#[service(queue = "work")]
trait Work {
    async fn work(&self, due_ms: u64) -> u64;
}

#[derive(Debug)]
struct Plan {
    workers: usize,
    concurrency: u16,
    work: Duration,
    deadline: Duration,
    callers: usize,
    batches: bool,
    /// Whether clients hold calls back. Those of other libraries do not.
    adapts: bool,
    latency: u64,
    /// The offered load over the capacity.
    load: f64,
    /// For how long the load is offered before its effect is measured, and while it is.
    warm_up: Duration,
    measured: Duration,
    /// It is followed by a load that is easily served.
    recovers: bool,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let work = Duration::from_millis([10, 20, 50, 100][rng.usize(..4)]);
        // A wait is known to some 20 ms, and messages are held up for 10 ms.
        let deadline = (work * [10, 20, 50][rng.usize(..3)]).max(Duration::from_millis(200));
        let mut plan = Self {
            workers: [1, 1, 2, 4][rng.usize(..4)],
            concurrency: rng.u16(1..=8),
            work,
            deadline,
            callers: [1, 1, 2, 10][rng.usize(..4)],
            batches: rng.bool(),
            adapts: true,
            latency: rng.u64(..=1),
            load: [0.5, 0.8, 1.2, 1.5, 3.0, 10.0][rng.usize(..6)],
            warm_up: Duration::from_secs(3) + 2 * deadline,
            measured: Duration::from_secs(2) + 2 * deadline,
            recovers: rng.bool(),
        };
        let most = MOST_CALLS / (plan.nominal_capacity() * (plan.warm_up + plan.measured).as_secs_f64());
        plan.load = plan.load.min(most.max(1.2));
        if plan.latency > 0 {
            // Messages come to a caller one after another, and that is not the load that is meant.
            let needed = plan.nominal_capacity() * plan.load / MOST_REPLIES;
            plan.callers = plan.callers.max(1 + needed as usize);
        }
        plan
    }

    /// How many methods run at once.
    fn places(&self) -> usize {
        usize::from(self.concurrency) * self.workers
    }

    /// How many calls can be answered in a second, if messages take no time.
    fn nominal_capacity(&self) -> f64 {
        self.places() as f64 / self.work.as_secs_f64()
    }
}

/// What is counted of calls that are due while it is measured.
#[derive(Debug, Default)]
struct Counts {
    made: AtomicU32,
    answered: AtomicU32,
    /// Methods that ended.
    ran: AtomicU32,
    /// Methods that ended after their caller had given up.
    wasted: AtomicU32,
}

#[derive(Debug, Clone)]
struct Clock {
    begun: Instant,
    deadline: Duration,
    from: Duration,
    until: Duration,
    counts: Arc<Counts>,
}

impl Clock {
    /// Where a call that is due then is counted; `None` if it is not.
    fn counts(&self, due: Duration) -> Option<&Counts> {
        (self.from <= due && due < self.until).then_some(&*self.counts)
    }
}

fn add(count: &AtomicU32) {
    count.fetch_add(1, Ordering::Relaxed);
}

struct Worker {
    work: Duration,
    clock: Clock,
}

impl Work for Worker {
    async fn work(&self, due_ms: u64) -> u64 {
        sleep(self.work).await;
        let due = Duration::from_millis(due_ms);
        if let Some(counts) = self.clock.counts(due) {
            add(&counts.ran);
            if self.clock.begun.elapsed() > due + self.clock.deadline {
                add(&counts.wasted);
            }
        }
        due_ms
    }
}

struct World {
    plan: Plan,
    rng: Rng,
    weather: Arc<Weather>,
    broker: InProcessBroker,
}

impl World {
    fn handle(&self) -> Broker {
        let (publishing, consuming) = (self.weather.way(), self.weather.way());
        let transport = Arc::new(MemoryTransport::far(&self.broker, publishing, consuming));
        BrokerBuilder::default().over(transport)
    }

    async fn start(&self, clock: &Clock) -> RunningServer {
        let worker = Worker {
            work: self.plan.work,
            clock: clock.clone(),
        };
        let server = Server::new(&self.handle())
            .concurrency(self.plan.concurrency)
            .batching(self.plan.batches)
            .serve(WorkServer::new(worker));
        server.start().await.unwrap()
    }

    /// Measures how many calls can be answered in a second: always more wait than have a place.
    async fn capacity(&self, client: &WorkClient) -> f64 {
        const MEASURED: Duration = Duration::from_secs(2);
        let (from, answered) = (Instant::now() + Duration::from_millis(500), AtomicU32::new(0));
        let calling = (0..4 * self.plan.places()).map(async |_| {
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

    /// Makes calls at random until the time is over.
    async fn offer(
        &mut self,
        calls_per_second: f64,
        until: Duration,
        clocks: &[Clock],
        clients: &[WorkClient],
        calls: &mut JoinSet<()>,
    ) {
        let begun = clocks[0].begun;
        let mut due = begun.elapsed();
        loop {
            due += Duration::from_secs_f64(-(1.0 - self.rng.f64()).ln() / calls_per_second);
            if due >= until {
                return sleep_until(begun + until).await;
            }
            sleep_until(begun + due).await;
            let client = clients[self.rng.usize(..clients.len())].clone();
            let clocks = clocks.to_vec();
            let deadline = self.plan.deadline;
            calls.spawn(async move {
                let due = Duration::from_millis(u64::try_from(due.as_millis()).unwrap());
                let counts = || clocks.iter().filter_map(|clock| clock.counts(due));
                counts().for_each(|counts| add(&counts.made));
                let due_ms = u64::try_from(due.as_millis()).unwrap();
                match client.work(due_ms).timeout(deadline).await {
                    Ok(_) => counts().for_each(|counts| add(&counts.answered)),
                    Err(error) => assert_ne!(error.executed(), Executed::Yes, "{error}"),
                }
            });
        }
    }

    /// Has it all happen.
    async fn happen(mut self) -> Measured {
        let idle = Clock {
            begun: Instant::now(),
            deadline: Duration::MAX,
            from: Duration::ZERO,
            until: Duration::ZERO,
            counts: Arc::default(),
        };
        let (alone, caller) = (self.start(&idle).await, self.handle());
        let mut others = Vec::new();
        for _ in 1..self.plan.workers {
            others.push(self.start(&idle).await);
        }
        let capacity = self.capacity(&ClientBuilder::new(&caller).build()).await;
        for worker in others.into_iter().chain([alone]) {
            worker.stop().await.unwrap();
        }
        let plan = &self.plan;
        let begun = Instant::now();
        let clock = |from: Duration, until: Duration| Clock {
            begun,
            deadline: plan.deadline,
            from,
            until,
            counts: Arc::default(),
        };
        let end = plan.warm_up + plan.measured;
        // As quick as before within two seconds.
        let recovered = end + plan.deadline + Duration::from_secs(2);
        let clocks = [
            clock(plan.warm_up, end),
            clock(recovered, recovered + Duration::from_secs(2)),
        ];
        let mut workers = Vec::new();
        for _ in 0..plan.workers {
            workers.push(self.start(&clocks[0]).await);
        }
        let handles: Vec<_> = (0..plan.callers).map(|_| self.handle()).collect();
        let clients: Vec<WorkClient> = (handles.iter())
            .map(|handle| {
                let client = ClientBuilder::new(handle).batching(self.plan.batches);
                client.adaptive_limit(self.plan.adapts).build()
            })
            .collect();
        let mut calls = JoinSet::new();
        let (load, recovers) = (plan.load, plan.recovers);
        self.offer(capacity * load, end, &clocks, &clients, &mut calls)
            .await;
        if recovers {
            let until = clocks[1].until;
            self.offer(capacity * 0.3, until, &clocks, &clients, &mut calls)
                .await;
        }
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
        for worker in workers {
            worker.stop().await.unwrap();
        }
        let [under_load, afterwards] = clocks.map(|clock| clock.counts);
        Measured {
            plan: self.plan,
            capacity,
            under_load,
            afterwards,
        }
    }

    /// Has no worker for this long, and counts what is called from two seconds after that.
    async fn outage(mut self, lasts: Duration) -> Arc<Counts> {
        let [before, settles, measured] = [2, 2, 2].map(Duration::from_secs);
        let from = before + lasts + settles;
        let clock = Clock {
            begun: Instant::now(),
            deadline: self.plan.deadline,
            from,
            until: from + measured,
            counts: Arc::default(),
        };
        let handle = self.handle();
        let clients = [ClientBuilder::new(&handle).batching(self.plan.batches).build()];
        let (clocks, mut calls) = ([clock.clone()], JoinSet::new());
        let rate = self.plan.nominal_capacity() * self.plan.load;
        let worker = self.start(&clock).await;
        self.offer(rate, before, &clocks, &clients, &mut calls).await;
        worker.stop().await.unwrap();
        self.offer(rate, before + lasts, &clocks, &clients, &mut calls)
            .await;
        let worker = self.start(&clock).await;
        self.offer(rate, clock.until, &clocks, &clients, &mut calls).await;
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
        worker.stop().await.unwrap();
        clock.counts
    }
}

/// What came of a world.
#[derive(Debug)]
struct Measured {
    plan: Plan,
    /// In calls a second.
    capacity: f64,
    under_load: Arc<Counts>,
    /// Long after the load.
    afterwards: Arc<Counts>,
}

impl Measured {
    /// The part of the calls that were possible which were answered.
    fn goodput(&self) -> f64 {
        let possible = self.capacity * self.plan.measured.as_secs_f64();
        read(&self.under_load.answered) / read(&self.under_load.made).min(possible)
    }

    /// The part of the methods that ran for callers which had given up.
    fn wasted(&self) -> f64 {
        read(&self.under_load.wasted) / read(&self.under_load.ran).max(1.0)
    }

    /// The part of the calls that were answered after the load.
    fn afterwards(&self) -> f64 {
        read(&self.afterwards.answered) / read(&self.afterwards.made).max(1.0)
    }
}

fn read(count: &AtomicU32) -> f64 {
    f64::from(count.load(Ordering::Relaxed))
}

fn measure(seed: u64, plan: Plan) -> Measured {
    happen(seed, plan, World::happen)
}

fn happen<T>(seed: u64, plan: Plan, course: impl AsyncFnOnce(World) -> T) -> T {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World {
            rng: Rng::with_seed(!seed),
            weather: Weather::new(seed, plan.latency),
            broker: InProcessBroker::new(),
            plan,
        };
        course(world).await
    })
}

/// What is wrong with a world, for a person to read.
fn complaint(seed: u64) -> Option<String> {
    let measured = measure(seed, Plan::new(seed));
    let Measured { plan, .. } = &measured;
    let [goodput, wasted, after] = [measured.goodput(), measured.wasted(), measured.afterwards()];
    let mut broken = Vec::new();
    // Calls come at random: there are moments of overload at any load.
    let least = if plan.load < 1.0 { 0.9 } else { 0.8 };
    if goodput < least {
        broken.push(format!("only {goodput:.2} of what was possible was answered"));
    }
    if wasted > 0.03 {
        broken.push(format!("{wasted:.2} of what ran was for nobody"));
    }
    if plan.recovers && after < 0.97 {
        broken.push(format!("only {after:.2} was answered when the overload was over"));
    }
    explain(seed, &broken, &measured)
}

fn explain(seed: u64, broken: &[String], measured: &Measured) -> Option<String> {
    let broken = (!broken.is_empty()).then(|| broken.join(", "))?;
    Some(format!("OVERLOAD={seed}: {broken}\n{measured:#?}"))
}

/// Those that are asked for, or this many.
fn seeds(default: u64) -> std::ops::Range<u64> {
    match setting("OVERLOAD") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("OVERLOADS").unwrap_or(default),
    }
}

fn assert_none(complaints: impl Iterator<Item = String>) {
    let complaints: Vec<_> = complaints.collect();
    let worlds = complaints.len();
    assert!(worlds == 0, "{worlds} worlds:\n{}", complaints.join("\n"));
}

#[test]
fn overload_costs_no_goodput() {
    assert_none(seeds(DEFAULT_SEEDS).filter_map(complaint));
}

/// Worlds whose callers do not hold calls back, so that the workers alone prevent the worst.
/// Messages take no time: replies that come too late are no fault of the workers.
fn with_plain_callers(seed: u64) -> Plan {
    let mut plan = Plan::new(seed);
    plan.adapts = false;
    plan.latency = 0;
    plan.load = plan.load.max(1.2);
    // Until requests wait for as long as their time. Of few calls, chance decides.
    plan.warm_up = 8 * plan.deadline;
    let enough = Duration::from_secs_f64(500.0 / plan.nominal_capacity());
    plan.measured = plan.measured.max(enough);
    plan
}

#[test]
fn admission_alone_keeps_the_goodput_of_callers_that_do_not_adapt() {
    let complaints = seeds(DEFAULT_SEEDS / 4).filter_map(|seed| {
        let measured = measure(seed, with_plain_callers(seed));
        let broken = [
            (measured.goodput() < 0.9).then(|| format!("goodput {:.2}", measured.goodput())),
            (measured.wasted() > 0.03).then(|| format!("wasted {:.2}", measured.wasted())),
        ];
        explain(seed, &broken.into_iter().flatten().collect::<Vec<_>>(), &measured)
    });
    assert_none(complaints);
}

#[test]
fn a_caller_that_cannot_take_its_replies_in_time_makes_fewer_calls() {
    for (deadline, batches) in [(200, true), (500, false)] {
        let deadline = Duration::from_millis(deadline);
        let plan = Plan {
            workers: 4,
            concurrency: 8,
            work: Duration::from_millis(10),
            deadline,
            callers: 1,
            batches,
            adapts: true,
            // The workers could do twice as much as reaches the caller.
            latency: 1,
            load: 1.2,
            warm_up: Duration::from_secs(3) + 4 * deadline,
            measured: Duration::from_secs(2),
            recovers: true,
        };
        let measured = measure(7, plan);
        assert!(measured.goodput() > 0.6, "{measured:#?}");
        assert!(measured.afterwards() > 0.97, "{measured:#?}");
    }
}

#[test]
fn calls_are_answered_as_before_two_seconds_after_an_outage() {
    for (work, deadline, batches) in [(10, 200, false), (20, 1000, true), (100, 500, true)] {
        let plan = Plan {
            workers: 1,
            concurrency: 8,
            work: Duration::from_millis(work),
            deadline: Duration::from_millis(deadline),
            batches,
            load: 0.5,
            ..Plan::new(0)
        };
        let counts = happen(7, plan, async |world| world.outage(Duration::from_secs(20)).await);
        let answered = read(&counts.answered) / read(&counts.made);
        assert!(answered > 0.97, "{answered} with {work} ms of {deadline} ms");
    }
}
