//! A worker process: serves until SIGTERM, then drains.

use std::process::ExitCode;

use anyhow::Context as _;
use rpc_runtime::{Broker, Server, ServerError};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Seat;
use crate::child::{self, UNFINISHED};
use crate::history::Journal;
use crate::jobs::{self, JobsServer};
use crate::service::{TortureServer, Worker};

/// How many requests a worker runs at once: few, so that some wait in the queue when workers are
/// lost.
const CONCURRENCY: u16 = 32;

pub(crate) async fn run(seat: Seat) -> anyhow::Result<ExitCode> {
    child::log();
    // A worker gets no orders. While this lives, the process exits once its parent has ended.
    let _orders = child::orders();
    let mut terminated = signal(SignalKind::terminate())?;
    let broker = Broker::builder().address(&seat.url).lazy()?;
    // The parent sends no SIGTERM before the journal exists, which must not be before `signal`.
    let journal = Journal::create(&seat.journal)?;
    let server = Server::new(&broker)
        .worker_name(&seat.name)
        .concurrency(CONCURRENCY)
        .batching(seat.batching);
    let server = if seat.jobs {
        server.serve_on(jobs::queue(&seat), JobsServer::new(jobs::Worker { journal }))
    } else {
        let name = seat.name.clone();
        server.serve(TortureServer::new(Worker { name, journal }))
    };
    let shutdown = async {
        terminated.recv().await;
    };
    let served = server.run_until(shutdown).await;
    broker.close().await;
    match served {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(ServerError::DrainTimedOut { .. }) => Ok(ExitCode::from(UNFINISHED)),
        Err(error) => Err(error).context("the server ended"),
    }
}
