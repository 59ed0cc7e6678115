//! Lasting faults: the state of the network as long as a [`Fault`](super::Fault) is held.

use std::{sync::Arc, time::Duration};

use super::{
    link::Link,
    target::{Direction, Target, Way},
};

/// A fault that is switched on.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) target: Target,
    pub(super) condition: Condition,
}

/// The effect of one fault.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition {
    Latency(Direction, Duration),
    /// In bytes a second.
    Rate(Direction, u64),
    BlackHole(Direction),
    /// New connections wait.
    Silence,
    /// New connections are refused.
    Refusal,
}

/// All faults that are switched on.
#[derive(Debug, Default)]
pub(super) struct Rules(pub(super) Vec<Arc<Rule>>);

impl Rules {
    /// Whether new connections are refused.
    pub(super) fn refuses_new(&self) -> bool {
        self.any(|condition| matches!(condition, Condition::Refusal))
    }

    /// Whether new connections wait.
    pub(super) fn silences_new(&self) -> bool {
        self.any(|condition| matches!(condition, Condition::Silence))
    }

    /// Returns the combined effect of the faults on one direction of an open connection.
    pub(super) fn conditions(&self, link: &Link, way: Way) -> Conditions {
        let mut conditions = Conditions::default();
        for rule in self.0.iter().filter(|rule| link.is(rule.target)) {
            match rule.condition {
                Condition::Latency(direction, latency) if direction.covers(way) => {
                    conditions.latency += latency;
                }
                Condition::Rate(direction, rate) if direction.covers(way) => {
                    conditions.rate = Some(conditions.rate.map_or(rate, |other| other.min(rate)));
                }
                Condition::BlackHole(direction) if direction.covers(way) => conditions.black_hole = true,
                _ => {}
            }
        }
        conditions
    }

    fn any(&self, is: impl Fn(&Condition) -> bool) -> bool {
        self.0.iter().any(|rule| is(&rule.condition))
    }
}

/// The conditions on one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) latency: Duration,
    /// In bytes a second.
    pub(super) rate: Option<u64>,
    pub(super) black_hole: bool,
}
