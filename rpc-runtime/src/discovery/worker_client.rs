//! The typed client for the built-in methods.

use std::sync::Arc;

use crate::client::{Call, Caller, Client, ClientBuilder, ServiceClient};
use crate::describe::{
    BUILT_IN, DESCRIBE, PING, STATS, ServiceDescriptor, Worker, WorkerDescription, WorkerStats,
};

/// A client for the built-in methods of the workers of one queue.
///
/// As with every call, one of the workers answers. [`Broker::discover`](crate::Broker::discover)
/// asks all workers.
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
/// A worker without [self-description](crate::Server::self_description) answers with the fault
/// `unknown_method`. Answers in [`Codec::Text`](crate::Codec::Text) are for human readers: this
/// client cannot decode them.
#[derive(Debug, Clone)]
pub struct WorkerClient(Client);

impl ServiceClient for WorkerClient {
    const SERVICE: &'static ServiceDescriptor = &BUILT_IN;

    fn from_client(client: Client) -> Self {
        Self(client)
    }
}

impl WorkerClient {
    /// Returns the builder of a client that makes its calls with this caller. It does not batch
    /// them, because workers take no batches of calls to built-in methods.
    pub(crate) fn with_caller(caller: Arc<Caller>, queue: impl Into<String>) -> ClientBuilder<Self> {
        ClientBuilder::with_caller(caller).queue(queue).batching(false)
    }

    /// Asks a worker for its identity.
    pub fn ping(&self) -> Call<Worker> {
        self.0.call(&PING, ())
    }

    /// Asks a worker for its identity and the services on the queue. The `queue` of each service is
    /// this one, even if its trait names another.
    pub fn describe(&self) -> Call<WorkerDescription> {
        self.0.call(&DESCRIBE, ())
    }

    /// Asks a worker for the statistics of the methods on the queue.
    pub fn stats(&self) -> Call<WorkerStats> {
        self.0.call(&STATS, ())
    }
}
