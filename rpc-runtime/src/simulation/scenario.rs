//! The scenario of a simulation, generated from a seed: callers, workers, calls, and faults over
//! time. All times count from the start of the simulation.

use std::time::Duration;

use fastrand::Rng;

use super::broadcast_plan::{PlannedBroadcast, random_broadcasts};
use super::faults::{InjectedFault, Peer, Profile};
use super::hostile::HostileMessage;
use super::job_plan::{JobPlan, Sender};
use super::stream_plan::{PlannedStream, random_streams};
use super::times::{FAULTS_END, LONG_TIMEOUT, START, millis, random_time, whole_millis};
use super::upload_plan::{PlannedUpload, random_item_faults, random_uploads};
use crate::transport::{ReplyQueue, Role};

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) profile: Profile,
    pub(super) callers: Vec<CallerConfig>,
    pub(super) workers: usize,
    /// Whether each worker accepts batches.
    pub(super) worker_batching: Vec<bool>,
    pub(super) concurrency: u16,
    /// The maximum latency of a message to or from the broker, in milliseconds. One message in
    /// twenty may take ten times as long.
    pub(super) latency: u64,
    /// Indexed by id.
    pub(super) calls: Vec<PlannedCall>,
    pub(super) jobs: JobPlan,
    /// Indexed by id. Empty if the workers serve no broadcasts.
    pub(super) broadcasts: Vec<PlannedBroadcast>,
    /// Indexed by id. Empty if the workers serve no streams.
    pub(super) streams: Vec<PlannedStream>,
    /// Indexed by id. Empty if no method of the workers receives items.
    pub(super) uploads: Vec<PlannedUpload>,
    /// With their times, in order.
    pub(super) faults: Vec<(Duration, InjectedFault)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CallerConfig {
    pub(super) replies: ReplyQueue,
    pub(super) wait_for_server: bool,
    pub(super) batches: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Idempotent.
    Read,
    /// Not idempotent.
    Write,
    /// One-way.
    Note,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedCall {
    pub(super) caller: usize,
    pub(super) method: Method,
    /// `None` for a call that is made after all faults are over.
    pub(super) at: Option<Duration>,
    pub(super) timeout: Duration,
    /// When the caller drops the call, counted from its start. `None` if it does not.
    pub(super) cancelled_after: Option<Duration>,
    /// How long the method takes.
    pub(super) work: Duration,
    pub(super) panics: bool,
}

/// The background tasks in which [`Incident::Panics`] injects panics, by name.
const TASKS: [&str; 6] = [
    "reply consumer",
    "outgoing requests",
    "request queue",
    "replies",
    "reply channel",
    "control",
];

/// A kind of disturbance: one or more faults, and their repairs if they need any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incident {
    Cut,
    Flapping,
    CutAll,
    Block,
    Crash,
    Stop,
    BrokerRestart,
    DeleteRequestQueues,
    DeleteReplyQueues,
    Panics,
}

const INCIDENTS: [Incident; 10] = [
    Incident::Cut,
    Incident::Flapping,
    Incident::CutAll,
    Incident::Block,
    Incident::Crash,
    Incident::Stop,
    Incident::BrokerRestart,
    Incident::DeleteRequestQueues,
    Incident::DeleteReplyQueues,
    Incident::Panics,
];

impl Scenario {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let profile = match rng.u8(..10) {
            0 => Profile::Calm,
            1 => Profile::CutWorker,
            _ => Profile::Storm,
        };
        let callers: Vec<_> = (0..rng.usize(1..=3))
            .map(|_| CallerConfig::random(&mut rng))
            .collect();
        let calls = random_calls(&mut rng, callers.len());
        let workers = match profile {
            Profile::CutWorker => 1,
            Profile::Calm | Profile::Storm => [1, 1, 2, 3][rng.usize(..4)],
        };
        // Which workers accept batches: all (0 and 1), a random choice (2), or none (3).
        let batching = rng.u8(..4);
        let mut worker_batching = || match batching {
            ..2 => true,
            2 => rng.bool(),
            _ => false,
        };
        let mut scenario = Self {
            profile,
            workers,
            worker_batching: std::iter::repeat_with(&mut worker_batching)
                .take(workers)
                .collect(),
            concurrency: rng.u16(1..=5),
            latency: [0, 2, 20, 200][rng.usize(..4)],
            callers,
            calls,
            jobs: JobPlan::default(),
            broadcasts: Vec::new(),
            streams: Vec::new(),
            uploads: Vec::new(),
            faults: Vec::new(),
        };
        scenario.draw_faults(&mut rng);
        // Each from a generator of its own, so that a change of one changes the later ones only
        // through the faults that it adds.
        scenario.draw_hostile_messages(&mut Rng::with_seed(!seed));
        scenario.broadcasts = random_broadcasts(
            &mut Rng::with_seed(seed.rotate_left(16)),
            scenario.callers.len(),
            workers,
            &scenario.faults,
        );
        scenario.streams = random_streams(
            &mut Rng::with_seed(seed.rotate_left(48)),
            scenario.callers.len(),
            (
                profile == Profile::Calm,
                workers,
                scenario.concurrency,
                scenario.latency,
            ),
            &scenario.faults,
        );
        scenario.draw_uploads(&mut Rng::with_seed(seed.rotate_left(24)));
        scenario.draw_jobs(&mut Rng::with_seed(seed.rotate_left(32)));
        scenario
    }

    /// Returns when the request queues are deleted, in order. Requests in them are lost silently.
    fn deletions(&self) -> impl DoubleEndedIterator<Item = Duration> {
        let is_deletion =
            |(_, fault): &&(Duration, InjectedFault)| *fault == InjectedFault::DeleteRequestQueues;
        self.faults.iter().filter(is_deletion).map(|(at, _)| *at)
    }

    /// Whether a worker may be starting at some time between `after` and `until`. It does not yet
    /// hear of cancellations then. If workers are stopped at all, one of them may still be stopped
    /// when the faults end, and starts then.
    pub(super) fn starts_worker_between(&self, after: Duration, until: Duration) -> bool {
        const LONGEST_START: Duration = Duration::from_secs(2);
        let is_stop = |fault: &InjectedFault| matches!(fault, InjectedFault::Stop { .. });
        let has_stop = self.faults.iter().any(|(_, fault)| is_stop(fault));
        let starts = self.faults.iter().filter_map(|(at, fault)| match fault {
            InjectedFault::Start { .. } => Some(*at),
            _ => None,
        });
        let mut starts = starts.chain(has_stop.then_some(FAULTS_END));
        starts.any(|at| at + LONGEST_START >= after && at <= until)
    }

    /// Whether a worker that stops may drain until its timeout: it may be unable to publish its
    /// replies, its streams may last too long, or one of its methods may receive the items of a
    /// process that was killed. It gives back the requests that it has not begun by then.
    pub(super) fn drains_may_time_out(&self) -> bool {
        let is_killed = |upload: &PlannedUpload| upload.sender == Sender::Killed;
        self.profile != Profile::Calm || self.uploads.iter().any(is_killed)
    }

    /// Returns when the request queues are first deleted.
    pub(super) fn queues_deleted_at(&self) -> Option<Duration> {
        self.deletions().next()
    }

    /// Returns when the request queues are last deleted.
    pub(super) fn queues_last_deleted_at(&self) -> Option<Duration> {
        self.deletions().next_back()
    }

    /// Adds the faults of the profile. Sorts them by time.
    fn draw_faults(&mut self, rng: &mut Rng) {
        // Few scenarios have all kinds, because one kind of fault may hide a bug that another
        // shows.
        let kinds: Vec<_> = match self.profile {
            Profile::Calm => vec![Incident::Stop],
            Profile::CutWorker => vec![Incident::Cut, Incident::Flapping],
            // Only these two, so that peers are often disconnected during a broker restart, which
            // deletes their transient queues.
            Profile::Storm if rng.u8(..4) == 0 => vec![Incident::Cut, Incident::BrokerRestart],
            Profile::Storm => {
                let often = rng.f32();
                let some = INCIDENTS.into_iter().filter(|_| rng.f32() < often).collect();
                if Vec::is_empty(&some) {
                    vec![INCIDENTS[rng.usize(..INCIDENTS.len())]]
                } else {
                    some
                }
            }
        };
        let mut at = random_time(rng);
        for _ in 0..rng.usize(1..=12) {
            let kind = kinds[rng.usize(..kinds.len())];
            // Half of the incidents begin soon after the one before, often before its repair.
            at = if rng.bool() {
                at + repair_time(rng)
            } else {
                self.time_near_a_call(rng)
            };
            self.draw_incident(rng, kind, at);
        }
        // The cluster repairs everything else at `FAULTS_END`.
        self.faults.retain(|(at, _)| *at < FAULTS_END);
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Adds hostile messages to half of the scenarios, and duplicate replies to half of these.
    fn draw_hostile_messages(&mut self, rng: &mut Rng) {
        if rng.bool() {
            return;
        }
        for _ in 0..rng.usize(1..=60) {
            let message = HostileMessage::random(rng, self.callers.len());
            let at = whole_millis(self.time_near_a_call(rng));
            self.faults.push((at, InjectedFault::HostileMessage(message)));
        }
        if rng.bool() {
            self.faults
                .push((random_time(rng), InjectedFault::DuplicateReplies(true)));
            self.faults
                .push((FAULTS_END, InjectedFault::DuplicateReplies(false)));
        }
        self.faults.retain(|(at, _)| *at <= FAULTS_END);
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Adds calls that send items to half of the scenarios, and faults that concern these calls.
    fn draw_uploads(&mut self, rng: &mut Rng) {
        if rng.bool() {
            return;
        }
        self.draw_kill_of_sender(rng);
        self.uploads = random_uploads(
            rng,
            self.callers.len(),
            (self.profile, self.latency),
            &self.faults,
        );
        if self.profile == Profile::Storm {
            self.faults.extend(random_item_faults(rng));
            self.faults.sort_by_key(|(at, _)| *at);
        }
    }

    /// Adds jobs to half of the scenarios, and kills the process that sends some of them.
    fn draw_jobs(&mut self, rng: &mut Rng) {
        self.jobs = JobPlan::random(rng, self.callers.len(), &self.faults);
        if self.jobs.is_empty() {
            return;
        }
        self.draw_kill_of_sender(rng);
    }

    /// Adds the fault that kills the process [`Sender::Killed`], unless it was added before.
    fn draw_kill_of_sender(&mut self, rng: &mut Rng) {
        let is_kill = |fault: &InjectedFault| matches!(fault, InjectedFault::KillSender { .. });
        if self.faults.iter().any(|(_, fault)| is_kill(fault)) {
            return;
        }
        let noticed_after = millis(rng, 2_000);
        self.faults
            .push((random_time(rng), InjectedFault::KillSender { noticed_after }));
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Returns a random time, in up to half of the cases one when a call is in flight, or soon
    /// after. Such a time may lie after [`FAULTS_END`].
    fn time_near_a_call(&self, rng: &mut Rng) -> Duration {
        let call = self.calls[rng.usize(..self.calls.len())];
        let Some(begun) = call.at.filter(|_| rng.bool()) else {
            return random_time(rng);
        };
        // In half of these cases at the end of its work, when replies and confirms are in flight.
        let done = if rng.bool() { 1.0 } else { rng.f32() };
        begun + call.work.mul_f32(done) + millis(rng, 6 * self.latency + 2)
    }

    /// Adds the faults of an incident that begins at this time, and their repairs.
    fn draw_incident(&mut self, rng: &mut Rng, incident: Incident, at: Duration) {
        let mut fault = |at: Duration, fault| self.faults.push((whole_millis(at), fault));
        let peer = match self.profile {
            Profile::CutWorker => Peer::Worker(0),
            _ if rng.bool() => Peer::Caller(rng.usize(..self.callers.len())),
            _ => Peer::Worker(rng.usize(..self.workers)),
        };
        let roles: &[Role] = match rng.u8(..3) {
            0 => &[Role::Publishing],
            1 => &[Role::Consuming],
            _ => &[Role::Publishing, Role::Consuming],
        };
        let worker = rng.usize(..self.workers);
        let noticed_after = match rng.u8(..10) {
            ..7 => Duration::ZERO,
            7 => millis(rng, 200),
            _ => millis(rng, 15_000),
        };
        match incident {
            Incident::Cut => {
                let repaired = at + repair_time(rng);
                for &role in roles {
                    fault(
                        at,
                        InjectedFault::Cut {
                            peer,
                            role,
                            noticed_after,
                        },
                    );
                    fault(repaired, InjectedFault::Restore { peer, role });
                }
            }
            Incident::Flapping => {
                let mut at = at;
                for _ in 0..rng.u8(3..=8) {
                    let repaired = at + millis(rng, 50);
                    for &role in roles {
                        fault(
                            at,
                            InjectedFault::Cut {
                                peer,
                                role,
                                noticed_after,
                            },
                        );
                        fault(repaired, InjectedFault::Restore { peer, role });
                    }
                    at = repaired + millis(rng, 400);
                }
            }
            Incident::CutAll => {
                let repaired = at + repair_time(rng);
                let callers = (0..self.callers.len()).map(Peer::Caller);
                for peer in callers.chain((0..self.workers).map(Peer::Worker)) {
                    for &role in roles {
                        fault(
                            at,
                            InjectedFault::Cut {
                                peer,
                                role,
                                noticed_after,
                            },
                        );
                        fault(repaired, InjectedFault::Restore { peer, role });
                    }
                }
            }
            Incident::Block => {
                fault(at, InjectedFault::Block { peer });
                fault(at + repair_time(rng), InjectedFault::Unblock { peer });
            }
            Incident::Crash => {
                fault(
                    at,
                    InjectedFault::Crash {
                        worker,
                        noticed_after,
                    },
                );
                fault(at + repair_time(rng), InjectedFault::Start { worker });
            }
            Incident::Stop => {
                let mut at = at;
                // Repeatedly, so that the worker may have to stop while it is still starting.
                for _ in 0..rng.u8(1..=3) {
                    fault(at, InjectedFault::Stop { worker });
                    at += repair_time(rng);
                    fault(at, InjectedFault::Start { worker });
                    at += millis(rng, 4 * self.latency + 2);
                }
            }
            Incident::BrokerRestart => {
                fault(at, InjectedFault::BrokerDown);
                fault(at + repair_time(rng), InjectedFault::BrokerUp);
            }
            Incident::DeleteRequestQueues => fault(at, InjectedFault::DeleteRequestQueues),
            Incident::DeleteReplyQueues => {
                let caller = rng.usize(..self.callers.len());
                fault(at, InjectedFault::DeleteReplyQueues { caller });
            }
            Incident::Panics => {
                let mut at = at;
                for _ in 0..rng.u8(1..=4) {
                    let task = TASKS[rng.usize(..TASKS.len())];
                    fault(at, InjectedFault::Panic { task });
                    at += millis(rng, 400);
                }
            }
        }
    }
}

impl CallerConfig {
    fn random(rng: &mut Rng) -> Self {
        let replies = match rng.u8(..4) {
            0 => ReplyQueue::Exclusive,
            1 => ReplyQueue::Direct,
            _ => ReplyQueue::Resumable,
        };
        Self {
            replies,
            wait_for_server: rng.bool(),
            batches: rng.u8(..4) > 0,
        }
    }
}

/// Generates calls at random times. Adds one call of each method for each caller after all faults
/// are over, and in scenarios with quick calls also two for each caller at [`START`].
fn random_calls(rng: &mut Rng, callers: usize) -> Vec<PlannedCall> {
    // In two thirds of the scenarios, most calls are quick, and several are made at the same time,
    // so that they can be sent in batches.
    let is_quick = rng.u8(..3) > 0;
    let mut calls: Vec<PlannedCall> = Vec::new();
    for _ in 0..rng.u8(5..=40) {
        let (caller, at) = match calls.last() {
            Some(last) if rng.u8(..4) < 3 && is_quick => (last.caller, last.at),
            _ => (rng.usize(..callers), Some(random_time(rng))),
        };
        calls.push(PlannedCall {
            caller,
            method: match rng.u8(..10) {
                ..4 => Method::Read,
                4..8 => Method::Write,
                _ => Method::Note,
            },
            at,
            timeout: match rng.u8(..20) {
                ..2 => millis(rng, 200),
                2..8 => Duration::from_secs(1) + millis(rng, 4_000),
                8..11 => Duration::from_secs(5) + millis(rng, 25_000),
                _ => LONG_TIMEOUT,
            },
            cancelled_after: (rng.u8(..20) == 0).then(|| millis(rng, 500)),
            work: match rng.u8(..10) {
                _ if is_quick && rng.u8(..10) < 8 => Duration::ZERO,
                ..3 => Duration::ZERO,
                3..7 => millis(rng, 50),
                7..9 => millis(rng, 500),
                _ => millis(rng, 4_000),
            },
            panics: rng.u8(..30) == 0,
        });
    }
    // From the replies to these first calls, the callers learn the batch sizes that the workers of
    // each method ask for.
    if is_quick {
        for caller in 0..callers {
            calls.extend([Method::Read, Method::Write].map(|method| PlannedCall {
                caller,
                method,
                at: Some(START),
                timeout: LONG_TIMEOUT,
                cancelled_after: None,
                work: Duration::ZERO,
                panics: false,
            }));
        }
    }
    for caller in 0..callers {
        calls.extend(
            [Method::Read, Method::Write, Method::Note].map(|method| PlannedCall {
                caller,
                method,
                at: None,
                timeout: LONG_TIMEOUT,
                cancelled_after: None,
                work: Duration::from_millis(1),
                panics: false,
            }),
        );
    }
    calls
}

/// Returns a random time until a repair, which is often zero.
fn repair_time(rng: &mut Rng) -> Duration {
    match rng.u8(..4) {
        0 => Duration::ZERO,
        1 | 2 => millis(rng, 500),
        _ => millis(rng, 8_000),
    }
}
