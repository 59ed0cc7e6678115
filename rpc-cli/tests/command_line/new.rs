//! `rpc new`: what it refuses, and a new project as its user builds, tests and runs it.

mod container_files;
mod project;

use std::collections::BTreeSet;
use std::process::Stdio;

use rpc_tests::programs::{LIMIT, run, text};
use rpc_tests::rabbit::Vhost;
use rpc_tests::until;
use serde_json::json;
use tokio::time::timeout;

use self::container_files::{check_compose_file, check_dockerfile};
use self::project::{Project, REPOSITORY, cargo_in};
use crate::program::{program, rpc, rpc_at, terminate};

/// An address without a broker.
const NOWHERE: &str = "amqp://127.0.0.1:1";

#[tokio::test]
async fn a_new_project_is_built_tested_and_run() {
    let project = Project::new("user-directory", &["--runtime-path", REPOSITORY]).await;
    project.use_our_lock();

    project.cargo(&["fmt", "--check"]).await;
    let lints = [
        "clippy",
        "--offline",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    project.cargo(&lints).await;
    let tests = project.cargo(&["test", "--offline"]).await;
    for test in [
        "a_person_is_greeted ... ok",
        "a_call_without_a_worker_may_be_tried_again ... ok",
    ] {
        assert!(tests.contains(test), "{tests}");
    }
    check_compose_file(&project);
    check_dockerfile(&project).await;
    project.cargo(&["build", "--offline"]).await;
    nothing_is_built_twice(&project).await;
    serves_and_calls(&project).await;
}

/// Checks that `cargo run --package` finds everything built by `cargo build`. It does not if the
/// packages use a dependency with different features.
async fn nothing_is_built_twice(project: &Project) {
    for package in ["user-directory-worker", "user-directory-caller"] {
        let build = [
            "build",
            "--offline",
            "--message-format",
            "json",
            "--package",
            package,
        ];
        let artifacts = project.cargo(&build).await;
        assert!(artifacts.contains(r#""fresh":true"#), "{artifacts}");
        let mut lines = artifacts.lines();
        assert_eq!(
            lines.find(|line| line.contains(r#""fresh":false"#)),
            None,
            "{package}"
        );
    }
}

/// Runs the worker, calls it, and stops it as Docker does.
async fn serves_and_calls(project: &Project) {
    let vhost = Vhost::new().await;
    let started = |name| {
        let mut command = project.program(name);
        command.env("AMQP_URL", vhost.url());
        command
    };
    let worker = started("user-directory-worker")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ping = ["ping", "--queue", "user-directory", "--count", "1"];
    until("the worker answers", LIMIT, async || {
        Ok(rpc(&vhost, &ping).await.code == 0)
    })
    .await
    .unwrap();

    let greeted = run(started("user-directory-caller").arg("Ada")).await;
    assert_eq!(text(&greeted.stdout), "Hello, Ada!\n", "{greeted:?}");
    assert!(
        greeted.status.success() && greeted.stderr.is_empty(),
        "{greeted:?}"
    );

    let refused = run(started("user-directory-caller").arg("")).await;
    assert_eq!(text(&refused.stderr), "please give a name\n", "{refused:?}");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");

    let queue = ["call", "Greeter", "greet", "--queue", "user-directory"];
    let called = rpc(&vhost, &[&queue[..], &["--arg", "name=Ada"]].concat()).await;
    assert_eq!(called.json(), json!("Hello, Ada!"));

    terminate(worker.id().expect("it runs")).await;
    let stopped = timeout(LIMIT, worker.wait_with_output())
        .await
        .expect("it ends")
        .unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert!(text(&stopped.stderr).contains("stopped"), "{stopped:?}");
}

#[tokio::test]
async fn a_new_project_uses_the_release_of_the_program_unless_told_otherwise() {
    let project = Project::new("shop", &[]).await;
    let metadata = project
        .cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .await;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<_> = packages
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["shop-api", "shop-caller", "shop-worker"].into());
    for package in packages {
        assert_eq!(package["rust_version"], env!("CARGO_PKG_RUST_VERSION"));
        let dependencies = package["dependencies"].as_array().unwrap();
        let runtime = dependencies
            .iter()
            .find(|dependency| dependency["name"] == "rpc-runtime")
            .unwrap();
        assert_eq!(runtime["req"], concat!("^", env!("CARGO_PKG_VERSION")));
        assert_eq!(runtime["path"], json!(null));
    }
}

#[tokio::test]
async fn the_format_of_the_code_does_not_depend_on_the_name() {
    let longest = "a".repeat(57);
    for name in ["a", "z9_b-c", &longest] {
        Project::new(name, &[]).await.cargo(&["fmt", "--check"]).await;
    }
}

#[tokio::test]
async fn the_first_commands_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    let new = |arguments: &'static [&'static str]| run_in(&folder, arguments);
    let created = new(&["new", "shop"]).await;
    assert!(
        created.starts_with("Created shop in shop. To begin:\n\n  cd shop\n  cargo test  "),
        "{created}"
    );
    let created = new(&["new", "shop", "--path", "other", "--json"]).await;
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    assert_eq!(
        (&created["name"], &created["path"]),
        (&json!("shop"), &json!("other"))
    );
    for file in created["files"].as_array().unwrap() {
        let path = folder.path().join("other").join(file.as_str().unwrap());
        assert!(path.is_file(), "{}", path.display());
    }
}

async fn run_in(folder: &tempfile::TempDir, arguments: &[&str]) -> String {
    let output = run(program(arguments).current_dir(folder.path())).await;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    text(&output.stdout)
}

#[tokio::test]
async fn what_cannot_be_created_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("mine"), "kept").unwrap();
    let missing = folder.path().join("no/shop");
    let missing = missing.to_str().unwrap();
    for (arguments, reason) in [
        (&["new", "Shop", "--path", full][..], "'S' is not allowed"),
        (&["new", "../shop", "--path", full], "'.' is not allowed"),
        (&["new", "fn", "--path", full], "has a meaning of its own"),
        (&["new", "shop", "--path", full], "exists, and is not empty"),
        (&["new", "shop", "--path", missing], "there is no folder"),
        (
            &["new", "shop", "--path", missing, "--runtime-path", full],
            "is not a checkout of rpc-runtime",
        ),
    ] {
        let failed = rpc_at(NOWHERE, arguments).await;
        assert!(failed.failure(2).contains(reason), "{reason}: {failed:?}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        std::fs::read_to_string(folder.path().join("mine")).unwrap(),
        "kept"
    );
}

#[tokio::test]
async fn the_package_contains_the_templates() {
    let listed = [
        "package",
        "--list",
        "--package",
        "rpc-cli",
        "--allow-dirty",
        "--offline",
    ];
    let packaged = cargo_in(REPOSITORY, &listed).await;
    let templates = files_below(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates"));
    assert!(templates.len() > 10, "{templates:?}");
    for template in templates {
        assert!(
            packaged.lines().any(|file| file == template),
            "{template}\n{packaged}"
        );
    }
}

/// Returns the paths of all files below a folder of the package, relative to the package.
fn files_below(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| match path.is_dir() {
        true => files_below(&path),
        false => {
            let relative = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            vec![relative.to_str().unwrap().to_owned()]
        }
    });
    found.collect()
}
