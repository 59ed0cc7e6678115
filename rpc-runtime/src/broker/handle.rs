//! A handle on a broker.

use std::fmt;
use std::sync::Arc;

use super::limits::Limits;

use crate::client::Caller;
use crate::transport::Transport;
use crate::transport::{Status, StatusChanges};

/// A handle on a broker: what clients are made from and servers run on. Cheap to clone.
///
/// A handle holds two connections to RabbitMQ, one that publishes and one that consumes, so that replies still arrive when
/// an alarm has the broker stop reading what is published; and a third once a server on it answers a caller that uses direct
/// reply-to. It belongs to the tokio runtime that it was made in: all of its tasks run there, those of its servers and their methods too, whoever starts
/// them. It can be used from other runtimes, and ends with its own: then its [`status`](Self::status) is [`Status::RuntimeEnded`], and whatever is
/// done with it fails with [`BrokerError::RuntimeEnded`]. A handle on an in-process broker that was made outside of any runtime belongs to the one
/// that uses it first. All clients made from it and its clones share one reply
/// queue with one consumer, which the first call opens.
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

    /// The state of the connections, as it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.transport.status().status()
    }

    /// The state of the connections, and each change of it from now on.
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

    /// Ends the handle and all its clones: calls in flight fail with [`BrokerError::Closed`], servers end, the reply queue is deleted, the connections are closed. Stop servers first.
    ///
    /// Takes at most 20 seconds, whatever the broker does, and a moment where it answers. Without it, the connections close once the last of the handle's
    /// clones, clients and servers is dropped, but nobody waits for that.
    pub async fn close(&self) {
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
