//! What a contender is.

use async_trait::async_trait;
use rpc_tests::rabbit::unique;

use crate::load::Load;
use crate::measure::Measured;
use crate::scenario::Scenario;

/// A way to make remote calls.
#[async_trait]
pub(crate) trait Contender: Send + Sync {
    /// Starts workers and a caller. They share no connection or queue with other runs.
    async fn start(&self, broker: &str, scenario: &Scenario) -> anyhow::Result<Box<dyn Running>>;
}

/// Connected workers and a caller, or a caller alone.
#[async_trait]
pub(crate) trait Running: Stop {
    /// Runs the load.
    async fn run(&self, load: &Load) -> anyhow::Result<Measured>;
}

/// Something that was started.
#[async_trait]
pub(crate) trait Stop: Send + Sync {
    /// Ends everything that could affect the next contender. Idle queues may remain until they
    /// expire.
    async fn stop(self: Box<Self>) -> anyhow::Result<()>;
}

/// A contender whose caller and workers share only the broker and the name of the request queue.
/// They can run in different processes unless the broker is in-process.
#[async_trait]
pub(crate) trait Sides: Send + Sync {
    /// Starts the workers of the scenario, all in this process.
    async fn start_workers(
        &self,
        broker: &str,
        queue: &str,
        scenario: &Scenario,
    ) -> anyhow::Result<Box<dyn Stop>>;

    /// Starts the caller. Its workers run already.
    async fn start_caller(
        &self,
        broker: &str,
        queue: &str,
        scenario: &Scenario,
    ) -> anyhow::Result<Box<dyn Running>>;
}

/// Both sides in this process.
struct Both {
    caller: Box<dyn Running>,
    workers: Box<dyn Stop>,
}

#[async_trait]
impl<S: Sides> Contender for S {
    async fn start(&self, broker: &str, scenario: &Scenario) -> anyhow::Result<Box<dyn Running>> {
        let queue = unique("bench");
        let workers = self.start_workers(broker, &queue, scenario).await?;
        let caller = self.start_caller(broker, &queue, scenario).await?;
        Ok(Box::new(Both { caller, workers }))
    }
}

#[async_trait]
impl Running for Both {
    async fn run(&self, load: &Load) -> anyhow::Result<Measured> {
        self.caller.run(load).await
    }
}

#[async_trait]
impl Stop for Both {
    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        // The caller first, because its calls lose their workers next.
        self.caller.stop().await?;
        self.workers.stop().await
    }
}
