//! Options of a broker handle, and connecting with them.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Broker;
use super::limits::Limits;
use crate::client::{Caller, CallerOptions};
use crate::error::BrokerError;
use crate::protocol::ShortStr;
#[cfg(feature = "tls")]
use crate::transport::amqp::Tls;
use crate::transport::amqp::{Address, AmqpTransport};
use crate::transport::memory::{InProcessBroker, MemoryTransport};
use crate::transport::{ReplyQueue, Transport};

/// What RabbitMQ 4 takes at the most, by default; earlier versions take 128 MiB.
const DEFAULT_MAX_BYTES: usize = 16 * 1024 * 1024;

/// How long a step of connecting may take by default.
const DEFAULT_CONNECT_LIMIT: Duration = Duration::from_secs(10);

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
///     .connect("amqp://localhost")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct BrokerBuilder {
    pub(super) replies: ReplyQueue,
    pub(super) limits: Limits,
    pub(super) app_id: Option<String>,
    pub(super) connection_name: Option<String>,
    pub(super) send_user_id: bool,
    pub(super) connect_limit: Duration,
    pub(super) heartbeat: Option<u16>,
    /// Those that the environment names.
    pub(super) addresses: Vec<Address>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

impl Default for BrokerBuilder {
    fn default() -> Self {
        Self {
            replies: ReplyQueue::default(),
            limits: Limits {
                sent: DEFAULT_MAX_BYTES,
                accepted: DEFAULT_MAX_BYTES,
            },
            app_id: None,
            connection_name: None,
            send_user_id: false,
            connect_limit: DEFAULT_CONNECT_LIMIT,
            heartbeat: None,
            addresses: Vec::new(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl BrokerBuilder {
    /// Where replies come back to.
    pub fn reply_queue(mut self, replies: ReplyQueue) -> Self {
        self.replies = replies;
        self
    }

    /// The largest request or reply body that is sent, in bytes; the default is 16 MiB.
    ///
    /// A larger request fails its call with [`CallError::TooLarge`](crate::CallError::TooLarge), a larger reply is
    /// answered as the fault `reply_too_large`. A message that the *broker* finds too large would end the channel, and
    /// with it everything else on it, so this should not be more than the broker's own
    /// [`max_message_size`](https://www.rabbitmq.com/docs/configure).
    pub fn max_sent_bytes(mut self, limit: usize) -> Self {
        self.limits.sent = limit;
        self
    }

    /// The largest request or reply body that is accepted, in bytes; the default is 16 MiB.
    ///
    /// A larger request is answered with the fault `too_large`, a larger reply fails its call with
    /// [`CallError::BadReply`](crate::CallError::BadReply). A body is received as a whole before that: memory is bounded by the broker's
    /// own [`max_message_size`](https://www.rabbitmq.com/docs/configure).
    pub fn max_accepted_bytes(mut self, limit: usize) -> Self {
        self.limits.accepted = limit;
        self
    }

    /// The application's name, sent with each request as `app_id`; see [`Context::app_id`](crate::Context::app_id).
    pub fn app_id(mut self, name: impl Into<String>) -> Self {
        self.app_id = Some(name.into());
        self
    }

    /// What the handle's connections are called in RabbitMQ's own tools, such as `rabbitmqctl list_connections`: the name of the application, or
    /// of one of its workers. The default is the program's name. A name of more than 200 characters is cut.
    ///
    /// The connections of `shop` are `shop: rpc publish`, `shop: rpc consume` and, on a worker that answers direct reply-to, `shop: rpc direct
    /// replies`. Their client properties have the host, the process id, and rpc-runtime's version.
    pub fn connection_name(mut self, name: impl Into<String>) -> Self {
        self.connection_name = Some(name.into());
        self
    }

    /// Whether requests carry the RabbitMQ user of this connection, [checked by the
    /// broker](https://www.rabbitmq.com/docs/validated-user-id); see [`Context::user_id`](crate::Context::user_id). The
    /// default is not to.
    ///
    /// It is the user of the address. One who logs in by a certificate (`?auth_mechanism=external`) has to be named there as well,
    /// `amqps://shop@host`, as only the broker knows how it takes a name from a certificate; where it takes another, the broker refuses each
    /// request, and its call fails.
    pub fn send_user_id(mut self, send: bool) -> Self {
        self.send_user_id = send;
        self
    }

    /// How long each step of connecting, and of opening what calls and servers need, may take; the default is 10 seconds.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_limit = limit;
        self
    }

    /// How often the broker and this side let each other know that they are there: a peer that is silent for twice as long is lost. In
    /// whole seconds, rounded up, and at least one. The default is 10 seconds, and RabbitMQ
    /// [advises](https://www.rabbitmq.com/docs/heartbeats) 5 to 20; the broker may ask for less. An address that says `?heartbeat=` has
    /// its own.
    pub fn heartbeat(mut self, period: Duration) -> Self {
        let seconds = period
            .as_secs()
            .saturating_add((period.subsec_nanos() > 0).into());
        self.heartbeat = Some(u16::try_from(seconds).unwrap_or(u16::MAX).max(1));
        self
    }

    /// Whom to trust, and who this client is, for addresses that begin with `amqps://`. Without it, those trust the certificate
    /// authorities of the system. Needs the cargo feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects to RabbitMQ.
    ///
    /// # Errors
    ///
    /// As [`Broker::connect`]; also where a name is longer than AMQP's 255 bytes.
    pub async fn connect(self, url: &str) -> Result<Broker, BrokerError> {
        self.connect_any([url]).await
    }

    /// Connects to the first of several addresses that answers, such as the nodes of a cluster. When that connection is
    /// lost, they are tried in turn again.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), where none of them answers; also where they name different users and
    /// [`send_user_id`](Self::send_user_id) is set.
    pub async fn connect_any<U: AsRef<str>>(
        self,
        urls: impl IntoIterator<Item = U>,
    ) -> Result<Broker, BrokerError> {
        self.at(urls)?.connect_configured().await
    }

    /// Connects to the first of the addresses that answers which [`from_env`](Self::from_env) or [`from_vars`](Self::from_vars) read.
    ///
    /// # Errors
    ///
    /// As [`connect_any`](Self::connect_any); [`BrokerError::NoAddress`] where they read none, or the builder is not from them.
    pub async fn connect_configured(self) -> Result<Broker, BrokerError> {
        let (addresses, caller) = self.plan()?;
        let transport =
            AmqpTransport::connect(addresses, self.connection_name.as_deref(), self.connect_limit).await?;
        Ok(self.assemble(Arc::new(transport), caller))
    }

    /// A handle that connects in the background, to the first of the addresses that answers, for as long as it takes: for a
    /// program that may start before its broker. Calls wait for the connection within their time, and so does
    /// [`Server::start`](crate::Server::start), without a limit.
    ///
    /// # Errors
    ///
    /// Where the options cannot be used, as for [`connect_any`](Self::connect_any).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rpc_runtime::BrokerError> {
    /// use rpc_runtime::Broker;
    ///
    /// let broker = Broker::builder().connect_lazy(["amqp://rabbit-1", "amqp://rabbit-2"])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect_lazy<U: AsRef<str>>(
        self,
        urls: impl IntoIterator<Item = U>,
    ) -> Result<Broker, BrokerError> {
        self.at(urls)?.connect_configured_lazy()
    }

    /// As [`connect_lazy`](Self::connect_lazy), at the addresses that [`from_env`](Self::from_env) or [`from_vars`](Self::from_vars) read.
    ///
    /// # Errors
    ///
    /// As [`connect_lazy`](Self::connect_lazy); [`BrokerError::NoAddress`] where they read none, or the builder is not from them.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn connect_configured_lazy(self) -> Result<Broker, BrokerError> {
        let (addresses, caller) = self.plan()?;
        let transport =
            AmqpTransport::connect_later(addresses, self.connection_name.as_deref(), self.connect_limit);
        Ok(self.assemble(Arc::new(transport), caller))
    }

    /// With these addresses, in place of others.
    fn at<U: AsRef<str>>(self, urls: impl IntoIterator<Item = U>) -> Result<Self, BrokerError> {
        let addresses = urls.into_iter().map(|url| Address::parse(url.as_ref()));
        Ok(Self {
            addresses: addresses.collect::<Result<_, _>>()?,
            ..self
        })
    }

    /// The addresses, and what all calls have in common.
    fn plan(&self) -> Result<(Vec<Address>, CallerOptions), BrokerError> {
        let addresses = &self.addresses;
        let invalid = |reason| Err(BrokerError::InvalidAddress { reason });
        let Some(first) = addresses.first() else {
            return Err(BrokerError::NoAddress);
        };
        let user_id = match first.user() {
            _ if !self.send_user_id => None,
            user if addresses.iter().any(|address| address.user() != user) => {
                return invalid("all must name the same user, as each request carries it");
            }
            Some(user) => Some(ShortStr::new(user).map_err(|_| BrokerError::Unsendable {
                reason: "the user's name",
            })?),
            None => {
                return invalid(
                    "requests are to carry the user, and only the broker knows whom the certificate names: write amqps://USER@host",
                );
            }
        };
        let caller = self.caller_options(self.short_app_id()?, user_id);
        let addresses = addresses.iter().cloned();
        let addresses = addresses.map(|address| address.or_heartbeat(self.heartbeat));
        Ok((self.secured(addresses.collect())?, caller))
    }

    /// The addresses, those of TLS with what it needs.
    #[cfg(feature = "tls")]
    fn secured(&self, addresses: Vec<Address>) -> Result<Vec<Address>, BrokerError> {
        let invalid = |reason| Err(BrokerError::InvalidAddress { reason });
        if self.tls.is_some() && !addresses.iter().all(Address::is_tls) {
            return invalid("there are TLS options, and amqp:// would not use them: write amqps://");
        }
        let identity = self.tls.as_ref().is_some_and(Tls::has_identity);
        if !identity && addresses.iter().any(Address::is_external) {
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
        let secured = addresses
            .into_iter()
            .map(|address| address.secured(client.clone()));
        Ok(secured.collect())
    }

    #[cfg(not(feature = "tls"))]
    fn secured(&self, addresses: Vec<Address>) -> Result<Vec<Address>, BrokerError> {
        Ok(addresses)
    }

    /// Connects to a broker in this process.
    ///
    /// # Errors
    ///
    /// Where a name is longer than AMQP's 255 bytes.
    pub fn in_process(self, broker: &InProcessBroker) -> Result<Broker, BrokerError> {
        let app_id = self.short_app_id()?;
        let user_id = self
            .send_user_id
            .then(|| ShortStr::from_static(MemoryTransport::USER));
        let caller = self.caller_options(app_id, user_id);
        Ok(self.assemble(Arc::new(MemoryTransport::new(broker)), caller))
    }

    /// A handle over this transport.
    #[cfg(test)]
    pub(crate) fn over(self, transport: Arc<dyn Transport>) -> Broker {
        let caller = self.caller_options(None, None);
        self.assemble(transport, caller)
    }

    fn short_app_id(&self) -> Result<Option<ShortStr>, BrokerError> {
        let app_id = self.app_id.as_ref().map(ShortStr::new).transpose();
        app_id.map_err(|_| BrokerError::Unsendable {
            reason: "the application's name is longer than 255 bytes",
        })
    }

    fn caller_options(&self, app_id: Option<ShortStr>, user_id: Option<ShortStr>) -> CallerOptions {
        CallerOptions {
            replies: self.replies,
            max_sent_bytes: self.limits.sent,
            max_accepted_bytes: self.limits.accepted,
            app_id,
            user_id,
        }
    }

    fn assemble(&self, transport: Arc<dyn Transport>, caller: CallerOptions) -> Broker {
        let caller = Arc::new(Caller::new(Arc::clone(&transport), caller));
        Broker::new(transport, caller, self.limits)
    }
}

impl InProcessBroker {
    /// A handle of its own, with default options; see [`BrokerBuilder::in_process`](BrokerBuilder::in_process) for
    /// others.
    #[must_use]
    pub fn connect(&self) -> Broker {
        let options = BrokerBuilder::default();
        let caller = options.caller_options(None, None);
        options.assemble(Arc::new(MemoryTransport::new(self)), caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_connecting_takes_an_address_and_whoever_connects_may_give_it() {
        let read = || {
            let variables = [("RPC_RUNTIME_APP_ID", "shop"), ("AMQP_URL", "")];
            BrokerBuilder::from_vars(variables.map(|(name, value)| (name.to_owned(), value.to_owned())))
                .unwrap()
        };
        for builder in [read(), Broker::builder()] {
            let lazy = builder.clone().connect_configured_lazy().unwrap_err();
            let error = builder.connect_configured().await.unwrap_err();
            assert_eq!(error.to_string(), lazy.to_string());
            assert!(matches!(error, BrokerError::NoAddress), "{error:?}");
            assert!(error.to_string().contains("set AMQP_URL"), "{error}");
        }
        let none: [&str; 0] = [];
        assert!(matches!(read().connect_lazy(none), Err(BrokerError::NoAddress)));
        read().connect_lazy(["amqp://localhost:1"]).unwrap().close().await;
    }

    #[test]
    fn a_heartbeat_is_of_whole_seconds_and_never_off() {
        let heartbeat = |period| Broker::builder().heartbeat(period).heartbeat;
        assert_eq!(heartbeat(Duration::ZERO), Some(1));
        assert_eq!(heartbeat(Duration::from_millis(1001)), Some(2));
        assert_eq!(heartbeat(Duration::from_secs(20)), Some(20));
        assert_eq!(heartbeat(Duration::MAX), Some(u16::MAX));
    }
}
