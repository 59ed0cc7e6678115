//! Creates clients, servers and discovery from a handle, sends encoded calls, and asks for the
//! depth of a queue.

use std::sync::Arc;

use super::handle::Broker;
use crate::client::{Call, ClientBuilder, DynamicClient, EncodedCall, InvalidDescription, ServiceClient};
use crate::describe::ServiceDescription;
use crate::discovery::{Discover, QueueDepth, WorkerClient};
use crate::protocol::ShortStr;
use crate::server::{BrokerParts, Server};

impl<C: ServiceClient> ClientBuilder<C> {
    /// Creates a builder. By default, the client uses the service's own queue, MessagePack, and 30
    /// seconds for each call whose method has no `timeout`.
    pub fn new(broker: &Broker) -> Self {
        Self::with_caller(Arc::clone(broker.caller()))
    }
}

impl DynamicClient {
    /// Creates a client of a service. It uses the queue of the description, JSON, and 30 seconds
    /// for each call whose method has no timeout.
    ///
    /// # Errors
    ///
    /// [`InvalidDescription`] if the name of a method is too long for AMQP.
    pub fn new(broker: &Broker, description: ServiceDescription) -> Result<Self, InvalidDescription> {
        Ok(Self::builder(broker, description)?.build())
    }

    /// Creates a builder of such a client, which sets its options.
    ///
    /// By default, requests and replies are in JSON, and the worker converts values that JSON
    /// lacks, such as bytes. In MessagePack, bytes come as arrays of numbers, and integers of more
    /// than 64 bits as strings. In plain text, each result is a string.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn builder(
        broker: &Broker,
        description: ServiceDescription,
    ) -> Result<ClientBuilder<Self>, InvalidDescription> {
        Self::with_caller(Arc::clone(broker.caller()), description)
    }
}

impl WorkerClient {
    /// Creates a client of the workers of a queue.
    #[must_use]
    pub fn new(broker: &Broker, queue: impl Into<String>) -> Self {
        Self::builder(broker, queue).build()
    }

    /// Creates a builder of such a client, which sets its options.
    pub fn builder(broker: &Broker, queue: impl Into<String>) -> ClientBuilder<Self> {
        Self::with_caller(Arc::clone(broker.caller()), queue)
    }
}

impl Server {
    /// Creates a server without services.
    pub fn new(broker: &Broker) -> Self {
        let (app_id, _) = broker.caller().app_and_user_id();
        Self::with_broker(BrokerParts {
            transport: Arc::clone(broker.transport()),
            max_sent_bytes: broker.limits().sent,
            max_accepted_bytes: broker.limits().accepted,
            app_id,
        })
    }
}

impl Broker {
    /// Returns a [`Discover`], which asks all workers of this broker what they serve, for their
    /// statistics or for their identities. Nothing is sent before one of its methods is awaited.
    ///
    /// ```
    /// # use rpc_runtime::{Broker, Server, service};
    /// # #[service(queue = "users")]
    /// # pub trait Directory { async fn get_email(&self, id: &str) -> String; }
    /// # struct Users;
    /// # impl Directory for Users { async fn get_email(&self, _: &str) -> String { String::new() } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = Broker::in_process();
    /// # let server = Server::new(&broker).serve(DirectoryServer::new(Users)).start().await?;
    /// let found = broker.discover().services().await?;
    /// for service in found.services() {
    ///     println!("{} on {}: {} workers", service.name, service.queue, service.workers.len());
    /// }
    /// # assert_eq!(found.services()[0].name, "Directory");
    /// # server.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`discovery`](crate::discovery) says which workers are found.
    pub fn discover(&self) -> Discover {
        Discover::new(Arc::clone(self.transport()), self.caller().app_and_user_id())
    }

    /// Sends a call that was [encoded](crate::Call::encode) earlier. Await it; it returns once the
    /// broker has the job.
    ///
    /// The job gets the same [`request_id`](crate::Context::request_id) each time it is sent.
    /// Workers may run it each time.
    ///
    /// At most 10,000 such calls of a handle to a queue are in flight at once. Further ones wait,
    /// and fail with [`CallError::TooManyCalls`](crate::CallError::TooManyCalls) if their timeout
    /// passes first.
    pub fn send(&self, call: &EncodedCall) -> Call<()> {
        call.call(Arc::clone(self.caller()))
    }

    /// Asks the broker how many ready messages and consumers a queue has.
    ///
    /// Returns `None` if that is not known: the queue does not exist, the RabbitMQ user has no
    /// permission to ask, the queue's node is down, the broker does not answer in time, or the
    /// handle is closed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let broker = rpc_runtime::Broker::in_process();
    /// if let Some(depth) = broker.queue_depth("users").await {
    ///     println!("{} messages, {} consumers", depth.messages, depth.consumers);
    /// }
    /// # }
    /// ```
    pub async fn queue_depth(&self, queue: &str) -> Option<QueueDepth> {
        let queue = ShortStr::new(queue).ok()?;
        self.transport().depth(&queue).await.map(QueueDepth::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service;

    #[service(queue = "numbers")]
    trait Numbers {
        async fn zero(&self) -> u64;
    }

    struct Zero;

    impl Numbers for Zero {
        async fn zero(&self) -> u64 {
            0
        }
    }

    #[tokio::test]
    async fn a_queue_in_process_has_as_many_consumers_as_servers() {
        let broker = Broker::in_process();
        assert_eq!(broker.queue_depth("numbers").await, None);
        let server = || Server::new(&broker).serve(NumbersServer::new(Zero)).start();
        let (one, other) = (server().await.unwrap(), server().await.unwrap());
        let depth = broker.queue_depth("numbers").await.unwrap();
        assert_eq!((depth.messages, depth.consumers), (0, 2));
        one.stop().await.unwrap();
        other.stop().await.unwrap();
        assert_eq!(broker.queue_depth("numbers").await.unwrap().consumers, 0);
    }
}
