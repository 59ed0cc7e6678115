//! The options of `--overload`.

use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum as _};

use super::plan::{Arrivals, BASE, Case, FACTORS, Loads, Setting, System, plan};

/// Values replace those of the base point: one caller, one worker with 8 places, methods of 20 ms.
#[derive(Debug, Args)]
#[command(next_help_heading = "Overload")]
pub(crate) struct Overload {
    /// Offers more calls than can be answered, in an open loop: how many are answered in time, and
    /// how many run for callers that have given up. Without further options, it varies one axis at
    /// a time, which takes about ten minutes; with --quick, it measures only the tracked ratios
    #[arg(long, conflicts_with_all = ["contender", "in_flight", "payload", "handler", "open_loop"])]
    overload: bool,

    /// The systems to measure; all by default
    #[arg(long, value_enum, value_delimiter = ',', requires = "overload")]
    system: Vec<System>,

    /// Calls offered ÷ capacity.
    #[arg(long, value_delimiter = ',', requires = "overload", value_parser = number_in_range)]
    factor: Vec<f64>,

    /// Milliseconds that a method takes
    #[arg(long, value_name = "MS", requires = "overload", value_parser = number_in_range)]
    method: Option<f64>,

    /// Callers, each with connections of its own.
    #[arg(long, requires = "overload", value_parser = clap::value_parser!(u16).range(1..))]
    callers: Option<u16>,

    /// How many methods a worker runs at once; by default as many as keep the capacity at some
    /// hundred or thousand calls a second
    #[arg(long, requires = "overload", value_parser = clap::value_parser!(u16).range(1..))]
    places: Option<u16>,

    /// One call in each message
    #[arg(long, requires = "overload")]
    unbatched: bool,

    /// Every second caller's clock is ten minutes slow. This takes two callers or more.
    #[arg(long, requires = "overload")]
    wrong_clocks: bool,

    /// Every second caller is written by hand with lapin: it neither batches nor limits its calls,
    /// and its clock is ten minutes slow. This takes two callers or more.
    #[arg(long, requires = "overload")]
    foreign: bool,

    /// The first caller makes nine calls of ten. This takes ten callers or more.
    #[arg(long, requires = "overload")]
    greedy: bool,

    /// Workers do not refuse calls that they cannot finish in time
    #[arg(long, requires = "overload")]
    no_admission: bool,

    /// Callers do not limit their calls in flight
    #[arg(long, requires = "overload")]
    no_adaptive: bool,

    /// Calls come at random, not at equal intervals
    #[arg(long, requires = "overload")]
    random: bool,

    /// A queue with priorities, and every eleventh call is important.
    #[arg(long, requires = "overload")]
    important: bool,

    /// Half the capacity, then three times, then half.
    #[arg(long, requires = "overload", conflicts_with = "factor")]
    step: bool,
}

fn number_in_range(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.01..=1000.0).contains(&number) => Ok(number),
        _ => Err("give a number from 0.01 to 1000".to_owned()),
    }
}

impl Overload {
    pub(crate) fn is_on(&self) -> bool {
        self.overload
    }

    /// Runs what is asked for. `workers` are the numbers of workers to measure, as far as they were
    /// given.
    pub(crate) async fn run(
        &self,
        broker: &str,
        workers: &[usize],
        window: Duration,
        out: &Path,
    ) -> anyhow::Result<()> {
        super::run(broker, &self.cases(workers), window, out).await
    }

    /// Returns the cases that the options describe, or those of the plan if no option chooses a
    /// setting or a load.
    fn cases(&self, workers: &[usize]) -> Vec<Case> {
        let systems = match self.system.as_slice() {
            [] => System::value_variants(),
            chosen => chosen,
        };
        let is_chosen = !workers.is_empty()
            || !self.factor.is_empty()
            || self.method.is_some()
            || self.callers.is_some()
            || self.places.is_some()
            || self.unbatched
            || self.wrong_clocks
            || self.foreign
            || self.greedy
            || self.no_admission
            || self.no_adaptive
            || self.random
            || self.important
            || self.step;
        let cases = systems.iter().flat_map(|system| match is_chosen {
            true => self.chosen(*system, workers),
            false => plan(*system),
        });
        cases.collect()
    }

    /// Returns one case for each number of workers. With options that need several callers, there
    /// are at least as many as they need.
    fn chosen(&self, system: System, workers: &[usize]) -> Vec<Case> {
        let loads = match (self.step, self.factor.as_slice()) {
            (true, _) => Loads::Step,
            (false, []) => Loads::Steady(FACTORS.to_vec()),
            (false, factors) => Loads::Steady(factors.to_vec()),
        };
        let base = match self.method {
            Some(millis) => BASE.with_method(Duration::from_secs_f64(millis / 1000.0)),
            None => BASE,
        };
        let workers = if workers.is_empty() { &[1] } else { workers };
        let least_callers = match (self.greedy, self.wrong_clocks || self.foreign) {
            (true, _) => 10,
            (false, true) => 2,
            (false, false) => 1,
        };
        let case = |workers: &usize| Case {
            setting: Setting {
                system,
                callers: self.callers.unwrap_or(1).max(least_callers).into(),
                workers: *workers,
                places: self.places.unwrap_or(base.places),
                batching: !self.unbatched,
                wrong_clocks: self.wrong_clocks,
                foreign: self.foreign,
                greedy: self.greedy,
                admission: !self.no_admission,
                adaptive: !self.no_adaptive,
                important: self.important,
                arrivals: match self.random {
                    true => Arrivals::Random,
                    false => Arrivals::Even,
                },
                ..base
            },
            loads: loads.clone(),
        };
        workers.iter().map(case).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn cases(arguments: &[&str]) -> Vec<Case> {
        let cli = Cli::try_parse_from([&["rpc-bench", "--overload"], arguments].concat()).unwrap();
        cli.overload.cases(&cli.workers)
    }

    #[test]
    fn options_choose_points() {
        let chosen = cases(&[
            "--system",
            "library",
            "--workers",
            "1,4",
            "--method",
            "0.1",
            "--factor",
            "3",
        ]);
        let point = |workers| Case {
            setting: Setting {
                workers,
                ..BASE.with_method(Duration::from_micros(100))
            },
            loads: Loads::Steady(vec![3.0]),
        };
        assert_eq!(chosen, [point(1), point(4)]);
    }

    #[test]
    fn without_options_the_plan_runs_for_each_system() {
        let all = cases(&[]);
        let of = |system| all.iter().filter(|case| case.setting.system == system).count();
        assert!(of(System::Library) > of(System::LapinByHand));
        assert!(of(System::Tonic) > 1);
    }

    #[test]
    fn options_of_overload_need_it() {
        assert!(Cli::try_parse_from(["rpc-bench", "--step"]).is_err());
        assert!(Cli::try_parse_from(["rpc-bench", "--overload", "--in-flight", "8"]).is_err());
        assert!(Cli::try_parse_from(["rpc-bench", "--overload", "--quick"]).is_ok());
    }
}
