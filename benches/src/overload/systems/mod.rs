//! The systems under load, one file each, behind the trait [`Running`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::method::Method;
use super::plan::{Setting, System};
use super::record::End;

mod lapin_by_hand;
mod library;
mod tonic;

/// How long a system may take to start or to stop.
const LIMIT: Duration = Duration::from_secs(30);

/// The priority of important calls, which is also the maximum of their queue.
const IMPORTANT: u8 = 5;

/// How slow a wrong clock is.
const CLOCK_ERROR: Duration = Duration::from_secs(600);

/// Returns the time of a wrong clock.
fn wrong_time() -> Duration {
    let wrong = SystemTime::now() - CLOCK_ERROR;
    wrong.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A call to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) caller: usize,
    pub(crate) deadline: Instant,
    pub(crate) is_important: bool,
}

impl Call {
    /// How long the caller waits.
    fn time(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn priority(&self) -> u8 {
        if self.is_important { IMPORTANT } else { 0 }
    }
}

/// Connected callers and workers.
#[async_trait]
pub(crate) trait Running: Send + Sync {
    /// Makes a call. It ends soon after its deadline.
    fn call(&self, call: Call) -> BoxFuture<'static, End>;

    /// Removes everything that could affect the next run.
    async fn stop(&self) -> anyhow::Result<()>;
}

/// Starts callers and workers.
pub(crate) async fn start(
    broker: &str,
    setting: &Setting,
    method: &Method,
) -> anyhow::Result<Arc<dyn Running>> {
    let starting = async {
        match setting.system {
            System::Library => library::start(broker, setting, method).await,
            System::LapinByHand => lapin_by_hand::start(broker, setting, method).await,
            System::Tonic => tonic::start(setting, method).await,
        }
    };
    timeout(LIMIT, starting)
        .await
        .with_context(|| format!("it did not start within {LIMIT:?}"))?
}

/// Stops what was started.
pub(crate) async fn stop(running: &Arc<dyn Running>) -> anyhow::Result<()> {
    timeout(LIMIT, running.stop())
        .await
        .with_context(|| format!("it did not stop within {LIMIT:?}"))?
}
