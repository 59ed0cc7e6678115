//! Goodput over offered load, both in multiples of the capacity.

use super::Outcome;
use super::plan::{BASE, Setting, UNPROTECTED};
use crate::report::chart::{Axis, Chart};

/// The plot of the base settings; `None` if none ran at two loads.
pub(super) fn render(outcomes: &[Outcome]) -> Option<String> {
    let lines: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.loads.len() > 1)
        .filter_map(|outcome| {
            let points = outcome.loads.iter().map(|load| {
                let goodput = load.summary.goodput / outcome.capacity;
                (load.factor, goodput)
            });
            Some((line_name(&outcome.setting)?, points.collect::<Vec<_>>()))
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

/// What the line of the base point of a system is called; `None` for other settings.
fn line_name(setting: &Setting) -> Option<&'static str> {
    let system = setting.system;
    if *setting == UNPROTECTED {
        Some("without protection")
    } else {
        (*setting == Setting { system, ..BASE }).then_some(system.name())
    }
}
