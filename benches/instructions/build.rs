//! Tells the program with which compiler it is built.

use std::env;
use std::process::Command;

fn main() {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let output = Command::new(rustc).arg("--version").output();
    let version = output.expect("cargo's compiler runs").stdout;
    let version = String::from_utf8(version).expect("a version is text");
    println!("cargo::rustc-env=RUSTC_VERSION={}", version.trim());
    // A new compiler runs this again in any case.
    println!("cargo::rerun-if-changed=build.rs");
}
