//! The medians as a table.

use std::fmt::Write as _;

use super::Cell;

/// Renders the cells in their order. CPU time, that of the broker in its own column, and
/// allocations are for each call.
pub(crate) fn render(cells: &[Cell]) -> String {
    let mut table = String::new();
    let mut scenario = None;
    for cell in cells {
        if scenario != Some(cell.scenario) {
            scenario = Some(cell.scenario);
            let _ = write!(table, "\n{}\n{}\n", cell.scenario, header());
        }
        let it = cell.median();
        let _ = writeln!(
            table,
            "{:<24}{:>10.0}{:>10.0}{:>10.0}{:>10.0}{:>10.1}{:>10.1}{:>10.1}{:>10.1}",
            cell.contender.name(),
            it.calls_per_second,
            it.p50_us,
            it.p99_us,
            it.p999_us,
            it.own_cpu_us_per_call,
            it.broker_cpu_us_per_call,
            it.allocations_per_call,
            it.resident_mib,
        );
    }
    table
}

fn header() -> String {
    let columns = [
        "calls/s",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "CPU µs",
        "broker",
        "allocs",
        "RSS MiB",
    ];
    columns.iter().fold(format!("{:<24}", ""), |line, column| {
        format!("{line}{column:>10}")
    })
}
