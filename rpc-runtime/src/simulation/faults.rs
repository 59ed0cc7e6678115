//! The faults that a scenario injects.

use std::time::Duration;

use fastrand::Rng;

use super::hostile::HostileMessage;
use super::times::{millis, random_time, whole_millis};
use crate::transport::Role;

/// Which faults are injected. With fewer kinds of faults, calls must keep more promises. Every
/// profile may also have hostile messages, duplicate replies, and a sender that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Workers are stopped and started.
    Calm,
    /// The only worker loses one or both of its connections.
    CutWorker,
    /// Some or all kinds of faults.
    Storm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Caller(usize),
    Worker(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InjectedFault {
    /// A connection is lost. The peer notices at once, the broker after `noticed_after`.
    Cut {
        peer: Peer,
        role: Role,
        noticed_after: Duration,
    },
    Restore {
        peer: Peer,
        role: Role,
    },
    /// The broker blocks the peer's publishing connection.
    Block {
        peer: Peer,
    },
    Unblock {
        peer: Peer,
    },
    /// A worker's process crashes. The broker notices after `noticed_after`.
    Crash {
        worker: usize,
        noticed_after: Duration,
    },
    /// The process that sends some of the jobs and items is killed. The broker notices after
    /// `noticed_after`.
    KillSender {
        noticed_after: Duration,
    },
    /// A worker shuts down gracefully.
    Stop {
        worker: usize,
    },
    Start {
        worker: usize,
    },
    /// The broker goes down and loses its transient state.
    BrokerDown,
    BrokerUp,
    /// The broker confirms but loses this many of the next messages with items that callers send.
    LoseItems {
        messages: usize,
    },
    DeleteRequestQueues,
    DeleteReplyQueues {
        caller: usize,
    },
    /// The next task of this name that runs panics, in a caller or a worker.
    Panic {
        task: &'static str,
    },
    /// A hostile peer publishes a message.
    HostileMessage(HostileMessage),
    /// From now on, each message to a reply queue is delivered twice (`true`) or once.
    DuplicateReplies(bool),
}

/// Returns a random time, in half of the cases one shortly before a fault, if there are faults.
pub(super) fn time_near_a_fault(rng: &mut Rng, faults: &[(Duration, InjectedFault)]) -> Duration {
    match faults {
        [] => random_time(rng),
        _ if rng.bool() => random_time(rng),
        _ => {
            let (fault, _) = faults[rng.usize(..faults.len())];
            whole_millis(fault.saturating_sub(millis(rng, 400)))
        }
    }
}
