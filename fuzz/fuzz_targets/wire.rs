#![no_main]

/// Room for the bodies that two channels announce is reserved before they arrive, up to a MiB for
/// each.
const RESERVED: usize = 2 * 1024 * 1024;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rpc_fuzz::within_limits_and(RESERVED, rpc_runtime::fuzzing::wire, data)
});
