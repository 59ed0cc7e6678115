//! The requests that run here, and those that were answered lately: by them a delivery is recognised as a request that came
//! before. Pure: decisions over data.
//!
//! When a connection is lost, the broker delivers again what was not settled, while the first run may still be in progress
//! here, or its answer already be sent. A caller that lost its own connection sends `idempotent` requests again, too. And a
//! worker sends on, as a copy, what came batched and comes again.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use uuid::Uuid;

use crate::protocol::{
    Headers, RESENT_BY_CALLER_AND_WORKER, RESENT_BY_WORKER, RESENT_HEADER, RETURNS_HEADER, ShortStr,
};

/// How many answered requests are remembered: more than are ever on the way, as each came in one of the messages of the
/// prefetch.
const REMEMBERED: usize = 16 * 1024;

/// What a request can be recognised by. Ids need be unique only among those of one caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    reply_to: Option<ShortStr>,
    id: Id,
    /// Counts the copies of a request that workers sent on, each one of the one before; 0 is the
    /// request itself. It is done with once the broker has its copy, and the last copy once it is
    /// answered.
    copy: u32,
}

impl Key {
    pub(crate) fn new(reply_to: Option<ShortStr>, id: Id) -> Self {
        Self {
            reply_to,
            id,
            copy: 0,
        }
    }

    fn of_copy(self, copy: u32) -> Self {
        Self { copy, ..self }
    }
}

/// A correlation id: one that this library's callers give, or any other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Id {
    Uuid(Uuid),
    Text(ShortStr),
}

impl From<&ShortStr> for Id {
    fn from(id: &ShortStr) -> Self {
        match Uuid::try_parse(id.as_str()) {
            // Of all the ways to write one, this is ours: batched and not, it is the same id.
            Ok(uuid) if ShortStr::from_uuid(uuid) == *id => Self::Uuid(uuid),
            _ => Self::Text(id.clone()),
        }
    }
}

/// How a delivery came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its caller sent it.
    New,
    /// Its caller sent it again, because it does not know what became of it.
    Resent,
    /// The broker delivered it before.
    Redelivered,
    /// It is a copy that a worker sent on, of what had come before.
    SentOn { was_resent: bool, copy: u32 },
}

/// How often a request came back, as workers count it.
pub(crate) fn returns(headers: &Headers) -> u32 {
    let returns = headers.get(RETURNS_HEADER);
    returns.and_then(|returns| returns.parse().ok()).unwrap_or(0)
}

impl Origin {
    /// The origin of a request that the broker delivered before, or that a queue gave up, or neither.
    pub(crate) fn new(is_redelivered: bool, is_dead_lettered: bool, headers: &Headers) -> Self {
        let sent_on = |was_resent| Self::SentOn {
            was_resent,
            copy: returns(headers).max(1),
        };
        match headers.get(RESENT_HEADER) {
            Some(RESENT_BY_WORKER) => sent_on(false),
            Some(RESENT_BY_CALLER_AND_WORKER) => sent_on(true),
            Some(_) => Self::Resent,
            None if is_redelivered => Self::Redelivered,
            // It may come to its queue once more, after it was done with there.
            None if is_dead_lettered => Self::Resent,
            None => Self::New,
        }
    }

    /// Marks the headers of a copy that is to be sent on.
    pub(crate) fn mark_copy(headers: &mut Headers) {
        let says = match headers.get(RESENT_HEADER) {
            None | Some(RESENT_BY_WORKER) => RESENT_BY_WORKER,
            Some(_) => RESENT_BY_CALLER_AND_WORKER,
        };
        headers.insert(ShortStr::from_static(RESENT_HEADER), says.to_owned());
    }
}

/// What to do with a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Serve it, and say here by this name when that is done.
    Serve(Key),
    /// Serve it as a request of its own: another one of the same name runs here, which its caller sent as another.
    ServeApart,
    /// The run that is in progress answers it too.
    Joined,
    /// It was answered: settle it.
    Answered,
    /// It was rejected: reject it.
    Rejected,
}

/// The requests of one queue. `D` names a delivery, for when it is settled.
#[derive(Debug)]
pub(crate) struct Runs<D> {
    running: HashMap<Key, Run<D>, RandomState>,
    /// Those that ended, oldest first. Looked through only for what comes again, which is seldom: most requests are never
    /// looked for here, and pay no more than this entry.
    ended: VecDeque<Ended>,
}

#[derive(Debug)]
struct Run<D> {
    /// All that came of the request: the first, and those that came again.
    first: Option<D>,
    again: Vec<D>,
    ends_as: End,
}

/// A request that ended. Its key's hash stands for it: of 2^64, by a secret of this process.
#[derive(Debug, Clone, Copy)]
struct Ended {
    hash: u64,
    end: End,
}

/// Who answers, or answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// This run.
    Answered,
    /// Whoever gets the copy.
    SentOn,
    /// Nobody: it was rejected.
    Rejected,
}

impl<D> Default for Runs<D> {
    fn default() -> Self {
        Self {
            running: HashMap::default(),
            ended: VecDeque::new(),
        }
    }
}

impl<D> Runs<D> {
    /// A delivery came.
    pub(crate) fn arrive(&mut self, key: Key, origin: Origin, delivery: D) -> Arrival {
        match origin {
            Origin::New => self.arrive_as(key, false, false, delivery),
            Origin::Redelivered => self.arrive_as(key, true, true, delivery),
            // One that was sent again is answered again: its caller may have lost the answer.
            Origin::Resent => self.arrive_as(key, true, false, delivery),
            Origin::SentOn { was_resent, copy } => {
                // Another worker had it come again, while this one runs it, or after this one answered it.
                if let Some(run) = self.running.get_mut(&key)
                    && run.ends_as == End::Answered
                {
                    run.again.push(delivery);
                    return Arrival::Joined;
                }
                if !was_resent && self.end_of(&key) == Some(End::Answered) {
                    return Arrival::Answered;
                }
                self.arrive_as(key.of_copy(copy), true, !was_resent, delivery)
            }
        }
    }

    /// A delivery came that may be one of a run in progress, or of a request that has ended.
    fn arrive_as(&mut self, key: Key, may_join: bool, may_have_ended: bool, delivery: D) -> Arrival {
        if let Some(run) = self.running.get_mut(&key) {
            if !may_join {
                return Arrival::ServeApart;
            }
            run.again.push(delivery);
            return Arrival::Joined;
        }
        // Not for requests that are new: it looks through all that have ended.
        if may_have_ended && let Some(end) = self.end_of(&key) {
            return match end {
                End::Rejected => Arrival::Rejected,
                End::Answered | End::SentOn => Arrival::Answered,
            };
        }
        let run = Run {
            first: Some(delivery),
            again: Vec::new(),
            ends_as: End::Answered,
        };
        self.running.insert(key.clone(), run);
        Arrival::Serve(key)
    }

    /// How a request ended last; nothing where it did not, or is forgotten.
    fn end_of(&self, key: &Key) -> Option<End> {
        let hash = self.running.hasher().hash_one(key);
        let ended = self.ended.iter().rev().find(|ended| ended.hash == hash);
        ended.map(|ended| ended.end)
    }

    /// A request is about to be sent on to a queue, from which its copy comes.
    pub(crate) fn send_on(&mut self, key: &Key) {
        if let Some(run) = self.running.get_mut(key) {
            run.ends_as = End::SentOn;
        }
    }

    /// The broker has the answer to a request, or its copy: its deliveries are to be settled.
    pub(crate) fn ended(&mut self, key: Key) -> impl Iterator<Item = D> + use<D> {
        let run = self.running.remove(&key);
        if let Some(run) = &run {
            let hash = self.running.hasher().hash_one(&key);
            if self.ended.len() == REMEMBERED {
                self.ended.pop_front();
            }
            self.ended.push_back(Ended {
                hash,
                end: run.ends_as,
            });
        }
        run.into_iter()
            .flat_map(|run| run.first.into_iter().chain(run.again))
    }

    /// A request is about to be rejected.
    pub(crate) fn reject(&mut self, key: &Key) {
        if let Some(run) = self.running.get_mut(key) {
            run.ends_as = End::Rejected;
        }
    }

    /// A request ended without an answer: its deliveries come again.
    pub(crate) fn given_up(&mut self, key: &Key) {
        self.running.remove(key);
    }

    /// The broker takes back deliveries: they cannot be settled any more.
    pub(crate) fn lose_deliveries(&mut self, is_lost: impl Fn(&D) -> bool) {
        for run in self.running.values_mut() {
            run.first.take_if(|delivery| is_lost(delivery));
            run.again.retain(|delivery| !is_lost(delivery));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &'static str) -> Key {
        Key::new(
            Some(ShortStr::from_static("amq.gen-1")),
            Id::Text(ShortStr::from_static(id)),
        )
    }

    fn ended(runs: &mut Runs<i32>, key: Key) -> Vec<i32> {
        runs.ended(key).collect()
    }

    fn serve(id: &'static str) -> Arrival {
        Arrival::Serve(key(id))
    }

    fn copy(id: &'static str) -> Arrival {
        Arrival::Serve(key(id).of_copy(1))
    }

    const A_COPY: Origin = sent_on(false, 1);

    const fn sent_on(was_resent: bool, copy: u32) -> Origin {
        Origin::SentOn { was_resent, copy }
    }

    #[test]
    fn a_redelivery_joins_the_run_in_progress() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(key("a"), Origin::New, 1), serve("a"));
        runs.lose_deliveries(|_| true);
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 2), Arrival::Joined);
        assert_eq!(runs.arrive(key("a"), Origin::Resent, 3), Arrival::Joined);
        // Another worker had it too.
        assert_eq!(runs.arrive(key("a"), A_COPY, 4), Arrival::Joined);
        assert_eq!(ended(&mut runs, key("a")), [2, 3, 4]);
    }

    #[test]
    fn a_redelivery_of_what_was_answered_is_settled() {
        let mut runs = Runs::default();
        runs.arrive(key("a"), Origin::New, 1);
        assert_eq!(ended(&mut runs, key("a")), [1]);
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 2), Arrival::Answered);
        assert_eq!(runs.arrive(key("a"), A_COPY, 2), Arrival::Answered);
        // Its caller may have lost the answer.
        let resent_and_sent_on = sent_on(true, 1);
        assert_eq!(runs.arrive(key("a"), resent_and_sent_on, 3), copy("a"));
        assert_eq!(runs.arrive(key("a"), Origin::Resent, 4), serve("a"));
    }

    #[test]
    fn what_never_ran_here_is_served() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 1), serve("a"));
        runs.given_up(&key("a"));
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 2), serve("a"));
    }

    #[test]
    fn two_requests_of_one_name_are_two() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(key("1"), Origin::New, 1), serve("1"));
        assert_eq!(runs.arrive(key("1"), Origin::New, 2), Arrival::ServeApart);
        let another_caller = || Key {
            reply_to: Some(ShortStr::from_static("amq.gen-2")),
            ..key("1")
        };
        assert_eq!(
            runs.arrive(another_caller(), Origin::Redelivered, 3),
            Arrival::Serve(another_caller())
        );
        // Nor is a new one taken for one that was answered.
        let _ = runs.ended(key("1"));
        assert_eq!(runs.arrive(key("1"), Origin::New, 4), serve("1"));
    }

    #[test]
    fn what_is_sent_on_does_not_join_itself() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 1), serve("a"));
        runs.send_on(&key("a"));
        assert_eq!(runs.arrive(key("a"), A_COPY, 2), copy("a"));
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 3), Arrival::Joined);
        assert_eq!(ended(&mut runs, key("a")), [1, 3]);
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 4), Arrival::Answered);
        assert_eq!(runs.arrive(key("a"), Origin::Resent, 5), serve("a"));
    }

    #[test]
    fn what_is_sent_on_twice_runs_once() {
        for answered_in_between in [false, true] {
            let mut runs = Runs::default();
            runs.arrive(key("a"), Origin::Redelivered, 1);
            runs.send_on(&key("a"));
            assert_eq!(runs.arrive(key("a"), A_COPY, 2), copy("a"));
            if answered_in_between {
                let _ = runs.ended(key("a").of_copy(1));
            }
            // The broker's word on the first copy was lost.
            let again = match answered_in_between {
                true => Arrival::Answered,
                false => Arrival::Joined,
            };
            assert_eq!(runs.arrive(key("a"), A_COPY, 3), again);
            let _ = runs.ended(key("a"));
            assert_eq!(runs.arrive(key("a"), A_COPY, 4), again);
        }
    }

    #[test]
    fn an_id_is_the_same_batched_and_not() {
        let uuid = Uuid::from_u128(0x00112233_4455_4677_8899_aabbccddeeff);
        assert_eq!(Id::from(&ShortStr::from_uuid(uuid)), Id::Uuid(uuid));
        for other in [
            "7",
            "",
            "00112233445546778899AABBCCDDEEFF",
            "00112233-4455-4677-8899-AABBCCDDEEFF",
        ] {
            let other = ShortStr::from_static(other);
            assert_eq!(Id::from(&other), Id::Text(other));
        }
    }

    #[test]
    fn a_copy_says_what_it_is_a_copy_of() {
        let mut headers = Headers::default();
        assert_eq!(Origin::new(false, false, &headers), Origin::New);
        assert_eq!(Origin::new(false, true, &headers), Origin::Resent);
        assert_eq!(Origin::new(true, false, &headers), Origin::Redelivered);
        Origin::mark_copy(&mut headers);
        assert_eq!(Origin::new(true, false, &headers), A_COPY);
        Origin::mark_copy(&mut headers);
        assert_eq!(Origin::new(false, false, &headers), A_COPY);
        headers.insert(ShortStr::from_static(RETURNS_HEADER), "3".to_owned());
        assert_eq!(Origin::new(false, false, &headers), sent_on(false, 3));

        headers.remove(RETURNS_HEADER);
        headers.insert(ShortStr::from_static(RESENT_HEADER), String::new());
        assert_eq!(Origin::new(true, false, &headers), Origin::Resent);
        for _ in 0..2 {
            Origin::mark_copy(&mut headers);
            assert_eq!(Origin::new(false, false, &headers), sent_on(true, 1));
        }
    }

    #[test]
    fn a_copy_of_a_copy_is_served() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(key("a"), A_COPY, 1), copy("a"));
        runs.send_on(&key("a").of_copy(1));
        assert_eq!(ended(&mut runs, key("a").of_copy(1)), [1]);
        let second = key("a").of_copy(2);
        assert_eq!(
            runs.arrive(key("a"), sent_on(false, 2), 2),
            Arrival::Serve(second.clone())
        );
        assert_eq!(ended(&mut runs, second), [2]);
        assert_eq!(runs.arrive(key("a"), sent_on(false, 2), 3), Arrival::Answered);
    }

    #[test]
    fn a_redelivery_of_what_was_rejected_is_rejected() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 1), serve("a"));
        runs.reject(&key("a"));
        assert_eq!(ended(&mut runs, key("a")), [1]);
        assert_eq!(runs.arrive(key("a"), Origin::Redelivered, 2), Arrival::Rejected);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut runs = Runs::default();
        let key = |n: usize| Key::new(None, Id::Text(ShortStr::new(n.to_string()).unwrap()));
        for n in 0..=REMEMBERED {
            runs.arrive(key(n), Origin::New, ());
            let _ = runs.ended(key(n));
        }
        assert_eq!(
            runs.arrive(key(0), Origin::Redelivered, ()),
            Arrival::Serve(key(0))
        );
        assert_eq!(runs.arrive(key(1), Origin::Redelivered, ()), Arrival::Answered);
        assert_eq!((runs.ended.len(), runs.running.len()), (REMEMBERED, 1));
        runs.given_up(&key(0));
        assert!(runs.running.is_empty());
    }

    #[test]
    fn one_that_runs_again_is_forgotten_once() {
        let mut runs = Runs::default();
        let key = |n: usize| Key::new(None, Id::Text(ShortStr::new(n.to_string()).unwrap()));
        for _ in 0..2 {
            runs.arrive(key(0), Origin::Resent, 7);
            assert_eq!(ended(&mut runs, key(0)), [7]);
        }
        runs.arrive(key(0), Origin::Resent, 8);
        for n in 1..=REMEMBERED {
            runs.arrive(key(n), Origin::New, 0);
            let _ = runs.ended(key(n));
        }
        // Its end is forgotten, the run in progress is not.
        assert_eq!(runs.arrive(key(0), Origin::Redelivered, 9), Arrival::Joined);
        assert_eq!(ended(&mut runs, key(0)), [8, 9]);
    }
}
