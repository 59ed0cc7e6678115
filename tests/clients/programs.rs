//! Runs programs of other languages, and shows what they print if they fail.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rpc_tests::programs::text;
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio::time::timeout;

/// How many bytes of what a program prints are shown.
const SHOWN: usize = 16 << 10;

/// Returns the folder of the repository.
pub(crate) fn root() -> PathBuf {
    let conformance = Path::new(env!("CARGO_MANIFEST_DIR"));
    conformance
        .ancestors()
        .nth(3)
        .expect("the folder is in the repository")
        .to_owned()
}

/// Returns a command that is killed when its handle is dropped.
pub(crate) fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What a program prints to standard error. It is shown if a test fails meanwhile.
///
/// Node.js makes its standard error non-blocking, so it cannot share that of the test.
pub(crate) struct ErrorOutput(NamedTempFile);

impl ErrorOutput {
    /// Lets a program write there.
    pub(crate) fn of(command: &mut Command) -> Self {
        let file = NamedTempFile::new().expect("there is a folder for temporary files");
        command.stderr(file.reopen().expect("the file is there"));
        Self(file)
    }
}

impl Drop for ErrorOutput {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let printed = std::fs::read(self.0.path()).unwrap_or_default();
            let last = &printed[printed.len().saturating_sub(SHOWN)..];
            eprintln!("a program printed:\n{}", text(last));
        }
    }
}

/// Runs a program until it exits.
///
/// # Errors
///
/// Fails if it does not start, or does not exit within the limit.
pub(crate) async fn output(command: &mut Command, limit: Duration) -> Result<Output, String> {
    match timeout(limit, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(format!("{command:?} does not start: {error}")),
        Err(_) => Err(format!("{command:?} takes longer than {limit:?}")),
    }
}

/// Runs a program that must succeed.
///
/// # Errors
///
/// Fails like [`output`], and with what the program prints if it fails.
pub(crate) async fn succeeds(command: &mut Command, limit: Duration) -> Result<(), String> {
    let output = output(command, limit).await?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        )),
    }
}
