//! Checks the Dockerfile and the compose file of a project as far as that is possible without
//! Docker: what they copy, build and refer to.

use std::fs;
use std::path::Path;

use rpc_tests::programs::target_folder;
use saphyr::{LoadableYamlNode as _, Yaml};

use super::project::{Project, cargo_in};

/// An instruction of a Dockerfile, such as `COPY`, and its arguments.
#[derive(Debug)]
struct Instruction {
    name: String,
    arguments: Vec<String>,
}

/// Checks that the compose file is YAML, and that what it says fits together.
#[track_caller]
pub(super) fn check_compose_file(project: &Project) {
    let text = project.read("compose.yaml");
    let documents = Yaml::load_from_str(&text).unwrap();
    let [document] = &documents[..] else {
        panic!("one document: {text}");
    };
    let services = &document["services"];
    let (rabbitmq, worker) = (&services["rabbitmq"], &services["worker"]);

    assert_eq!(rabbitmq["image"].as_str(), Some("rabbitmq:4-management"));
    let check = &rabbitmq["healthcheck"]["test"];
    assert_eq!(
        (check[0].as_str(), check[1].as_str()),
        (Some("CMD"), Some("rabbitmq-diagnostics"))
    );
    assert_eq!(
        worker["depends_on"]["rabbitmq"]["condition"].as_str(),
        Some("service_healthy")
    );
    // The host is the name of the other service.
    assert_eq!(
        worker["environment"]["AMQP_URL"].as_str(),
        Some("amqp://rabbitmq")
    );

    assert_eq!(worker["build"]["context"].as_str(), Some("."));
    let checkout = worker["build"]["additional_contexts"]["rpc-runtime"].as_str();
    let manifest = project.read("Cargo.toml");
    let dependency = format!("path = \"{}/rpc-runtime\"", checkout.expect("a checkout"));
    assert!(manifest.contains(&dependency), "{manifest}");
}

/// Builds the worker as the Dockerfile does, from the files that it copies. The build is not
/// optimized, and has no network.
pub(super) async fn check_dockerfile(project: &Project) {
    let instructions = instructions(&project.read("Dockerfile"));
    let image = tempfile::tempdir().unwrap();
    let ignored = project.read(".dockerignore");
    for copy in instructions
        .iter()
        .filter(|instruction| instruction.name == "COPY")
    {
        if !copy.arguments[0].starts_with("--from=") {
            copy_files(&project.path(), image.path(), &copy.arguments, &ignored);
        }
    }

    let run = instructions
        .iter()
        .find(|instruction| instruction.name == "RUN")
        .expect("an instruction that builds");
    let commands: Vec<_> = run.arguments.split(|argument| argument == "&&").collect();
    let [build, install] = commands[..] else {
        panic!("two commands: {run:?}");
    };
    let build: Vec<_> = build
        .iter()
        .filter(|word| !word.starts_with("--mount="))
        .collect();
    assert_eq!((build[0].as_str(), build[1].as_str()), ("cargo", "build"));
    for option in ["--release", "--locked"] {
        assert!(build.iter().any(|word| *word == option), "{option}: {build:?}");
    }
    let options = build[1..].iter().filter(|word| **word != "--release");
    let options: Vec<_> = options.map(|word| word.as_str()).chain(["--offline"]).collect();
    cargo_in(image.path(), &options).await;

    // What was built is what the second stage starts.
    let [copy, built, installed] = install else {
        panic!("cp FROM TO: {install:?}");
    };
    assert_eq!(copy, "cp");
    let program = built
        .strip_prefix("target/release/")
        .expect("a program of the release");
    assert!(target_folder().join("debug").join(program).is_file(), "{program}");
    let copied = ["--from=build", installed, installed];
    assert!(
        instructions
            .iter()
            .any(|instruction| instruction.name == "COPY" && instruction.arguments == copied),
        "{instructions:?}"
    );
    let last = instructions.last().expect("instructions");
    assert_eq!(last.name, "ENTRYPOINT");
    assert_eq!(last.arguments.concat(), format!("[\"{installed}\"]"));
}

/// Reads the instructions of a Dockerfile: without comments, and with continued lines joined.
fn instructions(dockerfile: &str) -> Vec<Instruction> {
    let lines = dockerfile.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.fold(String::new(), |text, line| match line.strip_suffix('\\') {
        Some(continued) => text + continued,
        None => text + line + "\n",
    });
    let lines = joined.lines().filter(|line| !line.trim().is_empty());
    let instructions = lines.map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next().expect("a line that is not empty");
        let arguments = words.collect();
        Instruction { name, arguments }
    });
    instructions.collect()
}

/// Copies files and folders of the project, like `COPY SOURCE.. TARGET`.
fn copy_files(project: &Path, image: &Path, arguments: &[String], ignored: &str) {
    let [sources @ .., target] = arguments else {
        panic!("COPY without arguments");
    };
    for source in sources {
        assert!(!ignored.lines().any(|line| line == source), "{source} is ignored");
        let from = project.join(source);
        if from.is_dir() {
            copy_folder(&from, &image.join(target));
        } else {
            fs::copy(&from, image.join(target).join(source)).unwrap();
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.as_ref().unwrap().file_name()),
        );
        if entry.is_dir() {
            copy_folder(&entry, &to);
        } else {
            fs::copy(&entry, &to).unwrap();
        }
    }
}
