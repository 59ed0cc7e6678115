//! What workers say of themselves, and how to find them.
//!
//! Each worker answers three built-in methods on every queue that it serves, in MessagePack, JSON and plain text:
//!
//! | method | answers |
//! |---|---|
//! | `rpc.ping` | who it is: a [`Worker`] |
//! | `rpc.describe` | the services on this queue, as [`ServiceDescription`](crate::describe::ServiceDescription)s |
//! | `rpc.stats` | what it counted of its methods: [`WorkerStats`] |
//!
//! A [`WorkerClient`] asks the workers of one queue. The methods go through the layers of the server like all others, so
//! that [`Authorize`](crate::middleware::Authorize) decides who may call them, by their names or by `rpc.*`.
//! [`Server::self_description`](crate::Server::self_description) turns all of it off.

mod client;
mod stats;
mod worker;

pub use client::WorkerClient;
pub(crate) use client::{BUILT_IN, DESCRIBE, PING, STATS};
pub use stats::{MethodStats, QueueStats, WorkerStats};
pub(crate) use worker::Services;
pub use worker::{QueueDescription, Worker, WorkerDescription};
