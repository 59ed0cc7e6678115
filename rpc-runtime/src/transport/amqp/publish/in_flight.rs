//! The messages of one channel that were sent and are not confirmed yet. Pure: no I/O.
//!
//! The broker counts the messages that a channel publishes, and confirms them by number. It returns
//! a mandatory message that it cannot route before it confirms it. A return has no number, so it is
//! matched by the message's routing key and its id.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::super::wire::Confirm;
use super::refusals::{Refusals, Sent};
use crate::error::BrokerError;
use crate::protocol::ShortStr;
use crate::transport::{ConfirmListener, Published, SendToken};

/// How long a channel that is given up waits for the last confirms.
const LAST_CONFIRMS_LIMIT: Duration = Duration::from_secs(5);

/// The number of the first message of a channel.
const FIRST: u64 = 1;

/// The outcome of a message that is not or no longer in flight, and what is needed to report it.
pub(super) struct Outcome {
    pub(super) listener: Arc<dyn ConfirmListener>,
    pub(super) published: Published,
    /// How many permits the message took, to be given back.
    pub(super) permits: u32,
}

/// A message that was sent and is not confirmed yet.
pub(super) struct InFlight {
    pub(super) queue: ShortStr,
    /// Identifies the message in a return. `None` if it is not mandatory, so that the broker never
    /// returns it.
    pub(super) id: Option<ShortStr>,
    pub(super) listener: Arc<dyn ConfirmListener>,
    pub(super) permits: u32,
    /// Where the message ends in what the connection writes; see
    /// [`ContentChannel::publish`](super::super::wire::ContentChannel::publish). `None` if it will
    /// not be written.
    pub(super) position: Option<u64>,
    /// Kept until the outcome: it may hold a permit of the sender.
    pub(super) _send_token: Option<SendToken>,
    /// Whether the broker has returned the message. Its confirm follows.
    pub(super) is_returned: bool,
}

impl InFlight {
    /// Returns the message's outcome, to be reported to its listener.
    fn finish(self, published: Published) -> Outcome {
        Outcome {
            listener: self.listener,
            published,
            permits: self.permits,
        }
    }
}

pub(super) struct InFlightMessages {
    /// By their numbers.
    messages: BTreeMap<u64, InFlight>,
    /// The number of the next message.
    next: u64,
    refusals: Refusals,
    /// The number of the next message at the last call of [`old_listeners`](Self::old_listeners).
    old_before: u64,
    /// The latest time to give up the channel. Set once [`Refusals`] say so.
    close_deadline: Option<Instant>,
    /// Why nothing can be sent any more.
    lost: Option<BrokerError>,
    /// Whether the publisher was dropped. Nothing more will be sent then.
    pub(super) is_publisher_dropped: bool,
}

impl Default for InFlightMessages {
    fn default() -> Self {
        Self {
            messages: BTreeMap::new(),
            next: FIRST,
            refusals: Refusals::default(),
            old_before: FIRST,
            close_deadline: None,
            lost: None,
            is_publisher_dropped: false,
        }
    }
}

impl InFlightMessages {
    /// Adds a message. Must be called in the order in which messages are sent.
    pub(super) fn add(&mut self, message: InFlight) {
        self.messages.insert(self.next, message);
        self.next += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Returns the listeners of the messages that were in flight at the previous call already, and
    /// remembers which are in flight now for the next call.
    pub(super) fn old_listeners(&mut self) -> Vec<Arc<dyn ConfirmListener>> {
        let before = std::mem::replace(&mut self.old_before, self.next);
        let old = self.messages.range(..before);
        old.map(|(_, message)| Arc::clone(&message.listener)).collect()
    }

    /// Whether nothing more will be sent, and nobody waits for the outcome of any message.
    pub(super) fn is_unused(&self) -> bool {
        let mut messages = self.messages.values();
        self.is_publisher_dropped && messages.all(|message| message.listener.is_abandoned())
    }

    pub(super) fn close_deadline(&self) -> Option<Instant> {
        self.close_deadline
    }

    pub(super) fn lost(&self) -> Option<&BrokerError> {
        self.lost.as_ref()
    }

    /// Records that a message was returned. Its confirm follows. Of several messages with this
    /// queue and id, it is the first one whose return is not recorded yet.
    pub(super) fn record_return(&mut self, queue: &ShortStr, id: Option<&ShortStr>) {
        let mut messages = self.messages.values_mut();
        let returned = messages.find(|message| {
            !message.is_returned
                && message.id.is_some()
                && message.id.as_ref() == id
                && message.queue == *queue
        });
        // A return without a match is ignored. It is of no message in flight, as each mandatory one
        // has an id.
        if let Some(returned) = returned {
            returned.is_returned = true;
        }
    }

    /// Processes a confirm. Returns the outcomes of the messages that it concerns.
    pub(super) fn confirm(&mut self, confirm: Confirm, now: Instant) -> SmallVec<[Outcome; 1]> {
        let mut decided = SmallVec::new();
        let Confirm {
            tag,
            multiple,
            is_ack,
        } = confirm;
        if multiple {
            while let Some(first) = self.messages.first_entry().filter(|first| *first.key() <= tag) {
                let message = first.remove();
                decided.push(self.confirm_one(message, is_ack, now));
            }
        } else if let Some(message) = self.messages.remove(&tag) {
            decided.push(self.confirm_one(message, is_ack, now));
        }
        decided
    }

    /// Returns the outcome of a message, which was removed from the others. Sets the deadline to
    /// give up the channel if a queue nacks everything.
    fn confirm_one(&mut self, message: InFlight, is_ack: bool, now: Instant) -> Outcome {
        let first = self.messages.first_key_value();
        let first_unconfirmed = first.map_or(self.next, |(number, _)| *number);
        let sent = Sent {
            count: self.next - FIRST,
            confirmed_up_to: first_unconfirmed - FIRST,
        };
        let refusals = &mut self.refusals;
        if refusals.record_and_should_give_up(&message.queue, is_ack, sent, now) {
            self.close_deadline.get_or_insert(now + LAST_CONFIRMS_LIMIT);
        }
        let published = match (is_ack, message.is_returned) {
            (false, _) => Published::Refused,
            (true, true) => Published::Returned,
            (true, false) => Published::Confirmed,
        };
        message.finish(published)
    }

    /// Fails all messages, because no more confirms will arrive. Returns their outcomes and the
    /// reason: that of an earlier call if it says more than that the connection is lost, or else
    /// the given one. The reason is kept for [`lost`](Self::lost). `is_written` tells whether the
    /// broker may have got everything up to a position.
    pub(super) fn end(
        &mut self,
        reason: BrokerError,
        is_written: impl Fn(u64) -> bool,
    ) -> (Vec<Outcome>, BrokerError) {
        // Keeps the broker's own reason. A later one only says that the channel is closed.
        if matches!(self.lost, None | Some(BrokerError::Lost { source: None })) {
            self.lost = Some(reason.clone());
        }
        let reason = self.lost.clone().unwrap_or(reason);
        let failed = std::mem::take(&mut self.messages).into_values().map(|message| {
            let written = message.position.is_some_and(&is_written);
            let source = reason.clone();
            message.finish(Published::Failed { source, written })
        });
        (failed.collect(), reason)
    }
}

impl fmt::Debug for InFlightMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightMessages")
            .field("count", &self.messages.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Ignores;

    impl ConfirmListener for Ignores {
        fn published(self: Arc<Self>, _: Published) {}
    }

    /// A message whose id is this number.
    fn message(id: Option<u64>) -> InFlight {
        InFlight {
            queue: ShortStr::from_static("q"),
            id: id.map(|id| ShortStr::new(id.to_string()).unwrap()),
            listener: Arc::new(Ignores),
            // Tells the messages of a test apart.
            permits: id.and_then(|id| u32::try_from(id).ok()).unwrap_or(0),
            position: id,
            _send_token: None,
            is_returned: false,
        }
    }

    fn with(messages: u64) -> InFlightMessages {
        let mut in_flight = InFlightMessages::default();
        for id in 1..=messages {
            in_flight.add(message(Some(id)));
        }
        in_flight
    }

    fn kind(published: &Published) -> &'static str {
        match published {
            Published::Confirmed => "routed",
            Published::Returned => "returned",
            Published::Refused => "refused",
            Published::Failed { written: true, .. } => "written",
            Published::Failed { .. } | Published::Withdrawn => "unwritten",
        }
    }

    fn kinds(outcomes: &[Outcome]) -> Vec<(u32, &'static str)> {
        let kinds = outcomes.iter();
        kinds
            .map(|outcome| (outcome.permits, kind(&outcome.published)))
            .collect()
    }

    fn confirm(
        in_flight: &mut InFlightMessages,
        tag: u64,
        multiple: bool,
        is_ack: bool,
    ) -> Vec<(u32, &'static str)> {
        let confirm = Confirm {
            tag,
            multiple,
            is_ack,
        };
        let outcomes = in_flight.confirm(confirm, Instant::now());
        kinds(&outcomes)
    }

    fn returned(in_flight: &mut InFlightMessages, id: u64) {
        let id = ShortStr::new(id.to_string()).unwrap();
        in_flight.record_return(&ShortStr::from_static("q"), Some(&id));
    }

    #[test]
    fn a_confirm_may_be_for_many_messages_and_for_each_only_once() {
        let mut in_flight = with(5);
        assert_eq!(confirm(&mut in_flight, 2, false, true), [(2, "routed")]);
        assert_eq!(
            confirm(&mut in_flight, 4, true, false),
            [(1, "refused"), (3, "refused"), (4, "refused")]
        );
        for tag in [0, 1, 4, 6, u64::MAX] {
            assert_eq!(confirm(&mut in_flight, tag, false, true), []);
        }
        assert_eq!(confirm(&mut in_flight, u64::MAX, true, true), [(5, "routed")]);
        assert!(in_flight.is_empty());
    }

    #[test]
    fn a_return_counts_for_the_first_message_with_its_key() {
        let mut in_flight = InFlightMessages::default();
        for _ in 0..3 {
            in_flight.add(message(Some(7)));
        }
        // It is not mandatory, so it is not returned.
        in_flight.add(message(None));
        returned(&mut in_flight, 7);
        returned(&mut in_flight, 7);
        returned(&mut in_flight, 8);
        in_flight.record_return(&ShortStr::from_static("other"), None);
        in_flight.record_return(&ShortStr::from_static("q"), None);
        assert_eq!(
            confirm(&mut in_flight, 4, true, true),
            [(7, "returned"), (7, "returned"), (7, "routed"), (0, "routed")]
        );
    }

    #[test]
    fn a_negative_confirm_counts_more_than_a_return() {
        let mut in_flight = with(1);
        returned(&mut in_flight, 1);
        assert_eq!(confirm(&mut in_flight, 1, false, false), [(1, "refused")]);
    }

    #[test]
    fn what_the_socket_took_may_have_arrived() {
        let mut in_flight = with(3);
        in_flight.add(InFlight {
            position: None,
            ..message(Some(4))
        });
        let (outcomes, reason) = in_flight.end(BrokerError::Closed, |position| position <= 2);
        assert_eq!(
            kinds(&outcomes),
            [(1, "written"), (2, "written"), (3, "unwritten"), (4, "unwritten")]
        );
        assert!(matches!(reason, BrokerError::Closed));
        assert!(in_flight.is_empty());
    }

    #[test]
    fn the_first_reason_is_kept_unless_it_is_unknown() {
        let mut in_flight = with(0);
        let unknown = BrokerError::Lost { source: None };
        let (_, reason) = in_flight.end(unknown, |_| true);
        assert!(matches!(reason, BrokerError::Lost { .. }));
        let (_, reason) = in_flight.end(BrokerError::RuntimeEnded, |_| true);
        assert!(matches!(reason, BrokerError::RuntimeEnded));
        let (_, reason) = in_flight.end(BrokerError::Closed, |_| true);
        assert!(matches!(reason, BrokerError::RuntimeEnded));
    }

    #[test]
    fn old_messages_are_those_of_the_previous_call() {
        let mut in_flight = with(2);
        assert_eq!(in_flight.old_listeners().len(), 0);
        in_flight.add(message(Some(3)));
        assert_eq!(in_flight.old_listeners().len(), 2);
        confirm(&mut in_flight, 1, false, true);
        assert_eq!(in_flight.old_listeners().len(), 2);
    }

    proptest! {
        /// Each message gets its own outcome, however the broker groups its confirms.
        #[test]
        fn every_message_gets_its_own_outcome(
            fates in prop::collection::vec((any::<bool>(), any::<bool>()), 1..60),
            confirms in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 60),
        ) {
            let mut in_flight = with(fates.len() as u64);
            let mut open: Vec<u64> = (1..=fates.len() as u64).collect();
            let mut outcomes = Vec::new();
            let fate = |number: u64| fates[number as usize - 1];
            let picks = confirms.into_iter().map(Some).chain(std::iter::repeat(None));
            for pick in picks {
                let Some(first) = open.first() else { break };
                let (tag, multiple) = pick.map_or((*first, false), |(pick, multiple)| {
                    (open[pick.index(open.len())], multiple)
                });
                let covered = open.iter().copied().filter(|number| *number == tag || multiple && *number < tag);
                // One confirm is the same for all that it covers.
                let covered: Vec<u64> = covered.collect();
                let is_ack = fate(tag).0;
                let multiple = multiple && covered.iter().all(|number| fate(*number).0 == is_ack);
                for number in covered.into_iter().filter(|number| *number == tag || multiple) {
                    if fate(number).1 {
                        returned(&mut in_flight, number);
                    }
                    open.retain(|other| *other != number);
                }
                outcomes.extend(confirm(&mut in_flight, tag, multiple, is_ack));
            }
            outcomes.sort_unstable();
            let expected = (1..).zip(&fates).map(|(number, fate)| (number, match fate {
                (false, _) => "refused",
                (true, true) => "returned",
                (true, false) => "routed",
            }));
            prop_assert_eq!(outcomes, expected.collect::<Vec<_>>());
            prop_assert!(in_flight.is_empty());
        }
    }
}
