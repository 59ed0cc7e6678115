//! A world: one broker, callers and workers that share nothing but it, and a plan that happens to them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::history::{History, Outcome, Recorder};
use super::plan::{CallerPlan, Fault, HORIZON, Method, Peer, Plan, Profile};
use super::weather::Weather;
use crate::broker::{Broker, BrokerBuilder};
use crate::client::ClientBuilder;
use crate::error::ServerError;
use crate::server::Server;
use crate::service;
use crate::transport::memory::{InProcessBroker, MemoryTransport};
use crate::transport::{ReplyQueue, Role, injected};

/// What workers offer: each method returns the id of its call.
#[service(queue = "work")]
trait Work {
    #[rpc(idempotent)]
    async fn read(&self, id: u64) -> u64;

    async fn write(&self, id: u64) -> u64;

    #[rpc(oneway)]
    async fn note(&self, id: u64);
}

pub(super) const QUEUE: &str = "work";

/// Where several calls come in one message.
pub(super) const BATCHED_QUEUE: &str = "work.batch";

/// How long after the last call has ended whatever is still under way comes to its end.
const QUIET: Duration = Duration::from_secs(120);

/// Longer than any world takes that comes to its end at all.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Has a plan happen, and answers with what came of it.
pub(super) fn run(seed: u64, plan: &Arc<Plan>) -> History {
    // The jitter of pauses between attempts comes from the thread's own generator.
    fastrand::seed(seed);
    injected::clear();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let recorder = Recorder::new(plan);
        let world = World::new(seed, Arc::clone(plan), Arc::clone(&recorder));
        if timeout(FOR_EVER, world.happen()).await.is_err() {
            recorder.left_over("the world did not come to its end");
        }
        recorder.history()
    })
}

struct World {
    plan: Arc<Plan>,
    recorder: Arc<Recorder>,
    weather: Arc<Weather>,
    broker: InProcessBroker,
    broker_is_up: bool,
    callers: Vec<Handle>,
    workers: Vec<Option<Worker>>,
    /// Those that were told to stop.
    stopping: Vec<Worker>,
}

/// One process, as the broker sees it.
struct Handle {
    transport: Arc<MemoryTransport>,
    broker: Broker,
    client: WorkClient,
}

struct Worker {
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServerError>>,
}

impl World {
    fn new(seed: u64, plan: Arc<Plan>, recorder: Arc<Recorder>) -> Self {
        let mut world = Self {
            weather: Weather::new(seed, plan.latency),
            broker: InProcessBroker::new(),
            broker_is_up: true,
            callers: Vec::new(),
            workers: Vec::new(),
            stopping: Vec::new(),
            plan,
            recorder,
        };
        let plan = Arc::clone(&world.plan);
        world.callers = (plan.callers.iter())
            .map(|caller| world.connect(caller))
            .collect();
        world.workers = (0..plan.workers)
            .map(|number| Some(world.start(number)))
            .collect();
        world
    }

    async fn happen(mut self) {
        let plan = Arc::clone(&self.plan);
        let begun = Instant::now();
        let calls: Vec<_> = (0..plan.calls.len())
            .filter_map(|id| {
                let at = begun + plan.calls[id].at?;
                let call = self.call(id);
                Some(tokio::spawn(async move {
                    sleep_until(at).await;
                    call.await;
                }))
            })
            .collect();
        for (at, fault) in &plan.faults {
            sleep_until(begun + *at).await;
            self.suffer(fault);
        }
        sleep_until(begun + HORIZON).await;
        self.heal();
        join_all(calls).await;
        sleep(QUIET).await;
        self.check_quiet();

        let last = (0..plan.calls.len()).filter(|id| plan.calls[*id].at.is_none());
        join_all(last.map(|id| self.call(id))).await;
        sleep(QUIET).await;
        self.check_quiet();
        self.end().await;
    }

    fn suffer(&mut self, fault: &Fault) {
        match *fault {
            Fault::Cut { peer, role, notice } => {
                if let Some(handle) = self.peer(peer) {
                    handle.transport.cut(role, notice);
                }
            }
            Fault::Mend { peer, role } if self.broker_is_up => {
                if let Some(handle) = self.peer(peer) {
                    handle.transport.mend(role);
                }
            }
            Fault::Mend { .. } => {}
            Fault::Block { peer } | Fault::Unblock { peer } => {
                if let Some(handle) = self.peer(peer) {
                    handle.transport.block(matches!(fault, Fault::Block { .. }));
                }
            }
            Fault::Crash { worker, notice } => {
                if let Some(worker) = self.workers[worker].take() {
                    worker.handle.cut(notice);
                    worker.task.abort();
                }
            }
            Fault::Stop { worker } => {
                if let Some(worker) = self.workers[worker].take() {
                    worker.stop.cancel();
                    self.stopping.push(worker);
                }
            }
            Fault::Start { worker } => {
                if self.workers[worker].is_none() {
                    self.workers[worker] = Some(self.start(worker));
                }
            }
            Fault::BrokerDown => {
                self.broker_is_up = false;
                self.handles().for_each(|handle| handle.cut(Duration::ZERO));
                self.weather.broker_restarts();
                self.broker.restart();
            }
            Fault::BrokerUp => {
                self.broker_is_up = true;
                self.handles().for_each(Handle::mend);
            }
            Fault::DeleteRequests => {
                self.broker.delete(QUEUE);
                self.broker.delete(BATCHED_QUEUE);
            }
            Fault::DeleteReplies { caller } => self.callers[caller].transport.expire_replies(),
            Fault::Panic { task } => injected::panic_next(task),
            Fault::Stranger(hostility) => {
                let callers = &self.callers;
                hostility.happen(&self.broker, |caller| &callers[caller].transport);
            }
            Fault::EchoReplies(echoes) => self.broker.echo_replies(echoes),
        }
    }

    fn heal(&mut self) {
        self.broker_is_up = true;
        injected::clear();
        for handle in self.handles() {
            handle.mend();
            handle.transport.block(false);
        }
        for number in 0..self.workers.len() {
            self.suffer(&Fault::Start { worker: number });
        }
    }

    /// Whatever was sent has been served, and nobody waits for anything.
    fn check_quiet(&self) {
        match self.broker.backlog(QUEUE) {
            Some(0) => {}
            backlog => self
                .recorder
                .left_over(format!("requests are left in the queue: {backlog:?}")),
        }
        match self.broker.backlog(BATCHED_QUEUE) {
            Some(0) | None => {}
            backlog => self
                .recorder
                .left_over(format!("batched requests are left in their queue: {backlog:?}")),
        }
        for caller in &self.callers {
            let waiting = caller.broker.caller().in_flight();
            if waiting > 0 {
                self.recorder
                    .left_over(format!("{waiting} calls are still in a caller's table"));
            }
        }
    }

    /// Stops everyone.
    async fn end(mut self) {
        for worker in self.stopping {
            let stopped = worker.task.await;
            let in_time = match &stopped {
                Ok(Ok(())) => true,
                // Whoever cannot answer waits for as long as it may.
                Ok(Err(ServerError::DrainTimedOut { .. })) => self.plan.profile != Profile::Calm,
                _ => false,
            };
            if !in_time {
                self.recorder
                    .left_over(format!("a worker did not stop cleanly: {stopped:?}"));
            }
        }
        for worker in self.workers.drain(..).flatten() {
            worker.stop.cancel();
            let stopped = worker.task.await;
            if !matches!(stopped, Ok(Ok(()))) {
                self.recorder
                    .left_over(format!("a worker did not stop in the end: {stopped:?}"));
            }
        }
        for caller in &self.callers {
            caller.broker.close().await;
        }
        let queues = self.broker.queues();
        let to_stay = 1 + usize::from(self.plan.takes_batches.contains(&true));
        if queues != to_stay {
            self.recorder.left_over(format!(
                "{queues} queues are left, and {to_stay} were made to stay"
            ));
        }
    }

    /// Makes a call and notes what became of it.
    fn call(&self, id: usize) -> impl Future<Output = ()> + use<> {
        let plan = self.plan.calls[id];
        let client = self.callers[plan.caller].client.clone();
        let recorder = Arc::clone(&self.recorder);
        async move {
            let number = id as u64;
            let calling = async {
                let answer = match plan.method {
                    Method::Read => client.read(number).timeout(plan.limit).await,
                    Method::Write => client.write(number).timeout(plan.limit).await,
                    Method::Note => match client.note(number).timeout(plan.limit).await {
                        Ok(()) => return Outcome::Taken,
                        Err(error) => Err(error),
                    },
                };
                answer.map_or_else(Outcome::from, Outcome::Answered)
            };
            let begun = recorder.now();
            let outcome = match plan.given_up_after {
                None => calling.await,
                Some(limit) => timeout(limit, calling).await.unwrap_or(Outcome::GivenUp),
            };
            recorder.call_ended(id, begun, outcome);
        }
    }

    fn connect(&self, caller: &CallerPlan) -> Handle {
        let (publishing, consuming) = (self.weather.way(), self.weather.way());
        let transport = Arc::new(MemoryTransport::far(&self.broker, publishing, consuming));
        let broker = BrokerBuilder::default()
            .reply_queue(caller.replies)
            .over(transport.clone());
        let client = ClientBuilder::new(&broker)
            .wait_for_server(caller.waits_for_server)
            .batching(caller.batches)
            .build();
        let handle = Handle {
            transport,
            broker,
            client,
        };
        if !self.broker_is_up {
            handle.cut(Duration::ZERO);
        }
        handle
    }

    fn start(&self, number: usize) -> Worker {
        // It calls nobody.
        let handle = self.connect(&CallerPlan {
            replies: ReplyQueue::default(),
            waits_for_server: false,
            batches: false,
        });
        let bench = Bench {
            number,
            plan: Arc::clone(&self.plan),
            recorder: Arc::clone(&self.recorder),
        };
        let stop = CancellationToken::new();
        let server = Server::new(&handle.broker)
            .concurrency(self.plan.concurrency)
            .batching(self.plan.takes_batches[number])
            .serve(WorkServer::new(bench))
            .run_until(stop.clone().cancelled_owned());
        Worker {
            handle,
            stop,
            task: tokio::spawn(server),
        }
    }

    fn peer(&self, peer: Peer) -> Option<&Handle> {
        match peer {
            Peer::Caller(number) => Some(&self.callers[number]),
            Peer::Worker(number) => self.workers[number].as_ref().map(|worker| &worker.handle),
        }
    }

    /// All that are there.
    fn handles(&self) -> impl Iterator<Item = &Handle> {
        let workers = self.workers.iter().flatten().chain(&self.stopping);
        self.callers.iter().chain(workers.map(|worker| &worker.handle))
    }
}

impl Handle {
    fn cut(&self, notice: Duration) {
        self.transport.cut(Role::Publishing, notice);
        self.transport.cut(Role::Consuming, notice);
    }

    fn mend(&self) {
        self.transport.mend(Role::Publishing);
        self.transport.mend(Role::Consuming);
    }
}

/// Where a worker works.
struct Bench {
    number: usize,
    plan: Arc<Plan>,
    recorder: Arc<Recorder>,
}

impl Bench {
    async fn work(&self, id: u64) -> u64 {
        let place = self.recorder.run_begins(id, self.number);
        let call = &self.plan.calls[usize::try_from(id).unwrap()];
        sleep(call.work).await;
        if call.panics {
            // As a panic, without its message on the terminal.
            std::panic::resume_unwind(Box::new("planned"));
        }
        self.recorder.run_ends(place);
        id
    }
}

impl Work for Bench {
    async fn read(&self, id: u64) -> u64 {
        self.work(id).await
    }

    async fn write(&self, id: u64) -> u64 {
        self.work(id).await
    }

    async fn note(&self, id: u64) {
        self.work(id).await;
    }
}
