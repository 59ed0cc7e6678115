//! The tracked ratios: each from two contenders that ran directly after each other, round by round.

use serde::Serialize;

use crate::measure::median;

/// A ratio over several rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Ratio {
    /// Creates one from figures that are already ratios.
    pub(crate) fn of(rounds: &[f64]) -> Self {
        Self {
            median: median(rounds.to_vec()),
            min: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            max: rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Returns a line for other programs.
    pub(crate) fn line(&self, name: &str) -> String {
        let Self { median, min, max } = self;
        format!("ratio {name} {median:.3} {min:.3} {max:.3}")
    }
}

/// Returns the order of a pair in a round. The second contender finds a warmer machine, so they
/// take turns.
pub(crate) fn order<T>(round: usize, pair: [T; 2]) -> [T; 2] {
    let [first, second] = pair;
    match round % 2 {
        0 => [first, second],
        _ => [second, first],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_has_a_median_and_both_ends() {
        let ratio = Ratio::of(&[1.5, 1.0, 3.0]);
        assert_eq!(
            ratio.line("throughput-64"),
            "ratio throughput-64 1.500 1.000 3.000"
        );
    }

    #[test]
    fn pairs_take_turns() {
        assert_eq!(order(0, ["a", "b"]), ["a", "b"]);
        assert_eq!(order(1, ["a", "b"]), ["b", "a"]);
        assert_eq!(order(2, ["a", "b"]), ["a", "b"]);
    }
}
