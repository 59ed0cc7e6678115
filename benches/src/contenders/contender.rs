//! What a contender is.

use async_trait::async_trait;

use crate::load::Load;
use crate::measure::Measured;
use crate::scenario::Scenario;

/// A way to make remote calls.
#[async_trait]
pub(crate) trait Contender: Send + Sync {
    /// Starts workers and a caller with connections and queues of their own.
    async fn start(&self, broker: &str, scenario: &Scenario) -> anyhow::Result<Box<dyn Running>>;
}

/// Connected workers and a caller.
#[async_trait]
pub(crate) trait Running: Send + Sync {
    /// Runs the load.
    async fn run(&self, load: &Load) -> anyhow::Result<Measured>;

    /// Removes everything that could affect the next contender.
    async fn stop(self: Box<Self>) -> anyhow::Result<()>;
}
