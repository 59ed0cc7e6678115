//! Runs programs as a user would: the examples, built from the current sources, and others.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// How long a program may run. Generous, because other tests keep the machine busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How long a compiler of another language may run.
pub const COMPILE_LIMIT: Duration = Duration::from_secs(300);

/// How long cargo may take to build the examples, including the wait for another cargo.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// Returns a command for an example, built from the current sources. The first call in a process
/// builds all examples. The process gets no `RUST_LOG` and is killed when its handle is dropped.
///
/// # Panics
///
/// Panics if the examples do not build in time.
pub async fn example(name: &str) -> Command {
    static FOLDER: OnceCell<Result<PathBuf, String>> = OnceCell::const_new();

    match FOLDER.get_or_init(build_examples).await {
        Ok(folder) => {
            let mut command = Command::new(folder.join(name));
            command.env_remove("RUST_LOG").kill_on_drop(true);
            command
        }
        Err(error) => panic!("{error}"),
    }
}

/// Returns the target folder in which cargo has built this test.
///
/// # Panics
///
/// Panics if the path of the test is unknown or too short.
#[must_use]
pub fn target_folder() -> PathBuf {
    let profile_folder = profile_folder();
    profile_folder.parent().expect("a folder of cargo's").to_owned()
}

/// Returns the folder of this test's profile in the target folder.
fn profile_folder() -> PathBuf {
    // <target folder>/<profile>/deps/promises-…
    let test = env::current_exe().expect("this test has a path");
    test.ancestors().nth(2).expect("a folder of cargo's").to_owned()
}

/// Builds the examples in the profile of this test. Returns their folder, or why they do not build.
async fn build_examples() -> Result<PathBuf, String> {
    let profile_folder = profile_folder();
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("{} is in no folder of cargo's", profile_folder.display()),
    };
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        // With the features of the workspace, like the tests, so that nothing is built twice.
        .args(["build", "--quiet", "--workspace", "--examples"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target_folder())
        .kill_on_drop(true);
    let built = match timeout(BUILD_LIMIT, command.output()).await {
        Ok(built) => built.expect("cargo starts"),
        Err(_) => return Err(format!("building the examples took longer than {BUILD_LIMIT:?}")),
    };
    match built.status.success() {
        true => Ok(profile_folder.join("examples")),
        false => Err(format!("the examples do not build: {}", text(&built.stderr))),
    }
}

/// Returns the output of a program as text. Invalid bytes are replaced.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program without input until it exits. Does not check its exit code.
///
/// # Panics
///
/// Panics if it does not start, or does not exit within the [`LIMIT`].
pub async fn run(command: &mut Command) -> Output {
    run_within(command, LIMIT).await
}

/// Runs a compiler without input until it exits. Does not check its exit code.
///
/// # Panics
///
/// Panics if it does not start, or does not exit within the [`COMPILE_LIMIT`].
pub async fn compile(command: &mut Command) -> Output {
    run_within(command, COMPILE_LIMIT).await
}

async fn run_within(command: &mut Command, limit: Duration) -> Output {
    timeout(limit, command.stdin(Stdio::null()).output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} takes longer than {limit:?}"))
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// Runs a program that must succeed and print nothing to standard error. Returns its standard
/// output.
///
/// # Panics
///
/// Panics like [`run`], and if the program fails or prints to standard error.
pub async fn printed(command: &mut Command) -> String {
    let output = run(command).await;
    let stderr = text(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stderr}",
        output.status
    );
    assert_eq!(stderr, "", "{command:?}");
    text(&output.stdout)
}
