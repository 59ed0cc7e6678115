#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rpc_fuzz::within_limits(rpc_runtime::fuzzing::incoming, data));
