//! Runs broadcasts.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::answers::Answers;
use crate::protocol::{Fault, FaultCode, Malformed, Message, Properties};
use crate::server::outgoing_reply::with_grace_period;
use crate::service::{Decision, Dispatcher, Executor, ForbiddenReplyAddress, Received, RequestLabel};

/// How many broadcasts run at once.
const MAX_RUNNING: usize = 16;

/// How many broadcasts wait for their turn, run, or wait for a place among [`MAX_REPLIES`]. Others
/// are refused.
const MAX_BROADCASTS: usize = 48;

/// How many replies to broadcasts may be on their way at once: they wait for a connection, or for
/// their confirms.
pub(super) const MAX_REPLIES: usize = 64;

/// How long a reply to a broadcast waits until there are fewer than [`MAX_REPLIES`]. Then it is
/// dropped.
pub(super) const MAX_REPLY_WAIT: Duration = Duration::from_secs(1);

/// How long a control message can wait in the queue, and a broadcast for its turn.
pub(super) const TIME_TO_LIVE: Duration = Duration::from_secs(60);

/// The longest time from the arrival of a broadcast until its reply is given up, if there is no
/// connection. A grace period after its method has ended may exceed this.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The broadcasts that a worker runs.
pub(super) struct Broadcasts {
    /// Held by broadcasts that are not refused, until their replies are about to be sent.
    admitted: Semaphore,
    /// Held by broadcasts that run.
    running: Semaphore,
    /// Held by replies to broadcasts while they are on their way.
    replies: Semaphore,
}

impl Default for Broadcasts {
    fn default() -> Self {
        Self {
            admitted: Semaphore::new(MAX_BROADCASTS),
            running: Semaphore::new(MAX_RUNNING),
            replies: Semaphore::new(MAX_REPLIES),
        }
    }
}

/// A request to all workers of a queue, without its message.
pub(super) struct ReceivedBroadcast<'a> {
    pub(super) queue: &'a str,
    pub(super) executor: &'a Executor,
    pub(super) arrived: Instant,
    pub(super) label: RequestLabel,
    /// How long its sender waits for answers, or [`TIME_TO_LIVE`] if it does not say.
    pub(super) wait: Duration,
    pub(super) redelivered: bool,
}

impl ReceivedBroadcast<'_> {
    fn refuse(
        &self,
        properties: &Properties,
        fault: Fault,
    ) -> Result<Decision<'static>, ForbiddenReplyAddress> {
        Dispatcher::refuse(properties, fault, self.redelivered, &self.executor.rules)
    }
}

impl Broadcasts {
    /// Runs a broadcast, unless it is refused, and replies. `ack` acknowledges it: before the
    /// method runs, so that it runs at most once, or shortly before a refusal is sent.
    pub(super) async fn answer(
        &self,
        answers: &Answers,
        broadcast: ReceivedBroadcast<'_>,
        message: Message,
        malformed: Option<Malformed>,
        ack: impl FnOnce() + Send,
    ) {
        let (executor, redelivered) = (broadcast.executor, broadcast.redelivered);
        let admitted = match malformed {
            Some(malformed) => Err(Dispatcher::refuse_malformed(
                &message,
                malformed,
                redelivered,
                &executor.rules,
            )),
            None => self
                .admit(executor, &message)
                .map_err(|fault| broadcast.refuse(&message.properties, fault)),
        };
        let admission = match admitted {
            Ok(permit) => permit,
            Err(refused) => {
                drop(message);
                // No method runs, so it needs no permit. It is acked late, so that the prefetch
                // bounds how many refusals wait.
                return self.run_and_reply(answers, &broadcast, refused, None, ack).await;
            }
        };
        // Acked before it runs, so that a method may run for longer than the broker waits for an
        // acknowledgement. It runs at most once in any case, and the permits bound how many there
        // are.
        ack();
        let acquiring = timeout(broadcast.wait.min(TIME_TO_LIVE), self.running.acquire());
        // The semaphore is never closed, so `None` means that this took too long.
        let run_permit = acquiring.await.ok().and_then(Result::ok);
        let decided = if run_permit.is_some() {
            let received = Received::at(broadcast.arrived);
            executor.decide(message, redelivered, received, Instant::now())
        } else {
            let reason = "other broadcasts ran on this worker for too long";
            broadcast.refuse(&message.properties, Fault::new(FaultCode::Rejected, reason))
        };
        let release = || drop(admission);
        self.run_and_reply(answers, &broadcast, decided, run_permit, release)
            .await;
    }

    /// Decides whether a broadcast may wait for its turn. One that is refused anyway must not wait:
    /// it would displace others, and its body may be large.
    ///
    /// # Errors
    ///
    /// Returns the fault of one that is refused.
    fn admit(&self, executor: &Executor, message: &Message) -> Result<SemaphorePermit<'_>, Fault> {
        executor.dispatcher.check_broadcast(message, &executor.rules)?;
        self.admitted.try_acquire().map_err(|_| {
            let reason = "too many broadcasts are running on this worker";
            Fault::new(FaultCode::Rejected, reason)
        })
    }

    /// Runs the method, unless it is refused, and replies. Drops `run_permit` once the method has
    /// ended, and calls `release` before the reply is sent: a reply that cannot be sent, or is
    /// never confirmed, keeps no other broadcast from being received and from running.
    async fn run_and_reply(
        &self,
        answers: &Answers,
        broadcast: &ReceivedBroadcast<'_>,
        decided: Result<Decision<'_>, ForbiddenReplyAddress>,
        run_permit: Option<SemaphorePermit<'_>>,
        release: impl FnOnce(),
    ) {
        let (queue, executor) = (broadcast.queue, broadcast.executor);
        let reply = answers.execute(queue, executor, decided, &broadcast.label).await;
        drop(run_permit);
        let Some(reply) = reply else {
            return release();
        };
        let place = timeout(MAX_REPLY_WAIT, self.replies.acquire()).await;
        release();
        if place.is_ok() {
            let deadline = broadcast.arrived + broadcast.wait.min(MAX_ANSWER_TIME);
            answers.reply(reply, with_grace_period(deadline)).await;
        } else {
            answers.channel.log.expired();
            reply.count_lost("no_connection");
        }
    }
}
