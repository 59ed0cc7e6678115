//! Creates handles.

use super::builder::BrokerBuilder;
use super::handle::Broker;
use crate::error::BrokerError;
use crate::transport::memory::InProcessBroker;

impl Broker {
    /// Connects to RabbitMQ with default options.
    ///
    /// The address is `amqp://user:password@host:port/vhost`, or `amqps://` for TLS (with the cargo
    /// feature `tls`). Only the host is required. The default user and password are `guest`, the
    /// default port is 5672, or 5671 for TLS, and the default virtual host is `/`.
    /// [Percent-encode](https://www.rabbitmq.com/docs/uri-spec) special characters: `@` in a
    /// password is `%40`, and `/` in a virtual host is `%2f`.
    ///
    /// Parameters may follow, such as `?heartbeat=5&auth_mechanism=external`:
    ///
    /// | parameter | meaning | default |
    /// |---|---|---|
    /// | `auth_mechanism` | `plain`, or `external` over TLS: the client's certificate (`Tls::identity_pem`) is the login, and the user in the address serves [`send_user_id`](BrokerBuilder::send_user_id) only | `plain` |
    /// | `heartbeat` | seconds, 1 to 65535; see [`BrokerBuilder::heartbeat`] | 10 |
    /// | `frame_max` | the largest frame in bytes, 8192 to 1048576 | 131072, or the broker's limit if that is less |
    /// | `channel_max` | the largest number of channels | the broker's limit |
    ///
    /// # Errors
    ///
    /// If the address is invalid, or the broker does not accept the connection in time.
    /// [`BrokerError::Tls`] says why a TLS handshake failed.
    pub async fn connect(url: &str) -> Result<Self, BrokerError> {
        Self::builder().address(url).connect().await
    }

    /// Connects to RabbitMQ with the addresses and options in environment variables. See
    /// [`BrokerBuilder::from_env`].
    ///
    /// # Errors
    ///
    /// As [`BrokerBuilder::from_env`] and [`BrokerBuilder::connect`]; [`BrokerError::NoAddress`] if
    /// `AMQP_URL` is not set, or empty.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rpc_runtime::BrokerError> {
    /// use rpc_runtime::Broker;
    ///
    /// // AMQP_URL=amqps://shop@rabbit-1,amqps://shop@rabbit-2  RPC_RUNTIME_APP_ID=shop
    /// let broker = Broker::from_env().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn from_env() -> Result<Self, BrokerError> {
        BrokerBuilder::from_env()?.connect().await
    }

    /// Creates a broker within this process, and the only handle on it. For several handles on one
    /// broker, use [`InProcessBroker`].
    #[must_use]
    pub fn in_process() -> Self {
        InProcessBroker::new().connect()
    }

    /// Returns a builder, which sets the options of a handle.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }
}
