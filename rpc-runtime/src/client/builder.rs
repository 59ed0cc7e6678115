//! Builds clients.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::call_path::CallPath;
use super::called_method::CalledService;
use super::caller::Caller;
use super::destination::Destination;
use super::in_process::InProcess;
use super::limiter::{DEFAULT_IN_FLIGHT, Limiter, WhenFull};
use super::middleware::{CallLayer, CallLayers};
use super::stub::Client;
use crate::codec::Codec;
use crate::describe::ServiceDescriptor;
use crate::protocol::check_destination_name;
use crate::service::Service;

/// The default of [`ClientBuilder::timeout`].
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that the [`service`](macro@crate::service) attribute generated.
pub trait ServiceClient: Sized {
    /// The service that the client calls.
    const SERVICE: &'static ServiceDescriptor;

    /// Wraps the service-independent client.
    #[doc(hidden)]
    fn from_client(client: Client) -> Self;
}

/// Sets the options of a client. Created by `builder` of each generated [client](ServiceClient).
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
pub struct ClientBuilder<C> {
    backend: Backend,
    layers: CallLayers,
    queue: Option<String>,
    codec: Codec,
    timeout: Duration,
    wait_for_server: bool,
    batching: bool,
    max_in_flight: usize,
    when_full: WhenFull,
    adaptive_limit: bool,
    service: CalledService,
    wrap: Wrap<C>,
}

/// Wraps the service-independent client.
pub(super) enum Wrap<C> {
    /// For a generated client.
    Typed(fn(Client) -> C),
    /// For a dynamic client. Adds the description of the service that is called.
    Described(Box<dyn FnOnce(Client) -> C + Send + Sync>),
}

impl<C> fmt::Debug for Wrap<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::any::type_name::<C>())
    }
}

impl<C: ServiceClient> ClientBuilder<C> {
    /// Creates a builder of a client whose calls go through a broker.
    pub(crate) fn with_caller(caller: Arc<Caller>) -> Self {
        Self::of_generated(Backend::Broker(caller))
    }

    /// Creates a builder of a client that runs the methods of a service itself, without a broker:
    /// a generated client's `in_process`, with options.
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
    /// Arguments and results go through the codec; deadlines, headers and nested calls work; a
    /// panic becomes a fault. The handler runs within the call: it is dropped with the call, and at
    /// the call's deadline unless a stream has begun. A one-way call returns when the handler has
    /// finished.
    ///
    /// # Panics
    ///
    /// If two methods of the service have the same name on the wire, or are both the default
    /// method. [`service`](macro@crate::service) refuses such methods at compile time, unless both
    /// have `#[cfg]` conditions.
    pub fn in_process(service: impl Service) -> Self {
        Self::of_generated(Backend::InProcess(Arc::new(InProcess::new(service))))
    }

    fn of_generated(backend: Backend) -> Self {
        let service = CalledService::Static(C::SERVICE);
        Self::with_backend(backend, service, Wrap::Typed(C::from_client))
    }
}

impl<C> ClientBuilder<C> {
    /// Creates a builder with the default options.
    pub(super) fn with_backend(backend: Backend, service: CalledService, wrap: Wrap<C>) -> Self {
        Self {
            backend,
            layers: CallLayers::default(),
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

    /// Adds a layer around all calls, inside the layers added before. See
    /// [`middleware`](crate::middleware).
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
    pub fn layer(mut self, layer: impl CallLayer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sends requests to this queue instead of the service's default queue.
    ///
    /// Each call fails with [`CallError::Invalid`](crate::CallError::Invalid) if the name is empty
    /// or longer than 255 bytes, has control characters, begins with `amq.` or `rpc.`, or ends with
    /// `.batch`. A name that RabbitMQ generated (`amq.gen-…`) is valid.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Sets the codec of arguments. Workers reply in the same codec.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets how long a call may take if neither its method nor the call itself has a timeout. The
    /// default is 30 seconds. For calls with streams, see
    /// [`StreamingCall::timeout`](crate::StreamingCall::timeout) and
    /// [`Call::timeout`](crate::Call::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets whether a call whose queue does not exist is retried until its deadline. By default it
    /// fails at once with [`CallError::NoServer`](crate::CallError::NoServer).
    ///
    /// Useful if programs start together, because the first worker declares the queue. A broadcast
    /// is also retried while no worker can be reached.
    pub fn wait_for_server(mut self, wait: bool) -> Self {
        self.wait_for_server = wait;
        self
    }

    /// Sets whether several requests may be sent in one message, to workers that support it. The
    /// default is `true`.
    ///
    /// A broker's work is per message, so batches multiply the throughput under load. Requests are
    /// not delayed to fill a batch: only those that are made at the same time, or that wait anyway
    /// because the broker has not confirmed earlier messages, share a message. Plain-text calls,
    /// broadcasts, calls with a stream, calls whose arguments and headers exceed 8 KiB, and one-way
    /// calls of a handle with [`ReplyQueue::Direct`](crate::ReplyQueue::Direct) are always sent on
    /// their own.
    ///
    /// Requests are held back in one case only: if more than 64 calls of a method are made before
    /// a worker has replied to any of them, the others wait for the first reply, which says whether
    /// they may be batched. They wait for at most 20 ms. One-way calls are never held back.
    pub fn batching(mut self, batching: bool) -> Self {
        self.batching = batching;
        self
    }

    /// Sets how many calls of this client and its clones may be in flight. The default is 10,000;
    /// the minimum is one.
    ///
    /// [`when_full`](Self::when_full) sets what further calls do. The limit bounds the memory of
    /// calls in flight, and the requests in a queue without workers. It does not bound one-way
    /// requests there, because their calls end once the broker has confirmed them.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// Sets what a call does while [`max_in_flight`](Self::max_in_flight) calls are in flight. By
    /// default it waits.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Sets whether the client reduces its limit of calls in flight while the workers are
    /// overloaded. The default is `true`.
    ///
    /// Replies say how long requests wait. While that is short, only
    /// [`max_in_flight`](Self::max_in_flight) applies. If requests wait for longer than a tenth of
    /// the call's time limit (but at least 40 ms and at most 1 s), if workers refuse requests that
    /// would expire, or if calls time out and none is answered, the client keeps only as many calls
    /// in flight as the workers can answer. The others wait in the client. Those that wait in vain
    /// fail with [`Overloaded`](crate::CallError::Overloaded) and cost the workers nothing. Calls
    /// with the highest [priority](crate::Call::priority) go first, and among equals the newest.
    /// After the overload, the limit recovers within seconds if calls are quick.
    pub fn adaptive_limit(mut self, adaptive: bool) -> Self {
        self.adaptive_limit = adaptive;
        self
    }

    /// Builds the client.
    #[must_use]
    pub fn build(self) -> C {
        let queue = self.queue.unwrap_or_else(|| self.service.queue().to_owned());
        let limiter = Limiter::new(&queue, self.max_in_flight, self.when_full, self.adaptive_limit);
        let destination = check_destination_name(&queue)
            .map(|queue| Destination::new(queue, self.service, self.batching, limiter));
        let path = match self.layers.layered_caller(&self.backend) {
            Some(caller) => CallPath::Layered(Arc::new(caller)),
            None => CallPath::Direct(self.backend),
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
