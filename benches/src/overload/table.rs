//! The figures as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::plan::Setting;
use super::record::Quantiles;
use super::runner::{Load, Step};

/// Returns a line for a setting and its capacity, and one with the names of the columns.
pub(crate) fn heading(setting: &Setting, capacity: f64) -> String {
    let names = [
        "load", "offered", "goodput", "÷ cap", "ran", "wasted", "p50 ms", "p99 ms", "refused", "timeouts",
    ];
    let names = names
        .iter()
        .fold(String::new(), |line, name| format!("{line}{name:>10}"));
    format!(
        "\n{}: {setting}; capacity {capacity:.0} calls/s, nominal {:.0}\n{names}",
        setting.system.name(),
        setting.nominal_capacity(),
    )
}

/// Returns a line for a load.
pub(crate) fn row(load: &Load, capacity: f64) -> String {
    let Load { factor, summary } = load;
    let quantile = |quantile: fn(&Quantiles) -> Duration| match &summary.latency {
        Some(latency) => millis(quantile(latency)),
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
        quantile(|it| it.p50),
        quantile(|it| it.p99),
        summary.timed_out,
    );
    if let Some(important) = &summary.important {
        let _ = write!(line, "  important: p99 {} ms", millis(important.p99));
    }
    if let Some(share) = summary.modest {
        let _ = write!(line, "  modest callers: {:.1} % answered", share * 100.0);
    }
    reasons(&mut line, "refused", &summary.refused);
    reasons(&mut line, "failed", &summary.failed);
    line
}

/// Returns the lines for a step.
pub(crate) fn step(step: &Step, capacity: f64) -> String {
    let rows = [&step.before, &step.overload, &step.after].map(|load| row(load, capacity));
    let recovery = match step.recovery {
        Some(time) => format!(
            "as quick as before {:.1} s after the overload",
            time.as_secs_f64()
        ),
        None => "not as quick as before until the end".to_owned(),
    };
    format!("{}\n{recovery}", rows.join("\n"))
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// Appends the rate of each reason.
fn reasons(line: &mut String, what: &str, rates: &BTreeMap<String, f64>) {
    for (why, rate) in rates {
        let _ = write!(line, "  {what}: {why} {rate:.0}/s");
    }
}
