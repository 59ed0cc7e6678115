//! A RabbitMQ of this process alone, with a virtual host for each test: for tests whose queues have fixed names, and for
//! those that must see everything the broker has. Also where `AMQP_URL` is set.

use std::io::Write as _;

use super::{Node, Permissions, unique};
use serde_json::json;
use tokio::sync::{Mutex, OnceCell};

/// How many virtual hosts are made at a time: `rabbitmqctl` takes a second, whatever it does.
const BATCH: usize = 8;

/// A virtual host that is empty to begin with, and [traced](crate::trace).
#[derive(Debug)]
pub struct Vhost {
    node: &'static Node,
    name: String,
}

impl Vhost {
    /// One that nobody has used, on the node that the first of them starts.
    ///
    /// # Panics
    ///
    /// Where the node did not start; then for each caller, with the same reason.
    pub async fn new() -> Self {
        static UNUSED: Mutex<Vec<String>> = Mutex::const_new(Vec::new());

        let node = node().await;
        let mut unused = UNUSED.lock().await;
        if unused.is_empty() {
            *unused = make_batch(node).await;
        }
        let name = unused.pop().expect("a whole batch");
        Self { node, name }
    }

    /// A virtual host whose queues are of this type if they are declared without one. It is not traced.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new), and if RabbitMQ does not make it.
    pub async fn with_default_queue_type(kind: &str) -> Self {
        let (node, name) = (node().await, unique("vhost"));
        let add = ["add_vhost", &name, "--default-queue-type", kind];
        node.ctl(&add).await.unwrap();
        let permit = ["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"];
        node.ctl(&permit).await.unwrap();
        Self { node, name }
    }

    /// The URL under which clients reach it, as user guest.
    pub fn url(&self) -> String {
        let (server, _) = self.node.url().rsplit_once('/').expect("a URL with a path");
        format!("{server}/{}", self.name)
    }

    /// The major and the minor version of RabbitMQ, such as `(4, 3)`.
    ///
    /// # Panics
    ///
    /// Where RabbitMQ does not say.
    pub async fn version(&self) -> (u16, u16) {
        self.node.version().await.unwrap()
    }

    /// The URL for a new user, who may do this here and nothing elsewhere.
    ///
    /// # Panics
    ///
    /// Where RabbitMQ does not make one.
    pub async fn url_of_user(&self, may: Permissions<'_>) -> String {
        let user = unique("user");
        // One evaluation for two commands: `rabbitmqctl` takes a second, whatever it does.
        let Permissions {
            configure,
            write,
            read,
        } = may;
        let vhost = &self.name;
        let make = format!(
            r#"User = <<"{user}">>,
               ok = rabbit_auth_backend_internal:add_user(User, <<"secret">>, <<"tests">>),
               rabbit_auth_backend_internal:set_permissions(
                   User, <<"{vhost}">>, <<"{configure}">>, <<"{write}">>, <<"{read}">>, <<"tests">>)."#
        );
        let made = self.node.ctl(&["eval", &make]).await.unwrap();
        assert_eq!(made.trim(), "ok");
        self.url().replace("guest:guest@", &format!("{user}:secret@"))
    }

    /// The queues but those on which workers listen for who looks for them, a line each: these columns of `rabbitmqctl list_queues`, the
    /// name first, with a tab in between.
    ///
    /// # Panics
    ///
    /// Where RabbitMQ does not list them.
    pub async fn queues(&self, columns: &[&str]) -> Vec<String> {
        let mut queues = self.all_queues(columns).await;
        queues.retain(|queue| !queue.starts_with("rpc.discovery."));
        queues
    }

    /// All queues, a line each.
    ///
    /// # Panics
    ///
    /// As [`queues`](Self::queues).
    pub async fn all_queues(&self, columns: &[&str]) -> Vec<String> {
        let list = ["list_queues", "-p", &self.name, "--no-table-headers"];
        let listed = self.node.ctl(&[&list, columns].concat()).await.unwrap();
        let mut queues: Vec<_> = listed.lines().map(str::to_owned).collect();
        queues.sort();
        queues
    }
}

/// The node of all virtual hosts.
async fn node() -> &'static Node {
    // A static is never dropped; the watchdog sees the process end.
    static NODE: OnceCell<Result<Node, String>> = OnceCell::const_new();

    let node = NODE
        .get_or_init(async || Node::start().await.map_err(|error| format!("{error:?}")))
        .await;
    match node {
        Ok(node) => node,
        Err(error) => panic!("the private RabbitMQ node did not start: {error}"),
    }
}

/// Makes virtual hosts that guest may use, and returns their names.
async fn make_batch(node: &Node) -> Vec<String> {
    let names: Vec<_> = (0..BATCH).map(|_| unique("vhost")).collect();
    let permission =
        |name| json!({"user": "guest", "vhost": name, "configure": ".*", "write": ".*", "read": ".*"});
    let definitions = json!({
        "vhosts": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
        "permissions": names.iter().map(permission).collect::<Vec<_>>(),
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(definitions.to_string().as_bytes()).unwrap();
    let path = file.path().to_str().expect("a path that is text");
    node.ctl(&["import_definitions", path]).await.unwrap();
    // As `trace_on` does, but for all of them: of several `trace_on` at the same time, RabbitMQ may forget some.
    let start = format!("[rabbit_trace:start(list_to_binary(Name)) || Name <- {names:?}].");
    node.ctl(&["eval", &start]).await.unwrap();
    names
}
