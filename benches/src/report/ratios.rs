//! The ratios. Most are from two contenders that ran directly after each other, round by round.

use std::fmt::{self, Write as _};
use std::path::Path;

use serde::Serialize;

use super::json;
use crate::measure::median;

/// What a ratio should reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    /// Returns whether a figure reaches this.
    fn is_reached(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::AtLeast(bound) => format!("≥ {bound}"),
            Self::AtMost(bound) => format!("≤ {bound}"),
        };
        f.pad(&text)
    }
}

/// The targets, by the name of their ratio. docs/performance.md says what each ratio means.
const TARGETS: [(&str, Target); 32] = {
    use Target::{AtLeast, AtMost};
    [
        ("latency-1", AtMost(0.8)),
        ("throughput-8", AtLeast(1.5)),
        ("throughput-64", AtLeast(4.0)),
        ("throughput-1000", AtLeast(15.0)),
        ("vs-tcp-64", AtLeast(0.7)),
        ("vs-tcp-1000", AtLeast(1.1)),
        ("vs-grpc-64", AtLeast(3.5)),
        ("vs-grpc-1000", AtLeast(8.0)),
        ("unbatched-64", AtLeast(1.25)),
        ("unbatched-floor-64", AtLeast(0.65)),
        ("fair-throughput", AtLeast(0.98)),
        ("fair-p99", AtMost(1.05)),
        ("large-64k", AtLeast(1.2)),
        ("growth-100k", AtMost(1.15)),
        ("memory-100k", AtMost(960.0)),
        ("observed-1000", AtLeast(0.9)),
        ("jobs-publish", AtLeast(5.0)),
        ("jobs-done", AtLeast(5.0)),
        ("cancel-stop", AtMost(2.0)),
        ("stream-items", AtLeast(20.0)),
        ("stream-vs-grpc", AtLeast(0.5)),
        ("stream-64-vs-grpc", AtLeast(0.5)),
        ("stream-large", AtLeast(0.95)),
        ("stream-first", AtMost(1.2)),
        ("overload-goodput-1.5", AtLeast(0.9)),
        ("overload-goodput-3", AtLeast(0.9)),
        ("overload-goodput-10", AtLeast(0.8)),
        ("overload-wasted-3", AtMost(0.02)),
        ("overload-p50-3", AtMost(0.6)),
        ("overload-p99-3", AtMost(1.0)),
        ("overload-important-3", AtMost(2.0)),
        ("overload-recovery", AtMost(2.0)),
    ]
};

/// Returns the target of a ratio, or `None` if it has none.
pub(crate) fn target(name: &str) -> Option<Target> {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, target)| *target)
}

/// A ratio that was measured.
#[derive(Debug, Serialize)]
struct Named {
    name: String,
    target: Option<Target>,
    #[serde(flatten)]
    ratio: Ratio,
}

/// The ratios of a run.
#[derive(Debug, Default)]
pub(crate) struct Ratios(Vec<Named>);

impl Ratios {
    /// Adds a ratio, and prints its line for other programs.
    pub(crate) fn add(&mut self, name: impl Into<String>, ratio: Ratio) {
        let name = name.into();
        println!("{}", ratio.line(&name));
        let target = target(&name);
        self.0.push(Named { name, target, ratio });
    }

    /// Prints the ratios beside their targets, and writes them to `ratios.json` in this folder,
    /// unless there are none.
    pub(crate) fn report(&self, out: &Path) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        println!("{}", self.table());
        let file = out.join("ratios.json");
        json::save(&file, &self.0)?;
        println!("all ratios: {}", file.display());
        Ok(())
    }

    fn table(&self) -> String {
        let mut table = format!(
            "\n{:<24}{:>10}{:>10}{:>10}{:>10}\n",
            "", "target", "median", "min", "max"
        );
        for Named { name, target, ratio } in &self.0 {
            let Ratio { median, min, max } = ratio;
            let wanted = target.map(|it| it.to_string()).unwrap_or_default();
            let _ = write!(
                table,
                "{name:<24}{wanted:>10}{median:>10.3}{min:>10.3}{max:>10.3}"
            );
            let missed = target.is_some_and(|target| !target.is_reached(*median));
            table.push_str(if missed { "   missed\n" } else { "\n" });
        }
        table
    }
}

/// A ratio, or another figure, over several rounds. Those of constant overloads are over several
/// settings instead, and `median` is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Ratio {
    /// Summarizes the ratios of all rounds.
    pub(crate) fn of(rounds: &[f64]) -> Self {
        Self {
            median: median(rounds.to_vec()),
            min: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            max: rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Returns the line `ratio NAME MEDIAN MIN MAX`, for other programs.
    pub(crate) fn line(&self, name: &str) -> String {
        let Self { median, min, max } = self;
        format!("ratio {name} {median:.3} {min:.3} {max:.3}")
    }
}

/// Swaps a pair in every second round. The second contender finds a warmer machine, so they take
/// turns. Called again with the swapped pair, it restores the pair.
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
    fn a_table_shows_which_targets_are_missed() {
        let mut ratios = Ratios::default();
        ratios.add("latency-1", Ratio::of(&[0.75]));
        ratios.add("vs-grpc-64", Ratio::of(&[3.0]));
        ratios.add("stream-1k", Ratio::of(&[9.0]));
        let table = ratios.table();
        let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(row("latency-1").contains("≤ 0.8") && !row("latency-1").ends_with("missed"));
        assert!(row("vs-grpc-64").contains("≥ 3.5") && row("vs-grpc-64").ends_with("missed"));
        assert!(row("stream-1k").ends_with("9.000"));
    }

    /// Reads a target as the documentation writes it: `≥ 0.9`, or nothing.
    fn documented(target: &str) -> Option<Target> {
        let (sign, bound) = target.split_once(' ')?;
        let bound = bound.parse().unwrap();
        match sign {
            "≥" => Some(Target::AtLeast(bound)),
            "≤" => Some(Target::AtMost(bound)),
            _ => panic!("{target} is no target"),
        }
    }

    #[test]
    fn the_documentation_has_the_same_targets() {
        let text = include_str!("../../../docs/performance.md");
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(rows.len() > 20, "the documentation has tables of ratios");
        for row in rows {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let name = cells[1].trim_matches('`');
            assert_eq!(documented(cells[3]), target(name), "{name}");
        }
    }

    #[test]
    fn pairs_take_turns() {
        assert_eq!(order(0, ["a", "b"]), ["a", "b"]);
        assert_eq!(order(1, ["a", "b"]), ["b", "a"]);
        assert_eq!(order(2, ["a", "b"]), ["a", "b"]);
    }
}
