//! Arguments, headers, times, cancellation, and requests without a reply.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use rpc_conformance::Refusal;
use rpc_runtime::{CallError, Executed, FaultCode};
use rpc_tests::until;
use tokio::time::{Instant, sleep, timeout};

use super::{Caller, LIMIT, is_error};

/// How long a request may take to reach its method. After that, its method does not begin.
const PATIENCE: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(8),
];

pub(super) async fn arguments(caller: &Caller) -> Result<()> {
    let client = &caller.client;
    let joined = client.join("one", Some("two".into()), "four".into()).await?;
    ensure!(joined == "one two four", "{joined}");
    let joined = client.join("", None, String::new()).await?;
    ensure!(joined == " - ", "{joined:?}");
    Ok(())
}

pub(super) async fn default_argument(caller: &Caller) -> Result<()> {
    let joined = caller.foreign.join("one").await?;
    ensure!(joined == "one - three", "{joined}");
    Ok(())
}

/// `foreign` has the alias.
pub(super) async fn alias(caller: &Caller) -> Result<()> {
    let joined = caller.foreign.join("\u{1f980}").await?;
    ensure!(joined == "\u{1f980} - three", "{joined}");
    Ok(())
}

pub(super) async fn unknown_argument(caller: &Caller) -> Result<()> {
    ensure!(caller.foreign.double(3, 9).await? == 6);
    Ok(())
}

pub(super) async fn names(caller: &Caller) -> Result<()> {
    ensure!(caller.client.with_options(100, 20, 3).await? == 123);
    Ok(())
}

/// A method that the worker need not implement, in Rust.
pub(super) async fn default_method(caller: &Caller) -> Result<()> {
    ensure!(caller.client.double(u32::MAX).await? == 8_589_934_590);
    Ok(())
}

pub(super) async fn header(caller: &Caller) -> Result<()> {
    for value in ["", "acme", "\u{20ac}\u{1f980}"] {
        let call = caller.client.header("x-tenant").header("x-tenant", value);
        let back = call.await?;
        ensure!(back.as_deref() == Some(value), "{value:?} came back as {back:?}");
    }
    ensure!(caller.client.header("x-tenant").await?.is_none());
    Ok(())
}

pub(super) async fn time_left(caller: &Caller) -> Result<()> {
    let left = caller.client.time_left().timeout(Duration::from_secs(10)).await?;
    let left = left.context("a call has a deadline")?;
    ensure!((2000..=10_000).contains(&left), "{left} ms are left");
    Ok(())
}

pub(super) async fn many_calls(caller: &Caller) -> Result<()> {
    let calls = (0..300u32).map(async |number| {
        let double = caller.client.double(number).await?;
        ensure!(double == 2 * u64::from(number), "{number}: {double}");
        Ok(())
    });
    try_join_all(calls).await?;
    Ok(())
}

/// `sleep` has a limit of half a second.
pub(super) async fn deadline(caller: &Caller) -> Result<()> {
    ensure!(caller.client.sleep(1).timeout(LIMIT).await? == 1);
    let (error, waited) = sleeps_too_long(caller).await;
    let is_timeout = matches!(
        error,
        CallError::TimedOut {
            executed: Executed::Maybe,
            ..
        }
    );
    ensure!(is_timeout && !error.is_retryable(), "{error:?}");
    let expected = Duration::from_millis(490)..Duration::from_secs(10);
    ensure!(expected.contains(&waited), "{waited:?}");
    Ok(())
}

/// Returns how a call ends that takes longer than its limit, and when. A busy caller may not send
/// it in time, and a busy worker may not begin it.
async fn sleeps_too_long(caller: &Caller) -> (CallError, Duration) {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let began = Instant::now();
        let error = caller.client.sleep(12_000).await.unwrap_err();
        if error.executed() != Executed::No || attempts == 3 {
            return (error, began.elapsed());
        }
    }
}

/// Fails unless the method stops whose caller gives up after some time.
async fn stops(caller: &Caller, give_up: impl AsyncFn(&str, Duration) -> Result<()>) -> Result<()> {
    for patience in PATIENCE {
        let entry = Caller::entry("wait");
        give_up(&entry, patience).await?;
        let has_stopped = async || Ok(caller.client.stopped(&entry).await? > 0);
        let limit = Duration::from_secs(5);
        if until("the method stops", limit, has_stopped).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
            let stopped = caller.client.stopped(&entry).await?;
            ensure!(stopped == 1, "it stopped {stopped} times");
            return Ok(());
        }
    }
    bail!("the method does not stop")
}

fn is_late(code: &FaultCode) -> bool {
    matches!(code, FaultCode::Abandoned | FaultCode::Expired)
}

pub(super) async fn deadline_stops_the_method(caller: &Caller) -> Result<()> {
    let give_up = async |entry: &str, patience| {
        // A second later, the worker says so itself. A busy caller may read that first. A busy
        // worker may not begin the method.
        match caller.client.wait(entry, 60_000).timeout(patience).await {
            Err(CallError::TimedOut { .. }) => {}
            Err(CallError::Fault(fault)) if is_late(&fault.code) => {}
            outcome => bail!("expected a timeout: {outcome:?}"),
        }
        Ok(())
    };
    stops(caller, give_up).await
}

pub(super) async fn cancel(caller: &Caller) -> Result<()> {
    ensure!(caller.client.wait(&Caller::entry("wait"), 1).await? == 1);
    let give_up = async |entry: &str, patience| {
        let call = caller.client.wait(entry, 60_000);
        ensure!(timeout(patience, call).await.is_err(), "it should go on");
        Ok(())
    };
    stops(caller, give_up).await
}

async fn ran(caller: &Caller, entry: &str, times: u32) -> Result<()> {
    let has_run = async || Ok(caller.client.runs(entry).await? >= times);
    until("the method runs", LIMIT, has_run).await?;
    // Once more is once too often.
    sleep(Duration::from_millis(300)).await;
    let runs = caller.client.runs(entry).await?;
    ensure!(runs == times, "it ran {runs} times");
    Ok(())
}

pub(super) async fn notify(caller: &Caller) -> Result<()> {
    let entry = Caller::entry("notify");
    caller.client.notify(&entry).await?;
    ran(caller, &entry, 1).await
}

pub(super) async fn job(caller: &Caller) -> Result<()> {
    let (first, third) = (Caller::entry("job"), Caller::entry("job"));
    caller.client.record(&third, 2).await?;
    caller.client.record(&first, 0).await?;
    ran(caller, &first, 1).await?;
    ran(caller, &third, 3).await
}

/// The harness looks for its dead letter.
pub(super) async fn dying_job(caller: &Caller) -> Result<()> {
    let entry = Caller::entry("dying");
    caller.client.record(&entry, 9).await?;
    ran(caller, &entry, 4).await
}

pub(super) async fn delayed_job(caller: &Caller) -> Result<()> {
    let entry = Caller::entry("delayed");
    let began = Instant::now();
    caller
        .client
        .record(&entry, 0)
        .delay(Duration::from_secs(1))
        .await?;
    ran(caller, &entry, 1).await?;
    let waited = began.elapsed();
    ensure!(waited >= Duration::from_secs(1), "it ran after {waited:?}");
    Ok(())
}

/// There is a worker in each of three languages.
const WORKERS: usize = 3;

pub(super) async fn broadcast(caller: &Caller) -> Result<()> {
    let entry = Caller::entry("ask");
    let asked = caller.everyone.ask(&entry).expect_workers(WORKERS).send().await?;
    let gathered = asked.collect().await;
    ensure!(gathered.answers.len() == WORKERS, "{:?}", gathered.answers);
    let mut ids = Vec::new();
    for (worker, answer) in gathered.answers {
        ensure!(answer? == entry);
        ids.push(worker.id);
    }
    ids.sort();
    ids.dedup();
    ensure!(ids.len() == WORKERS, "{ids:?}");
    Ok(())
}

pub(super) async fn failing_broadcast(caller: &Caller) -> Result<()> {
    let mut asked = caller.everyone.ask("").expect_workers(WORKERS).send().await?;
    let mut answers = 0;
    while let Some((_, answer)) = asked.next().await {
        is_error(answer, &Refusal::Closed)?;
        answers += 1;
    }
    ensure!(answers == WORKERS, "{answers} answers");
    Ok(())
}

/// Only the worker of the first queue is asked whether it has run.
pub(super) async fn notifying_broadcast(caller: &Caller) -> Result<()> {
    let entry = Caller::entry("tell");
    caller.client.tell(&entry).await?;
    ran(caller, &entry, 1).await
}
