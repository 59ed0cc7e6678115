//! The page for Go.

use std::path::Path;

use rpc_tests::programs::{compile, text};
use tokio::process::Command;

use crate::calls::{calls_rust, is_called_by_rust, reports_a_missing_queue};
use crate::pages::{page, root, unpack};

/// Where Debian puts the sources of Go libraries.
const SOURCES: &str = "/usr/share/gocode";

/// Builds a program of the page, and returns a command that runs it.
async fn build(folder: &Path, name: &str) -> Command {
    let mut go = Command::new("go");
    let program = folder.join(name).join("program");
    go.current_dir(folder.join(name))
        .args(["build", "-o", "program", "main.go"])
        // Debian's libraries are no modules. Nothing is downloaded.
        .env("GO111MODULE", "off")
        .env("GOPATH", SOURCES)
        .env("GOCACHE", root().join("target/go-cache"));
    let built = compile(&mut go).await;
    assert!(built.status.success(), "{}", text(&built.stderr));
    Command::new(program)
}

#[tokio::test]
async fn amqp091_go() {
    let library = Path::new(SOURCES).join("src/github.com/rabbitmq/amqp091-go");
    assert!(
        library.is_dir(),
        "{} is missing: run tests/run once, it installs golang-github-rabbitmq-amqp091-go-dev",
        library.display()
    );
    let folder = tempfile::tempdir().unwrap();
    unpack(&page("amqp091-go.md"), "go", folder.path());
    let mut caller = build(folder.path(), "caller").await;
    calls_rust(&mut caller).await;
    reports_a_missing_queue(&mut caller, "no server").await;
    is_called_by_rust(&mut build(folder.path(), "worker").await).await;
}
