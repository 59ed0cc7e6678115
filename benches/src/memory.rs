//! Allocations of this process. Counting takes two atomic additions each, a few percent of a call
//! for the contender that allocates most.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

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
