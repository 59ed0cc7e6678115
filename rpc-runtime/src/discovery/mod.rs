//! Workers describe themselves, and callers find them.
//!
//! Each worker answers three built-in methods on every queue that it serves, in MessagePack, JSON
//! and plain text:
//!
//! | method | answer |
//! |---|---|
//! | `rpc.ping` | the worker's identity: a [`Worker`] |
//! | `rpc.describe` | its identity and the services on this queue: a [`WorkerDescription`] |
//! | `rpc.stats` | the statistics of its methods: [`WorkerStats`] |
//!
//! A [`WorkerClient`] calls them on one queue. They pass through the server's layers like all other
//! methods, so [`Authorize`](crate::middleware::Authorize) decides who may call them, by their
//! names or by `rpc.*`.
//!
//! # Finding workers
//!
//! [`Broker::discover`](crate::Broker::discover) asks all workers of the broker at once:
//!
//! ```no_run
//! # async fn example() -> Result<(), rpc_runtime::BrokerError> {
//! use std::time::Duration;
//!
//! use rpc_runtime::Broker;
//!
//! let broker = Broker::connect("amqp://localhost").await?;
//! let found = broker.discover().window(Duration::from_millis(200)).services().await?;
//! for found in &found.workers {
//!     println!("{}", found.worker);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The request goes to the exchange `rpc.control`, to which each worker binds a queue of its own.
//! `docs/protocol.md` describes how peers in other languages take part. Workers answer at once,
//! even at their concurrency limit.
//!
//! Discovery does not find a worker
//!
//! - without [self-description](crate::Server::self_description),
//! - whose RabbitMQ user lacks the permissions,
//! - that is not connected at that moment,
//! - on another virtual host.
//!
//! A worker that lacks the permissions logs this and serves its queues all the same. It needs
//! configure, write and read on `rpc\.control.*`. If the exchange already exists, read on
//! `rpc\.control` and all three on `rpc\.control\..*` are enough. The user that asks needs write on
//! `rpc\.control`.
//!
//! Answers are not authenticated: every RabbitMQ user that may bind a queue to `rpc.control` can
//! claim to serve any service on any queue. If you do not trust all users, call the workers of a
//! known queue with a [`WorkerClient`].
//!
//! [`Server::self_description`](crate::Server::self_description) turns all of this off. The
//! exchange is also that of [broadcasts](crate::Broadcast), which need the same permissions.

mod collection;
mod discover;
mod found;
mod queue_depth;
mod worker_client;

pub use discover::Discover;
pub use found::{Discovered, FoundService};
pub use queue_depth::QueueDepth;
pub use worker_client::WorkerClient;

pub use crate::service::{dead_queue, retry_queues};

pub use crate::describe::{
    MethodStats, QueueDescription, QueueStats, Worker, WorkerDescription, WorkerStats,
};
