//! Receives the answers to one request, at a reply queue of its own.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::StreamExt;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::super::caller::Caller;
use super::gathering::{Answer, GatherEnd, GatherLimits, Gathering};
use super::target::GatherTarget;
use crate::error::BrokerError;
use crate::transport::Subscription;

/// Receives the answers to one request, through a queue of its own: in the reply queue of calls,
/// the first reply to a request is also the last.
#[derive(Debug)]
pub(super) struct Answers {
    gathering: Gathering,
    target: Arc<GatherTarget>,
    replies: Arc<OpenReplies>,
    timer: Pin<Box<Sleep>>,
    /// Closes the reply queue at the deadline, even if nobody polls.
    _closing: AbortOnDropHandle<()>,
}

/// The subscription to the reply queue, and the [`Caller`] that sent the request, which keeps the
/// connection open meanwhile. `None` once gathering has ended, or the deadline has passed.
#[derive(Debug)]
struct OpenReplies(Mutex<Option<(Subscription, Arc<Caller>)>>);

impl OpenReplies {
    fn lock(&self) -> MutexGuard<'_, Option<(Subscription, Arc<Caller>)>> {
        // A panic while a delivery is polled leaves a subscription that can be dropped.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the subscription, which deletes its exclusive queue.
    fn close(&self) {
        let open = self.lock().take();
        // After the lock is released: the drop may be the end of the whole handle.
        drop(open);
    }
}

impl Answers {
    /// Begins to gather the answers that arrive with this subscription.
    pub(super) fn new(
        target: Arc<GatherTarget>,
        limits: GatherLimits,
        replies: Subscription,
        caller: Arc<Caller>,
    ) -> Self {
        let deadline = limits.deadline;
        let gathering = Gathering::new(target.correlation_id.clone(), limits);
        let runtime = caller.transport().runtime();
        let replies = Arc::new(OpenReplies(Mutex::new(Some((replies, caller)))));
        let closed = Arc::clone(&replies);
        let closing = async move {
            sleep_until(deadline).await;
            closed.close();
        };
        let answers = Self {
            timer: Box::pin(sleep_until(gathering.wake_at())),
            gathering,
            target,
            replies,
            _closing: AbortOnDropHandle::new(runtime.spawn(closing)),
        };
        // If zero workers are expected, gathering has ended already.
        answers.close_if_ended();
        answers
    }

    pub(super) fn gathering(&self) -> &Gathering {
        &self.gathering
    }

    /// Whether the broker confirmed that the queues of all workers took the request. `false` if any
    /// attempt that workers may have got is unconfirmed.
    pub(super) fn is_confirmed(&self) -> bool {
        self.target.is_confirmed()
    }

    /// Returns the next answer, or `None` once gathering has ended.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        loop {
            // The deadline is checked for each delivery, and not only if none is ready: deliveries
            // may never pause.
            self.gathering.check_deadline(Instant::now());
            self.close_if_ended();
            let replies = Arc::clone(&self.replies);
            let mut open = replies.lock();
            let Some((subscription, _)) = &mut *open else {
                // Only the deadline closes the queue before gathering has ended. If gathering has
                // ended, this has no effect.
                self.gathering.end_with(GatherEnd::Limit);
                return Poll::Ready(None);
            };
            match subscription.deliveries.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(delivery))) => {
                    subscription.control.ack(delivery.tag);
                    drop(open);
                    let (message, malformed) = (delivery.message, delivery.malformed);
                    let answer = self.gathering.receive(message, malformed, Instant::now());
                    self.close_if_ended();
                    if answer.is_some() {
                        return Poll::Ready(answer);
                    }
                }
                Poll::Ready(Some(Err(lost))) => self.gathering.end_with(GatherEnd::Lost(lost)),
                Poll::Ready(None) => {
                    let lost = BrokerError::Lost { source: None };
                    self.gathering.end_with(GatherEnd::Lost(lost));
                }
                Poll::Pending => {
                    let wake_at = self.gathering.wake_at();
                    if self.timer.deadline() != wake_at {
                        self.timer.as_mut().reset(wake_at);
                    }
                    std::task::ready!(self.timer.as_mut().poll(cx));
                    self.gathering.check_time(Instant::now());
                }
            }
        }
    }

    /// Closes the reply queue once gathering has ended.
    fn close_if_ended(&self) {
        if self.gathering.end().is_some() {
            self.replies.close();
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.replies.close();
    }
}
