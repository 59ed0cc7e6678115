//! What happens when more is asked than can be done: open loops at multiples of the capacity.
//!
//! A setting's capacity is measured first, in a closed loop with plenty of calls in flight. Then each
//! load runs against callers and workers of its own, and counts after a warm-up: queues fill within
//! seconds, and what comes then is what lasts.

pub(crate) mod cli;
mod load;
mod method;
mod plan;
mod record;
mod systems;
mod table;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use method::Method;
use plan::{Phase, Setting};
use record::{Record, Summary};
use systems::Running;

/// How long a load runs before it counts.
const WARM_UP: Duration = Duration::from_secs(3);

/// A call that begins this late was held up by the generator, not by the system under load.
const LAG_LIMIT: Duration = Duration::from_millis(50);

/// How long the capacity is measured.
const CAPACITY_WINDOW: Duration = Duration::from_millis(1500);

/// A setting under several loads.
#[derive(Debug)]
pub(crate) struct Outcome {
    setting: Setting,
    capacity: f64,
}

/// Runs the settings under each of these loads.
pub(crate) async fn run(
    broker: &str,
    settings: &[Setting],
    factors: &[f64],
    window: Duration,
) -> anyhow::Result<()> {
    for setting in settings {
        let capacity = capacity(broker, setting).await?;
        println!(
            "{}",
            table::heading(&Outcome {
                setting: *setting,
                capacity
            })
        );
        for &factor in factors {
            let summary = steady(broker, setting, factor, capacity, window).await?;
            println!("{}", table::row(factor, &summary, capacity));
        }
    }
    Ok(())
}

/// The figures of one constant load.
async fn steady(
    broker: &str,
    setting: &Setting,
    factor: f64,
    capacity: f64,
    window: Duration,
) -> anyhow::Result<Summary> {
    let phase = Phase {
        factor,
        time: WARM_UP + window,
    };
    let record = offer(broker, setting, &[phase], capacity)
        .await
        .with_context(|| format!("{} at {factor} times the capacity", setting.system.name()))?;
    Ok(record.summary(WARM_UP..WARM_UP + window))
}

async fn offer(broker: &str, setting: &Setting, phases: &[Phase], capacity: f64) -> anyhow::Result<Record> {
    let method = Method::new(setting.method);
    let running = systems::start(broker, setting, &method).await?;
    let record = load::offer(&running, setting, &method, phases, capacity).await;
    let record = stopped(&running, record).await?;
    if record.greatest_lag > LAG_LIMIT {
        eprintln!("the machine is busy: a call began {:?} late", record.greatest_lag);
    }
    Ok(record)
}

async fn capacity(broker: &str, setting: &Setting) -> anyhow::Result<f64> {
    let method = Method::new(setting.method);
    let running = systems::start(broker, setting, &method).await?;
    let capacity = load::capacity(&running, setting, CAPACITY_WINDOW).await;
    stopped(&running, capacity)
        .await
        .with_context(|| format!("the capacity of {}", setting.system.name()))
}

/// Stops the system. A run that failed is the news, whatever stopping says.
async fn stopped<T>(running: &Arc<dyn Running>, run: anyhow::Result<T>) -> anyhow::Result<T> {
    let stopped = systems::stop(running).await;
    let run = run?;
    stopped?;
    Ok(run)
}
