//! Options of a broker handle, and how to connect with them.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Broker;
use super::limits::Limits;
use crate::client::{Caller, CallerOptions};
use crate::error::BrokerError;
use crate::protocol::ShortStr;
#[cfg(feature = "__tools")]
use crate::transport::amqp::QueueReader;
#[cfg(feature = "tls")]
use crate::transport::amqp::Tls;
use crate::transport::amqp::{Address, AmqpTransport};
use crate::transport::memory::{InProcessBroker, MemoryTransport};
use crate::transport::{ReplyQueue, Transport};

/// The default `max_message_size` of RabbitMQ 4. That of earlier versions is 128 MiB.
const DEFAULT_MAX_BYTES: usize = 16 * 1024 * 1024;

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of a [`Broker`].
///
/// ```no_run
/// # async fn example() -> Result<(), rpc_runtime::BrokerError> {
/// use rpc_runtime::{Broker, ReplyQueue};
///
/// let broker = Broker::builder()
///     .reply_queue(ReplyQueue::Exclusive)
///     .max_sent_bytes(1024 * 1024)
///     .app_id("shop")
///     .address("amqp://localhost")
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct BrokerBuilder {
    pub(super) reply_queue: ReplyQueue,
    pub(super) limits: Limits,
    pub(super) app_id: Option<String>,
    pub(super) connection_name: Option<String>,
    pub(super) send_user_id: bool,
    pub(super) connect_timeout: Duration,
    pub(super) heartbeat: Option<u16>,
    /// An invalid address is reported when the handle connects.
    pub(super) addresses: Result<Vec<Address>, BrokerError>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

impl Default for BrokerBuilder {
    fn default() -> Self {
        Self {
            reply_queue: ReplyQueue::default(),
            limits: Limits {
                sent: DEFAULT_MAX_BYTES,
                accepted: DEFAULT_MAX_BYTES,
            },
            app_id: None,
            connection_name: None,
            send_user_id: false,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            heartbeat: None,
            addresses: Ok(Vec::new()),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl BrokerBuilder {
    /// The kind of reply queue; the default is [`ReplyQueue::Resumable`].
    pub fn reply_queue(mut self, reply_queue: ReplyQueue) -> Self {
        self.reply_queue = reply_queue;
        self
    }

    /// The largest request or reply body that is sent, in bytes; the default is 16 MiB.
    ///
    /// A larger request fails its call with [`CallError::TooLarge`](crate::CallError::TooLarge),
    /// and so does the request of a broadcast above 1 MiB. In place of a larger reply, or a larger
    /// item of a stream, the caller gets the fault `reply_too_large`. A message that is too large
    /// for the *broker* closes the channel, with everything else on it: set this to no more than
    /// the broker's [`max_message_size`](https://www.rabbitmq.com/docs/configure). A batch of
    /// requests or replies is no larger either.
    pub fn max_sent_bytes(mut self, limit: usize) -> Self {
        self.limits.sent = limit;
        self
    }

    /// The largest request or reply body that is accepted, in bytes; the default is 16 MiB.
    ///
    /// A larger request is answered with the fault `too_large`; a larger job goes to the
    /// dead-letter queue. A larger reply or item of a stream fails its call, or the worker's answer
    /// to a broadcast, with [`CallError::BadReply`](crate::CallError::BadReply). Requests of
    /// broadcasts may have at most 1 MiB in any case. Bodies are received whole before they are
    /// measured, so only the broker's
    /// [`max_message_size`](https://www.rabbitmq.com/docs/configure) bounds the memory of each.
    pub fn max_accepted_bytes(mut self, limit: usize) -> Self {
        self.limits.accepted = limit;
        self
    }

    /// The application's name, sent with each request as `app_id`; see
    /// [`Context::app_id`](crate::Context::app_id).
    pub fn app_id(mut self, name: impl Into<String>) -> Self {
        self.app_id = Some(name.into());
        self
    }

    /// The name of the handle's connections in RabbitMQ's tools, such as `rabbitmqctl
    /// list_connections`. The default is the program's name. A name is cut after 200 characters.
    ///
    /// The connections of `shop` are named `shop: rpc publish`, `shop: rpc consume` and, on a
    /// worker that replies to direct reply-to addresses, `shop: rpc direct replies`. For a queue
    /// that has failed, there may be `shop: rpc declare` or `shop: rpc consume one queue`. Their
    /// client properties have the host, the process id and the version of rpc-runtime.
    pub fn connection_name(mut self, name: impl Into<String>) -> Self {
        self.connection_name = Some(name.into());
        self
    }

    /// Whether requests carry the RabbitMQ user of this connection, which the broker
    /// [checks](https://www.rabbitmq.com/docs/validated-user-id); see
    /// [`Context::user_id`](crate::Context::user_id). The default is `false`.
    ///
    /// It is the user in the address, or `guest` if the address names none. If the user logs in by
    /// a certificate (`?auth_mechanism=external`), name the user in the address as well,
    /// `amqps://shop@host`: only the broker knows which name it takes from the certificate. If it
    /// takes another one, the broker refuses every request, and the calls fail.
    pub fn send_user_id(mut self, send: bool) -> Self {
        self.send_user_id = send;
        self
    }

    /// How long each step of connecting, and of opening channels and queues, may take; the default
    /// is 10 seconds.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// The interval of [heartbeats](https://www.rabbitmq.com/docs/heartbeats). A connection whose
    /// peer is silent for two intervals is lost. Rounded up to whole seconds, 1 to 65535; the
    /// default is 10 seconds. RabbitMQ advises 5 to 20, and the broker may ask for less.
    /// `?heartbeat=` in an address overrides it.
    pub fn heartbeat(mut self, period: Duration) -> Self {
        let seconds = period.as_nanos().div_ceil(1_000_000_000);
        self.heartbeat = Some(u16::try_from(seconds).unwrap_or(u16::MAX).max(1));
        self
    }

    /// The certificate authorities to trust and the client's own certificate, for `amqps://`
    /// addresses. Connecting fails if an address is `amqp://`. The default is to trust the
    /// certificate authorities of the system. Needs the cargo feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The address to connect to, as [`Broker::connect`] takes it. Replaces those that were set
    /// before.
    pub fn address(self, url: impl AsRef<str>) -> Self {
        self.addresses([url])
    }

    /// The addresses to connect to, such as the nodes of a cluster. They are tried in this order,
    /// and again when the connection is lost; the first one that accepts a connection is used.
    /// Replaces those that were set before.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rpc_runtime::BrokerError> {
    /// use rpc_runtime::Broker;
    ///
    /// let broker = Broker::builder()
    ///     .addresses(["amqp://rabbit-1", "amqp://rabbit-2"])
    ///     .connect()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn addresses<U: AsRef<str>>(mut self, urls: impl IntoIterator<Item = U>) -> Self {
        let parsed = urls.into_iter().map(|url| Address::parse(url.as_ref()));
        // The first error is reported when the builder connects.
        self.addresses = parsed.collect();
        self
    }

    /// Connects to RabbitMQ, and returns once the handle's two connections are open.
    ///
    /// # Errors
    ///
    /// If none of the addresses accepts a connection, if an option or an address cannot be used, or
    /// if the addresses name different users and [`send_user_id`](Self::send_user_id) is set.
    /// [`BrokerError::NoAddress`] if there is no address.
    pub async fn connect(self) -> Result<Broker, BrokerError> {
        let (addresses, caller_options) = self.check_options()?;
        let transport =
            AmqpTransport::connect(addresses, self.connection_name.as_deref(), self.connect_timeout).await?;
        Ok(self.assemble(Arc::new(transport), caller_options))
    }

    /// Returns a handle that connects in the background and tries until it succeeds, for a program
    /// that may start before its broker. Calls wait for the connection until their deadlines, and
    /// [`Server::start`](crate::Server::start) waits without a limit.
    ///
    /// # Errors
    ///
    /// If an option or an address cannot be used, as for [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rpc_runtime::BrokerError> {
    /// use rpc_runtime::Broker;
    ///
    /// let broker = Broker::builder().address("amqp://localhost").lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lazy(self) -> Result<Broker, BrokerError> {
        let (addresses, caller_options) = self.check_options()?;
        let transport =
            AmqpTransport::connect_later(addresses, self.connection_name.as_deref(), self.connect_timeout);
        Ok(self.assemble(Arc::new(transport), caller_options))
    }

    /// Opens a queue over a connection of its own, to manage the messages in it. Also returns how
    /// many messages are ready in it. Returns `None` if the queue does not exist.
    #[cfg(feature = "__tools")]
    #[doc(hidden)]
    pub async fn open_queue(self, queue: &str) -> Result<Option<(QueueReader, u32)>, BrokerError> {
        let (addresses, _) = self.check_options()?;
        let name = self.connection_name.as_deref();
        QueueReader::open(addresses, name, self.connect_timeout, queue).await
    }

    /// Checks the options. Returns the addresses with their heartbeat and TLS client, and the
    /// options of all calls.
    fn check_options(&self) -> Result<(Vec<Address>, CallerOptions), BrokerError> {
        let addresses = self.addresses.as_ref().map_err(BrokerError::clone)?;
        if addresses.is_empty() {
            return Err(BrokerError::NoAddress);
        }
        let user_id = if self.send_user_id {
            Some(common_user(addresses)?)
        } else {
            None
        };
        let caller_options = self.caller_options(self.checked_app_id()?, user_id);
        let with_heartbeat = addresses
            .iter()
            .map(|address| address.clone().with_default_heartbeat(self.heartbeat));
        Ok((self.with_tls(with_heartbeat.collect())?, caller_options))
    }

    /// Sets the TLS client of the addresses if any of them needs one. Refuses TLS options that do
    /// not fit the addresses, and a login by certificate without a certificate.
    #[cfg(feature = "tls")]
    fn with_tls(&self, addresses: Vec<Address>) -> Result<Vec<Address>, BrokerError> {
        let invalid = |reason| Err(BrokerError::InvalidAddress { reason });
        if self.tls.is_some() && !addresses.iter().all(Address::is_tls) {
            return invalid("amqp:// does not use the TLS options: write amqps://");
        }
        let has_identity = self.tls.as_ref().is_some_and(Tls::has_identity);
        if !has_identity && addresses.iter().any(Address::uses_external_auth) {
            return invalid(
                "auth_mechanism=external logs in by a client certificate: give one with Tls::identity_pem",
            );
        }
        if !addresses.iter().any(Address::is_tls) {
            return Ok(addresses);
        }
        let client = match &self.tls {
            Some(tls) => tls.client()?,
            None => Tls::new().client()?,
        };
        let with_tls = addresses
            .into_iter()
            .map(|address| address.with_tls(client.clone()));
        Ok(with_tls.collect())
    }

    /// Does nothing: without the feature, `amqps://` addresses are refused when they are parsed.
    #[cfg(not(feature = "tls"))]
    fn with_tls(&self, addresses: Vec<Address>) -> Result<Vec<Address>, BrokerError> {
        Ok(addresses)
    }

    /// Connects to a broker in this process. Ignores the addresses, and all options of connections.
    ///
    /// # Errors
    ///
    /// If the application's name is longer than 255 bytes.
    pub fn in_process(self, broker: &InProcessBroker) -> Result<Broker, BrokerError> {
        let app_id = self.checked_app_id()?;
        let user_id = self
            .send_user_id
            .then(|| ShortStr::from_static(MemoryTransport::USER));
        let caller_options = self.caller_options(app_id, user_id);
        Ok(self.assemble(Arc::new(MemoryTransport::new(broker)), caller_options))
    }

    /// Makes a handle on another transport. Ignores `app_id` and `send_user_id`.
    #[cfg(test)]
    pub(crate) fn with_transport(self, transport: Arc<dyn Transport>) -> Broker {
        let caller_options = self.caller_options(None, None);
        self.assemble(transport, caller_options)
    }

    /// Returns the `app_id` of messages, or an error if it is too long for AMQP.
    fn checked_app_id(&self) -> Result<Option<ShortStr>, BrokerError> {
        let app_id = self.app_id.as_ref().map(ShortStr::new).transpose();
        app_id.map_err(|_| BrokerError::Unsendable {
            reason: "the application's name is longer than 255 bytes",
        })
    }

    fn caller_options(&self, app_id: Option<ShortStr>, user_id: Option<ShortStr>) -> CallerOptions {
        CallerOptions {
            reply_queue: self.reply_queue,
            max_sent_bytes: self.limits.sent,
            max_accepted_bytes: self.limits.accepted,
            app_id,
            user_id,
        }
    }

    /// Makes the handle. Every constructor ends with this.
    fn assemble(&self, transport: Arc<dyn Transport>, caller_options: CallerOptions) -> Broker {
        let caller = Arc::new(Caller::new(Arc::clone(&transport), caller_options));
        Broker::new(transport, caller, self.limits)
    }
}

/// Returns the user that logs in at all addresses, as the `user_id` of messages. Fails if the
/// addresses have different users, or only the broker knows the user.
fn common_user(addresses: &[Address]) -> Result<ShortStr, BrokerError> {
    let invalid = |reason| Err(BrokerError::InvalidAddress { reason });
    let user_of_first = addresses.first().and_then(Address::user);
    if addresses.iter().any(|address| address.user() != user_of_first) {
        return invalid("all must name the same user, as each request carries it");
    }
    let Some(user) = user_of_first else {
        return invalid(
            "send_user_id needs a user, and only the broker knows the user of the certificate: write amqps://USER@host",
        );
    };
    ShortStr::new(user).map_err(|_| BrokerError::Unsendable {
        reason: "the user's name is longer than 255 bytes",
    })
}

impl InProcessBroker {
    /// Creates a new handle on this broker, with default options. For other options, use
    /// [`BrokerBuilder::in_process`](BrokerBuilder::in_process).
    #[must_use]
    pub fn connect(&self) -> Broker {
        let options = BrokerBuilder::default();
        // Default options have neither an `app_id` nor a `user_id`.
        let caller_options = options.caller_options(None, None);
        options.assemble(Arc::new(MemoryTransport::new(self)), caller_options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connecting_needs_an_address() {
        let read = || {
            let variables = [("RPC_RUNTIME_APP_ID", "shop"), ("AMQP_URL", "")];
            BrokerBuilder::from_vars(variables.map(|(name, value)| (name.to_owned(), value.to_owned())))
                .unwrap()
        };
        for builder in [read(), Broker::builder()] {
            let lazy = builder.clone().lazy().unwrap_err();
            let error = builder.connect().await.unwrap_err();
            assert_eq!(error.to_string(), lazy.to_string());
            assert!(matches!(error, BrokerError::NoAddress), "{error:?}");
            assert!(error.to_string().contains("set AMQP_URL"), "{error}");
        }
        let none: [&str; 0] = [];
        assert!(matches!(
            read().addresses(none).lazy(),
            Err(BrokerError::NoAddress)
        ));
        read()
            .addresses(["amqp://localhost:1"])
            .lazy()
            .unwrap()
            .close()
            .await;
    }

    #[test]
    fn a_heartbeat_is_rounded_up_to_whole_seconds_and_cannot_be_turned_off() {
        let heartbeat = |period| Broker::builder().heartbeat(period).heartbeat;
        assert_eq!(heartbeat(Duration::ZERO), Some(1));
        assert_eq!(heartbeat(Duration::from_millis(1001)), Some(2));
        assert_eq!(heartbeat(Duration::from_secs(20)), Some(20));
        assert_eq!(heartbeat(Duration::MAX), Some(u16::MAX));
    }
}
