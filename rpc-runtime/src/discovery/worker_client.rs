//! The typed client of the built-in methods.

use std::sync::Arc;

use crate::client::{Call, Caller, Client, ClientBuilder, ServiceClient};
use crate::describe::{
    BUILT_IN, DESCRIBE, PING, STATS, ServiceDescriptor, Worker, WorkerDescription, WorkerStats,
};

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
    /// Options of a client whose calls are made by this caller.
    pub(crate) fn with_caller(caller: Arc<Caller>, queue: impl Into<String>) -> ClientBuilder<Self> {
        ClientBuilder::with_caller(caller).queue(queue).batching(false)
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
