//! Allocations of this process. Counting takes some two atomic additions each, which is a few percent of a call for the contender that
//! allocates most.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What has been allocated so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allocations {
    pub(crate) count: usize,
    pub(crate) live_bytes: usize,
}

/// The allocator's counts.
pub(crate) fn allocations() -> Allocations {
    let stats = ALLOCATOR.stats();
    Allocations {
        count: stats.allocations + stats.reallocations,
        live_bytes: stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated),
    }
}
