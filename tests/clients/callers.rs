//! Callers in all languages, which run all cases.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use rpc_runtime::{Broker, Codec};
use rpc_tests::programs::text;
use rpc_tests::rabbit::shared;
use tokio::time::timeout;

use crate::cases::{CASES, Caller, Case, Skipped};
use crate::programs;
use crate::workers::Language;

/// How many cases a caller runs at once, in all languages.
const AT_ONCE: usize = 4;

/// How long a case may take.
const CASE_LIMIT: Duration = Duration::from_secs(60);

/// How long a caller may take.
const LIMIT: Duration = Duration::from_secs(180);

/// How a case went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Skipped(String),
    Failed(String),
}

/// A case's name, and how it went.
pub(crate) type Report = (String, Outcome);

/// The name of a codec, as callers in other languages know it.
pub(crate) fn name_of(codec: Codec) -> &'static str {
    match codec {
        Codec::MessagePack => "msgpack",
        _ => "json",
    }
}

/// Lets a caller run all cases.
///
/// # Errors
///
/// Fails if the caller does not run them to the end.
pub(crate) async fn run(
    language: Language,
    queue: &str,
    everyone: &str,
    codec: Codec,
) -> Result<Vec<Report>, String> {
    if language == Language::Rust {
        return Ok(run_in_rust(queue, everyone, codec).await);
    }
    let mut caller = language.program("caller").await;
    caller.args([queue, everyone, name_of(codec)]);
    let output = programs::output(&mut caller, LIMIT).await?;
    let reports = read(&text(&output.stdout))?;
    let has_failed = reports
        .iter()
        .any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    match output.status.success() == has_failed {
        false => Ok(reports),
        true => Err(format!(
            "the caller ends with {}: {}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        )),
    }
}

/// Reads what callers print: `ok NAME`, `failed NAME: REASON` or `skipped NAME: REASON`.
pub(crate) fn read(lines: &str) -> Result<Vec<Report>, String> {
    let read = |line: &str| {
        let (kind, rest) = line.split_once(' ')?;
        let (name, reason) = rest.split_once(": ").unwrap_or((rest, ""));
        let outcome = match kind {
            "ok" => Outcome::Ok,
            "failed" => Outcome::Failed(reason.to_owned()),
            "skipped" => Outcome::Skipped(reason.to_owned()),
            _ => return None,
        };
        Some((name.to_owned(), outcome))
    };
    let reports = lines
        .lines()
        .map(|line| read(line).ok_or_else(|| format!("it prints {line:?}")));
    reports.collect()
}

async fn run_in_rust(queue: &str, everyone: &str, codec: Codec) -> Vec<Report> {
    let broker = Broker::connect(shared().await).await.expect("the broker runs");
    let caller = Arc::new(Caller::new(&broker, queue, everyone, codec));
    let runs = stream::iter(CASES).map(|case| run_case(case, Arc::clone(&caller)));
    let reports = runs.buffer_unordered(AT_ONCE).collect().await;
    broker.close().await;
    reports
}

async fn run_case(case: &Case, caller: Arc<Caller>) -> Report {
    let outcome = match timeout(CASE_LIMIT, (case.run)(caller)).await {
        Ok(Ok(())) => Outcome::Ok,
        Ok(Err(error)) => match error.downcast_ref::<Skipped>() {
            Some(skipped) => Outcome::Skipped(skipped.to_string()),
            None => Outcome::Failed(format!("{error:#}")),
        },
        Err(_) => Outcome::Failed(format!("it takes longer than {CASE_LIMIT:?}")),
    };
    (case.name.to_owned(), outcome)
}

#[test]
fn reports_are_read() {
    let reports = read("ok a\nfailed b: x: y\nskipped c: z\n").unwrap();
    let expected = [
        ("a".to_owned(), Outcome::Ok),
        ("b".to_owned(), Outcome::Failed("x: y".into())),
        ("c".to_owned(), Outcome::Skipped("z".into())),
    ];
    assert_eq!(reports, expected);
    assert_eq!(read("Traceback").unwrap_err(), "it prints \"Traceback\"");
}
