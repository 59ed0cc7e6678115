//! Each language calls each: all cases, with three callers and three workers, in MessagePack and
//! JSON.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use lapin::types::AMQPValue;
use rpc_runtime::Codec;
use rpc_tests::rabbit::{shared, unique};
use rpc_tests::raw::{RawPeer, next};

use crate::callers::{self, Outcome, Report};
use crate::cases::CASES;
use crate::workers::{Language, Worker};

/// What a language cannot do, with nothing to gain from it.
const SKIPPED: &[(Language, &str)] = &[
    // The compiler refuses such arguments.
    (Language::Rust, "invalid_argument"),
];

const CODECS: [Codec; 2] = [Codec::MessagePack, Codec::Json];

/// How long the broker may take to deliver a dead letter.
const LETTER_LIMIT: Duration = Duration::from_secs(30);

/// How many callers run at the same time.
const CALLERS_AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_workers_of_all_languages_understand_each_other() {
    let everyone = unique("everyone");
    let queues = Language::ALL.map(|language| (language, unique(&format!("conformance-{language}"))));
    let starting = queues
        .iter()
        .map(|(language, queue)| Worker::start(*language, queue, &everyone));
    let workers = join_all(starting).await;

    let mut runs = Vec::new();
    for caller in Language::ALL {
        for codec in CODECS {
            runs.extend(
                queues
                    .iter()
                    .map(|(worker, queue)| (caller, *worker, queue, codec)),
            );
        }
    }
    let everyone = &everyone;
    let problems = stream::iter(runs).map(async |(caller, worker, queue, codec)| {
        let outcome = callers::run(caller, queue, everyone, codec).await;
        let what = format!(
            "caller in {caller}, worker in {worker}, {}",
            callers::name_of(codec)
        );
        let problems = outcome.map_or_else(|error| vec![error], |reports| problems(caller, &reports));
        problems
            .into_iter()
            .map(|problem| format!("{what}: {problem}"))
            .collect::<Vec<_>>()
    });
    let problems: Vec<_> = problems.buffer_unordered(CALLERS_AT_ONCE).collect().await;
    let problems = problems.concat();
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    for (language, queue) in &queues {
        assert_dead_letters(*language, queue, Language::ALL.len() * CODECS.len()).await;
    }
    for worker in workers {
        let status = worker.stop().await;
        assert!(status.success(), "{status}");
    }
}

/// Returns what is wrong with a caller's reports: failures, and cases that it leaves out.
fn problems(language: Language, reports: &[Report]) -> Vec<String> {
    let expected = CASES.iter().map(|case| case.name);
    let missing = expected.filter(|name| !reports.iter().any(|(reported, _)| reported == name));
    let missing = missing.map(|name| format!("{name} was not run"));
    let bad = reports.iter().filter_map(|(name, outcome)| match outcome {
        _ if !CASES.iter().any(|case| case.name == name) => Some(format!("{name} is no case")),
        Outcome::Ok => None,
        Outcome::Skipped(_) if SKIPPED.contains(&(language, &**name)) => None,
        Outcome::Skipped(reason) => Some(format!("{name} was skipped: {reason}")),
        Outcome::Failed(reason) => Some(format!("{name} failed: {reason}")),
    });
    missing.chain(bad).collect()
}

/// Each run of `dying_job` has left a dead letter.
async fn assert_dead_letters(language: Language, queue: &str, count: usize) {
    let peer = RawPeer::connect(shared().await).await.unwrap();
    let mut letters = peer.consume(&format!("{queue}.dead")).await.unwrap();
    for number in 0..count {
        let letter = next(&mut letters, LETTER_LIMIT).await.unwrap();
        let letter = letter.unwrap_or_else(|| panic!("{language}: {number} dead letters of {count}"));
        let headers = letter.properties.headers().as_ref().unwrap();
        let header = |name: &str| match headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("{language}: {name}: {other:?}"),
        };
        assert_eq!(header("rpc-reason"), "error", "{language}");
        assert_eq!(header("rpc-attempts"), "4", "{language}");
        assert_eq!(header("rpc-origin"), *queue, "{language}");
        assert_eq!(header("rpc-error"), r#"{"TooMany":4}"#, "{language}");
        assert!(header("rpc-first-failure").parse::<u64>().unwrap() > 0);
        assert!(
            String::from_utf8_lossy(&letter.data).contains("dying-"),
            "{language}"
        );
    }
    let more = next(&mut letters, Duration::from_millis(100)).await.unwrap();
    assert!(more.is_none(), "{language}: more than {count} dead letters");
}

#[test]
fn no_case_is_left_out_in_silence() {
    let mut reports: Vec<Report> = CASES
        .iter()
        .map(|case| (case.name.to_owned(), Outcome::Ok))
        .collect();
    assert_eq!(problems(Language::Python, &reports), [""; 0]);
    reports.remove(0);
    reports.push(("other".into(), Outcome::Ok));
    reports.retain(|(name, _)| name != "invalid_argument");
    let skipped = ("invalid_argument".to_owned(), Outcome::Skipped("why".into()));
    reports.push(skipped);
    let found = problems(Language::Rust, &reports);
    assert_eq!(found, ["text was not run", "other is no case"]);
    let found = problems(Language::Python, &reports);
    assert_eq!(found.last().unwrap(), "invalid_argument was skipped: why");
}
