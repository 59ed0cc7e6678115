//! `list`, `describe`, `asyncapi`, `generate` and `check` of running services.

use std::time::Duration;

use rpc_contract::generate::{Language, module};
use rpc_contract::{ServiceDescription, asyncapi};
use rpc_examples::UserDirectoryClient;
use rpc_runtime::{Broker, Server, ServiceClient as _};
use rpc_tests::gate::SOON;
use rpc_tests::programs::printed;
use rpc_tests::rabbit::{Permissions, Vhost};
use rpc_tests::until;
use serde_json::{Value, json};

use crate::program::{
    Printed, directory_on, directory_server, library, program, rpc, rpc_at, rpc_once, rpc_until,
    rpc_with_input,
};

#[tokio::test]
async fn list_finds_two_services_on_three_workers() {
    let vhost = Vhost::new().await;
    let _workers = (
        directory_server(&vhost).await,
        directory_on(&vhost, "rpc_queue").await,
        library(&vhost).await,
    );
    let listed = rpc_until(&vhost, &["list"], |listed| {
        listed.stdout.contains("2        2         1        2")
            && listed.stdout.contains("1        1         1        6")
    })
    .await;
    assert_eq!(
        listed.result(),
        "\
SERVICE        QUEUE      DEPTH  CONSUMERS  WORKERS  VERSIONS  METHODS
Library        books          0          1        1         1        6
UserDirectory  rpc_queue      0          2        2         1        2
"
    );

    let listed = rpc_until(&vhost, &["list", "--workers"], |listed| {
        listed.stdout.lines().count() == 4
    })
    .await;
    let rows: Vec<_> = listed.result().lines().collect();
    assert_eq!(rows.len(), 4, "{listed:?}");
    let serving = |what: &str| rows.iter().filter(|row| row.ends_with(what)).count();
    assert_eq!(
        (serving("UserDirectory on rpc_queue"), serving("Library on books")),
        (2, 1),
        "{rows:?}"
    );
    assert_eq!(
        rows.iter()
            .filter(|row| row.contains("  librarian  ") && row.contains("  2.3.1  "))
            .count(),
        1,
        "{rows:?}"
    );

    let listed = list_json(&vhost, 3).await;
    assert_eq!(listed["services"][1]["name"], "UserDirectory");
    assert_eq!(
        (
            &listed["services"][1]["depth"],
            &listed["services"][1]["consumers"]
        ),
        (&json!(0), &json!(2))
    );
    assert_eq!(listed["services"][1]["methods"], json!(["get_email", "count"]));
    assert_eq!(listed["services"][1]["workers"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&listed["workers"].as_array().unwrap().len(), &listed["complete"]),
        (&3, &json!(true))
    );
}

/// Returns what `list --json` prints once it finds this many workers.
async fn list_json(vhost: &Vhost, workers: usize) -> Value {
    let finds_all = |listed: &Printed| {
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
        listed["workers"]
            .as_array()
            .is_some_and(|found| found.len() == workers)
    };
    rpc_until(vhost, &["list", "--json"], finds_all).await.json()
}

#[rpc_runtime::service(queue = "mail")]
trait Mail {
    #[rpc(oneway, idempotent)]
    async fn send(&self, to: &str);
    #[rpc(oneway, idempotent, retry = "5 times, 1s to 5m")]
    async fn repeat(&self, to: &str);
}

struct NoRoute;

impl Mail for NoRoute {
    async fn send(&self, to: &str) {
        panic!("no route to {to}");
    }

    async fn repeat(&self, _: &str) {}
}

#[tokio::test]
async fn list_shows_the_jobs_that_wait_and_those_that_were_given_up() {
    let vhost = Vhost::new().await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let server = Server::new(&broker).serve(MailServer::new(NoRoute));
    let _server = server.start().await.unwrap();
    let mail = MailClient::new(&broker);
    mail.send("alice").await.unwrap();
    let hour = Duration::from_secs(3600);
    for to in ["bob", "carol"] {
        mail.send(to).delay(hour).await.unwrap();
    }
    let expected = "\
SERVICE  QUEUE  DEPTH  CONSUMERS  WORKERS  VERSIONS  METHODS
Mail     mail       0          1        1         1        2

JOBS OF  QUEUE  WAITING  DEAD
Mail     mail         2     1
";
    until("the jobs have been moved", SOON, async || {
        let listed = rpc(&vhost, &["list"]).await;
        Ok(listed.code == 0 && listed.stdout == expected)
    })
    .await
    .unwrap();
    let listed = list_json(&vhost, 1).await;
    assert_eq!(listed["services"][0]["jobs"], json!({"waiting": 2, "dead": 1}));
    let described = rpc(&vhost, &["describe", "Mail"]).await;
    let option = r#"#[rpc(idempotent, oneway, retry = "5 times, 1s to 5m")]"#;
    assert!(described.result().contains(option), "{described:?}");
}

#[tokio::test]
async fn list_is_empty_without_workers() {
    let vhost = Vhost::new().await;
    let listed = rpc_once(&vhost, &["list"]).await;
    assert_eq!((listed.code, listed.stdout.as_str()), (0, ""));
    assert!(listed.stderr.contains("no worker answered"), "{listed:?}");
    assert_eq!(
        rpc(&vhost, &["list", "--json"]).await.json()["services"],
        json!([])
    );
}

#[tokio::test]
async fn describe_shows_the_trait_of_the_example_and_its_description() {
    let vhost = Vhost::new().await;
    let _worker = directory_server(&vhost).await;
    const TRAIT: &str = "\
/// Looks users up.
service UserDirectory on queue rpc_queue

    /// Returns the e-mail address of one user.
    #[rpc(default, idempotent)]
    get_email(id: &str) -> Result<String, DirectoryError>

    /// Returns the number of users.
    #[rpc(idempotent)]
    count() -> u64

    /// Why the directory could not answer.
    type DirectoryError
        /// No user has this id.
        {UnknownUser: {id: string}}
";
    for arguments in [
        &["describe", "UserDirectory"][..],
        &["describe", "--queue", "rpc_queue"],
        &["describe", "UserDirectory", "--queue", "rpc_queue"],
        &["describe", "UserDirectory", "--versions"],
    ] {
        assert_eq!(rpc(&vhost, arguments).await.result(), TRAIT, "{arguments:?}");
    }

    // As its page says.
    let page = include_str!("../../../docs/command-line.md");
    assert!(page.contains(&format!("$ rpc describe UserDirectory\n{TRAIT}")));

    let expected = UserDirectoryClient::SERVICE.description();
    let described = rpc(&vhost, &["describe", "UserDirectory", "--json"]).await.json();
    assert_eq!(
        serde_json::from_value::<ServiceDescription>(described).unwrap(),
        expected
    );
    let described = rpc(&vhost, &["describe", "--queue", "rpc_queue", "--json"])
        .await
        .json();
    assert_eq!(
        serde_json::from_value::<Vec<ServiceDescription>>(described).unwrap(),
        [expected]
    );
}

#[tokio::test]
async fn asyncapi_prints_the_document_of_a_running_service_and_of_a_file() {
    let vhost = Vhost::new().await;
    let _worker = directory_on(&vhost, "rpc_queue").await;
    let expected = |version| asyncapi::document(&UserDirectoryClient::SERVICE.description(), version);
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let printed = rpc(&vhost, &["asyncapi", "UserDirectory", "--api-version", "2.1.0"]).await;
    assert_eq!(read(printed.result()), expected("2.1.0"));
    // For people too, wherever it goes.
    assert!(printed.stdout.lines().count() > 10);

    let description = rpc(&vhost, &["describe", "--queue", "rpc_queue", "--json"]).await;
    let printed = rpc_with_input(
        &vhost,
        &["asyncapi", "--from", "-", "--json"],
        description.result(),
    )
    .await;
    assert_eq!(printed.json(), expected("1.0.0"));
}

#[tokio::test]
async fn generate_prints_the_module_of_a_running_service_and_of_its_description() {
    let vhost = Vhost::new().await;
    let _worker = directory_on(&vhost, "rpc_queue").await;
    let of = |language| module(&UserDirectoryClient::SERVICE.description(), language);
    let expected = of(Language::Python);
    // As the example for other languages has it.
    let (python, typescript) = (
        include_str!("../../../examples/other_languages/user_directory.py"),
        include_str!("../../../examples/other_languages/user_directory.ts"),
    );
    assert_eq!(
        (&*expected, &*of(Language::TypeScript)),
        (python, typescript),
        "run `rpc generate`"
    );
    for source in [&["UserDirectory"][..], &["--queue", "rpc_queue"]] {
        let printed = rpc(&vhost, &[&["generate", "python"], source].concat()).await;
        assert_eq!(printed.result(), expected);
    }
    let description = rpc(&vhost, &["describe", "UserDirectory", "--json"]).await;
    let generate = &["generate", "python", "--from", "-"];
    let printed = rpc_with_input(&vhost, generate, description.result()).await;
    assert_eq!(printed.result(), expected);
}

#[tokio::test]
async fn check_compares_a_running_service_with_a_new_version() {
    let vhost = Vhost::new().await;
    let _worker = directory_on(&vhost, "rpc_queue").await;
    let mut new = UserDirectoryClient::SERVICE.description();
    new.methods.truncate(1);
    let new = serde_json::to_string(&new).unwrap();
    for running in ["service:UserDirectory", "queue:rpc_queue"] {
        let checked = rpc_with_input(&vhost, &["check", running, "-"], &new).await;
        assert_eq!(checked.code, 1, "{checked:?}");
        assert!(
            checked.stdout.contains("breaks old callers    count: it is gone"),
            "{checked:?}"
        );
    }
    let same = rpc(&vhost, &["check", "service:UserDirectory", "queue:rpc_queue"]).await;
    let told = same.result();
    assert_eq!(told, "UserDirectory: nothing has changed\n");
}

#[tokio::test]
async fn a_service_on_two_queues_is_chosen_by_its_queue() {
    let vhost = Vhost::new().await;
    let _workers = (
        directory_on(&vhost, "one").await,
        directory_on(&vhost, "two").await,
    );
    let call = ["call", "UserDirectory", "count"];
    let unclear = rpc_until(&vhost, &call, |unclear| unclear.code == 2).await;
    assert_eq!(
        unclear.failure(2),
        "rpc: UserDirectory is on 2 queues: one, two\n     choose one of them with `--queue`\n"
    );
    let called = rpc(&vhost, &["call", "UserDirectory", "count", "--queue", "two"]).await;
    assert_eq!(called.result(), "2\n");
}

#[tokio::test]
async fn several_running_versions_are_noted() {
    let vhost = Vhost::new().await;
    let _old = directory_on(&vhost, "rpc_queue").await;
    let broker = Broker::connect(&vhost.url()).await.unwrap();
    let queue = rpc_runtime::RequestQueue::new("rpc_queue");
    let server =
        rpc_runtime::Server::new(&broker).serve_on(queue, renamed::UserDirectoryServer::new(renamed::New));
    let _new = server.start().await.unwrap();
    let finds_both = |described: &Printed| described.stderr.contains("run 2 versions");
    let described = rpc_until(&vhost, &["describe", "UserDirectory"], finds_both).await;
    assert_eq!(described.code, 0);
    assert!(
        described.stderr.contains("run 2 versions of UserDirectory"),
        "{described:?}"
    );
    let versions = ["describe", "UserDirectory", "--versions", "--json"];
    let has_both = |described: &Printed| described.stdout.matches("\"methods\":").count() == 2;
    let versions = rpc_until(&vhost, &versions, has_both).await.json();
    assert_eq!(versions.as_array().unwrap().len(), 2);
    // What is told beside a result is JSON beside JSON.
    let described = rpc_until(&vhost, &["describe", "UserDirectory", "--json"], finds_both).await;
    assert_eq!(described.code, 0);
    let told: Value = serde_json::from_str(&described.stderr).unwrap();
    let note = told["note"].as_str().unwrap();
    assert!(note.contains("run 2 versions of UserDirectory"), "{told}");
    let listed = list_json(&vhost, 2).await;
    assert_eq!(listed["services"][0]["versions"], 2);
}

/// The next version of the example's service.
mod renamed {
    #[rpc_runtime::service(queue = "rpc_queue")]
    pub(super) trait UserDirectory {
        #[rpc(default, idempotent)]
        async fn get_email(&self, id: &str, verified: Option<bool>) -> String;
    }

    pub(super) struct New;

    impl UserDirectory for New {
        async fn get_email(&self, id: &str, _verified: Option<bool>) -> String {
            id.to_owned()
        }
    }
}

#[tokio::test]
async fn the_documented_permissions_are_enough() {
    let vhost = Vhost::new().await;
    let _worker = directory_on(&vhost, "rpc_queue").await;
    let finder = Permissions {
        configure: "^amq[.]gen-",
        write: "^(amq[.]default|rpc[.]control)$",
        read: "^amq[.]gen-",
    };
    let url = vhost.url_of_user(finder).await;
    assert_eq!(rpc_at(&url, &["list"]).await.result().lines().count(), 2);
    assert_eq!(
        rpc_at(&url, &["call", "UserDirectory", "count"]).await.result(),
        "2\n"
    );

    let caller = Permissions {
        write: "^amq[.]default$",
        ..finder
    };
    let url = vhost.url_of_user(caller).await;
    let refused = rpc_at(&url, &["list"]).await;
    assert!(
        refused.failure(5).contains("calls with `--queue` do not"),
        "{refused:?}"
    );
    assert_eq!(
        rpc_at(&url, &["call", "--queue", "rpc_queue", "count"])
            .await
            .result(),
        "2\n"
    );

    let least = Permissions {
        configure: "^$",
        read: "^$",
        ..caller
    };
    let url = vhost.url_of_user(least).await;
    let call = ["call", "--queue", "rpc_queue", "count"];
    let refused = rpc_at(&url, &call).await;
    assert!(
        refused.failure(5).contains("RPC_RUNTIME_REPLY_QUEUE=direct"),
        "{refused:?}"
    );
    let mut direct = program(&call);
    direct
        .env("AMQP_URL", &url)
        .env("RPC_RUNTIME_REPLY_QUEUE", "direct");
    assert_eq!(printed(&mut direct).await, "2\n");
}
