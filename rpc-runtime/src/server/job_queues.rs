//! The queues in which the jobs of a request queue wait for a retry, and the one that keeps those
//! that failed for good.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
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
    /// Weak, like that of the reply channel.
    transport: Weak<dyn Transport>,
    /// Separate from the channel of replies, so that a queue that takes no jobs does not delay
    /// replies.
    channel: Arc<ReplyChannel>,
    declaring: Semaphore,
    log: LogLimit,
}

/// Where a job goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// The retry queue with this time to live, in milliseconds.
    Retry(u64),
    Dead,
    /// The end of the request queue, for the copy of a job that was redelivered from there.
    Requests,
}

/// How many retry queues and dead-letter queues are declared at a time, each on a channel of its
/// own. All jobs of a batch may fail at once, and a connection has a limit of channels.
const MAX_DECLARING: usize = 16;

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
            declaring: Semaphore::new(MAX_DECLARING),
            log: LogLimit::new("jobs"),
        }
    }

    /// Returns the queues that a server declares before it serves these jobs, so that it does not
    /// start without permission for them: the dead-letter queue, and all retry queues that these
    /// jobs may need. None of them is declared only when a job needs it, because up to RabbitMQ 4.2
    /// a quorum queue that is declared moments before its node crashes loses its messages.
    pub(super) fn needed(
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

    fn queue(&self, destination: Destination) -> RequestQueue {
        match destination {
            Destination::Retry(millis) => self.queue.retry_queue(millis),
            Destination::Dead => self.queue.dead_queue(),
            Destination::Requests => self.queue.clone(),
        }
    }

    /// Publishes a job. `may_have_closed_channel` is whether a channel on which it was published
    /// was closed.
    ///
    /// A retry queue or dead-letter queue is declared first, because somebody may have deleted it.
    /// That costs a round trip for each job that waits or dies.
    pub(super) async fn publish(
        &self,
        destination: Destination,
        message: &Message,
        may_have_closed_channel: bool,
    ) -> Result<SendOutcome, BrokerError> {
        let queue = self.queue(destination);
        if destination != Destination::Requests {
            let transport = self.transport.upgrade().ok_or(BrokerError::Closed)?;
            // Fails only if the semaphore is closed, which it never is.
            let _permit = self.declaring.acquire().await;
            transport.declare_requests(&queue).await?;
        }
        // A copy of a job from the request queue is not mandatory: the queue exists, because this
        // worker consumes it. The confirm of a mandatory message may take a second, and a copy that
        // runs before its original is acked may multiply.
        let mandatory = destination != Destination::Requests;
        let outgoing = Outgoing {
            // The server has checked the names.
            queue: ShortStr::new(queue.name()).map_err(|_| BrokerError::Closed)?,
            mandatory,
            message: message.clone(),
            send_token: SendToken::default(),
        };
        self.channel.send(outgoing, None, may_have_closed_channel).await
    }

    /// Logs that a job cannot be moved. `since` is when that was first tried.
    pub(super) fn log_stuck(&self, destination: Destination, since: Instant, error: Option<&BrokerError>) {
        const MESSAGE: &str = "cannot move a job to this queue, so the worker keeps it and tries again: check that \
                               the queue exists and takes messages";
        let (queue, stuck_for) = (self.queue(destination), since.elapsed());
        let error = error.map(|error| Logged(Chain(error)).to_string());
        let queue = queue.name();
        if stuck_for < STUCK_FOR_LONG {
            if let Some(Suppressed(suppressed)) = self.log.admit(Level::WARN, "stuck") {
                tracing::warn!(queue, error, suppressed, "{MESSAGE}");
            }
        } else if let Some(Suppressed(suppressed)) = self.log.admit(Level::ERROR, "stuck_for_long") {
            tracing::error!(queue, error, ?stuck_for, suppressed, "{MESSAGE}");
        }
    }
}
