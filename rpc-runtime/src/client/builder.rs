//! Options of a client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::{Identity, Stack};

use super::call_path::CallPath;
use super::caller::Caller;
use super::carrier::Carrier;
use super::destination::Destination;
use super::in_process::InProcess;
use super::limiter::{Limiter, WhenFull};
use super::middleware::{CallLayer, LayeredCaller};
use super::stub::Client;
use crate::codec::Codec;
use crate::describe::ServiceDescriptor;
use crate::protocol::destination_name;
use crate::service::Service;

/// How many calls of a client may be in flight by default.
const DEFAULT_IN_FLIGHT: usize = 10_000;

/// How long a call may take, where neither the method nor the client nor the call says.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that the [`service`](crate::service) attribute generated.
pub trait ServiceClient: Sized {
    /// The service that it calls.
    const SERVICE: &'static ServiceDescriptor;

    /// Wraps the untyped client.
    #[doc(hidden)]
    fn from_client(client: Client) -> Self;
}

/// Options of a client, from [`XClient::builder`](ServiceClient).
///
/// ```
/// # use rpc_runtime::{Broker, Codec, service};
/// # use std::time::Duration;
/// # #[service]
/// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
/// # async fn example(broker: Broker) {
/// let directory = DirectoryClient::builder(&broker)
///     .queue("directory.v2")
///     .codec(Codec::Json)
///     .timeout(Duration::from_secs(2))
///     .build();
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct ClientBuilder<C, L = Identity> {
    carrier: Carrier,
    layers: L,
    is_layered: bool,
    queue: Option<String>,
    codec: Codec,
    timeout: Duration,
    wait_for_server: bool,
    batching: bool,
    max_in_flight: usize,
    when_full: WhenFull,
    adaptive_limit: bool,
    service: &'static ServiceDescriptor,
    wrap: Wrap<C>,
}

/// Makes the client of an untyped one.
pub(super) enum Wrap<C> {
    Typed(fn(Client) -> C),
    /// Knows what it calls.
    Described(Box<dyn FnOnce(Client) -> C + Send + Sync>),
}

impl<C> fmt::Debug for Wrap<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::any::type_name::<C>())
    }
}

impl<C: ServiceClient> ClientBuilder<C> {
    /// A client whose calls are made by this caller.
    pub(crate) fn with_caller(caller: Arc<Caller>) -> Self {
        let carrier = Carrier::Broker(caller);
        Self::with_carrier(carrier, C::SERVICE, Wrap::Typed(C::from_client))
    }

    /// A client that calls an implementation in this process, as `XClient::in_process` does, with options.
    ///
    /// ```
    /// # use rpc_runtime::{ClientBuilder, Codec, service};
    /// # #[service]
    /// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
    /// # struct Users;
    /// # impl Directory for Users {
    /// #     async fn get_email(&self, id: &str) -> String { format!("{id}@example.com") }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), rpc_runtime::CallError> {
    /// let directory: DirectoryClient = ClientBuilder::in_process(DirectoryServer::new(Users))
    ///     .codec(Codec::Json)
    ///     .build();
    /// assert_eq!(directory.get_email("alice").await?, "alice@example.com");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Arguments and results go through the codec, deadlines, headers and nested calls work, and a panic is a fault. The
    /// handler runs within the call: dropping the call, or its deadline, drops the handler. A one-way call returns when
    /// the handler has run.
    ///
    /// # Panics
    ///
    /// If two methods of the service share a name on the wire. Of a generated one, that takes methods under `#[cfg]`
    /// conditions that hold together.
    pub fn in_process(service: impl Service) -> Self {
        let carrier = Carrier::InProcess(Arc::new(InProcess::new(service)));
        Self::with_carrier(carrier, C::SERVICE, Wrap::Typed(C::from_client))
    }
}

impl<C> ClientBuilder<C> {
    pub(super) fn with_carrier(carrier: Carrier, service: &'static ServiceDescriptor, wrap: Wrap<C>) -> Self {
        Self {
            carrier,
            layers: Identity::new(),
            is_layered: false,
            queue: None,
            codec: Codec::default(),
            timeout: DEFAULT_TIMEOUT,
            wait_for_server: false,
            batching: true,
            max_in_flight: DEFAULT_IN_FLIGHT,
            when_full: WhenFull::default(),
            adaptive_limit: true,
            service,
            wrap,
        }
    }
}

impl<C, L> ClientBuilder<C, L> {
    /// Puts a layer around all calls, within those that were added before: see [`middleware`](crate::middleware).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use rpc_runtime::{Broker, service};
    /// # #[service]
    /// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
    /// # async fn example(broker: Broker) {
    /// let directory = DirectoryClient::builder(&broker)
    ///     .layer(tower::limit::RateLimitLayer::new(100, Duration::from_secs(1)))
    ///     .build();
    /// # }
    /// ```
    pub fn layer<N>(self, layer: N) -> ClientBuilder<C, Stack<N, L>> {
        ClientBuilder {
            layers: Stack::new(layer, self.layers),
            is_layered: true,
            carrier: self.carrier,
            queue: self.queue,
            codec: self.codec,
            timeout: self.timeout,
            wait_for_server: self.wait_for_server,
            batching: self.batching,
            max_in_flight: self.max_in_flight,
            when_full: self.when_full,
            adaptive_limit: self.adaptive_limit,
            service: self.service,
            wrap: self.wrap,
        }
    }

    /// Calls the workers on this queue in place of the service's own.
    ///
    /// An empty name, one of more than 255 bytes, one with control characters, and names of other queues fail each call with
    /// [`CallError::Invalid`]: those that begin with `amq.` or `rpc.` or end with `.batch`. One that RabbitMQ has named
    /// (`amq.gen-…`) is fine.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// How arguments are written; the worker answers in the same.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// How long a call may take, where neither the method nor the call says.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether a call whose queue does not exist yet is made again, until its time is up. The default is that it fails at
    /// once with [`CallError::NoServer`].
    ///
    /// For programs that start together: the first worker that ever starts declares the queue.
    pub fn wait_for_server(mut self, wait: bool) -> Self {
        self.wait_for_server = wait;
        self
    }

    /// Whether calls that wait to be sent leave several in one message, to workers that said they take such; the default is that
    /// they do.
    ///
    /// A broker's work is per message, so this is worth an order of magnitude under load. Nothing waits for it: where calls come one by
    /// one, each leaves by itself. One-way calls, those in plain text, and arguments of more than 8 KiB always do. There is one exception: of
    /// many calls that are made at once of a method, before any worker has answered one, those beyond the first 64 wait for the first
    /// answer, which says whether they may leave together, and no longer than 20 ms.
    pub fn batching(mut self, batching: bool) -> Self {
        self.batching = batching;
        self
    }

    /// How many calls of this client and its clones may be in flight; the default is 10,000.
    ///
    /// What one more does says [`when_full`](Self::when_full). The limit bounds what the client holds for requests that nobody
    /// answers, and what it puts into a queue that nobody serves.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// What a call does that would be one too many in flight; the default is to wait for its turn.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Whether fewer calls than [`max_in_flight`](Self::max_in_flight) may be in flight while the workers
    /// are overloaded; the default is that fewer may.
    ///
    /// Workers say how long requests wait in their queue. As long as that is short, nothing is limited.
    /// If requests wait for longer than a tenth of the calls' time, if workers refuse calls for want of time, or
    /// if calls time out, the client keeps only as many calls in flight as the workers can answer. The others
    /// wait in the client, where the end of their time costs nobody anything; they fail with
    /// [`CallError::Overloaded`]. Calls of the highest [priority](crate::Call::priority) go first, and among equals the
    /// newest, which have the most time left. The limit is back within a second or two after the overload.
    pub fn adaptive_limit(mut self, adaptive: bool) -> Self {
        self.adaptive_limit = adaptive;
        self
    }

    /// The client.
    #[must_use]
    pub fn build(self) -> C
    where
        L: CallLayer,
    {
        let queue = self.queue.unwrap_or_else(|| self.service.queue.to_owned());
        let limiter = Limiter::new(&queue, self.max_in_flight, self.when_full, self.adaptive_limit);
        let destination = destination_name(&queue)
            .map(|queue| Destination::new(queue, self.service, self.batching, limiter));
        let path = match self.is_layered {
            true => CallPath::Layered(Arc::new(LayeredCaller::new(&self.layers, self.carrier))),
            false => CallPath::Direct(self.carrier),
        };
        let client = Client {
            path,
            destination: destination.map(Arc::new),
            codec: self.codec,
            timeout: self.timeout,
            wait_for_server: self.wait_for_server,
        };
        match self.wrap {
            Wrap::Typed(wrap) => wrap(client),
            Wrap::Described(wrap) => wrap(client),
        }
    }
}
