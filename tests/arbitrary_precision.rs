//! Cargo unifies features: an application that enables `serde_json/arbitrary_precision` enables it
//! for `rpc-runtime` and `rpc-contract` too. Neither the wire nor comparisons may change.

use std::path::Path;
use std::process::Command;

/// Runs the tests of encoding and comparison with the feature. They need a build of their own: a
/// crate of this workspace with the feature would enable it in all other crates.
#[test]
fn the_wire_is_the_same_with_arbitrary_precision() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let status = Command::new(env!("CARGO"))
        .current_dir(workspace)
        .args(["test", "--quiet", "--locked", "--offline"])
        .args(["--package", "rpc-runtime", "--package", "rpc-contract", "--lib"])
        .args(["--features", "serde_json/arbitrary_precision,schema"])
        .args(["--target-dir", "target/arbitrary_precision"])
        .args([
            "--",
            "changes",
            "codec",
            "client",
            "describe",
            "fuzzing",
            "protocol",
            "discovery",
        ])
        .status()
        .unwrap();
    assert!(status.success());
}
