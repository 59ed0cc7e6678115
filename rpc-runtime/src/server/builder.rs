//! The builder of a server.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::config::{BrokerParts, ServerConfig};
use super::running_server::RunningServer;
use crate::error::ServerError;
use crate::protocol::ReplyAddresses;
use crate::service::Service;
use crate::service::middleware::HandlerLayer;
use crate::transport::RequestQueue;

/// Serves one or more services on a broker.
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
/// The method of a request runs at most once, unless it is marked `idempotent`. If the worker of a
/// request is lost, the broker redelivers the request: an `idempotent` method runs again, within
/// limits; a request for any other method is answered with the fault `interrupted`. A panic becomes
/// the fault `panicked` of that call. A request is not acked before the broker has confirmed its
/// reply, the first message of its stream, or a copy of the request, unless the reply is given up
/// or the call is cancelled. A one-way request is acked once its method has ended, or, if it is a
/// job that failed, once the broker has it in another queue. A broadcast is acked before its method
/// runs. A request that cannot be handled is answered with a [`Fault`](crate::Fault) and acked, so
/// it does not come back. A one-way request that cannot be handled is rejected; on a queue with
/// jobs, it is moved to another queue instead.
///
/// # When the connection is lost
///
/// Running methods continue, and their replies are sent on the next connection. The server declares
/// its queues and subscribes again until that succeeds. It recognizes redelivered requests by their
/// correlation ids, and does not run them twice. The same happens if a queue is deleted, and if a
/// request stays unacked for longer than RabbitMQ's
/// [`consumer_timeout`](https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout) (30
/// minutes by default), after which RabbitMQ closes the channel. If several workers serve the
/// queue, a redelivered request may reach another one, which runs it again if its method is
/// `idempotent`, and otherwise answers at once with `interrupted`.
#[must_use = "a server does nothing until it runs"]
pub struct Server {
    config: ServerConfig,
}

impl Server {
    /// A server without services.
    pub(crate) fn with_broker(broker: BrokerParts) -> Self {
        Self {
            config: ServerConfig::new(broker),
        }
    }

    /// Adds a layer around the methods of all services; see [`middleware`](crate::middleware).
    /// Layers that were added before enclose it.
    ///
    /// ```
    /// # use rpc_runtime::{Broker, Server, service};
    /// # #[service]
    /// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
    /// # struct Users;
    /// # impl Directory for Users {
    /// #     async fn get_email(&self, _: &str) -> String { String::new() }
    /// # }
    /// # async fn example(broker: Broker) -> Result<(), rpc_runtime::ServerError> {
    /// let server = Server::new(&broker)
    ///     .layer(tower::limit::ConcurrencyLimitLayer::new(8))
    ///     .serve(DirectoryServer::new(Users))
    ///     .start()
    ///     .await?;
    /// # server.stop().await
    /// # }
    /// ```
    pub fn layer(mut self, layer: impl HandlerLayer) -> Self {
        self.config.layers.push(layer);
        self
    }

    /// Serves a service on the queue that it names, which is durable and classic.
    pub fn serve(self, service: impl Service) -> Self {
        let queue = RequestQueue::new(service.descriptor().queue);
        self.serve_on(queue, service)
    }

    /// Serves a service on this queue. Services may share a queue if it has the same options for
    /// each of them, their methods have different names, and at most one of the methods has
    /// `#[rpc(default)]`.
    pub fn serve_on(mut self, queue: RequestQueue, service: impl Service) -> Self {
        self.config.services.push((queue, Arc::new(service)));
        self
    }

    /// Sets how many requests of each queue run at once. The default is 64, and 0 means 1.
    ///
    /// This is also the [prefetch](https://www.rabbitmq.com/docs/consumer-prefetch), so that no
    /// request waits here while another worker is idle. Requests in [batches](Self::batching) count
    /// too, but their queue has a prefetch of its own: while they run, other requests may wait
    /// here. Streams that go on after their first message have as many places of their own.
    /// Broadcasts do not count. Quorum queues allow a prefetch of at most 2000.
    pub fn concurrency(mut self, requests: u16) -> Self {
        self.config.concurrency = requests.max(1);
        self
    }

    /// Sets how long the requests in progress at shutdown may take to end. The default is 30
    /// seconds.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.config.drain_timeout = limit;
        self
    }

    /// Sets which reply addresses get replies. The default is described at [`ReplyAddresses`].
    pub fn reply_addresses(mut self, addresses: ReplyAddresses) -> Self {
        self.config.reply_addresses = addresses;
        self
    }

    /// Sets whether callers may send several calls in one message if more than one waits to be
    /// sent. The default is `true`.
    ///
    /// Batches have a queue of their own. Its name is that of the service's queue followed by
    /// `.batch`, and it is declared with the same arguments. Workers that do not know batches never
    /// get one. If one-way methods are served, the queue stays when the last worker stops, and a
    /// worker with `false` runs what is left in it.
    ///
    /// Callers send single requests if the queue for batches cannot be declared, if the method
    /// takes longer than half a millisecond, or if the service's queue has a [dead-letter
    /// queue](RequestQueue::dead_letter_to), a length limit or a [single active
    /// consumer](RequestQueue::single_active_consumer). To set this for one queue, see
    /// [`RequestQueue::batching`].
    pub fn batching(mut self, batching: bool) -> Self {
        self.config.batching = batching;
        self
    }

    /// Sets whether to refuse a request if its caller would give up before its method ends. The
    /// default is `true`.
    ///
    /// Such a request is answered with the fault `expired`, and its method does not run
    /// ([`Executed::No`](crate::Executed::No)), or with `interrupted` if it may have run before.
    /// Without admission, an overloaded worker spends its time on requests that the queue delivers
    /// just before they expire, and all their callers give up while the methods run. A request is
    /// not refused for this reason if it has no `expiration`, if it waited for less than an eighth
    /// of its time to live, or if its method has not run yet.
    ///
    /// To measure how long requests wait, a worker whose prefetch is exhausted publishes a small
    /// message of the `type` `rpc.probe` to its own queues: at most fifty a second for each queue
    /// and priority, and at most ten a second once requests wait for a second. Any worker of this
    /// library that serves the queue replies to it. A worker written by hand gets it too and should
    /// reply to it, or at least ack it. Without admission, nothing is measured, and neither
    /// [`Context::deadline`](crate::Context::deadline) nor the statistics know the wait in the
    /// queue.
    pub fn admission(mut self, admission: bool) -> Self {
        self.config.admission = admission;
        self
    }

    /// Sets whether this server describes itself and its services to callers. The default is
    /// `true`.
    ///
    /// If it is `false`, the queues serve no built-in methods and
    /// [`Broker::discover`](crate::Broker::discover) does not find this worker. To allow only some
    /// callers, add an [`Authorize`](crate::middleware::Authorize) layer. See
    /// [`discovery`](crate::discovery).
    pub fn self_description(mut self, describe: bool) -> Self {
        self.config.self_description = describe;
        self
    }

    /// Sets a name by which people recognize this worker when it
    /// [describes itself](Self::self_description). The default is no name.
    pub fn worker_name(mut self, name: impl Into<String>) -> Self {
        self.config.worker_name = Some(name.into());
        self
    }

    /// Sets the version of the application. Workers report it when they [describe
    /// themselves](Self::self_description), which shows which of them are updated. The default is
    /// no version.
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
        self.config.version = Some(version.into());
        self
    }

    /// Serves until the broker handle is closed. Always ends with an error: it never returns `Ok`.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`run_until`](Self::run_until), usually that the handle was closed.
    pub async fn run(self) -> Result<(), ServerError> {
        self.run_until(std::future::pending()).await
    }

    /// Serves until `shutdown` is ready, then drains: it cancels its consumers, waits for the
    /// requests in progress and sends their replies.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no service, if a service or queue is invalid or conflicts with
    /// another, if the broker refuses a queue or a channel at the start, if the handle is closed,
    /// or if the requests in progress at shutdown do not end within the [drain
    /// timeout](Self::drain_timeout).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all running methods and returns their requests to the broker.
    /// Prefer `shutdown`.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let mut shutdown = pin!(shutdown);
        let stop = CancellationToken::new();
        let mut opening = pin!(self.config.open(&stop));
        tokio::select! {
            biased;
            opened = &mut opening => return opened?.run(shutdown).await,
            () = &mut shutdown => stop.cancel(),
        }
        // The queues to which it has subscribed may have begun to deliver, so it drains.
        opening.await?.run(std::future::ready(())).await
    }

    /// Serves in a task of its own. Returns once the server has subscribed to its queues, so that
    /// calls find it.
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
    /// Waits for a connection without a time limit.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no service, if a service or queue is invalid or conflicts with
    /// another, if the broker refuses a queue or a channel, or if the handle is closed.
    pub async fn start(self) -> Result<RunningServer, ServerError> {
        let runtime = self.config.broker.transport.runtime();
        let opened = self.config.open(&CancellationToken::new()).await?;
        let (stop, stopped) = oneshot::channel();
        let running = async move {
            let shutdown = async {
                // An error means that the `RunningServer` was dropped, which aborts this task.
                let _ = stopped.await;
            };
            opened.run(shutdown).await
        };
        Ok(RunningServer::new(stop, runtime.spawn(running)))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queues: Vec<_> = self
            .config
            .services
            .iter()
            .map(|(queue, _)| queue.name())
            .collect();
        f.debug_struct("Server")
            .field("queues", &queues)
            .field("concurrency", &self.config.concurrency)
            .finish_non_exhaustive()
    }
}
