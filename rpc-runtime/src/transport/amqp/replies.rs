//! Sending replies: those to direct reply-to addresses over a connection of their own.
//!
//! RabbitMQ decodes an Erlang process id out of a direct reply-to address, and closes the whole *connection* (541) of who
//! publishes to one that it cannot make sense of (seen with 3.10). The address is the caller's to choose, so one malformed
//! request would take all replies of a worker with it, come again, and do the same to the next worker. On a connection
//! of their own, the direct replies under way at that moment are sent once more, each alone.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::channel::Tasks;
use super::connection::OpenConnection;
use super::opening::Opening;
use super::publisher::AmqpPublisher;
use super::supervised::Target;
use crate::error::BrokerError;
use crate::protocol::DIRECT_REPLY_TO;
use crate::transport::{Outgoing, Published, Publisher};

/// Sends messages: those to direct reply-to addresses over a connection of their own, all others through one channel.
#[derive(Debug)]
pub(super) struct ReplyPublisher {
    pub(super) queues: AmqpPublisher,
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

    async fn closed(&self) -> BrokerError {
        self.queues.closed().await
    }
}

/// The connection for direct replies: made for the first of them, and again after it was lost.
#[derive(Debug)]
pub(super) struct DirectReplies {
    target: Target,
    tasks: Tasks,
    shared: Mutex<Option<Arc<DirectLink>>>,
    /// Held while a reply that may be poisonous is tried alone.
    quarantine: Mutex<()>,
}

#[derive(Debug)]
struct DirectLink {
    connection: Arc<OpenConnection>,
    publisher: AmqpPublisher,
}

impl DirectReplies {
    pub(super) fn new(target: Target, tasks: Tasks) -> Self {
        Self {
            target,
            tasks,
            shared: Mutex::new(None),
            quarantine: Mutex::new(()),
        }
    }

    /// Sends a reply. Where the connection is lost over it, it is tried once more, alone on a connection of its own; where
    /// that is lost too, the reply itself is what the broker does not take, and a refused reply never stops the worker.
    ///
    /// It fails only where no connection can be made, which is not the reply's fault.
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
        let published = link.publisher.publish(outgoing.clone()).await;
        let Published::Failed { .. } = published else {
            return published;
        };
        self.forget(&link).await;

        let _alone = self.quarantine.lock().await;
        let link = match self.connect().await {
            Ok(link) => link,
            Err(source) => {
                return Published::Failed {
                    source,
                    written: true,
                };
            }
        };
        let published = link.publisher.publish(outgoing).await;
        link.connection.close().await;
        match published {
            Published::Failed { source, .. } => refused(&source),
            published => published,
        }
    }

    async fn link(&self) -> Result<Arc<DirectLink>, BrokerError> {
        let mut shared = self.shared.lock().await;
        if let Some(link) = &*shared
            && link.connection.is_open()
        {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(self.connect().await?);
        *shared = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn connect(&self) -> Result<DirectLink, BrokerError> {
        let connection = Arc::new(self.target.connect("rpc direct replies").await?);
        let watched = Arc::clone(&connection);
        let ending = self.tasks.ending.clone();
        self.tasks.tracker.spawn(async move {
            ending.run_until_cancelled(watched.watch(|_| {})).await;
        });
        let opening = Opening {
            connection: &connection,
            limit: self.target.limit,
            tasks: &self.tasks,
        };
        let channel = opening.channel().await?;
        let publisher = opening.publisher(channel).await?;
        Ok(DirectLink {
            connection,
            publisher,
        })
    }

    async fn forget(&self, link: &Arc<DirectLink>) {
        let mut shared = self.shared.lock().await;
        if shared.as_ref().is_some_and(|other| Arc::ptr_eq(other, link)) {
            *shared = None;
        }
    }

    pub(super) async fn close(&self) {
        if let Some(link) = self.shared.lock().await.take() {
            link.connection.close().await;
        }
    }
}

fn refused(error: &BrokerError) -> Published {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "a direct reply could not be sent"
    );
    Published::Refused
}
