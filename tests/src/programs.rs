//! Programs, as others start them: the examples, built from today's sources, and whatever else.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// How long a program may take, with time to spare for a machine that is busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How long cargo may take to build the examples, and to wait for another cargo before that.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// An example's program, built from today's sources.
///
/// # Panics
///
/// Where the examples do not build.
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

/// Builds the examples next to this test, in the same profile, and returns their folder.
async fn build_examples() -> Result<PathBuf, String> {
    // <target directory>/<profile>/deps/promises-…
    let test = env::current_exe().expect("this test has a path");
    let [profile_folder, target] = [2, 3].map(|up| test.ancestors().nth(up).expect("a folder of cargo's"));
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("{} is in no folder of cargo's", test.display()),
    };
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        // With the workspace's features, as the tests are built, so that nothing is built twice.
        .args(["build", "--quiet", "--workspace", "--examples"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
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

/// What a program printed.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program to its end.
///
/// # Panics
///
/// Where it does not start, or does not end within the [`LIMIT`].
pub async fn run(command: &mut Command) -> Output {
    timeout(LIMIT, command.stdin(Stdio::null()).output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} takes longer than {LIMIT:?}"))
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// Runs a program that must succeed and have nothing to say but its result, and returns that.
///
/// # Panics
///
/// As [`run`], and where it fails or says something else.
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
