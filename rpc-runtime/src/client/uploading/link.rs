//! How the items of a call reach its method: through a broker, or within this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{BoxFuture, ready};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::item_sender::ItemMessage;
use crate::codec::Codec;
use crate::error::BrokerError;
use crate::protocol::{COPY_HEADER, ITEMS_HEADER, ITEMS_TYPE, Items, Message, Properties, ShortStr};
use crate::service::IncomingInbox;
use crate::transport::{Outgoing, Published, Publisher, Transport};

/// Carries the items of one call to its method.
pub(in crate::client) trait ItemLink: Send + Sync + 'static {
    /// Sends a message to the worker with this routing key. Without a broker, the key has no
    /// meaning.
    fn send(&self, worker: &ShortStr, message: ItemMessage) -> BoxFuture<'static, Published>;

    /// Gives the call a channel of its own, so that messages of other calls, for which the broker
    /// closes the channel, do not disturb it. Does nothing without a broker.
    fn separate(&mut self) {}
}

/// Publishes the items of all calls of one broker handle, or those of one call that was
/// [separated](ItemLink::separate). The first message opens the publisher.
#[derive(Debug, Default)]
pub(in crate::client) struct ItemPublisher {
    current: Mutex<Option<Arc<dyn Publisher>>>,
    /// How many messages were made, to give each a different token.
    messages: AtomicU64,
}

impl ItemPublisher {
    /// Publishes a message. If that fails, the next message opens another publisher.
    async fn publish(&self, transport: &Arc<dyn Transport>, outgoing: Outgoing) -> Published {
        let publisher = match self.get_or_open(transport).await {
            Ok(publisher) => publisher,
            Err(source) => {
                let written = false;
                return Published::Failed { source, written };
            }
        };
        let published = publisher.publish(outgoing).await;
        if published.is_failed() {
            let mut current = self.current.lock().await;
            // Another message may have opened a new one meanwhile.
            current.take_if(|current| Arc::ptr_eq(current, &publisher));
        }
        published
    }

    /// Returns the publisher. If there is none, waits for a connection and opens one.
    async fn get_or_open(&self, transport: &Arc<dyn Transport>) -> Result<Arc<dyn Publisher>, BrokerError> {
        let mut publisher = self.current.lock().await;
        let publisher = match &mut *publisher {
            Some(publisher) => publisher,
            none => none.insert(transport.open_control_publisher().await?),
        };
        Ok(Arc::clone(publisher))
    }
}

/// Sends items through the control exchange.
pub(in crate::client) struct BrokerLink {
    pub(in crate::client) transport: Arc<dyn Transport>,
    pub(in crate::client) publisher: Arc<ItemPublisher>,
    /// The correlation id of the call.
    pub(in crate::client) id: Uuid,
    pub(in crate::client) codec: Codec,
}

impl BrokerLink {
    /// Builds the message to the control exchange.
    fn outgoing(&self, worker: &ShortStr, message: ItemMessage) -> Outgoing {
        let ItemMessage {
            first,
            items,
            credit,
            end,
        } = message;
        let mut properties = Properties {
            kind: Some(ShortStr::from_static(ITEMS_TYPE)),
            content_type: Some(ShortStr::from_static(self.codec.content_type())),
            correlation_id: Some(ShortStr::from_uuid(self.id)),
            ..Properties::default()
        };
        if let Some(count) = end {
            let name = ShortStr::from_static(ITEMS_HEADER);
            properties.headers.insert(name, count.to_string());
        }
        // The messages of a call have the same id. This token tells the transport which of them the
        // broker returns.
        let token = self.publisher.messages.fetch_add(1, Ordering::Relaxed);
        let name = ShortStr::from_static(COPY_HEADER);
        properties.headers.insert(name, token.to_string());
        Outgoing {
            queue: worker.clone(),
            mandatory: true,
            message: Message {
                properties,
                body: items.write(first, credit),
            },
            send_token: None,
        }
    }
}

impl ItemLink for BrokerLink {
    fn send(&self, worker: &ShortStr, message: ItemMessage) -> BoxFuture<'static, Published> {
        let outgoing = self.outgoing(worker, message);
        let (publisher, transport) = (Arc::clone(&self.publisher), Arc::clone(&self.transport));
        Box::pin(async move { publisher.publish(&transport, outgoing).await })
    }

    fn separate(&mut self) {
        self.publisher = Arc::default();
    }
}

/// Hands items to a method in this process.
pub(in crate::client) struct InProcessLink(pub(in crate::client) Arc<IncomingInbox>);

impl ItemLink for InProcessLink {
    fn send(&self, _: &ShortStr, message: ItemMessage) -> BoxFuture<'static, Published> {
        let size = message.items.encoded_len();
        let items = Items {
            first: message.first,
            items: message.items.finish(),
            credit: message.credit,
        };
        self.0.receive(items, message.end, size);
        Box::pin(ready(Published::Confirmed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ItemWriter, Volume};
    use crate::transport::memory::{InProcessBroker, MemoryTransport};

    /// The transport tells returned messages apart by it.
    #[tokio::test]
    async fn each_message_has_another_token() {
        let publisher = Arc::<ItemPublisher>::default();
        let link = |id| BrokerLink {
            transport: Arc::new(MemoryTransport::new(&InProcessBroker::new())),
            publisher: Arc::clone(&publisher),
            id,
            codec: Codec::Json,
        };
        let links = [link(Uuid::new_v4()), link(Uuid::new_v4())];
        let tokens = links.iter().chain(&links).map(|link| {
            let message = ItemMessage {
                first: 0,
                items: ItemWriter::default(),
                credit: Volume::MAX,
                end: None,
            };
            let outgoing = link.outgoing(&ShortStr::from_static("w.items"), message);
            outgoing
                .message
                .properties
                .headers
                .get(COPY_HEADER)
                .map(str::to_owned)
        });
        let tokens: std::collections::HashSet<_> = tokens.map(Option::unwrap).collect();
        assert_eq!(tokens.len(), 4);
    }
}
