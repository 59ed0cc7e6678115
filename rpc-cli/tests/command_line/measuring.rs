//! `ping`, `stats` and `bench`.

use std::process::Stdio;

use rpc_tests::gate::SOON;
use rpc_tests::programs::{LIMIT, text};
use rpc_tests::rabbit::Vhost;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::program::{Printed, directory_on, interrupt, is_late, library, program, rpc, rpc_until};

#[tokio::test]
async fn ping_shows_replies_and_a_summary() {
    let vhost = Vhost::new().await;
    let _workers = (directory_on(&vhost, "rpc_queue").await, library(&vhost).await);
    let quickly = ["--count", "2", "--interval", "10ms", "--timeout", "60s"];
    let pinged = rpc_until(&vhost, &[&["ping"], &quickly[..]].concat(), |pinged| {
        pinged.stdout.contains("\n4 sent, ")
    })
    .await;
    let result = pinged.result();
    assert_eq!(result.matches("rpc_queue: worker ").count(), 2, "{result}");
    assert_eq!(result.matches("books: worker ").count(), 2, "{result}");
    assert!(result.ends_with("\n4 sent, 4 answered, 0% lost\n"), "{result}");
    let pid = format!("process {}: seq=1 time=", std::process::id());
    assert!(result.contains(&pid), "{result}");

    for whom in [&["UserDirectory"][..], &["--queue", "rpc_queue"]] {
        let pinged = rpc(&vhost, &[&["ping", "--json"], whom, &quickly].concat())
            .await
            .json_lines();
        assert_eq!(pinged.len(), 3);
        assert_eq!(
            (&pinged[1]["seq"], &pinged[1]["worker"]["pid"]),
            (&json!(2), &json!(std::process::id()))
        );
        assert_eq!(
            (&pinged[2]["sent"], &pinged[2]["answered"]),
            (&json!(2), &json!(2))
        );
    }
    let lost = rpc(&vhost, &[&["ping", "--queue", "nowhere"], &quickly[..]].concat()).await;
    assert_eq!(lost.code, 1);
    assert!(
        lost.stdout.contains("nowhere: seq=2: no server")
            && lost.stdout.ends_with("2 sent, 0 answered, 100% lost\n"),
        "{lost:?}"
    );
}

#[tokio::test]
async fn stats_are_summed_up_over_all_workers() {
    let vhost = Vhost::new().await;
    let _workers = (
        directory_on(&vhost, "rpc_queue").await,
        directory_on(&vhost, "rpc_queue").await,
    );
    for _ in 0..3 {
        rpc(&vhost, &["call", "--queue", "rpc_queue", "count"])
            .await
            .result();
    }
    rpc(&vhost, &["call", "--queue", "rpc_queue", "get_email", "[\"?\"]"])
        .await
        .failure(1);
    counted(&vhost, "count", [2, 3, 0, 0, 0]).await;
    counted(&vhost, "get_email", [2, 1, 1, 0, 0]).await;

    let table = rpc(&vhost, &["stats"]).await;
    assert_eq!(table.result().lines().count(), 3, "{table:?}");
    let has_lines = |lines| move |printed: &Printed| printed.stdout.lines().count() == lines;
    let table = rpc_until(&vhost, &["stats", "--workers"], has_lines(5)).await;
    assert_eq!(table.result().lines().count(), 5, "{table:?}");

    let watch = ["stats", "--watch", "100ms", "--count", "2"];
    let has_both_updates = |printed: &Printed| printed.stderr.is_empty();
    let watched = rpc_until(&vhost, &watch, has_both_updates).await;
    for column in ["DEPTH", "CONSUMERS", "ERRORS", "WAIT", "CALLS/S", "ERRORS/S"] {
        let shown = watched.result().split_whitespace().filter(|word| *word == column);
        assert_eq!(shown.count(), 2, "{watched:?}");
    }
    assert!(!watched.stdout.contains('\u{1b}'), "{watched:?}");
    let watched = rpc_until(&vhost, &[&watch[..], &["--json"]].concat(), |watched| {
        watched.stdout.matches("\"workers\":2").count() == 4
    })
    .await
    .json_lines();
    assert_eq!(watched[1]["methods"][0]["calls_per_second"], 0.0);
    assert_eq!(watched[1]["methods"][0]["failures_per_second"], 0.0);
    assert_eq!(watched[1]["methods"][0]["shed_per_second"], 0.0);
    assert_eq!(watched[1]["methods"][0]["queue_time_ns"], 0);
}

#[tokio::test]
async fn stats_watch_goes_on_without_workers() {
    let vhost = Vhost::new().await;
    let worker = directory_on(&vhost, "rpc_queue").await;
    let mut watching = program(&["stats", "--watch", "50ms", "--window", "50ms", "--json"])
        .env("AMQP_URL", vhost.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut told = BufReader::new(watching.stderr.take().unwrap()).lines();
    let shows = tokio::time::timeout(LIMIT, shown.next_line());
    assert!(
        shows
            .await
            .expect("a line")
            .unwrap()
            .unwrap()
            .contains("UserDirectory")
    );

    worker.stop().await.unwrap();
    let note = tokio::time::timeout(LIMIT, told.next_line());
    let note: Value = serde_json::from_str(&note.await.expect("a note").unwrap().unwrap()).unwrap();
    assert_eq!(note["note"], "nothing to show now: no worker was found");

    let _worker = directory_on(&vhost, "other").await;
    tokio::time::timeout(LIMIT, async {
        while !shown
            .next_line()
            .await
            .unwrap()
            .expect("it goes on")
            .contains("other")
        {}
    })
    .await
    .expect("the new worker is shown");
    interrupt(watching.id().unwrap()).await;
    assert_eq!(watching.wait().await.unwrap().code(), Some(0));

    // Where there was nothing to see at all, that is told in the end.
    let nothing = [
        "stats", "Nobody", "--watch", "50ms", "--window", "50ms", "--count", "2",
    ];
    let nothing = rpc(&vhost, &nothing).await;
    assert!(
        nothing.failure(3).contains("rpc: no service Nobody was found"),
        "{nothing:?}"
    );
}

#[tokio::test]
async fn bench_measures_calls() {
    let vhost = Vhost::new().await;
    let _worker = directory_on(&vhost, "rpc_queue").await;
    let bench = [
        "bench",
        "UserDirectory",
        "count",
        "--count",
        "500",
        "--concurrency",
        "8",
    ];
    let measured = rpc(&vhost, &[&bench[..], &["--json"]].concat()).await.json();
    assert_eq!(
        (&measured["calls"], &measured["outcomes"]),
        (&json!(500), &json!({"ok": 500}))
    );
    let times: Vec<_> = ["min", "p50", "p99", "p99.9", "max"]
        .map(|name| measured["latency_ns"][name].as_u64().unwrap())
        .into();
    assert!(times[0] > 0 && times.is_sorted(), "{times:?}");
    // One more than were measured.
    counted(&vhost, "count", [1, 501, 0, 0, 0]).await;

    let measured = rpc(&vhost, &bench).await;
    let result = measured.result();
    assert!(
        result.starts_with("UserDirectory.count on rpc_queue: 8 calls in flight\n\ncalls     500 in "),
        "{result}"
    );
    assert!(
        result.contains("\noutcomes  ok 500\n") && result.contains("  99.9%  "),
        "{result}"
    );
    assert!(result.contains(&"#".repeat(40)), "{result}");

    let paced = [
        "--rate",
        "200",
        "--duration",
        "500ms",
        "--codec",
        "msgpack",
        "--json",
    ];
    let measured = rpc(
        &vhost,
        &[&["bench", "UserDirectory", "count"], &paced[..]].concat(),
    )
    .await
    .json();
    let calls = measured["calls"].as_u64().unwrap() + measured["missed"].as_u64().unwrap();
    assert_eq!(calls, 100, "{measured}");
    assert!(measured["seconds"].as_f64().unwrap() > 0.45, "{measured}");
}

#[tokio::test]
async fn bench_refuses_methods_that_are_not_idempotent_and_reports_failures() {
    let vhost = Vhost::new().await;
    let _workers = (library(&vhost).await, directory_on(&vhost, "rpc_queue").await);
    let refused = rpc(&vhost, &["bench", "Library", "bytes", "--count", "5"]).await;
    assert!(
        refused.failure(2).contains("not idempotent") && refused.stderr.contains("--force"),
        "{refused:?}"
    );
    let forced = rpc(
        &vhost,
        &["bench", "Library", "bytes", "--count", "5", "--force", "--json"],
    )
    .await;
    assert_eq!(forced.json()["outcomes"], json!({"ok": 5}));

    // The first call says what is wrong with all of them.
    let refused = rpc(
        &vhost,
        &["bench", "UserDirectory", "get_email", "{}", "--count", "5"],
    )
    .await;
    assert!(refused.failure(3).contains("bad_request"), "{refused:?}");
    let late = rpc(
        &vhost,
        &["bench", "Library", "search", "--count", "5", "--timeout", "5s"],
    )
    .await;
    assert!(is_late(late.failure(4)), "{late:?}");

    let failed = rpc(
        &vhost,
        &[
            "bench",
            "UserDirectory",
            "get_email",
            "[\"?\"]",
            "--count",
            "5",
            "--json",
        ],
    )
    .await;
    let told: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(
        (failed.code, &told["outcomes"]),
        (1, &json!({"error": 5})),
        "{failed:?}"
    );
}

#[tokio::test]
async fn ctrl_c_prints_what_was_measured() {
    let vhost = Vhost::new().await;
    let _worker = directory_on(&vhost, "rpc_queue").await;
    let mut pinging = program(&[
        "ping",
        "--queue",
        "rpc_queue",
        "--count",
        "0",
        "--interval",
        "10ms",
        "--timeout",
        "60s",
    ])
    .env("AMQP_URL", vhost.url())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(pinging.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().contains("seq=1"));
    interrupt(pinging.id().unwrap()).await;
    let mut last = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        last = line;
    }
    assert!(last.ends_with("0% lost"), "{last}");
    assert_eq!(pinging.wait().await.unwrap().code(), Some(0));

    let benching = program(&[
        "bench",
        "--queue",
        "rpc_queue",
        "count",
        "--duration",
        "1h",
        "--json",
    ])
    .env("AMQP_URL", vhost.url())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    rpc_tests::until("calls are made", LIMIT, async || {
        let stats = rpc(&vhost, &["stats", "UserDirectory", "--json"]).await;
        if stats.code != 0 {
            return Ok(false);
        }
        let stats = stats.json();
        Ok(stats["methods"][0]["calls"].as_u64() > Some(10))
    })
    .await
    .unwrap();
    interrupt(benching.id().unwrap()).await;
    let output = tokio::time::timeout(LIMIT, benching.wait_with_output())
        .await
        .expect("it ends")
        .unwrap();
    let told: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(
        (output.status.code(), &told["interrupted"]),
        (Some(0), &json!(true)),
        "{told}"
    );
    assert!(told["outcomes"]["ok"].as_u64() > Some(0), "{told}");
}

/// Waits until `stats` shows these workers, calls, errors, failures and calls in flight of a
/// method. A worker counts a call after it has replied.
async fn counted(vhost: &Vhost, method: &str, expected: [u64; 5]) {
    let mut last = [0; 5];
    let counted = rpc_tests::until("all calls are counted", SOON, async || {
        let stats = rpc(vhost, &["stats", "UserDirectory", "--json"]).await;
        if stats.code != 0 {
            return Ok(false);
        }
        let stats = stats.json();
        let mut all = stats["methods"].as_array().unwrap().iter();
        let stats = all.find(|stats| stats["method"] == method).unwrap();
        last =
            ["workers", "calls", "errors", "failures", "in_flight"].map(|key| stats[key].as_u64().unwrap());
        Ok(last == expected)
    });
    let counted = counted.await;
    assert!(counted.is_ok(), "{method}: {last:?}");
}
