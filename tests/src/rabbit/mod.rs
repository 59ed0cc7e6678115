//! Private RabbitMQ nodes.
//!
//! A [`Node`] has its own ports on 127.0.0.1, its own name, cookie, home and epmd, and keeps everything in a
//! temporary folder; it neither meets the machine's own RabbitMQ nor another test's. A watchdog process
//! (`watchdog.sh`) ends it with the test process, however that one ends. The nodes of a [`Cluster`] share the cookie
//! and the epmd.

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

/// The URL of the broker that the tests of this process share: `AMQP_URL` where that is set, else a node that
/// starts at the first call and ends with the process.
///
/// Whoever shares it uses names that are [`unique`] and leaves the broker itself alone.
///
/// # Panics
///
/// Where the node did not start; then for each caller, with the same reason.
pub async fn shared() -> &'static str {
    static URL: LazyLock<Option<String>> = LazyLock::new(|| env::var("AMQP_URL").ok());
    // A static is never dropped; the watchdog sees the process end.
    static NODE: OnceCell<Result<Node, String>> = OnceCell::const_new();

    if let Some(url) = &*URL {
        return url;
    }
    let node = NODE
        .get_or_init(async || Node::start().await.map_err(|error| format!("{error:?}")))
        .await;
    match node {
        Ok(node) => node.url(),
        Err(error) => panic!("the shared RabbitMQ node did not start: {error}"),
    }
}

/// A name with this prefix that nobody else has, for queues on a shared broker.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::new_v4().simple())
}
