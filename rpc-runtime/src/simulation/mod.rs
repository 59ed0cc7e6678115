//! Deterministic simulation: checks the promises of `docs/reliability.md` under injected faults.
//!
//! A simulation consists of callers, workers and the in-process broker. Its clock is paused and
//! advances only when all tasks wait. A seed determines the scenario (calls, handlers, latencies,
//! faults) and how it unfolds, so each seed has exactly one history.
//!
//! `SEEDS=10000 cargo test -p rpc-runtime simulation` tries more seeds, and `FIRST=…` sets the
//! first one. A failure prints the seeds that failed, with the scenario of the first one;
//! `SEED=… cargo test -p rpc-runtime simulation` repeats one seed.

use std::fmt::Write;
use std::sync::Arc;

mod broadcast_plan;
mod broadcasts;
mod check;
mod cluster;
mod faults;
mod history;
mod hostile;
mod invariants;
mod job_plan;
mod jobs;
mod network;
mod overload;
mod scenario;
mod stream_plan;
mod streams;
mod times;
mod upload_plan;
mod uploads;

use invariants::violations;
use scenario::Scenario;

/// How many seeds are tried unless `SEEDS` is set.
const DEFAULT_SEEDS: u64 = 500;

/// Reads a number from an environment variable. `None` if the variable is not set.
fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
    )
}

/// Runs a simulation. Returns a report of the broken promises, or `None` if all were kept.
fn report(seed: u64) -> Option<String> {
    let scenario = Arc::new(Scenario::new(seed));
    let history = cluster::run(seed, &scenario);
    let broken = violations(&scenario, &history);
    if broken.is_empty() {
        return None;
    }
    let Scenario {
        profile,
        callers,
        workers,
        worker_batching,
        concurrency,
        latency,
        jobs,
        faults,
        ..
    } = &*scenario;
    let mut text = format!(
        "seed {seed} broke promises; repeat with SEED={seed} cargo test -p rpc-runtime simulation\n\
         {profile:?}, {workers} workers of concurrency {concurrency}, batching {worker_batching:?}, latency up to {latency} ms, \
         quorum queue {}\n",
        jobs.is_quorum
    );
    for (number, caller) in callers.iter().enumerate() {
        let _ = writeln!(text, "  caller {number}: {caller:?}");
    }
    for (at, fault) in faults {
        let _ = writeln!(text, "  {at:?}: {fault:?}");
    }
    for reason in broken {
        let _ = writeln!(text, "  {reason}");
    }
    Some(text)
}

#[test]
fn every_seed_keeps_the_promises() {
    let seeds = match (setting("SEED"), setting("FIRST").unwrap_or(0)) {
        (Some(seed), _) => seed..seed + 1,
        (None, first) => first..first + setting("SEEDS").unwrap_or(DEFAULT_SEEDS),
    };
    let reports: Vec<_> = seeds.clone().filter_map(report).collect();
    let (bad, all) = (reports.len(), seeds.count());
    if let Some(first) = reports.first() {
        let others: Vec<_> = reports
            .iter()
            .skip(1)
            .filter_map(|text| text.lines().next())
            .collect();
        panic!(
            "{bad} of {all} seeds broke promises\n{first}\n{}",
            others.join("\n")
        );
    }
}

#[test]
fn a_seed_has_one_history() {
    for seed in 0..20 {
        let scenario = Arc::new(Scenario::new(seed));
        let (first, second) = (cluster::run(seed, &scenario), cluster::run(seed, &scenario));
        assert!(first == second, "seed {seed}:\n{first:?}\nor\n{second:?}");
    }
}
