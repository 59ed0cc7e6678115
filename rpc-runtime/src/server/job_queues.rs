//! The queues in which the jobs of a request queue wait for a retry, and the one that keeps those
//! that failed for good.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tracing::Level;

use super::reply_channel::{ReplyChannel, SendOutcome};
use crate::describe::RetryPolicy;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::{InvalidName, MAX_SHORT_STR, Message, ShortStr};
use crate::service::waits_of_all;
use crate::telemetry::{LogLimit, Suppressed};
use crate::transport::{Outgoing, RequestQueue, SendToken, Transport};

/// A job that has been stuck for this long is an error in the log.
const STUCK_FOR_LONG: Duration = Duration::from_secs(5 * 60);

/// The queues of the jobs of one request queue.
#[derive(Debug)]
pub(super) struct JobQueues {
    queue: RequestQueue,
    /// Weak, for the same reason as that of the [`ReplyChannel`].
    transport: Weak<dyn Transport>,
    /// Separate from the channel of replies, so that a queue that takes no jobs does not delay
    /// replies.
    channel: Arc<ReplyChannel>,
    /// At most 24: the retry queues, the dead-letter queue and the request queue.
    targets: Mutex<HashMap<Destination, Arc<Target>>>,
    log: LogLimit,
    /// Locked while the jobs of a redelivered batch are moved.
    moving_batch: AsyncMutex<()>,
}

/// Where a job goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Destination {
    /// The retry queue with this time to live, in milliseconds.
    Retry(u64),
    /// The dead-letter queue.
    Dead,
    /// The end of the request queue, for the copy of a job that was redelivered, from there or in a
    /// batch.
    Requests,
}

/// How many copies of requests to one queue may be unconfirmed. While a quorum queue has no leader,
/// it confirms nothing, and RabbitMQ 4 may keep the messages to it waiting in their channel. Once
/// 400 messages wait in one channel, RabbitMQ no longer reads the connection.
pub(super) const MAX_UNCONFIRMED: usize = 64;

/// A queue to which jobs are moved. Each has limits of its own, so that one that takes no jobs does
/// not delay the jobs for another one.
#[derive(Debug)]
struct Target {
    /// A permit for each copy that may be unconfirmed.
    permits: Arc<Semaphore>,
    last_declare: AsyncMutex<LastDeclare>,
}

/// The last attempt to declare a queue.
#[derive(Debug, Default)]
struct LastDeclare {
    /// How many attempts there were.
    number: u64,
    /// `None` if the last one succeeded, or there was none.
    error: Option<BrokerError>,
}

impl Target {
    fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_UNCONFIRMED)),
            last_declare: AsyncMutex::default(),
        }
    }
}

impl JobQueues {
    pub(super) fn new(
        queue: &RequestQueue,
        transport: Weak<dyn Transport>,
        channel: Arc<ReplyChannel>,
    ) -> Self {
        Self {
            queue: queue.clone(),
            transport,
            channel,
            targets: Mutex::default(),
            moving_batch: AsyncMutex::default(),
            log: LogLimit::new("jobs"),
        }
    }

    /// Returns the queues that a server declares before it serves these jobs: the dead-letter
    /// queue, and all retry queues that these jobs may need, except for delays that callers set.
    ///
    /// So a server does not start without permission for them. Also, they exist long before a job
    /// needs them: up to RabbitMQ 4.2, a quorum queue that is declared moments before its node
    /// crashes does not work afterwards.
    pub(super) fn to_declare_at_start(
        queue: &RequestQueue,
        policies: impl Iterator<Item = RetryPolicy>,
    ) -> Vec<RequestQueue> {
        let waits = waits_of_all(policies).into_iter();
        let retry = waits.map(|millis| queue.retry_queue(millis));
        std::iter::once(queue.dead_queue()).chain(retry).collect()
    }

    /// Whether the request queue is declared with a dead-letter exchange, to which the broker
    /// publishes rejected messages.
    pub(super) fn dead_letters_rejected(&self) -> bool {
        self.queue.has_dead_letter_exchange()
    }

    /// Checks that the names of the retry queues and of the dead-letter queue, which are longer
    /// than that of the request queue, are not too long.
    pub(super) fn check_name(queue: &str) -> Result<(), InvalidName> {
        const LONGEST_SUFFIX: usize = ".retry.1000000000".len();
        let limit = MAX_SHORT_STR - LONGEST_SUFFIX;
        if queue.len() > limit {
            return Err(InvalidName::too_long(queue.len(), limit));
        }
        Ok(())
    }

    /// Runs `moving`, which moves the jobs of a redelivered batch, once no other batch is moved.
    ///
    /// The jobs wait for at least ten seconds in a retry queue. All of them should be moved, and
    /// the batch acked, before the first one returns. Otherwise, a job that crashes its worker also
    /// brings back the batch, and all its jobs are moved once more. Two batches at a time would
    /// take longer.
    pub(super) async fn move_batch(&self, moving: impl Future<Output = ()>) {
        let _moving = self.moving_batch.lock().await;
        moving.await;
    }

    fn queue(&self, destination: Destination) -> RequestQueue {
        match destination {
            Destination::Retry(millis) => self.queue.retry_queue(millis),
            Destination::Dead => self.queue.dead_queue(),
            Destination::Requests => self.queue.clone(),
        }
    }

    fn target(&self, destination: Destination) -> Arc<Target> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let target = targets.entry(destination);
        Arc::clone(target.or_insert_with(|| Arc::new(Target::new())))
    }

    /// Publishes a copy of a job, once fewer than [`MAX_UNCONFIRMED`] copies to its destination are
    /// unconfirmed. `may_have_closed_channel` is whether a channel on which it was published was
    /// closed.
    ///
    /// Declares a retry queue or dead-letter queue that does not exist: no caller's delay has used
    /// it yet, or somebody has deleted it.
    ///
    /// # Errors
    ///
    /// Returns an error if that queue cannot be declared, or if the handle was closed.
    pub(super) async fn publish(
        &self,
        destination: Destination,
        message: &Message,
        may_have_closed_channel: bool,
    ) -> Result<SendOutcome, BrokerError> {
        let target = self.target(destination);
        let permit = Arc::clone(&target.permits).acquire_owned().await;
        // Fails only if the semaphore is closed, which it never is.
        let permit = permit.map_err(|_| BrokerError::Closed)?;
        let queue = self.queue(destination);
        let outgoing = Outgoing {
            // The server has checked the names.
            queue: ShortStr::new(queue.name()).map_err(|_| BrokerError::Closed)?,
            // A copy of a job from the request queue is not mandatory: the queue exists, because
            // this worker consumes it. The confirm of a mandatory message may take a second, and a
            // copy that runs before its original is acked may multiply.
            mandatory: destination != Destination::Requests,
            message: message.clone(),
            // The broker may keep the copy although nobody waits for its confirm any more.
            send_token: Some(SendToken::holding(permit)),
        };
        let declares_before = target.last_declare.lock().await.number;
        let sending = self.channel.send(outgoing.clone(), None, may_have_closed_channel);
        let outcome = sending.await?;
        if !matches!(outcome, SendOutcome::Unroutable) {
            return Ok(outcome);
        }
        self.declare(&target.last_declare, declares_before, &queue)
            .await?;
        self.channel.send(outgoing, None, may_have_closed_channel).await
    }

    /// Declares a queue. If another job has tried that since there were `declares_before` attempts,
    /// returns the outcome of the last attempt instead, so that jobs that wait for one queue do not
    /// declare it one after another.
    async fn declare(
        &self,
        last: &AsyncMutex<LastDeclare>,
        declares_before: u64,
        queue: &RequestQueue,
    ) -> Result<(), BrokerError> {
        let transport = self.transport.upgrade().ok_or(BrokerError::Closed)?;
        let mut last = last.lock().await;
        if last.number == declares_before {
            last.error = transport.declare_requests(queue).await.err();
            last.number += 1;
        }
        last.error.clone().map_or(Ok(()), Err)
    }

    /// Logs that a queue did not take a job. `stuck_for` is how long the job has waited to be
    /// moved, perhaps to another queue.
    pub(super) fn log_not_taken(
        &self,
        destination: Destination,
        stuck_for: Duration,
        error: Option<&BrokerError>,
    ) {
        let message =
            "this queue does not take a job, so the job waits: check that the queue exists and is not full";
        self.log(message, destination, stuck_for, error);
    }

    /// Logs that the broker does not confirm a copy of a job.
    pub(super) fn log_unconfirmed(&self, destination: Destination, stuck_for: Duration) {
        let message = "the broker does not confirm jobs for this queue, so the worker keeps them until it does: \
                       check that the queue has a leader and that the connection is not blocked";
        self.log(message, destination, stuck_for, None);
    }

    fn log(&self, message: &str, destination: Destination, stuck_for: Duration, error: Option<&BrokerError>) {
        let queue = self.queue(destination);
        let error = error.map(|error| Logged(Chain(error)).to_string());
        let queue = queue.name();
        if stuck_for < STUCK_FOR_LONG {
            if let Some(Suppressed(suppressed)) = self.log.admit(Level::WARN, "stuck") {
                tracing::warn!(queue, error, suppressed, "{message}");
            }
        } else if let Some(Suppressed(suppressed)) = self.log.admit(Level::ERROR, "stuck_for_long") {
            tracing::error!(queue, error, ?stuck_for, suppressed, "{message}");
        }
    }
}
