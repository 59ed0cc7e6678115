//! When deliveries are acknowledged, as in this library: a millisecond after the first of them is
//! done, or once an eighth of the prefetch is done.

use std::time::{Duration, Instant};

use super::frames::ack_up_to;
use super::socket::Socket;

/// How long an acknowledgement may wait for others.
const MAX_DELAY: Duration = Duration::from_millis(1);

/// The deliveries of a channel that are done, all up to a tag.
#[derive(Debug)]
pub(super) struct Acks {
    /// The tag of the last one that is done.
    done: u64,
    /// The tag up to which acknowledgements were sent.
    sent: u64,
    /// When the first one that is done and not acknowledged was done.
    since: Option<Instant>,
    /// This many are acknowledged without waiting for more: an eighth of the prefetch.
    threshold: u64,
}

impl Acks {
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            done: 0,
            sent: 0,
            since: None,
            threshold: u64::from(prefetch / 8).max(1),
        }
    }

    /// Records that all deliveries up to this one are done.
    pub(super) fn done(&mut self, tag: u64, now: Instant) {
        self.done = tag;
        self.since.get_or_insert(now);
    }

    /// Returns how long to wait for sockets: until an acknowledgement is due, or `otherwise` if
    /// none waits.
    pub(super) fn patience(&self, now: Instant, otherwise: Duration) -> Duration {
        self.since.map_or(otherwise, |since| {
            (since + MAX_DELAY).saturating_duration_since(now)
        })
    }

    /// Acknowledges all deliveries that are done, if an acknowledgement is due.
    pub(super) fn send(&mut self, socket: &mut Socket, now: Instant) -> anyhow::Result<()> {
        match self.take(now) {
            Some(tag) => socket.write(&ack_up_to(tag)),
            None => Ok(()),
        }
    }

    /// Returns the tag up to which to acknowledge now, and counts it as sent. `None` if nothing is
    /// due.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let is_due = now >= self.since? + MAX_DELAY || self.done - self.sent >= self.threshold;
        if !is_due {
            return None;
        }
        self.since = None;
        self.sent = self.done;
        Some(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_wait_for_others() {
        let begin = Instant::now();
        let mut acks = Acks::new(64);
        acks.done(1, begin);
        assert_eq!(acks.take(begin), None);
        acks.done(7, begin + MAX_DELAY / 2);
        assert_eq!(acks.take(begin + MAX_DELAY / 2), None);
        assert_eq!(acks.take(begin + MAX_DELAY), Some(7));
        assert_eq!(acks.take(begin + MAX_DELAY * 9), None);
        acks.done(15, begin);
        assert_eq!(acks.take(begin), Some(15));
    }
}
