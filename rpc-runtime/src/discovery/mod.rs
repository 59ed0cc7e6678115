//! What workers say of themselves, and how to find them.
//!
//! Each worker answers three built-in methods on every queue that it serves, in MessagePack, JSON and plain text:
//!
//! | method | answers |
//! |---|---|
//! | `rpc.ping` | who it is: a [`Worker`] |
//! | `rpc.describe` | who it is, and the services on this queue: a [`WorkerDescription`] |
//! | `rpc.stats` | what it counted of its methods: [`WorkerStats`] |
//!
//! A [`WorkerClient`] asks the workers of one queue. The methods go through the layers of the server like all others, so
//! that [`Authorize`](crate::middleware::Authorize) decides who may call them, by their names or by `rpc.*`.
//!
//! # Finding workers
//!
//! [`Broker::discover`](crate::Broker::discover) asks all workers on the broker at once, and tells what they serve:
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
//! The question goes to a fanout exchange, `rpc.discovery`, to which each worker binds a queue of its own; `docs/protocol.md` tells how
//! peers in other languages take part. Workers answer at once, even while as many requests run as may.
//!
//! Not found is a worker
//!
//! - that [does not describe itself](crate::Server::self_description), or whose version cannot,
//! - whose RabbitMQ user may not declare or bind what it takes; its log says so, and it serves all the same. It takes the permissions
//!   to configure, write and read `rpc\.discovery.*`, or, where somebody else has declared the exchange, all of them on `rpc\.discovery\..*` and to
//!   read `rpc\.discovery`. Who looks for workers has to be allowed to write to `rpc\.discovery`,
//! - whose connection is lost at this moment,
//! - on another virtual host.
//!
//! Answers are not authenticated: every RabbitMQ user who may bind a queue to `rpc.discovery` can claim to serve any service, on any queue. Who does
//! not trust all of them asks the workers of a queue that is known, with a [`WorkerClient`].
//!
//! [`Server::self_description`](crate::Server::self_description) turns all of this off.

mod collection;
mod discover;
mod found;
mod worker_client;

pub use discover::Discover;
pub use found::{Discovered, FoundService};
pub use worker_client::WorkerClient;

pub use crate::describe::{
    MethodStats, QueueDescription, QueueStats, Worker, WorkerDescription, WorkerStats,
};
