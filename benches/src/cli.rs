//! The command line and the scenarios that it selects.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};

use crate::contenders::Kind;
use crate::overload::cli::Overload;
use crate::scenario::{BASE, Scenario};

/// Measures the cost of a call: this library, hand-written RPC over RabbitMQ, plain sockets, and
/// tarpc and tonic over TCP.
///
/// Starts a private RabbitMQ node. Without options, it varies one axis at a time around a base
/// scenario (64 calls in flight, 16 bytes, one worker, no handler time), which takes about a
/// quarter of an hour. With values for an axis, separated by commas, it runs only these scenarios.
#[derive(Debug, Parser)]
pub(crate) struct Cli {
    /// Only the tracked ratios, in four minutes: one line `ratio NAME MEDIAN MIN MAX` for each
    #[arg(long, conflicts_with_all = ["contender", "in_flight", "payload", "workers", "handler", "open_loop"])]
    pub(crate) quick: bool,

    /// Only the ratios of jobs: how many are confirmed, and how many are done a second
    #[arg(long, conflicts_with_all = ["quick", "overload", "contender", "in_flight", "payload", "workers", "handler", "open_loop"])]
    pub(crate) jobs: bool,

    /// Only the ratio of cancellation: how long a method runs after its call was dropped
    #[arg(long, conflicts_with_all = ["quick", "jobs", "overload", "contender", "in_flight", "payload", "workers", "handler", "open_loop"])]
    pub(crate) cancel: bool,

    /// Only streams: their ratios, a slow reader, and the memory of streams that nobody reads
    #[arg(long, conflicts_with_all = ["quick", "jobs", "cancel", "overload", "contender", "in_flight", "payload", "workers", "handler", "open_loop"])]
    pub(crate) streams: bool,

    /// Only what metrics and traces cost, with programs of their own that this builds first
    #[arg(long, conflicts_with_all = ["quick", "jobs", "cancel", "streams", "overload", "contender", "in_flight", "payload", "workers", "handler", "open_loop"])]
    pub(crate) observed: bool,

    /// Only caller and worker in processes of their own: a table of what each of them costs
    #[arg(long, conflicts_with_all = ["quick", "jobs", "cancel", "streams", "observed", "overload", "contender", "in_flight", "payload", "workers", "handler", "open_loop"])]
    pub(crate) processes: bool,

    /// Does what the parent process asks for
    #[arg(long, hide = true)]
    pub(crate) child: bool,

    /// The contenders; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    contender: Vec<Kind>,

    /// Calls in flight
    #[arg(long, value_delimiter = ',', value_parser = positive)]
    in_flight: Vec<usize>,

    /// Bytes of a request and of its reply
    #[arg(long, value_delimiter = ',')]
    payload: Vec<usize>,

    /// Workers that share the calls
    #[arg(long, value_delimiter = ',', value_parser = positive)]
    pub(crate) workers: Vec<usize>,

    /// Milliseconds that a handler sleeps
    #[arg(long, value_delimiter = ',')]
    handler: Vec<u64>,

    /// Start this many calls a second, whether or not earlier ones have ended; latency counts from
    /// when a call was due
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..))]
    open_loop: Option<u32>,

    /// How often each contender runs; contenders take turns
    #[arg(long, default_value_t = 3, value_parser = positive)]
    pub(crate) rounds: usize,

    /// How long each run is measured; 1.5 by default, 0.35 with --quick, --streams and --observed,
    /// and 3 with --overload
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,

    /// The folder for results (results.json, ratios.json, processes.json, overload.json,
    /// streams.json) and charts
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    pub(crate) out: PathBuf,

    #[command(flatten)]
    pub(crate) overload: Overload,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a whole number, 1 at least".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Parses a time of more than zero and less than an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::try_from_secs_f64);
    match seconds {
        Ok(Ok(time)) if !time.is_zero() && time < Duration::from_secs(3600) => Ok(time),
        _ => Err("give a number of seconds, such as 0.5".to_owned()),
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The chosen contenders in the chosen scenarios.
    Compare,
    Quick,
    Jobs,
    Cancel,
    Streams,
    Observed,
    Processes,
    Overload,
    OverloadQuick,
    /// What the parent process asks for.
    Child,
}

impl Cli {
    /// Returns the chosen mode. Of the options that choose one, only `--quick` and `--overload` can
    /// be combined, and `--child` wins over all others.
    pub(crate) fn mode(&self) -> Mode {
        let modes = [
            (self.child, Mode::Child),
            (self.quick && self.overload.is_on(), Mode::OverloadQuick),
            (self.overload.is_on(), Mode::Overload),
            (self.quick, Mode::Quick),
            (self.jobs, Mode::Jobs),
            (self.cancel, Mode::Cancel),
            (self.streams, Mode::Streams),
            (self.observed, Mode::Observed),
            (self.processes, Mode::Processes),
        ];
        let chosen = modes.into_iter().find(|(is_chosen, _)| *is_chosen);
        chosen.map_or(Mode::Compare, |(_, mode)| mode)
    }

    /// Returns how long each run is measured. [`Mode::Cancel`] and [`Mode::OverloadQuick`] do not
    /// use it.
    pub(crate) fn window(&self) -> Duration {
        let is_short = self.quick || self.streams || self.observed;
        let millis = match (self.overload.is_on(), is_short) {
            (true, _) => 3000,
            (false, true) => 350,
            (false, false) => 1500,
        };
        self.seconds.unwrap_or(Duration::from_millis(millis))
    }

    pub(crate) fn contenders(&self) -> Vec<Kind> {
        match self.contender.as_slice() {
            [] => Kind::value_variants().to_vec(),
            chosen => chosen.to_vec(),
        }
    }

    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let is_chosen = !(self.in_flight.is_empty()
            && self.payload.is_empty()
            && self.workers.is_empty()
            && self.handler.is_empty()
            && self.open_loop.is_none());
        if is_chosen { self.chosen() } else { axes() }
    }

    /// Returns every combination of the given values. An axis without values has that of the base.
    fn chosen(&self) -> Vec<Scenario> {
        let or_base = |values: &[usize], base| match values {
            [] => vec![base],
            values => values.to_vec(),
        };
        let handlers = match self.handler.as_slice() {
            [] => vec![BASE.handler],
            millis => millis.iter().copied().map(Duration::from_millis).collect(),
        };
        let mut scenarios = Vec::new();
        for in_flight in or_base(&self.in_flight, BASE.in_flight) {
            for payload in or_base(&self.payload, BASE.payload) {
                for workers in or_base(&self.workers, BASE.workers) {
                    for &handler in &handlers {
                        scenarios.push(Scenario {
                            in_flight,
                            payload,
                            workers,
                            handler,
                            open_loop: self.open_loop,
                        });
                    }
                }
            }
        }
        scenarios
    }
}

/// Returns scenarios that vary one axis at a time around the base.
fn axes() -> Vec<Scenario> {
    let in_flight = [1, 8, 64, 1000, 10_000].map(|in_flight| Scenario { in_flight, ..BASE });
    let payload = [1024, 64 * 1024].map(|payload| Scenario { payload, ..BASE });
    let workers = [2, 4].map(|workers| Scenario { workers, ..BASE });
    let handler = [1, 10].map(|millis| Scenario {
        handler: Duration::from_millis(millis),
        ..BASE
    });
    // Rates that every contender reaches with ease.
    let open_loop = [Scenario {
        open_loop: Some(2000),
        ..BASE
    }];
    [&in_flight[..], &payload, &workers, &handler, &open_loop].concat()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn scenarios(arguments: &[&str]) -> Vec<Scenario> {
        Cli::try_parse_from([&["rpc-bench"], arguments].concat())
            .unwrap()
            .scenarios()
    }

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_choose_what_is_measured() {
        let mode = |arguments: &[&str]| {
            Cli::try_parse_from([&["rpc-bench"], arguments].concat()).map(|cli| cli.mode())
        };
        assert_eq!(mode(&[]).unwrap(), Mode::Compare);
        assert_eq!(mode(&["--quick"]).unwrap(), Mode::Quick);
        assert_eq!(mode(&["--quick", "--overload"]).unwrap(), Mode::OverloadQuick);
        assert_eq!(mode(&["--overload"]).unwrap(), Mode::Overload);
        assert_eq!(mode(&["--observed"]).unwrap(), Mode::Observed);
        assert_eq!(mode(&["--processes"]).unwrap(), Mode::Processes);
        assert!(mode(&["--observed", "--processes"]).is_err());
    }

    #[test]
    fn without_options_one_axis_varies_at_a_time() {
        let all = scenarios(&[]);
        assert_eq!(all.iter().filter(|it| **it == BASE).count(), 1);
        assert_eq!(all.len(), 12);
    }

    #[test]
    fn values_are_combined() {
        let chosen = scenarios(&["--in-flight", "1,8", "--handler", "10"]);
        let handler = Duration::from_millis(10);
        let point = |in_flight| Scenario {
            in_flight,
            handler,
            ..BASE
        };
        assert_eq!(chosen, [point(1), point(8)]);
        assert!(Cli::try_parse_from(["rpc-bench", "--in-flight", "0"]).is_err());
        assert!(Cli::try_parse_from(["rpc-bench", "--seconds", "-1"]).is_err());
    }
}
