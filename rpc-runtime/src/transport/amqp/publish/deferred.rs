//! Confirms that are polled at intervals. Pure, except that it polls lapin's futures.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::Confirmation;
use tokio::time::Instant;

/// Resolves once a message is confirmed or has failed.
pub(super) type ConfirmFuture = BoxFuture<'static, ConfirmReport>;

/// lapin's report about a message: a confirm or an error.
pub(super) struct ConfirmReport {
    pub(super) sequence: u64,
    /// Whether the whole message was written.
    pub(super) written: bool,
    pub(super) confirmation: lapin::Result<Confirmation>,
}

/// The pause between polls while messages flow. The timer may add up to its resolution.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause between polls while nothing is confirmed and nothing is sent.
const MAX_PAUSE: Duration = Duration::from_millis(32);

/// How many messages a poll checks.
#[derive(Debug, Clone, Copy)]
pub(super) enum PollDepth {
    /// An early poll: the task was woken before the scheduled time, and the pause is the shortest.
    Short,
    /// A scheduled poll.
    Normal,
    /// Checks all messages: in some scheduled polls, at the end, and before the publisher decides
    /// about messages whose confirm has arrived and whose return has not. Finds confirms behind
    /// many messages to a queue that confirms nothing.
    Full,
}

impl PollDepth {
    /// The poll ends after this many consecutive unconfirmed messages.
    fn max_unconfirmed_in_a_row(self) -> usize {
        match self {
            Self::Short => 8,
            Self::Normal => 512,
            Self::Full => usize::MAX,
        }
    }
}

/// One in this many scheduled polls is a full one.
const FULL_POLL_INTERVAL: u8 = 16;

/// Confirms that are polled at intervals, several at once. Waking a task for each confirm would
/// cost as much as all other work for its message.
pub(super) struct DeferredConfirms {
    /// The confirms, in the order in which the messages were sent.
    confirms: VecDeque<ConfirmFuture>,
    /// The time of the next poll. `None` before the first poll, and after a poll that found nothing
    /// and left nothing to poll. The next message then wakes the task.
    next_poll: Option<Instant>,
    /// How many messages were sent since the last poll.
    sent: usize,
    /// Counts scheduled polls.
    polls: u8,
    /// The pause until the next poll.
    pause: Duration,
}

impl Default for DeferredConfirms {
    fn default() -> Self {
        Self {
            confirms: VecDeque::new(),
            next_poll: None,
            sent: 0,
            polls: 0,
            pause: MIN_PAUSE,
        }
    }
}

impl DeferredConfirms {
    pub(super) fn push(&mut self, confirm: ConfirmFuture) {
        self.confirms.push_back(confirm);
        self.sent += 1;
    }

    /// Whether the task that polls has to be woken now.
    pub(super) fn is_poll_due(&self, confirm_interval: usize) -> bool {
        // A message that is sent ends a longer pause.
        self.next_poll.is_none() || self.sent >= confirm_interval || self.pause > MIN_PAUSE
    }

    /// Polls, and returns the reports that have arrived. Sets the time of the next poll, unless
    /// this poll is an [early one](PollDepth::Short).
    pub(super) fn poll_now(&mut self, now: Instant) -> Vec<ConfirmReport> {
        // A message that was sent has ended a longer pause.
        let is_time = self.next_poll.is_none_or(|time| time <= now) || self.pause > MIN_PAUSE;
        // The poll resets `sent`.
        let is_idle = self.sent == 0;
        if !is_time {
            return self.poll(PollDepth::Short);
        }
        self.polls = (self.polls + 1) % FULL_POLL_INTERVAL;
        let reports = self.poll(match self.polls {
            0 => PollDepth::Full,
            _ => PollDepth::Normal,
        });
        self.pause = if is_idle && reports.is_empty() {
            MAX_PAUSE.min(2 * self.pause)
        } else {
            MIN_PAUSE
        };
        let is_over = self.confirms.is_empty() && reports.is_empty();
        self.next_poll = (!is_over).then(|| now + self.pause);
        reports
    }

    /// Polls the oldest messages first: the broker confirms messages roughly in the order in which
    /// they were sent.
    pub(super) fn poll(&mut self, depth: PollDepth) -> Vec<ConfirmReport> {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut reports, mut unconfirmed) = (Vec::new(), Vec::new());
        let mut in_a_row = 0;
        while in_a_row < depth.max_unconfirmed_in_a_row()
            && let Some(mut confirm) = self.confirms.pop_front()
        {
            match confirm.as_mut().poll(&mut cx) {
                Poll::Ready(report) => {
                    reports.push(report);
                    in_a_row = 0;
                }
                Poll::Pending => {
                    unconfirmed.push(confirm);
                    in_a_row += 1;
                }
            }
        }
        for confirm in unconfirmed.into_iter().rev() {
            self.confirms.push_front(confirm);
        }
        self.sent = 0;
        reports
    }

    /// The time of the next poll. `None` if nothing was left to poll after the last poll. The next
    /// message then wakes the task, and may have been sent since.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.next_poll
    }

    /// Whether no confirm is outstanding.
    pub(super) fn is_empty(&self) -> bool {
        self.confirms.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    /// Adds messages, and returns a sender for each, which confirms it.
    fn sent(deferred: &mut DeferredConfirms, messages: u64) -> Vec<oneshot::Sender<()>> {
        let one = |sequence| {
            let (confirm, confirmed) = oneshot::channel();
            let confirming = confirmed.map(move |_| ConfirmReport {
                sequence,
                written: true,
                confirmation: Ok(Confirmation::Ack(None)),
            });
            deferred.push(confirming.boxed());
            confirm
        };
        (0..messages).map(one).collect()
    }

    fn sequences(confirmed: Vec<ConfirmReport>) -> Vec<u64> {
        confirmed
            .into_iter()
            .map(|confirmed| confirmed.sequence)
            .collect()
    }

    #[test]
    fn a_poll_is_due_for_the_first_message_and_for_several_more() {
        let mut deferred = DeferredConfirms::default();
        let now = Instant::now();
        let confirms = sent(&mut deferred, 1);
        assert!(deferred.is_poll_due(3));
        assert!(deferred.poll_now(now).is_empty());
        // The next poll has a time now.
        assert_eq!(deferred.next_poll, Some(now + MIN_PAUSE));
        let more = sent(&mut deferred, 2);
        assert!(!deferred.is_poll_due(3) && deferred.is_poll_due(2));
        for confirm in confirms.into_iter().chain(more) {
            confirm.send(()).unwrap();
        }
        assert_eq!(sequences(deferred.poll_now(now)), [0, 0, 1]);
        // Polling ends after a poll that finds nothing.
        let later = now + MIN_PAUSE;
        assert!(deferred.next_poll.is_some());
        assert!(deferred.poll_now(later).is_empty());
        assert_eq!(deferred.next_poll, None);
    }

    #[test]
    fn a_short_poll_checks_the_oldest_messages_and_a_normal_one_more() {
        let mut deferred = DeferredConfirms::default();
        let now = Instant::now();
        let mut confirms: VecDeque<_> = sent(&mut deferred, 30).into();
        deferred.poll_now(now);
        confirms.pop_front().unwrap().send(()).unwrap();
        confirms.pop_back().unwrap().send(()).unwrap();
        assert_eq!(sequences(deferred.poll_now(now)), [0]);
        assert_eq!(sequences(deferred.poll_now(now + MIN_PAUSE)), [29]);
        assert_eq!(deferred.confirms.len(), 28);
    }

    #[test]
    fn polls_become_rare_while_nothing_happens() {
        let mut deferred = DeferredConfirms::default();
        let mut now = Instant::now();
        let stuck = sent(&mut deferred, 1);
        let pauses: Vec<_> = (0..8)
            .map(|_| {
                assert!(deferred.poll_now(now).is_empty());
                let pause = deferred.next_poll.unwrap() - now;
                now += pause;
                pause.as_millis()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32, 32]);
        let more = sent(&mut deferred, 1);
        assert!(deferred.is_poll_due(usize::MAX));
        deferred.poll_now(now);
        assert_eq!(deferred.next_poll, Some(now + MIN_PAUSE));
        drop((stuck, more));
    }

    #[test]
    fn unconfirmed_messages_do_not_hide_a_confirm_for_long() {
        let mut deferred = DeferredConfirms::default();
        let mut now = Instant::now();
        let mut confirms = sent(&mut deferred, 2000);
        confirms.pop().unwrap().send(()).unwrap();
        for _ in 0..FULL_POLL_INTERVAL {
            if sequences(deferred.poll_now(now)) == [1999] {
                return;
            }
            now += MAX_PAUSE;
        }
        panic!("the confirm was not seen");
    }
}
