//! The pages for Node.js.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rpc_tests::programs::{compile, text};
use tempfile::TempDir;
use tokio::process::Command;

use crate::calls::{calls_rust, is_called_by_rust, reports_a_missing_queue};
use crate::pages::{page, root, unpack};

/// The compiler's options on the page of NestJS have the decorators, and these are the rest.
const TSCONFIG: &str = r#"{
  "compilerOptions": {
    "target": "es2023",
    "module": "nodenext",
    "types": ["node"],
    "strict": true,
    "experimentalDecorators": true,
    "emitDecoratorMetadata": true,
    "skipLibCheck": true,
    "rootDir": "src",
    "outDir": "dist"
  },
  "include": ["src"]
}
"#;

/// Returns the folder in `RPC_TESTS_PEERS`, or the one that an earlier `tests/run` prepared.
///
/// # Panics
///
/// Panics if there is neither.
fn packages() -> PathBuf {
    let prepared = root().join("target/peers");
    let packages = env::var_os("RPC_TESTS_PEERS")
        .map(PathBuf::from)
        .unwrap_or(prepared);
    assert!(
        packages.join("node_modules/amqplib").is_dir(),
        "{} has no amqplib: run tests/run once, it prepares target/peers",
        packages.display()
    );
    packages
}

/// Creates a folder with the programs of a page, which find their packages there.
fn project(name: &str, language: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    symlink(
        packages().join("node_modules"),
        folder.path().join("node_modules"),
    )
    .unwrap();
    fs::write(folder.path().join("package.json"), r#"{ "type": "module" }"#).unwrap();
    unpack(&page(name), language, folder.path());
    folder
}

/// Returns a command that runs a program in this folder.
fn node(folder: &Path, program: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(program).current_dir(folder).env("NO_COLOR", "1");
    command
}

#[tokio::test]
async fn amqplib() {
    let folder = project("amqplib.md", "js");
    calls_rust(&mut node(folder.path(), "caller.mjs")).await;
    reports_a_missing_queue(&mut node(folder.path(), "caller.mjs"), "no server").await;
    is_called_by_rust(&mut node(folder.path(), "worker.mjs")).await;
}

#[tokio::test]
async fn nestjs() {
    let folder = project("nestjs.md", "ts");
    fs::write(folder.path().join("tsconfig.json"), TSCONFIG).unwrap();
    let mut compiler = Command::new(packages().join("node_modules/.bin/tsc"));
    let compiled = compile(compiler.current_dir(folder.path())).await;
    assert!(compiled.status.success(), "{}", text(&compiled.stdout));
    calls_rust(&mut node(folder.path(), "dist/caller.js")).await;
    is_called_by_rust(&mut node(folder.path(), "dist/worker.js")).await;
}
