//! What happens in a world, all of it drawn from one seed: who is there, what is called, and what goes wrong when.

use std::time::Duration;

use fastrand::Rng;

use super::stranger::Hostility;
use crate::transport::{ReplyQueue, Role};

/// By then the workers serve, and the first calls are made.
const START: Duration = Duration::from_secs(5);

/// From then on nothing goes wrong any more.
pub(super) const HORIZON: Duration = Duration::from_secs(25);

/// The limit of a call that has time for whatever goes wrong and for its mending.
pub(super) const PATIENT: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) profile: Profile,
    pub(super) callers: Vec<CallerPlan>,
    pub(super) workers: usize,
    /// Whether each worker takes batched calls.
    pub(super) takes_batches: Vec<bool>,
    pub(super) concurrency: u16,
    /// How long a message is on its way to the broker or from there, in milliseconds, unless it is held up.
    pub(super) latency: u64,
    /// By their ids.
    pub(super) calls: Vec<CallPlan>,
    /// In the order of time.
    pub(super) faults: Vec<(Duration, Fault)>,
}

/// Which things can go wrong. Where it is little, more can be asked of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Nothing, but workers are stopped and started.
    Calm,
    /// The one worker loses its connections.
    CutWorker,
    /// A few kinds, or all.
    Storm,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CallerPlan {
    pub(super) replies: ReplyQueue,
    pub(super) waits_for_server: bool,
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
pub(super) struct CallPlan {
    pub(super) caller: usize,
    pub(super) method: Method,
    /// Nothing: after all has been mended.
    pub(super) at: Option<Duration>,
    pub(super) limit: Duration,
    /// When the caller drops it.
    pub(super) given_up_after: Option<Duration>,
    /// How long the method takes.
    pub(super) work: Duration,
    pub(super) panics: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Caller(usize),
    Worker(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// A connection is lost, which the broker notices so much later.
    Cut {
        peer: Peer,
        role: Role,
        notice: Duration,
    },
    Mend {
        peer: Peer,
        role: Role,
    },
    /// The broker reads nothing that the peer publishes.
    Block {
        peer: Peer,
    },
    Unblock {
        peer: Peer,
    },
    /// A worker's process ends, which the broker notices so much later.
    Crash {
        worker: usize,
        notice: Duration,
    },
    /// A worker is told to stop.
    Stop {
        worker: usize,
    },
    Start {
        worker: usize,
    },
    /// The broker goes down, and forgets what is transient.
    BrokerDown,
    BrokerUp,
    DeleteRequests,
    DeleteReplies {
        caller: usize,
    },
    /// A task of this name panics, a caller's or a worker's, when it has its next turn.
    Panic {
        task: &'static str,
    },
    /// A stranger publishes something.
    Stranger(Hostility),
    /// Each reply comes twice from now on, or once again.
    EchoReplies(bool),
}

/// The tasks that handles and servers have, over whichever transport.
const TASKS: [&str; 6] = [
    "reply consumer",
    "outgoing requests",
    "request queue",
    "replies",
    "reply channel",
    "discovery",
];

/// What goes wrong, and is mended again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incident {
    Cut,
    Flapping,
    Outage,
    Block,
    Crash,
    Stop,
    BrokerRestart,
    DeleteRequests,
    DeleteReplies,
    Panics,
}

const INCIDENTS: [Incident; 10] = [
    Incident::Cut,
    Incident::Flapping,
    Incident::Outage,
    Incident::Block,
    Incident::Crash,
    Incident::Stop,
    Incident::BrokerRestart,
    Incident::DeleteRequests,
    Incident::DeleteReplies,
    Incident::Panics,
];

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let profile = match rng.u8(..10) {
            0 => Profile::Calm,
            1 => Profile::CutWorker,
            _ => Profile::Storm,
        };
        let callers: Vec<_> = (0..rng.usize(1..=3)).map(|_| CallerPlan::new(&mut rng)).collect();
        let calls = calls(&mut rng, callers.len());
        let workers = match profile {
            Profile::CutWorker => 1,
            Profile::Calm | Profile::Storm => [1, 1, 2, 3][rng.usize(..4)],
        };
        // All, none, or some.
        let batching = rng.u8(..4);
        let mut takes_batches = || match batching {
            ..2 => true,
            2 => rng.bool(),
            _ => false,
        };
        let mut plan = Self {
            profile,
            workers,
            takes_batches: std::iter::repeat_with(&mut takes_batches).take(workers).collect(),
            concurrency: rng.u16(1..=5),
            latency: [0, 2, 20, 200][rng.usize(..4)],
            callers,
            calls,
            faults: Vec::new(),
        };
        plan.draw_faults(&mut rng);
        // Of their own, so that a seed's other faults do not depend on them.
        plan.draw_strangers(&mut Rng::with_seed(!seed));
        plan
    }

    /// When requests are lost of which nobody is told, for the first time.
    pub(super) fn requests_deleted(&self) -> Option<Duration> {
        let is_deletion = |(_, fault): &&(Duration, Fault)| *fault == Fault::DeleteRequests;
        self.faults.iter().find(is_deletion).map(|(at, _)| *at)
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        // Not all kinds in every world: some bugs show only where nothing else disturbs them.
        let kinds: Vec<_> = match self.profile {
            Profile::Calm => vec![Incident::Stop],
            Profile::CutWorker => vec![Incident::Cut, Incident::Flapping],
            // Who is away while the broker forgets has lost more than the connection.
            Profile::Storm if rng.u8(..4) == 0 => vec![Incident::Cut, Incident::BrokerRestart],
            Profile::Storm => {
                let often = rng.f32();
                let some = INCIDENTS.into_iter().filter(|_| rng.f32() < often).collect();
                match Vec::is_empty(&some) {
                    true => vec![INCIDENTS[rng.usize(..INCIDENTS.len())]],
                    false => some,
                }
            }
        };
        let mut at = any_time(rng);
        for _ in 0..rng.usize(1..=12) {
            let kind = kinds[rng.usize(..kinds.len())];
            at = match rng.bool() {
                // While the last one is not mended yet, as often as not.
                true => at + pause(rng),
                false => self.moment(rng),
            };
            self.draw_incident(rng, kind, at);
        }
        self.faults.retain(|(at, _)| *at < HORIZON);
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Somebody does harm in every other world, beside whatever else goes wrong.
    fn draw_strangers(&mut self, rng: &mut Rng) {
        if rng.bool() {
            return;
        }
        for _ in 0..rng.usize(1..=60) {
            let hostility = Hostility::any(rng, self.callers.len());
            let at = whole_millis(self.moment(rng));
            self.faults.push((at, Fault::Stranger(hostility)));
        }
        if rng.bool() {
            self.faults.push((any_time(rng), Fault::EchoReplies(true)));
            self.faults.push((HORIZON, Fault::EchoReplies(false)));
        }
        self.faults.retain(|(at, _)| *at <= HORIZON);
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Any time, or one at which a call is under way.
    fn moment(&self, rng: &mut Rng) -> Duration {
        let call = self.calls[rng.usize(..self.calls.len())];
        let Some(begun) = call.at.filter(|_| rng.bool()) else {
            return any_time(rng);
        };
        // Its end, when replies and confirms are on their way, as often as any other part of it.
        let done = if rng.bool() { 1.0 } else { rng.f32() };
        begun + call.work.mul_f32(done) + millis(rng, 6 * self.latency + 2)
    }

    fn draw_incident(&mut self, rng: &mut Rng, incident: Incident, at: Duration) {
        let mut fault = |at: Duration, fault| self.faults.push((whole_millis(at), fault));
        let peer = match self.profile {
            Profile::CutWorker => Peer::Worker(0),
            _ => match rng.bool() {
                true => Peer::Caller(rng.usize(..self.callers.len())),
                false => Peer::Worker(rng.usize(..self.workers)),
            },
        };
        let roles: &[Role] = match rng.u8(..3) {
            0 => &[Role::Publishing],
            1 => &[Role::Consuming],
            _ => &[Role::Publishing, Role::Consuming],
        };
        let worker = rng.usize(..self.workers);
        let notice = match rng.u8(..10) {
            ..7 => Duration::ZERO,
            7 => millis(rng, 200),
            _ => millis(rng, 15_000),
        };
        match incident {
            Incident::Cut => {
                let mended = at + pause(rng);
                for &role in roles {
                    fault(at, Fault::Cut { peer, role, notice });
                    fault(mended, Fault::Mend { peer, role });
                }
            }
            Incident::Flapping => {
                let mut at = at;
                for _ in 0..rng.u8(3..=8) {
                    let mended = at + millis(rng, 50);
                    for &role in roles {
                        fault(at, Fault::Cut { peer, role, notice });
                        fault(mended, Fault::Mend { peer, role });
                    }
                    at = mended + millis(rng, 400);
                }
            }
            Incident::Outage => {
                let mended = at + pause(rng);
                let callers = (0..self.callers.len()).map(Peer::Caller);
                for peer in callers.chain((0..self.workers).map(Peer::Worker)) {
                    for &role in roles {
                        fault(at, Fault::Cut { peer, role, notice });
                        fault(mended, Fault::Mend { peer, role });
                    }
                }
            }
            Incident::Block => {
                fault(at, Fault::Block { peer });
                fault(at + pause(rng), Fault::Unblock { peer });
            }
            Incident::Crash => {
                fault(at, Fault::Crash { worker, notice });
                fault(at + pause(rng), Fault::Start { worker });
            }
            Incident::Stop => {
                let mut at = at;
                // More than once: it may be told to stop before it has quite begun.
                for _ in 0..rng.u8(1..=3) {
                    fault(at, Fault::Stop { worker });
                    at += pause(rng);
                    fault(at, Fault::Start { worker });
                    at += millis(rng, 4 * self.latency + 2);
                }
            }
            Incident::BrokerRestart => {
                fault(at, Fault::BrokerDown);
                fault(at + pause(rng), Fault::BrokerUp);
            }
            Incident::DeleteRequests => fault(at, Fault::DeleteRequests),
            Incident::DeleteReplies => {
                let caller = rng.usize(..self.callers.len());
                fault(at, Fault::DeleteReplies { caller });
            }
            Incident::Panics => {
                let mut at = at;
                for _ in 0..rng.u8(1..=4) {
                    let task = TASKS[rng.usize(..TASKS.len())];
                    fault(at, Fault::Panic { task });
                    at += millis(rng, 400);
                }
            }
        }
    }
}

impl CallerPlan {
    fn new(rng: &mut Rng) -> Self {
        let replies = match rng.u8(..4) {
            0 => ReplyQueue::Exclusive,
            1 => ReplyQueue::Direct,
            _ => ReplyQueue::Resumable,
        };
        Self {
            replies,
            waits_for_server: rng.bool(),
            batches: rng.u8(..4) > 0,
        }
    }
}

/// Some at any time, and of each caller one of each method after all has been mended.
fn calls(rng: &mut Rng, callers: usize) -> Vec<CallPlan> {
    // Quick methods are called several in one message, where several calls are made at once.
    let quick = rng.u8(..3);
    let mut calls: Vec<CallPlan> = Vec::new();
    for _ in 0..rng.u8(5..=40) {
        let (caller, at) = match calls.last() {
            Some(last) if rng.u8(..4) < 3 * quick.min(1) => (last.caller, last.at),
            _ => (rng.usize(..callers), Some(any_time(rng))),
        };
        calls.push(CallPlan {
            caller,
            method: match rng.u8(..10) {
                ..4 => Method::Read,
                4..8 => Method::Write,
                _ => Method::Note,
            },
            at,
            limit: match rng.u8(..20) {
                ..2 => millis(rng, 200),
                2..8 => Duration::from_secs(1) + millis(rng, 4_000),
                8..11 => Duration::from_secs(5) + millis(rng, 25_000),
                _ => PATIENT,
            },
            given_up_after: (rng.u8(..20) == 0).then(|| millis(rng, 500)),
            work: match rng.u8(..10) {
                _ if quick > 0 && rng.u8(..10) < 8 => Duration::ZERO,
                ..3 => Duration::ZERO,
                3..7 => millis(rng, 50),
                7..9 => millis(rng, 500),
                _ => millis(rng, 4_000),
            },
            panics: rng.u8(..30) == 0,
        });
    }
    // By them the callers hear early of workers that take several in one message.
    if quick > 0 {
        for caller in 0..callers {
            calls.extend([Method::Read, Method::Write].map(|method| CallPlan {
                caller,
                method,
                at: Some(START),
                limit: PATIENT,
                given_up_after: None,
                work: Duration::ZERO,
                panics: false,
            }));
        }
    }
    for caller in 0..callers {
        calls.extend(
            [Method::Read, Method::Write, Method::Note].map(|method| CallPlan {
                caller,
                method,
                at: None,
                limit: PATIENT,
                given_up_after: None,
                work: Duration::from_millis(1),
                panics: false,
            }),
        );
    }
    calls
}

/// How long something stays broken.
fn pause(rng: &mut Rng) -> Duration {
    match rng.u8(..4) {
        0 => Duration::ZERO,
        1 | 2 => millis(rng, 500),
        _ => millis(rng, 8_000),
    }
}

/// Up to so many.
fn millis(rng: &mut Rng, limit: u64) -> Duration {
    Duration::from_millis(rng.u64(..=limit))
}

/// While things go wrong.
fn any_time(rng: &mut Rng) -> Duration {
    whole_millis(START + (HORIZON - START).mul_f32(rng.f32()))
}

/// The timer knows no less.
fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis().try_into().unwrap())
}
