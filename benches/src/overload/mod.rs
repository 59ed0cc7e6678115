//! Overload: open loops at multiples of the capacity.
//!
//! The capacity of a setting's workers is measured first, in a closed loop with plenty of calls in
//! flight, unless it is known from an earlier setting with the same workers. Then each load runs
//! with callers and workers of its own.

pub(crate) mod cli;
mod load;
mod method;
mod plan;
mod plot;
mod quick;
mod record;
mod recovery;
mod runner;
mod systems;
mod table;

use std::fs;
use std::path::Path;
use std::time::Duration;

use plan::{Case, Loads};
pub(crate) use quick::run as run_quick;
use runner::{Outcome, Runner, StepTimes};

use crate::report::json;

const STEP_TIMES: StepTimes = StepTimes {
    before: Duration::from_secs(4),
    overload: Duration::from_secs(6),
    after: Duration::from_secs(8),
};

/// Runs the cases and prints the figures of each load when it ends. At the end, saves all figures
/// and a chart in the folder `out`.
async fn run(broker: &str, cases: &[Case], window: Duration, out: &Path) -> anyhow::Result<()> {
    let mut runner = Runner::new(broker, window);
    let mut outcomes = Vec::new();
    for case in cases {
        outcomes.push(run_case(&mut runner, case).await?);
    }
    write(&outcomes, out)
}

async fn run_case(runner: &mut Runner<'_>, case: &Case) -> anyhow::Result<Outcome> {
    let setting = case.setting;
    let capacity = runner.capacity(&setting).await?;
    println!("{}", table::heading(&setting, capacity));
    let mut loads = Vec::new();
    let mut step = None;
    match &case.loads {
        Loads::Steady(factors) => {
            for &factor in factors {
                let load = runner.steady(&setting, factor, capacity).await?;
                println!("{}", table::row(&load, capacity));
                loads.push(load);
            }
        }
        Loads::Step => {
            let ran = runner.step(&setting, STEP_TIMES, capacity).await?;
            println!("{}", table::step(&ran, capacity));
            step = Some(ran);
        }
    }
    Ok(Outcome {
        setting,
        nominal_capacity: setting.nominal_capacity(),
        capacity,
        loads,
        step,
    })
}

fn write(outcomes: &[Outcome], out: &Path) -> anyhow::Result<()> {
    let path = out.join("overload.json");
    json::save(&path, &outcomes)?;
    if let Some(plot) = plot::render(outcomes)? {
        fs::write(out.join("overload.svg"), plot)?;
    }
    println!("\nall figures: {}", path.display());
    Ok(())
}
