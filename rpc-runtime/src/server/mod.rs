//! The worker's side: a server takes requests from its queues, runs methods and answers.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower_layer::{Identity as NoLayer, Stack};

mod answers;
pub(crate) mod arguments;
mod beacon;
mod built_in;
mod debt;
mod dispatch;
mod identity;
mod line;
mod outlet;
mod pace;
mod packed;
mod post;
mod runs;
mod serve;
mod service;
mod stats;

pub(crate) use built_in::is_built_in;
#[cfg(any(test, fuzzing))]
pub(crate) use dispatch::NoReplyAddress;
pub(crate) use dispatch::{Decision, Dispatcher, Rules};
pub(crate) use serve::{Handled, run};
pub use service::{Answer, Invocation, Readable, Service, Unreadable, ViaDisplay, ViaSerialize};

use crate::broker::Broker;
use crate::error::{BrokerError, InvalidName, ServerError};
use crate::middleware::{Around, HandlerLayer, layered_service};
use crate::protocol::{ReplyAddresses, ShortStr};
use crate::transport::{Declare, RequestQueue, Subscription};
use beacon::LitBeacon;
use built_in::{BuiltIn, ServedQueue};
use identity::Identity;
use line::{Ended, Line};
use outlet::Outlet;
use post::Post;
use serve::Desk;

const DEFAULT_CONCURRENCY: u16 = 64;

const DEFAULT_DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// How many messages of packed calls a queue's worker has at a time: one at work, and others on their way.
const PACKED_PREFETCH: u16 = 4;

/// Serves one service or several.
///
/// ```no_run
/// # use rpc_runtime::{Broker, Server, ServerError, service};
/// # #[service]
/// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
/// # struct Users;
/// # impl Directory for Users { async fn get_email(&self, _: &str) -> String { String::new() } }
/// # async fn shutdown_signal() {}
/// # async fn example(broker: Broker) -> Result<(), ServerError> {
/// Server::new(&broker)
///     .concurrency(64)
///     .serve(DirectoryServer::new(Users))
///     .run_until(shutdown_signal())
///     .await
/// # }
/// ```
///
/// # What happens to a request
///
/// Its method runs at most once, unless it is marked `idempotent`: a request that the broker delivers again, because its
/// worker was lost, is answered with the fault `interrupted`. A panic is the fault `panicked` of that one call. A
/// request is settled once the broker has confirmed the reply. What cannot be handled is answered with a
/// [`Fault`](crate::Fault) and settled; it never goes round.
///
/// # When the connection is lost
///
/// What runs goes on, and its replies leave by the next connection. The queues are declared and consumed again, for as long as it takes; what
/// the broker delivers again meanwhile is recognised and not run twice. The same goes for a queue that was deleted, and for a request
/// that stays unsettled for longer than RabbitMQ's [`consumer_timeout`](https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout)
/// (by default 30 minutes), for which it closes the channel. Only where two workers serve one queue can a request come to the other one,
/// which answers at once that it was `interrupted`.
#[must_use = "a server does nothing until it runs"]
pub struct Server<L = NoLayer> {
    broker: Broker,
    served: Vec<(RequestQueue, Arc<dyn Service>)>,
    layers: L,
    is_layered: bool,
    concurrency: u16,
    drain_limit: Duration,
    reply_addresses: ReplyAddresses,
    packing: bool,
    self_description: bool,
    worker_name: Option<String>,
    version: Option<String>,
    /// Puts a service behind the layers.
    around: Option<Layers>,
}

impl Server {
    /// A server without services.
    pub fn new(broker: &Broker) -> Self {
        Self {
            broker: broker.clone(),
            served: Vec::new(),
            layers: NoLayer::new(),
            is_layered: false,
            concurrency: DEFAULT_CONCURRENCY,
            drain_limit: DEFAULT_DRAIN_LIMIT,
            reply_addresses: ReplyAddresses::default(),
            packing: true,
            self_description: true,
            worker_name: None,
            version: None,
            around: None,
        }
    }
}

impl<L> Server<L> {
    /// Puts a layer around the methods of all services, within those that were added before: see
    /// [`middleware`](crate::middleware).
    ///
    /// ```
    /// # use rpc_runtime::{Broker, Server, service};
    /// # #[service]
    /// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
    /// # struct Users;
    /// # impl Directory for Users { async fn get_email(&self, _: &str) -> String { String::new() } }
    /// # async fn example(broker: Broker) -> Result<(), rpc_runtime::ServerError> {
    /// let server = Server::new(&broker)
    ///     .layer(tower::limit::ConcurrencyLimitLayer::new(8))
    ///     .serve(DirectoryServer::new(Users))
    ///     .start()
    ///     .await?;
    /// # server.stop().await
    /// # }
    /// ```
    pub fn layer<N>(self, layer: N) -> Server<Stack<N, L>> {
        Server {
            layers: Stack::new(layer, self.layers),
            is_layered: true,
            broker: self.broker,
            served: self.served,
            concurrency: self.concurrency,
            drain_limit: self.drain_limit,
            reply_addresses: self.reply_addresses,
            packing: self.packing,
            self_description: self.self_description,
            worker_name: self.worker_name,
            version: self.version,
            around: self.around,
        }
    }

    /// Serves a service on its own queue, durable and classic.
    pub fn serve(self, service: impl Service) -> Self {
        let queue = RequestQueue::new(service.descriptor().queue);
        self.serve_on(queue, service)
    }

    /// Serves a service on this queue. Several services may share one, as long as no two of their methods share a name.
    pub fn serve_on(mut self, queue: RequestQueue, service: impl Service) -> Self {
        self.served.push((queue, Arc::new(service)));
        self
    }

    /// How many requests of each queue run at once, which is also how many this server takes from it (the
    /// [prefetch](https://www.rabbitmq.com/docs/consumer-prefetch)): none waits here while another worker is idle. The
    /// default is 64; 0 is taken as 1. Quorum queues take at most 2000.
    pub fn concurrency(mut self, requests: u16) -> Self {
        self.concurrency = requests.max(1);
        self
    }

    /// How long the requests that run at shutdown may take to end; the default is 30 seconds.
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Where this server answers to.
    pub fn reply_addresses(mut self, addresses: ReplyAddresses) -> Self {
        self.reply_addresses = addresses;
        self
    }

    /// Whether callers are told that they may send several calls in one message, when more than one waits to be sent; the default is
    /// that they are.
    ///
    /// Such messages come by a queue of their own, named like the service's with `.packed` behind it, and declared like it: workers
    /// that do not know of them never see one. Where that queue cannot be declared, calls are taken one by one. So are those of
    /// methods that take longer than half a millisecond, and those of a queue with a
    /// [dead-letter queue](RequestQueue::dead_letter_to), where requests have to stay what they are.
    pub fn packing(mut self, packing: bool) -> Self {
        self.packing = packing;
        self
    }

    /// Whether this server tells who asks what it is and what it serves; the default is that it does.
    ///
    /// Without it, each queue has no other methods than those of its services, and [`Broker::discover`] does not find this worker. To let
    /// some ask and others not, leave it on and put [`Authorize`](crate::middleware::Authorize) around the server. See
    /// [`discovery`](crate::discovery).
    pub fn self_description(mut self, describe: bool) -> Self {
        self.self_description = describe;
        self
    }

    /// What this worker is called where it [tells of itself](Self::self_description), for people to know it by; the default is no
    /// name.
    pub fn worker_name(mut self, name: impl Into<String>) -> Self {
        self.worker_name = Some(name.into());
        self
    }

    /// The version of the application, where this worker [tells of itself](Self::self_description): which workers are updated already, for one.
    /// The default is none.
    ///
    /// ```
    /// # use rpc_runtime::discovery::WorkerClient;
    /// # use rpc_runtime::{Broker, Server, service};
    /// # #[service(queue = "users")]
    /// # pub trait Directory { async fn count(&self) -> u64; }
    /// # struct Users;
    /// # impl Directory for Users { async fn count(&self) -> u64 { 0 } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = Broker::in_process();
    /// let server = Server::new(&broker)
    ///     .version(env!("CARGO_PKG_VERSION"))
    ///     .serve(DirectoryServer::new(Users))
    ///     .start()
    ///     .await?;
    ///
    /// let worker = WorkerClient::new(&broker, "users").ping().await?;
    /// assert_eq!(worker.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    /// # server.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }
}

impl<L: HandlerLayer> Server<L> {
    /// Serves until the broker handle is closed.
    ///
    /// # Errors
    ///
    /// As [`run_until`](Self::run_until).
    pub async fn run(self) -> Result<(), ServerError> {
        self.run_until(std::future::pending()).await
    }

    /// Serves until `shutdown` is ready; then takes no more requests, lets those that run end, answers them, and returns.
    ///
    /// # Errors
    ///
    /// Where the services do not fit together, the broker refuses a queue at the start, the handle is closed, or the requests
    /// that run at shutdown do not end within the [drain limit](Self::drain_limit).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops all handlers where they stand and gives their requests back to the broker. Prefer
    /// `shutdown`.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let mut shutdown = pin!(shutdown);
        let stop = CancellationToken::new();
        let mut opening = pin!(self.behind_layers().open(&stop));
        tokio::select! {
            biased;
            opened = &mut opening => return opened?.run(shutdown).await,
            () = &mut shutdown => stop.cancel(),
        }
        opening.await?.run(std::future::ready(())).await
    }

    /// Starts to serve in a task of its own, and returns once requests are taken: from then on a call finds its server.
    ///
    /// ```
    /// # use rpc_runtime::{Broker, Server, service};
    /// # #[service]
    /// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
    /// # struct Users;
    /// # impl Directory for Users {
    /// #     async fn get_email(&self, id: &str) -> String { format!("{id}@example.com") }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::in_process();
    /// let server = Server::new(&broker).serve(DirectoryServer::new(Users)).start().await?;
    /// let email = DirectoryClient::new(&broker).get_email("alice").await?;
    /// assert_eq!(email, "alice@example.com");
    /// server.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Without a connection it waits for one, without a limit.
    ///
    /// # Errors
    ///
    /// Where the services do not fit together, or the broker refuses a queue.
    pub async fn start(self) -> Result<RunningServer, ServerError> {
        let opened = self.behind_layers().open(&CancellationToken::new()).await?;
        let (stop, stopped) = oneshot::channel();
        let running = async move {
            let shutdown = async {
                // The handle says stop, or is dropped and takes this task with it.
                let _ = stopped.await;
            };
            opened.run(shutdown).await
        };
        Ok(RunningServer {
            stop: Some(stop),
            task: AbortOnDropHandle::new(tokio::spawn(running)),
        })
    }

    /// The same server, each of whose services has the layers around it.
    fn behind_layers(self) -> Server {
        let around = self.is_layered.then(|| Layers {
            of_methods: layered_service(&self.layers),
            of_built_in: layered_service(&self.layers),
        });
        Server {
            layers: NoLayer::new(),
            is_layered: false,
            broker: self.broker,
            served: self.served,
            concurrency: self.concurrency,
            drain_limit: self.drain_limit,
            reply_addresses: self.reply_addresses,
            packing: self.packing,
            self_description: self.self_description,
            worker_name: self.worker_name,
            version: self.version,
            around,
        }
    }
}

impl Server {
    /// Declares the queues and consumes from them; from none any more once it is told to stop.
    async fn open(self, stop: &CancellationToken) -> Result<OpenServer, ServerError> {
        let mut queues = self.queues()?;
        let built_in = self.self_description.then(|| self.add_built_in(&mut queues));
        // Those that may not exist come first: what a consumer was sent before another one fails comes back marked
        // redelivered, without having been run.
        queues.sort_by_key(|(queue, _)| queue.declare() == Declare::Active);
        let limits = self.broker.limits();
        let rules = Rules {
            reply_addresses: self.reply_addresses,
            max_accepted_bytes: limits.accepted,
            max_sent_bytes: limits.sent,
            max_deliveries: 0,
        };
        let transport = self.broker.transport();
        let (outlet, keep_outlet) = Outlet::new(Arc::clone(transport));
        let outlet = Arc::new(outlet);
        let outlet_task = AbortOnDropHandle::new(tokio::spawn(keep_outlet));
        let (post, emptying) = Post::new(Arc::clone(&outlet));
        let post_task = AbortOnDropHandle::new(tokio::spawn(emptying));
        stop.run_until_cancelled(outlet.ready()).await.transpose()?;

        // All are declared before one is consumed: what a server was sent that cannot start comes back marked redelivered,
        // without having been run.
        for (queue, _) in &queues {
            let declaring = line::patiently(queue.name(), || transport.declare_requests(queue));
            stop.run_until_cancelled(declaring).await.transpose()?;
        }
        // Who finds the worker finds its queues; and once it serves, nothing else is waited for.
        let light = |built_in| LitBeacon::light(transport, &built_in, rules.clone(), &outlet);
        let mut beacon = built_in.map(light);
        if let Some(beacon) = &mut beacon {
            stop.run_until_cancelled(beacon.lit()).await;
        }
        let mut lines = Vec::new();
        let mut names = Vec::new();
        for (queue, dispatcher) in queues {
            if stop.is_cancelled() {
                break;
            }
            let name = queue.name().to_owned();
            let rules = Rules {
                max_deliveries: queue.max_deliveries(),
                ..rules.clone()
            };
            let desk = Arc::new(Desk::new(
                name.clone(),
                dispatcher,
                rules,
                Arc::clone(&outlet),
                post.clone(),
                self.concurrency,
            ));
            let line = |queue, prefetch| Line::new(Arc::clone(transport), queue, prefetch, Arc::clone(&desk));
            let packed = queue.packed().filter(|_| self.packing);
            let alone = line(queue, self.concurrency);
            let Some(subscription) = alone.open(stop).await? else {
                break;
            };
            lines.push((alone, subscription));
            if let Some(queue) = packed {
                let packed = line(queue, self.concurrency.min(PACKED_PREFETCH)).of_packed();
                match packed.open(stop).await {
                    Ok(Some(subscription)) => {
                        desk.take_packed();
                        lines.push((packed, subscription));
                    }
                    Ok(None) => break,
                    Err(error @ BrokerError::Closed) => return Err(error.into()),
                    // It may not be allowed to be declared, or be made by somebody who did not know of it.
                    Err(error) => tracing::info!(
                        queue = name,
                        error = &error as &dyn std::error::Error,
                        "calls are taken one by one: there is no queue for packed ones"
                    ),
                }
            }
            names.push(name);
        }
        tracing::info!(queues = ?names, concurrency = self.concurrency, "serving");
        Ok(OpenServer {
            lines,
            beacon,
            queues: names,
            drain_limit: self.drain_limit,
            _outlet: outlet_task,
            _post: post_task,
            _broker: self.broker,
        })
    }

    /// Each queue once, with the methods that are served on it.
    fn queues(&self) -> Result<Vec<(RequestQueue, Dispatcher)>, ServerError> {
        let mut queues: Vec<(RequestQueue, Dispatcher)> = Vec::new();
        for (queue, service) in &self.served {
            let name = queue.name();
            ShortStr::new(name).map_err(|error| ServerError::InvalidQueue {
                queue: name.to_owned(),
                source: InvalidName::from(error),
            })?;
            let position = match queues.iter().position(|(known, _)| known.name() == name) {
                Some(position) if queues[position].0 == *queue => position,
                Some(_) => {
                    return Err(ServerError::ConflictingQueue {
                        queue: name.to_owned(),
                    });
                }
                None => {
                    queues.push((queue.clone(), Dispatcher::default()));
                    queues.len() - 1
                }
            };
            queues[position].1.add(self.behind(Arc::clone(service)), name)?;
        }
        match queues.is_empty() {
            true => Err(ServerError::NoService),
            false => Ok(queues),
        }
    }
}

impl Server {
    /// The service, behind the layers.
    fn behind(&self, service: Arc<dyn Service>) -> Arc<dyn Service> {
        match &self.around {
            Some(layers) => (layers.of_methods)(service),
            None => service,
        }
    }

    /// Built-in methods, behind layers of their own.
    fn built_in_behind(&self, methods: BuiltIn) -> Arc<dyn Service> {
        match &self.around {
            Some(layers) => (layers.of_built_in)(Arc::new(methods)),
            None => Arc::new(methods),
        }
    }

    /// Adds the built-in methods to each queue. Answers with those that tell of all of them.
    fn add_built_in(&self, queues: &mut [(RequestQueue, Dispatcher)]) -> Arc<dyn Service> {
        let (app_id, _) = self.broker.caller().names();
        let app_id = app_id.map(|app_id| app_id.as_str().to_owned());
        let identity = Arc::new(Identity::new(
            self.worker_name.clone(),
            app_id,
            self.version.clone(),
        ));
        let mut served = Vec::with_capacity(queues.len());
        for (queue, dispatcher) in queues {
            let queue = Arc::new(ServedQueue::new(queue.name(), dispatcher.hosted()));
            let built_in = BuiltIn::of_queue(&identity, &queue);
            dispatcher.add_built_in(&self.built_in_behind(built_in));
            served.push(queue);
        }
        self.built_in_behind(BuiltIn::of_worker(&identity, served))
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queues: Vec<_> = self.served.iter().map(|(queue, _)| queue.name()).collect();
        f.debug_struct("Server")
            .field("queues", &queues)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// The layers around a server's methods.
struct Layers {
    of_methods: Around,
    /// Made once more of the same layers, so that a worker whose methods are at their limits still says how it is.
    of_built_in: Around,
}

/// A server that consumes from its queues.
struct OpenServer {
    lines: Vec<(Line, Subscription)>,
    /// There where the server describes itself.
    beacon: Option<LitBeacon>,
    queues: Vec<String>,
    drain_limit: Duration,
    _outlet: AbortOnDropHandle<()>,
    _post: AbortOnDropHandle<()>,
    /// Keeps the connection, should the user drop every handle of their own.
    _broker: Broker,
}

impl OpenServer {
    async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let queues = self.queues;
        let stop = CancellationToken::new();
        let mut lines = JoinSet::new();
        for (line, subscription) in self.lines {
            lines.spawn(line.run(subscription, stop.clone(), self.drain_limit));
        }
        // A line ends by itself only where all do: the handle was closed.
        let first = tokio::select! {
            biased;
            () = shutdown => None,
            ended = lines.join_next() => ended,
        };
        stop.cancel();
        let beacon = self.beacon;
        let putting_out = AbortOnDropHandle::new(tokio::spawn(async {
            if let Some(beacon) = beacon {
                beacon.put_out().await;
            }
        }));
        let mut all = Ended {
            unfinished: 0,
            reason: None,
        };
        let mut panicked = None;
        let mut next = first;
        while let Some(ended) = match next.take() {
            None => lines.join_next().await,
            first => first,
        } {
            match ended {
                Ok(ended) => {
                    all.unfinished += ended.unfinished;
                    all.reason = all.reason.or(ended.reason);
                }
                Err(error) => panicked = Some(error.into_panic()),
            }
        }
        // Ended in one way or another.
        let _ = putting_out.await;
        if let Some(panic) = panicked {
            std::panic::resume_unwind(panic);
        }
        let limit = self.drain_limit;
        let ended = match all {
            Ended {
                reason: Some(reason), ..
            } => Err(ServerError::Broker(reason)),
            Ended { unfinished: 0, .. } => Ok(()),
            Ended { unfinished, .. } => Err(ServerError::DrainTimedOut { unfinished, limit }),
        };
        match &ended {
            Ok(()) => tracing::info!(?queues, "stopped"),
            Err(error) => tracing::error!(?queues, error = error as &dyn std::error::Error, "server ended"),
        }
        ended
    }
}

/// A server that runs in a task of its own; see [`Server::start`].
///
/// Dropping it stops all handlers where they stand and gives their requests back to the broker. Prefer
/// [`stop`](Self::stop).
#[derive(Debug)]
#[must_use = "a server that is dropped stops at once"]
pub struct RunningServer {
    /// Gone once it was used.
    stop: Option<oneshot::Sender<()>>,
    task: AbortOnDropHandle<Result<(), ServerError>>,
}

impl RunningServer {
    /// Takes no more requests, lets those that run end, answers them, and returns.
    ///
    /// # Errors
    ///
    /// As [`Server::run_until`].
    pub async fn stop(mut self) -> Result<(), ServerError> {
        if let Some(stop) = self.stop.take() {
            // Where nobody listens, the server has ended already and says why.
            let _ = stop.send(());
        }
        self.ended().await
    }

    /// Waits until the server ends by itself, because its broker handle was closed: for a program that should end with it.
    ///
    /// Cancel safe. To be awaited to its end once.
    ///
    /// # Errors
    ///
    /// As [`Server::run_until`].
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only the end of its runtime cancels the task, and requests with it.
            Err(_) => Err(ServerError::Broker(BrokerError::Closed)),
        }
    }
}
