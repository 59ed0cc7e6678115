//! Runs, each with its own callers, workers and queue.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::load::{self, Tail};
use super::method::Method;
use super::plan::{Phase, Setting};
use super::record::{Record, Summary};
use super::recovery::recovery;
use super::systems::{self, Running};

/// How long a load runs before it counts. Queues fill within seconds; after that the state is
/// stable.
const WARM_UP: Duration = Duration::from_secs(3);

/// A call that starts later than this is reported: the generator delayed it, not the system under
/// load.
const LAG_LIMIT: Duration = Duration::from_millis(50);

/// The length of each window in which the capacity is measured.
const CAPACITY_WINDOW: Duration = Duration::from_millis(1500);

/// A lower share of the nominal capacity reflects the machine rather than the system under load.
const LOW_CAPACITY: f64 = 0.8;

/// The load of a step before and after its overload ÷ capacity.
const STEP_LOW: f64 = 0.5;
/// The overload of a step ÷ capacity.
const STEP_HIGH: f64 = 3.0;

/// The start of a step, when connections and buffers are new, is not a valid "before".
const STEP_SETTLING: Duration = Duration::from_secs(1);

/// The results of a setting under a load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Load {
    /// Calls offered ÷ capacity.
    pub(crate) factor: f64,
    pub(crate) summary: Summary,
}

/// The results of a setting before, during and after an overload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    pub(crate) before: Load,
    pub(crate) overload: Load,
    pub(crate) after: Load,
    /// Time from the end of the overload until calls were as fast as before; `None` if they never
    /// were.
    pub(crate) recovery: Option<Duration>,
}

/// The results of a setting.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) setting: Setting,
    pub(super) nominal_capacity: f64,
    pub(super) capacity: f64,
    /// The constant loads; empty if a step ran.
    pub(super) loads: Vec<Load>,
    /// The step, if one ran.
    pub(super) step: Option<Step>,
}

/// How long the phases of a step last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepTimes {
    pub(crate) before: Duration,
    pub(crate) overload: Duration,
    pub(crate) after: Duration,
}

/// Runs loads and remembers capacities.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    broker: &'a str,
    window: Duration,
    capacities: Vec<(Setting, f64)>,
}

impl<'a> Runner<'a> {
    /// Each constant load of [`steady`](Self::steady) is measured for the length of the window.
    pub(crate) fn new(broker: &'a str, window: Duration) -> Self {
        Self {
            broker,
            window,
            capacities: Vec::new(),
        }
    }

    /// Returns the capacity of the setting's workers in calls a second. It is measured with
    /// [`Setting::workers_alone`], once for all settings that have the same. Warns if it is low.
    pub(crate) async fn capacity(&mut self, setting: &Setting) -> anyhow::Result<f64> {
        let workers = setting.workers_alone();
        if let Some((_, capacity)) = self.capacities.iter().find(|(known, _)| *known == workers) {
            return Ok(*capacity);
        }
        let method = Method::new(workers.method);
        let running = systems::start(self.broker, &workers, &method).await?;
        let capacity = load::capacity(&running, &workers, CAPACITY_WINDOW).await;
        let capacity = stopped(&running, capacity)
            .await
            .with_context(|| format!("the capacity of {}", workers.system.name()))?;
        // Short methods never reach the nominal capacity.
        let is_low = capacity < LOW_CAPACITY * workers.nominal_capacity();
        if is_low && workers.method >= Duration::from_millis(5) {
            eprintln!("the machine is busy: a capacity of {capacity:.0} calls/s is low, and so are loads");
        }
        self.capacities.push((workers, capacity));
        Ok(capacity)
    }

    /// Runs one constant load.
    pub(crate) async fn steady(&self, setting: &Setting, factor: f64, capacity: f64) -> anyhow::Result<Load> {
        self.steady_for(setting, factor, capacity, self.window).await
    }

    /// Runs one constant load with another window.
    pub(crate) async fn steady_for(
        &self,
        setting: &Setting,
        factor: f64,
        capacity: f64,
        window: Duration,
    ) -> anyhow::Result<Load> {
        let time = WARM_UP + window;
        let phases = [Phase { factor, time }];
        let record = self.offer(setting, &phases, capacity, Tail::Drop).await?;
        let summary = record.summary(WARM_UP..time);
        Ok(Load { factor, summary })
    }

    /// Runs a step: a load that is too high for a time.
    pub(crate) async fn step(
        &self,
        setting: &Setting,
        times: StepTimes,
        capacity: f64,
    ) -> anyhow::Result<Step> {
        let phase = |factor, time| Phase { factor, time };
        let phases = [
            phase(STEP_LOW, times.before),
            phase(STEP_HIGH, times.overload),
            phase(STEP_LOW, times.after),
        ];
        let record = self.offer(setting, &phases, capacity, Tail::Await).await?;
        let (begin, end) = (times.before, times.before + times.overload);
        let over = end + times.after;
        let load = |factor, window| Load {
            factor,
            summary: record.summary(window),
        };
        Ok(Step {
            before: load(STEP_LOW, STEP_SETTLING..begin),
            overload: load(STEP_HIGH, begin + WARM_UP.min(times.overload / 2)..end),
            after: load(STEP_LOW, end..over),
            recovery: recovery(&record, STEP_SETTLING..begin, end..over),
        })
    }

    /// Runs a load with callers and workers of its own. Warns if a call started late.
    async fn offer(
        &self,
        setting: &Setting,
        phases: &[Phase],
        capacity: f64,
        tail: Tail,
    ) -> anyhow::Result<Record> {
        let method = Method::new(setting.method);
        let running = systems::start(self.broker, setting, &method).await?;
        let record = load::offer(&running, setting, &method, phases, capacity, tail).await;
        let record = stopped(&running, record)
            .await
            .with_context(|| format!("{}: {setting}", setting.system.name()))?;
        if record.greatest_lag > LAG_LIMIT {
            let lag = record.greatest_lag;
            eprintln!("the machine is busy: a call of the next figures began {lag:?} late");
        }
        Ok(record)
    }
}

/// Stops the system and returns the result of the run. If only stopping fails, returns that error.
async fn stopped<T>(running: &Arc<dyn Running>, run: anyhow::Result<T>) -> anyhow::Result<T> {
    let stopped = systems::stop(running).await;
    let run = run?;
    stopped?;
    Ok(run)
}
