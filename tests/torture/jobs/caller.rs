//! A caller process: sends jobs until all faults are healed, then jobs that must be confirmed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rpc_runtime::{Broker, Chain};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::service::{ATTEMPTS, Job, JobsClient, Record};
use crate::args::Seat;
use crate::child;
use crate::history::{Journal, now};
use crate::random::Random;
use crate::service::checksum;

/// The time limit of a call: longer than any fault, so most jobs are confirmed in the end.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a process may need after the last fault: heartbeats must detect dead connections.
const SETTLING: Duration = Duration::from_secs(8);

/// How many jobs are sent at once, [`SETTLING`] after all faults are healed.
const LAST_JOBS: usize = 100;

pub(crate) async fn send(seat: Seat) -> anyhow::Result<ExitCode> {
    child::log();
    let mut orders = child::orders();
    let broker = Broker::builder().address(&seat.url).lazy()?;
    let sender = Arc::new(Sender {
        client: JobsClient::builder(&broker).batching(seat.batching).build(),
        journal: Journal::create(&seat.journal)?,
    });
    let mut random = Random::new(seat.seed ^ checksum(seat.name.as_bytes()));
    let mut calls = JoinSet::new();
    let mut send = |calls: &mut JoinSet<()>, fresh| {
        let sender = Arc::clone(&sender);
        let (job, delay) = plan(&mut random, &seat, sender.journal.next_number(), fresh);
        calls.spawn(async move { sender.send(job, delay).await });
    };
    let mut next = Instant::now();
    let settled = loop {
        next += Duration::from_secs(1) / u32::try_from(seat.rate)?;
        tokio::select! {
            () = sleep_until(next) => {}
            _ = orders.recv() => break Instant::now() + SETTLING,
        }
        send(&mut calls, false);
        while calls.try_join_next().is_some() {}
    };
    sleep_until(settled).await;
    for _ in 0..LAST_JOBS {
        send(&mut calls, true);
    }
    while calls.join_next().await.is_some() {}
    broker.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Returns the next job and its delay.
fn plan(random: &mut Random, seat: &Seat, number: u64, fresh: bool) -> (Job, Duration) {
    let job = Job {
        name: format!("{}-{number}", seat.name),
        work_ms: match random.between(0..=99) {
            0..=79 => 0,
            80..=98 => random.between(1..=20),
            _ => random.between(20..=1_000),
        },
        failures: match random.between(0..=99) {
            0..=91 => 0,
            92..=96 => random.between(1..=u64::from(ATTEMPTS) - 1) as u32,
            _ => ATTEMPTS,
        },
        panics: random.percent(20),
        fresh,
    };
    let delay = match random.percent(3) {
        true => Duration::from_millis(random.between(1..=3_000)),
        false => Duration::ZERO,
    };
    (job, delay)
}

struct Sender {
    client: JobsClient,
    journal: Journal,
}

impl Sender {
    /// Sends a job. Records that it is sent, and whether the broker has confirmed it.
    async fn send(&self, job: Job, delay: Duration) {
        self.journal.write(&Record::Sent {
            at: now(),
            job: job.clone(),
            delay_ms: delay.as_millis() as u64,
        });
        let call = self.client.perform(&job).timeout(LIMIT);
        let returned = if delay.is_zero() {
            call.await
        } else {
            call.delay(delay).await
        };
        self.journal.write(&Record::Returned {
            at: now(),
            job: job.name,
            error: returned.err().map(|error| Chain(&error).to_string()),
        });
    }
}
