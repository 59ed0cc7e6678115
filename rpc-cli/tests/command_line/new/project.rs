//! A new project in a folder of its own, and cargo's commands in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rpc_tests::programs::{run, target_folder, text};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::program::program;

/// The repository that this test is part of.
pub(super) const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// How long a command of cargo may take, including the wait for another cargo.
const CARGO_LIMIT: Duration = Duration::from_secs(600);

pub(super) struct Project {
    folder: TempDir,
    name: String,
}

impl Project {
    /// Creates a project with `rpc new` and these options.
    pub(super) async fn new(name: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = [&["new", name], options].concat();
        let created = run(program(&arguments).current_dir(folder.path())).await;
        assert!(
            created.status.success() && created.stderr.is_empty(),
            "{created:?}"
        );
        Self {
            folder,
            name: name.to_owned(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    pub(super) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap()
    }

    /// Lets cargo use the versions of dependencies that are on this machine anyway.
    pub(super) fn use_our_lock(&self) {
        let ours = Path::new(REPOSITORY).join("Cargo.lock");
        std::fs::copy(ours, self.path().join("Cargo.lock")).unwrap();
    }

    /// Runs a command of cargo that must succeed, and returns its standard output.
    pub(super) async fn cargo(&self, arguments: &[&str]) -> String {
        cargo_in(self.path(), arguments).await
    }

    /// Returns a command for a program of the project, which must have been built.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(target_folder().join("debug").join(name));
        command.env_remove("RUST_LOG").kill_on_drop(true);
        command
    }
}

/// Runs a command of cargo in a folder, like [`Project::cargo`].
///
/// It builds into the target folder of this test, with the options of our workspace, so that most
/// dependencies are there already.
pub(super) async fn cargo_in(folder: impl AsRef<Path>, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(folder)
        .args(arguments)
        .env("CARGO_TARGET_DIR", target_folder())
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .env("CARGO_PROFILE_DEV_BUILD_OVERRIDE_DEBUG", "line-tables-only")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = timeout(CARGO_LIMIT, command.output()).await;
    let output = ended
        .unwrap_or_else(|_| panic!("{command:?} takes longer than {CARGO_LIMIT:?}"))
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    stdout
}
