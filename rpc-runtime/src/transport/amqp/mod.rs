//! RabbitMQ, through lapin.
//!
//! A handle has two supervised connections, one to publish and one to consume. So a broker that
//! blocks publishing because of a memory or disk alarm still delivers messages.
//!
//! From the bottom up:
//!
//! - [`guard`] checks every frame of the broker before lapin reads it.
//! - [`connection`] connects, over TLS if asked to, and connects again whenever a connection is
//!   lost.
//! - [`channel`] closes channels before they are dropped.
//! - [`publish`] and [`consume`] each serve one channel.
//! - [`opener`] opens channels, publishers and consumers, and declares queues.
//! - [`transport`] is the [`Transport`](super::Transport) that callers and workers use.

mod broadcasts;
mod channel;
mod close_counts;
mod connection;
mod consume;
pub(crate) mod convert;
mod depths;
mod direct_replies;
mod errors;
pub(crate) mod guard;
mod opener;
mod publish;
mod task_group;
mod transport;

pub(crate) use connection::Address;
#[cfg(feature = "tls")]
pub use connection::Tls;
pub(crate) use transport::AmqpTransport;
