//! The figures, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Outcome;
use super::record::{Quantiles, Summary};

/// A line for a setting and its capacity.
pub(crate) fn heading(outcome: &Outcome) -> String {
    let setting = &outcome.setting;
    format!(
        "\n{}: {setting}; capacity {:.0} calls/s, nominal {:.0}\n{}",
        setting.system.name(),
        outcome.capacity,
        setting.nominal_capacity(),
        columns()
    )
}

fn columns() -> String {
    let names = [
        "load", "offered", "goodput", "÷ cap", "ran", "wasted", "p50 ms", "p99 ms", "refused", "timeouts",
    ];
    names
        .iter()
        .fold(String::new(), |line, name| format!("{line}{name:>10}"))
}

/// A line for a load.
pub(crate) fn row(factor: f64, summary: &Summary, capacity: f64) -> String {
    let millis = |quantile: fn(&Quantiles) -> std::time::Duration| match &summary.latency {
        Some(latency) => format!("{:.1}", quantile(latency).as_secs_f64() * 1000.0),
        None => "-".to_owned(),
    };
    let refused = summary.refused.values().fold(0.0, |sum, rate| sum + rate);
    let mut line = format!(
        "{factor:>10}{:>10.0}{:>10.0}{:>10.3}{:>10.0}{:>10.3}{:>10}{:>10}{refused:>10.0}{:>10.0}",
        summary.offered,
        summary.goodput,
        summary.goodput / capacity,
        summary.ran,
        summary.wasted,
        millis(|it| it.p50),
        millis(|it| it.p99),
        summary.timed_out,
    );
    if let Some(important) = &summary.important {
        let _ = write!(
            line,
            "  important p99 {:.1} ms",
            important.p99.as_secs_f64() * 1000.0
        );
    }
    reasons(&mut line, "refused", &summary.refused);
    reasons(&mut line, "failed", &summary.failed);
    line
}

fn reasons(line: &mut String, what: &str, rates: &BTreeMap<String, f64>) {
    for (why, rate) in rates {
        let _ = write!(line, "  {what}: {why} {rate:.0}/s");
    }
}
