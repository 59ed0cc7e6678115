//! A change, whom it breaks, and the order of a rollout that follows from it.

use std::fmt;

use serde::Serialize;

/// A difference between two versions of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// Whom it breaks.
    pub verdict: Verdict,
    /// What has changed.
    pub place: Place,
    /// What happens, and what to do about it.
    pub message: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.verdict, self.place, self.message)
    }
}

/// Whom a change breaks, in ascending order of severity.
///
/// A change *breaks* a peer if all calls, or those with particular values, are known to fail, or if
/// they may run twice or repeat the items of a stream. It *may break* a peer if the descriptions do
/// not show whether that happens, or if it only affects peers that do not use rpc-runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Breaks nobody.
    Safe,
    /// May break new callers that call old workers.
    MayBreakWorkers,
    /// May break old callers that call new workers.
    MayBreakCallers,
    /// Breaks new callers that call old workers.
    BreaksWorkers,
    /// Breaks old callers that call new workers.
    BreaksCallers,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safe => "safe",
            Self::MayBreakWorkers => "may break old workers",
            Self::MayBreakCallers => "may break old callers",
            Self::BreaksWorkers => "breaks old workers",
            Self::BreaksCallers => "breaks old callers",
        })
    }
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// The service itself.
    Service,
    /// The method with this name.
    Method(String),
    /// An argument of a method.
    Argument {
        /// The method's name.
        method: String,
        /// The argument's name: the old or the new one if they differ.
        argument: String,
    },
    /// The items that the callers of the method with this name send.
    Incoming(String),
    /// What the method with this name returns if it succeeds.
    Result(String),
    /// The error of the method with this name.
    Error(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("the service"),
            Self::Method(method) => f.write_str(method),
            Self::Argument { method, argument } => write!(f, "{method}({argument})"),
            Self::Incoming(method) => write!(f, "the items for {method}"),
            Self::Result(method) => write!(f, "the result of {method}"),
            Self::Error(method) => write!(f, "the error of {method}"),
        }
    }
}

/// The order in which to update callers and workers so that no call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rollout {
    /// Any order works.
    AnyOrder,
    /// Update all workers before the first caller: old callers understand new workers.
    WorkersFirst,
    /// Update all callers before the first worker: new callers understand old workers.
    CallersFirst,
    /// No order works: make the change in several steps.
    InSteps,
}

impl Rollout {
    /// Returns the order that suits all changes. A change that may break counts as one that breaks.
    #[must_use]
    pub fn of(changes: &[Change]) -> Self {
        let has_any =
            |verdicts: [Verdict; 2]| changes.iter().any(|change| verdicts.contains(&change.verdict));
        let breaks_callers = has_any([Verdict::BreaksCallers, Verdict::MayBreakCallers]);
        let breaks_workers = has_any([Verdict::BreaksWorkers, Verdict::MayBreakWorkers]);
        match (breaks_callers, breaks_workers) {
            (false, false) => Self::AnyOrder,
            (false, true) => Self::WorkersFirst,
            (true, false) => Self::CallersFirst,
            (true, true) => Self::InSteps,
        }
    }
}

/// The peers that still run the old version while others run the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldPeers {
    Callers,
    Workers,
}

#[derive(Default)]
pub(super) struct Changes(Vec<Change>);

impl Changes {
    pub(super) fn add(&mut self, verdict: Verdict, place: Place, message: impl Into<String>) {
        self.0.push(Change {
            verdict,
            place,
            message: message.into(),
        });
    }

    /// Adds a change that breaks `peers`, for certain or perhaps.
    pub(super) fn add_break(&mut self, peers: OldPeers, is_certain: bool, place: &Place, message: String) {
        let verdict = match (peers, is_certain) {
            (OldPeers::Callers, true) => Verdict::BreaksCallers,
            (OldPeers::Callers, false) => Verdict::MayBreakCallers,
            (OldPeers::Workers, true) => Verdict::BreaksWorkers,
            (OldPeers::Workers, false) => Verdict::MayBreakWorkers,
        };
        self.add(verdict, place.clone(), message);
    }

    pub(super) fn into_vec(self) -> Vec<Change> {
        self.0
    }
}
