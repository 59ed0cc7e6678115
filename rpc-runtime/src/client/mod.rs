//! The caller's side: clients, and the calls in flight.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tower_layer::{Identity, Stack};

mod caller;
mod destination;
mod dynamic;
mod exact;
mod fate;
mod in_process;
mod interned;
mod limiter;
mod link;
mod outbox;
mod pending;
mod presence;
mod progress;
mod slot;

pub(crate) use caller::{CallPlan, Caller, CallerOptions, TimeLimit};
use destination::Destination;
pub use dynamic::DynamicClient;
use in_process::InProcess;
pub use interned::InvalidDescription;
use limiter::Limiter;
pub use limiter::WhenFull;
pub(crate) use slot::Slot;

use crate::broker::Broker;
use crate::call::{Arguments, Call, FallibleCall, ResultType, Unplannable};
use crate::codec::{Codec, DecodeError, EncodeError};
use crate::describe::{MethodDescriptor, ServiceDescriptor};
use crate::error::{CallError, Executed, InvalidName};
use crate::headers::Headers;
use crate::middleware::{CallLayer, LayeredCaller};
use crate::protocol::{BadReply, EncodeArguments, NamedArguments, Reply, ReplyKind, destination_name};
use crate::server::Service;
use crate::telemetry;

/// How many calls of a client may be in flight by default.
const DEFAULT_IN_FLIGHT: usize = 10_000;

/// How long a call may take, where neither the method nor the client nor the call says.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

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
    road: Road,
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
enum Wrap<C> {
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
    /// A client with the service's own queue, MessagePack, and 30 seconds a call.
    pub fn new(broker: &Broker) -> Self {
        let road = Road::Broker(Arc::clone(broker.caller()));
        Self::with_road(road, C::SERVICE, Wrap::Typed(C::from_client))
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
        let road = Road::InProcess(Arc::new(InProcess::new(service)));
        Self::with_road(road, C::SERVICE, Wrap::Typed(C::from_client))
    }
}

impl<C> ClientBuilder<C> {
    fn with_road(road: Road, service: &'static ServiceDescriptor, wrap: Wrap<C>) -> Self {
        Self {
            road,
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
            road: self.road,
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
        let route = match self.is_layered {
            true => Route::Layered(Arc::new(LayeredCaller::new(&self.layers, self.road))),
            false => Route::Direct(self.road),
        };
        let client = Client {
            route,
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

/// How calls reach the service.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    Direct(Road),
    /// Through layers.
    Layered(Arc<LayeredCaller>),
}

/// How requests reach the service.
#[derive(Debug, Clone)]
pub(crate) enum Road {
    /// As messages, through a broker.
    Broker(Arc<Caller>),
    /// By calling its implementation.
    InProcess(Arc<InProcess>),
}

/// A call that was made, and its reply.
pub(crate) type Calling = BoxFuture<'static, Result<Reply, CallError>>;

impl Route {
    /// Makes a call and waits for its reply, within its time.
    pub(crate) fn call(self, call: Arc<Slot>) -> Calling {
        let plan = call.plan();
        match (self, plan.time_limit()) {
            (_, Err(too_late)) => telemetry::call(call, |_| Box::pin(ready(Err(too_late)))),
            (Self::Direct(road), Ok(time)) => telemetry::call(call, |call| road.go(call, time)),
            (Self::Layered(caller), Ok(time)) => telemetry::layered_call(call, |call| {
                Box::pin(async move { caller.call(call.plan(), time).await })
            }),
        }
    }
}

impl Road {
    /// Makes an attempt that layers let through.
    pub(crate) fn attempt(self, call: Arc<Slot>, time: TimeLimit) -> Calling {
        telemetry::attempt(call, |call| self.go(call, time))
    }

    fn go(self, call: Arc<Slot>, time: TimeLimit) -> Calling {
        match self {
            Self::Broker(caller) => Box::pin(caller.call(call, time)),
            Self::InProcess(service) => Box::pin(service.call(call, time)),
        }
    }
}

/// An untyped client: what a generated one consists of. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    route: Route,
    /// Its name may be none that can be sent, of which each call tells.
    destination: Result<Arc<Destination>, InvalidName>,
    codec: Codec,
    timeout: Duration,
    wait_for_server: bool,
}

impl Client {
    /// Calls a method that returns a plain value.
    // Not `DeserializeOwned`: of this bound, serde has advice for who does not meet it.
    pub fn call<T: for<'de> Deserialize<'de> + 'static>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> Call<T> {
        Call::new(
            self.route.clone(),
            self.plan_typed(method, &arguments),
            read_value::<T>,
        )
    }

    /// Calls a method that returns a `Result`.
    pub fn call_fallible<R>(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl EncodeArguments,
    ) -> FallibleCall<R>
    where
        R: ResultType<Ok: for<'de> Deserialize<'de> + 'static, Err: for<'de> Deserialize<'de>>,
    {
        Call::new(
            self.route.clone(),
            self.plan_typed(method, &arguments),
            read_result::<R>,
        )
    }

    fn plan_typed(
        &self,
        method: &'static MethodDescriptor,
        arguments: &impl EncodeArguments,
    ) -> Result<Arc<Slot>, Unplannable> {
        self.plan(method, |codec| {
            codec.encode(&NamedArguments {
                names: method.arguments,
                values: arguments,
            })
        })
    }

    /// A call of a method with these arguments.
    fn plan(
        &self,
        method: &'static MethodDescriptor,
        arguments: impl FnOnce(Codec) -> Result<Bytes, EncodeError>,
    ) -> Result<Arc<Slot>, Unplannable> {
        let destination = self.destination.clone().map_err(|source| Unplannable::Invalid {
            what: "the queue's name",
            source,
        })?;
        Ok(Arc::new(Slot::new(CallPlan {
            method,
            method_index: destination.method(method.name),
            destination,
            codec: self.codec,
            arguments: Arguments(arguments(self.codec).map_err(Unplannable::Encode)?),
            timeout: method.timeout.unwrap_or(self.timeout),
            headers: Headers::default(),
            priority: None,
            wait_for_server: self.wait_for_server,
            is_detached: false,
        })))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field(
                "queue",
                &self.destination.as_ref().map(|destination| &destination.queue),
            )
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

/// The answer of a method that returns a plain value.
fn read_value<T: DeserializeOwned + 'static>(reply: Reply) -> Result<T, CallError<Infallible>> {
    match reply.kind {
        ReplyKind::Result => read_answer(&reply),
        ReplyKind::Error => Err(unreadable("the worker sent an error, and the method has none")),
        ReplyKind::Fault => Err(CallError::Fault(reply.read_fault())),
    }
}

/// The answer of a method that returns a `Result`.
fn read_result<R>(reply: Reply) -> Result<R::Ok, CallError<R::Err>>
where
    R: ResultType<Ok: DeserializeOwned + 'static, Err: DeserializeOwned>,
{
    match reply.kind {
        ReplyKind::Result => read_answer(&reply),
        ReplyKind::Error => Err(match (reply.codec.decode_reply(&reply.body), reply.codec) {
            (Ok(error), _) => CallError::Service(error),
            (Err(_), Codec::Text) => {
                CallError::ServiceText(String::from_utf8_lossy(&reply.body).into_owned())
            }
            (Err(error), _) => unreadable(error),
        }),
        ReplyKind::Fault => Err(CallError::Fault(reply.read_fault())),
    }
}

fn read_answer<T: DeserializeOwned + 'static, E>(reply: &Reply) -> Result<T, CallError<E>> {
    match reply.codec.decode_answer(&reply.body) {
        Ok(answer) => Ok(answer),
        Err(error) => Err(no_result(reply, error)),
    }
}

/// A reply whose body is not the method's result.
fn no_result<E>(reply: &Reply, error: DecodeError) -> CallError<E> {
    match &reply.unknown_type {
        None => unreadable(error),
        // It may be a refusal, in the terms of its worker.
        Some(kind) => CallError::BadReply {
            source: BadReply::UnknownType(kind.clone(), error).into(),
            executed: Executed::Maybe,
        },
    }
}

/// The method's own result or error came, and cannot be read: it ran.
fn unreadable<E>(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CallError<E> {
    CallError::BadReply {
        source: source.into(),
        executed: Executed::Yes,
    }
}
