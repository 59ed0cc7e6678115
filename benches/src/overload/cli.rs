//! The options of `--overload`.

use std::time::Duration;

use clap::{Args, ValueEnum as _};

use super::plan::{BASE, Setting, System};

/// Values (several with commas) replace those of the base point; all combinations of them run.
#[derive(Debug, Args)]
pub(crate) struct Overload {
    /// More calls than can be answered, in open loop: what is answered in time, and what runs for
    /// callers that have given up.
    #[arg(long, conflicts_with_all = ["contender", "in_flight", "payload", "handler", "open_loop"])]
    overload: bool,

    /// With --overload: which systems are measured.
    #[arg(long, value_enum, value_delimiter = ',', requires = "overload")]
    system: Vec<System>,

    /// With --overload: calls offered ÷ capacity.
    #[arg(long, value_delimiter = ',', requires = "overload", default_values_t = [0.8, 1.0, 1.5, 3.0, 10.0], value_parser = factor)]
    factor: Vec<f64>,

    /// With --overload: milliseconds that a method takes.
    #[arg(long, requires = "overload", default_value_t = 20.0, value_parser = factor)]
    method: f64,

    /// With --overload: callers, each with connections of its own.
    #[arg(long, requires = "overload", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    callers: u16,

    /// With --overload: how many methods a worker runs at once; by default as many as keep the
    /// capacity at some hundred or thousand calls a second.
    #[arg(long, requires = "overload", value_parser = clap::value_parser!(u16).range(1..))]
    places: Option<u16>,

    /// With --overload: one call a message.
    #[arg(long, requires = "overload")]
    unbatched: bool,

    /// With --overload: every second caller's clock is wrong.
    #[arg(long, requires = "overload")]
    wrong_clocks: bool,

    /// With --overload: a queue with priorities, and an eleventh of the calls is important.
    #[arg(long, requires = "overload")]
    important: bool,
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.01..=1000.0).contains(&number) => Ok(number),
        _ => Err("give a number from 0.01 to 1000".to_owned()),
    }
}

impl Overload {
    pub(crate) fn is_on(&self) -> bool {
        self.overload
    }

    pub(crate) async fn run(&self, broker: &str, workers: &[usize], window: Duration) -> anyhow::Result<()> {
        super::run(broker, &self.settings(workers), &self.factor, window).await
    }

    fn settings(&self, workers: &[usize]) -> Vec<Setting> {
        let systems = match self.system.as_slice() {
            [] => System::value_variants(),
            chosen => chosen,
        };
        let method = Duration::from_secs_f64(self.method / 1000.0);
        let base = BASE.with_method(method);
        let mut settings = Vec::new();
        for &system in systems {
            for &workers in if workers.is_empty() { &[1] } else { workers } {
                settings.push(Setting {
                    system,
                    callers: usize::from(self.callers),
                    workers,
                    places: self.places.unwrap_or(base.places),
                    batching: !self.unbatched,
                    wrong_clocks: self.wrong_clocks,
                    important: self.important,
                    ..base
                });
            }
        }
        settings
    }
}
