//! Streams: items a second, the time to the first one, and what a slow reader costs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::bench::Bench;
use crate::measure::Cost;
use crate::report::json;
use crate::report::ratios::{Ratio, Ratios, order};

mod by_hand;
mod first_item;
mod grpc;
mod library;
mod scenario;
mod system;
mod unread;

use scenario::{Kind, Scenario};

/// Two scenarios. Their ratio is the items a second of `of` ÷ those of `to`.
struct Pair {
    name: &'static str,
    of: Scenario,
    to: Scenario,
}

/// A scenario and its runs, in all pairs that it is part of.
type Cell = (Scenario, Vec<Cost>);

const ONE: Scenario = Scenario {
    system: Kind::Library,
    streams: 1,
    size: 16,
    has_slow: false,
};

const LARGE: Scenario = Scenario {
    size: 64 * 1024,
    ..ONE
};

/// Returns the pairs whose ratios have a target.
fn tracked() -> Vec<Pair> {
    let many = Scenario { streams: 64, ..ONE };
    vec![
        against("stream-items", ONE, Kind::LapinByHand),
        against("stream-vs-grpc", ONE, Kind::Grpc),
        against("stream-64-vs-grpc", many, Kind::Grpc),
        against("stream-large", LARGE, Kind::LapinByHand),
    ]
}

/// Returns the other pairs.
fn others() -> Vec<Pair> {
    let medium = Scenario { size: 1024, ..ONE };
    // One fewer than 64, so that the slow stream makes 64.
    let fast = Scenario { streams: 63, ..ONE };
    vec![
        against("stream-1k", medium, Kind::LapinByHand),
        against("stream-1k-vs-grpc", medium, Kind::Grpc),
        against("stream-large-vs-grpc", LARGE, Kind::Grpc),
        Pair {
            name: "stream-beside-slow",
            of: Scenario {
                has_slow: true,
                ..fast
            },
            to: fast,
        },
    ]
}

/// Returns a pair: the scenario `of`, and the same with this system.
fn against(name: &'static str, of: Scenario, system: Kind) -> Pair {
    let to = Scenario { system, ..of };
    Pair { name, of, to }
}

/// Measures the ratios that have a target, and adds them to `ratios`.
pub(crate) async fn run_quick(bench: &Bench, rounds: usize, ratios: &mut Ratios) -> anyhow::Result<()> {
    let mut cells = Vec::new();
    for (name, ratio) in compare(bench, rounds, &tracked(), &mut cells).await? {
        ratios.add(name, ratio);
    }
    Ok(())
}

/// Measures everything about streams. Prints the medians, saves all figures as `streams.json` in
/// the folder `out`, and adds the ratios to `all_ratios`.
pub(crate) async fn run(
    bench: &Bench,
    rounds: usize,
    out: &Path,
    all_ratios: &mut Ratios,
) -> anyhow::Result<()> {
    let mut cells = Vec::new();
    let pairs: Vec<_> = tracked().into_iter().chain(others()).collect();
    let ratios = compare(bench, rounds, &pairs, &mut cells).await?;
    for (name, ratio) in &ratios {
        all_ratios.add(*name, *ratio);
    }
    println!("{}", table(&cells));
    let unread = unread::measure(bench).await?;
    println!("{}", unread.line());

    let cell = |(scenario, rounds): &Cell| json!({ "scenario": scenario, "rounds": rounds, "median": Cost::median(rounds) });
    let ratio = |(name, ratio): &(&str, Ratio)| json!({ "name": name, "ratio": ratio });
    let results = json!({
        "cells": cells.iter().map(cell).collect::<Vec<_>>(),
        "ratios": ratios.iter().map(ratio).collect::<Vec<_>>(),
        "unread": unread,
    });
    let file = out.join("streams.json");
    json::save(&file, &results)?;
    println!("all figures: {}", file.display());
    Ok(())
}

/// Runs the pairs and adds each run to its cell. Returns the ratios of the pairs, and then that of
/// the [first item](first_item).
async fn compare(
    bench: &Bench,
    rounds: usize,
    pairs: &[Pair],
    cells: &mut Vec<Cell>,
) -> anyhow::Result<Vec<(&'static str, Ratio)>> {
    let mut of_rounds = vec![Vec::new(); pairs.len()];
    let mut firsts = Vec::new();
    for round in 0..rounds {
        for (pair, ratios) in pairs.iter().zip(&mut of_rounds) {
            let mut rates = Vec::new();
            for scenario in order(round, [pair.of, pair.to]) {
                let cost = scenario.measure(bench).await?;
                rates.push(cost.per_second);
                add(cells, scenario, cost);
            }
            // Back in the order of the pair.
            let [of, to] = order(round, [rates[0], rates[1]]);
            ratios.push(of / to);
        }
        firsts.push(first_item::measure(bench).await?);
    }
    let names = pairs.iter().map(|pair| pair.name).chain(["stream-first"]);
    let ratios = of_rounds.iter().chain([&firsts]).map(|rounds| Ratio::of(rounds));
    Ok(names.zip(ratios).collect())
}

/// Adds a run to the cell of its scenario.
fn add(cells: &mut Vec<Cell>, scenario: Scenario, cost: Cost) {
    match cells.iter_mut().find(|(known, _)| *known == scenario) {
        Some((_, rounds)) => rounds.push(cost),
        None => cells.push((scenario, vec![cost])),
    }
}

/// Returns the median of each scenario as a table. CPU times and allocations are per item.
fn table(cells: &[Cell]) -> String {
    let mut table = format!(
        "\n{:<58}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
        "", "items/s", "MiB/s", "CPU µs", "broker", "allocs"
    );
    for (scenario, rounds) in cells {
        let it = Cost::median(rounds);
        let _ = writeln!(
            table,
            "{scenario:<58}{:>10.0}{:>10.1}{:>10.2}{:>10.2}{:>10.1}",
            it.per_second,
            it.per_second * f64::from(scenario.size) / f64::from(1 << 20),
            it.own_cpu_us,
            it.broker_cpu_us,
            it.allocations,
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_a_scenario_share_a_cell() {
        let cost = |per_second| Cost {
            per_second,
            own_cpu_us: 1.0,
            broker_cpu_us: 1.0,
            allocations: 1.0,
        };
        let mut cells = Vec::new();
        for per_second in [1.0, 3.0, 2.0] {
            add(&mut cells, ONE, cost(per_second));
            add(&mut cells, LARGE, cost(10.0));
        }
        assert_eq!(cells.len(), 2);
        assert!((Cost::median(&cells[0].1).per_second - 2.0).abs() < f64::EPSILON);
        assert_eq!(table(&cells).lines().count(), 4);
    }
}
