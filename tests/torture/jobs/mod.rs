//! Torture with jobs: callers send jobs, some of which fail, while callers, workers, connections
//! and the broker are killed. At the end, each confirmed job is done or in the dead-letter queue.
//!
//! ```text
//! cargo run --release -p rpc-tests --bin torture -- --jobs 100000 --seconds 300 --quorum
//! ```

mod caller;
mod check;
mod service;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rpc_tests::rabbit::Node;
use rpc_tests::raw::{RawPeer, next};
use rpc_tests::until;
use tokio::time::{Instant, sleep, timeout};

use crate::args::Args;
use crate::history::records;
use crate::scene::Scene;
use crate::service::QUEUE;

pub(crate) use caller::send;
use check::{History, Letter};
pub(crate) use service::{JobsServer, Worker, queue};

/// How long callers may take, once all faults are healed, to send their last jobs and to exit.
const ENDING_LIMIT: Duration = Duration::from_secs(120);

/// How long it may take after that until all jobs have ended. It begins anew if fewer jobs are left
/// than before. A worker that could not move a job tries again after at most half a minute.
const DRAINING_LIMIT: Duration = Duration::from_secs(180);

/// For how long no job must be seen before all count as ended: what the broker says about a quorum
/// queue is up to five seconds old.
const QUIET: Duration = Duration::from_secs(12);

/// How long the broker may take to deliver the next dead letter.
const LETTER_LIMIT: Duration = Duration::from_secs(5);

/// How long workers may take until they have declared all retry queues.
const DECLARING_LIMIT: Duration = Duration::from_secs(60);

/// The retry queues that workers declare at their start, by their time to live in milliseconds. A
/// worker declares that of 2000 when it first gets a job with a delay of about two seconds or more.
const RETRY_QUEUES: [u32; 5] = [100, 200, 500, 1_000, 10_000];

/// How long a node may take to write a declared quorum queue.
const UNTIL_ON_DISK: Duration = Duration::from_secs(5);

/// Runs the torture test with jobs, in the parent process.
pub(crate) async fn torture(args: &Args) -> anyhow::Result<ExitCode> {
    println!("torture: {args}");
    let scene = Scene::start(args).await?;
    {
        let (node, _turn) = scene.broker().await;
        until_declared(node).await?;
    }
    let incidents = crate::run_the_plan(&scene, args).await?;
    println!("torture: all faults are healed; waiting for the last jobs");
    timeout(ENDING_LIMIT, scene.finish_callers())
        .await
        .context("the callers do not finish")??;
    let letters = {
        let (node, _turn) = scene.broker().await;
        let mut before = u64::MAX;
        while let Err(error) = until_drained(node).await {
            let waiting = waiting(node).await?;
            let left = waiting.iter().map(|(_, jobs)| jobs).sum();
            if left >= before {
                scene.complain(format!("{error}; queues and their messages: {waiting:?}"));
                break;
            }
            before = left;
        }
        dead_letters(node).await?
    };
    let history = History::new(records(scene.folder())?, letters);
    let mut violations = history.violations();
    violations.extend(scene.complaints());
    history.print(&incidents, &violations);
    scene.stop(!violations.is_empty()).await?;
    Ok(match violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Waits until no job has been seen in the queues for [`QUIET`].
async fn until_drained(node: &Node) -> anyhow::Result<()> {
    let mut empty_since = None;
    until("all jobs have ended", DRAINING_LIMIT, async || {
        if !waiting(node).await?.is_empty() {
            empty_since = None;
            return Ok(false);
        }
        Ok(empty_since.get_or_insert_with(Instant::now).elapsed() >= QUIET)
    })
    .await
}

/// Waits until the workers have declared all retry queues of their start and these survive a kill.
/// On RabbitMQ 4.0, one that was declared moments before a kill stayed without a leader.
async fn until_declared(node: &Node) -> anyhow::Result<()> {
    until("all retry queues are declared", DECLARING_LIMIT, async || {
        let queues = node.ctl(&["list_queues", "--no-table-headers", "name"]).await?;
        let is_declared = |millis: &u32| {
            let queue = format!("{QUEUE}.retry.{millis}");
            queues.lines().any(|line| line == queue)
        };
        Ok(RETRY_QUEUES.iter().all(is_declared))
    })
    .await?;
    sleep(UNTIL_ON_DISK).await;
    node.flush().await
}

/// Returns the queues in which jobs wait or are unacknowledged, and how many of both. Dead letters
/// do not count.
async fn waiting(node: &Node) -> anyhow::Result<Vec<(String, u64)>> {
    let list = [
        "list_queues",
        "--no-table-headers",
        "name",
        "messages_ready",
        "messages_unacknowledged",
    ];
    let queues = node.ctl(&list).await?;
    let jobs = queues.lines().filter_map(|line| {
        let mut columns = line.split('\t');
        let queue = columns.next()?;
        let jobs = columns
            .filter_map(|messages| messages.trim().parse::<u64>().ok())
            .sum();
        let is_waiting = queue.starts_with(QUEUE) && !queue.ends_with(".dead") && jobs > 0;
        is_waiting.then(|| (queue.to_owned(), jobs))
    });
    Ok(jobs.collect())
}

/// Takes all messages out of the dead-letter queue.
async fn dead_letters(node: &Node) -> anyhow::Result<Vec<Letter>> {
    let peer = RawPeer::connect(node.url()).await?;
    let queue = format!("{QUEUE}.dead");
    let count = peer
        .queue_depth(&queue)
        .await?
        .context("there is no dead-letter queue")?;
    let mut consumer = peer.consume(&queue).await?;
    let mut letters = Vec::new();
    for _ in 0..count {
        let letter = next(&mut consumer, LETTER_LIMIT).await?;
        letters.push(Letter::of(&letter.context("a dead letter is missing")?)?);
    }
    Ok(letters)
}
