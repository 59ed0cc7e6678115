//! Torture: workers and callers, each a process of its own behind its own fault proxy, on a private RabbitMQ, while all
//! goes wrong that can. Every call and every run of a method is written down; at the end the whole history is held against
//! what the runtime promises.
//!
//! ```text
//! cargo run --release -p rpc-tests --bin torture -- --seconds 60 --seed 7
//! ```
//!
//! The seed decides which faults happen when, and which calls are made; how they meet, the machine decides. So a seed
//! brings back the weather of a bad run, and most often the violation. Exits with 1 where a promise was broken, and shows
//! the history of the calls it was broken to.

mod args;
mod caller;
mod check;
mod child;
mod history;
mod inject;
mod plan;
mod random;
mod report;
mod scene;
mod service;
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

/// How long callers may take, once all is well, until they have seen the end of every call.
const ENDING_LIMIT: Duration = Duration::from_secs(90);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let ended = match Role::from_command_line() {
        Ok(Role::Parent(args)) => torture(&args).await,
        Ok(Role::Worker(seat)) => worker::run(seat).await,
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
    let scene = Scene::set(args).await?;
    let incidents = run_the_plan(&scene, args).await?;
    let healed = history::now();
    println!("torture: all is healed; waiting for the last calls");
    let hostile = scene.end_of_stranger();
    println!("torture: a stranger sent {hostile} messages");
    let trace = scene.trace().await?;
    timeout(ENDING_LIMIT, scene.calm_down())
        .await
        .context("the callers do not end")??;

    let history = History::read(scene.folder())?;
    let mut violations = check::violations(&history, &incidents, healed);
    violations.extend(scene.complaints());
    report::print(&history, &incidents, &violations);
    let (batched, plain) = (trace.published(BATCHED).await?, trace.published(QUEUE).await?);
    println!("messages when all was healed: {batched} of batched calls, {plain} of one");
    ensure!(batched > 0, "nothing was batched");
    scene.strike(!violations.is_empty()).await?;
    Ok(match violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Lets everything happen that is planned, each at its time, and returns once all is over and healed.
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
