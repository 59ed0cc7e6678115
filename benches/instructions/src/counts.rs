//! The recorded counts, and how counts differ from them. Pure: no I/O.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};

use crate::environment::Environment;

/// How far a count may be from the recorded one, in percent.
const TOLERANCE: u64 = 2;

/// The same if the compiler or the C library is not that of the recorded counts.
const TOLERANCE_ELSEWHERE: u64 = 10;

const RECORD: &str = "WRITE_COUNTS=1 cargo run --profile counts -p rpc-instructions";

const COMMENT: &str = "\
# Instructions of a thousand runs of each path of benches/instructions/src/paths.rs on x86_64.
# To record them anew:
";

/// The number of instructions of each path's counted runs together, by the path's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) environment: Environment,
    pub(crate) paths: BTreeMap<String, u64>,
}

impl Counts {
    /// Reads what [`Display`](fmt::Display) writes.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (mut rustc, mut libc, mut paths) = (None, None, BTreeMap::new());
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(": ")
                .with_context(|| format!("no value: {line}"))?;
            match name {
                "rustc" => rustc = Some(value.to_owned()),
                "libc" => libc = Some(value.to_owned()),
                path => {
                    let count = value.parse().ok().filter(|count| *count > 0);
                    let count = count.with_context(|| format!("no count: {line}"))?;
                    paths.insert(path.to_owned(), count);
                }
            }
        }
        let (Some(rustc), Some(libc)) = (rustc, libc) else {
            bail!("the compiler or the C library is missing");
        };
        Ok(Self {
            environment: Environment { rustc, libc },
            paths,
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{COMMENT}#   {RECORD}")?;
        writeln!(f, "rustc: {}", self.environment.rustc)?;
        writeln!(f, "libc: {}\n", self.environment.libc)?;
        for (path, count) in &self.paths {
            writeln!(f, "{path}: {count}")?;
        }
        Ok(())
    }
}

/// Counts beside the recorded ones.
pub(crate) struct Comparison<'a> {
    recorded_with: &'a Environment,
    counted_with: &'a Environment,
    paths: BTreeMap<&'a str, Pair>,
}

/// The counts of one path: the recorded one, if there is one, and the one of this run, if the path
/// still exists.
#[derive(Clone, Copy, Default)]
struct Pair {
    recorded: Option<u64>,
    counted: Option<u64>,
}

impl Pair {
    /// By how many percent the count has changed: below zero if there are fewer instructions now.
    /// `None` if one of the counts is missing.
    fn change(self) -> Option<f64> {
        let (recorded, counted) = (self.recorded? as f64, self.counted? as f64);
        Some((counted / recorded - 1.0) * 100.0)
    }

    /// Whether the count differs by at most this many percent from the recorded one. `false` if one
    /// of them is missing.
    fn is_within(self, percent: u64) -> bool {
        let (Some(recorded), Some(counted)) = (self.recorded, self.counted) else {
            return false;
        };
        u128::from(recorded.abs_diff(counted)) * 100 <= u128::from(recorded) * u128::from(percent)
    }
}

pub(crate) fn compare<'a>(recorded: &'a Counts, counted: &'a Counts) -> Comparison<'a> {
    let mut paths = BTreeMap::<_, Pair>::new();
    for (path, count) in &recorded.paths {
        paths.entry(path.as_str()).or_default().recorded = Some(*count);
    }
    for (path, count) in &counted.paths {
        paths.entry(path.as_str()).or_default().counted = Some(*count);
    }
    Comparison {
        recorded_with: &recorded.environment,
        counted_with: &counted.environment,
        paths,
    }
}

impl Comparison<'_> {
    pub(crate) fn is_within_tolerance(&self) -> bool {
        let tolerance = self.tolerance();
        self.paths.values().all(|pair| pair.is_within(tolerance))
    }

    fn tolerance(&self) -> u64 {
        match self.recorded_with == self.counted_with {
            true => TOLERANCE,
            false => TOLERANCE_ELSEWHERE,
        }
    }
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tolerance = self.tolerance();
        writeln!(
            f,
            "{:<24} {:>12} {:>12} {:>9}",
            "path", "recorded", "counted", "change"
        )?;
        for (path, pair) in &self.paths {
            let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
            let change = pair
                .change()
                .map_or("-".to_owned(), |change| format!("{change:+.2} %"));
            let (recorded, counted) = (count(pair.recorded), count(pair.counted));
            write!(f, "{path:<24} {recorded:>12} {counted:>12} {change:>9}")?;
            match pair.is_within(tolerance) {
                true => writeln!(f)?,
                false => writeln!(f, "  FAILED")?,
            }
        }
        if self.recorded_with != self.counted_with {
            writeln!(
                f,
                "recorded with {}, counted with {}",
                self.recorded_with, self.counted_with
            )?;
            writeln!(f, "so the tolerance is {tolerance} % instead of {TOLERANCE} %")?;
        }
        if self.is_within_tolerance() {
            writeln!(f, "each count is within {tolerance} % of the recorded one")
        } else {
            writeln!(
                f,
                "a count differs by more than {tolerance} %, or was not recorded"
            )?;
            writeln!(f, "if that is intended, record the counts anew and say why:")?;
            writeln!(f, "    {RECORD}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rustc: &str, paths: &[(&str, u64)]) -> Counts {
        Counts {
            environment: Environment {
                rustc: rustc.to_owned(),
                libc: "glibc 2.36".to_owned(),
            },
            paths: paths
                .iter()
                .map(|(path, count)| ((*path).to_owned(), *count))
                .collect(),
        }
    }

    #[test]
    fn counts_are_read_as_they_were_written() {
        let counts = counts("rustc 1.95.0", &[("publish", 1200), ("receive", 7)]);
        assert_eq!(Counts::parse(&counts.to_string()).unwrap(), counts);
    }

    #[test]
    fn invalid_counts_are_an_error() {
        let valid = "rustc: 1\nlibc: 2\npath: 3\n";
        assert!(Counts::parse(valid).is_ok());
        for (from, to) in [
            ("rustc: 1\n", ""),
            ("libc: 2\n", ""),
            ("path: 3", "path"),
            ("path: 3", "path: many"),
            ("path: 3", "path: 0"),
        ] {
            assert!(Counts::parse(&valid.replace(from, to)).is_err(), "{to}");
        }
    }

    fn is_within_tolerance(rustc: &str, counted: &[(&str, u64)]) -> bool {
        let recorded = counts("old", &[("path", 1000)]);
        compare(&recorded, &counts(rustc, counted)).is_within_tolerance()
    }

    #[test]
    fn two_percent_more_or_less_are_within_the_tolerance() {
        for (count, expected) in [(1020, true), (1021, false), (980, true), (979, false)] {
            assert_eq!(
                is_within_tolerance("old", &[("path", count)]),
                expected,
                "{count}"
            );
        }
    }

    #[test]
    fn with_another_compiler_ten_percent_are() {
        for (count, expected) in [(1100, true), (1101, false), (900, true), (899, false)] {
            assert_eq!(
                is_within_tolerance("new", &[("path", count)]),
                expected,
                "{count}"
            );
        }
        let (recorded, counted) = (counts("old", &[("path", 1000)]), counts("new", &[("path", 1050)]));
        let report = compare(&recorded, &counted).to_string();
        assert!(report.contains("recorded with old and glibc 2.36"), "{report}");
    }

    #[test]
    fn a_path_that_is_new_or_gone_has_to_be_recorded() {
        assert!(!is_within_tolerance("old", &[("path", 1000), ("new", 1)]));
        assert!(!is_within_tolerance("old", &[]));
    }

    #[test]
    fn a_report_names_what_failed_and_how_to_record() {
        let recorded = counts("same", &[("publish", 1000), ("receive", 500)]);
        let counted = counts("same", &[("publish", 1500), ("receive", 500)]);
        let report = compare(&recorded, &counted).to_string();
        let failed: Vec<_> = report.lines().filter(|line| line.ends_with("FAILED")).collect();
        let words: Vec<_> = failed[0].split_whitespace().collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(words, ["publish", "1000", "1500", "+50.00", "%", "FAILED"]);
        assert!(report.contains(RECORD), "{report}");
    }
}
