//! Acknowledges jobs, or moves them to a retry queue, to the dead-letter queue or to the end of
//! their request queue.
//!
//! Each copy is confirmed before the original is acknowledged, so moving a job does not lose it.
//! The job may run twice.

use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout};

use super::job_queues::{Destination, JobQueues};
use super::pending_acks::PendingAcks;
use super::reply_channel::SendOutcome;
use super::request_handler::RequestHandler;
use crate::protocol::{
    BATCH_HEADER, COPY_HEADER, DeadLettered, Message, Properties, Reply, is_rabbitmqs_header, limit_headers,
    mark_given_up, record_origin_queue, record_trace, record_user, remaining_delay, set_remaining_delay,
    since_last_failure,
};
use crate::service::{
    AfterFailure, DEAD_LETTER_WAIT, JobFailure, Origin, REDELIVERED_BATCH_WAIT, RETURNED_PAUSE,
    SHORTEST_WAIT, next_wait, outcome_of, rounded_up,
};
use crate::telemetry::{Event, count};

/// The first pause before another attempt to move a job that no queue took. Each further pause is
/// twice as long, up to [`MAX_RETRY_PAUSE`].
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// A job whose copy is neither confirmed nor refused after this time counts as stuck. The broker
/// may never confirm it: a quorum queue without a leader confirms nothing.
const UNCONFIRMED_FOR_LONG: Duration = Duration::from_secs(30);

/// The queue to which a job is moved, and the part of its delay that is left when it leaves that
/// queue.
#[derive(Debug, Clone, Copy)]
struct NextQueue {
    destination: Destination,
    delay_left: Duration,
}

impl NextQueue {
    fn without_delay(destination: Destination) -> Self {
        Self {
            destination,
            delay_left: Duration::ZERO,
        }
    }

    /// The first of the retry queues in which a job waits for the delay, one after another.
    fn first_retry(delay: Duration) -> Self {
        let (millis, delay_left) = next_wait(rounded_up(delay));
        Self {
            destination: Destination::Retry(millis),
            delay_left,
        }
    }
}

impl RequestHandler {
    /// Whether a request without a reply address is a job: its method is one-way and `idempotent`.
    pub(super) fn is_job(&self, message: &Message) -> bool {
        let method = message.properties.kind.as_ref();
        self.executor.dispatcher.job(method).is_some()
    }

    /// Returns how long a job must still wait before it runs. `None` if it may run now, or is no
    /// job. Must be called before a job runs: a job that comes from a retry queue does not count as
    /// a dead letter from then on.
    ///
    /// `message` is a request without a reply address that arrived on a queue with jobs.
    pub(super) fn prepare_job(&self, message: &mut Message) -> Option<Duration> {
        if !self.is_job(message) {
            return None;
        }
        let properties = &mut message.properties;
        let was_moved = properties.headers.get(COPY_HEADER).is_some();
        let has_only_expired = |dead: &DeadLettered| dead.non_expiry_deaths == 0;
        if was_moved && properties.dead_lettered.as_ref().is_some_and(has_only_expired) {
            // A retry queue dead-letters a job once it has waited. No worker has seen it there.
            properties.dead_lettered = None;
        }
        let delay = remaining_delay(&properties.headers);
        (!delay.is_zero()).then_some(delay)
    }

    /// Ends a request that gets no reply and arrived on a queue with jobs: moves it to a retry
    /// queue or to the dead-letter queue if it is a job that failed, or any request that was
    /// refused, and otherwise acknowledges it. `reply` says whether it failed, and `is_refused`
    /// whether it was refused, so that its method did not run. A batch that cannot be read counts
    /// as a request.
    pub(super) async fn end_job(
        &self,
        jobs: &JobQueues,
        mut message: Message,
        reply: &Reply,
        is_refused: bool,
        acks: PendingAcks,
    ) {
        let properties = &mut message.properties;
        let job = self.executor.dispatcher.job(properties.kind.as_ref());
        // A one-way request that is no job is acked even if its method has failed. If it was
        // refused, the dead-letter queue keeps it.
        let failure = JobFailure::of(reply).filter(|_| job.is_some() || is_refused);
        let Some(failure) = failure else {
            return acks.ack();
        };
        record_trace(&mut properties.headers, &reply.headers);
        // Boxed, so that the task of a job that succeeds stays small.
        match failure.record(&mut properties.headers, job, unix_millis(), fastrand::f64()) {
            AfterFailure::Retry(delay) => {
                if Box::pin(self.delay_job(jobs, message, delay, acks)).await {
                    count(Event::JobRetried { queue: &self.queue });
                }
            }
            AfterFailure::Dead => Box::pin(self.dead_letter_job(jobs, message, acks)).await,
        }
    }

    /// Moves to the dead-letter queue a job that was given up, or a refused request that gets no
    /// reply. If that queue does not take it, moves it to a retry queue. It comes back from there,
    /// and this is called again, because its headers say that it was given up.
    pub(super) async fn dead_letter_job(&self, jobs: &JobQueues, mut message: Message, acks: PendingAcks) {
        let (headers, queue) = (&mut message.properties.headers, &*self.queue);
        record_origin_queue(headers, queue);
        let reason = outcome_of(headers).as_str();
        // A dead-letter queue may be full for days, and jobs that wait here take up the prefetch.
        let fallback = NextQueue::without_delay(Destination::Retry(DEAD_LETTER_WAIT));
        let wanted = NextQueue::without_delay(Destination::Dead);
        let moving = self.move_job(jobs, wanted, Some(fallback), message, acks);
        match moving.await {
            Some(Destination::Dead) => count(Event::JobDied { queue, reason }),
            Some(_) => count(Event::DeadLetterRefused { queue }),
            None => {}
        }
    }

    /// Moves a job to the first retry queue for this delay. Returns whether the broker has
    /// confirmed its copy.
    pub(super) async fn delay_job(
        &self,
        jobs: &JobQueues,
        message: Message,
        delay: Duration,
        acks: PendingAcks,
    ) -> bool {
        let moving = self.move_job(jobs, NextQueue::first_retry(delay), None, message, acks);
        moving.await.is_some()
    }

    /// Moves a job that was redelivered in a batch to a retry queue, even if no `delay` is left;
    /// see [`REDELIVERED_BATCH_WAIT`]. If that queue does not take it, moves it to the request
    /// queue, so that the batch can be acked.
    pub(super) async fn unbatch_job(
        &self,
        jobs: &JobQueues,
        message: Message,
        delay: Duration,
        acks: PendingAcks,
    ) {
        let wanted = NextQueue::first_retry(delay.max(Duration::from_millis(REDELIVERED_BATCH_WAIT)));
        let fallback = NextQueue {
            destination: Destination::Requests,
            delay_left: delay.max(RETURNED_PAUSE),
        };
        self.move_job(jobs, wanted, Some(fallback), message, acks).await;
    }

    /// Moves a job to the end of the request queue, from which it was redelivered, or to a retry
    /// queue if that one does not take it.
    pub(super) async fn return_job(&self, jobs: &JobQueues, message: Message, acks: PendingAcks) {
        // If the request queue is full, this worker must let go of the job to take others from it.
        let fallback = NextQueue::without_delay(Destination::Retry(SHORTEST_WAIT));
        let wanted = NextQueue::without_delay(Destination::Requests);
        self.move_job(jobs, wanted, Some(fallback), message, acks).await;
    }

    /// Publishes a copy of a job, and acks the original once the broker has confirmed the copy.
    /// Tries `wanted`, then `fallback` if there is one, and begins again after a pause until one of
    /// them takes the copy. Returns the one that has it.
    ///
    /// Returns `None` if it is known that the original can no longer be acked, or if the handle is
    /// closed. The broker then delivers the original again.
    async fn move_job(
        &self,
        jobs: &JobQueues,
        wanted: NextQueue,
        fallback: Option<NextQueue>,
        mut message: Message,
        mut acks: PendingAcks,
    ) -> Option<Destination> {
        acks.mark_forwarded();
        make_copy(&mut message.properties);
        // A job that the dead-letter queue did not take before has been stuck since it failed.
        let stuck_before = match wanted.destination {
            Destination::Dead => since_last_failure(&message.properties.headers, unix_millis()),
            Destination::Retry(_) | Destination::Requests => Duration::ZERO,
        };
        let (begun, mut pause) = (Instant::now(), RETRY_PAUSE);
        let stuck_for = || stuck_before + begun.elapsed();
        let mut next = wanted;
        let mut may_have_closed_channel = false;
        let mut stuck = None;
        'moving: loop {
            if acks.forget_lost() {
                return None;
            }
            let destination = next.destination;
            let is_fallback = destination != wanted.destination;
            let untried_fallback = fallback.filter(|_| !is_fallback);
            let headers = &mut message.properties.headers;
            // A job that waits for the dead-letter queue must not run when it comes back.
            mark_given_up(headers, wanted.destination == Destination::Dead && is_fallback);
            set_remaining_delay(headers, next.delay_left);
            let mut publishing = pin!(jobs.publish(destination, &message, may_have_closed_channel));
            let published = loop {
                if let Ok(published) = timeout(UNCONFIRMED_FOR_LONG, &mut publishing).await {
                    break published;
                }
                jobs.log_unconfirmed(destination, stuck_for());
                stuck.get_or_insert_with(|| Stuck::new(&self.queue));
                if acks.forget_lost() {
                    return None;
                }
                // The job may run twice if the broker delivers this copy nevertheless. Only a job
                // that holds up the ack of its batch takes that risk: only `unbatch_job` falls back
                // to the request queue.
                if let Some(fallback) = untried_fallback
                    && fallback.destination == Destination::Requests
                {
                    next = fallback;
                    continue 'moving;
                }
            };
            may_have_closed_channel = false;
            let error = match published {
                Ok(SendOutcome::Confirmed) => {
                    acks.ack();
                    return Some(destination);
                }
                // `Expired` cannot happen, because `publish` sets no deadline.
                Ok(SendOutcome::Unroutable | SendOutcome::Refused | SendOutcome::Expired) => None,
                Ok(SendOutcome::Unsendable(error)) => {
                    may_have_closed_channel = true;
                    Some(error)
                }
                Err(error) if error.is_handle_ended() => return None,
                Err(error) => Some(error),
            };
            // A full request queue is no fault.
            let is_full_request_queue = destination == Destination::Requests && error.is_none();
            if !is_full_request_queue {
                jobs.log_not_taken(destination, stuck_for(), error.as_ref());
            }
            if let Some(fallback) = untried_fallback {
                next = fallback;
                continue;
            }
            next = wanted;
            stuck.get_or_insert_with(|| Stuck::new(&self.queue));
            tokio::time::sleep(pause).await;
            pause = MAX_RETRY_PAUSE.min(2 * pause);
        }
    }
}

/// Turns the properties of a job into those of the copy that a worker publishes.
fn make_copy(properties: &mut Properties) {
    let headers = &mut properties.headers;
    // In a copy, a worker wrote `rpc-user`. A sender may have forged it, and also `COPY_HEADER`. A
    // message with a user id is not a copy, because workers publish copies without one.
    let was_copy = headers.get(COPY_HEADER).is_some() && properties.user_id.is_none();
    if !was_copy {
        record_user(headers, properties.user_id.as_ref());
    }
    // RabbitMQ's own headers describe the original, not the copy.
    headers.retain(|name, _| !is_rabbitmqs_header(name));
    // The copy must not ask again for the batch size.
    headers.remove(BATCH_HEADER);
    limit_headers(headers);
    Origin::mark_moved(headers);
    // The copy must neither leave a retry queue early nor expire in the dead-letter queue.
    properties.expiration = None;
    properties.persistent = true;
    // Only the user itself can publish a message with its user id.
    properties.user_id = None;
}

fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// For as long as this exists, a metric counts one more job that cannot be moved.
struct Stuck<'a> {
    queue: &'a str,
}

impl<'a> Stuck<'a> {
    fn new(queue: &'a str) -> Self {
        count(Event::JobStuck {
            queue,
            is_stuck: true,
        });
        Self { queue }
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        let (queue, is_stuck) = (self.queue, false);
        count(Event::JobStuck { queue, is_stuck });
    }
}
