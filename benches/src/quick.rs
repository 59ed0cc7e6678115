//! The tracked ratios of calls, in one or two minutes.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::bench::Bench;
use crate::contenders::{Kind, framework};
use crate::measure::{Figure, Measured};
use crate::report::ratios::{Ratio, Ratios, order};
use crate::scenario::{BASE, Scenario};

/// Two runs to compare, each of a contender at a scenario.
struct Pair {
    of: (Kind, Scenario),
    to: (Kind, Scenario),
    /// The figures whose ratios, `of` ÷ `to`, are tracked under these names.
    ratios: Vec<(&'static str, Figure)>,
}

/// How many calls wait when memory is measured.
const WAITING: usize = 100_000;

const THROUGHPUT: Figure = |it| it.calls_per_second;
const MEDIAN: Figure = |it| it.p50_us;
const P99: Figure = |it| it.p99_us;
const OWN_CPU: Figure = |it| it.own_cpu_us_per_call;

fn pairs() -> Vec<Pair> {
    use Kind::{
        FrameworkBatched, FrameworkUnbatched, LapinByHand, LapinWithGuarantees, SocketsWithGuarantees,
        TarpcOverTcp, TonicOverTcp,
    };
    let against = |of, to, scenario, ratios| Pair {
        of: (of, scenario),
        to: (to, scenario),
        ratios,
    };
    let throughput = |name, of, to, scenario| against(of, to, scenario, vec![(name, THROUGHPUT)]);
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
            FrameworkBatched,
            LapinByHand,
            in_flight(1),
            vec![("latency-1", MEDIAN)],
        ),
        throughput("throughput-8", FrameworkBatched, LapinByHand, in_flight(8)),
        throughput("throughput-64", FrameworkBatched, LapinByHand, in_flight(64)),
        throughput("throughput-1000", FrameworkBatched, LapinByHand, in_flight(1000)),
        throughput("vs-tcp-64", FrameworkBatched, TarpcOverTcp, in_flight(64)),
        throughput("vs-tcp-1000", FrameworkBatched, TarpcOverTcp, in_flight(1000)),
        throughput("vs-grpc-64", FrameworkBatched, TonicOverTcp, in_flight(64)),
        throughput("vs-grpc-1000", FrameworkBatched, TonicOverTcp, in_flight(1000)),
        throughput(
            "unbatched-64",
            FrameworkUnbatched,
            LapinWithGuarantees,
            in_flight(64),
        ),
        throughput(
            "unbatched-floor-64",
            FrameworkUnbatched,
            SocketsWithGuarantees,
            in_flight(64),
        ),
        against(
            FrameworkBatched,
            FrameworkUnbatched,
            fair,
            vec![("fair-throughput", THROUGHPUT), ("fair-p99", P99)],
        ),
        throughput("large-64k", FrameworkBatched, LapinByHand, large),
        Pair {
            of: (FrameworkBatched, in_flight(100_000)),
            to: (FrameworkBatched, in_flight(1000)),
            ratios: vec![("growth-100k", OWN_CPU)],
        },
    ]
}

/// From the third round on, a round starts only if it would end within this time from the start of
/// the first, at the speed so far. On a slow machine, fewer rounds are better than a longer wait.
const TIME_LIMIT: Duration = Duration::from_secs(75);

/// Runs all pairs and adds their ratios, and then the memory of calls that wait.
pub(crate) async fn run(bench: &Bench, rounds: usize, ratios: &mut Ratios) -> anyhow::Result<()> {
    let pairs = pairs();
    let mut measured = vec![Vec::new(); pairs.len()];
    let begun = Instant::now();
    for round in 0..rounds {
        let done = u32::try_from(round)?;
        if done >= 2 && begun.elapsed() * (done + 1) / done > TIME_LIMIT {
            eprintln!("this machine is slow: {done} rounds instead of {rounds}");
            break;
        }
        for (pair, measured) in pairs.iter().zip(&mut measured) {
            measured.push(pair.measure(bench, round).await?);
        }
    }

    for (pair, measured) in pairs.iter().zip(&measured) {
        for (name, ratio) in pair.ratios(measured) {
            ratios.add(name, ratio);
        }
    }
    // Once: bytes are counted, not timed.
    let bytes = framework::bytes_per_waiting_call(bench.broker(), WAITING)
        .await
        .context("calls that wait")?;
    ratios.add("memory-100k", Ratio::of(&[bytes]));
    Ok(())
}

impl Pair {
    /// Runs both, one directly after the other; which is first depends on the round. Returns the
    /// figures of `of` and `to`, in this order.
    async fn measure(&self, bench: &Bench, round: usize) -> anyhow::Result<[Measured; 2]> {
        let [first, second] = order(round, [self.of, self.to]);
        let first = bench.measure(first.0, first.1).await?;
        let second = bench.measure(second.0, second.1).await?;
        // `order` is its own inverse.
        Ok(order(round, [first, second]))
    }

    /// Returns each ratio, by name, over these rounds.
    fn ratios(&self, rounds: &[[Measured; 2]]) -> impl Iterator<Item = (&'static str, Ratio)> {
        self.ratios.iter().map(|(name, figure)| {
            let of_rounds: Vec<_> = rounds.iter().map(|[of, to]| figure(of) / figure(to)).collect();
            (*name, Ratio::of(&of_rounds))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ratios::target;

    fn measured(calls_per_second: f64, p99_us: f64) -> Measured {
        Measured {
            calls_per_second,
            p50_us: 1.0,
            p99_us,
            p999_us: 1.0,
            own_cpu_us_per_call: 1.0,
            worker_cpu_us_per_call: None,
            broker_cpu_us_per_call: 1.0,
            allocations_per_call: 1.0,
            resident_mib: 1.0,
        }
    }

    #[test]
    fn each_ratio_has_a_target() {
        let pairs = pairs();
        let names = pairs.iter().flat_map(|pair| &pair.ratios);
        assert!(names.map(|(name, _)| *name).all(|name| target(name).is_some()));
    }

    #[test]
    fn each_ratio_pairs_the_runs_of_a_round() {
        let pairs = pairs();
        let fair = pairs.iter().find(|pair| pair.ratios.len() == 2).unwrap();
        let rounds = [
            [measured(10.0, 3.0), measured(10.0, 1.0)],
            [measured(40.0, 4.0), measured(20.0, 2.0)],
            [measured(30.0, 5.0), measured(10.0, 5.0)],
        ];
        let lines: Vec<_> = fair
            .ratios(&rounds)
            .map(|(name, ratio)| ratio.line(name))
            .collect();
        assert_eq!(
            lines,
            [
                "ratio fair-throughput 2.000 1.000 3.000",
                "ratio fair-p99 2.000 1.000 3.000"
            ]
        );
    }
}
