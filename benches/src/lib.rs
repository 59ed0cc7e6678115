//! Measures the cost of a call: this library, hand-written RPC over RabbitMQ, plain sockets, and
//! RPC over TCP.
//!
//! ```sh
//! cargo run --release -p rpc-bench                 # everything, 15 minutes
//! cargo run --release -p rpc-bench -- --quick      # the tracked ratios, 4 minutes
//! cargo run --release -p rpc-bench -- --jobs       # the ratios of jobs alone, half a minute
//! cargo run --release -p rpc-bench -- --cancel     # the ratio of cancellation alone, seconds
//! cargo run --release -p rpc-bench -- --streams    # streams alone, a minute and a half
//! cargo run --release -p rpc-bench -- --observed   # the cost of metrics and traces, seconds
//! cargo run --release -p rpc-bench -- --processes  # caller and worker in two processes, 3 minutes
//! cargo run --release -p rpc-bench -- --overload   # more calls than can be answered
//! cargo run --release -p rpc-bench -- --in-flight 8 --contender lapin-by-hand,framework-unbatched
//! ```
//!
//! Contenders take turns, round by round, on a private RabbitMQ node. Absolute figures are
//! comparable only within one run.

mod bench;
mod cancel;
mod child;
mod cli;
mod contenders;
mod grpc;
mod jobs;
mod load;
mod measure;
mod memory;
mod observed;
mod overload;
mod processes;
mod quick;
mod report;
mod scenario;
mod streams;

use std::fs;

use clap::Parser as _;

use crate::bench::Bench;
use crate::cli::{Cli, Mode};
use crate::observed::Observed;
use crate::report::ratios::Ratios;
use crate::report::{json, svg, table};

/// Does what the command line asks for.
///
/// # Errors
///
/// Fails if a program to compare cannot be built, if the broker does not start or stop, or if a run
/// fails. Exits the process if the command line is wrong.
pub async fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let mode = cli.mode();
    if mode == Mode::Child {
        return run_as_child().await;
    }
    // Built before the broker starts, so that no compiler runs while something is measured.
    let observed = match mode {
        Mode::Quick | Mode::Observed => Some(Observed::build().await?),
        _ => None,
    };
    let bench = Bench::start(cli.window()).await?;
    let run = measure(&bench, &cli, mode, observed.as_ref()).await;
    bench.stop().await?;
    run
}

/// Does what the parent process asks for in the first line of the standard input. Workers run until
/// the input ends. A measurement is given up if it ends.
///
/// # Errors
///
/// Fails if the parent asks for nothing, if the run fails, or if the parent does not wait for its
/// result.
pub async fn run_as_child() -> anyhow::Result<()> {
    child::role::run().await
}

async fn measure(bench: &Bench, cli: &Cli, mode: Mode, observed: Option<&Observed>) -> anyhow::Result<()> {
    let mut ratios = Ratios::default();
    let (rounds, out) = (cli.rounds, &cli.out);
    match mode {
        Mode::Compare => compare(bench, cli).await?,
        Mode::Overload => {
            let overload = &cli.overload;
            let (workers, window) = (&cli.workers, cli.window());
            overload.run(bench.broker(), workers, window, out).await?;
        }
        Mode::Processes => processes::run(bench, rounds, out).await?,
        Mode::Streams => streams::run(bench, rounds, out, &mut ratios).await?,
        Mode::Jobs => jobs::run_quick(bench, rounds, &mut ratios).await?,
        Mode::Cancel => cancel::run_quick(bench, rounds, &mut ratios).await?,
        Mode::OverloadQuick => overload::run_quick(bench.broker(), &mut ratios).await?,
        Mode::Quick => {
            quick::run(bench, rounds, &mut ratios).await?;
            jobs::run_quick(bench, rounds, &mut ratios).await?;
            cancel::run_quick(bench, rounds, &mut ratios).await?;
            streams::run_quick(bench, rounds, &mut ratios).await?;
            overload::run_quick(bench.broker(), &mut ratios).await?;
        }
        // Observed programs run below, and a child does not get here.
        Mode::Observed | Mode::Child => {}
    }
    if let Some(observed) = observed {
        observed.run(bench, rounds, &mut ratios).await?;
    }
    ratios.report(out)
}

async fn compare(bench: &Bench, cli: &Cli) -> anyhow::Result<()> {
    let cells = bench
        .compare(&cli.contenders(), &cli.scenarios(), cli.rounds)
        .await?;
    println!("{}", table::render(&cells));

    let out = &cli.out;
    json::write(&out.join("results.json"), &cells)?;
    if let Some(plot) = svg::render(&cells)? {
        fs::write(out.join("throughput.svg"), plot)?;
    }
    println!("all figures: {}", out.join("results.json").display());
    Ok(())
}
