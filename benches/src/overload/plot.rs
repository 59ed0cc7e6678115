//! The chart of goodput over offered load, both in multiples of the capacity.

use plotters::coord::combinators::{BindKeyPoints as _, IntoLogRange as _};

use super::plan::{BASE, DEADLINE, Setting, UNPROTECTED};
use super::runner::Outcome;
use crate::report::chart;

/// Draws the chart of the base settings and of [`UNPROTECTED`]. Returns `None` if none of them ran
/// at two constant loads.
pub(super) fn render(outcomes: &[Outcome]) -> anyhow::Result<Option<String>> {
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
    let Some((_, longest)) = lines.iter().max_by_key(|(_, points)| points.len()) else {
        return Ok(None);
    };
    let factors: Vec<_> = longest.iter().map(|(factor, _)| *factor).collect();
    let low = factors.iter().copied().fold(f64::INFINITY, f64::min);
    let high = factors.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // The axis of goodput ends a little above the capacity, if no goodput is higher.
    let highest = lines
        .iter()
        .flat_map(|(_, points)| points)
        .fold(1.1, |highest, (_, goodput)| goodput.max(highest));
    let title = format!(
        "calls answered in time ÷ capacity, methods of {:?}, deadline {DEADLINE:?}",
        BASE.method
    );
    let x = (low..high).log_scale().with_key_points(factors);
    chart::render(&title, "calls offered ÷ capacity", x, 0.0..highest, &lines).map(Some)
}

/// Returns the name of a setting's line, or `None` if the chart leaves the setting out.
fn line_name(setting: &Setting) -> Option<&'static str> {
    let system = setting.system;
    if *setting == UNPROTECTED {
        Some("without protection")
    } else {
        (*setting == Setting { system, ..BASE }).then_some(system.name())
    }
}
