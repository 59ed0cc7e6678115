//! The ways to get a handle.

use super::builder::BrokerBuilder;
use super::handle::Broker;
use crate::error::BrokerError;
use crate::transport::memory::InProcessBroker;

impl Broker {
    /// Connects to RabbitMQ with default options: `amqp://user:password@host:port/vhost`, or `amqps://` for TLS (with the cargo feature
    /// `tls`), each part but the host optional. Where nothing is said, the user and the password are `guest`, the port is 5672, or 5671 for
    /// TLS, and the virtual host is `/`. What has a meaning of its own in a URL is [percent-encoded](https://www.rabbitmq.com/docs/uri-spec), such as `%40` for `@` in
    /// a password and `%2f` for `/` in a virtual host.
    ///
    /// It may end in parameters, such as `?heartbeat=5&auth_mechanism=external`:
    ///
    /// | parameter | what | default |
    /// |---|---|---|
    /// | `auth_mechanism` | `plain`; or `external`, over TLS alone: the client's certificate is the login (`Tls::identity_pem`), and the user in the address only says whom it names, for [`send_user_id`](BrokerBuilder::send_user_id) | `plain` |
    /// | `heartbeat` | seconds, 1 to 65535, as [`BrokerBuilder::heartbeat`]; 0 is refused | 10 |
    /// | `frame_max` | the most bytes in a frame, from 8192 to 1048576 | 131072, or the broker's if that is less |
    /// | `channel_max` | the most channels of a connection | the broker's |
    ///
    /// # Errors
    ///
    /// Where the address cannot be read, or nobody answers there in time. Over TLS, [`BrokerError::Tls`] says what the two sides do not agree on.
    pub async fn connect(url: &str) -> Result<Self, BrokerError> {
        Self::builder().connect(url).await
    }

    /// Connects to the broker that the environment names, with the options that it says: see [`BrokerBuilder::from_env`].
    ///
    /// # Errors
    ///
    /// As [`BrokerBuilder::from_env`] and [`BrokerBuilder::connect_any`]; [`BrokerError::NoAddress`] where `AMQP_URL` is not set.
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
        BrokerBuilder::from_env()?.connect_configured().await
    }

    /// A broker within this process, of which this is the only handle; see [`InProcessBroker`] for several.
    #[must_use]
    pub fn in_process() -> Self {
        InProcessBroker::new().connect()
    }

    /// Options other than the default ones.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }
}
