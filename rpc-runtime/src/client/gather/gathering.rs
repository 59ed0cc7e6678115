//! Decides which messages are answers, and when gathering ends. Pure: no I/O, no clock.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::super::received_reply::check_reply;
use crate::codec::Codec;
use crate::describe::Worker;
use crate::error::{BrokerError, CallError};
use crate::protocol::{BadReply, MAX_WORKER_HEADER, Malformed, Message, Reply, ShortStr, WORKER_HEADER};

/// The maximum number of answers. A queue with more workers is not expected.
const MAX_ANSWERS: usize = 10_000;

/// The maximum number of messages that are no answers, or repeat one. Workers do not send as many.
const MAX_IGNORED: usize = 10_000;

/// Why a [`Gather`](super::Gather) ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GatherEnd {
    /// As many workers answered as were [expected](super::Broadcast::expect_workers).
    Expected,
    /// No worker has answered for the [quiet window](super::Broadcast::quiet_for).
    Quiet,
    /// The [time limit](super::Broadcast::limit) was reached.
    Limit,
    /// There were ten thousand answers, or as many messages that are no answers or repeat one.
    TooManyAnswers,
    /// The connection was lost, and with it the answers that were still to come.
    Lost(BrokerError),
}

/// What ends gathering, and how answers are read.
#[derive(Debug, Clone)]
pub(crate) struct GatherLimits {
    /// How many workers should answer, if that is known.
    pub(super) expected: Option<usize>,
    /// How long to wait for the next answer once there is one.
    pub(super) quiet_window: Option<Duration>,
    pub(super) deadline: Instant,
    /// The codec of answers that name none.
    pub(super) codec: Codec,
    /// The largest body of an answer, in bytes.
    pub(super) max_bytes: usize,
}

/// An answer of a worker.
#[derive(Debug)]
pub(super) struct Answer {
    /// Without an id if the worker did not say who it is.
    pub(super) worker: Worker,
    pub(super) reply: Result<Reply, CallError>,
}

/// The state of gathering the answers to one request.
#[derive(Debug)]
pub(super) struct Gathering {
    id: ShortStr,
    limits: GatherLimits,
    /// The ids of the workers that have answered.
    worker_ids: HashSet<String>,
    answers: usize,
    /// How many messages were no answers, or repeated one.
    ignored: usize,
    /// When the quiet window ends. `None` before the first answer, or if there is no window.
    quiet_at: Option<Instant>,
    end: Option<GatherEnd>,
}

impl Gathering {
    /// Gathers the answers to the request with this correlation id.
    pub(super) fn new(id: ShortStr, limits: GatherLimits) -> Self {
        let is_over = limits.expected == Some(0);
        Self {
            id,
            limits,
            worker_ids: HashSet::new(),
            answers: 0,
            ignored: 0,
            quiet_at: None,
            end: is_over.then_some(GatherEnd::Expected),
        }
    }

    /// Why gathering ended. `None` until then.
    pub(super) fn end(&self) -> Option<&GatherEnd> {
        self.end.as_ref()
    }

    /// How many workers have answered.
    pub(super) fn answered(&self) -> usize {
        self.answers
    }

    /// How many workers were expected and have not answered. `None` if no number is expected.
    pub(super) fn missing(&self) -> Option<usize> {
        let expected = self.limits.expected?;
        Some(expected.saturating_sub(self.answers))
    }

    /// Ends gathering if its time limit is over.
    pub(super) fn check_deadline(&mut self, now: Instant) {
        if now >= self.limits.deadline {
            self.end_with(GatherEnd::Limit);
        }
    }

    /// When [`check_time`](Self::check_time) ends gathering, unless an answer arrives before.
    pub(super) fn wake_at(&self) -> Instant {
        let deadline = self.limits.deadline;
        self.quiet_at.map_or(deadline, |quiet_at| quiet_at.min(deadline))
    }

    /// Ends gathering if its time limit or its quiet window is over.
    pub(super) fn check_time(&mut self, now: Instant) {
        self.check_deadline(now);
        if self.quiet_at.is_some_and(|quiet_at| now >= quiet_at) {
            self.end_with(GatherEnd::Quiet);
        }
    }

    /// Ends gathering, unless it has ended before.
    pub(super) fn end_with(&mut self, end: GatherEnd) {
        self.end.get_or_insert(end);
    }

    /// Counts a message, which may end gathering, and returns the answer in it. `None` if the
    /// message is no answer, if its worker has answered before, or if gathering has ended before.
    pub(super) fn receive(
        &mut self,
        message: Message,
        malformed: Option<Malformed>,
        now: Instant,
    ) -> Option<Answer> {
        if self.end.is_some() {
            return None;
        }
        let Some(answer) = self.read(message, malformed) else {
            self.ignored += 1;
            if self.ignored >= MAX_IGNORED {
                self.end_with(GatherEnd::TooManyAnswers);
            }
            return None;
        };
        self.answers += 1;
        self.quiet_at = self.limits.quiet_window.map(|window| now + window);
        if self.missing() == Some(0) {
            self.end_with(GatherEnd::Expected);
        } else if self.answers >= MAX_ANSWERS {
            self.end_with(GatherEnd::TooManyAnswers);
        }
        Some(answer)
    }

    /// Returns the answer in a message, and remembers its worker. `None` if the message is no
    /// answer to this request, or if its worker has answered before.
    fn read(&mut self, message: Message, malformed: Option<Malformed>) -> Option<Answer> {
        if message.properties.correlation_id.as_ref() != Some(&self.id) {
            return None;
        }
        let worker = read_worker(&message);
        // Workers without an id cannot be told apart, so each of their answers counts.
        let is_first_answer = worker.id.is_empty() || self.worker_ids.insert(worker.id.clone());
        if !is_first_answer {
            return None;
        }
        let reply = match malformed {
            Some(malformed) => Err(BadReply::Malformed(malformed)),
            None => Reply::from_message(message, self.limits.codec),
        };
        // A worker runs a broadcast once, so its fault tells what became of the method there.
        let is_resent = false;
        let reply = check_reply(reply, self.limits.max_bytes, is_resent);
        Some(Answer { worker, reply })
    }
}

/// Reads which worker sent a message. If the message does not say so, the worker has no id.
fn read_worker(message: &Message) -> Worker {
    let header = message.properties.headers.get(WORKER_HEADER);
    // Ids are kept until gathering ends, so a header is ignored that is longer than any that this
    // library sends.
    let accepted = header.filter(|header| header.len() <= MAX_WORKER_HEADER);
    let worker = accepted.and_then(|header| serde_json::from_str(header).ok());
    worker.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReplyKind;

    const ID: ShortStr = ShortStr::from_static("7");
    const SECOND: Duration = Duration::from_secs(1);

    fn gathering(expected: Option<usize>, quiet_window: Option<Duration>) -> (Gathering, Instant) {
        let now = Instant::now();
        let limits = GatherLimits {
            expected,
            quiet_window,
            deadline: now + 10 * SECOND,
            codec: Codec::Json,
            max_bytes: 10,
        };
        (Gathering::new(ID, limits), now)
    }

    fn answer_to(id: ShortStr, worker: &str, body: &'static [u8]) -> Message {
        let mut reply = Reply::new(ReplyKind::Result, Codec::Json, body.into());
        if !worker.is_empty() {
            let name = ShortStr::from_static(WORKER_HEADER);
            reply.headers.insert(name, format!(r#"{{"id":"{worker}"}}"#));
        }
        reply.into_message(Some(id))
    }

    fn answer(worker: &str) -> Message {
        answer_to(ID, worker, b"1")
    }

    #[test]
    fn it_ends_with_the_expected_number_of_answers() {
        let (mut gathering, now) = gathering(Some(2), None);
        assert_eq!(gathering.missing(), Some(2));
        assert_eq!(gathering.receive(answer("a"), None, now).unwrap().worker.id, "a");
        assert!(gathering.end().is_none());
        assert!(gathering.receive(answer("b"), None, now).is_some());
        assert!(matches!(gathering.end(), Some(GatherEnd::Expected)));
        assert_eq!((gathering.missing(), gathering.answered()), (Some(0), 2));
        assert!(gathering.receive(answer("c"), None, now).is_none());
    }

    #[test]
    fn the_quiet_window_begins_with_each_answer_and_not_before() {
        let (mut gathering, now) = gathering(None, Some(SECOND));
        assert_eq!(gathering.wake_at(), now + 10 * SECOND);
        gathering.check_time(now + 9 * SECOND);
        assert!(gathering.end().is_none());
        gathering.receive(answer("a"), None, now + 3 * SECOND);
        gathering.receive(answer("b"), None, now + 4 * SECOND);
        assert_eq!(gathering.wake_at(), now + 5 * SECOND);
        gathering.check_time(now + 4 * SECOND);
        assert!(gathering.end().is_none());
        gathering.check_time(now + 5 * SECOND);
        assert!(matches!(gathering.end(), Some(GatherEnd::Quiet)));
        assert_eq!(gathering.missing(), None);
    }

    #[test]
    fn the_limit_counts_those_that_did_not_answer() {
        let (mut gathering, now) = gathering(Some(3), None);
        gathering.receive(answer("a"), None, now + SECOND);
        assert_eq!(gathering.wake_at(), now + 10 * SECOND);
        gathering.check_time(now + 10 * SECOND);
        assert!(matches!(gathering.end(), Some(GatherEnd::Limit)));
        assert_eq!(gathering.missing(), Some(2));
    }

    #[test]
    fn nobody_is_waited_for_if_nobody_is_expected() {
        let (gathering, _) = gathering(Some(0), None);
        assert!(matches!(gathering.end(), Some(GatherEnd::Expected)));
    }

    #[test]
    fn foreign_and_duplicate_answers_are_ignored_up_to_a_limit() {
        let (mut gathering, now) = gathering(None, Some(SECOND));
        assert!(gathering.receive(answer("a"), None, now).is_some());
        let later = now + SECOND / 2;
        let foreign = answer_to(ShortStr::from_static("8"), "b", b"1");
        for ignored in [answer("a"), foreign.clone(), Message::default()] {
            assert!(gathering.receive(ignored, None, later).is_none());
        }
        // They do not prolong the quiet window.
        assert_eq!(gathering.wake_at(), now + SECOND);
        assert_eq!(gathering.answered(), 1);
        for _ in 0..MAX_IGNORED {
            gathering.receive(foreign.clone(), None, later);
        }
        assert!(matches!(gathering.end(), Some(GatherEnd::TooManyAnswers)));
    }

    #[test]
    fn a_worker_that_does_not_say_who_it_is_counts_each_time() {
        let (mut gathering, now) = gathering(Some(2), None);
        for _ in 0..2 {
            let answer = gathering.receive(answer(""), None, now).unwrap();
            assert_eq!(answer.worker, Worker::default());
        }
        assert!(gathering.end().is_some());
    }

    #[test]
    fn the_identity_of_a_worker_is_short() {
        let (mut gathering, now) = gathering(None, None);
        let long = "x".repeat(MAX_WORKER_HEADER);
        for _ in 0..2 {
            let answer = gathering.receive(answer(&long), None, now).unwrap();
            assert_eq!(answer.worker, Worker::default());
        }
        assert!(gathering.worker_ids.is_empty());
    }

    #[test]
    fn the_deadline_ends_gathering_even_if_answers_keep_arriving() {
        let (mut gathering, now) = gathering(None, Some(SECOND));
        gathering.check_deadline(now + 9 * SECOND);
        assert!(gathering.receive(answer("a"), None, now + 9 * SECOND).is_some());
        // The quiet window is over, but an answer may have arrived within it.
        gathering.check_deadline(now + 10 * SECOND - SECOND / 2);
        assert!(gathering.end().is_none());
        gathering.check_deadline(now + 10 * SECOND);
        assert!(matches!(gathering.end(), Some(GatherEnd::Limit)));
    }

    #[test]
    fn an_answer_that_cannot_be_read_counts_with_its_worker() {
        let (mut gathering, now) = gathering(None, None);
        let long = answer_to(ID, "a", b"\"more than ten bytes\"");
        let mut unknown = answer("b");
        unknown.properties.content_type = Some(ShortStr::from_static("image/png"));
        for (message, malformed) in [
            (long, None),
            (unknown, None),
            (answer("c"), Some(Malformed::InvalidHeaders)),
        ] {
            let answer = gathering.receive(message, malformed, now).unwrap();
            assert!(matches!(answer.reply, Err(CallError::BadReply { .. })));
        }
        assert_eq!(gathering.answered(), 3);
    }
}
