//! The addresses of a broker, and how to connect to one of them.

use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use super::open::{ConnectionNames, ConnectionRole, OpenConnection};
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;

/// The broker's addresses, and how to connect to them.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// At least one. They are tried in order.
    pub(crate) addresses: Arc<[Address]>,
    /// How long each step of connecting may take.
    pub(crate) limit: Duration,
    names: Arc<ConnectionNames>,
}

impl Target {
    pub(crate) fn new(addresses: Vec<Address>, name: Option<&str>, limit: Duration) -> Self {
        Self {
            addresses: addresses.into(),
            limit,
            names: Arc::new(ConnectionNames::new(name)),
        }
    }

    /// Connects to the first address that answers.
    pub(crate) async fn connect(&self, role: ConnectionRole) -> Result<OpenConnection, BrokerError> {
        let mut outcome = Err(BrokerError::NoAddress);
        for address in &*self.addresses {
            outcome = OpenConnection::open(address, &self.names, role, self.limit).await;
            match &outcome {
                Ok(_) => break,
                Err(error) => tracing::debug!(
                    broker = %address,
                    error = %Logged(Chain(error)),
                    "no connection"
                ),
            }
        }
        outcome
    }
}
