//! The promises of the reliability guide, held against many small worlds in which nearly everything goes wrong.
//!
//! A world is callers, workers and the in-process broker, with time that passes only when nobody has anything to do. Its
//! plan (calls, handlers, delays, faults) comes from one seed, and so does its course: one seed, one history.
//!
//! `SEEDS=10000 cargo test -p rpc-runtime simulation` tries more of them; `FIRST=…` begins elsewhere. One that breaks a promise
//! is printed with its plan; `SEED=… cargo test -p rpc-runtime simulation` tries it again.

use std::fmt::Write;
use std::sync::Arc;

mod history;
mod invariants;
mod overload;
mod plan;
mod stranger;
mod weather;
mod world;

use invariants::violations;
use plan::Plan;

/// How many worlds are tried unless `SEEDS` says otherwise.
const DEFAULT_SEEDS: u64 = 500;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What is wrong with a world, for a person to read; nothing where all promises were kept.
fn complaint(seed: u64) -> Option<String> {
    let plan = Arc::new(Plan::new(seed));
    let history = world::run(seed, &plan);
    let broken = violations(&plan, &history);
    if broken.is_empty() {
        return None;
    }
    let Plan {
        profile,
        callers,
        workers,
        takes_batches,
        concurrency,
        latency,
        faults,
        ..
    } = &*plan;
    let mut text = format!(
        "seed {seed} broke promises; again: SEED={seed} cargo test -p rpc-runtime simulation\n\
         {profile:?}, {workers} workers of concurrency {concurrency} ({takes_batches:?}), up to {latency} ms a way\n"
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
fn every_world_keeps_the_promises() {
    let seeds = match (setting("SEED"), setting("FIRST").unwrap_or(0)) {
        (Some(seed), _) => seed..seed + 1,
        (None, first) => first..first + setting("SEEDS").unwrap_or(DEFAULT_SEEDS),
    };
    let complaints: Vec<_> = seeds.clone().filter_map(complaint).collect();
    let (bad, all) = (complaints.len(), seeds.count());
    if let Some(first) = complaints.first() {
        let others: Vec<_> = complaints
            .iter()
            .skip(1)
            .filter_map(|text| text.lines().next())
            .collect();
        panic!(
            "{bad} of {all} worlds broke promises\n{first}\n{}",
            others.join("\n")
        );
    }
}

#[test]
fn a_seed_has_one_history() {
    for seed in 0..20 {
        let plan = Arc::new(Plan::new(seed));
        let (first, second) = (world::run(seed, &plan), world::run(seed, &plan));
        assert!(first == second, "seed {seed}:\n{first:?}\nor\n{second:?}");
    }
}
