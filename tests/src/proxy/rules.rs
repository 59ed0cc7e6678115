//! Lasting faults: the state of the network as long as a [`Fault`] is held.

use std::{sync::Arc, time::Duration};

use super::{Direction, Shared, Target, Way, link::Link};

/// A fault that is switched on.
///
/// It ends when this is dropped or [healed](Fault::heal).
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    rule: Arc<Rule>,
    shared: Arc<Shared>,
}

impl Fault {
    pub(super) fn new(shared: Arc<Shared>, target: Target, condition: Condition) -> Self {
        let rule = Arc::new(Rule { target, condition });
        shared.rules.send_modify(|rules| rules.0.push(rule.clone()));
        Self { rule, shared }
    }

    /// Ends the fault. Returns once new connections are accepted again, if they were not.
    pub async fn heal(self) {
        let shared = self.shared.clone();
        drop(self);
        shared.door_moved().await;
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let others = |rule: &Arc<Rule>| !Arc::ptr_eq(rule, &self.rule);
        self.shared.rules.send_modify(|rules| rules.0.retain(others));
    }
}

#[derive(Debug)]
struct Rule {
    target: Target,
    condition: Condition,
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
pub(super) struct Rules(Vec<Arc<Rule>>);

impl Rules {
    pub(super) fn refuse(&self) -> bool {
        self.any(|condition| matches!(condition, Condition::Refusal))
    }

    pub(super) fn silence(&self) -> bool {
        self.any(|condition| matches!(condition, Condition::Silence))
    }

    /// Returns the combined effect of the faults on one direction of a connection.
    pub(super) fn weather(&self, link: &Link, way: Way) -> Weather {
        let mut weather = Weather::default();
        for rule in self.0.iter().filter(|rule| link.is(rule.target)) {
            match rule.condition {
                Condition::Latency(direction, latency) if direction.covers(way) => weather.latency += latency,
                Condition::Rate(direction, rate) if direction.covers(way) => {
                    weather.rate = Some(weather.rate.map_or(rate, |other| other.min(rate)));
                }
                Condition::BlackHole(direction) if direction.covers(way) => weather.black_hole = true,
                _ => {}
            }
        }
        weather
    }

    fn any(&self, is: impl Fn(&Condition) -> bool) -> bool {
        self.0.iter().any(|rule| is(&rule.condition))
    }
}

/// The conditions on one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Weather {
    pub(super) latency: Duration,
    /// In bytes a second.
    pub(super) rate: Option<u64>,
    pub(super) black_hole: bool,
}
