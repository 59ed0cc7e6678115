//! The runs that are compared.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::by_hand::ByHand;
use super::grpc::Grpc;
use super::library::Library;
use super::system::{Ask, LIMIT, Reading, System};
use crate::bench::Bench;
use crate::measure::Cost;

/// The least time from one item of the slow reader to the next.
const SLOW: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Library,
    LapinByHand,
    Grpc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Scenario {
    pub(super) system: Kind,
    /// Streams that are read at once, as fast as possible.
    pub(super) streams: u32,
    /// Bytes of an item.
    pub(super) size: u32,
    /// Whether there is another stream that is read slowly.
    pub(super) has_slow: bool,
}

impl Scenario {
    /// Runs the scenario once, and prints the items a second. Returns what an item costs. Items
    /// of the slow stream are not counted.
    pub(super) async fn measure(self, bench: &Bench) -> anyhow::Result<Cost> {
        let measuring = async {
            match self.system {
                Kind::Library => self.run::<Library>(bench).await,
                Kind::LapinByHand => self.run::<ByHand>(bench).await,
                Kind::Grpc => self.run::<Grpc>(bench).await,
            }
        };
        let cost = measuring.await.with_context(|| self.to_string())?;
        eprintln!("{self:<58}{:>10.0} items/s", cost.per_second);
        Ok(cost)
    }

    async fn run<S: System>(self, bench: &Bench) -> anyhow::Result<Cost> {
        let system = Arc::new(S::start(bench.broker()).await?);
        let mut slow = JoinSet::new();
        if self.has_slow {
            slow.spawn(read_slowly(Arc::clone(&system), self.size));
        }
        let cost = self.run_for(bench, &system).await;
        if let Some(ended) = slow.try_join_next() {
            bail!("the slow reader ended: {:?}", ended?);
        }
        slow.shutdown().await;
        let cost = cost?;
        let system = Arc::into_inner(system).context("streams are still read")?;
        system.stop().await?;
        Ok(cost)
    }

    /// Reads longer and longer streams until they take at least half of the window. Returns the
    /// cost of the last ones. Streams grow at most eightfold: if the ones before took less than a
    /// sixteenth of the window, a pause of the machine has prolonged these, which do not count.
    async fn run_for<S: System>(self, bench: &Bench, system: &Arc<S>) -> anyhow::Result<Cost> {
        let (mut items, mut last) = (16, Duration::ZERO);
        loop {
            let before = bench.snapshot()?;
            let begun = Instant::now();
            self.read(system, items).await?;
            let taken = begun.elapsed();
            if taken >= bench.window() / 2 && last >= bench.window() / 16 {
                let after = bench.snapshot()?;
                return Ok(Cost::between(&before, &after, items * u64::from(self.streams)));
            }
            let factor = bench.window().div_duration_f64(taken);
            items = times(items, factor.clamp(1.0, 8.0));
            last = taken;
        }
    }

    /// Reads the fast streams at once and to their end. Each has this many items.
    async fn read<S: System>(self, system: &Arc<S>, items: u64) -> anyhow::Result<()> {
        let ask = Ask {
            items,
            size: self.size,
        };
        let mut streams = JoinSet::new();
        for _ in 0..self.streams {
            let system = Arc::clone(system);
            streams.spawn(async move { Reading::begin(&*system, ask).await?.finish().await });
        }
        while let Some(read) = streams.join_next().await {
            read??;
        }
        Ok(())
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn times(items: u64, factor: f64) -> u64 {
    (items as f64 * factor) as u64
}

/// Reads an endless stream slowly. Returns only if that fails.
async fn read_slowly<S: System>(system: Arc<S>, size: u32) -> anyhow::Result<()> {
    let ask = Ask {
        items: u64::MAX,
        size,
    };
    let mut reading = Reading::begin(&*system, ask).await?;
    let mut ticks = interval(SLOW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tokio::select! {
            next = reading.next() => ensure!(next?, "it ended"),
            () = sleep(LIMIT) => bail!("no item within {LIMIT:?}"),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let system = match self.system {
            Kind::Library => "this library",
            Kind::LapinByHand => "lapin by hand",
            Kind::Grpc => "tonic, no broker",
        };
        let streams = if self.streams == 1 { "stream" } else { "streams" };
        let slow = if self.has_slow { ", and a slow one" } else { "" };
        let text = format!("{system:<18}{} {streams} of {} B{slow}", self.streams, self.size);
        f.pad(&text)
    }
}
