//! The answers of all workers, as they come. Pure: no I/O, no clock.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use tracing::Level;

use super::Discovered;
use crate::codec::Codec;
use crate::describe::{Worker, WorkerDescription, WorkerStats};
use crate::error::Chain;
use crate::escape::Logged;
use crate::protocol::{Message, Reply, ReplyKind, ShortStr};
use crate::server::DISCOVERY;
use crate::telemetry::{LeftOut, LogLimit};

/// How long an answer may be, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// How long the answers may be in all, in bytes.
const MAX_BYTES_IN_ALL: usize = 64 * 1024 * 1024;

/// How many refusals are kept.
const MAX_REFUSALS: usize = 100;

/// How many answers may come that are not kept: who sends more of them is no worker.
const MAX_USELESS: usize = 10_000;

/// What a worker answers.
pub(super) trait OfWorker {
    fn worker(&self) -> &Worker;
}

impl OfWorker for Worker {
    fn worker(&self) -> &Worker {
        self
    }
}

impl OfWorker for WorkerDescription {
    fn worker(&self) -> &Worker {
        &self.worker
    }
}

impl OfWorker for WorkerStats {
    fn worker(&self) -> &Worker {
        &self.worker
    }
}

/// The answers to one question.
pub(super) struct Collection<T> {
    id: ShortStr,
    max_workers: usize,
    known: HashSet<String>,
    bytes: usize,
    useless: usize,
    is_full: bool,
    log: LogLimit,
    found: Discovered<T>,
}

impl<T: OfWorker + DeserializeOwned> Collection<T> {
    /// No answers yet, to the question of this id.
    pub(super) fn new(id: ShortStr, max_workers: usize) -> Self {
        Self {
            id,
            max_workers,
            known: HashSet::new(),
            bytes: 0,
            useless: 0,
            is_full: false,
            log: LogLimit::new(DISCOVERY.exchange),
            found: Discovered {
                workers: Vec::new(),
                refusals: Vec::new(),
                is_complete: true,
            },
        }
    }

    /// Whether no more is kept.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// More may answer who are not waited for.
    pub(super) fn cut_short(&mut self) {
        self.is_full = true;
        self.found.is_complete = false;
    }

    fn log(&self, kind: &'static str, reason: impl std::fmt::Display) {
        if let Some(LeftOut(left_out)) = self.log.admit(Level::DEBUG, kind) {
            let reason = Logged(reason);
            tracing::debug!(%reason, left_out, "passed over a worker's answer");
        }
    }

    /// Some workers may not have been asked.
    pub(super) fn miss_some(&mut self) {
        self.found.is_complete = false;
    }

    /// A worker answered, and what it said is not there.
    fn pass_over(&mut self) -> bool {
        self.found.is_complete = false;
        false
    }

    /// Takes in what came to the reply queue. Answers whether it is a worker's answer to the question, which another may follow.
    pub(super) fn add(&mut self, message: Message) -> bool {
        if self.found.workers.len() >= self.max_workers {
            self.cut_short();
            return false;
        }
        let is_answer = self.keep(message);
        if !is_answer {
            self.note_useless();
        }
        is_answer
    }

    /// Takes in a message with malformed properties. Returns `false`, as there is nothing to keep.
    pub(super) fn add_malformed(&mut self, message: &Message) -> bool {
        if message.properties.correlation_id.as_ref() == Some(&self.id) {
            self.log("answer_malformed", format_args!("it is malformed"));
            self.pass_over();
        }
        self.note_useless();
        false
    }

    fn note_useless(&mut self) {
        self.useless += 1;
        if self.useless >= MAX_USELESS {
            self.cut_short();
        }
    }

    fn keep(&mut self, message: Message) -> bool {
        if message.properties.correlation_id.as_ref() != Some(&self.id) {
            return false;
        }
        let size = message.body.len();
        let Ok(reply) = Reply::from_message(message, Codec::MessagePack) else {
            self.log("answer_unknown", format_args!("it is no reply"));
            return self.pass_over();
        };
        if size > MAX_BYTES {
            self.log("answer_size", format_args!("its {size} bytes are too many"));
            return self.pass_over();
        }
        self.bytes += size;
        if self.bytes > MAX_BYTES_IN_ALL {
            self.cut_short();
            return false;
        }
        match reply.kind {
            ReplyKind::Result => {}
            ReplyKind::Fault if self.found.refusals.len() < MAX_REFUSALS => {
                self.found.refusals.push(reply.read_fault());
                return true;
            }
            ReplyKind::Fault => return false,
            // None of the methods has an error of its own.
            ReplyKind::Error => return self.pass_over(),
        }
        let answer = match reply.codec.decode::<T>(&reply.body) {
            Ok(answer) => answer,
            Err(error) => {
                self.log("answer_unreadable", Chain(&error));
                return self.pass_over();
            }
        };
        let is_new = self.known.insert(answer.worker().id.clone());
        if is_new {
            self.found.workers.push(answer);
        }
        is_new
    }

    /// What was found, in an order that does not depend on who was quicker.
    pub(super) fn into_found(self) -> Discovered<T> {
        let mut found = self.found;
        found.workers.sort_by(|one, other| {
            let key = |worker: &T| {
                let Worker {
                    host, name, pid, id, ..
                } = worker.worker().clone();
                (host, name, pid, id)
            };
            key(one).cmp(&key(other))
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
    fn what_is_no_answer_is_not_kept_and_not_waited_for() {
        let mut collection = Collection::<Worker>::new(ID, 10);
        let other = ShortStr::from_static("8");
        assert!(!collection.add(answer(other, &worker("a"))));
        assert!(!collection.add(Message::default()));
        assert!(!collection.is_full() && collection.found.is_complete);
        for _ in 0..MAX_USELESS {
            collection.add(Message::default());
        }
        assert!(collection.is_full());
        assert!(ids(collection).is_empty());
    }

    #[test]
    fn what_is_complete_has_each_answer_that_came() {
        let mut unreadable = answer(ID, &worker("a"));
        unreadable.body = bytes::Bytes::from_static(b"\xc1");
        let long = answer(ID, &worker(&"x".repeat(MAX_BYTES)));
        let error = Reply::new(ReplyKind::Error, Codec::MessagePack, bytes::Bytes::new());
        for dropped in [unreadable, long, error.into_message(Some(ID))] {
            let mut collection = Collection::<Worker>::new(ID, 10);
            assert!(!collection.add(dropped));
            // The others are waited for all the same.
            assert!(!collection.is_full());
            assert!(collection.add(answer(ID, &worker("b"))));
            assert!(!collection.found.is_complete);
            assert_eq!(ids(collection), ["b"]);
        }
    }

    #[test]
    fn refusals_are_told() {
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
    fn no_more_workers_are_kept_than_may_be() {
        let mut collection = Collection::<Worker>::new(ID, 2);
        for id in ["a", "b"] {
            collection.add(answer(ID, &worker(id)));
            assert!(!collection.is_full());
        }
        collection.add(answer(ID, &worker("c")));
        assert!(collection.is_full());
        let found = collection.into_found();
        assert_eq!((found.workers.len(), found.is_complete), (2, false));
    }

    #[test]
    fn no_more_bytes_are_kept_than_may_be() {
        let mut collection = Collection::<Worker>::new(ID, 1000);
        let long = |number: usize| worker(&format!("{number}{}", "x".repeat(MAX_BYTES - 1000)));
        let kept = (0..100).take_while(|number| collection.add(answer(ID, &long(*number))));
        assert_eq!(kept.count(), MAX_BYTES_IN_ALL / (MAX_BYTES - 900));
        assert!(collection.is_full());
    }
}
