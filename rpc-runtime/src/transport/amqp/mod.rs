//! RabbitMQ, through lapin and past it.
//!
//! A handle has two supervised connections, one to publish and one to consume. So a broker that
//! blocks publishing because of a memory or disk alarm still delivers messages. Direct replies, and
//! queues because of which the broker may close a connection, use others.
//!
//! From the bottom up:
//!
//! - [`guard`] checks every frame of the broker before anything else reads it.
//! - [`wire`] owns the socket. It sends and receives the content of our channels, and passes
//!   everything else to lapin.
//! - [`connection`] connects, over TLS if asked to, and replaces a supervised connection that is
//!   lost.
//! - [`channel`] closes channels before they are dropped.
//! - [`publish`] publishes through a channel, and [`consume`] consumes a queue through a channel.
//! - [`opener`] opens channels, publishers and consumers, and declares queues.
//! - `queue_reader` takes messages from a queue, and puts them back or publishes copies of them,
//!   for the program `rpc`.
//! - [`transport`] is the [`Transport`](super::Transport) that callers and workers use.

mod channel;
mod connection;
mod consume;
mod control;
mod depths;
mod direct_replies;
mod errors;
pub(crate) mod guard;
mod opener;
mod publish;
mod queue_failures;
#[cfg(feature = "__tools")]
mod queue_reader;
mod task_group;
mod transport;
pub(crate) mod wire;

pub(crate) use connection::Address;
#[cfg(feature = "tls")]
pub use connection::Tls;
#[cfg(feature = "__tools")]
pub use queue_reader::{CopyOutcome, QueueReader, TakenMessage};
pub(crate) use transport::AmqpTransport;
