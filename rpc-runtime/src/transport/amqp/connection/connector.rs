//! Connects to one of a broker's addresses.

use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use super::open::{ClientProperties, ConnectionPurpose, OpenConnection};
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;

/// The broker's addresses, and the options of connections to them.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    /// They are tried in order. Empty only in tests.
    pub(crate) addresses: Arc<[Address]>,
    /// How long an attempt to connect to one address may take. Also the usual limit of each later
    /// step on that connection.
    pub(crate) limit: Duration,
    properties: Arc<ClientProperties>,
}

impl Connector {
    pub(crate) fn new(addresses: Vec<Address>, name: Option<&str>, limit: Duration) -> Self {
        Self {
            addresses: addresses.into(),
            limit,
            properties: Arc::new(ClientProperties::new(name)),
        }
    }

    /// Tries each address until a connection is open, or fails with the error of the last one.
    pub(crate) async fn connect(&self, purpose: ConnectionPurpose) -> Result<OpenConnection, BrokerError> {
        let mut outcome = Err(BrokerError::NoAddress);
        for address in &*self.addresses {
            outcome = OpenConnection::open(address, &self.properties, purpose, self.limit).await;
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
