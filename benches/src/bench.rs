//! A private broker and the runs that use it.

use std::time::Duration;

use anyhow::Context as _;
use rpc_tests::rabbit::Node;

use crate::contenders::Kind;
use crate::load::Load;
use crate::measure::{Measured, Meter, Snapshot};
use crate::report::Cell;
use crate::scenario::Scenario;

pub(crate) struct Bench {
    node: Node,
    meter: Meter,
    window: Duration,
}

impl Bench {
    /// Starts the broker. Each run is measured for the length of the window.
    pub(crate) async fn start(window: Duration) -> anyhow::Result<Self> {
        let node = Node::start().await?;
        let broker = node.pid().context("the broker does not say its process id")?;
        Ok(Self {
            meter: Meter { broker, worker: None },
            node,
            window,
        })
    }

    /// Returns the broker's URL.
    pub(crate) fn broker(&self) -> &str {
        self.node.url()
    }

    /// Reads the counters of this process and the broker.
    pub(crate) fn snapshot(&self) -> anyhow::Result<Snapshot> {
        self.meter.snapshot()
    }

    /// How long a run is measured.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }

    /// Returns how many messages are in all queues, and the bytes of their bodies.
    pub(crate) async fn queued(&self) -> anyhow::Result<(u64, u64)> {
        let list = ["list_queues", "--no-table-headers", "messages", "message_bytes"];
        let listed = self.node.ctl(&list).await?;
        let (mut messages, mut bytes) = (0, 0);
        for line in listed.lines() {
            let columns = line.split_once('\t').context("a line has two columns")?;
            messages += columns.0.parse::<u64>()?;
            bytes += columns.1.parse::<u64>()?;
        }
        Ok((messages, bytes))
    }

    /// Returns the load of a scenario.
    pub(crate) fn load(&self, scenario: Scenario) -> Load {
        Load {
            scenario,
            window: self.window,
            meter: self.meter,
        }
    }

    /// Returns the load of a scenario whose workers run in another process, with the id `worker`.
    pub(crate) fn load_with_worker(&self, scenario: Scenario, worker: i32) -> Load {
        let mut load = self.load(scenario);
        load.meter.worker = Some(worker);
        load
    }

    /// Runs one contender once, with caller and workers in this process. Prints its throughput.
    pub(crate) async fn measure(&self, contender: Kind, scenario: Scenario) -> anyhow::Result<Measured> {
        let load = self.load(scenario);
        let measured = contender.measure(self.node.url(), &load).await?;
        show(contender, scenario, &measured);
        Ok(measured)
    }

    /// Runs the contenders in turn, for this many rounds, at each scenario. Leaves out those that
    /// [cannot run](Kind::can_run) it.
    pub(crate) async fn compare(
        &self,
        contenders: &[Kind],
        scenarios: &[Scenario],
        rounds: usize,
    ) -> anyhow::Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for &scenario in scenarios {
            let first = cells.len();
            let able = contenders.iter().copied().filter(|it| it.can_run(&scenario));
            cells.extend(able.map(|contender| Cell {
                scenario,
                contender,
                rounds: Vec::new(),
            }));
            for _ in 0..rounds {
                for cell in &mut cells[first..] {
                    cell.rounds.push(self.measure(cell.contender, scenario).await?);
                }
            }
        }
        Ok(cells)
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.node.stop().await
    }
}

/// Prints the throughput of a run as progress. The results of all runs come at the end.
pub(crate) fn show(contender: Kind, scenario: Scenario, measured: &Measured) {
    eprintln!(
        "{:<24}{:>9.0} calls/s   {scenario}",
        contender.name(),
        measured.calls_per_second
    );
}
