//! What goes wrong, when and to whom. The seed alone decides.

use std::fmt;
use std::time::Duration;

use rpc_tests::proxy::{Direction, Target};

use crate::args::Args;
use crate::random::Random;

/// A process of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    Worker(usize),
    Caller(usize),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(index) => write!(f, "w{index}"),
            Self::Caller(index) => write!(f, "c{index}"),
        }
    }
}

/// What happens to the network between one process and the broker.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Network {
    Latency(Direction, Duration),
    /// In bytes a second.
    Throttle(Direction, u64),
    BlackHole(Direction),
    Reset,
    HalfClose(Direction),
    CutAfter(Direction, u64),
    /// All connections are reset, and new ones refused.
    Refuse,
    /// All connections are reset, and new ones not answered.
    Silence,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// To these connections of this process.
    Network(Network, Member, Target),
    KillWorker(usize),
    /// SIGTERM, and another worker in its place at once.
    StopWorker(usize),
    KillBroker,
    CloseConnections,
    MemoryAlarm,
    DeleteQueue,
}

impl Fault {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Network(network, ..) => match network {
                Network::Latency(..) => "latency",
                Network::Throttle(..) => "throttle",
                Network::BlackHole(Direction::ToBroker) => "black hole to broker",
                Network::BlackHole(Direction::FromBroker) => "black hole from broker",
                Network::BlackHole(Direction::Both) => "black hole both ways",
                Network::Reset => "reset",
                Network::HalfClose(_) => "half-close",
                Network::CutAfter(..) => "cut after bytes",
                Network::Refuse => "reset, refuse new",
                Network::Silence => "reset, silence new",
            },
            Self::KillWorker(_) => "kill -9 worker",
            Self::StopWorker(_) => "stop worker",
            Self::KillBroker => "kill -9 broker",
            Self::CloseConnections => "close all connections",
            Self::MemoryAlarm => "memory alarm",
            Self::DeleteQueue => "delete request queue",
        }
    }

    /// Whom it is done to; nobody means everybody.
    pub(crate) fn victim(&self) -> Option<Member> {
        match self {
            Self::Network(_, member, _) => Some(*member),
            Self::KillWorker(index) | Self::StopWorker(index) => Some(Member::Worker(*index)),
            _ => None,
        }
    }
}

/// A fault and its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    /// Since the beginning.
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
    /// Where it does not end by itself.
    pub(crate) lasts: Duration,
}

/// The faults of a run, in the order of their times.
pub(crate) fn plan(args: &Args) -> Vec<Planned> {
    let mut random = Random::new(args.seed);
    let mut plan = Vec::new();
    // Four sorts that do not know of each other: networks, workers, the broker's controls, and its death.
    scatter(&mut plan, args, &mut random, 700..=2_500, |random| {
        let member = match random.percent(50) {
            true => Member::Worker(random.index(args.workers)),
            false => Member::Caller(random.index(args.callers)),
        };
        let aims = [
            Target::All,
            Target::All,
            Target::Named("rpc publish"),
            Target::Named("rpc consume"),
        ];
        let (network, aim) = (network(random), random.pick(&aims));
        Fault::Network(network, member, aim)
    });
    scatter(&mut plan, args, &mut random, 2_000..=8_000, |random| {
        let worker = random.index(args.workers);
        match random.percent(60) {
            true => Fault::KillWorker(worker),
            false => Fault::StopWorker(worker),
        }
    });
    scatter(&mut plan, args, &mut random, 4_000..=12_000, |random| {
        random.pick(&[
            Fault::CloseConnections,
            Fault::CloseConnections,
            Fault::MemoryAlarm,
            Fault::MemoryAlarm,
            Fault::DeleteQueue,
        ])
    });
    scatter(&mut plan, args, &mut random, 8_000..=32_000, |_| {
        Fault::KillBroker
    });
    plan.sort_by_key(|planned| planned.at);
    plan
}

/// Adds faults with pauses of so many milliseconds.
fn scatter(
    plan: &mut Vec<Planned>,
    args: &Args,
    random: &mut Random,
    pauses: std::ops::RangeInclusive<u64>,
    mut fault: impl FnMut(&mut Random) -> Fault,
) {
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_millis(random.between(pauses.clone()));
        let planned = Planned {
            at,
            fault: fault(random),
            lasts: Duration::from_millis(match random.percent(80) {
                true => random.between(100..=2_000),
                // Longer than the heartbeats take to find a dead connection out.
                false => random.between(2_000..=8_000),
            }),
        };
        if at >= args.duration {
            return;
        }
        plan.push(planned);
    }
}

fn network(random: &mut Random) -> Network {
    let direction = random.pick(&[Direction::ToBroker, Direction::FromBroker, Direction::Both]);
    match random.index(8) {
        0 => Network::Latency(direction, Duration::from_millis(random.between(5..=400))),
        1 => Network::Throttle(direction, random.between(3_000..=100_000)),
        2 => Network::BlackHole(direction),
        3 => Network::Reset,
        4 => Network::HalfClose(direction),
        5 => Network::CutAfter(direction, random.between(1..=20_000)),
        6 => Network::Refuse,
        _ => Network::Silence,
    }
}
