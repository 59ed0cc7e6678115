//! The cost of metrics and traces: this library with the features `metrics` and `opentelemetry`, a
//! recorder, and a tracer whose sampler refuses every span ÷ this library without the features.
//!
//! Features are chosen when a crate is compiled, and cargo compiles it only once in a build. So
//! this builds two programs with two commands, and each run has a process of its own. The programs
//! are this one, and `rpc-bench-observed`, which has the features and runs the same contender.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::bench::Bench;
use crate::child::{Answer, Order, Process};
use crate::contenders::{Kind, LIMIT};
use crate::measure::Measured;
use crate::report::ratios::{Ratio, Ratios, order};
use crate::scenario::{BASE, Scenario};

const FEATURES: [&str; 2] = ["metrics", "opentelemetry"];

/// The time for a build of all dependencies on a busy machine.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

const CONTENDER: Kind = Kind::FrameworkBatched;

const SCENARIO: Scenario = Scenario {
    in_flight: 1000,
    ..BASE
};

/// The two programs.
#[derive(Debug)]
pub(crate) struct Observed {
    with: PathBuf,
    without: PathBuf,
}

impl Observed {
    /// Builds both programs from the present sources.
    pub(crate) async fn build() -> anyhow::Result<Self> {
        let with = Built::build("rpc-bench-observed").await?;
        let without = Built::build("rpc-bench").await?;
        for feature in FEATURES {
            ensure!(
                with.has(feature),
                "rpc-bench-observed lacks the feature {feature}"
            );
            ensure!(!without.has(feature), "rpc-bench has the feature {feature}");
        }
        Ok(Self {
            with: with.program,
            without: without.program,
        })
    }

    /// Runs both in turn. Adds the ratio of their calls a second, and the difference of their
    /// allocations.
    pub(crate) async fn run(&self, bench: &Bench, rounds: usize, ratios: &mut Ratios) -> anyhow::Result<()> {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for is_observed in order(round, [true, false]) {
                match is_observed {
                    true => with.push(measure(bench, "observed", &self.with).await?),
                    false => without.push(measure(bench, "not observed", &self.without).await?),
                }
            }
        }
        let compare = |compare_round: fn(f64, f64) -> f64, figure: fn(&Measured) -> f64| {
            let pairs = with.iter().zip(&without);
            let of_rounds: Vec<_> = pairs
                .map(|(with, without)| compare_round(figure(with), figure(without)))
                .collect();
            Ratio::of(&of_rounds)
        };
        let throughput = compare(|with, without| with / without, |it| it.calls_per_second);
        let allocations = compare(|with, without| with - without, |it| it.allocations_per_call);
        ratios.add("observed-1000", throughput);
        ratios.add("observed-allocations", allocations);
        Ok(())
    }
}

async fn measure(bench: &Bench, name: &str, program: &std::path::Path) -> anyhow::Result<Measured> {
    let load = bench.load(SCENARIO);
    let order = Order::Measure {
        contender: CONTENDER,
        broker: bench.broker().to_owned(),
        load,
    };
    let mut process = Process::start(program)?;
    // Start, first reply and stop have a limit of about this length each; the fourth is spare.
    let answer = process.order(&order, load.window + LIMIT * 4).await?;
    // The observed program ends with an error if nothing was observed of a side.
    process.stop().await?;
    let Answer::Measured(measured) = answer else {
        bail!("a process answered {answer:?}");
    };
    eprintln!(
        "{name:<24}{:>9.0} calls/s   {:.2} + {:.2} µs, {:.1} allocations a call",
        measured.calls_per_second,
        measured.own_cpu_us_per_call,
        measured.broker_cpu_us_per_call,
        measured.allocations_per_call
    );
    Ok(measured)
}

/// What cargo built.
#[derive(Debug)]
struct Built {
    program: PathBuf,
    /// The features of rpc-runtime in it.
    features: Vec<String>,
}

/// A message of cargo: see `cargo build --message-format`.
#[derive(Debug, Deserialize)]
struct CargoMessage {
    reason: String,
    target: Option<CargoTarget>,
    #[serde(default)]
    features: Vec<String>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct CargoTarget {
    name: String,
}

impl Built {
    /// Builds a package and its program, which has the same name.
    async fn build(package: &str) -> anyhow::Result<Self> {
        eprintln!("building {package}");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let building = Command::new(cargo)
            .args(["build", "--locked", "--message-format=json-render-diagnostics"])
            .args(["--profile", profile, "--package", package, "--bin", package])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output();
        let built = timeout(BUILD_LIMIT, building)
            .await
            .with_context(|| format!("{package} was not built within {BUILD_LIMIT:?}"))?
            .context("cannot run cargo")?;
        ensure!(built.status.success(), "cargo cannot build {package}");
        Self::read(package, std::str::from_utf8(&built.stdout)?)
    }

    /// Reads cargo's messages.
    fn read(package: &str, messages: &str) -> anyhow::Result<Self> {
        let (mut program, mut features) = (None, None);
        for line in messages.lines() {
            let message: CargoMessage =
                serde_json::from_str(line).with_context(|| format!("cargo says {line:?}"))?;
            let Some(target) = message.target.filter(|_| message.reason == "compiler-artifact") else {
                continue;
            };
            match target.name.as_str() {
                "rpc_runtime" => features = Some(message.features),
                name if name == package => program = message.executable.or(program),
                _ => {}
            }
        }
        Ok(Self {
            program: program.with_context(|| format!("cargo built no program {package}"))?,
            features: features.context("cargo did not build rpc-runtime")?,
        })
    }

    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|it| it == feature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_a_program_is_and_what_features_it_has() {
        let messages = r#"{"reason":"build-script-executed","package_id":"a"}
{"reason":"compiler-artifact","target":{"name":"rpc_runtime"},"features":["default","metrics"],"executable":null}
{"reason":"compiler-artifact","target":{"name":"rpc-bench"},"features":[],"executable":"/target/rpc-bench"}
{"reason":"build-finished","success":true}"#;
        let built = Built::read("rpc-bench", messages).unwrap();
        assert_eq!(built.program, PathBuf::from("/target/rpc-bench"));
        assert!(built.has("metrics") && !built.has("opentelemetry"));
        assert!(Built::read("rpc-bench-observed", messages).is_err());
    }
}
