//! Allocations of this process.

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
pub(crate) fn allocations() -> Option<Allocations> {
    let stats = ALLOCATOR.stats();
    Some(Allocations {
        count: stats.allocations + stats.reallocations,
        live_bytes: stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated),
    })
}
