//! Allocations of this process. Counting takes two atomic additions each, a few percent of a call
//! for the contender that allocates most.

use std::alloc::System;
use std::time::Duration;

use anyhow::Context as _;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::time::{sleep, timeout};

/// How long the bytes in use may change.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Returns what has been allocated so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allocations {
    pub(crate) count: usize,
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

/// Returns the bytes in use, once they do not change any more: then all messages have been
/// published.
pub(crate) async fn settled_bytes() -> anyhow::Result<i64> {
    const STILL: Duration = Duration::from_millis(250);
    const NOISE: i64 = 16 * 1024;
    /// The broker may pause meanwhile.
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
