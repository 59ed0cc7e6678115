//! The interface of a system under load, and the calls that it is asked to make.

use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::overload::record::End;

/// The priority of important calls, which is also the maximum of their queue.
pub(super) const IMPORTANT: u8 = 5;

/// How slow a wrong clock is.
const CLOCK_ERROR: Duration = Duration::from_secs(600);

/// Returns the present time of a wrong clock, since the Unix epoch.
pub(super) fn wrong_time() -> Duration {
    let wrong = SystemTime::now() - CLOCK_ERROR;
    wrong.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A call to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// The caller's index.
    pub(crate) caller: usize,
    pub(crate) deadline: Instant,
    pub(crate) is_important: bool,
}

impl Call {
    /// Returns the time until the deadline.
    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(super) fn priority(&self) -> u8 {
        if self.is_important { IMPORTANT } else { 0 }
    }
}

/// Connected callers and workers.
#[async_trait]
pub(crate) trait Running: Send + Sync {
    /// Makes a call. It ends soon after its deadline at the latest.
    fn call(&self, call: Call) -> BoxFuture<'static, End>;

    /// Ends everything that could affect the next run. An idle queue may remain until it expires.
    async fn stop(&self) -> anyhow::Result<()>;
}
