//! Allocations of this process. Counting takes two or three atomic additions for each allocation,
//! reallocation and deallocation, a few percent of a call for the contender that allocates most.

use std::alloc::System;
use std::time::Duration;

use anyhow::Context as _;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::time::{sleep, timeout};

/// How long to wait until the bytes in use do not change any more.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What this process has allocated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allocations {
    /// Allocations and reallocations so far.
    pub(crate) count: usize,
    /// The bytes in use.
    pub(crate) live_bytes: usize,
}

/// Returns the allocator's counts.
pub(crate) fn allocations() -> Allocations {
    let stats = ALLOCATOR.stats();
    Allocations {
        count: stats.allocations + stats.reallocations,
        live_bytes: stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated),
    }
}

/// Returns the bytes in use.
pub(crate) fn live_bytes() -> anyhow::Result<i64> {
    Ok(i64::try_from(allocations().live_bytes)?)
}

/// Returns the bytes in use once they have hardly changed for a while. By then, all messages that
/// can be published should have been.
pub(crate) async fn settled_bytes() -> anyhow::Result<i64> {
    const STILL: Duration = Duration::from_millis(250);
    const NOISE: i64 = 16 * 1024;
    /// How often in a row they must be still: the broker may pause while messages are published.
    const TIMES: u32 = 5;
    let settling = async {
        let (mut last, mut still) = (live_bytes()?, 0);
        while still < TIMES {
            sleep(STILL).await;
            let now = live_bytes()?;
            still = if (now - last).abs() < NOISE { still + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    };
    timeout(SETTLE_LIMIT, settling)
        .await
        .with_context(|| format!("messages are still leaving after {SETTLE_LIMIT:?}"))?
}
