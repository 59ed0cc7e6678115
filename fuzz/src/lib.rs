//! Runs a target within a limit of memory that depends on its input alone.

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What a run may set aside whatever its input is: small change.
const BASE: usize = 64 * 1024;

/// How much a byte of input may become: a nil of one byte may be an element of 100 bytes, in a `Vec` that has doubled.
const PER_BYTE: usize = 256;

/// Runs a target; memory beyond the limit ends the process, which is how the fuzzer learns of it.
///
/// A header of five bytes that announces 2^32 elements must not set the space for them aside.
pub fn within_limits(target: fn(&[u8]), data: &[u8]) {
    let limit = ALLOCATOR.allocated() + BASE + PER_BYTE * data.len();
    ALLOCATOR
        .set_limit(limit)
        .expect("the limit lies above what is allocated");
    target(data);
    // libFuzzer's own code may want more, before the next run.
    ALLOCATOR.set_limit(usize::MAX).expect("there is no higher limit");
}
