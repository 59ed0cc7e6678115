//! Measures the cost of a call: this library, hand-written RPC over RabbitMQ, plain sockets and RPC
//! over TCP.
//!
//! ```sh
//! cargo run --release -p rpc-bench                # everything, 15 minutes
//! cargo run --release -p rpc-bench -- --quick     # the tracked ratios, 3 minutes
//! cargo run --release -p rpc-bench -- --jobs      # the ratios of jobs alone, half a minute
//! cargo run --release -p rpc-bench -- --cancel    # the ratio of cancellation alone, seconds
//! cargo run --release -p rpc-bench -- --streams   # streams alone, a minute and a half
//! cargo run --release -p rpc-bench -- --overload  # more calls than can be answered
//! cargo run --release -p rpc-bench -- --in-flight 8 --contender lapin-by-hand,framework-unbatched
//! ```
//!
//! Contenders take turns, round by round, on a private RabbitMQ node. Absolute figures are
//! comparable only within one run.

mod bench;
mod cancel;
mod cli;
mod contenders;
mod jobs;
mod load;
mod measure;
mod memory;
mod overload;
mod quick;
mod report;
mod scenario;
mod streams;
mod verbatim;

use std::fs;

use clap::Parser as _;

use crate::bench::Bench;
use crate::cli::Cli;
use crate::report::{json, svg, table};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let bench = Bench::start(cli.window()).await?;
    let run = run(&bench, &cli).await;
    bench.stop().await?;
    run
}

async fn run(bench: &Bench, cli: &Cli) -> anyhow::Result<()> {
    if cli.jobs {
        return jobs::run_quick(bench, cli.rounds).await;
    }
    if cli.cancel {
        return cancel::run_quick(bench, cli.rounds).await;
    }
    if cli.streams {
        return streams::run(bench, cli.rounds, &cli.out).await;
    }
    match (cli.quick, cli.overload.is_on()) {
        (true, false) => {
            quick::run(bench, cli.rounds).await?;
            jobs::run_quick(bench, cli.rounds).await?;
            cancel::run_quick(bench, cli.rounds).await?;
            streams::run_quick(bench, cli.rounds).await?;
            overload::run_quick(bench.broker()).await
        }
        (true, true) => overload::run_quick(bench.broker()).await,
        (false, true) => {
            cli.overload
                .run(bench.broker(), &cli.workers, cli.window(), &cli.out)
                .await
        }
        (false, false) => compare(bench, cli).await,
    }
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
