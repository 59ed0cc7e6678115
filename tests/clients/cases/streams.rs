//! Streams that methods return and receive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use rpc_conformance::{Refusal, Shape};
use rpc_runtime::{CallError, Executed};
use rpc_tests::until;
use tokio::time::sleep;

use super::errors::REFUSALS;
use super::{Caller, LIMIT, is_error, values};

pub(super) async fn count(caller: &Caller) -> Result<()> {
    for items in [0, 1, 10_000] {
        let mut numbers = caller.client.count(items);
        for expected in 0..items {
            let number = numbers.next().await.context("an item is missing")??;
            ensure!(number == expected, "{number} instead of {expected}");
        }
        ensure!(numbers.next().await.is_none());
    }
    Ok(())
}

pub(super) async fn failing_stream(caller: &Caller) -> Result<()> {
    for (number, expected) in (0..).zip(REFUSALS) {
        let items = 3 * u64::from(number);
        let mut numbers = caller.client.count_to(items, Some(number));
        for expected in 0..items {
            let number = numbers.next().await.context("an item is missing")?;
            ensure!(
                number.as_ref().ok() == Some(&expected),
                "{number:?} instead of {expected}"
            );
        }
        is_error(numbers.next().await.context("an error is missing")?, &expected)?;
        ensure!(numbers.next().await.is_none());
    }
    let whole: Vec<_> = caller.client.count_to(5, None).collect().await;
    ensure!(whole.len() == 5 && whole.iter().all(Result::is_ok), "{whole:?}");
    Ok(())
}

pub(super) async fn blobs(caller: &Caller) -> Result<()> {
    let sizes = [0, 1, 250, 70_000, 200_000, 3, 200_000, 200_000];
    let mut blobs = caller.client.blobs(&sizes);
    for size in sizes {
        let blob = blobs.next().await.context("an item is missing")??;
        let expected: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        ensure!(
            blob == expected,
            "a blob of {size} bytes is another one of {}",
            blob.len()
        );
    }
    ensure!(blobs.next().await.is_none());
    Ok(())
}

/// Each item has to be granted, and a pause of the reader ends nothing.
pub(super) async fn little_credit(caller: &Caller) -> Result<()> {
    let mut numbers = caller.client.count(200).credit(4).credit_bytes(20);
    for expected in 0..200 {
        let number = numbers.next().await.context("an item is missing")??;
        ensure!(number == expected, "{number} instead of {expected}");
        if expected % 50 == 0 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    ensure!(numbers.next().await.is_none());
    Ok(())
}

pub(super) async fn left_early(caller: &Caller) -> Result<()> {
    let entry = Caller::entry("ticks");
    let mut ticks = caller.client.ticks(&entry, 2);
    for expected in 0..5 {
        let tick = ticks.next().await.context("an item is missing")??;
        ensure!(tick == expected, "{tick} instead of {expected}");
    }
    ensure!(caller.client.stopped(&entry).await? == 0);
    drop(ticks);
    let has_stopped = async || Ok(caller.client.stopped(&entry).await? == 1);
    until("the method stops", LIMIT, has_stopped).await
}

pub(super) async fn resumed(caller: &Caller) -> Result<()> {
    for (after, first) in [(None, 0), (Some(49), 50), (Some(99), 100)] {
        let numbers: Vec<_> = caller.client.resumable(100, after).collect().await;
        let numbers: Vec<u64> = numbers.into_iter().collect::<Result<_, _>>()?;
        ensure!(numbers.into_iter().eq(first..100), "after {after:?}");
    }
    Ok(())
}

/// More than a worker runs requests at once.
pub(super) async fn many_streams(caller: &Caller) -> Result<()> {
    let streams = (0..30).map(async |items| {
        let numbers: Vec<_> = caller.client.count(items).collect().await;
        let numbers: Vec<u64> = numbers.into_iter().collect::<Result<_, _>>()?;
        ensure!(numbers.into_iter().eq(0..items), "{items} items");
        Ok(())
    });
    try_join_all(streams).await?;
    Ok(())
}

pub(super) async fn sum(caller: &Caller) -> Result<()> {
    let sum = caller.client.sum(stream::iter(0..10_000)).await?;
    ensure!(sum == 49_995_000, "{sum}");
    Ok(())
}

pub(super) async fn sum_of_nothing(caller: &Caller) -> Result<()> {
    let sum = caller.client.sum(stream::iter([])).await?;
    ensure!(sum == 0, "{sum}");
    Ok(())
}

pub(super) async fn concat(caller: &Caller) -> Result<()> {
    let parts: Vec<Vec<u8>> = [0, 1, 100_000, 30_000]
        .map(|size| (0..=255).cycle().take(size).collect())
        .into();
    let whole = caller.client.concat(200_000, stream::iter(parts.clone())).await;
    match whole {
        Ok(whole) => ensure!(whole == parts.concat(), "{} bytes", whole.len()),
        Err(error) => bail!("{error:?}"),
    }
    Ok(())
}

/// The method takes no more than it wants, so the caller stops sending.
pub(super) async fn refused_parts(caller: &Caller) -> Result<()> {
    let sent = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&sent);
    let parts = stream::repeat_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        vec![7; 10_000]
    });
    let outcome = caller.client.concat(95_000, parts).await;
    let outcome = outcome.map(|whole| whole.len());
    ensure!(
        outcome
            .as_ref()
            .is_err_and(|error| error.executed() == Executed::Yes),
        "{outcome:?}"
    );
    is_error(outcome, &Refusal::TooMany(95_000))?;
    let sent = sent.load(Ordering::Relaxed);
    ensure!((10..2000).contains(&sent), "{sent} parts were sent");
    Ok(())
}

pub(super) async fn take(caller: &Caller) -> Result<()> {
    let people = stream::repeat_with(|| values::person_named("Alice"));
    let taken = caller.client.take(3, people).await?;
    ensure!(taken == 3, "{taken}");
    let people = stream::iter([values::person_named("Bob")]);
    let taken = caller.client.take(3, people).await?;
    ensure!(taken == 1, "{taken}");
    Ok(())
}

pub(super) async fn answer(caller: &Caller) -> Result<()> {
    let lines = (0..500).map(|number| number.to_string());
    let mut answers = caller.client.answer("line", stream::iter(lines)).credit(16);
    for number in 0..500 {
        let answer = answers.next().await.context("an item is missing")??;
        ensure!(answer == format!("line: {number}"), "{answer}");
    }
    ensure!(answers.next().await.is_none());
    Ok(())
}

pub(super) async fn check(caller: &Caller) -> Result<()> {
    let good: Vec<_> = values::shapes()
        .into_iter()
        .filter(|it| *it != Shape::Nothing)
        .collect();
    let sent = good
        .clone()
        .into_iter()
        .chain([Shape::Nothing, Shape::Circle(1.0)]);
    let mut checked = caller.client.check(stream::iter(sent));
    for expected in good {
        let shape = checked.next().await.context("an item is missing")?;
        ensure!(
            shape.as_ref().ok() == Some(&expected),
            "{shape:?} instead of {expected:?}"
        );
    }
    let end = checked.next().await.context("an error is missing")?;
    ensure!(matches!(end, Err(CallError::Service(Refusal::Closed))), "{end:?}");
    ensure!(checked.next().await.is_none());
    Ok(())
}
