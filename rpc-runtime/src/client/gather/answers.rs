//! Receives the answers to one request, at a reply queue of its own.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use tokio::time::{Instant, Sleep, sleep_until};

use super::gathering::{Answer, GatherEnd, GatherLimits, Gathering};
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::Subscription;

/// Where the answers to a broadcast go.
#[derive(Debug)]
pub(crate) struct GatherTarget {
    pub(crate) reply_to: ShortStr,
    /// The same for all attempts of a layer, so that no worker counts twice.
    pub(crate) correlation_id: ShortStr,
}

/// Receives the answers to one request. They do not use the reply queue of calls, where each id
/// belongs to one reply.
#[derive(Debug)]
pub(super) struct Answers {
    gathering: Gathering,
    /// `None` once gathering has ended. Dropping it deletes the reply queue.
    replies: Option<Subscription>,
    timer: Pin<Box<Sleep>>,
}

impl Answers {
    pub(super) fn new(id: ShortStr, limits: GatherLimits, replies: Subscription) -> Self {
        let gathering = Gathering::new(id, limits);
        Self {
            timer: Box::pin(sleep_until(gathering.wake_at())),
            gathering,
            replies: Some(replies),
        }
    }

    pub(super) fn gathering(&self) -> &Gathering {
        &self.gathering
    }

    /// Returns the next answer, or `None` once gathering has ended.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        while self.gathering.end().is_none() {
            let Some(replies) = &mut self.replies else {
                break;
            };
            match replies.deliveries.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(delivery))) => {
                    let (message, malformed) = (delivery.message, delivery.malformed);
                    if let Some(answer) = self.gathering.receive(message, malformed, Instant::now()) {
                        return Poll::Ready(Some(answer));
                    }
                    continue;
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
                    self.gathering.elapsed(Instant::now());
                }
            }
        }
        self.replies = None;
        Poll::Ready(None)
    }
}
