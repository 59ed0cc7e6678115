//! The in-process broker as a transport.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::broker::InProcessBroker;
use super::connection::{Connection, OpenConnection};
use super::queue::SentDelivery;
use super::queues::{AckMode, ConsumerId, Queues, Routing};
use crate::error::BrokerError;
use crate::protocol::{CONTROL_EXCHANGE, DIRECT_REPLY_TO, Message, REPLY_QUEUE_PREFIX, ShortStr};
use crate::transport::topology::{ControlQueue, DeclareMode, ReplyQueue, RequestQueue};
use crate::transport::{
    ANSWER_PREFETCH, ConfirmListener, Connectivity, Control, Delivery, Depth, Outgoing, Published, Publisher,
    ReplySubscription, SendToken, StatusBoard, Subscription, Transport, watch_runtime,
};

/// The access of one handle to an in-process broker.
#[derive(Debug)]
pub(crate) struct MemoryTransport {
    pub(super) broker: InProcessBroker,
    pub(super) publishing: Connection,
    pub(super) consuming: Connection,
    pub(super) board: Arc<StatusBoard>,
    /// The reply queues of this handle, in the order in which they were declared. They are deleted
    /// when the handle ends.
    reply_queues: Mutex<Vec<String>>,
    /// The runtime that the handle was made in, or else the first one in which it was used.
    runtime: OnceLock<Handle>,
    /// Cancelled when the handle ends.
    ended: CancellationToken,
}

impl MemoryTransport {
    /// The user of every handle: the same as RabbitMQ's default user.
    pub(crate) const USER: &str = "guest";

    pub(crate) fn new(broker: &InProcessBroker) -> Self {
        Self::with_connections(broker, Connection::new(), Connection::new())
    }

    /// Makes a handle with these connections. If this is called within a runtime, that becomes the
    /// handle's runtime.
    pub(super) fn with_connections(
        broker: &InProcessBroker,
        publishing: Connection,
        consuming: Connection,
    ) -> Self {
        let transport = Self {
            broker: broker.clone(),
            publishing,
            consuming,
            board: Arc::new(StatusBoard::new(&Connectivity::Up)),
            reply_queues: Mutex::default(),
            runtime: OnceLock::new(),
            ended: CancellationToken::new(),
        };
        if let Ok(runtime) = Handle::try_current() {
            transport.adopt(runtime);
        }
        transport
    }

    /// Makes this the handle's runtime, unless it has one. Returns the handle's runtime.
    fn adopt(&self, runtime: Handle) -> Handle {
        let adopted = self.runtime.get_or_init(|| {
            watch_runtime(&runtime, Arc::downgrade(&self.board), self.ended.clone());
            runtime
        });
        adopted.clone()
    }

    /// Waits until the connection is up, and for the simulated delay (tests only).
    ///
    /// # Errors
    ///
    /// Fails if the handle has ended, or the connection is lost meanwhile.
    async fn wait_ready(&self, connection: &Connection) -> Result<OpenConnection, BrokerError> {
        match self.board.end_reason() {
            Some(reason) => Err(reason),
            None => connection.wait_ready().await,
        }
    }

    /// Starts a consumer. It ends with `open`, which was opened on `connection`.
    fn subscribe(
        &self,
        connection: &Connection,
        open: &OpenConnection,
        queue: &str,
        ack_mode: AckMode,
        ownership: Ownership,
    ) -> Result<Subscription, BrokerError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let consumer = self
            .broker
            .queues()
            .consume(queue, ack_mode, sender, Instant::now())?;
        connection.add_consumer(open, &consumer, &self.broker)?;
        let control = MemoryControl {
            broker: self.broker.clone(),
            connection: open.clone(),
            consumer,
            private_queue: (ownership == Ownership::Private).then(|| queue.to_owned()),
        };
        Ok(Subscription {
            deliveries: deliveries(receiver, open.clone()).boxed(),
            control: Arc::new(control),
        })
    }

    /// Makes a publisher for the default exchange; see [`Exchange::Default`].
    fn publisher(&self, connection: OpenConnection, direct_address: Option<ShortStr>) -> Arc<dyn Publisher> {
        Arc::new(MemoryPublisher {
            broker: self.broker.clone(),
            connection,
            exchange: Exchange::Default { direct_address },
            runtime: self.runtime(),
        })
    }

    /// Declares a reply queue, which is deleted when the handle ends, or with its consumer if it is
    /// not resumable. Returns its name.
    fn declare_reply_queue(&self, kind: ReplyQueue) -> Result<ShortStr, BrokerError> {
        let id = Uuid::new_v4();
        let queue = match kind {
            ReplyQueue::Resumable => format!("{REPLY_QUEUE_PREFIX}{id}"),
            ReplyQueue::Exclusive => format!("amq.gen-{id}"),
            ReplyQueue::Direct => format!("{DIRECT_REPLY_TO}.{id}"),
        };
        let name = ShortStr::new(&queue).map_err(|_| BrokerError::Unsendable {
            reason: "the queue's name is longer than 255 bytes",
        })?;
        let (mut reply_queues, mut queues) = (self.lock_reply_queues(), self.broker.queues());
        match kind {
            ReplyQueue::Resumable => queues.declare_resumable(&queue),
            ReplyQueue::Exclusive | ReplyQueue::Direct => queues.declare_exclusive(&queue),
        }
        // Removes the names of queues that were deleted since.
        reply_queues.retain(|earlier| queues.depth(earlier).is_some());
        reply_queues.push(queue);
        Ok(name)
    }

    pub(super) fn lock_reply_queues(&self) -> MutexGuard<'_, Vec<String>> {
        // Each operation leaves the list consistent, so a panic elsewhere has broken nothing.
        self.reply_queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the handle: closes the connections for good, and deletes the reply queues.
    fn end(&self) {
        self.board.close();
        self.ended.cancel();
        self.publishing.close(&self.broker);
        self.consuming.close(&self.broker);
        for queue in self.lock_reply_queues().drain(..) {
            self.broker.queues().delete(&queue);
        }
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether [`Control::close_and_delete`] deletes the queue of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    /// It does: nobody else uses the queue.
    Private,
    /// It does not.
    Shared,
}

/// A stream of deliveries. It ends when the consumer is cancelled or its queue is deleted, and with
/// an error when the connection is lost or the handle is closed.
fn deliveries(
    receiver: mpsc::UnboundedReceiver<SentDelivery>,
    connection: OpenConnection,
) -> impl Stream<Item = Result<Delivery, BrokerError>> {
    stream::unfold(Some((receiver, connection)), async |open| {
        let (mut receiver, connection) = open?;
        tokio::select! {
            biased;
            reason = connection.wait_lost() => Some((Err(reason), None)),
            delivery = receiver.recv() => {
                let SentDelivery { delivery, sent_at } = delivery?;
                // Several deliveries may be on their way at once, so the delay counts from
                // `sent_at`, not from the arrival of the delivery before.
                let arrived = connection.delay_from_broker(sent_at).await;
                match arrived {
                    Ok(()) => Some((Ok(delivery), Some((receiver, connection)))),
                    Err(reason) => Some((Err(reason), None)),
                }
            }
        }
    })
    .fuse()
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn queue_exists(&self, _: &ShortStr) -> Option<bool> {
        // Calls need this only for a queue that nacks requests, and no request queue of this broker
        // does.
        None
    }

    async fn depth(&self, queue: &ShortStr) -> Option<Depth> {
        let connection = self.wait_ready(&self.consuming).await.ok()?;
        let (broker, queue) = (self.broker.clone(), queue.clone());
        let asking = connection.ask(move || broker.queues().depth(queue.as_str()));
        asking.await.ok()?
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        let connection = self.wait_ready(&self.publishing).await?;
        Ok(self.publisher(connection, None))
    }

    async fn open_replies(
        &self,
        replies: ReplyQueue,
        earlier: Option<&ShortStr>,
    ) -> Result<ReplySubscription, BrokerError> {
        let (connection, ack_mode) = match replies {
            ReplyQueue::Resumable => (&self.consuming, AckMode::Unlimited),
            ReplyQueue::Exclusive => (&self.consuming, AckMode::Automatic),
            ReplyQueue::Direct => (&self.publishing, AckMode::Automatic),
        };
        let open = self.wait_ready(connection).await?;
        let earlier = earlier.filter(|_| replies == ReplyQueue::Resumable);
        let found =
            earlier.and_then(|name| Some((name, self.broker.queues().depth(name.as_str())?.messages)));
        let (queue, resumed) = match found {
            Some((name, waiting)) => (name.clone(), Some(waiting)),
            None => (self.declare_reply_queue(replies)?, None),
        };
        let subscription = self.subscribe(connection, &open, queue.as_str(), ack_mode, Ownership::Private)?;
        let (address, publisher) = match replies {
            ReplyQueue::Resumable | ReplyQueue::Exclusive => (queue, None),
            // Requests name the pseudo-queue. Their publisher puts the queue in its place.
            ReplyQueue::Direct => (
                ShortStr::from_static(DIRECT_REPLY_TO),
                Some(self.publisher(open, Some(queue))),
            ),
        };
        Ok(ReplySubscription {
            address,
            replies: subscription,
            resumed,
            publisher,
        })
    }

    async fn open_answers(&self) -> Result<ReplySubscription, BrokerError> {
        let open = self.wait_ready(&self.consuming).await?;
        let address = self.declare_reply_queue(ReplyQueue::Exclusive)?;
        let ack_mode = AckMode::Prefetch(ANSWER_PREFETCH.into());
        Ok(ReplySubscription {
            replies: self.subscribe(
                &self.consuming,
                &open,
                address.as_str(),
                ack_mode,
                Ownership::Private,
            )?,
            address,
            resumed: None,
            publisher: None,
        })
    }

    async fn declare_requests(&self, queue: &RequestQueue) -> Result<(), BrokerError> {
        let connection = self.wait_ready(&self.consuming).await?;
        let (broker, queue) = (self.broker.clone(), queue.clone());
        let asking = connection.ask(move || broker.queues().declare_as_configured(&queue, Instant::now()));
        asking.await?
    }

    async fn open_requests(&self, queue: &RequestQueue, prefetch: u16) -> Result<Subscription, BrokerError> {
        let open = self.wait_ready(&self.consuming).await?;
        self.broker
            .queues()
            .declare_as_configured(queue, Instant::now())?;
        let ack_mode = AckMode::Prefetch(prefetch.into());
        let subscription =
            self.subscribe(&self.consuming, &open, queue.name(), ack_mode, Ownership::Shared)?;
        // Simulates the delay of the broker's answer. Deliveries may arrive before it.
        open.delay_from_broker(Instant::now()).await?;
        Ok(subscription)
    }

    async fn delete_if_unused(&self, queue: &RequestQueue) -> bool {
        // As over AMQP, a quorum queue is kept.
        queue.declare_mode() == DeclareMode::Active
            && queue.is_classic()
            && self.broker.queues().delete_if_unused(queue.name())
    }

    async fn open_control(&self, control: &ControlQueue) -> Result<Subscription, BrokerError> {
        let open = self.wait_ready(&self.consuming).await?;
        let queue = format!("{CONTROL_EXCHANGE}.{}", Uuid::new_v4());
        self.broker.queues().declare_for_control(&queue, control);
        let ack_mode = AckMode::Prefetch(control.prefetch.into());
        // `Shared`, because the queue is deleted with its consumer in any case.
        let subscription = self.subscribe(&self.consuming, &open, &queue, ack_mode, Ownership::Shared)?;
        open.delay_from_broker(Instant::now()).await?;
        Ok(subscription)
    }

    async fn publish_control(
        &self,
        key: &ShortStr,
        mut message: Message,
        send_token: SendToken,
    ) -> Published {
        let since = Instant::now();
        let connecting = async {
            let connection = self.wait_ready(&self.publishing).await?;
            connection.wait_unblocked().await?;
            Ok(connection)
        };
        let connection = match connecting.await {
            Ok(connection) => connection,
            Err(source) => {
                return Published::Failed {
                    source,
                    written: false,
                };
            }
        };
        message.properties.shorten_expiration(since.elapsed());
        if !send_token.claim() {
            return Published::Withdrawn;
        }
        let (broker, key) = (self.broker.clone(), key.clone());
        let sending = connection.ask(move || broker.queues().publish_control(&key, &message, Instant::now()));
        match sending.await {
            Ok(Routing::Queued) => Published::Confirmed,
            Ok(Routing::Refused) => Published::Refused,
            Ok(Routing::Unroutable) => Published::Returned,
            Err(source) => Published::Failed {
                source,
                written: true,
            },
        }
    }

    async fn open_control_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
        Ok(Arc::new(MemoryPublisher {
            broker: self.broker.clone(),
            connection: self.wait_ready(&self.publishing).await?,
            exchange: Exchange::Control,
            runtime: self.runtime(),
        }))
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
    connection: OpenConnection,
    exchange: Exchange,
    /// The handle's runtime. The runtime on which a message is published may end earlier.
    runtime: Handle,
}

/// Where a publisher's messages go.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum Exchange {
    Default {
        /// The address that replaces the pseudo-address of direct reply-to, as in RabbitMQ. `None`
        /// unless the publisher belongs to direct replies.
        direct_address: Option<ShortStr>,
    },
    Control,
}

impl MemoryPublisher {
    /// Returns a function that publishes a message at the broker, to the queue of this name, or to
    /// those that are bound to the control exchange with this key.
    fn publish_fn(&self, key: &ShortStr, mut message: Message) -> impl FnOnce() -> Routing + Send + use<> {
        let reply_to = &mut message.properties.reply_to;
        if let Exchange::Default { direct_address } = &self.exchange
            && reply_to
                .as_ref()
                .is_some_and(|address| address.as_str() == DIRECT_REPLY_TO)
        {
            reply_to.clone_from(direct_address);
        }
        let is_control = matches!(self.exchange, Exchange::Control);
        let (broker, key, runtime) = (self.broker.clone(), key.clone(), self.runtime.clone());
        move || {
            if is_control {
                return broker.queues().publish_control(&key, &message, Instant::now());
            }
            let has_queue = broker.queues().publish(key.as_str(), message, Instant::now());
            expire_later(&broker, &key, &runtime);
            match has_queue {
                true => Routing::Queued,
                false => Routing::Unroutable,
            }
        }
    }

    /// What to report of a message. That it was unroutable is reported only if it was mandatory.
    fn outcome(routing: Routing, mandatory: bool) -> Published {
        match routing {
            Routing::Refused => Published::Refused,
            Routing::Unroutable if mandatory => Published::Returned,
            Routing::Queued | Routing::Unroutable => Published::Confirmed,
        }
    }
}

/// If a queue has a message TTL, makes it dead-letter or drop what was just published to it once
/// that time has passed. In other queues, an expired message stays until the queue is next used.
fn expire_later(broker: &InProcessBroker, queue: &ShortStr, runtime: &Handle) {
    if let Some(ttl) = broker.queues().message_ttl(queue.as_str()) {
        let (broker, queue) = (broker.clone(), queue.clone());
        runtime.spawn(async move {
            tokio::time::sleep(ttl).await;
            broker.queues().expire(queue.as_str(), Instant::now());
        });
    }
}

#[async_trait]
impl Publisher for MemoryPublisher {
    fn try_publish(
        &self,
        outgoing: Outgoing,
        listener: Arc<dyn ConfirmListener>,
    ) -> Result<(), Box<Outgoing>> {
        if !self.connection.can_publish() {
            return Err(Box::new(outgoing));
        }
        #[cfg(test)]
        if self.connection.link().is_some() {
            // A task waits for the delays of the simulated link.
            let publisher = self.clone();
            tokio::spawn(async move { listener.published(publisher.publish(outgoing).await) });
            return Ok(());
        }
        let Outgoing {
            queue,
            mandatory,
            message,
            send_token,
        } = outgoing;
        let is_withdrawn = send_token.is_some_and(|token| !token.claim());
        listener.published(if is_withdrawn {
            Published::Withdrawn
        } else {
            Self::outcome(self.publish_fn(&queue, message)(), mandatory)
        });
        Ok(())
    }

    async fn wait_ready(&self) {
        // An error means that the connection is lost. The next publish reports it.
        let _ = self.connection.wait_unblocked().await;
    }

    async fn publish(&self, outgoing: Outgoing) -> Published {
        let Outgoing {
            queue,
            mandatory,
            message,
            send_token,
        } = outgoing;
        if let Err(source) = self.connection.wait_unblocked().await {
            return Published::Failed {
                source,
                written: false,
            };
        }
        let is_withdrawn = send_token.as_ref().is_some_and(|token| !token.claim());
        if is_withdrawn {
            return Published::Withdrawn;
        }
        match self.connection.ask(self.publish_fn(&queue, message)).await {
            Ok(routing) => Self::outcome(routing, mandatory),
            Err(source) => Published::Failed {
                source,
                written: true,
            },
        }
    }

    async fn wait_closed(&self) -> BrokerError {
        self.connection.wait_lost().await
    }
}

#[derive(Debug)]
struct MemoryControl {
    broker: InProcessBroker,
    connection: OpenConnection,
    consumer: ConsumerId,
    /// The queue that [`Control::close_and_delete`] deletes.
    private_queue: Option<String>,
}

impl MemoryControl {
    /// Runs `act` at the broker, without waiting for it. Fails if the connection is lost already,
    /// or the handle is closed.
    fn with_queues(
        &self,
        act: impl FnOnce(&mut Queues, &ConsumerId) + Send + 'static,
    ) -> Result<(), BrokerError> {
        let (broker, consumer) = (self.broker.clone(), self.consumer.clone());
        match self.connection.end_reason() {
            Some(reason) => Err(reason),
            None => {
                self.connection.tell(move || act(&mut broker.queues(), &consumer));
                Ok(())
            }
        }
    }

    /// Removes the consumer. The broker removes it by itself if the connection is lost.
    fn end(&self) {
        let _ = self.with_queues(|queues, consumer| queues.close_consumer(consumer, Instant::now()));
    }
}

#[async_trait]
impl Control for MemoryControl {
    fn ack(&self, tag: u64) {
        // If the connection is lost, the message is delivered again.
        let _ = self.with_queues(move |queues, consumer| queues.ack(consumer, tag, Instant::now()));
    }

    fn reject(&self, tag: u64) {
        let _ = self.with_queues(move |queues, consumer| queues.reject(consumer, tag, Instant::now()));
    }

    fn ack_up_to(&self, tag: u64) {
        let _ = self.with_queues(move |queues, consumer| queues.ack_up_to(consumer, tag, Instant::now()));
    }

    async fn cancel(&self) -> Result<(), BrokerError> {
        self.with_queues(Queues::cancel)
    }

    async fn close(&self) {
        self.end();
    }

    async fn close_and_delete(&self) {
        self.end();
        // Even if the connection is lost: a broker's queue would expire then.
        if let Some(queue) = &self.private_queue {
            self.broker.queues().delete(queue);
        }
    }
}

impl Drop for MemoryControl {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::Runtime;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::transport::memory::{Direction, Link};

    #[tokio::test]
    async fn only_a_classic_queue_is_deleted_as_over_amqp() {
        let transport = MemoryTransport::new(&InProcessBroker::new());
        for (queue, is_kept) in [
            (RequestQueue::new("classic"), false),
            (RequestQueue::new("quorum").quorum(), true),
        ] {
            transport.declare_requests(&queue).await.unwrap();
            assert!(!transport.delete_if_unused(&queue).await);
            let name = ShortStr::new(queue.name()).unwrap();
            assert_eq!(transport.depth(&name).await.is_some(), is_kept, "{name}");
        }
    }

    #[tokio::test]
    async fn a_consumer_that_comes_while_the_handle_closes_is_removed() {
        let broker = InProcessBroker::new();
        let transport = MemoryTransport::new(&broker);
        transport.declare_requests(&RequestQueue::new("q")).await.unwrap();
        let open = transport.wait_ready(&transport.consuming).await.unwrap();
        transport.end();
        let consuming = &transport.consuming;
        let subscribed = transport.subscribe(consuming, &open, "q", AckMode::Unlimited, Ownership::Shared);
        assert!(matches!(subscribed.map(drop), Err(BrokerError::Closed)));
        let depth = broker.queues().depth("q").unwrap();
        assert_eq!(depth.consumers, 0);
    }

    /// A worker that stops may have read the end before.
    #[tokio::test]
    async fn deliveries_have_ended_for_good() {
        let transport = MemoryTransport::new(&InProcessBroker::new());
        transport.declare_requests(&RequestQueue::new("q")).await.unwrap();
        let open = transport.wait_ready(&transport.consuming).await.unwrap();
        let consuming = &transport.consuming;
        let subscribed = transport.subscribe(consuming, &open, "q", AckMode::Unlimited, Ownership::Shared);
        let mut subscription = subscribed.unwrap();
        transport.end();
        assert!(subscription.deliveries.next().await.unwrap().is_err());
        for _ in 0..2 {
            assert!(subscription.deliveries.next().await.is_none());
        }
    }

    /// A link on which each message takes a second.
    #[derive(Debug)]
    struct SlowLink;

    impl Link for SlowLink {
        fn is_narrow(&self) -> bool {
            false
        }

        fn delay(&self, _: Direction) -> Duration {
            Duration::from_secs(1)
        }

        fn delivers_despite_loss(&self, _: Instant) -> bool {
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deliveries_are_on_their_way_at_the_same_time() {
        let broker = InProcessBroker::new();
        let transport = MemoryTransport::over_links(&broker, Arc::new(SlowLink), Arc::new(SlowLink));
        let queue = RequestQueue::new("q");
        let mut subscription = transport.open_requests(&queue, 100).await.unwrap();
        let begun = Instant::now();
        for _ in 0..50 {
            broker.inject("q", Message::default());
        }
        sleep(Duration::from_millis(500)).await;
        broker.inject("q", Message::default());
        let mut arrivals = Vec::new();
        for _ in 0..51 {
            subscription.deliveries.next().await.unwrap().unwrap();
            arrivals.push(begun.elapsed().as_millis());
        }
        assert_eq!(arrivals, [vec![1000; 50], vec![1500]].concat());
    }

    #[test]
    fn a_message_expires_although_the_runtime_of_its_caller_has_ended() {
        let [home, other] = [(); 2].map(|()| Runtime::new().unwrap());
        let broker = InProcessBroker::new();
        let transport = home.block_on(async { MemoryTransport::new(&broker) });
        let queue = RequestQueue::new("q").argument("x-message-ttl", 100);
        home.block_on(transport.declare_requests(&queue)).unwrap();
        let outgoing = Outgoing {
            queue: ShortStr::from_static("q"),
            mandatory: true,
            message: Message::default(),
            send_token: None,
        };
        let publishing = async { transport.open_publisher().await.unwrap().publish(outgoing).await };
        assert!(matches!(other.block_on(publishing), Published::Confirmed));
        drop(other);
        let expired = async {
            while broker.backlog("q") != Some(0) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = home.block_on(async { timeout(Duration::from_secs(10), expired).await });
        assert!(waited.is_ok(), "it has not expired");
    }
}
