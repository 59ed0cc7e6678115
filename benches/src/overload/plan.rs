//! What is measured: settings, and loads as multiples of their capacity.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// How long a caller waits for an answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);

/// A system under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// This library.
    Library,
    /// lapin by hand: requests expire at the deadline, and the prefetch is the number of places.
    LapinByHand,
    /// tonic 0.14 without a broker: as many methods at once as there are places. All other calls
    /// are refused at once.
    Tonic,
}

impl System {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Library => "this library",
            Self::LapinByHand => "lapin by hand",
            Self::Tonic => "tonic, no broker",
        }
    }
}

/// Everything about a run except the load. `batching`, `wrong_clocks`, `foreign`, `admission` and
/// `adaptive` change only this library, and tonic has no priorities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Setting {
    pub(crate) system: System,
    /// How long a method takes.
    pub(crate) method: Duration,
    /// Callers, each with connections of its own. They take turns unless one is `greedy`.
    pub(crate) callers: usize,
    pub(crate) workers: usize,
    /// How many methods a worker runs at once.
    pub(crate) places: u16,
    /// Whether calls may share a message.
    pub(crate) batching: bool,
    /// Whether every second caller's clock is ten minutes slow.
    pub(crate) wrong_clocks: bool,
    /// Whether every second caller is written by hand with lapin. It knows nothing of this library,
    /// so it neither batches nor limits its calls, and its clock is ten minutes slow.
    pub(crate) foreign: bool,
    /// Whether the first caller makes nine calls of ten.
    pub(crate) greedy: bool,
    /// Whether workers refuse calls that they cannot finish in time.
    pub(crate) admission: bool,
    /// Whether callers keep fewer calls in flight while workers are overloaded.
    pub(crate) adaptive: bool,
    /// Whether some calls are marked important, on a queue with priorities.
    pub(crate) important: bool,
    pub(crate) arrivals: Arrivals,
}

/// When calls come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arrivals {
    /// At equal intervals.
    Even,
    /// At random within each block of [`RANDOM_BLOCK`] calls, so that some coincide.
    Random,
}

/// This many consecutive calls come at random within the time that they take at equal intervals.
/// The rate is as exact as with equal intervals, but calls come in bursts.
const RANDOM_BLOCK: u32 = 50;

/// The point from which one axis at a time is varied.
pub(crate) const BASE: Setting = Setting {
    system: System::Library,
    method: Duration::from_millis(20),
    callers: 1,
    workers: 1,
    places: 8,
    batching: true,
    wrong_clocks: false,
    foreign: false,
    greedy: false,
    admission: true,
    adaptive: true,
    important: false,
    arrivals: Arrivals::Even,
};

/// This library without its protection from overload.
pub(crate) const UNPROTECTED: Setting = Setting {
    admission: false,
    adaptive: false,
    ..BASE
};

/// Calls offered ÷ capacity, by default.
pub(crate) const FACTORS: [f64; 5] = [0.8, 1.0, 1.5, 3.0, 10.0];

/// A setting and its loads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    pub(crate) setting: Setting,
    pub(crate) loads: Loads,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Loads {
    /// Constant loads, one after the other, as multiples of the capacity.
    Steady(Vec<f64>),
    /// Half the capacity, then three times, then half.
    Step,
}

/// Returns the cases of a system: the base point and variations of it.
pub(crate) fn plan(system: System) -> Vec<Case> {
    let base = Setting { system, ..BASE };
    let steady = |factors: &[f64], setting| Case {
        setting,
        loads: Loads::Steady(factors.to_vec()),
    };
    let high = |setting| steady(&[1.5, 3.0, 10.0], setting);
    let with_method = |micros| base.with_method(Duration::from_micros(micros));
    // Ten times the capacity of short methods is more than the machine can offer.
    let short = |setting| steady(&[1.5, 3.0], setting);
    let mut cases = vec![
        steady(&FACTORS, base),
        high(Setting { callers: 100, ..base }),
        high(Setting { workers: 4, ..base }),
        short(with_method(1000)),
        short(with_method(100)),
        steady(
            &[0.8, 1.5],
            Setting {
                arrivals: Arrivals::Random,
                ..base
            },
        ),
        steady(
            &[3.0],
            Setting {
                callers: 10,
                greedy: true,
                ..base
            },
        ),
        Case {
            setting: base,
            loads: Loads::Step,
        },
    ];
    // tonic has no priorities.
    if system != System::Tonic {
        let important = Setting {
            important: true,
            ..base
        };
        cases.push(steady(&[0.2, 3.0], important));
    }
    if system == System::Library {
        let (batching, admission, adaptive) = (false, false, false);
        cases.extend([
            steady(&FACTORS, UNPROTECTED),
            steady(&[3.0], Setting { admission, ..base }),
            steady(&[3.0], Setting { adaptive, ..base }),
            high(Setting { batching, ..base }),
            short(Setting {
                batching,
                ..with_method(100)
            }),
            high(Setting {
                callers: 2,
                wrong_clocks: true,
                ..base
            }),
            high(Setting {
                callers: 2,
                foreign: true,
                ..base
            }),
        ]);
    }
    cases
}

impl Setting {
    /// Returns [`BASE`] with the same system, method, workers, places and batching, for measuring
    /// the capacity of these workers.
    pub(crate) fn workers_alone(&self) -> Self {
        Self {
            callers: 1,
            wrong_clocks: false,
            foreign: false,
            greedy: false,
            admission: true,
            adaptive: true,
            important: false,
            arrivals: Arrivals::Even,
            ..*self
        }
    }

    /// Returns the same setting with methods of this duration, and fewer places if they are short:
    /// two cores run callers, workers and the broker.
    pub(crate) fn with_method(self, method: Duration) -> Self {
        Self {
            method,
            places: places(method),
            ..self
        }
    }

    /// Returns the places of all workers ÷ duration of a method, in calls a second.
    pub(crate) fn nominal_capacity(&self) -> f64 {
        f64::from(self.places) * as_f64(self.workers) / self.method.as_secs_f64()
    }

    /// Returns the index of the caller that makes the call with this index. Callers take turns. A
    /// greedy one makes nine calls of ten, and the others take turns with the tenth.
    pub(crate) fn caller_of(&self, call: usize) -> usize {
        match (self.greedy, call % 10, self.callers - 1) {
            (false, _, _) => call % self.callers,
            (true, 9, modest @ 1..) => 1 + call / 10 % modest,
            (true, _, _) => 0,
        }
    }

    /// Returns whether this caller is one beside a greedy one, which must not starve it.
    pub(crate) fn is_modest(&self, caller: usize) -> bool {
        self.greedy && caller > 0
    }

    /// Returns how many methods all workers together run at once.
    pub(crate) fn all_places(&self) -> usize {
        usize::from(self.places) * self.workers
    }
}

fn places(method: Duration) -> u16 {
    match method.as_micros() {
        0..=500 => 1,
        501..=2000 => 2,
        _ => BASE.places,
    }
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn as_f64(count: usize) -> f64 {
    count as f64
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, {} callers, {} workers with {} places",
            self.method, self.callers, self.workers, self.places
        )?;
        for (is_set, text) in [
            (!self.batching, "batching off"),
            (self.wrong_clocks, "wrong clocks"),
            (self.foreign, "half of the callers foreign"),
            (self.greedy, "the first greedy"),
            (self.arrivals == Arrivals::Random, "random arrivals"),
            (!self.admission, "admission off"),
            (!self.adaptive, "adaptive limit off"),
            (self.important, "priorities"),
        ] {
            if is_set {
                write!(f, ", {text}")?;
            }
        }
        Ok(())
    }
}

/// A load that is constant for a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Phase {
    /// Calls a second ÷ capacity.
    pub(crate) factor: f64,
    pub(crate) time: Duration,
}

/// Returns the instants at which calls are due, counted from the beginning and in order. Random
/// ones are the same in each run with the same phases and capacity.
pub(crate) fn due_times(phases: &[Phase], capacity: f64, arrivals: Arrivals) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut due = Vec::new();
    let mut begin = Duration::ZERO;
    for phase in phases {
        let gap = 1.0 / (phase.factor * capacity);
        let is_over = |index: f64| index * gap >= phase.time.as_secs_f64();
        let calls = (0_u32..).take_while(|index| !is_over(f64::from(*index)));
        due.extend(calls.map(|index| {
            let position = match arrivals {
                Arrivals::Even => f64::from(index),
                Arrivals::Random => {
                    let block = index - index % RANDOM_BLOCK;
                    f64::from(block) + random.f64() * f64::from(RANDOM_BLOCK)
                }
            };
            begin + Duration::from_secs_f64(position * gap).min(phase.time)
        }));
        begin += phase.time;
    }
    due.sort_unstable();
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_due_at_the_rate_of_their_phase() {
        let second = |factor| Phase {
            factor,
            time: Duration::from_secs(1),
        };
        // Multiples of powers of two, which are exact.
        let due = due_times(&[second(0.5), second(2.0)], 64.0, Arrivals::Even);
        assert_eq!(due.len(), 32 + 128);
        assert_eq!(due[1], Duration::from_secs(1) / 32);
        assert_eq!(due[32], Duration::from_secs(1));
        assert!(due.is_sorted());
    }

    #[test]
    fn random_calls_have_the_same_rate() {
        let phase = Phase {
            factor: 1.0,
            time: Duration::from_secs(10),
        };
        let due = due_times(&[phase], 1000.0, Arrivals::Random);
        assert_eq!(due.len(), 10_000);
        assert!(due.is_sorted());
        let first_half = due.partition_point(|due| *due < phase.time / 2);
        assert!((4950..=5050).contains(&first_half), "{first_half}");
    }

    #[test]
    fn a_greedy_caller_makes_nine_calls_of_ten() {
        let setting = Setting {
            callers: 4,
            greedy: true,
            ..BASE
        };
        let callers: Vec<_> = (0..40).map(|call| setting.caller_of(call)).collect();
        assert_eq!(callers.iter().filter(|caller| **caller == 0).count(), 36);
        assert_eq!([9, 19, 29, 39].map(|call| callers[call]), [1, 2, 3, 1]);
        let alone = Setting {
            callers: 1,
            ..setting
        };
        assert_eq!(alone.caller_of(9), 0);
    }

    #[test]
    fn the_capacity_stays_within_what_two_cores_can_do() {
        assert!((BASE.nominal_capacity() - 400.0).abs() < 1e-9);
        for millis in [0.1, 1.0, 20.0] {
            let method = Duration::from_secs_f64(millis / 1000.0);
            assert!(BASE.with_method(method).nominal_capacity() <= 10_000.0);
        }
    }
}
