//! Ends jobs: acknowledges them, or moves them to a retry queue or to the dead-letter queue.
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
    BATCH_HEADER, COPY_HEADER, DeadLettered, InvalidName, Message, Reply, limit_headers, record_origin,
    record_trace, record_user, remaining_delay, reserved_header, set_remaining_delay,
};
use crate::service::{AfterFailure, JobFailure, Origin, SHORTEST_WAIT, next_wait, rounded_up};
use crate::telemetry::{Event, count};

/// How long to wait before the next attempt to move a job that could not be moved, at first and at
/// most.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// A copy that is neither confirmed nor refused after this time counts as stuck. The broker may
/// never confirm it: a quorum queue without a leader confirms nothing.
const UNCONFIRMED_FOR_LONG: Duration = Duration::from_secs(30);

impl RequestHandler {
    pub(super) fn is_job(&self, message: &Message) -> bool {
        let method = message.properties.kind.as_ref();
        self.executor.dispatcher.job(method).is_some()
    }

    /// Prepares a request without a reply address that arrived on a queue with jobs: a job that a
    /// retry queue dead-lettered does not count as a dead letter. Returns how long it must still
    /// wait before it runs. `None` if it may run, or is no job.
    pub(super) fn prepare_job(&self, message: &mut Message) -> Option<Duration> {
        let properties = &mut message.properties;
        self.executor.dispatcher.job(properties.kind.as_ref())?;
        let was_moved = properties.headers.get(COPY_HEADER).is_some();
        let has_only_waited = |dead: &DeadLettered| dead.non_expiry_deaths == 0;
        if was_moved && properties.dead_lettered.as_ref().is_some_and(has_only_waited) {
            // It comes from a retry queue, where no worker has seen it.
            properties.dead_lettered = None;
        }
        let delay = remaining_delay(&properties.headers);
        (!delay.is_zero()).then_some(delay)
    }

    /// Ends a request without a reply address: acknowledges it, or moves it to a retry queue or to
    /// the dead-letter queue.
    pub(super) async fn end_job(
        &self,
        jobs: &JobQueues,
        mut message: Message,
        reply: &Reply,
        is_refused: bool,
        acks: PendingAcks,
    ) {
        let properties = &mut message.properties;
        let method = self.executor.dispatcher.job(properties.kind.as_ref());
        let failure = JobFailure::of(reply).filter(|_| method.is_some() || is_refused);
        let Some(failure) = failure else {
            return acks.ack();
        };
        record_trace(&mut properties.headers, &reply.headers);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        match failure.record(&mut properties.headers, method, now, fastrand::f64()) {
            AfterFailure::Retry(delay) => {
                if self.delay_job(jobs, message, delay, acks).await {
                    count(Event::JobRetried { queue: &self.queue });
                }
            }
            AfterFailure::Dead => {
                record_origin(&mut properties.headers, &self.queue);
                if self.move_job(jobs, Destination::Dead, message, acks).await {
                    let (queue, reason) = (&self.queue, failure.outcome().as_str());
                    count(Event::JobDied { queue, reason });
                }
            }
        }
    }

    /// Moves a job to a retry queue. Returns whether the broker has confirmed its copy.
    pub(super) async fn delay_job(
        &self,
        jobs: &JobQueues,
        mut message: Message,
        delay: Duration,
        acks: PendingAcks,
    ) -> bool {
        let (millis, rest) = next_wait(rounded_up(delay));
        set_remaining_delay(&mut message.properties.headers, rest);
        self.move_job(jobs, Destination::Retry(millis), message, acks)
            .await
    }

    /// Publishes a copy of a job, and acks the original once the broker has confirmed the copy.
    /// Returns whether it has.
    ///
    /// Tries until that succeeds, the original can no longer be acked, or the handle is closed. In
    /// the last two cases, the broker delivers the original again.
    pub(super) async fn move_job(
        &self,
        jobs: &JobQueues,
        mut destination: Destination,
        mut message: Message,
        mut acks: PendingAcks,
    ) -> bool {
        acks.mark_forwarded();
        let properties = &mut message.properties;
        let headers = &mut properties.headers;
        // A sender may have forged the header `rpc-user`, and also that of a copy. A message with a
        // user id is not a copy, because workers publish copies without one.
        if headers.get(COPY_HEADER).is_none() || properties.user_id.is_some() {
            record_user(headers, properties.user_id.as_ref());
        }
        // RabbitMQ's own headers describe the original, not the copy.
        headers.retain(|name, _| reserved_header(name) != Some(InvalidName::Reserved));
        // The copy must not ask again for the batch size.
        headers.remove(BATCH_HEADER);
        limit_headers(headers);
        Origin::mark_moved(headers);
        properties.expiration = None;
        properties.persistent = true;
        // Only the user itself can publish a message with its user id.
        properties.user_id = None;
        let (begun, mut pause) = (Instant::now(), RETRY_PAUSE);
        let mut may_have_closed_channel = false;
        let mut stuck = None;
        loop {
            if acks.forget_lost() {
                return false;
            }
            let mut publishing = pin!(jobs.publish(destination, &message, may_have_closed_channel));
            let published = loop {
                if let Ok(published) = timeout(UNCONFIRMED_FOR_LONG, &mut publishing).await {
                    break published;
                }
                jobs.log_stuck(destination, begun, None);
                stuck.get_or_insert_with(|| Stuck::new(&self.queue));
                if acks.forget_lost() {
                    return false;
                }
            };
            match published {
                Ok(SendOutcome::Confirmed) => {
                    acks.ack();
                    return true;
                }
                Ok(SendOutcome::Expired) => {}
                // The request queue is full, and this worker would not empty it by waiting. So the
                // job waits in a retry queue.
                Ok(SendOutcome::Refused(None)) if destination == Destination::Requests => {
                    destination = Destination::Retry(SHORTEST_WAIT);
                    continue;
                }
                Ok(SendOutcome::Unroutable) => jobs.log_stuck(destination, begun, None),
                Ok(SendOutcome::Refused(error)) => {
                    may_have_closed_channel = error.is_some();
                    jobs.log_stuck(destination, begun, error.as_ref());
                }
                Err(error) if error.is_handle_ended() => return false,
                Err(error) => jobs.log_stuck(destination, begun, Some(&error)),
            }
            stuck.get_or_insert_with(|| Stuck::new(&self.queue));
            tokio::time::sleep(pause).await;
            pause = MAX_RETRY_PAUSE.min(2 * pause);
        }
    }
}

/// Counts a job that cannot be moved for as long as this exists.
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
