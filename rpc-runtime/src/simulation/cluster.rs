//! A simulated cluster: one broker, with callers and workers that communicate only through it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::broadcasts::{self, BroadcastRecorder, BroadcastsClient, BroadcastsServer, RecordingBroadcasts};
use super::check::panic_as_planned;
use super::faults::{InjectedFault, Peer};
use super::history::{CallOutcome, History, Recorder};
use super::hostile::{BATCH_QUEUE, QUEUE};
use super::job_plan::Sender;
use super::jobs::{JobRecorder, JobsClient, JobsServer, RecordingJobs};
use super::network::Network;
use super::scenario::{CallerConfig, Method, Scenario};
use super::streams::{
    self, LONGEST_ABANDONED, RecordingStreams, StreamRecorder, StreamsClient, StreamsServer,
};
use super::times::{FAULTS_END, LONG_TIMEOUT};
use super::uploads::{self, RecordingUploads, UploadRecorder, UploadsClient, UploadsServer};
use crate::broker::{Broker, BrokerBuilder};
use crate::client::ClientBuilder;
use crate::error::{Chain, ServerError};
use crate::server::Server;
use crate::service;
use crate::service::{Context, counted_inboxes};
use crate::transport::memory::{InProcessBroker, MemoryTransport};
use crate::transport::{ReplyQueue, Role, injected};

/// The service that every scenario uses. Its methods get the id of their call, and return it unless
/// they are one-way.
#[service(queue = "work")]
trait Work {
    #[rpc(idempotent)]
    async fn read(&self, #[rpc(context)] cx: &Context, id: u64) -> u64;

    async fn write(&self, id: u64) -> u64;

    #[rpc(oneway)]
    async fn note(&self, id: u64);
}

/// The queue for jobs that were given up, and for other one-way requests that were rejected.
const DEAD_QUEUE: &str = "work.dead";

/// This long after the last call has ended, nothing is in flight any more, except for a backlog and
/// methods whose callers could not cancel them. Those are checked again after each further pause of
/// this length.
const SETTLE_TIME: Duration = Duration::from_secs(120);

/// How much longer a backlog may take: jobs that fail run several times, and a worker may run only
/// one at a time.
const MAX_BACKLOG_TIME: Duration = Duration::from_secs(900);

/// A simulation that takes longer than this, in simulated time, is considered to hang.
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// Runs a scenario and returns its history.
pub(super) fn run(seed: u64, scenario: &Arc<Scenario>) -> History {
    // The jitter of the backoff comes from the thread's own generator.
    fastrand::seed(seed);
    // An earlier simulation on this thread may have left injected panics.
    injected::clear();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let recorder = Recorder::new(scenario);
        let jobs = JobRecorder::new(&scenario.jobs);
        let broadcasts = BroadcastRecorder::new(&scenario.broadcasts);
        let streams = StreamRecorder::new(&scenario.streams);
        let uploads = UploadRecorder::new(&scenario.uploads);
        let cluster = Cluster::new(
            seed,
            Arc::clone(scenario),
            Arc::clone(&recorder),
            Arc::clone(&jobs),
            Arc::clone(&broadcasts),
            Arc::clone(&streams),
            Arc::clone(&uploads),
        );
        if timeout(MAX_DURATION, cluster.run()).await.is_err() {
            recorder.problem("the simulation did not end");
        }
        recorder.history(
            jobs.history(),
            broadcasts.history(),
            streams.history(),
            uploads.history(),
        )
    })
}

/// A cluster while its scenario runs.
struct Cluster {
    scenario: Arc<Scenario>,
    recorder: Arc<Recorder>,
    job_recorder: Arc<JobRecorder>,
    broadcast_recorder: Arc<BroadcastRecorder>,
    stream_recorder: Arc<StreamRecorder>,
    upload_recorder: Arc<UploadRecorder>,
    network: Arc<Network>,
    broker: InProcessBroker,
    broker_is_up: bool,
    callers: Vec<Process>,
    /// Sends jobs and items until it is killed.
    sender: Option<Process>,
    /// Cancelled when the sender is killed.
    sender_killed: CancellationToken,
    /// By number. `None` for a worker that crashed or was told to stop.
    workers: Vec<Option<Worker>>,
    /// Workers that were told to stop. They stay here once they have stopped.
    stopping: Vec<Worker>,
}

/// A process of a caller, the sender or a worker, with its connections.
struct Process {
    transport: Arc<MemoryTransport>,
    broker: Broker,
    client: WorkClient,
    jobs: JobsClient,
    broadcasts: BroadcastsClient,
    streams: StreamsClient,
    uploads: UploadsClient,
}

struct Worker {
    process: Process,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Cluster {
    /// Connects the callers and the sender, and starts the workers.
    fn new(
        seed: u64,
        scenario: Arc<Scenario>,
        recorder: Arc<Recorder>,
        job_recorder: Arc<JobRecorder>,
        broadcast_recorder: Arc<BroadcastRecorder>,
        stream_recorder: Arc<StreamRecorder>,
        upload_recorder: Arc<UploadRecorder>,
    ) -> Self {
        let mut cluster = Self {
            network: Network::new(seed, scenario.latency),
            broker: InProcessBroker::new(),
            broker_is_up: true,
            callers: Vec::new(),
            sender: None,
            sender_killed: CancellationToken::new(),
            workers: Vec::new(),
            stopping: Vec::new(),
            scenario,
            recorder,
            job_recorder,
            broadcast_recorder,
            stream_recorder,
            upload_recorder,
        };
        let scenario = Arc::clone(&cluster.scenario);
        cluster.callers = (scenario.callers.iter())
            .map(|caller| cluster.connect(caller))
            .collect();
        cluster.workers = (0..scenario.workers)
            .map(|number| Some(cluster.start(number)))
            .collect();
        if !(scenario.jobs.is_empty() && scenario.uploads.is_empty()) {
            // The sender has the options of the first caller.
            cluster.sender = Some(cluster.connect(&scenario.callers[0]));
        }
        cluster
    }

    /// Injects the faults while the calls with a time are made. Then makes the other calls. Checks
    /// after each of these rounds that nothing is left over. At last, shuts the cluster down.
    async fn run(mut self) {
        let scenario = Arc::clone(&self.scenario);
        let begun = Instant::now();
        // Everything that has a time. What has none is started after the faults.
        let mut calls = Vec::new();
        for (id, planned) in scenario.calls.iter().enumerate() {
            calls.extend(spawn_at(planned.at, self.call(id)));
        }
        for (id, planned) in scenario.jobs.jobs.iter().enumerate() {
            calls.extend(spawn_at(planned.at, self.send_job(id)));
        }
        for (id, planned) in scenario.broadcasts.iter().enumerate() {
            calls.extend(spawn_at(planned.at, self.broadcast(id)));
        }
        for (id, planned) in scenario.streams.iter().enumerate() {
            calls.extend(spawn_at(planned.at, self.stream(id)));
        }
        for (id, planned) in scenario.uploads.iter().enumerate() {
            calls.extend(spawn_at(planned.at, self.upload(id)));
        }
        for (at, fault) in &scenario.faults {
            sleep_until(begun + *at).await;
            self.inject(fault);
        }
        sleep_until(begun + FAULTS_END).await;
        self.heal();
        join_all(calls).await;
        self.settle().await;
        self.check_idle();

        let last = (0..scenario.calls.len()).filter(|id| scenario.calls[*id].at.is_none());
        let last_jobs = (0..scenario.jobs.jobs.len()).filter(|id| scenario.jobs.jobs[*id].at.is_none());
        let is_last = |id: &usize| scenario.broadcasts[*id].at.is_none();
        let last_broadcasts = (0..scenario.broadcasts.len()).filter(is_last);
        let last_streams = (0..scenario.streams.len()).filter(|id| scenario.streams[*id].at.is_none());
        let last_uploads = (0..scenario.uploads.len()).filter(|id| scenario.uploads[*id].at.is_none());
        tokio::join!(
            join_all(last.map(|id| self.call(id))),
            join_all(last_jobs.map(|id| self.send_job(id))),
            join_all(last_broadcasts.map(|id| self.broadcast(id))),
            join_all(last_streams.map(|id| self.stream(id))),
            join_all(last_uploads.map(|id| self.upload(id)))
        );
        self.settle().await;
        self.check_idle();
        self.shut_down().await;
    }

    /// Injects a fault or its repair. Does nothing if it needs a worker that crashed or was told to
    /// stop, or starts one that runs.
    fn inject(&mut self, fault: &InjectedFault) {
        match *fault {
            InjectedFault::Cut {
                peer,
                role,
                noticed_after,
            } => {
                if let Some(process) = self.peer(peer) {
                    process.transport.cut(role, noticed_after);
                }
            }
            InjectedFault::Restore { peer, role } if self.broker_is_up => {
                if let Some(process) = self.peer(peer) {
                    process.transport.restore(role);
                }
            }
            // While the broker is down, so are all connections. `BrokerUp` restores them.
            InjectedFault::Restore { .. } => {}
            InjectedFault::Block { peer } => self.set_blocked(peer, true),
            InjectedFault::Unblock { peer } => self.set_blocked(peer, false),
            InjectedFault::Crash {
                worker,
                noticed_after,
            } => {
                if let Some(worker) = self.workers[worker].take() {
                    worker.process.cut(noticed_after);
                    worker.task.abort();
                }
            }
            InjectedFault::KillSender { noticed_after } => {
                self.sender_killed.cancel();
                if let Some(sender) = self.sender.take() {
                    sender.cut(noticed_after);
                }
            }
            InjectedFault::Stop { worker } => {
                if let Some(worker) = self.workers[worker].take() {
                    worker.stop.cancel();
                    self.stopping.push(worker);
                }
            }
            InjectedFault::Start { worker } => {
                if self.workers[worker].is_none() {
                    self.workers[worker] = Some(self.start(worker));
                }
            }
            InjectedFault::BrokerDown => {
                self.broker_is_up = false;
                self.processes().for_each(|process| process.cut(Duration::ZERO));
                self.network.broker_restarted();
                self.broker.restart();
            }
            InjectedFault::BrokerUp => {
                self.broker_is_up = true;
                self.processes().for_each(Process::restore);
            }
            InjectedFault::LoseItems { messages } => self.broker.lose_items(messages),
            InjectedFault::DeleteRequestQueues => {
                self.broker.delete(QUEUE);
                self.broker.delete(BATCH_QUEUE);
            }
            InjectedFault::DeleteReplyQueues { caller } => self.callers[caller].transport.expire_replies(),
            InjectedFault::Panic { task } => injected::panic_next(task),
            InjectedFault::HostileMessage(message) => {
                let callers = &self.callers;
                message.publish(&self.broker, |caller| &callers[caller].transport);
            }
            InjectedFault::DuplicateReplies(twice) => self.broker.echo_replies(twice),
        }
    }

    fn set_blocked(&self, peer: Peer, is_blocked: bool) {
        if let Some(process) = self.peer(peer) {
            process.transport.block(is_blocked);
        }
    }

    /// Repairs what is still broken, and starts the workers that crashed or were told to stop.
    fn heal(&mut self) {
        self.broker_is_up = true;
        injected::clear();
        self.broker.lose_items(0);
        for process in self.processes() {
            process.restore();
            process.transport.block(false);
        }
        for number in 0..self.workers.len() {
            self.inject(&InjectedFault::Start { worker: number });
        }
    }

    /// Waits until the request queue and the retry queues are empty, and no method runs for a
    /// caller that is gone. Gives up after a time limit for each of the two.
    async fn settle(&self) {
        sleep(SETTLE_TIME).await;
        let limit = Instant::now() + MAX_BACKLOG_TIME;
        let mut queues = self.retry_queues();
        queues.push(QUEUE.to_owned());
        let has_backlog = |queue: &String| self.broker.backlog(queue).is_some_and(|backlog| backlog > 0);
        while queues.iter().any(has_backlog) && Instant::now() < limit {
            sleep(SETTLE_TIME).await;
        }
        // Methods whose callers could not tell that they are gone.
        let limit = Instant::now() + LONGEST_ABANDONED;
        let running = || self.stream_recorder.running() + self.upload_recorder.running();
        while running() > 0 && Instant::now() < limit {
            sleep(SETTLE_TIME).await;
        }
    }

    /// Checks that nothing is left over: messages, queues for answers, methods, streams, inboxes,
    /// and calls in flight.
    fn check_idle(&self) {
        match self.broker.backlog(QUEUE) {
            Some(0) => {}
            backlog => self
                .recorder
                .problem(format!("requests are left in the queue: {backlog:?}")),
        }
        for queue in self.retry_queues() {
            let backlog = self.broker.backlog(&queue);
            if backlog != Some(0) {
                self.recorder
                    .problem(format!("jobs are left in {queue}: {backlog:?}"));
            }
        }
        match self.broker.backlog(BATCH_QUEUE) {
            Some(0) | None => {}
            backlog => self
                .recorder
                .problem(format!("batched requests are left in their queue: {backlog:?}")),
        }
        // An exclusive reply queue has such a name too.
        let mut answers = self.broker.queue_names();
        answers.retain(|name| name.starts_with("amq.gen-"));
        let exclusive = |caller: &&CallerConfig| caller.replies == ReplyQueue::Exclusive;
        if answers.len() > self.scenario.callers.iter().filter(exclusive).count() {
            self.recorder
                .problem(format!("queues for answers are left: {answers:?}"));
        }
        let streams = self.stream_recorder.running();
        if streams > 0 {
            self.recorder
                .problem(format!("{streams} methods go on whose streams have ended"));
        }
        let (methods, sources) = (self.upload_recorder.running(), self.upload_recorder.sources());
        if methods + sources > 0 {
            self.recorder.problem(format!(
                "{methods} methods that receive items go on, and {sources} streams of callers are left"
            ));
        }
        let inboxes = counted_inboxes::count();
        if inboxes > 0 {
            self.recorder
                .problem(format!("{inboxes} inboxes of methods are left"));
        }
        for caller in &self.callers {
            let waiting = caller.broker.caller().in_flight();
            if waiting > 0 {
                self.recorder
                    .problem(format!("{waiting} calls of a caller are still in flight"));
            }
        }
    }

    /// Stops all workers and callers. Records the dead letters, and checks which queues are left.
    async fn shut_down(mut self) {
        for worker in std::mem::take(&mut self.stopping) {
            let stopped = worker.task.await;
            let is_expected = match &stopped {
                Ok(Ok(())) => true,
                Ok(Err(ServerError::DrainTimedOut { .. })) => self.scenario.drains_may_time_out(),
                _ => false,
            };
            if !is_expected {
                self.recorder
                    .problem(format!("a worker did not stop cleanly: {stopped:?}"));
            }
        }
        for worker in self.workers.drain(..).flatten() {
            worker.stop.cancel();
            let stopped = worker.task.await;
            if !matches!(stopped, Ok(Ok(()))) {
                self.recorder
                    .problem(format!("a worker did not stop in the end: {stopped:?}"));
            }
        }
        for caller in &self.callers {
            caller.broker.close().await;
        }
        self.job_recorder.dead_letters(&self.broker.messages(DEAD_QUEUE));
        let queues = self.broker.queue_count() - self.retry_queues().len();
        // The request queue, the dead-letter queue, and the queue for batches. The last is not
        // deleted with its workers, because `note` is one-way.
        let expected = 1
            + usize::from(self.scenario.worker_batching.contains(&true))
            + usize::from(!self.scenario.jobs.is_empty());
        if queues != expected {
            self.recorder
                .problem(format!("{queues} queues are left, but {expected} are expected"));
        }
    }

    /// Makes a call and records its outcome.
    fn call(&self, id: usize) -> impl Future<Output = ()> + use<> {
        let planned = self.scenario.calls[id];
        let client = self.callers[planned.caller].client.clone();
        let recorder = Arc::clone(&self.recorder);
        async move {
            let number = id as u64;
            let calling = async {
                let answer = match planned.method {
                    Method::Read => client.read(number).timeout(planned.timeout).await,
                    Method::Write => client.write(number).timeout(planned.timeout).await,
                    Method::Note => match client.note(number).timeout(planned.timeout).await {
                        Ok(()) => return CallOutcome::Confirmed,
                        Err(error) => Err(error),
                    },
                };
                answer.map_or_else(CallOutcome::from, CallOutcome::Answered)
            };
            let begun = recorder.now();
            let outcome = match planned.cancelled_after {
                None => calling.await,
                Some(limit) => timeout(limit, calling).await.unwrap_or(CallOutcome::Cancelled),
            };
            recorder.call_ended(id, begun, outcome);
        }
    }

    /// Returns the process of a sender, or `None` if it was killed before, and a token that is
    /// cancelled when it is killed.
    fn sender(&self, sender: Sender) -> (Option<&Process>, CancellationToken) {
        match sender {
            Sender::Caller(number) => (Some(&self.callers[number]), CancellationToken::new()),
            Sender::Killed => (self.sender.as_ref(), self.sender_killed.clone()),
        }
    }

    /// Sends a job and records whether it was confirmed. Records no outcome if the call is dropped,
    /// or the sender killed, before the end.
    fn send_job(&self, id: usize) -> impl Future<Output = ()> + use<> {
        let planned = self.scenario.jobs.jobs[id];
        let (process, killed) = self.sender(planned.sender);
        let client = process.map(|process| process.jobs.clone());
        let recorder = Arc::clone(&self.job_recorder);
        async move {
            // The sender may have been killed before this runs.
            let Some(client) = client.filter(|_| !killed.is_cancelled()) else {
                return;
            };
            let number = id as u64;
            let call = if planned.is_retried {
                client.retried(number)
            } else {
                client.tried_once(number)
            };
            let call = match planned.delay {
                Some(delay) => call.delay(delay),
                None => call,
            };
            // A clone of the client would keep its process alive.
            drop(client);
            recorder.call_begun(id);
            let ending = killed.run_until_cancelled(call.timeout(LONG_TIMEOUT).into_future());
            let ended = match planned.cancelled_after {
                None => ending.await,
                Some(limit) => timeout(limit, ending).await.ok().flatten(),
            };
            if let Some(outcome) = ended {
                let outcome = outcome.map_err(|error| Chain(&error).to_string());
                recorder.call_ended(id, outcome);
            }
        }
    }

    /// Sends a broadcast and records its outcome.
    fn broadcast(&self, id: usize) -> impl Future<Output = ()> + use<> {
        let planned = self.scenario.broadcasts[id];
        let client = self.callers[planned.caller].broadcasts.clone();
        broadcasts::send(id, planned, client, Arc::clone(&self.broadcast_recorder))
    }

    /// Reads a stream and records what arrives.
    fn stream(&self, id: usize) -> impl Future<Output = ()> + use<> {
        let planned = self.scenario.streams[id];
        let client = self.callers[planned.caller].streams.clone();
        streams::read(id, planned, client, Arc::clone(&self.stream_recorder))
    }

    /// Makes a call that sends items and records its outcome. Does nothing if its sender was
    /// killed.
    fn upload(&self, id: usize) -> impl Future<Output = ()> + use<> {
        let planned = self.scenario.uploads[id];
        let (process, killed) = self.sender(planned.sender);
        let client = process.map(|process| process.uploads.clone());
        let recorder = Arc::clone(&self.upload_recorder);
        async move {
            // The sender may have been killed before this runs.
            if let Some(client) = client.filter(|_| !killed.is_cancelled()) {
                uploads::send(id, planned, client, killed, recorder).await;
            }
        }
    }

    /// Returns the names of the retry queues, sorted.
    fn retry_queues(&self) -> Vec<String> {
        let mut queues = self.broker.queue_names();
        queues.retain(|name| name.starts_with("work.retry."));
        queues.sort();
        queues
    }

    /// Makes a process with these options, and with connections of its own, which are down if the
    /// broker is.
    fn connect(&self, caller: &CallerConfig) -> Process {
        let (publishing, consuming) = (self.network.link(), self.network.link());
        let transport = Arc::new(MemoryTransport::over_links(&self.broker, publishing, consuming));
        let broker = BrokerBuilder::default()
            .reply_queue(caller.replies)
            .with_transport(transport.clone());
        let client = ClientBuilder::new(&broker)
            .wait_for_server(caller.wait_for_server)
            .batching(caller.batches)
            .build();
        let jobs = ClientBuilder::new(&broker)
            .wait_for_server(caller.wait_for_server)
            .batching(caller.batches)
            .build();
        let broadcasts = ClientBuilder::new(&broker)
            .wait_for_server(caller.wait_for_server)
            .build();
        let streams = ClientBuilder::new(&broker)
            .wait_for_server(caller.wait_for_server)
            .build();
        let uploads = ClientBuilder::new(&broker)
            .wait_for_server(caller.wait_for_server)
            .build();
        let process = Process {
            transport,
            broker,
            client,
            jobs,
            broadcasts,
            streams,
            uploads,
        };
        if !self.broker_is_up {
            process.cut(Duration::ZERO);
        }
        process
    }

    /// Starts a process of the worker with this number. It serves only the services that the
    /// scenario uses.
    fn start(&self, number: usize) -> Worker {
        // A worker makes no calls, so these options do not matter.
        let process = self.connect(&CallerConfig {
            replies: ReplyQueue::default(),
            wait_for_server: false,
            batches: false,
        });
        let service = RecordingService {
            number,
            scenario: Arc::clone(&self.scenario),
            recorder: Arc::clone(&self.recorder),
        };
        let stop = CancellationToken::new();
        let queue = self.scenario.jobs.request_queue();
        let mut server = Server::new(&process.broker)
            .concurrency(self.scenario.concurrency)
            .batching(self.scenario.worker_batching[number])
            .serve_on(queue.clone(), WorkServer::new(service));
        if !self.scenario.jobs.is_empty() {
            let jobs = RecordingJobs {
                worker: number,
                scenario: Arc::clone(&self.scenario),
                recorder: Arc::clone(&self.job_recorder),
            };
            server = server.serve_on(queue.clone(), JobsServer::new(jobs));
        }
        if !self.scenario.broadcasts.is_empty() {
            let process = self.broadcast_recorder.process_started(number);
            let broadcasts = RecordingBroadcasts {
                process,
                scenario: Arc::clone(&self.scenario),
                recorder: Arc::clone(&self.broadcast_recorder),
            };
            server = server
                .worker_name(process.to_string())
                .serve_on(queue.clone(), BroadcastsServer::new(broadcasts));
        }
        if !self.scenario.streams.is_empty() {
            let streams = RecordingStreams {
                worker: number,
                scenario: Arc::clone(&self.scenario),
                recorder: Arc::clone(&self.stream_recorder),
            };
            server = server.serve_on(queue.clone(), StreamsServer::new(streams));
        }
        if !self.scenario.uploads.is_empty() {
            let uploads = RecordingUploads {
                worker: number,
                scenario: Arc::clone(&self.scenario),
                recorder: Arc::clone(&self.upload_recorder),
            };
            server = server.serve_on(queue, UploadsServer::new(uploads));
        }
        let server = server.run_until(stop.clone().cancelled_owned());
        Worker {
            process,
            stop,
            task: tokio::spawn(server),
        }
    }

    /// Returns the process of a peer. `None` if it is a worker that crashed or was told to stop.
    fn peer(&self, peer: Peer) -> Option<&Process> {
        match peer {
            Peer::Caller(number) => Some(&self.callers[number]),
            Peer::Worker(number) => self.workers[number].as_ref().map(|worker| &worker.process),
        }
    }

    /// Returns all processes that were neither killed nor crashed, also those of stopped workers.
    fn processes(&self) -> impl Iterator<Item = &Process> {
        let workers = self.workers.iter().flatten().chain(&self.stopping);
        (self.callers.iter().chain(&self.sender)).chain(workers.map(|worker| &worker.process))
    }
}

/// Makes a call once this time has passed, in a task that this returns. `None` if there is no time:
/// such a call is made after all faults.
fn spawn_at(
    after: Option<Duration>,
    call: impl Future<Output = ()> + Send + 'static,
) -> Option<JoinHandle<()>> {
    let at = Instant::now() + after?;
    Some(tokio::spawn(async move {
        sleep_until(at).await;
        call.await;
    }))
}

impl Process {
    fn cut(&self, noticed_after: Duration) {
        self.transport.cut(Role::Publishing, noticed_after);
        self.transport.cut(Role::Consuming, noticed_after);
    }

    fn restore(&self) {
        self.transport.restore(Role::Publishing);
        self.transport.restore(Role::Consuming);
    }
}

/// The implementation of [`Work`]. It records its runs.
struct RecordingService {
    number: usize,
    scenario: Arc<Scenario>,
    recorder: Arc<Recorder>,
}

impl RecordingService {
    /// Runs a call as planned. Returns its id. `is_redelivered` is false for methods that are not
    /// idempotent, because none of their redelivered requests runs.
    async fn work(&self, id: u64, is_redelivered: bool) -> u64 {
        let run = self.recorder.run_started(id, self.number, is_redelivered);
        let call = &self.scenario.calls[usize::try_from(id).unwrap()];
        sleep(call.work).await;
        if call.panics {
            panic_as_planned();
        }
        self.recorder.run_finished(run);
        id
    }
}

impl Work for RecordingService {
    async fn read(&self, cx: &Context, id: u64) -> u64 {
        self.work(id, cx.redelivered()).await
    }

    async fn write(&self, id: u64) -> u64 {
        self.work(id, false).await
    }

    async fn note(&self, id: u64) {
        self.work(id, false).await;
    }
}
