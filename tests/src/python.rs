//! The Python scripts in `tests/python`, callers and a worker: an independent check of the wire
//! format.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use tokio::process::Command;

/// Returns a command that runs a script in `tests/python` with `pika` and `msgpack` installed.
///
/// The process is killed when its handle is dropped.
///
/// # Errors
///
/// Fails if the script is missing, or like [`interpreter`].
pub fn script(name: &str) -> anyhow::Result<Command> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    ensure!(script.is_file(), "{} does not exist", script.display());

    let mut command = Command::new(interpreter()?);
    command.arg(script).kill_on_drop(true);
    // Unbuffered output, so that lines arrive through a pipe as they are printed.
    command.env("PYTHONUNBUFFERED", "1");
    Ok(command)
}

/// Returns the interpreter in `RPC_TESTS_PYTHON`, or the one that an earlier `tests/run` prepared.
///
/// # Errors
///
/// Fails if there is neither.
pub fn interpreter() -> anyhow::Result<PathBuf> {
    let prepared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python-venv/bin/python");
    env::var_os("RPC_TESTS_PYTHON")
        .map(PathBuf::from)
        .or_else(|| prepared.is_file().then_some(prepared))
        .context("no Python with pika and msgpack: run tests/run once, it prepares target/python-venv")
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::{
        programs::{LIMIT, run},
        rabbit,
        raw::RawPeer,
        until,
    };

    /// No Rust is involved: the scripts use the convention of RabbitMQ's tutorial.
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
        until("the worker declares its queue", LIMIT, async || {
            Ok(peer.queue_depth(&queue).await?.is_some())
        })
        .await
        .unwrap();

        for caller in ["tutorial_caller.py", "direct_caller.py"] {
            let output = run(command(caller).args(["user:12345", "user:99999"])).await;
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
