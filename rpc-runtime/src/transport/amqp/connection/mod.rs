//! Connections: addresses, TLS, the handshake, and connecting again.

mod address;
mod lapin_runtime;
mod open;
mod socket;
mod supervised;
mod target;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;

pub(crate) use address::Address;
pub(super) use open::{CLOSE_LIMIT, ConnectionRole, ConnectionState, OpenConnection, wait_lost};
pub(super) use supervised::SupervisedConnection;
pub(super) use target::Target;
#[cfg(feature = "tls")]
pub use tls::Tls;
