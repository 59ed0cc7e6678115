//! The ratios that are held, in less than a minute.

use std::time::Duration;

use anyhow::Context as _;

use crate::bench::Bench;
use crate::contenders::{Kind, framework};
use crate::measure::Figure;
use crate::report::ratios::{Ratio, order};
use crate::scenario::{BASE, Scenario};

/// What two contenders at two points are compared by.
struct Pair {
    of: (Kind, Scenario),
    to: (Kind, Scenario),
    ratios: &'static [(&'static str, Figure)],
}

/// How many calls wait when memory is looked at.
const WAITING: usize = 100_000;

fn pairs() -> Vec<Pair> {
    use Kind::{
        FrameworkPacked, FrameworkUnpacked, LapinByHand, LapinWithGuarantees, RawSockets, TarpcOverTcp,
    };
    let against = |of, to, scenario, ratios| Pair {
        of: (of, scenario),
        to: (to, scenario),
        ratios,
    };
    let in_flight = |in_flight| Scenario { in_flight, ..BASE };
    let fair = Scenario {
        workers: 4,
        handler: Duration::from_millis(10),
        ..BASE
    };
    let large = Scenario {
        payload: 64 * 1024,
        ..BASE
    };
    vec![
        against(
            FrameworkPacked,
            LapinByHand,
            in_flight(1),
            &[("latency-1", |it| it.p50_us)],
        ),
        against(
            FrameworkPacked,
            LapinByHand,
            in_flight(8),
            &[("throughput-8", |it| it.calls_per_second)],
        ),
        against(
            FrameworkPacked,
            LapinByHand,
            in_flight(64),
            &[("throughput-64", |it| it.calls_per_second)],
        ),
        against(
            FrameworkPacked,
            LapinByHand,
            in_flight(1000),
            &[("throughput-1000", |it| it.calls_per_second)],
        ),
        against(
            FrameworkPacked,
            TarpcOverTcp,
            in_flight(1000),
            &[("vs-tcp-1000", |it| it.calls_per_second)],
        ),
        against(
            FrameworkUnpacked,
            LapinWithGuarantees,
            in_flight(64),
            &[("unpacked-64", |it| it.calls_per_second)],
        ),
        against(
            FrameworkUnpacked,
            RawSockets,
            in_flight(64),
            &[("unpacked-floor-64", |it| it.calls_per_second)],
        ),
        against(
            FrameworkPacked,
            FrameworkUnpacked,
            fair,
            &[
                ("fair-throughput", |it| it.calls_per_second),
                ("fair-p99", |it| it.p99_us),
            ],
        ),
        against(
            FrameworkPacked,
            LapinByHand,
            large,
            &[("large-64k", |it| it.calls_per_second)],
        ),
        Pair {
            of: (FrameworkPacked, in_flight(100_000)),
            to: (FrameworkPacked, in_flight(1000)),
            ratios: &[("growth-100k", |it| it.own_cpu_us_per_call)],
        },
    ]
}

/// Runs all pairs, and prints their ratios.
pub(crate) async fn run(bench: &Bench, rounds: usize) -> anyhow::Result<()> {
    let pairs = pairs();
    let mut rounds_of: Vec<Vec<f64>> = pairs
        .iter()
        .flat_map(|pair| pair.ratios)
        .map(|_| Vec::new())
        .collect();
    for round in 0..rounds {
        let mut ratios = rounds_of.iter_mut();
        for pair in &pairs {
            let [first, second] = order(round, [pair.of, pair.to]);
            let first = bench.measure(first.0, first.1).await?;
            let second = bench.measure(second.0, second.1).await?;
            let [of, to] = order(round, [first, second]);
            for (ratio, (_, figure)) in ratios.by_ref().zip(pair.ratios) {
                ratio.push(figure(&of) / figure(&to));
            }
        }
    }

    let names = pairs.iter().flat_map(|pair| pair.ratios);
    for ((name, _), rounds) in names.zip(&rounds_of) {
        println!("{}", Ratio::of(rounds).line(name));
    }
    // Once: bytes are counted, not timed.
    let bytes = framework::bytes_per_waiting_call(bench.broker(), WAITING)
        .await
        .context("calls that wait")?;
    println!("{}", Ratio::of(&[bytes]).line("memory-100k"));
    Ok(())
}
