//! Messages that nobody waits for, and how their confirms are noticed all the same. Pure, but for the futures of lapin that it polls.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::under_way::{Confirmed, Confirming};

/// How long it takes at the most until the broker's word on an unhurried message is noticed. A timer's own tick comes on top.
const LATEST: Duration = Duration::from_millis(1);

/// How long they are not looked at, where nothing is confirmed and no more is sent.
const LONGEST_PAUSE: Duration = Duration::from_millis(32);

/// How thoroughly they are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Glance {
    /// As several more were sent.
    Quick,
    /// As it is time.
    Good,
    /// Now and then, and at the end: a queue that confirms nothing does not keep the others from being seen.
    Whole,
}

impl Glance {
    /// After so many messages in a row that are not confirmed, those sent later are taken not to be either.
    fn unconfirmed_in_a_row(self) -> usize {
        match self {
            Self::Quick => 8,
            Self::Good => 512,
            Self::Whole => usize::MAX,
        }
    }
}

/// Every how manieth timely look is at all of them.
const WHOLE_LOOKS: u8 = 16;

/// Messages that nobody waits for: they are looked at now and then, several at once. Nobody is woken for each of them, which would cost as
/// much as all else about it.
pub(super) struct Unhurried {
    /// First sent, first.
    messages: VecDeque<Confirming>,
    /// When they are to be looked at, where there is a time for it: else whoever does so is to be woken.
    next_look: Option<Instant>,
    /// How many were sent since the last look.
    sent: usize,
    /// How many looks were timely.
    looks: u8,
    /// Until the next one.
    pause: Duration,
}

impl Default for Unhurried {
    fn default() -> Self {
        Self {
            messages: VecDeque::new(),
            next_look: None,
            sent: 0,
            looks: 0,
            pause: LATEST,
        }
    }
}

impl Unhurried {
    pub(super) fn push(&mut self, message: Confirming) {
        self.messages.push_back(message);
        self.sent += 1;
    }

    /// Whether who looks at them is to be woken.
    pub(super) fn is_look_due(&self, in_a_row: usize) -> bool {
        self.next_look.is_none() || self.sent >= in_a_row || self.pause > LATEST
    }

    /// Those of which lapin says something by now.
    pub(super) fn look(&mut self, now: Instant) -> Vec<Confirmed> {
        let is_time = self.next_look.is_none_or(|time| time <= now) || self.pause > LATEST;
        let is_still = self.sent == 0;
        if !is_time {
            return self.glance(Glance::Quick);
        }
        self.looks = (self.looks + 1) % WHOLE_LOOKS;
        let confirmed = self.glance(match self.looks {
            0 => Glance::Whole,
            _ => Glance::Good,
        });
        self.pause = match is_still && confirmed.is_empty() {
            true => LONGEST_PAUSE.min(2 * self.pause),
            false => LATEST,
        };
        let is_over = self.messages.is_empty() && confirmed.is_empty();
        self.next_look = (!is_over).then(|| now + self.pause);
        confirmed
    }

    /// The oldest first: the broker confirms messages in about the order in which they were sent.
    pub(super) fn glance(&mut self, glance: Glance) -> Vec<Confirmed> {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut confirmed, mut unconfirmed) = (Vec::new(), Vec::new());
        let mut in_a_row = 0;
        while in_a_row < glance.unconfirmed_in_a_row()
            && let Some(mut message) = self.messages.pop_front()
        {
            match message.as_mut().poll(&mut cx) {
                Poll::Ready(message) => {
                    confirmed.push(message);
                    in_a_row = 0;
                }
                Poll::Pending => {
                    unconfirmed.push(message);
                    in_a_row += 1;
                }
            }
        }
        for message in unconfirmed.into_iter().rev() {
            self.messages.push_front(message);
        }
        self.sent = 0;
        confirmed
    }

    /// When to look, where there is a time for it.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use lapin::Confirmation;
    use tokio::sync::oneshot;

    use super::*;

    /// Messages that were sent, and how to confirm each.
    fn sent(unhurried: &mut Unhurried, messages: u64) -> Vec<oneshot::Sender<()>> {
        let one = |sequence| {
            let (confirm, confirmed) = oneshot::channel();
            let confirming = confirmed.map(move |_| Confirmed {
                sequence,
                written: true,
                confirmation: Ok(Confirmation::Ack(None)),
            });
            unhurried.push(confirming.boxed());
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
    fn who_looks_is_woken_for_the_first_and_for_several_more() {
        let mut unhurried = Unhurried::default();
        let now = Instant::now();
        let confirms = sent(&mut unhurried, 1);
        assert!(unhurried.is_look_due(3));
        assert!(unhurried.look(now).is_empty());
        // There is a time for it now.
        assert_eq!(unhurried.next_look, Some(now + LATEST));
        let more = sent(&mut unhurried, 2);
        assert!(!unhurried.is_look_due(3) && unhurried.is_look_due(2));
        for confirm in confirms.into_iter().chain(more) {
            confirm.send(()).unwrap();
        }
        assert_eq!(sequences(unhurried.look(now)), [0, 0, 1]);
        // Until a look finds nothing more.
        let later = now + LATEST;
        assert!(unhurried.next_look.is_some());
        assert!(unhurried.look(later).is_empty());
        assert_eq!(unhurried.next_look, None);
    }

    #[test]
    fn a_quick_look_is_at_the_oldest_and_a_timely_one_at_more() {
        let mut unhurried = Unhurried::default();
        let now = Instant::now();
        let mut confirms: VecDeque<_> = sent(&mut unhurried, 30).into();
        unhurried.look(now);
        confirms.pop_front().unwrap().send(()).unwrap();
        confirms.pop_back().unwrap().send(()).unwrap();
        assert_eq!(sequences(unhurried.look(now)), [0]);
        assert_eq!(sequences(unhurried.look(now + LATEST)), [29]);
        assert_eq!(unhurried.messages.len(), 28);
    }

    #[test]
    fn where_nothing_happens_looks_are_seldom_until_something_does() {
        let mut unhurried = Unhurried::default();
        let mut now = Instant::now();
        let stuck = sent(&mut unhurried, 1);
        let pauses: Vec<_> = (0..8)
            .map(|_| {
                assert!(unhurried.look(now).is_empty());
                let pause = unhurried.next_look.unwrap() - now;
                now += pause;
                pause.as_millis()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32, 32]);
        let more = sent(&mut unhurried, 1);
        assert!(unhurried.is_look_due(usize::MAX));
        unhurried.look(now);
        assert_eq!(unhurried.next_look, Some(now + LATEST));
        drop((stuck, more));
    }

    #[test]
    fn messages_that_are_never_confirmed_hide_no_others_for_long() {
        let mut unhurried = Unhurried::default();
        let mut now = Instant::now();
        let mut confirms = sent(&mut unhurried, 2000);
        confirms.pop().unwrap().send(()).unwrap();
        for _ in 0..WHOLE_LOOKS {
            if sequences(unhurried.look(now)) == [1999] {
                return;
            }
            now += LONGEST_PAUSE;
        }
        panic!("it was not seen");
    }
}
