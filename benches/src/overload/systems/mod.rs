//! The systems under load, one file each, behind the trait [`Running`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;

use super::method::Method;
use super::plan::{Setting, System};

mod lapin_by_hand;
mod library;
mod running;
mod tonic;

pub(crate) use running::{Call, Running};
use running::{IMPORTANT, wrong_time};

/// How long a system may take to start or to stop.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts the callers and workers of a setting.
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
