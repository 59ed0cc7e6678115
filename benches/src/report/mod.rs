//! Reports of the results.

pub(crate) mod chart;
pub(crate) mod json;
pub(crate) mod ratios;
pub(crate) mod svg;
pub(crate) mod table;

use serde::Serialize;

use crate::contenders::Kind;
use crate::measure::Measured;
use crate::scenario::Scenario;

/// One contender in one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) scenario: Scenario,
    pub(crate) contender: Kind,
    pub(crate) rounds: Vec<Measured>,
}

impl Cell {
    pub(crate) fn median(&self) -> Measured {
        Measured::median(&self.rounds)
    }
}
