//! Short runs of the program `torture`, which keep it working. Longer runs find more: `cargo run
//! --release -p rpc-tests --bin torture -- --seconds 60`, or with `--jobs 100000 --seconds 300`.

use std::process::Command;

#[track_caller]
fn torture(arguments: &[&str]) {
    let mut torture = Command::new(env!("CARGO_BIN_EXE_torture"));
    let output = torture.args(arguments).output().unwrap();
    let (told, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{told}\n{complained}");
}

#[test]
fn torture_for_a_moment() {
    torture(&["--seconds", "10", "--seed", "1"]);
}

#[test]
fn torture_with_jobs_for_a_moment() {
    torture(&["--jobs", "2000", "--seconds", "10", "--seed", "1"]);
}

#[test]
fn torture_with_jobs_on_a_quorum_queue_for_a_moment() {
    torture(&["--jobs", "2000", "--quorum", "--seconds", "10", "--seed", "2"]);
}
