//! The answers to a broadcast, as a stream.

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::super::call::ReadReply;
use super::answers::Answers;
use super::gathering::{Answer, GatherEnd};
use crate::describe::Worker;
use crate::error::CallError;

/// What one worker answered.
type Item<T, E> = (Worker, Result<T, CallError<E>>);

/// The answers of all workers to a [`Broadcast`](super::Broadcast), as they arrive.
///
/// Each item is a worker and its answer: the method's result or error, the fault of the worker, or
/// [`CallError::BadReply`] if its answer cannot be read. A worker that cannot say who it is, such
/// as one of another library, has an empty `id`. No other worker is listed twice.
///
/// It ends for one of the reasons in [`GatherEnd`]. A worker that does not answer has no item;
/// [`missing`](Self::missing) counts those if a number was
/// [expected](super::Broadcast::expect_workers).
///
/// This is a [`Stream`]. [`next`](Self::next) works without a crate for streams. Dropping it
/// deletes the queue for answers; methods that are running go on.
#[must_use = "answers arrive as they are polled"]
pub struct Gather<T, E = Infallible> {
    source: Source<T, E>,
    read: ReadReply<T, E>,
}

enum Source<T, E> {
    Broker(Box<Answers>),
    /// A service in this process.
    InProcess {
        /// The answer, until it is taken.
        answer: Option<Box<Item<T, E>>>,
        /// Whether there was an answer.
        has_answered: bool,
        expected: Option<usize>,
    },
}

/// All answers to a broadcast.
#[derive(Debug)]
#[non_exhaustive]
pub struct Gathered<T, E = Infallible> {
    /// The workers and their answers, in the order of arrival.
    pub answers: Vec<(Worker, Result<T, CallError<E>>)>,
    /// How many workers were expected and did not answer. `None` if no number was expected.
    pub missing: Option<usize>,
    /// Why no more answers were waited for.
    pub end: GatherEnd,
    /// Whether the broker confirmed the request; see [`Gather::is_confirmed`].
    pub is_confirmed: bool,
}

impl<T, E> Gather<T, E> {
    /// The answers of workers.
    pub(super) fn from_broker(answers: Answers, read: ReadReply<T, E>) -> Self {
        Self {
            source: Source::Broker(Box::new(answers)),
            read,
        }
    }

    /// The answer of a service in this process. `None` if it did not answer in time.
    pub(super) fn in_process(
        answer: Option<Item<T, E>>,
        expected: Option<usize>,
        read: ReadReply<T, E>,
    ) -> Self {
        // If no worker is expected, gathering ends before the first answer, as with a broker.
        let answer = answer.filter(|_| expected != Some(0));
        let source = Source::InProcess {
            has_answered: answer.is_some(),
            answer: answer.map(Box::new),
            expected,
        };
        Self { source, read }
    }

    /// Returns the next answer, or `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no answer is lost.
    pub async fn next(&mut self) -> Option<(Worker, Result<T, CallError<E>>)> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Waits until gathering ends, and returns all answers.
    pub async fn collect(mut self) -> Gathered<T, E> {
        let mut answers = Vec::new();
        while let Some(answer) = self.next().await {
            answers.push(answer);
        }
        Gathered {
            answers,
            missing: self.missing(),
            is_confirmed: self.is_confirmed(),
            // Always `Some` after the last answer.
            end: self.end().unwrap_or(GatherEnd::Limit),
        }
    }

    /// Returns how many answers have been received. With a broker, they are received while this
    /// stream is polled.
    #[must_use]
    pub fn answered(&self) -> usize {
        match &self.source {
            Source::Broker(answers) => answers.gathering().answered(),
            Source::InProcess { has_answered, .. } => usize::from(*has_answered),
        }
    }

    /// Returns how many answers are still missing from the
    /// [expected](super::Broadcast::expect_workers) number. `None` if no number is expected.
    #[must_use]
    pub fn missing(&self) -> Option<usize> {
        match &self.source {
            Source::Broker(answers) => answers.gathering().missing(),
            Source::InProcess { expected, .. } => {
                expected.map(|expected| expected.saturating_sub(self.answered()))
            }
        }
    }

    /// Returns why it ended. `None` while further answers may arrive. With a broker, time limits
    /// take effect while this stream is polled.
    #[must_use]
    pub fn end(&self) -> Option<GatherEnd> {
        match &self.source {
            Source::Broker(answers) => answers.gathering().end().cloned(),
            Source::InProcess { answer: Some(_), .. } => None,
            Source::InProcess { has_answered, .. } => Some(match self.missing() {
                Some(0) => GatherEnd::Expected,
                _ if *has_answered => GatherEnd::Quiet,
                _ => GatherEnd::Limit,
            }),
        }
    }

    /// Returns whether the broker confirmed that it has put the request into the queues of all
    /// workers.
    ///
    /// If not, a worker may not have got the request. Perhaps its queue did not take it, as may
    /// happen while the worker loses its connection, or the confirm was lost. The other workers run
    /// the request and answer.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        match &self.source {
            Source::Broker(answers) => answers.is_confirmed(),
            Source::InProcess { .. } => true,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item<T, E>>> {
        match &mut self.source {
            Source::Broker(answers) => {
                let answer = std::task::ready!(answers.poll_next(cx));
                Poll::Ready(answer.map(|Answer { worker, reply }| {
                    let result = reply.map_err(CallError::widen).and_then(self.read);
                    (worker, result)
                }))
            }
            Source::InProcess { answer, .. } => Poll::Ready(answer.take().map(|answer| *answer)),
        }
    }
}

impl<T, E> Unpin for Gather<T, E> {}

impl<T, E> Stream for Gather<T, E> {
    type Item = (Worker, Result<T, CallError<E>>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl<T, E> fmt::Debug for Gather<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("answered", &self.answered())
            .field("missing", &self.missing())
            .finish_non_exhaustive()
    }
}
