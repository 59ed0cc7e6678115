//! Throughput over calls in flight, both on logarithmic scales.

use super::Cell;
use super::chart::{Axis, Chart};
use crate::scenario::{BASE, Scenario};

/// The plot; nothing where no contender ran at two numbers of calls in flight.
pub(crate) fn render(cells: &[Cell]) -> Option<String> {
    let lines = lines(cells);
    let points = || lines.iter().flat_map(|(_, points)| points);
    let chart = Chart {
        title: format!("calls a second, {} B, one worker", BASE.payload),
        x_title: "calls in flight".to_owned(),
        x: Axis::decades(points().map(|point| point.0))?,
        y: Axis::decades(points().map(|point| point.1))?,
        lines,
    };
    Some(chart.render())
}

/// In flight and calls a second, by contender, where all else is the base.
fn lines(cells: &[Cell]) -> Vec<(&'static str, Vec<(f64, f64)>)> {
    let mut lines: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for cell in cells {
        let in_flight = cell.scenario.in_flight;
        if cell.scenario != (Scenario { in_flight, ..BASE }) {
            continue;
        }
        #[allow(clippy::cast_precision_loss)]
        let point = (in_flight as f64, cell.median().calls_per_second);
        let name = cell.contender.name();
        match lines.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(point),
            None => lines.push((name, vec![point])),
        }
    }
    lines
}
