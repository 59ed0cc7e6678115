//! Confirms that nobody waits for. Pure, but for lapin's futures that it polls.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::Confirmation;
use tokio::time::Instant;

/// Resolves once a message is confirmed.
pub(super) type ConfirmFuture = BoxFuture<'static, Confirmed>;

/// What lapin reports about a message.
pub(super) struct Confirmed {
    pub(super) sequence: u64,
    /// The whole message was written.
    pub(super) written: bool,
    pub(super) confirmation: lapin::Result<Confirmation>,
}

/// How long a confirm may go unnoticed. The timer's own tick is added.
const MAX_DELAY: Duration = Duration::from_millis(1);

/// The longest pause between polls while nothing is confirmed and nothing is sent.
const MAX_PAUSE: Duration = Duration::from_millis(32);

/// How many messages a poll looks at.
#[derive(Debug, Clone, Copy)]
pub(super) enum PollDepth {
    /// A poll before its time, because several more messages were sent.
    Short,
    /// A poll at its time.
    Normal,
    /// A poll of all messages, now and then and at the end. A queue that confirms nothing does not
    /// hide the confirms of other queues for longer.
    Full,
}

impl PollDepth {
    /// The poll ends after so many unconfirmed messages in a row.
    fn max_unconfirmed_in_a_row(self) -> usize {
        match self {
            Self::Short => 8,
            Self::Normal => 512,
            Self::Full => usize::MAX,
        }
    }
}

/// One of so many polls at their time is a full one.
const POLLS_PER_FULL_POLL: u8 = 16;

/// Confirms that are polled at intervals, several at once. To wake a task for each of them would
/// cost as much as everything else about the message.
pub(super) struct DeferredConfirms {
    /// In the order in which the messages were sent.
    confirms: VecDeque<ConfirmFuture>,
    /// `None` if there is nothing to poll until the next message is sent.
    next_poll: Option<Instant>,
    /// How many messages were sent since the last poll.
    sent: usize,
    /// Counts polls at their time.
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
            pause: MAX_DELAY,
        }
    }
}

impl DeferredConfirms {
    pub(super) fn push(&mut self, confirm: ConfirmFuture) {
        self.confirms.push_back(confirm);
        self.sent += 1;
    }

    /// Whether the task that polls has to be woken.
    pub(super) fn is_poll_due(&self, in_a_row: usize) -> bool {
        self.next_poll.is_none() || self.sent >= in_a_row || self.pause > MAX_DELAY
    }

    /// Returns the messages that were confirmed, and sets the time of the next poll.
    pub(super) fn poll_due(&mut self, now: Instant) -> Vec<Confirmed> {
        let is_time = self.next_poll.is_none_or(|time| time <= now) || self.pause > MAX_DELAY;
        let is_idle = self.sent == 0;
        if !is_time {
            return self.poll(PollDepth::Short);
        }
        self.polls = (self.polls + 1) % POLLS_PER_FULL_POLL;
        let confirmed = self.poll(match self.polls {
            0 => PollDepth::Full,
            _ => PollDepth::Normal,
        });
        self.pause = if is_idle && confirmed.is_empty() {
            MAX_PAUSE.min(2 * self.pause)
        } else {
            MAX_DELAY
        };
        let is_over = self.confirms.is_empty() && confirmed.is_empty();
        self.next_poll = (!is_over).then(|| now + self.pause);
        confirmed
    }

    /// Polls the oldest messages first: the broker confirms messages roughly in the order in which
    /// they were sent.
    pub(super) fn poll(&mut self, depth: PollDepth) -> Vec<Confirmed> {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut confirmed, mut unconfirmed) = (Vec::new(), Vec::new());
        let mut in_a_row = 0;
        while in_a_row < depth.max_unconfirmed_in_a_row()
            && let Some(mut confirm) = self.confirms.pop_front()
        {
            match confirm.as_mut().poll(&mut cx) {
                Poll::Ready(message) => {
                    confirmed.push(message);
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
        confirmed
    }

    /// The time of the next poll. `None` if there is nothing to poll.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.next_poll
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    /// Sends messages, and returns a sender for each that confirms it.
    fn sent(deferred: &mut DeferredConfirms, messages: u64) -> Vec<oneshot::Sender<()>> {
        let one = |sequence| {
            let (confirm, confirmed) = oneshot::channel();
            let confirming = confirmed.map(move |_| Confirmed {
                sequence,
                written: true,
                confirmation: Ok(Confirmation::Ack(None)),
            });
            deferred.push(confirming.boxed());
            confirm
        };
        (0..messages).map(one).collect()
    }

    fn sequences(confirmed: Vec<Confirmed>) -> Vec<u64> {
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
        assert!(deferred.poll_due(now).is_empty());
        // Now the next poll has a time.
        assert_eq!(deferred.next_poll, Some(now + MAX_DELAY));
        let more = sent(&mut deferred, 2);
        assert!(!deferred.is_poll_due(3) && deferred.is_poll_due(2));
        for confirm in confirms.into_iter().chain(more) {
            confirm.send(()).unwrap();
        }
        assert_eq!(sequences(deferred.poll_due(now)), [0, 0, 1]);
        // Polls end once one finds nothing more.
        let later = now + MAX_DELAY;
        assert!(deferred.next_poll.is_some());
        assert!(deferred.poll_due(later).is_empty());
        assert_eq!(deferred.next_poll, None);
    }

    #[test]
    fn a_short_poll_looks_at_the_oldest_and_a_normal_one_at_more() {
        let mut deferred = DeferredConfirms::default();
        let now = Instant::now();
        let mut confirms: VecDeque<_> = sent(&mut deferred, 30).into();
        deferred.poll_due(now);
        confirms.pop_front().unwrap().send(()).unwrap();
        confirms.pop_back().unwrap().send(()).unwrap();
        assert_eq!(sequences(deferred.poll_due(now)), [0]);
        assert_eq!(sequences(deferred.poll_due(now + MAX_DELAY)), [29]);
        assert_eq!(deferred.confirms.len(), 28);
    }

    #[test]
    fn polls_are_rare_while_nothing_happens() {
        let mut deferred = DeferredConfirms::default();
        let mut now = Instant::now();
        let stuck = sent(&mut deferred, 1);
        let pauses: Vec<_> = (0..8)
            .map(|_| {
                assert!(deferred.poll_due(now).is_empty());
                let pause = deferred.next_poll.unwrap() - now;
                now += pause;
                pause.as_millis()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32, 32]);
        let more = sent(&mut deferred, 1);
        assert!(deferred.is_poll_due(usize::MAX));
        deferred.poll_due(now);
        assert_eq!(deferred.next_poll, Some(now + MAX_DELAY));
        drop((stuck, more));
    }

    #[test]
    fn unconfirmed_messages_do_not_hide_a_confirm_for_long() {
        let mut deferred = DeferredConfirms::default();
        let mut now = Instant::now();
        let mut confirms = sent(&mut deferred, 2000);
        confirms.pop().unwrap().send(()).unwrap();
        for _ in 0..POLLS_PER_FULL_POLL {
            if sequences(deferred.poll_due(now)) == [1999] {
                return;
            }
            now += MAX_PAUSE;
        }
        panic!("the confirm was not seen");
    }
}
