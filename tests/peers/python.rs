//! The pages for Python.

use std::path::Path;

use rpc_tests::python::interpreter;
use tokio::process::Command;

use crate::calls::{calls_rust, is_called_by_rust, reports_a_missing_queue};
use crate::pages::{page, unpack};

/// Returns a command that runs a program in this folder.
fn program(folder: &Path, name: &str) -> Command {
    let mut command = Command::new(interpreter().unwrap());
    command.arg(name).current_dir(folder);
    command
}

#[tokio::test]
async fn aio_pika() {
    calls_and_is_called("aio-pika.md").await;
}

#[tokio::test]
async fn faststream() {
    calls_and_is_called("faststream.md").await;
}

/// Runs the programs on a page: the caller, also without a queue, and the worker.
async fn calls_and_is_called(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    unpack(&page(name), "python", folder.path());
    calls_rust(&mut program(folder.path(), "caller.py")).await;
    reports_a_missing_queue(&mut program(folder.path(), "caller.py"), "NO_ROUTE").await;
    is_called_by_rust(&mut program(folder.path(), "worker.py")).await;
}
