//! The Python clients in `tests/python`: an independent opinion on what goes over the wire.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use tokio::process::Command;

/// A command that runs a script of `tests/python`, by its file name, with `pika` and `msgpack` at hand.
///
/// The process ends with the handle of it at the latest.
///
/// # Errors
///
/// Where the script or the interpreter that `tests/run` prepares is missing.
pub fn script(name: &str) -> anyhow::Result<Command> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    ensure!(script.is_file(), "there is no {}", script.display());

    let mut command = Command::new(interpreter()?);
    command.arg(script).kill_on_drop(true);
    // A script's lines are to be seen as it prints them, also through a pipe.
    command.env("PYTHONUNBUFFERED", "1");
    Ok(command)
}

/// The interpreter named by `RPC_TESTS_PYTHON`, else the one that an earlier `tests/run` left.
///
/// # Errors
///
/// Where there is neither.
pub fn interpreter() -> anyhow::Result<PathBuf> {
    let prepared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python-venv/bin/python");
    env::var_os("RPC_TESTS_PYTHON")
        .map(PathBuf::from)
        .or_else(|| prepared.is_file().then_some(prepared))
        .context("no Python with pika and msgpack: run tests/run once, it prepares target/python-venv")
}

#[cfg(test)]
mod tests {
    use std::{process::Stdio, time::Duration};

    use super::*;
    use crate::{rabbit, raw::RawPeer, until};

    /// Without any Rust in between: what the scripts say to each other is the tutorial's own convention.
    #[tokio::test]
    async fn scripts_understand_each_other() {
        let url = rabbit::shared().await;
        let queue = rabbit::unique("tutorial");
        let command = |name| {
            let mut command = script(name).unwrap();
            command.env("AMQP_URL", url).env("RPC_QUEUE", &queue);
            command
        };

        let mut worker = command("tutorial_worker.py")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let peer = RawPeer::connect(url).await.unwrap();
        until(
            "the worker declares its queue",
            Duration::from_secs(10),
            async || Ok(peer.queue_depth(&queue).await?.is_some()),
        )
        .await
        .unwrap();

        for caller in ["tutorial_caller.py", "direct_caller.py"] {
            let output = command(caller)
                .args(["user:12345", "user:99999"])
                .output()
                .await
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{caller}: {stderr}");
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "alice@example.com\nno user ID\n",
                "{caller}"
            );
        }

        worker.kill().await.unwrap();
    }
}
