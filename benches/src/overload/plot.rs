//! Goodput over offered load, both in multiples of the capacity.

use super::Outcome;
use super::plan::{BASE, Setting};
use crate::report::chart::{Axis, Chart};

/// The plot of the base settings; `None` if none ran at two loads.
pub(super) fn render(outcomes: &[Outcome]) -> Option<String> {
    let lines: Vec<_> = outcomes
        .iter()
        .filter(|outcome| is_base(&outcome.setting) && outcome.loads.len() > 1)
        .map(|outcome| {
            let points = outcome.loads.iter().map(|load| {
                let goodput = load.summary.goodput / outcome.capacity;
                (load.factor, goodput)
            });
            (outcome.setting.system.name(), points.collect::<Vec<_>>())
        })
        .collect();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let factors: Vec<_> = lines
        .iter()
        .max_by_key(|(_, points)| points.len())?
        .1
        .iter()
        .map(|(factor, _)| *factor)
        .collect();
    let highest = points().map(|(_, goodput)| *goodput).fold(1.0, f64::max);
    let chart = Chart {
        title: format!(
            "calls answered in time ÷ capacity, methods of {:?}, deadline {:?}",
            BASE.method,
            super::plan::DEADLINE
        ),
        x_title: "calls offered ÷ capacity".to_owned(),
        x: Axis::logarithmic(factors)?,
        y: Axis::linear(0.0, highest.max(1.1), vec![0.0, 0.25, 0.5, 0.75, 1.0])?,
        lines,
    };
    Some(chart.render())
}

/// Whether it is the base point, of any system.
fn is_base(setting: &Setting) -> bool {
    let system = setting.system;
    *setting == Setting { system, ..BASE }
}
