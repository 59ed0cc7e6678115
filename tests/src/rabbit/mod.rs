//! Private RabbitMQ nodes.
//!
//! A [`Node`] has its own ports on 127.0.0.1, name, cookie, home and epmd (Erlang's port mapper),
//! and keeps everything in a temporary folder. It does not meet the machine's own RabbitMQ or
//! another node. A watchdog process (`watchdog.sh`) stops it when it is dropped or the test process
//! ends, however that happens. The nodes of a [`Cluster`] share the cookie and the epmd.

use std::{env, sync::LazyLock};

use tokio::sync::OnceCell;
use uuid::Uuid;

mod cluster;
mod files;
mod node;
mod ports;
#[cfg(test)]
mod tests;
mod vhost;

pub use self::{
    cluster::Cluster,
    node::{Node, Permissions},
    vhost::Vhost,
};

/// Returns the URL of the broker that the tests of this process share: `AMQP_URL` if it is set.
/// Otherwise it is a node that starts with the first call and stops with the process.
///
/// Tests that use it choose [`unique`] names and do not change the broker itself.
///
/// # Panics
///
/// Panics if the node did not start, with the same reason for each caller.
pub async fn shared() -> &'static str {
    static URL: LazyLock<Option<String>> = LazyLock::new(|| env::var("AMQP_URL").ok());

    match &*URL {
        Some(url) => url,
        None => shared_node().await.url(),
    }
}

/// Returns the node that the tests of this process share, whether or not `AMQP_URL` is set. The
/// first call starts it. Each [`Vhost`] is on another node.
///
/// # Panics
///
/// Panics if the node did not start, with the same reason for each caller.
pub async fn shared_node() -> &'static Node {
    // A static is never dropped. The watchdog notices the end of the process.
    static NODE: OnceCell<Result<Node, String>> = OnceCell::const_new();

    let node = NODE
        .get_or_init(async || Node::start().await.map_err(|error| format!("{error:?}")))
        .await;
    match node {
        Ok(node) => node,
        Err(error) => panic!("the shared RabbitMQ node did not start: {error}"),
    }
}

/// Returns a unique name with this prefix, for a queue, a user or the like on a shared broker.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::new_v4().simple())
}
