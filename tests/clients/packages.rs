//! The packages' own tests.

use std::time::Duration;

use rpc_tests::rabbit::shared;

use crate::programs::{command, root, succeeds};
use crate::project::{Python, TypeScript};

const LIMIT: Duration = Duration::from_secs(300);

/// Runs the checks of a package that is prepared.
async fn check(language: &str, arguments: &[&str]) {
    let mut check = command(root().join("clients").join(language).join("check"));
    check.args(arguments).env("AMQP_URL", shared().await);
    if let Err(error) = succeeds(&mut check, LIMIT).await {
        panic!("{error}");
    }
}

#[tokio::test]
async fn the_python_package_passes_its_checks() {
    Python::get().await;
    check("python", &[]).await;
}

#[tokio::test]
async fn the_typescript_package_passes_its_checks() {
    TypeScript::get().await;
    check("typescript", &["--prepared"]).await;
}
