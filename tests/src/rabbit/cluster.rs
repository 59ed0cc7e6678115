//! Several nodes that are one broker.

use anyhow::Context as _;
use futures_util::future::try_join_all;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{
    files::Extras,
    node::{Node, Peers},
    ports::free_ports,
};

/// Of the log that quorum queues share: half a gigabyte in memory, unless told otherwise.
const CONFIGURATION: &str = "raft.wal_max_size_bytes = 33554432";

/// Running RabbitMQ nodes of our own which form a cluster.
///
/// Dropping it ends them and removes their folders. It is not tied to the runtime that started it.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts this many nodes, joins them, and waits until all serve clients: for three, some forty seconds.
    ///
    /// # Errors
    ///
    /// As for [`Node::start`].
    ///
    /// # Panics
    ///
    /// Where the number is zero.
    pub async fn start(size: usize) -> anyhow::Result<Self> {
        assert!(size > 0, "a cluster has a node");
        let [epmd_port] = free_ports()?;
        let cookie = Uuid::new_v4().simple().to_string();
        let peers = Peers { cookie, epmd_port };
        let extras = Extras {
            configuration: CONFIGURATION,
            tls: None,
        };
        let nodes = try_join_all((0..size).map(|_| Node::start_among(&peers, &extras))).await?;

        let (first, others) = nodes.split_first().context("a cluster has a node")?;
        // One by one: each joins a cluster that is complete.
        for node in others {
            node.ctl(&["stop_app"]).await?;
            node.ctl(&["join_cluster", first.name()]).await?;
            node.ctl(&["start_app"]).await?;
            node.serves_clients().await?;
        }
        Ok(Self { nodes })
    }

    /// The nodes, in an order that stays the same.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The URLs under which clients reach the nodes, as user guest.
    pub fn urls(&self) -> Vec<&str> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// Kills one node: see [`Node::kill`].
    ///
    /// # Errors
    ///
    /// Where it is not running.
    pub async fn kill(&self, index: usize) -> anyhow::Result<()> {
        self.nodes[index].kill().await
    }

    /// Starts one node again: see [`Node::restart`].
    ///
    /// It waits for the nodes whose data may be newer than its own: where all were killed, the last one comes first, or
    /// all come at once.
    ///
    /// # Errors
    ///
    /// As for [`Node::restart`].
    pub async fn restart(&self, index: usize) -> anyhow::Result<()> {
        self.nodes[index].restart().await
    }

    /// Which node leads this quorum queue of the virtual host `/`; `None` where there is no such queue, or no leader
    /// among the nodes that run.
    ///
    /// # Errors
    ///
    /// Where the nodes cannot be asked.
    pub async fn leader_of(&self, queue: &str) -> anyhow::Result<Option<usize>> {
        #[derive(Deserialize)]
        struct Queue {
            name: String,
            /// Empty or missing for other kinds of queues.
            leader: Option<String>,
        }

        let witness = self
            .nodes
            .iter()
            .find(|node| node.is_running())
            .context("no node runs")?;
        let list = witness.ctl(&["list_queues", "name", "leader", "--formatter", "json"]);
        let queues: Vec<Queue> = serde_json::from_str(&list.await?)?;
        let queue = queues.into_iter().find(|it| it.name == queue);
        let leader = queue.and_then(|queue| queue.leader);
        let leads = |node: &Node| node.is_running() && Some(node.name()) == leader.as_deref();
        Ok(self.nodes.iter().position(leads))
    }

    /// Ends all nodes, and returns once nothing is left of them.
    pub async fn stop(self) -> anyhow::Result<()> {
        // As for one node.
        spawn_blocking(move || drop(self))
            .await
            .context("ending the cluster panicked")
    }
}
