//! A handle on a broker.

use std::fmt;
use std::sync::Arc;

use super::limits::Limits;

use crate::client::Caller;
use crate::transport::Transport;
use crate::transport::{Status, StatusChanges};

/// A handle on a broker. Clients and servers are made from it. Cheap to clone.
///
/// # Connections
///
/// A handle has two connections to RabbitMQ. One publishes and one consumes, so that replies still
/// arrive if an alarm makes the broker stop reading what is published. Replies by direct reply-to
/// arrive on the one that publishes. A third one is opened once a server on the handle replies to a
/// direct reply-to address. A queue that makes the broker close a connection, or that does not
/// answer, may get a connection of its own. All clients of a handle and its clones share one
/// reply queue with one consumer, which the first call opens. Each broadcast with answers, and each
/// discovery, has a queue for its answers.
///
/// # Runtime
///
/// A handle belongs to the tokio runtime in which it was made. All of its tasks run there,
/// including those of its servers and their methods. It can be used from other runtimes. If its own
/// runtime ends, its [`status`](Self::status) becomes [`Status::RuntimeEnded`], and all operations
/// fail with [`BrokerError::RuntimeEnded`](crate::BrokerError::RuntimeEnded). A handle on an
/// in-process broker may be made outside of a runtime: then it belongs to the runtime that first
/// uses it.
///
/// ```no_run
/// # async fn example() -> Result<(), rpc_runtime::BrokerError> {
/// use rpc_runtime::Broker;
///
/// let broker = Broker::connect("amqp://localhost").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    caller: Arc<Caller>,
    limits: Limits,
}

impl Broker {
    pub(super) fn new(transport: Arc<dyn Transport>, caller: Arc<Caller>, limits: Limits) -> Self {
        let inner = Inner {
            transport,
            caller,
            limits,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.inner.limits
    }

    /// The current state of the connections.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.transport.status().status()
    }

    /// The state of the connections, and each change from now on.
    ///
    /// ```no_run
    /// # async fn example(broker: rpc_runtime::Broker) {
    /// let mut changes = broker.status_changes();
    /// while let Some(status) = changes.next().await {
    ///     println!("{status}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn status_changes(&self) -> StatusChanges {
        self.inner.transport.status().changes()
    }

    /// Closes the handle and all its clones. Calls in flight fail with
    /// [`BrokerError::Closed`](crate::BrokerError::Closed), servers end, the reply queue is
    /// deleted, and the connections are closed. Stop servers first.
    ///
    /// Takes at most 20 seconds, and only a moment if the broker answers. A handle that is not
    /// closed closes its connections in the background once the last of its clones, clients, calls
    /// and servers is dropped.
    pub async fn close(&self) {
        // The caller first: it deletes its reply queue, which needs a connection.
        self.inner.caller.close().await;
        self.inner.transport.close().await;
    }

    pub(crate) fn caller(&self) -> &Arc<Caller> {
        &self.inner.caller
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.inner.transport
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
