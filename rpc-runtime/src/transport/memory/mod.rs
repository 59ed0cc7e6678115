//! The in-process broker as a transport: for tests, examples, and programs that hold caller and worker at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[cfg(test)]
pub(crate) mod faults;
mod hub;
mod queue;
mod road;
mod wire;

use super::{
    Control, Delivery, Depth, Outgoing, Published, Publisher, Receipt, ReplyLink, Subscription, Transport,
};
use crate::error::BrokerError;
use crate::protocol::{DIRECT_REPLY_TO, Message, REPLY_QUEUE_PREFIX, ShortStr};
use crate::transport::topology::{Broadcasts, Declare, ReplyQueue, RequestQueue};
use crate::transport::{Connectivity, StatusBoard, watch_runtime};
use hub::{ConsumerId, Hub, Settling};
use wire::{Session, Wire};

/// A broker within this process, with RabbitMQ's semantics: named queues, competing consumers, prefetch, settling and
/// redelivery, expiration, priorities, dead letters, and the return of what no queue takes. Of queue arguments it knows those of
/// [`quorum`](crate::RequestQueue::quorum), [`delivery_limit`](crate::RequestQueue::delivery_limit),
/// [`dead_letter_to`](crate::RequestQueue::dead_letter_to) and [`priorities`](crate::RequestQueue::priorities), and refuses
/// others. What expires is dead-lettered when its queue is next used. Nothing outlives the process.
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

impl std::fmt::Debug for InProcessBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcessBroker").finish_non_exhaustive()
    }
}

/// One handle's access to an in-process broker.
#[derive(Debug)]
pub(crate) struct MemoryTransport {
    broker: InProcessBroker,
    publishing: Wire,
    consuming: Wire,
    board: Arc<StatusBoard>,
    /// The reply queues of this handle: they end with it.
    private: Mutex<Vec<String>>,
    /// The one that the handle was made in; where that was outside of any, the one that used it first.
    runtime: OnceLock<Handle>,
    ended: CancellationToken,
}

impl MemoryTransport {
    /// The user that every handle is, as RabbitMQ's default one.
    pub(crate) const USER: &str = "guest";

    pub(crate) fn new(broker: &InProcessBroker) -> Self {
        Self::over(broker, Wire::new(), Wire::new())
    }

    fn over(broker: &InProcessBroker, publishing: Wire, consuming: Wire) -> Self {
        let transport = Self {
            broker: broker.clone(),
            publishing,
            consuming,
            board: Arc::new(StatusBoard::new(&Connectivity::Up)),
            private: Mutex::default(),
            runtime: OnceLock::new(),
            ended: CancellationToken::new(),
        };
        if let Ok(runtime) = Handle::try_current() {
            transport.adopt(runtime);
        }
        transport
    }

    /// Makes this the handle's runtime, unless it has one.
    fn adopt(&self, runtime: Handle) -> Handle {
        let adopted = self.runtime.get_or_init(|| {
            watch_runtime(&runtime, Arc::downgrade(&self.board), self.ended.clone());
            runtime
        });
        adopted.clone()
    }

    /// The connection, once it is there.
    ///
    /// # Errors
    ///
    /// Where the handle has ended, or the connection was lost while something was opened on it.
    async fn ready(&self, wire: &Wire) -> Result<Session, BrokerError> {
        match self.board.over() {
            Some(over) => Err(over),
            None => wire.ready().await,
        }
    }

    fn subscribe(
        &self,
        wire: &Wire,
        session: &Session,
        queue: &str,
        settling: Settling,
        private: bool,
    ) -> Result<Subscription, BrokerError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let consumer = self
            .broker
            .hub()
            .consume(queue, settling, sender, Instant::now())?;
        wire.keep(consumer.clone(), &self.broker);
        let control = MemoryControl {
            broker: self.broker.clone(),
            session: session.clone(),
            consumer,
            private: private.then(|| queue.to_owned()),
        };
        Ok(Subscription {
            deliveries: deliveries(receiver, session.clone()).boxed(),
            control: Arc::new(control),
        })
    }

    fn publisher(&self, session: Session, direct: Option<ShortStr>) -> Arc<dyn Publisher> {
        Arc::new(MemoryPublisher {
            broker: self.broker.clone(),
            session,
            direct,
        })
    }

    /// Makes a reply queue of its own, to end with the handle; with its consumer, unless it `lives_on`.
    fn declare_private(&self, prefix: &str, lives_on: bool) -> Result<(String, ShortStr), BrokerError> {
        let queue = format!("{prefix}{}", Uuid::new_v4());
        let address = ShortStr::new(&queue).map_err(|_| BrokerError::Unsendable {
            reason: "the queue's name",
        })?;
        {
            let (mut private, mut hub) = (self.private(), self.broker.hub());
            match lives_on {
                true => hub.declare_private(&queue),
                false => hub.declare_exclusive(&queue),
            }
            // Those that ended before the handle need not be known any more.
            private.retain(|earlier| hub.depth(earlier).is_some());
            private.push(queue.clone());
        }
        Ok((queue, address))
    }

    fn private(&self) -> MutexGuard<'_, Vec<String>> {
        // A list of names is whole at every moment.
        self.private.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.board.close();
        self.ended.cancel();
        self.publishing.close(&self.broker);
        self.consuming.close(&self.broker);
        for queue in self.private().drain(..) {
            self.broker.hub().delete(&queue);
        }
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.end();
    }
}

/// What arrives, until the consumer is cancelled or the connection is over.
fn deliveries(
    receiver: mpsc::UnboundedReceiver<Delivery>,
    session: Session,
) -> impl Stream<Item = Result<Delivery, BrokerError>> {
    stream::unfold(Some((receiver, session)), async |open| {
        let (mut receiver, session) = open?;
        tokio::select! {
            biased;
            reason = session.lost() => Some((Err(reason), None)),
            delivery = receiver.recv() => {
                let delivery = delivery?;
                let arrived = session.arrive().await;
                match arrived {
                    Ok(()) => Some((Ok(delivery), Some((receiver, session)))),
                    Err(reason) => Some((Err(reason), None)),
                }
            }
        }
    })
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn is_there(&self, _: &ShortStr) -> Option<bool> {
        // Calls ask this of a queue that refuses requests, and none does here.
        None
    }

    async fn depth(&self, queue: &ShortStr) -> Option<Depth> {
        let session = self.ready(&self.consuming).await.ok()?;
        let (broker, queue) = (self.broker.clone(), queue.clone());
        let asking = session.ask(move || broker.hub().depth(queue.as_str()));
        Some(Depth {
            messages: asking.await.ok()??,
            // Who asks consumes from it.
            consumers: 1,
        })
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        let session = self.ready(&self.publishing).await?;
        Ok(self.publisher(session, None))
    }

    async fn open_replies(
        &self,
        replies: ReplyQueue,
        earlier: Option<&ShortStr>,
    ) -> Result<ReplyLink, BrokerError> {
        let (wire, settling) = match replies {
            ReplyQueue::Resumable => (&self.consuming, Settling::Unlimited),
            ReplyQueue::Exclusive => (&self.consuming, Settling::None),
            ReplyQueue::Direct => (&self.publishing, Settling::None),
        };
        let session = self.ready(wire).await?;
        let found = earlier.filter(|_| replies == ReplyQueue::Resumable);
        let found = found.and_then(|name| Some((name, self.broker.hub().depth(name.as_str())?)));
        let (queue, address, resumed) = match (replies, found) {
            (_, Some((name, waiting))) => (name.to_string(), name.clone(), Some(waiting)),
            (ReplyQueue::Resumable, None) => {
                let (queue, address) = self.declare_private(REPLY_QUEUE_PREFIX, true)?;
                (queue, address, None)
            }
            (ReplyQueue::Exclusive, None) => {
                let (queue, address) = self.declare_private("amq.gen-", false)?;
                (queue, address, None)
            }
            (ReplyQueue::Direct, None) => {
                let (queue, address) = self.declare_private(&format!("{DIRECT_REPLY_TO}."), false)?;
                (queue, address, None)
            }
        };
        let replies_come_in = self.subscribe(wire, &session, &queue, settling, true)?;
        let is_direct = replies == ReplyQueue::Direct;
        Ok(ReplyLink {
            publisher: is_direct.then(|| self.publisher(session, Some(address.clone()))),
            address: match is_direct {
                true => ShortStr::from_static(DIRECT_REPLY_TO),
                false => address,
            },
            replies: replies_come_in,
            resumed,
        })
    }

    async fn declare_requests(&self, queue: &RequestQueue) -> Result<(), BrokerError> {
        match queue.declare() {
            Declare::Active => self.broker.hub().declare(queue.name(), queue.properties()),
            Declare::Passive => self.broker.hub().find(queue.name()),
            Declare::No => Ok(()),
        }
    }

    async fn open_requests(&self, queue: &RequestQueue, prefetch: u16) -> Result<Subscription, BrokerError> {
        let session = self.ready(&self.consuming).await?;
        match queue.declare() {
            Declare::Active => self.broker.hub().declare(queue.name(), queue.properties())?,
            Declare::Passive => self.broker.hub().find(queue.name())?,
            Declare::No => {}
        }
        let settling = Settling::Prefetch(prefetch.into());
        let subscription = self.subscribe(&self.consuming, &session, queue.name(), settling, false)?;
        // The broker delivers before this side knows that it consumes.
        session.arrive().await?;
        Ok(subscription)
    }

    async fn retire_requests(&self, queue: &RequestQueue) -> bool {
        queue.declare() == Declare::Active && self.broker.hub().delete_unused(queue.name())
    }

    async fn open_broadcasts(&self, broadcasts: &Broadcasts) -> Result<Subscription, BrokerError> {
        let session = self.ready(&self.consuming).await?;
        let queue = format!("{}.{}", broadcasts.exchange, Uuid::new_v4());
        self.broker.hub().declare_listening(&queue, broadcasts);
        let settling = Settling::Prefetch(broadcasts.prefetch.into());
        let subscription = self.subscribe(&self.consuming, &session, &queue, settling, false)?;
        session.arrive().await?;
        Ok(subscription)
    }

    async fn broadcast(&self, exchange: &str, message: Message) -> Result<Published, BrokerError> {
        let session = self.ready(&self.publishing).await?;
        session.unblocked().await?;
        let (broker, exchange) = (self.broker.clone(), exchange.to_owned());
        let sending = session.ask(move || broker.hub().broadcast(&exchange, &message, Instant::now()));
        match sending.await? {
            true => Ok(Published::Routed),
            false => Ok(Published::Returned),
        }
    }

    fn status(&self) -> &Arc<StatusBoard> {
        &self.board
    }

    fn runtime(&self) -> Handle {
        match self.runtime.get() {
            Some(runtime) => runtime.clone(),
            None => self.adopt(Handle::current()),
        }
    }

    async fn close(&self) {
        self.end();
    }
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct MemoryPublisher {
    broker: InProcessBroker,
    session: Session,
    /// What replaces the pseudo-address of direct reply-to, as RabbitMQ replaces it.
    direct: Option<ShortStr>,
}

impl MemoryPublisher {
    /// What the broker does with a message; answers whether there is a queue for it.
    fn deliver(&self, queue: &ShortStr, mut message: Message) -> impl FnOnce() -> bool + Send + use<> {
        let properties = &mut message.properties;
        if properties
            .reply_to
            .as_ref()
            .is_some_and(|address| address.as_str() == DIRECT_REPLY_TO)
        {
            properties.reply_to.clone_from(&self.direct);
        }
        let (broker, queue) = (self.broker.clone(), queue.clone());
        move || broker.hub().publish(queue.as_str(), message, Instant::now())
    }

    fn word(has_queue: bool, mandatory: bool) -> Published {
        match has_queue || !mandatory {
            true => Published::Routed,
            false => Published::Returned,
        }
    }
}

#[async_trait]
impl Publisher for MemoryPublisher {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        receipt: Arc<dyn Receipt>,
        _in_a_row: usize,
    ) -> Result<(), Box<Outgoing>> {
        if !self.session.is_free() {
            return Err(Box::new(outgoing));
        }
        #[cfg(test)]
        if self.session.road().is_some() {
            let publisher = self.clone();
            tokio::spawn(async move { receipt.published(publisher.publish(outgoing).await) });
            return Ok(());
        }
        let Outgoing {
            queue,
            mandatory,
            message,
            departure,
        } = outgoing;
        receipt.published(match departure.leave() {
            true => Self::word(self.deliver(&queue, message)(), mandatory),
            false => Published::Withdrawn,
        });
        Ok(())
    }

    async fn ready(&self) {
        // It is lost, which who publishes then hears of.
        let _ = self.session.unblocked().await;
    }

    async fn publish(&self, outgoing: Outgoing) -> Published {
        let Outgoing {
            queue,
            mandatory,
            message,
            departure,
        } = outgoing;
        let failed = |source, written| Published::Failed { source, written };
        if let Err(source) = self.session.unblocked().await {
            return failed(source, false);
        }
        if !departure.leave() {
            return Published::Withdrawn;
        }
        match self.session.ask(self.deliver(&queue, message)).await {
            Ok(has_queue) => Self::word(has_queue, mandatory),
            Err(source) => failed(source, true),
        }
    }

    async fn closed(&self) -> BrokerError {
        self.session.lost().await
    }
}

#[derive(Debug)]
struct MemoryControl {
    broker: InProcessBroker,
    session: Session,
    consumer: ConsumerId,
    /// The private queue that ends with its last subscription.
    private: Option<String>,
}

impl MemoryControl {
    /// What the broker does, unless the connection is over.
    fn with_hub(&self, act: impl FnOnce(&mut Hub, &ConsumerId) + Send + 'static) -> Result<(), BrokerError> {
        let (broker, consumer) = (self.broker.clone(), self.consumer.clone());
        match self.session.over() {
            Some(reason) => Err(reason),
            None => {
                self.session.tell(move || act(&mut broker.hub(), &consumer));
                Ok(())
            }
        }
    }

    /// Takes the consumer away, which with a connection that is over the broker does by itself.
    fn end(&self) {
        let _ = self.with_hub(|hub, consumer| hub.close(consumer, Instant::now()));
    }
}

#[async_trait]
impl Control for MemoryControl {
    fn settle(&self, tag: u64) {
        // Where the connection is over, it comes again.
        let _ = self.with_hub(move |hub, consumer| hub.settle(consumer, tag, Instant::now()));
    }

    fn reject(&self, tag: u64) {
        let _ = self.with_hub(move |hub, consumer| hub.reject(consumer, tag, Instant::now()));
    }

    fn settle_up_to(&self, tag: u64) {
        let _ = self.with_hub(move |hub, consumer| hub.settle_up_to(consumer, tag, Instant::now()));
    }

    async fn cancel(&self) -> Result<(), BrokerError> {
        self.with_hub(Hub::cancel)
    }

    async fn close(&self) {
        self.end();
    }

    async fn retire(&self) {
        self.close().await;
        if let Some(queue) = &self.private {
            self.broker.hub().delete(queue);
        }
    }
}

impl Drop for MemoryControl {
    fn drop(&mut self) {
        self.end();
    }
}
