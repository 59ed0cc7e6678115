//! Cargo unifies features: an application that enables `serde_json/arbitrary_precision` enables it for `rpc-runtime` too.
//! Nothing on the wire may change.

use std::path::Path;
use std::process::Command;

/// Runs the tests of `rpc-runtime` that hold what is written and read, with the feature. A build of its own, as a crate of this
/// workspace that enables it would enable it in all of them.
#[test]
fn the_wire_is_the_same_with_arbitrary_precision() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let status = Command::new(env!("CARGO"))
        .current_dir(workspace)
        .args(["test", "--quiet", "--locked", "--offline"])
        .args(["--package", "rpc-runtime", "--lib"])
        .args(["--features", "serde_json/arbitrary_precision,schema"])
        .args(["--target-dir", "target/arbitrary_precision"])
        .args([
            "--",
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
