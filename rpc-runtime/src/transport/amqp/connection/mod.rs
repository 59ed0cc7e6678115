//! Connections: addresses, TLS, the handshake, and connecting again.

mod address;
mod connector;
mod lapin_runtime;
mod open;
mod socket;
mod supervised;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;

pub(crate) use address::Address;
pub(super) use connector::Connector;
pub(super) use open::{
    CLOSE_LIMIT, ConnectionPurpose, ConnectionState, OpenConnection, OwnConnection, wait_lost,
};
pub(super) use supervised::SupervisedConnection;
#[cfg(feature = "tls")]
pub use tls::Tls;
