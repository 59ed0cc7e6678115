//! Calls that go on while their worker is killed, in Rust: see `python/survivor.py`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rpc_conformance::ConformanceClient;
use rpc_runtime::{Broker, CallError, Codec, Executed, FaultCode, StreamingCall};
use rpc_tests::rabbit::{shared, unique};
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep, timeout};

use crate::callers::{Outcome, Report};

const LIMIT: Duration = Duration::from_secs(60);

/// How long a stream may seem to go on after its worker's end.
const NOTICED: Duration = Duration::from_secs(20);

/// How long calls may take to reach the paused worker.
const SENT: Duration = Duration::from_secs(4);
const ITEMS: u64 = 2000;

/// What callers and the test wait for: streams have begun, the worker is paused, calls are sent.
pub(crate) struct Steps(Barrier);

impl Steps {
    /// For this many callers and tests.
    pub(crate) fn new(parties: usize) -> Self {
        Self(Barrier::new(parties))
    }

    pub(crate) async fn next(&self) {
        let waiting = timeout(LIMIT, self.0.wait()).await;
        waiting.expect("all callers get so far");
    }
}

/// Plays the part of a caller in Rust.
pub(crate) async fn run(queue: &str, codec: Codec, worker_is: &Steps) -> Result<Vec<Report>, String> {
    let broker = Broker::connect(shared().await).await.expect("the broker runs");
    let client = ConformanceClient::builder(&broker).queue(queue).codec(codec);
    let client = client.timeout(LIMIT).build();
    let mut ticks = client.ticks(&unique("ticks"), 20).timeout(LIMIT);
    let mut numbers = client.resumable(ITEMS, None).timeout(LIMIT).credit(8);
    begin(&mut ticks).await.map_err(|error| error.to_string())?;
    begin(&mut numbers).await.map_err(|error| error.to_string())?;
    worker_is.next().await;
    worker_is.next().await;
    let (idempotent, other, (stream, resumable)) =
        tokio::join!(idempotent_call(&client), other_call(&client), async {
            sleep(SENT).await;
            worker_is.next().await;
            tokio::join!(stream(ticks), resumable_stream(numbers))
        });
    let outcomes = [
        ("idempotent_call", idempotent),
        ("other_call", other),
        ("stream", stream),
        ("resumable_stream", resumable),
    ];
    let reports = outcomes.map(|(name, outcome)| {
        let outcome = outcome.map_or_else(|error| Outcome::Failed(format!("{error:#}")), |()| Outcome::Ok);
        (name.to_owned(), outcome)
    });
    Ok(reports.into())
}

async fn begin(numbers: &mut StreamingCall<u64>) -> Result<()> {
    for expected in 0..3 {
        let number = numbers.next().await.context("an item is missing")??;
        ensure!(number == expected, "{number} instead of {expected}");
    }
    Ok(())
}

/// Is answered by the next worker.
async fn idempotent_call(client: &ConformanceClient) -> Result<()> {
    let back = client.echo_text("again").await?;
    ensure!(back == "again", "{back}");
    Ok(())
}

/// Fails, because the next worker cannot know whether it ran.
async fn other_call(client: &ConformanceClient) -> Result<()> {
    let error = match client.refuse(1, None).await {
        Err(error) => error,
        Ok(number) => bail!("it returns {number}"),
    };
    let is_interrupted = matches!(&error, CallError::Fault(fault) if fault.code == FaultCode::Interrupted);
    ensure!(is_interrupted && error.executed() == Executed::Maybe, "{error:?}");
    Ok(())
}

/// Ends with an error.
async fn stream(mut ticks: StreamingCall<u64>) -> Result<()> {
    let (mut expected, mut last) = (3, Instant::now());
    let error = loop {
        match ticks.next().await.context("an error is missing")? {
            Ok(tick) => {
                ensure!(tick == expected, "{tick} instead of {expected}");
                expected += 1;
                last = Instant::now();
            }
            Err(error) => break error,
        }
    };
    let is_interrupted = matches!(&error, CallError::Fault(fault) if fault.code == FaultCode::Interrupted);
    ensure!(is_interrupted && error.executed() == Executed::Maybe, "{error:?}");
    ensure!(last.elapsed() < NOTICED, "it took {:?}", last.elapsed());
    Ok(())
}

/// Goes on at the next worker.
async fn resumable_stream(mut numbers: StreamingCall<u64>) -> Result<()> {
    for expected in 3..ITEMS {
        let number = numbers.next().await.context("an item is missing")??;
        ensure!(number == expected, "{number} instead of {expected}");
    }
    ensure!(numbers.next().await.is_none());
    Ok(())
}
