//! Which fault happens when, and to which process. Decided by the options, which include the seed.

use std::fmt;
use std::time::Duration;

use rpc_tests::proxy::{Direction, Target};

use crate::args::Args;
use crate::random::Random;

/// A child process and those that replace it. Displayed as `w1` or `c0`.
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

/// Returns whether this process batches. A random number of the workers do: at least one, and not
/// all if there are several. The same holds for callers.
pub(crate) fn batches(args: &Args, member: Member) -> bool {
    // `salt` gives workers and callers different random numbers.
    let (salt, index, count) = match member {
        Member::Worker(index) => (1, index, args.workers),
        Member::Caller(index) => (2, index, args.callers),
    };
    let mut random = Random::new(args.seed.wrapping_mul(4) + salt);
    let mut order: Vec<_> = (0..count).collect();
    random.shuffle(&mut order);
    let batching = random.between(1..=(count.max(2) - 1) as u64) as usize;
    order[..batching].contains(&index)
}

/// A fault of the network between one process and the broker.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Network {
    Latency(Direction, Duration),
    /// In bytes a second.
    Throttle(Direction, u64),
    BlackHole(Direction),
    Reset,
    HalfClose(Direction),
    /// The first connection that has carried this many bytes is reset.
    CutAfter(Direction, u64),
    /// The affected connections are reset, and all new ones of the process are refused.
    Refuse,
    /// The affected connections are reset, and all new ones of the process get no response.
    Silence,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Affects these connections of this process.
    Network(Network, Member, Target),
    KillWorker(usize),
    /// Only if there are jobs: without them, each call must have a recorded end, which those of a
    /// killed caller lack.
    KillCaller(usize),
    /// SIGTERM, and at once another worker in its place.
    StopWorker(usize),
    KillBroker,
    CloseConnections,
    MemoryAlarm,
    /// Deletes the request queue and its queue for batches.
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
            Self::KillCaller(_) => "kill -9 caller",
            Self::StopWorker(_) => "stop worker",
            Self::KillBroker => "kill -9 broker",
            Self::CloseConnections => "close all connections",
            Self::MemoryAlarm => "memory alarm",
            Self::DeleteQueue => "delete request queue",
        }
    }

    /// The affected process, or `None` for all.
    pub(crate) fn victim(&self) -> Option<Member> {
        match self {
            Self::Network(_, member, _) => Some(*member),
            Self::KillWorker(index) | Self::StopWorker(index) => Some(Member::Worker(*index)),
            Self::KillCaller(index) => Some(Member::Caller(*index)),
            _ => None,
        }
    }
}

/// A fault and its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    /// Since the start of the run.
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
    /// How long it is held. Unused if it is momentary. `KillBroker` keeps the broker down for a
    /// quarter of it. `CutAfter` waits for its bytes for at most this time.
    pub(crate) lasts: Duration,
}

impl Planned {
    /// Returns when it ends, since the start of the run. This is an estimate: commands of the
    /// broker's tools take seconds.
    fn until(&self) -> Duration {
        let takes = match self.fault {
            Fault::KillBroker => self.lasts / 4 + Duration::from_secs(9),
            Fault::DeleteQueue => Duration::from_secs(3),
            Fault::CloseConnections => Duration::from_secs(1),
            Fault::MemoryAlarm => self.lasts + Duration::from_secs(1),
            Fault::KillWorker(_)
            | Fault::KillCaller(_)
            | Fault::StopWorker(_)
            | Fault::Network(Network::Reset | Network::HalfClose(_), ..) => Duration::ZERO,
            Fault::Network(..) => self.lasts,
        };
        self.at + takes
    }
}

/// Returns the faults of a run, in order of time.
///
/// Most faults begin a second or two after all earlier ones; others overlap the one before, or
/// follow it at once. Each round of the plan has every kind of fault, so that none is missing for
/// long. The end of the run cuts the last round.
pub(crate) fn plan(args: &Args) -> Vec<Planned> {
    let mut random = Random::new(args.seed);
    let mut plan: Vec<Planned> = Vec::new();
    let mut over = Duration::ZERO;
    loop {
        for fault in round(args, &mut random) {
            let at = match plan.last() {
                Some(last) if random.percent(25) => {
                    let takes = last.until() - last.at;
                    last.at + Duration::from_millis(random.between(0..=takes.as_millis() as u64 + 300))
                }
                _ => over + Duration::from_millis(random.between(400..=2_600)),
            };
            if at >= args.duration {
                plan.sort_by_key(|planned| planned.at);
                return plan;
            }
            let planned = Planned {
                at,
                fault,
                lasts: Duration::from_millis(match random.percent(80) {
                    true => random.between(100..=2_000),
                    // Some exceed the 6 seconds after which heartbeats detect a dead connection.
                    false => random.between(2_000..=8_000),
                }),
            };
            over = over.max(planned.until());
            plan.push(planned);
        }
    }
}

/// Returns the faults of about a minute in random order: each kind at least once, most momentary
/// ones several times.
fn round(args: &Args, random: &mut Random) -> Vec<Fault> {
    let mut round = vec![
        Fault::KillBroker,
        Fault::MemoryAlarm,
        // Jobs in a deleted queue are lost, so a caller is killed instead.
        match args.jobs {
            None => Fault::DeleteQueue,
            Some(_) => Fault::KillCaller(random.index(args.callers)),
        },
        Fault::CloseConnections,
        Fault::CloseConnections,
    ];
    if args.jobs.is_some() {
        round.push(Fault::KillCaller(random.index(args.callers)));
    }
    for _ in 0..3 {
        round.push(Fault::KillWorker(random.index(args.workers)));
    }
    for _ in 0..2 {
        round.push(Fault::StopWorker(random.index(args.workers)));
    }
    let directions = [Direction::ToBroker, Direction::FromBroker, Direction::Both];
    let networks = [
        Network::Latency(
            random.pick(&directions),
            Duration::from_millis(random.between(5..=400)),
        ),
        Network::Throttle(random.pick(&directions), random.between(3_000..=100_000)),
        Network::BlackHole(Direction::ToBroker),
        Network::BlackHole(Direction::FromBroker),
        Network::BlackHole(Direction::Both),
        Network::Reset,
        Network::Reset,
        Network::HalfClose(random.pick(&directions)),
        Network::HalfClose(random.pick(&directions)),
        Network::CutAfter(random.pick(&directions), random.between(1..=20_000)),
        Network::CutAfter(random.pick(&directions), random.between(1..=20_000)),
        Network::Refuse,
        Network::Silence,
    ];
    let aims = [
        Target::All,
        Target::All,
        Target::Named("rpc publish"),
        Target::Named("rpc consume"),
    ];
    for network in networks {
        let member = match random.percent(50) {
            true => Member::Worker(random.index(args.workers)),
            false => Member::Caller(random.index(args.callers)),
        };
        round.push(Fault::Network(network, member, random.pick(&aims)));
    }
    random.shuffle(&mut round);
    round
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn of(seed: u64) -> Vec<Planned> {
        plan(&Args {
            duration: Duration::from_secs(60),
            seed,
            callers: 2,
            workers: 3,
            rate: 30,
            stranger: true,
            jobs: None,
            quorum: false,
        })
    }

    #[test]
    fn the_seed_decides() {
        let [one, again, another] = [7, 7, 8].map(|seed| format!("{:?}", of(seed)));
        assert_eq!(one, again);
        assert_ne!(one, another);
    }

    #[test]
    fn a_minute_usually_has_each_kind_of_fault() {
        let kinds = |seed| of(seed).iter().map(|it| it.fault.name()).collect::<BTreeSet<_>>();
        let whole = (0..100).filter(|seed| kinds(*seed).len() == 16).count();
        assert!(whole >= 60, "{whole} of 100");
    }

    #[test]
    fn some_faults_overlap_and_most_do_not() {
        let (mut met, mut all) = (0, 0);
        for seed in 0..100 {
            for pair in of(seed).windows(2) {
                all += 1;
                met += usize::from(pair[1].at <= pair[0].until() + Duration::from_millis(300));
            }
        }
        assert!(met * 10 > all && met * 2 < all, "{met} of {all}");
    }
}
