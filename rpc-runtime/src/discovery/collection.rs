//! Collects the answers of all workers. Does no I/O, except that it logs answers that it drops
//! because they are malformed, too large or cannot be decoded.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use tracing::Level;

use super::Discovered;
use crate::codec::Codec;
use crate::describe::{Worker, WorkerDescription, WorkerStats};
use crate::error::Chain;
use crate::escape::Logged;
use crate::protocol::{DISCOVERY_KEY, Message, Reply, ReplyKind, ShortStr};
use crate::telemetry::{LogLimit, Suppressed};

/// The maximum size of an answer, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// The maximum total size of all answers and refusals, in bytes.
const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// The maximum number of refusals that are kept.
const MAX_REFUSALS: usize = 100;

/// The collection ends once this many messages were not kept: workers do not send so many.
const MAX_IGNORED: usize = 10_000;

/// An answer that names the worker it comes from.
pub(super) trait WorkerAnswer {
    fn worker(&self) -> &Worker;
}

impl WorkerAnswer for Worker {
    fn worker(&self) -> &Worker {
        self
    }
}

impl WorkerAnswer for WorkerDescription {
    fn worker(&self) -> &Worker {
        &self.worker
    }
}

impl WorkerAnswer for WorkerStats {
    fn worker(&self) -> &Worker {
        &self.worker
    }
}

/// Why a message is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotKept {
    /// It is unrelated, repeats an answer, or is one refusal too many.
    NothingIsMissing,
    /// It is, or may be, a worker's only answer.
    AnswerIsMissing,
}

/// The answers to one discovery request.
pub(super) struct Collection<T> {
    id: ShortStr,
    max_workers: usize,
    worker_ids: HashSet<String>,
    total_bytes: usize,
    /// How many messages were not kept.
    ignored: usize,
    is_ended: bool,
    log_limit: LogLimit,
    found: Discovered<T>,
}

impl<T: WorkerAnswer + DeserializeOwned> Collection<T> {
    /// Creates an empty collection for the request with this id.
    pub(super) fn new(id: ShortStr, max_workers: usize) -> Self {
        Self {
            id,
            max_workers,
            worker_ids: HashSet::new(),
            total_bytes: 0,
            ignored: 0,
            is_ended: false,
            log_limit: LogLimit::new(DISCOVERY_KEY),
            found: Discovered {
                workers: Vec::new(),
                refusals: Vec::new(),
                is_complete: true,
            },
        }
    }

    /// Whether the collection has ended, so that no more answers are needed.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Ends the collection although more workers may answer, so its result is incomplete.
    pub(super) fn end_incomplete(&mut self) {
        self.is_ended = true;
        self.found.is_complete = false;
    }

    fn log_dropped(&self, kind: &'static str, reason: impl std::fmt::Display) {
        if let Some(Suppressed(suppressed)) = self.log_limit.admit(Level::DEBUG, kind) {
            let reason = Logged(reason);
            tracing::debug!(%reason, suppressed, "dropped a worker's answer to a discovery request");
        }
    }

    /// Records that answers are missing.
    pub(super) fn mark_incomplete(&mut self) {
        self.found.is_complete = false;
    }

    /// Adds a message from the reply queue, which may end the collection. Returns whether the
    /// message is kept.
    pub(super) fn add(&mut self, message: Message) -> bool {
        let Err(not_kept) = self.keep(message) else {
            return true;
        };
        if not_kept == NotKept::AnswerIsMissing {
            self.mark_incomplete();
        }
        self.count_ignored();
        false
    }

    /// Counts a message whose properties are malformed, and which is dropped. If it is an answer to
    /// the request, the answer is missing.
    pub(super) fn drop_malformed(&mut self, message: &Message) {
        if message.properties.correlation_id.as_ref() == Some(&self.id) {
            self.log_dropped("answer_malformed", format_args!("its properties are malformed"));
            self.mark_incomplete();
        }
        self.count_ignored();
    }

    fn count_ignored(&mut self) {
        self.ignored += 1;
        if self.ignored >= MAX_IGNORED {
            self.end_incomplete();
        }
    }

    /// Keeps an answer or a refusal, or returns why not. Ends the collection at an answer beyond
    /// `max_workers` or [`MAX_TOTAL_BYTES`].
    fn keep(&mut self, message: Message) -> Result<(), NotKept> {
        if message.properties.correlation_id.as_ref() != Some(&self.id) {
            return Err(NotKept::NothingIsMissing);
        }
        let size = message.body.len();
        let Ok(reply) = Reply::from_message(message, Codec::MessagePack) else {
            self.log_dropped(
                "answer_unknown",
                format_args!("its content type or encoding is unknown"),
            );
            return Err(NotKept::AnswerIsMissing);
        };
        if size > MAX_BYTES {
            self.log_dropped(
                "answer_size",
                format_args!("it has {size} bytes, and at most {MAX_BYTES} are accepted"),
            );
            return Err(NotKept::AnswerIsMissing);
        }
        self.total_bytes += size;
        if self.total_bytes > MAX_TOTAL_BYTES {
            self.end_incomplete();
            return Err(NotKept::AnswerIsMissing);
        }
        match reply.kind {
            ReplyKind::Result => {}
            ReplyKind::Fault if self.found.refusals.len() < MAX_REFUSALS => {
                self.found.refusals.push(reply.read_fault());
                return Ok(());
            }
            ReplyKind::Fault => return Err(NotKept::NothingIsMissing),
            // The built-in methods have no errors of their own.
            ReplyKind::Error => return Err(NotKept::AnswerIsMissing),
        }
        let answer = match reply.codec.decode::<T>(&reply.body) {
            Ok(answer) => answer,
            Err(error) => {
                self.log_dropped("answer_unreadable", Chain(&error));
                return Err(NotKept::AnswerIsMissing);
            }
        };
        let is_first_answer = self.worker_ids.insert(answer.worker().id.clone());
        if !is_first_answer {
            return Err(NotKept::NothingIsMissing);
        }
        if self.found.workers.len() >= self.max_workers {
            self.end_incomplete();
            return Err(NotKept::AnswerIsMissing);
        }
        self.found.workers.push(answer);
        Ok(())
    }

    /// Returns what was found, in an order that does not depend on when the answers arrived.
    pub(super) fn into_found(self) -> Discovered<T> {
        let mut found = self.found;
        found.workers.sort_by_cached_key(|answer| {
            let Worker {
                host, name, pid, id, ..
            } = answer.worker().clone();
            (host, name, pid, id)
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Fault, FaultCode};

    const ID: ShortStr = ShortStr::from_static("7");

    fn worker(id: &str) -> Worker {
        Worker {
            id: id.to_owned(),
            ..Worker::default()
        }
    }

    fn answer(to: ShortStr, worker: &Worker) -> Message {
        let reply = Reply::new(
            ReplyKind::Result,
            Codec::MessagePack,
            Codec::MessagePack.encode(worker).unwrap(),
        );
        reply.into_message(Some(to))
    }

    fn ids(collection: Collection<Worker>) -> Vec<String> {
        let found = collection.into_found();
        found.workers.into_iter().map(|worker| worker.id).collect()
    }

    #[test]
    fn each_worker_is_kept_once_and_in_order() {
        let mut collection = Collection::<Worker>::new(ID, 10);
        assert!(collection.add(answer(ID, &worker("b"))));
        assert!(collection.add(answer(ID, &worker("a"))));
        assert!(!collection.add(answer(ID, &worker("b"))));
        assert_eq!(ids(collection), ["a", "b"]);
    }

    #[test]
    fn unrelated_messages_are_ignored_up_to_a_limit() {
        let mut collection = Collection::<Worker>::new(ID, 10);
        let other = ShortStr::from_static("8");
        assert!(!collection.add(answer(other, &worker("a"))));
        assert!(!collection.add(Message::default()));
        assert!(!collection.is_ended() && collection.found.is_complete);
        for _ in 0..MAX_IGNORED {
            collection.add(Message::default());
        }
        assert!(collection.is_ended());
        assert!(ids(collection).is_empty());
    }

    #[test]
    fn a_dropped_answer_makes_the_result_incomplete() {
        let mut unreadable = answer(ID, &worker("a"));
        unreadable.body = bytes::Bytes::from_static(b"\xc1");
        let long = answer(ID, &worker(&"x".repeat(MAX_BYTES)));
        let error = Reply::new(ReplyKind::Error, Codec::MessagePack, bytes::Bytes::new());
        for dropped in [unreadable, long, error.into_message(Some(ID))] {
            let mut collection = Collection::<Worker>::new(ID, 10);
            assert!(!collection.add(dropped));
            // Further answers are still collected.
            assert!(!collection.is_ended());
            assert!(collection.add(answer(ID, &worker("b"))));
            assert!(!collection.found.is_complete);
            assert_eq!(ids(collection), ["b"]);
        }
    }

    #[test]
    fn refusals_are_kept_up_to_a_limit() {
        let mut collection = Collection::<Worker>::new(ID, 10);
        let fault = Fault::new(FaultCode::Unauthorized, "not you");
        for _ in 0..2 * MAX_REFUSALS {
            let reply = Reply::fault(Codec::MessagePack, &fault);
            collection.add(reply.into_message(Some(ID)));
        }
        let found = collection.into_found();
        assert_eq!(found.refusals.len(), MAX_REFUSALS);
        assert_eq!(found.refusals[0], fault);
        assert!(found.workers.is_empty() && found.is_complete);
    }

    #[test]
    fn the_number_of_workers_is_limited() {
        let mut collection = Collection::<Worker>::new(ID, 2);
        for id in ["a", "b"] {
            collection.add(answer(ID, &worker(id)));
            assert!(!collection.is_ended());
        }
        // None of these is an answer of another worker.
        let fault = Reply::fault(
            Codec::MessagePack,
            &Fault::new(FaultCode::Unauthorized, "not you"),
        );
        for message in [
            answer(ID, &worker("a")),
            Message::default(),
            fault.into_message(Some(ID)),
        ] {
            collection.add(message);
            assert!(!collection.is_ended() && collection.found.is_complete);
        }
        collection.add(answer(ID, &worker("c")));
        assert!(collection.is_ended());
        let found = collection.into_found();
        assert_eq!((found.workers.len(), found.is_complete), (2, false));
    }

    #[test]
    fn the_total_size_is_limited() {
        let mut collection = Collection::<Worker>::new(ID, 1000);
        let long = |number: usize| worker(&format!("{number}{}", "x".repeat(MAX_BYTES - 1000)));
        let kept = (0..100).take_while(|number| collection.add(answer(ID, &long(*number))));
        assert_eq!(kept.count(), MAX_TOTAL_BYTES / (MAX_BYTES - 900));
        assert!(collection.is_ended());
    }
}
