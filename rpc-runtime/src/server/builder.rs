//! A server and its options.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower_layer::{Identity as NoLayer, Stack};

use super::plan::{Host, Layers, Plan};
use super::running::RunningServer;
use crate::error::ServerError;
use crate::protocol::ReplyAddresses;
use crate::service::Service;
use crate::service::middleware::HandlerLayer;
use crate::transport::RequestQueue;

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
    plan: Plan,
    layers: L,
    is_layered: bool,
}

impl Server {
    /// A server without services, for a broker handle.
    pub(crate) fn with_host(host: Host) -> Self {
        Self {
            plan: Plan::new(host),
            layers: NoLayer::new(),
            is_layered: false,
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
            plan: self.plan,
        }
    }

    /// Serves a service on its own queue, durable and classic.
    pub fn serve(self, service: impl Service) -> Self {
        let queue = RequestQueue::new(service.descriptor().queue);
        self.serve_on(queue, service)
    }

    /// Serves a service on this queue. Several services may share one, as long as no two of their methods share a name.
    pub fn serve_on(mut self, queue: RequestQueue, service: impl Service) -> Self {
        self.plan.served.push((queue, Arc::new(service)));
        self
    }

    /// How many requests of each queue run at once, which is also how many this server takes from it (the
    /// [prefetch](https://www.rabbitmq.com/docs/consumer-prefetch)): none waits here while another worker is idle. The
    /// default is 64; 0 is taken as 1. Quorum queues take at most 2000.
    pub fn concurrency(mut self, requests: u16) -> Self {
        self.plan.concurrency = requests.max(1);
        self
    }

    /// How long the requests that run at shutdown may take to end; the default is 30 seconds.
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.plan.drain_limit = limit;
        self
    }

    /// Where this server answers to.
    pub fn reply_addresses(mut self, addresses: ReplyAddresses) -> Self {
        self.plan.reply_addresses = addresses;
        self
    }

    /// Whether callers are told that they may send several calls in one message, when more than one waits to be sent; the default is
    /// that they are.
    ///
    /// Such messages come by a queue of their own, named like the service's with `.batch` behind it, and declared like it: workers
    /// that do not know of them never see one. Where that queue cannot be declared, calls are taken one by one. So are those of
    /// methods that take longer than half a millisecond, and those of a queue with a
    /// [dead-letter queue](RequestQueue::dead_letter_to), a limit of length or a
    /// [single active consumer](RequestQueue::single_active_consumer). For one queue, see [`RequestQueue::batching`].
    pub fn batching(mut self, batching: bool) -> Self {
        self.plan.batching = batching;
        self
    }

    /// Whether requests are refused whose callers would give up before their methods end; the default is
    /// that they are.
    ///
    /// Such a request gets the fault `expired` and its method does not run
    /// ([`Executed::No`](crate::Executed::No)). Without admission, a queue that is longer than callers wait
    /// makes a worker run every method for a caller that is gone. Requests without an `expiration` are always
    /// run. A request is always run, too, if it waited for less than an eighth of its time.
    ///
    /// To know how long requests wait, a worker whose prefetch is exhausted publishes a small message of the
    /// `type` `rpc.probe` to its own queues: for each queue and priority, at most fifty times a second, and ten
    /// times once requests wait for a second. Any worker of this library that serves the queue replies to it.
    /// Workers that are written by hand get it too: let them reply to it, or at least acknowledge it.
    pub fn admission(mut self, admission: bool) -> Self {
        self.plan.admission = admission;
        self
    }

    /// Whether this server tells who asks what it is and what it serves; the default is that it does.
    ///
    /// Without it, each queue has no other methods than those of its services, and [`Broker::discover`] does not find this worker. To let
    /// some ask and others not, leave it on and put [`Authorize`](crate::middleware::Authorize) around the server. See
    /// [`discovery`](crate::discovery).
    pub fn self_description(mut self, describe: bool) -> Self {
        self.plan.self_description = describe;
        self
    }

    /// What this worker is called where it [tells of itself](Self::self_description), for people to know it by; the default is no
    /// name.
    pub fn worker_name(mut self, name: impl Into<String>) -> Self {
        self.plan.worker_name = Some(name.into());
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
        self.plan.version = Some(version.into());
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
        let runtime = self.plan.host.transport.runtime();
        let opened = self.behind_layers().open(&CancellationToken::new()).await?;
        let (stop, stopped) = oneshot::channel();
        let running = async move {
            let shutdown = async {
                // The handle says stop, or is dropped and takes this task with it.
                let _ = stopped.await;
            };
            opened.run(shutdown).await
        };
        Ok(RunningServer::new(stop, runtime.spawn(running)))
    }

    /// What it does, with the layers around each service.
    fn behind_layers(self) -> Plan {
        let around = self.is_layered.then(|| Layers::of(&self.layers));
        Plan { around, ..self.plan }
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queues: Vec<_> = self.plan.served.iter().map(|(queue, _)| queue.name()).collect();
        f.debug_struct("Server")
            .field("queues", &queues)
            .field("concurrency", &self.plan.concurrency)
            .finish_non_exhaustive()
    }
}
