//! Takes messages from one queue without losing their places, and publishes copies of them. For the
//! program `rpc`, which manages dead letters.
//!
//! Messages stay unacknowledged until they are acked or released, so no other consumer gets them
//! meanwhile. If this process ends, the broker puts them back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::channel::OpenChannel;
use super::connection::{Address, ConnectionPurpose, Connector};
use super::errors::{is_not_found, queue_error, short};
use super::guard;
use super::opener::{Opener, declare_passively};
use super::task_group::TaskGroup;
use crate::error::{BrokerError, Cause};
use crate::transport::topology::RequestQueue;

/// How long to wait until released messages are ready.
const READY_LIMIT: Duration = Duration::from_millis(500);

/// How long to wait before looking again whether they are.
const READY_PAUSE: Duration = Duration::from_millis(5);

/// Reads one queue, over a connection of its own that is not opened again.
pub struct QueueReader {
    queue: ShortString,
    opener: Opener,
    /// The channel that messages are taken from.
    taking: Arc<OpenChannel>,
    /// The channel for copies. `None` until the first one, and after an invalid one.
    publishing: Option<Arc<OpenChannel>>,
    /// How many messages were taken and neither acked nor released.
    held: u32,
    /// How many messages were ready after the last take.
    remaining: u32,
    /// Whether a message was taken before. The first one shows whether the queue counts deliveries.
    has_taken_any: bool,
    /// Whether the queue counts deliveries, as quorum queues do. `false` until a taken message
    /// shows it.
    counts_deliveries: bool,
    tasks: TaskGroup,
    limit: Duration,
    _watch: AbortOnDropHandle<()>,
}

/// A message that was taken from a queue, and is not acknowledged.
#[derive(Debug)]
pub struct TakenMessage {
    /// Identifies the message, to acknowledge it.
    pub tag: u64,
    /// Whether it was delivered before and came back. [`QueueReader::take`] may have put the first
    /// message back itself.
    pub redelivered: bool,
    /// Why some of its properties could not be read. Its headers are then missing too, except for
    /// those about dead-lettering. `None` if all could be read.
    pub malformed: Option<String>,
    /// The properties that could be read. A correlation id that is not UTF-8 is escaped.
    pub properties: BasicProperties,
    /// The body.
    pub body: Vec<u8>,
}

/// The outcome of publishing a copy.
#[derive(Debug)]
pub enum CopyOutcome {
    /// The broker has stored it.
    Confirmed,
    /// The queue does not exist.
    Unroutable,
    /// The queue refuses it, for example because it is full.
    Refused,
    /// The broker does not accept such a message, for example because it is too large.
    Invalid(Cause),
}

impl QueueReader {
    /// Connects, each step within `limit`, and opens a queue. `name` is the application's, for the
    /// name of the connection. Also returns how many messages are ready in the queue. Returns
    /// `None` if the queue does not exist.
    pub(crate) async fn open(
        addresses: Vec<Address>,
        name: Option<&str>,
        limit: Duration,
        queue: &str,
    ) -> Result<Option<(Self, u32)>, BrokerError> {
        let connector = Connector::new(addresses, name, limit);
        let tasks = TaskGroup::new(&Handle::current());
        let connection = Arc::new(connector.connect(ConnectionPurpose::DeadLetters).await?);
        let watch = connection.watch_in(&tasks);
        let opener = Opener {
            connection,
            limit,
            tasks: tasks.clone(),
        };
        let reader = Self {
            queue: short(queue)?,
            taking: opener.channel().await?,
            publishing: None,
            opener,
            held: 0,
            remaining: 0,
            has_taken_any: false,
            counts_deliveries: false,
            tasks,
            limit,
            _watch: watch,
        };
        let counted = reader.count().await;
        if let Ok(Some(messages)) = counted {
            return Ok(Some((reader, messages)));
        }
        reader.close().await;
        counted.map(|_| None)
    }

    /// How many messages are ready in the queue. `None` if it does not exist: the broker has then
    /// closed the channel.
    async fn count(&self) -> Result<Option<u32>, BrokerError> {
        let asking = declare_passively(Arc::clone(&self.taking), self.queue.clone());
        match self.opener.request("looking for a queue", asking).await? {
            Ok(queue) => Ok(Some(queue.message_count())),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(queue_error(self.queue.as_str(), error)),
        }
    }

    /// Takes the first message that is ready. Returns `None` if there is none.
    ///
    /// # Errors
    ///
    /// Fails if the broker refuses, does not answer in time, or the connection is lost.
    pub async fn take(&mut self) -> Result<Option<TakenMessage>, BrokerError> {
        let mut taken = self.get().await?;
        if let Some(BasicGetMessage { delivery, .. }) = &taken {
            let is_first = !std::mem::replace(&mut self.has_taken_any, true);
            if is_first && !has_delivery_count(&delivery.properties) {
                // In a quorum queue, RabbitMQ 4 tells the count only for a message that has come
                // back, so this puts the message back and takes it again.
                self.put_back(Some(delivery.delivery_tag)).await?;
                taken = self.get().await?;
            }
        }
        let Some(message) = taken else {
            self.remaining = 0;
            return Ok(None);
        };
        let delivery = message.delivery;
        self.held += 1;
        self.remaining = message.message_count;
        self.counts_deliveries |= has_delivery_count(&delivery.properties);
        Ok(Some(TakenMessage {
            tag: delivery.delivery_tag,
            redelivered: delivery.redelivered,
            malformed: guard::mark::read(&delivery.properties).map(|malformed| malformed.to_string()),
            properties: without_mark(delivery.properties),
            body: delivery.data,
        }))
    }

    /// Asks for the next message with `basic.get`. `None` if the queue is empty. The message is not
    /// counted as held yet.
    async fn get(&self) -> Result<Option<BasicGetMessage>, BrokerError> {
        let (channel, queue) = (Arc::clone(&self.taking), self.queue.clone());
        let getting = async move { channel.basic_get(queue, BasicGetOptions::default()).await };
        let got = self.opener.request("taking a message", getting).await?;
        got.map_err(|error| queue_error(self.queue.as_str(), error))
    }

    /// Acknowledges a message, which removes it from the queue. Returns once the acknowledgement is
    /// written, since the broker does not answer it. The broker has received it once it has
    /// answered the next [`take`](Self::take) or [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// Fails if it is not written in time, or the channel or the connection is lost.
    pub async fn ack(&mut self, tag: u64) -> Result<(), BrokerError> {
        self.held = self.held.saturating_sub(1);
        let channel = Arc::clone(&self.taking);
        let acking = async move { channel.basic_ack(tag, BasicAckOptions::default()).await };
        self.opener.request_ok("acknowledging a message", acking).await
    }

    /// Whether a taken message is neither acked nor released.
    #[must_use]
    pub fn holds_any(&self) -> bool {
        self.held > 0
    }

    /// Puts all messages that are not acknowledged back to their places. A quorum queue puts them
    /// behind messages that had come back before and were not taken. Returns once they are ready
    /// again, or after half a second: others may have taken them already.
    ///
    /// # Errors
    ///
    /// Fails if the broker does not answer in time, or the connection is lost.
    pub async fn release(&mut self) -> Result<(), BrokerError> {
        if self.counts_deliveries {
            self.put_back(None).await?;
        } else {
            // A classic queue puts the messages of a closed channel back at once. It puts rejected
            // ones back one by one, which takes minutes for ten thousand. A quorum queue would
            // change the order of those of a closed channel.
            self.taking.close().await;
            self.taking = self.opener.channel().await?;
        }
        let give_up = Instant::now() + READY_LIMIT;
        let expected = self.remaining.saturating_add(std::mem::take(&mut self.held));
        // A channel's frames are handled in order: once the broker has answered on this channel, or
        // has closed it, it has received the acks, and has begun to put the messages back. They may
        // be ready later, so this looks again.
        while self.count().await?.is_some_and(|ready| ready < expected) && Instant::now() < give_up {
            sleep(READY_PAUSE).await;
        }
        Ok(())
    }

    /// Puts the message with this tag back, or all if there is no tag, with a negative
    /// acknowledgement. RabbitMQ 4.3 does not count this against the delivery limit, in contrast to
    /// the end of a channel.
    async fn put_back(&self, tag: Option<u64>) -> Result<(), BrokerError> {
        let channel = Arc::clone(&self.taking);
        let options = BasicNackOptions {
            multiple: tag.is_none(),
            requeue: true,
        };
        // In AMQP, the tag 0 means all messages.
        let releasing = async move { channel.basic_nack(tag.unwrap_or(0), options).await };
        self.opener.request_ok("releasing messages", releasing).await
    }

    /// Publishes a copy to a queue, and waits for its outcome.
    ///
    /// # Errors
    ///
    /// Fails if the broker blocks publishers, does not permit it, does not answer in time, or the
    /// connection is lost. In the last two cases the copy may have been stored.
    pub async fn publish(
        &mut self,
        queue: &str,
        properties: BasicProperties,
        body: Vec<u8>,
    ) -> Result<CopyOutcome, BrokerError> {
        if let Some(reason) = self.opener.connection.state().borrow().blocked.clone() {
            return Err(BrokerError::Blocked { reason });
        }
        let (channel, queue) = (self.publishing_channel().await?, short(queue)?);
        let used = Arc::clone(&channel);
        let publishing = async move {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let confirm = used.basic_publish("".into(), queue, options, &body, properties);
            confirm.await?.await
        };
        match channel
            .request(self.limit, "publishing a message", publishing)
            .await
        {
            Ok(Confirmation::Ack(None)) => Ok(CopyOutcome::Confirmed),
            // With a message: the broker has returned it.
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Ok(CopyOutcome::Unroutable),
            // `NotRequested` does not occur: the channel is in confirm mode.
            Ok(Confirmation::Nack(None) | Confirmation::NotRequested) => Ok(CopyOutcome::Refused),
            Err(BrokerError::ChannelClosed { source }) if is_precondition_failed(&source) => {
                self.publishing = None;
                Ok(CopyOutcome::Invalid(source))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the channel for copies, and opens it first if there is none.
    async fn publishing_channel(&mut self) -> Result<Arc<OpenChannel>, BrokerError> {
        if let Some(channel) = &self.publishing {
            return Ok(Arc::clone(channel));
        }
        let channel = self.opener.channel().await?;
        self.opener.select_confirms(&channel).await?;
        self.publishing = Some(Arc::clone(&channel));
        Ok(channel)
    }

    /// Declares the dead-letter queue of this quorum queue as workers do, which creates it if it is
    /// missing. Returns whether it has these properties. `None` if the broker refuses for another
    /// reason, for example for lack of permission, or does not answer about this queue.
    ///
    /// # Errors
    ///
    /// Fails if the broker does not answer at all in time, or the connection is lost.
    pub async fn is_dead_queue_of(&self, quorum_queue: &str) -> Result<Option<bool>, BrokerError> {
        // The broker closes the channel if the properties differ.
        let scratch = self.opener.channel().await?;
        let expected = RequestQueue::new(quorum_queue).quorum().dead_queue();
        match self.opener.declare_request_queue(&scratch, &expected).await {
            Ok(()) => {
                scratch.close().await;
                Ok(Some(true))
            }
            Err(BrokerError::Queue { source, .. }) if is_precondition_failed(&source) => Ok(Some(false)),
            Err(BrokerError::Queue { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes the connection. The broker puts back what was not acknowledged.
    pub async fn close(self) {
        self.opener.connection.close().await;
        self.tasks.end().await;
    }
}

/// Whether a quorum queue tells how often it has delivered this message.
fn has_delivery_count(properties: &BasicProperties) -> bool {
    let headers = properties.headers().as_ref();
    headers.is_some_and(|headers| {
        let names = ["x-delivery-count", "x-acquired-count"];
        names.iter().any(|name| headers.contains_key(name))
    })
}

/// Removes the header that says why properties could not be read.
fn without_mark(properties: BasicProperties) -> BasicProperties {
    match properties.headers() {
        Some(headers) if headers.contains_key(guard::mark::NAME) => {
            let mut kept = FieldTable::default();
            for (name, value) in headers.inner() {
                if name.as_str() != guard::mark::NAME {
                    kept.insert(name.clone(), value.clone());
                }
            }
            properties.with_headers(kept)
        }
        _ => properties,
    }
}

/// Whether the broker closed a channel with `PRECONDITION_FAILED`.
fn is_precondition_failed(cause: &Cause) -> bool {
    cause.to_string().contains("PRECONDITION_FAILED")
}

impl fmt::Debug for QueueReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueReader")
            .field("queue", &self.queue.as_str())
            .finish_non_exhaustive()
    }
}
