//! A short run of the program `torture`, which keeps it working. A longer run finds more: `cargo
//! run --release -p rpc-tests --bin torture -- --seconds 60`.

use std::process::Command;

#[test]
fn torture_for_a_moment() {
    let mut torture = Command::new(env!("CARGO_BIN_EXE_torture"));
    let output = torture.args(["--seconds", "10", "--seed", "1"]).output().unwrap();
    let (told, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{told}\n{complained}");
}
