//! What needs no broker: `check`, `generate`, `completions`, and help.

use std::io::Write as _;

use rpc_runtime::describe::{ArgumentDescription, MethodDescription, ServiceDescription};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::program::{Printed, rpc_at};

/// An address without a broker.
const NOWHERE: &str = "amqp://127.0.0.1:1";

fn file(value: &impl serde::Serialize) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&serde_json::to_vec(value).unwrap()).unwrap();
    file
}

async fn check(old: &NamedTempFile, new: &NamedTempFile, options: &[&str]) -> Printed {
    let files = [old, new].map(|file| file.path().to_str().unwrap());
    rpc_at(NOWHERE, &[&["check"], &files[..], options].concat()).await
}

fn search(arguments: &[&str]) -> ServiceDescription {
    let mut find = MethodDescription::new("find");
    find.returns = "Vec<String>".to_owned();
    let arguments = arguments
        .iter()
        .map(|name| ArgumentDescription::new(*name, "&str"));
    find.arguments = arguments.collect();
    let mut search = ServiceDescription::new("Search", "search");
    search.methods.push(find);
    search
}

#[tokio::test]
async fn the_exit_code_of_check_tells_whether_something_breaks() {
    let old = file(&search(&["text"]));
    assert_eq!(
        check(&old, &old, &[]).await.result(),
        "Search: nothing has changed\n"
    );

    // A new argument breaks old callers.
    let new = file(&search(&["text", "language"]));
    let broken = check(&old, &new, &[]).await;
    assert_eq!((broken.code, broken.stderr.as_str()), (1, ""), "{broken:?}");
    assert!(
        broken
            .stdout
            .starts_with("Search\n  breaks old callers    find(language): "),
        "{broken:?}"
    );
    assert_eq!(check(&old, &new, &["--order", "workers-first"]).await.code, 1);
    assert_eq!(check(&old, &new, &["--order", "callers-first"]).await.code, 0);

    // Lists are compared by name.
    let log = ServiceDescription::new("Log", "log");
    let (olds, news) = (file(&[&search(&["text"]), &log]), file(&[search(&["text"])]));
    let checked = check(&olds, &news, &["--json"]).await;
    let told: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(
        (&told["breaks"], &told["rollout"]),
        (&json!(false), &json!("any_order"))
    );
    assert_eq!(
        told["services"][1],
        json!({"name": "Log", "presence": "removed", "changes": [], "compared_by_name": []})
    );
}

#[tokio::test]
async fn check_lists_types_that_it_compared_by_name() {
    let mut users = search(&["text"]);
    users.methods[0].returns = "Vec<User>".to_owned();
    let users = file(&users);
    let told = check(&users, &users, &[]).await;
    assert!(
        told.result()
            .contains("the types of 1 method were compared by name only; use #[service(schema)]"),
        "{told:?}"
    );
    let strict = check(&users, &users, &["--strict", "--json"]).await;
    assert_eq!(strict.code, 1, "{strict:?}");
    let told: Value = serde_json::from_str(&strict.stdout).unwrap();
    assert_eq!(
        (&told["breaks"], &told["services"][0]["compared_by_name"]),
        (&json!(true), &json!(["find"]))
    );
    // Types of the standard library are the same everywhere.
    let plain = file(&search(&["text"]));
    assert_eq!(check(&plain, &plain, &["--strict"]).await.code, 0);
}

#[tokio::test]
async fn check_refuses_other_files() {
    let old = file(&search(&["text"]));
    let failed = check(&old, &file(&json!({"openapi": "3.0.0"})), &[]).await;
    assert!(failed.failure(2).contains("it has no name"), "{failed:?}");
    let failed = rpc_at(NOWHERE, &["check", "/nowhere", "-"]).await;
    assert!(
        failed.failure(2).contains("cannot read /nowhere: No such file"),
        "{failed:?}"
    );
    let failed = rpc_at(NOWHERE, &["check", "-", "-"]).await;
    assert!(failed.failure(2).contains("can only be read once"), "{failed:?}");
}

#[tokio::test]
async fn generate_prints_a_module_in_each_language() {
    let description = file(&search(&["text"]));
    let path = description.path().to_str().unwrap();
    for (language, class) in [
        ("python", "class SearchClient(rpc_runtime.Client):"),
        ("typescript", "export class SearchClient extends rpc.Client {"),
    ] {
        let module = rpc_at(NOWHERE, &["generate", language, "--from", path]).await;
        assert!(module.result().contains(class), "{module:?}");
        assert!(module.stdout.ends_with('\n') && !module.stdout.ends_with("\n\n"));
    }
}

#[tokio::test]
async fn generate_needs_one_service_and_a_known_language() {
    let both = file(&[search(&["text"]), ServiceDescription::new("Log", "log")]);
    let path = both.path().to_str().unwrap();
    let failed = rpc_at(NOWHERE, &["generate", "python", "--from", path]).await;
    assert!(
        failed
            .failure(2)
            .contains("there are several services: Search, Log"),
        "{failed:?}"
    );
    let failed = rpc_at(NOWHERE, &["generate", "python", "--from", path, "Nobody"]).await;
    assert!(failed.failure(2).contains("is called Nobody"), "{failed:?}");
    let module = rpc_at(NOWHERE, &["generate", "python", "--from", path, "Log"]).await;
    assert!(module.result().contains("class LogClient("), "{module:?}");
    let failed = rpc_at(NOWHERE, &["generate", "cobol", "Search"]).await;
    assert!(failed.failure(2).contains("cobol"), "{failed:?}");
    let failed = rpc_at(NOWHERE, &["generate", "python"]).await;
    assert!(failed.failure(2).contains("<SERVICE>"), "{failed:?}");
}

#[tokio::test]
async fn asyncapi_takes_the_view_the_broker_and_the_version() {
    let description = file(&search(&["text"]));
    let asyncapi = |more: &'static [&'static str]| {
        let path = description.path().to_str().unwrap().to_owned();
        async move {
            rpc_at(
                NOWHERE,
                &[&["asyncapi", "--json", "--from", &path], more].concat(),
            )
            .await
        }
    };
    let options = &[
        "--view",
        "caller",
        "--server",
        "amqps://broker:5671/%2f",
        "--asyncapi",
        "3.1",
    ];
    let document = asyncapi(options).await.json();
    assert_eq!(document["asyncapi"], "3.1.0");
    assert_eq!(document["operations"]["find"]["action"], "send");
    assert_eq!(document["servers"]["broker"]["host"], "broker:5671");
    let document = asyncapi(&[]).await.json();
    assert_eq!(document["asyncapi"], "3.0.0");
    assert_eq!(document["operations"]["find"]["action"], "receive");

    let failed = asyncapi(&["--server", "amqp://alice:s3cret@broker"]).await;
    assert!(
        failed.failure(2).contains("remove the user and the password"),
        "{failed:?}"
    );
    assert!(!format!("{failed:?}").contains("s3cret"), "{failed:?}");
}

#[tokio::test]
async fn completions_are_generated_for_each_shell() {
    for (shell, part) in [
        ("bash", "_rpc()"),
        ("zsh", "#compdef rpc"),
        ("fish", "complete -c rpc"),
        ("elvish", "rpc"),
        ("powershell", "rpc"),
    ] {
        let script = rpc_at(NOWHERE, &["completions", shell]).await;
        assert!(script.result().contains(part), "{shell}");
        assert!(script.stdout.contains("asyncapi"), "{shell}");
    }
}

#[tokio::test]
async fn help_lists_the_exit_codes_and_shows_no_values_of_the_environment() {
    let help = rpc_at("amqp://alice:s3cret@host", &["--help"]).await;
    for part in ["Exit codes:", "AMQP_URL", "rpc list", "completions"] {
        assert!(help.result().contains(part), "{part}: {help:?}");
    }
    assert!(!help.stdout.contains("s3cret"));
    let call = rpc_at(NOWHERE, &["call", "--help"]).await;
    assert!(
        call.result()
            .contains("rpc call UserDirectory get_email '{\"id\": \"user:12345\"}'"),
        "{call:?}"
    );
    let misspelt = rpc_at(NOWHERE, &["lsit"]).await;
    assert!(misspelt.failure(2).contains("list"), "{misspelt:?}");
}
