//! The in-process broker as a transport: for tests, examples, and programs that hold caller and worker at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

mod hub;
mod queue;

use super::{
    CallerLink, Control, Delivery, Outgoing, Published, Publisher, Subscription, Transport, WorkerLink,
};
use crate::error::BrokerError;
use crate::protocol::{DIRECT_REPLY_TO, REPLY_QUEUE_PREFIX, ShortStr};
use crate::transport::topology::{Declare, ReplyQueue, RequestQueue};
use hub::{ConsumerId, Hub, Settling};

/// A broker within this process, with RabbitMQ's semantics: named queues, competing consumers, prefetch, settling and
/// redelivery, expiration, priorities, and the return of what no queue takes. Of queue arguments it knows the queue type (a
/// quorum queue is like any other here) and the priorities, and refuses others. Nothing outlives the process.
///
/// [`Broker::in_process`](crate::Broker::in_process) makes one with a single handle. To have callers and workers that share
/// nothing but the broker, make one here and connect several times:
///
/// ```
/// use rpc_runtime::InProcessBroker;
///
/// # fn main() -> Result<(), rpc_runtime::BrokerError> {
/// let broker = InProcessBroker::new();
/// let worker = broker.connect();
/// let caller = broker.connect();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct InProcessBroker {
    hub: Arc<Mutex<Hub>>,
}

impl InProcessBroker {
    /// A broker without queues.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        // Each operation leaves the hub whole, so a panic elsewhere has broken nothing behind the lock.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deliveries(
    receiver: mpsc::UnboundedReceiver<Delivery>,
) -> impl stream::Stream<Item = Result<Delivery, BrokerError>> {
    stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|delivery| (Ok(delivery), receiver))
    })
}

impl std::fmt::Debug for InProcessBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcessBroker").finish_non_exhaustive()
    }
}

/// One handle's access to an in-process broker.
#[derive(Debug)]
pub(crate) struct MemoryTransport {
    broker: InProcessBroker,
    closed: CancellationToken,
}

impl MemoryTransport {
    /// The user that every handle is, as RabbitMQ's default one.
    pub(crate) const USER: &str = "guest";

    pub(crate) fn new(broker: &InProcessBroker) -> Self {
        Self {
            broker: broker.clone(),
            closed: CancellationToken::new(),
        }
    }

    fn ensure_open(&self) -> Result<(), BrokerError> {
        match self.closed.is_cancelled() {
            true => Err(BrokerError::Closed),
            false => Ok(()),
        }
    }

    fn subscribe(
        &self,
        queue: &str,
        settling: Settling,
        delete_on_close: bool,
    ) -> Result<Subscription, BrokerError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let consumer = self
            .broker
            .hub()
            .consume(queue, settling, sender, Instant::now())?;
        let queue = delete_on_close.then(|| queue.to_owned());
        let control = MemoryControl {
            broker: self.broker.clone(),
            consumer,
            queue,
        };
        let closed = self.closed.clone();
        let last_word =
            stream::once(async move { closed.is_cancelled().then_some(Err(BrokerError::Closed)) });
        let deliveries = deliveries(receiver)
            .take_until(self.closed.clone().cancelled_owned())
            .chain(last_word.filter_map(std::future::ready));
        Ok(Subscription {
            deliveries: deliveries.boxed(),
            control: Arc::new(control),
        })
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn open_caller(&self, replies: ReplyQueue) -> Result<CallerLink, BrokerError> {
        self.ensure_open()?;
        let id = Uuid::new_v4();
        let (queue, settling) = match replies {
            ReplyQueue::Resumable => (format!("{REPLY_QUEUE_PREFIX}{id}"), Settling::Unlimited),
            ReplyQueue::Exclusive => (format!("amq.gen-{id}"), Settling::None),
            ReplyQueue::Direct => (format!("{DIRECT_REPLY_TO}.{id}"), Settling::None),
        };
        self.broker.hub().declare_private(&queue);
        let subscription = self.subscribe(&queue, settling, true)?;
        let address = ShortStr::new(&queue).map_err(|_| BrokerError::Unsendable {
            reason: "the queue's name",
        })?;
        let (reply_to, direct) = match replies {
            ReplyQueue::Direct => (ShortStr::from_static(DIRECT_REPLY_TO), Some(address)),
            ReplyQueue::Resumable | ReplyQueue::Exclusive => (address, None),
        };
        let publisher = Arc::new(MemoryPublisher {
            broker: self.broker.clone(),
            closed: self.closed.clone(),
            direct,
        });
        Ok(CallerLink {
            reply_to,
            publisher,
            replies: subscription,
        })
    }

    async fn open_worker(&self, queues: &[RequestQueue], prefetch: u16) -> Result<WorkerLink, BrokerError> {
        self.ensure_open()?;
        for queue in queues {
            match queue.declare() {
                Declare::Active => self.broker.hub().declare(queue.name(), queue.properties())?,
                Declare::Passive => self.broker.hub().find(queue.name())?,
                Declare::No => {}
            }
        }
        let requests = queues
            .iter()
            .map(|queue| self.subscribe(queue.name(), Settling::Prefetch(prefetch.into()), false))
            .collect::<Result<_, _>>()?;
        let publisher = Arc::new(MemoryPublisher {
            broker: self.broker.clone(),
            closed: self.closed.clone(),
            direct: None,
        });
        Ok(WorkerLink { requests, publisher })
    }

    async fn close(&self) {
        self.closed.cancel();
    }
}

#[derive(Debug)]
struct MemoryPublisher {
    broker: InProcessBroker,
    closed: CancellationToken,
    /// What replaces the pseudo-address of direct reply-to, as RabbitMQ replaces it.
    direct: Option<ShortStr>,
}

#[async_trait]
impl Publisher for MemoryPublisher {
    async fn publish(&self, outgoing: Outgoing) -> Published {
        let Outgoing {
            queue,
            mandatory,
            mut message,
            departure,
        } = outgoing;
        if self.closed.is_cancelled() || !departure.leave() {
            return Published::Failed {
                source: BrokerError::Closed,
                written: false,
            };
        }
        if message
            .properties
            .reply_to
            .as_ref()
            .is_some_and(|address| address.as_str() == DIRECT_REPLY_TO)
        {
            message.properties.reply_to.clone_from(&self.direct);
        }
        match self.broker.hub().publish(queue.as_str(), message, Instant::now()) {
            true => Published::Routed,
            false if mandatory => Published::Returned,
            false => Published::Routed,
        }
    }

    async fn closed(&self) -> BrokerError {
        self.closed.cancelled().await;
        BrokerError::Closed
    }
}

#[derive(Debug)]
struct MemoryControl {
    broker: InProcessBroker,
    consumer: ConsumerId,
    /// The private queue that ends with the subscription.
    queue: Option<String>,
}

#[async_trait]
impl Control for MemoryControl {
    async fn settle(&self, tag: u64) -> Result<(), BrokerError> {
        self.broker.hub().settle(&self.consumer, tag, Instant::now());
        Ok(())
    }

    async fn settle_up_to(&self, tag: u64) -> Result<(), BrokerError> {
        self.broker
            .hub()
            .settle_up_to(&self.consumer, tag, Instant::now());
        Ok(())
    }

    async fn cancel(&self) -> Result<(), BrokerError> {
        self.broker.hub().cancel(&self.consumer);
        Ok(())
    }

    async fn close(&self) {
        self.end();
    }
}

impl MemoryControl {
    fn end(&self) {
        let mut hub = self.broker.hub();
        hub.close(&self.consumer, Instant::now());
        if let Some(queue) = &self.queue {
            hub.delete(queue);
        }
    }
}

impl Drop for MemoryControl {
    fn drop(&mut self) {
        self.end();
    }
}
