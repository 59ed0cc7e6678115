//! A handle on a broker, and its options.

use std::fmt;
use std::sync::Arc;

mod builder;
mod environment;
mod from_env;

pub use builder::BrokerBuilder;

use crate::client::Caller;
use crate::error::BrokerError;
use crate::transport::memory::InProcessBroker;
use crate::transport::{Status, StatusChanges, Transport};

/// A handle on a broker: what clients are made from and servers run on. Cheap to clone.
///
/// A handle holds two connections to RabbitMQ, one that publishes and one that consumes, so that replies still arrive when
/// an alarm has the broker stop reading what is published; and a third once a server on it answers a caller that uses direct
/// reply-to. It belongs to the tokio runtime that it was made in: all of its tasks run there, those of its servers and their methods too, whoever starts
/// them. It can be used from other runtimes, and ends with its own: then its [`status`](Self::status) is [`Status::RuntimeEnded`], and whatever is
/// done with it fails with [`BrokerError::RuntimeEnded`]. A handle on an in-process broker that was made outside of any runtime belongs to the one
/// that uses it first. All clients made from it and its clones share one reply
/// queue with one consumer, which the first call opens.
///
/// ```no_run
/// # async fn example() -> Result<(), rpc_runtime::BrokerError> {
/// use rpc_runtime::Broker;
///
/// let broker = Broker::connect("amqp://localhost").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    caller: Arc<Caller>,
    limits: Limits,
}

/// The largest bodies, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) sent: usize,
    pub(crate) accepted: usize,
}

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

    /// The state of the connections, as it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.transport.status().status()
    }

    /// The state of the connections, and each change of it from now on.
    ///
    /// ```no_run
    /// # async fn example(broker: rpc_runtime::Broker) {
    /// let mut changes = broker.status_changes();
    /// while let Some(status) = changes.next().await {
    ///     println!("{status}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn status_changes(&self) -> StatusChanges {
        self.inner.transport.status().changes()
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

    /// Ends the handle and all its clones: calls in flight fail with [`BrokerError::Closed`], servers end, the reply queue is deleted, the connections are closed. Stop servers first.
    ///
    /// Takes at most 20 seconds, whatever the broker does, and a moment where it answers. Without it, the connections close once the last of the handle's
    /// clones, clients and servers is dropped, but nobody waits for that.
    pub async fn close(&self) {
        self.inner.caller.close().await;
        self.inner.transport.close().await;
    }

    pub(crate) fn caller(&self) -> &Arc<Caller> {
        &self.inner.caller
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.inner.transport
    }

    pub(crate) fn limits(&self) -> Limits {
        self.inner.limits
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
