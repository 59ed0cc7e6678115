//! What a parent asks of a child, and what the child answers, each as one line of JSON.

use serde::{Deserialize, Serialize};

use crate::contenders::Kind;
use crate::load::Load;
use crate::measure::Measured;
use crate::scenario::Scenario;

/// What a child does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Runs the workers of a contender until the standard input ends. The answer is
    /// [`Answer::Ready`].
    Work {
        contender: Kind,
        broker: String,
        queue: String,
        scenario: Scenario,
    },
    /// Runs a contender, with caller and workers. The answer is [`Answer::Measured`].
    Measure {
        contender: Kind,
        broker: String,
        load: Load,
    },
}

/// What a child answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The workers run.
    Ready,
    Measured(Measured),
}
