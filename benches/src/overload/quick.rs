//! The tracked ratios under overload.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::plan::{BASE, DEADLINE, Setting};
use super::record::Quantiles;
use super::runner::{Load, Runner, StepTimes};
use super::table;
use crate::report::ratios::{Ratio, Ratios};

/// How long most loads are measured.
const WINDOW: Duration = Duration::from_secs(2);

/// Long enough for hundreds of calls.
const UNLOADED_WINDOW: Duration = Duration::from_secs(5);

/// A load at which no call waits.
const UNLOADED: f64 = 0.2;

const STEP_TIMES: StepTimes = StepTimes {
    before: Duration::from_secs(3),
    overload: Duration::from_secs(4),
    after: Duration::from_secs(5),
};

/// Up to this load, the settings of a group run at the same time.
const MODERATE: f64 = 3.0;

/// The loads at which all settings run.
const FACTORS: [f64; 3] = [1.5, 3.0, 10.0];

/// Returns the settings, in groups that run at the same time at moderate loads, which leave the
/// machine mostly idle.
fn groups() -> [Vec<Setting>; 3] {
    let callers = Setting { callers: 100, ..BASE };
    let workers = Setting { workers: 4, ..BASE };
    let unbatched = Setting {
        batching: false,
        ..BASE
    };
    let wrong_clocks = Setting {
        callers: 2,
        wrong_clocks: true,
        ..BASE
    };
    [vec![BASE, unbatched], vec![callers, wrong_clocks], vec![workers]]
}

/// The figures of a load, and the capacity of its setting.
struct Measured {
    load: Load,
    capacity: f64,
}

/// Runs everything that the ratios need, and adds them.
pub(crate) async fn run(broker: &str, all_ratios: &mut Ratios) -> anyhow::Result<()> {
    let mut runner = Runner::new(broker, WINDOW);
    let mut measured = Vec::new();
    for factor in FACTORS {
        for group in groups() {
            measured.extend(run_group(&mut runner, &group, factor).await?);
        }
    }
    let important = important(&mut runner).await?;
    let capacity = runner.capacity(&BASE).await?;
    let step = runner.step(&BASE, STEP_TIMES, capacity).await?;
    eprintln!("{}", table::step(&step, capacity));

    for (name, ratio) in ratios(&measured) {
        all_ratios.add(name, ratio);
    }
    let recovery = step.recovery.map_or(f64::INFINITY, |time| time.as_secs_f64());
    all_ratios.add("overload-important-3", Ratio::of(&[important]));
    all_ratios.add("overload-recovery", Ratio::of(&[recovery]));
    Ok(())
}

/// Runs a load with each setting of a group: at the same time if the load is at most [`MODERATE`],
/// otherwise one after the other. The capacities are measured before.
async fn run_group(runner: &mut Runner<'_>, group: &[Setting], factor: f64) -> anyhow::Result<Vec<Measured>> {
    let mut capacities = Vec::new();
    for setting in group {
        capacities.push(runner.capacity(setting).await?);
    }
    let runner = &*runner;
    let runs = group
        .iter()
        .zip(&capacities)
        .map(|(setting, &capacity)| async move {
            let load = runner.steady(setting, factor, capacity).await?;
            eprintln!(
                "{}\n{}",
                table::heading(setting, capacity),
                table::row(&load, capacity)
            );
            anyhow::Ok(Measured { load, capacity })
        });
    if factor > MODERATE {
        let mut measured = Vec::new();
        for run in runs {
            measured.push(run.await?);
        }
        return Ok(measured);
    }
    try_join_all(runs).await
}

/// Returns the p99 of important calls at three times the capacity ÷ the p99 of all answered calls
/// at [`UNLOADED`], where no call waits and important calls alone would be too few.
async fn important(runner: &mut Runner<'_>) -> anyhow::Result<f64> {
    let setting = Setting {
        important: true,
        ..BASE
    };
    let capacity = runner.capacity(&setting).await?;
    let unloaded = runner.steady_for(&setting, UNLOADED, capacity, UNLOADED_WINDOW);
    let unloaded = shown(unloaded.await?, &setting, capacity);
    let loaded = runner.steady(&setting, 3.0, capacity);
    let loaded = shown(loaded.await?, &setting, capacity);
    let p99 = |latency: Option<Quantiles>| seconds(latency.map(|it| it.p99));
    Ok(p99(loaded.summary.important) / p99(unloaded.summary.latency))
}

/// Prints the figures of a load, and returns them.
fn shown(load: Load, setting: &Setting, capacity: f64) -> Load {
    eprintln!(
        "{}\n{}",
        table::heading(setting, capacity),
        table::row(&load, capacity)
    );
    load
}

/// Returns a latency in seconds, or infinity if there is none.
fn seconds(latency: Option<Duration>) -> f64 {
    latency.map_or(f64::INFINITY, |latency| latency.as_secs_f64())
}

/// Returns the ratios of constant loads, by name. They have one round: `median` is the figure of
/// the worst setting, and `min` and `max` are the least and the greatest of all settings.
fn ratios(measured: &[Measured]) -> Vec<(String, Ratio)> {
    let of = |factor: f64, figure: &dyn Fn(&Measured) -> f64| -> Vec<f64> {
        let at_factor = measured
            .iter()
            .filter(|it| (it.load.factor - factor).abs() < f64::EPSILON);
        at_factor.map(figure).collect()
    };
    let goodput = |it: &Measured| it.load.summary.goodput / it.capacity;
    let latency = |it: &Measured, quantile: fn(Quantiles) -> Duration| {
        seconds(it.load.summary.latency.map(quantile)) / DEADLINE.as_secs_f64()
    };
    let mut ratios = Vec::new();
    for factor in FACTORS {
        let ratio = Ratio::of(&of(factor, &goodput));
        let worst = Ratio {
            median: ratio.min,
            ..ratio
        };
        ratios.push((format!("overload-goodput-{factor}"), worst));
    }
    for (name, figures) in [
        ("overload-wasted-3", of(3.0, &|it| it.load.summary.wasted)),
        ("overload-p50-3", of(3.0, &|it| latency(it, |it| it.p50))),
        ("overload-p99-3", of(3.0, &|it| latency(it, |it| it.p99))),
    ] {
        let ratio = Ratio::of(&figures);
        let worst = Ratio {
            median: ratio.max,
            ..ratio
        };
        ratios.push((name.to_owned(), worst));
    }
    ratios
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::overload::record::Summary;

    fn measured(factor: f64, goodput: f64, wasted: f64, p99: Option<Duration>) -> Measured {
        let load = Load {
            factor,
            summary: Summary {
                offered: factor * 100.0,
                goodput,
                latency: p99.map(|p99| Quantiles { p50: p99 / 2, p99 }),
                important: None,
                modest: None,
                ran: 100.0,
                wasted,
                refused: BTreeMap::new(),
                timed_out: 0.0,
                failed: BTreeMap::new(),
            },
        };
        Measured {
            load,
            capacity: 100.0,
        }
    }

    #[test]
    fn a_ratio_begins_with_the_worst_setting() {
        let p99 = Some(Duration::from_millis(800));
        let ratios = ratios(&[
            measured(1.5, 99.0, 0.0, p99),
            measured(3.0, 95.0, 0.01, p99),
            measured(3.0, 90.0, 0.25, p99),
            measured(10.0, 0.0, 1.0, None),
        ]);
        let lines: Vec<_> = ratios.iter().map(|(name, ratio)| ratio.line(name)).collect();
        assert_eq!(
            lines,
            [
                "ratio overload-goodput-1.5 0.990 0.990 0.990",
                "ratio overload-goodput-3 0.900 0.900 0.950",
                "ratio overload-goodput-10 0.000 0.000 0.000",
                "ratio overload-wasted-3 0.250 0.010 0.250",
                "ratio overload-p50-3 0.400 0.400 0.400",
                "ratio overload-p99-3 0.800 0.800 0.800",
            ]
        );
    }
}
