//! The typed client of the built-in methods.

use super::{Worker, WorkerDescription, WorkerStats};
use crate::broker::Broker;
use crate::call::Call;
use crate::client::{Client, ClientBuilder, ServiceClient};
use crate::describe::{MethodDescriptor, ServiceDescriptor};

pub(crate) const PING: MethodDescriptor = MethodDescriptor::new("rpc.ping", &[])
    .idempotent()
    .returns("Worker")
    .docs("Who answers.");
pub(crate) const DESCRIBE: MethodDescriptor = MethodDescriptor::new("rpc.describe", &[])
    .idempotent()
    .returns("WorkerDescription")
    .docs("Who answers, and the services on this queue.");
pub(crate) const STATS: MethodDescriptor = MethodDescriptor::new("rpc.stats", &[])
    .idempotent()
    .returns("WorkerStats")
    .docs("What the worker counted of its methods.");

/// The built-in methods, as a service. No queue is its own.
pub(crate) static BUILT_IN: ServiceDescriptor =
    ServiceDescriptor::new("rpc", "", &[PING, DESCRIBE, STATS]).docs("What each worker says of itself.");

/// A client of the built-in methods: asks the workers of one queue about themselves.
///
/// A question goes to one of the workers, as every request does; [`Broker::discover`] asks all workers there are.
///
/// ```
/// # use rpc_runtime::{Broker, Server, service};
/// # #[service(queue = "users")]
/// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
/// # struct Users;
/// # impl Directory for Users { async fn get_email(&self, _: &str) -> String { String::new() } }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rpc_runtime::discovery::WorkerClient;
///
/// # let broker = Broker::in_process();
/// let server = Server::new(&broker).serve(DirectoryServer::new(Users)).start().await?;
///
/// let users = WorkerClient::new(&broker, "users");
/// assert_eq!(users.ping().await?.pid, std::process::id());
/// assert!(users.describe().await?.service("Directory").is_some());
/// assert_eq!(users.stats().await?.method("Directory", "get_email").unwrap().calls, 0);
/// # server.stop().await?;
/// # Ok(())
/// # }
/// ```
///
/// A worker without [self-description](crate::Server::self_description), or of another kind, answers with the fault `unknown_method`.
/// Answers in [`Codec::Text`](crate::Codec::Text) are for people, and cannot be read by this client.
#[derive(Debug, Clone)]
pub struct WorkerClient(Client);

impl ServiceClient for WorkerClient {
    const SERVICE: &'static ServiceDescriptor = &BUILT_IN;

    fn from_client(client: Client) -> Self {
        Self(client)
    }
}

impl WorkerClient {
    /// A client of the workers of this queue.
    #[must_use]
    pub fn new(broker: &Broker, queue: impl Into<String>) -> Self {
        Self::builder(broker, queue).build()
    }

    /// The same, with options.
    pub fn builder(broker: &Broker, queue: impl Into<String>) -> ClientBuilder<Self> {
        ClientBuilder::new(broker).queue(queue).batching(false)
    }

    /// Who answers.
    pub fn ping(&self) -> Call<Worker> {
        self.0.call(&PING, ())
    }

    /// Who answers, and the services on the queue. The `queue` of each is this one, whatever its trait says.
    pub fn describe(&self) -> Call<WorkerDescription> {
        self.0.call(&DESCRIBE, ())
    }

    /// What the worker counted of the methods on the queue.
    pub fn stats(&self) -> Call<WorkerStats> {
        self.0.call(&STATS, ())
    }
}
