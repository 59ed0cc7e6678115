//! A cluster of nodes.

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

/// The size limit of the log that the quorum queues of a node share: the default would keep half a
/// gigabyte in memory.
const CONFIGURATION: &str = "raft.wal_max_size_bytes = 33554432";

/// Private RabbitMQ nodes that form a cluster.
///
/// Dropping it stops them and removes their folders. It does not depend on the runtime that started
/// it.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts this many nodes, joins them, and waits until all serve clients. Three nodes take
    /// about forty seconds.
    ///
    /// # Errors
    ///
    /// Fails like [`Node::start`], or if a node cannot join the others.
    ///
    /// # Panics
    ///
    /// Panics if the number is zero.
    pub async fn start(size: usize) -> anyhow::Result<Self> {
        Self::start_with(size, "").await
    }

    /// Like [`start`](Self::start), with these lines at the end of each node's `rabbitmq.conf`.
    ///
    /// # Errors
    ///
    /// Fails like [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// Panics if the number is zero.
    pub async fn start_with(size: usize, configuration: &str) -> anyhow::Result<Self> {
        assert!(size > 0, "a cluster has a node");
        let [epmd_port] = free_ports()?;
        let cookie = Uuid::new_v4().simple().to_string();
        let peers = Peers { cookie, epmd_port };
        let extras = Extras {
            configuration: &format!("{CONFIGURATION}\n{configuration}"),
            tls: None,
        };
        let nodes = try_join_all((0..size).map(|_| Node::start_among(&peers, &extras))).await?;

        let (first, others) = nodes.split_first().context("a cluster has a node")?;
        // One after the other: each node joins a complete cluster.
        for node in others {
            node.ctl(&["stop_app"]).await?;
            node.ctl(&["join_cluster", first.name()]).await?;
            node.ctl(&["start_app"]).await?;
            node.has_started().await?;
        }
        Ok(Self { nodes })
    }

    /// Returns the nodes, always in the same order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the URLs of the nodes, for the user guest.
    pub fn urls(&self) -> Vec<&str> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// Kills one node: see [`Node::kill`].
    ///
    /// # Errors
    ///
    /// Fails like [`Node::kill`].
    pub async fn kill(&self, index: usize) -> anyhow::Result<()> {
        self.nodes[index].kill().await
    }

    /// Restarts a node: see [`Node::restart`].
    ///
    /// The node waits for others whose data may be newer. If all were killed, first restart the one
    /// that was killed last, or restart all at once.
    ///
    /// # Errors
    ///
    /// Fails like [`Node::restart`].
    pub async fn restart(&self, index: usize) -> anyhow::Result<()> {
        self.nodes[index].restart().await
    }

    /// Returns the index of the node that leads this quorum queue of the virtual host `/`, or
    /// `None` if there is no such queue or no running node leads it.
    ///
    /// # Errors
    ///
    /// Fails if no node runs, or if `rabbitmqctl` fails.
    pub async fn leader_of(&self, queue: &str) -> anyhow::Result<Option<usize>> {
        #[derive(Deserialize)]
        struct Queue {
            name: String,
            /// Empty or missing for other types of queue.
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

    /// Asks a quorum queue of the virtual host `/` to make this node its leader. It is no error if
    /// the leader stays the same or the queue is missing: see [`leader_of`](Self::leader_of).
    ///
    /// # Errors
    ///
    /// Fails if `rabbitmqctl` fails.
    pub async fn move_leader(&self, queue: &str, index: usize) -> anyhow::Result<()> {
        let node = &self.nodes[index];
        let transfer = format!(
            "case rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)) of
                 {{ok, Queue}} -> rabbit_quorum_queue:transfer_leadership(Queue, node());
                 Missing -> Missing
             end."
        );
        node.ctl(&["eval", &transfer]).await?;
        Ok(())
    }

    /// Kills all nodes. Returns once all their processes have ended and their folders are removed.
    pub async fn stop(self) -> anyhow::Result<()> {
        // As in `Node::stop`: it waits.
        spawn_blocking(move || drop(self))
            .await
            .context("ending the cluster panicked")
    }
}
