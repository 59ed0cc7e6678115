//! Runs a target with a memory limit that depends only on the length of its input.

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// How much a run may allocate for any input.
const BASE: usize = 64 * 1024;

/// How much a run may allocate for each byte of input: a nil of one byte may become an element of
/// 100 bytes, in a `Vec` that has doubled its capacity.
const PER_BYTE: usize = 256;

/// Runs a target. Allocating more than the limit ends the process, which the fuzzer reports.
///
/// For instance, a header of five bytes that announces 2^32 elements must not allocate space for
/// them.
pub fn within_limits(target: fn(&[u8]), data: &[u8]) {
    within_limits_and(0, target, data);
}

/// Runs a target like [`within_limits`]. It may allocate `more` bytes in addition.
pub fn within_limits_and(more: usize, target: fn(&[u8]), data: &[u8]) {
    let limit = ALLOCATOR.allocated() + BASE + PER_BYTE * data.len() + more;
    ALLOCATOR
        .set_limit(limit)
        .expect("the limit is above the current allocation");
    target(data);
    // libFuzzer's own code may allocate more before the next run.
    ALLOCATOR.set_limit(usize::MAX).expect("the maximum is above the current allocation");
}
