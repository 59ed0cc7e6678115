//! The chart of throughput over calls in flight, both on logarithmic scales.

use plotters::coord::combinators::IntoLogRange as _;

use super::Cell;
use super::chart::{self, Line, decades};
use crate::scenario::{BASE, Scenario};

/// Draws the chart. Returns `None` if the points do not differ in both coordinates, for example
/// because all contenders ran with the same number of calls in flight.
pub(crate) fn render(cells: &[Cell]) -> anyhow::Result<Option<String>> {
    let lines = lines(cells);
    let points = || lines.iter().flat_map(|(_, points)| points);
    let (Some(x), Some(y)) = (
        decades(points().map(|point| point.0)),
        decades(points().map(|point| point.1)),
    ) else {
        return Ok(None);
    };
    let title = format!("calls a second, {} B, one worker", BASE.payload);
    chart::render(&title, "calls in flight", x.log_scale(), y.log_scale(), &lines).map(Some)
}

/// Returns calls in flight and calls a second by contender, for scenarios that otherwise equal the
/// base.
fn lines(cells: &[Cell]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
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
