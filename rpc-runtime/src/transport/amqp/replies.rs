//! Sending replies: those to direct reply-to addresses over a connection of their own.
//!
//! RabbitMQ decodes an Erlang process id out of a direct reply-to address, and closes the whole *connection* (541) of who
//! publishes to one that it cannot make sense of (seen with 3.10). The address is the caller's to choose, so one malformed
//! request would take all replies of a worker with it, come again, and do the same to the next worker. On a connection
//! of its own it costs no more than the direct replies under way at that moment, which are as mortal as their channels
//! anyway.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::Mutex;

use super::channel::{OpenChannel, Tasks};
use super::publisher::AmqpPublisher;
use super::{Address, OpenConnection, lost, within};
use crate::error::BrokerError;
use crate::protocol::DIRECT_REPLY_TO;
use crate::transport::{Outgoing, Published, Publisher};

/// Sends a worker's replies.
#[derive(Debug)]
pub(super) struct ReplyPublisher {
    pub(super) queues: Arc<dyn Publisher>,
    pub(super) direct: Arc<DirectReplies>,
}

#[async_trait]
impl Publisher for ReplyPublisher {
    async fn publish(&self, outgoing: Outgoing) -> Published {
        match outgoing.queue.as_str().starts_with(DIRECT_REPLY_TO) {
            true => self.direct.publish(outgoing).await,
            false => self.queues.publish(outgoing).await,
        }
    }
}

/// The connection for direct replies: made for the first of them, and again after it was lost.
#[derive(Debug)]
pub(super) struct DirectReplies {
    address: Address,
    limit: Duration,
    tasks: Tasks,
    link: Mutex<Option<Arc<Link>>>,
}

#[derive(Debug)]
struct Link {
    connection: OpenConnection,
    publisher: AmqpPublisher,
}

impl DirectReplies {
    pub(super) fn new(address: Address, limit: Duration, tasks: Tasks) -> Self {
        Self {
            address,
            limit,
            tasks,
            link: Mutex::new(None),
        }
    }

    /// Sends a reply. Where the connection is lost over it, the reply counts as refused: it may be the very one that the
    /// broker closed the connection for, and sent again it would do so again.
    async fn publish(&self, outgoing: Outgoing) -> Published {
        let link = match self.link().await {
            Ok(link) => link,
            Err(source) => {
                return Published::Failed {
                    source,
                    written: false,
                };
            }
        };
        match link.publisher.publish(outgoing).await {
            Published::Failed { source, .. } => {
                tracing::warn!(
                    error = &source as &dyn std::error::Error,
                    "lost the connection for direct replies"
                );
                self.forget(&link).await;
                Published::Refused
            }
            published => published,
        }
    }

    async fn link(&self) -> Result<Arc<Link>, BrokerError> {
        let mut current = self.link.lock().await;
        if let Some(link) = &*current
            && link.connection.is_open()
        {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(self.connect().await?);
        *current = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn connect(&self) -> Result<Link, BrokerError> {
        let connection = OpenConnection(self.address.connect("rpc direct replies", self.limit).await?);
        let opening = async {
            let channel = connection.0.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let channel = within(self.limit, "opening a channel", opening)
            .await?
            .map_err(lost)?;
        let publisher = AmqpPublisher::start(Arc::new(OpenChannel::new(channel, &self.tasks)), &self.tasks);
        Ok(Link {
            connection,
            publisher,
        })
    }

    async fn forget(&self, link: &Arc<Link>) {
        let mut current = self.link.lock().await;
        if current.as_ref().is_some_and(|other| Arc::ptr_eq(other, link)) {
            *current = None;
        }
    }

    pub(super) async fn close(&self) {
        if let Some(link) = self.link.lock().await.take() {
            link.connection.close().await;
        }
    }
}
