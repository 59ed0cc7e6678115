//! The requests that run here, and those that were answered lately: by them a delivery is recognised as a request that came
//! before. Pure: decisions over data.
//!
//! When a connection is lost, the broker delivers again what was not settled, while the first run may still be in progress
//! here, or its answer already be sent. A caller that lost its own connection sends `idempotent` requests again, too.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::protocol::ShortStr;

/// How many answered requests are remembered: more than are ever on the way, as each came in one of the messages of the
/// prefetch.
const REMEMBERED: usize = 16 * 1024;

/// What a request can be recognised by. Ids need be unique only among those of one caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) reply_to: Option<ShortStr>,
    pub(super) correlation_id: ShortStr,
}

/// How a delivery came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Its caller sent it.
    New,
    /// Its caller sent it again, because it does not know what became of it.
    Resent,
    /// The broker delivered it before.
    Redelivered,
}

impl Origin {
    pub(super) fn new(is_redelivered: bool, is_resent: bool) -> Self {
        match (is_resent, is_redelivered) {
            (true, _) => Self::Resent,
            (false, true) => Self::Redelivered,
            (false, false) => Self::New,
        }
    }
}

/// What to do with a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Serve it, and say here when that is done.
    Serve,
    /// Serve it as a request of its own: another one of the same name runs here, which its caller sent as another.
    ServeApart,
    /// The run that is in progress answers it too.
    Joined,
    /// It was answered: settle it.
    Answered,
}

/// The requests of one queue. `D` names a delivery, for when it is settled.
#[derive(Debug)]
pub(super) struct Runs<D> {
    running: HashMap<Key, Run<D>>,
    answered: HashSet<Key>,
    /// The answered ones, oldest first.
    order: VecDeque<Key>,
}

#[derive(Debug)]
struct Run<D> {
    /// All that came of the request.
    deliveries: Vec<D>,
    /// It is not run here, but sent on to a queue.
    is_sent_on: bool,
}

impl<D> Default for Runs<D> {
    fn default() -> Self {
        Self {
            running: HashMap::new(),
            answered: HashSet::new(),
            order: VecDeque::new(),
        }
    }
}

impl<D> Runs<D> {
    /// A delivery came.
    pub(super) fn arrive(&mut self, key: &Key, origin: Origin, delivery: D) -> Arrival {
        if let Some(run) = self.running.get_mut(key) {
            let is_another = match origin {
                Origin::New => true,
                // That is what was sent on, and comes before the broker's word on it.
                Origin::Resent => run.is_sent_on,
                Origin::Redelivered => false,
            };
            if is_another {
                return Arrival::ServeApart;
            }
            run.deliveries.push(delivery);
            return Arrival::Joined;
        }
        // One that was sent again is answered again: its caller may have lost the answer.
        if origin == Origin::Redelivered && self.answered.contains(key) {
            return Arrival::Answered;
        }
        let run = Run {
            deliveries: vec![delivery],
            is_sent_on: false,
        };
        self.running.insert(key.clone(), run);
        Arrival::Serve
    }

    /// A request is about to be sent on to a queue, from which it comes again.
    pub(super) fn send_on(&mut self, key: &Key) {
        if let Some(run) = self.running.get_mut(key) {
            run.is_sent_on = true;
        }
    }

    /// The broker has the answer to a request: its deliveries are to be settled.
    pub(super) fn answered(&mut self, key: Key) -> Vec<D> {
        let deliveries = self.given_up(&key);
        if self.answered.insert(key.clone()) {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.answered.remove(&oldest);
        }
        deliveries
    }

    /// A request ended without an answer: its deliveries come again.
    pub(super) fn given_up(&mut self, key: &Key) -> Vec<D> {
        let run = self.running.remove(key);
        run.map(|run| run.deliveries).unwrap_or_default()
    }

    /// The broker takes back deliveries: they cannot be settled any more.
    pub(super) fn lose_deliveries(&mut self, is_lost: impl Fn(&D) -> bool) {
        for run in self.running.values_mut() {
            run.deliveries.retain(|delivery| !is_lost(delivery));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &'static str) -> Key {
        Key {
            reply_to: Some(ShortStr::from_static("amq.gen-1")),
            correlation_id: ShortStr::from_static(id),
        }
    }

    #[test]
    fn a_redelivery_joins_the_run_in_progress() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(&key("a"), Origin::New, 1), Arrival::Serve);
        runs.lose_deliveries(|_| true);
        assert_eq!(runs.arrive(&key("a"), Origin::Redelivered, 2), Arrival::Joined);
        assert_eq!(runs.arrive(&key("a"), Origin::Resent, 3), Arrival::Joined);
        assert_eq!(runs.answered(key("a")), [2, 3]);
    }

    #[test]
    fn a_redelivery_of_what_was_answered_is_settled() {
        let mut runs = Runs::default();
        runs.arrive(&key("a"), Origin::New, 1);
        assert_eq!(runs.answered(key("a")), [1]);
        assert_eq!(runs.arrive(&key("a"), Origin::Redelivered, 2), Arrival::Answered);
        // Its caller may have lost the answer.
        assert_eq!(runs.arrive(&key("a"), Origin::Resent, 3), Arrival::Serve);
    }

    #[test]
    fn what_never_ran_here_is_served() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(&key("a"), Origin::Redelivered, 1), Arrival::Serve);
        assert_eq!(runs.given_up(&key("a")), [1]);
        assert_eq!(runs.arrive(&key("a"), Origin::Redelivered, 2), Arrival::Serve);
    }

    #[test]
    fn two_requests_of_one_name_are_two() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(&key("1"), Origin::New, 1), Arrival::Serve);
        assert_eq!(runs.arrive(&key("1"), Origin::New, 2), Arrival::ServeApart);
        let another_caller = Key {
            reply_to: Some(ShortStr::from_static("amq.gen-2")),
            ..key("1")
        };
        assert_eq!(
            runs.arrive(&another_caller, Origin::Redelivered, 3),
            Arrival::Serve
        );
        // Nor is a new one taken for one that was answered.
        runs.answered(key("1"));
        assert_eq!(runs.arrive(&key("1"), Origin::New, 4), Arrival::Serve);
    }

    #[test]
    fn what_is_sent_on_does_not_join_itself() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(&key("a"), Origin::Redelivered, 1), Arrival::Serve);
        runs.send_on(&key("a"));
        assert_eq!(runs.arrive(&key("a"), Origin::Resent, 2), Arrival::ServeApart);
        assert_eq!(runs.arrive(&key("a"), Origin::Redelivered, 3), Arrival::Joined);
        assert_eq!(runs.answered(key("a")), [1, 3]);
        assert_eq!(runs.arrive(&key("a"), Origin::Redelivered, 4), Arrival::Answered);
        assert_eq!(runs.arrive(&key("a"), Origin::Resent, 5), Arrival::Serve);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut runs = Runs::default();
        let keys: Vec<_> = (0..=REMEMBERED)
            .map(|n| Key {
                reply_to: None,
                correlation_id: ShortStr::new(n.to_string()).unwrap(),
            })
            .collect();
        for key in &keys {
            runs.arrive(key, Origin::New, ());
            runs.answered(key.clone());
        }
        assert_eq!(runs.arrive(&keys[0], Origin::Redelivered, ()), Arrival::Serve);
        assert_eq!(runs.arrive(&keys[1], Origin::Redelivered, ()), Arrival::Answered);
        assert_eq!(runs.answered.len(), runs.order.len());
    }
}
