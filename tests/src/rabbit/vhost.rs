//! A RabbitMQ node for this process alone, with a virtual host for each test that needs fixed queue
//! names or must see all queues of its broker. The node is used even if `AMQP_URL` is set.

use std::io::Write as _;

use super::{Node, Permissions, unique};
use serde_json::json;
use tokio::sync::{Mutex, OnceCell};

/// How many virtual hosts are created at once: each run of `rabbitmqctl` takes a second.
const BATCH: usize = 8;

/// A virtual host that belongs to one test.
#[derive(Debug)]
pub struct Vhost {
    node: &'static Node,
    name: String,
}

impl Vhost {
    /// Returns an unused virtual host, which is [traced](crate::trace). The first call starts the
    /// node.
    ///
    /// # Panics
    ///
    /// Panics if the node did not start, with the same reason for each caller, and if RabbitMQ does
    /// not create the virtual host.
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

    /// Creates a virtual host whose default queue type is this one. It is not traced.
    ///
    /// # Panics
    ///
    /// Panics like [`new`](Self::new).
    pub async fn with_default_queue_type(kind: &str) -> Self {
        let (node, name) = (node().await, unique("vhost"));
        let add = ["add_vhost", &name, "--default-queue-type", kind];
        node.ctl(&add).await.unwrap();
        let permit = ["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"];
        node.ctl(&permit).await.unwrap();
        Self { node, name }
    }

    /// Returns its URL, for the user guest.
    pub fn url(&self) -> String {
        let (server, _) = self.node.url().rsplit_once('/').expect("a URL with a path");
        format!("{server}/{}", self.name)
    }

    /// Returns the major and minor version of RabbitMQ, such as `(4, 3)`.
    ///
    /// # Panics
    ///
    /// Panics if RabbitMQ does not report it.
    pub async fn version(&self) -> (u16, u16) {
        self.node.version().await.unwrap()
    }

    /// Creates a user with these permissions here and none elsewhere. Returns the URL of the
    /// virtual host for that user.
    ///
    /// # Panics
    ///
    /// Panics if RabbitMQ does not create the user.
    pub async fn url_of_user(&self, may: Permissions<'_>) -> String {
        let user = unique("user");
        // One evaluation for two commands, because each run of `rabbitmqctl` takes a second.
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

    /// Returns all queues except those for control messages, one line each, sorted: these columns
    /// of `rabbitmqctl list_queues`, separated by tabs. The first one must be the name.
    ///
    /// # Panics
    ///
    /// Panics if RabbitMQ does not list them.
    pub async fn queues(&self, columns: &[&str]) -> Vec<String> {
        let mut queues = self.all_queues(columns).await;
        queues.retain(|queue| !queue.starts_with("rpc.control."));
        queues
    }

    /// Like [`queues`](Self::queues), with those for control messages.
    ///
    /// # Panics
    ///
    /// Panics like [`queues`](Self::queues).
    pub async fn all_queues(&self, columns: &[&str]) -> Vec<String> {
        let list = ["list_queues", "-p", &self.name, "--no-table-headers"];
        let listed = self.node.ctl(&[&list, columns].concat()).await.unwrap();
        let mut queues: Vec<_> = listed.lines().map(str::to_owned).collect();
        queues.sort();
        queues
    }
}

/// Returns the node of all virtual hosts.
async fn node() -> &'static Node {
    // A static is never dropped. The watchdog notices the end of the process.
    static NODE: OnceCell<Result<Node, String>> = OnceCell::const_new();

    let node = NODE
        .get_or_init(async || Node::start().await.map_err(|error| format!("{error:?}")))
        .await;
    match node {
        Ok(node) => node,
        Err(error) => panic!("the private RabbitMQ node did not start: {error}"),
    }
}

/// Creates virtual hosts for the user guest, starts to trace them, and returns their names.
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
    // This is `trace_on` for all of them. RabbitMQ may lose one of several concurrent `trace_on`.
    let start = format!("[rabbit_trace:start(list_to_binary(Name)) || Name <- {names:?}].");
    node.ctl(&["eval", &start]).await.unwrap();
    names
}
