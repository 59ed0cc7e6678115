//! The medians as a table.

use std::fmt::Write as _;

use super::cell::{Cell, Place};
use crate::measure::Measured;

const COLUMNS: [&str; 7] = [
    "calls/s",
    "p50 µs",
    "p99 µs",
    "caller µs",
    "worker µs",
    "both µs",
    "broker µs",
];

/// Renders the cells in their order. The columns of caller, worker, both and broker are processor
/// time for each call.
pub(super) fn render(cells: &[Cell]) -> String {
    let mut table = String::new();
    let mut scenario = None;
    for cell in cells {
        if scenario != Some(cell.scenario) {
            scenario = Some(cell.scenario);
            let _ = write!(table, "\n{}\n{:<38}", cell.scenario, "");
            COLUMNS.iter().for_each(|column| {
                let _ = write!(table, "{column:>10}");
            });
            table.push('\n');
        }
        table.push_str(&row(cell));
    }
    table
}

fn row(cell: &Cell) -> String {
    let it = Measured::median(&cell.rounds);
    let place = match cell.place {
        Place::TwoProcesses => "two processes",
        Place::OneProcess => "one process",
    };
    // In one process, nothing tells the caller's time from the worker's.
    let [caller, worker] = match it.worker_cpu_us_per_call {
        Some(worker) => [it.own_cpu_us_per_call, worker].map(|time| format!("{time:.1}")),
        None => [const { String::new() }; 2],
    };
    format!(
        "{:<24}{place:<14}{:>10.0}{:>10.0}{:>10.0}{caller:>10}{worker:>10}{:>10.1}{:>10.1}\n",
        cell.contender.name(),
        it.calls_per_second,
        it.p50_us,
        it.p99_us,
        it.own_cpu_us_per_call + it.worker_cpu_us_per_call.unwrap_or(0.0),
        it.broker_cpu_us_per_call,
    )
}
