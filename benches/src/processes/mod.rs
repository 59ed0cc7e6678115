//! What caller and worker cost in a process each, compared with both in one.

use std::path::Path;

use anyhow::ensure;
use rpc_tests::rabbit::unique;
use serde_json::json;

use crate::bench::{Bench, show};
use crate::child::{Answer, Order, Process};
use crate::contenders::{Kind, LIMIT};
use crate::measure::Measured;
use crate::report::json;
use crate::report::ratios::order;
use crate::scenario::{BASE, Scenario};

mod cell;
mod table;

use cell::{Cell, Place};

const CONTENDERS: [Kind; 4] = [
    Kind::FrameworkBatched,
    Kind::FrameworkUnbatched,
    Kind::LapinByHand,
    Kind::LapinWithGuarantees,
];

const IN_FLIGHT: [usize; 3] = [1, 64, 1000];

/// Measures [`CONTENDERS`], prints a table, and saves all figures in the folder `out`.
pub(crate) async fn run(bench: &Bench, rounds: usize, out: &Path) -> anyhow::Result<()> {
    let mut cells = Vec::new();
    for in_flight in IN_FLIGHT {
        let scenario = Scenario { in_flight, ..BASE };
        for contender in CONTENDERS {
            cells.extend(compare(bench, rounds, contender, scenario).await?);
        }
    }
    println!("{}", table::render(&cells));

    let cell = |cell: &Cell| json!({ "cell": cell, "median": Measured::median(&cell.rounds) });
    let results: Vec<_> = cells.iter().map(cell).collect();
    let file = out.join("processes.json");
    json::save(&file, &results)?;
    println!("all figures: {}", file.display());
    Ok(())
}

/// Runs a contender in two processes and in one, in turn. Returns a cell for each of these places.
async fn compare(
    bench: &Bench,
    rounds: usize,
    contender: Kind,
    scenario: Scenario,
) -> anyhow::Result<[Cell; 2]> {
    let mut cells = [Place::TwoProcesses, Place::OneProcess].map(|place| Cell {
        scenario,
        contender,
        place,
        rounds: Vec::new(),
    });
    for round in 0..rounds {
        for index in order(round, [0, 1]) {
            let cell = &mut cells[index];
            let measured = match cell.place {
                Place::TwoProcesses => measure_apart(bench, contender, scenario).await,
                Place::OneProcess => bench.measure(contender, scenario).await,
            };
            cell.rounds.push(measured?);
        }
    }
    Ok(cells)
}

/// Runs a contender once, with the caller in this process and the worker in another one. Prints its
/// throughput.
async fn measure_apart(bench: &Bench, contender: Kind, scenario: Scenario) -> anyhow::Result<Measured> {
    let queue = unique("processes");
    let mut worker = Process::start_own()?;
    let order = Order::Work {
        contender,
        broker: bench.broker().to_owned(),
        queue: queue.clone(),
        scenario,
    };
    // Reading the order and starting the worker have this limit each.
    let answer = worker.order(&order, LIMIT * 2).await?;
    ensure!(matches!(answer, Answer::Ready), "a worker answered {answer:?}");

    let load = bench.load_with_worker(scenario, worker.id()?);
    let measured = contender.call(bench.broker(), &queue, &load).await;
    let stopped = worker.stop().await;
    let measured = measured?;
    stopped?;
    show(contender, scenario, &measured);
    Ok(measured)
}
