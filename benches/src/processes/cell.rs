//! The runs of a contender in one process or in two.

use serde::Serialize;

use crate::contenders::Kind;
use crate::measure::Measured;
use crate::scenario::Scenario;

/// Where caller and worker run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Place {
    TwoProcesses,
    OneProcess,
}

/// The runs of a contender in one place.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    pub(super) scenario: Scenario,
    pub(super) contender: Kind,
    pub(super) place: Place,
    pub(super) rounds: Vec<Measured>,
}
