//! The torture test: workers and callers run as processes on a private RabbitMQ node, each behind
//! its own fault proxy, while all kinds of faults happen. Every call to the workers and every run
//! of a method is recorded. At the end, the whole history is checked against the runtime's
//! promises.
//!
//! ```text
//! cargo run --release -p rpc-tests --bin torture -- --seconds 60 --seed 7
//! ```
//!
//! The seed and the other options decide which faults happen when and which calls are made. Their
//! interleaving depends on the machine, so a seed usually, but not always, reproduces a violation.
//! Exits with 1 if a promise was broken, and prints the history of the first ten affected calls. A
//! failure of the test itself exits with 1 too.
//!
//! With `--jobs 100000`, callers send jobs instead of calls, and callers are killed too; see
//! [`jobs`].

mod args;
mod caller;
mod check;
mod child;
mod history;
mod inject;
mod jobs;
mod plan;
mod random;
mod report;
mod scene;
mod service;
mod stalls;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep_until, timeout};

use args::{Args, Role};
use history::History;
use inject::Incident;
use scene::Scene;
use service::{BATCHED, QUEUE};
use stalls::Stalls;

/// How long callers may take, once all faults are healed, to make their last calls and to exit.
const ENDING_LIMIT: Duration = Duration::from_secs(90);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let ended = match Role::from_command_line() {
        Ok(Role::Parent(args)) if args.jobs.is_some() => jobs::torture(&args).await,
        Ok(Role::Parent(args)) => torture(&args).await,
        Ok(Role::Worker(seat)) => worker::run(seat).await,
        Ok(Role::Caller(seat)) if seat.jobs => jobs::send(seat).await,
        Ok(Role::Caller(seat)) => caller::run(seat).await,
        Err(error) => Err(error),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("torture: {error:?}");
        ExitCode::FAILURE
    })
}

async fn torture(args: &Args) -> anyhow::Result<ExitCode> {
    println!("torture: {args}");
    let stalls = Stalls::watch();
    let scene = Scene::start(args).await?;
    let incidents = run_the_plan(&scene, args).await?;
    let healed = history::now();
    println!("torture: all faults are healed; waiting for the last calls");
    let hostile = scene.stop_hostile_peer();
    println!("torture: a hostile peer sent {hostile} messages");
    let trace = scene.trace().await?;
    timeout(ENDING_LIMIT, scene.finish_callers())
        .await
        .context("the callers do not finish")??;

    let history = History::read(scene.folder())?;
    let mut violations = check::violations(&history, &incidents, healed, stalls.longest());
    violations.extend(scene.complaints());
    report::print(&history, &incidents, &violations);
    let (batched, plain) = (trace.published(BATCHED).await?, trace.published(QUEUE).await?);
    println!("messages after the last fault: {batched} batches, {plain} single calls");
    ensure!(batched > 0, "no calls were batched");
    scene.stop(!violations.is_empty()).await?;
    Ok(match violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Injects each planned fault at its time. Returns those that happened, once the run's duration has
/// passed and all are healed. A fault of the broker may be late: it waits until the one before is
/// healed.
async fn run_the_plan(scene: &Scene, args: &Args) -> anyhow::Result<Vec<Incident>> {
    let begin = Instant::now();
    let end = begin + args.duration;
    let faults = plan::plan(args).into_iter().map(async |planned| {
        sleep_until(begin + planned.at).await;
        inject::inject(scene, planned, end).await
    });
    let (incidents, ()) = tokio::join!(try_join_all(faults), sleep_until(end));
    Ok(incidents?.into_iter().flatten().collect())
}
