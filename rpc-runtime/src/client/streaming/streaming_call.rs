//! The stream that a client's method returns.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;

use super::inbox::{Grantee, ItemInbox};
use super::resumption::{ResumeArgument, Resumption};
use crate::client::backend::Backend;
use crate::client::call::{ReadReply, change_plan};
use crate::client::call_path::CallPath;
use crate::client::in_flight_call::InFlightCall;
use crate::client::invalid_call::InvalidCall;
use crate::client::observed::ReplyFuture;
use crate::client::plan::CallPlan;
use crate::codec::{Codec, DecodeError};
use crate::error::CallError;
use crate::protocol::{
    Executed, ITEMS_HEADER, ItemList, MAX_CREDIT, Reply, ReplyKind, Volume, insert_user_header,
};
use crate::service::{ResultType, ambient_deadline};

/// A call of a method that returns a stream, and the stream of its items.
///
/// This is a [`Stream`] of results: the items as the method yields them, and if the method or the
/// call fails, the error as the last one. [`next`](Self::next) works without a crate for streams.
/// It borrows nothing: it is `Unpin + 'static`, and `Send` if its items are. Nothing is sent before
/// it is first polled. Set options before that:
///
/// ```
/// # use rpc_runtime::{Broker, CallError, Server, service};
/// # use std::time::Duration;
/// # use futures_util::stream::{self, Stream};
/// #[service]
/// pub trait Numbers {
///     /// Counts up to a number.
///     fn count(&self, to: u64) -> impl Stream<Item = u64>;
/// }
///
/// struct Counter;
///
/// impl Numbers for Counter {
///     fn count(&self, to: u64) -> impl Stream<Item = u64> {
///         stream::iter(1..=to)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), CallError> {
/// let numbers = NumbersClient::in_process(Counter);
/// let mut count = numbers.count(3).timeout(Duration::from_secs(5)).credit(16);
/// let mut sum = 0;
/// while let Some(number) = count.next().await {
///     sum += number?;
/// }
/// assert_eq!(sum, 6);
/// # Ok(())
/// # }
/// ```
///
/// # Time limits
///
/// The [`timeout`](Self::timeout) limits how long the reader waits for the first item, and for each
/// further one. If the worker dies while it sends the stream, the stream ends 16 seconds later with
/// the fault [`Interrupted`](crate::FaultCode::Interrupted), unless the `timeout` passes first. If
/// the method has an argument with `#[rpc(resume)]`, another worker goes on after the last item
/// instead, if one takes over within the `timeout`.
///
/// # Slow readers
///
/// The worker sends no more items than the reader has room for: see [`credit`](Self::credit). If
/// there is no room left, the method's stream is polled for one more item, and then not before the
/// reader takes items.
///
/// # Cancel safety
///
/// [`next`](Self::next) is cancel safe: no item is lost. Dropping the call ends the stream.
#[must_use = "a stream does nothing until it is polled"]
pub struct StreamingCall<T, E = Infallible> {
    state: State<T, E>,
}

/// A call of a method that returns a stream of the `Result` type `R`:
/// [`StreamingCall<T, E>`](StreamingCall) for a `Result<T, E>`, or for an alias of it.
pub type FallibleStreamingCall<R> = StreamingCall<<R as ResultType>::Ok, <R as ResultType>::Err>;

/// How to decode what a worker sends: an item, an array of all items in one reply, or the end.
pub(crate) struct ReadItems<T, E> {
    pub(crate) item: fn(Codec, &[u8]) -> Result<T, DecodeError>,
    pub(crate) array: fn(Codec, &[u8]) -> Result<Vec<T>, DecodeError>,
    /// Reads the reply that ends the stream, to return its error.
    pub(crate) end: ReadReply<(), E>,
}

enum State<T, E> {
    Planned(Planned<T, E>),
    Running(Box<Running<T, E>>),
    /// See [`StreamingCall::ready`].
    Ready(Box<dyn Iterator<Item = Result<T, CallError<E>>> + Send>),
    Ended,
}

struct Planned<T, E> {
    path: CallPath,
    call: Result<Arc<InFlightCall>, InvalidCall>,
    inbox: Arc<ItemInbox>,
    read: ReadItems<T, E>,
    resume: Option<ResumeArgument>,
}

struct Running<T, E> {
    inbox: Arc<ItemInbox>,
    backend: Backend,
    codec: Codec,
    read: ReadItems<T, E>,
    /// `None` once it is ready.
    reply: Option<ReplyFuture>,
    /// The outcome of the call, until all items are taken.
    outcome: Option<Result<Reply, CallError>>,
    /// Items that were taken from the inbox, and that the reader has not got.
    items: VecDeque<ItemList>,
    /// The items of a worker that sent them as an array.
    array: VecDeque<T>,
    /// What the reader has consumed since the call began, or since it was resumed.
    consumed: Volume,
    /// Once so many items, or so many bytes of them, are consumed, more credit is granted.
    grant_at: Volume,
    /// `None` if the stream ends once it is interrupted.
    resumption: Option<Resumption>,
}

impl<T, E> StreamingCall<T, E> {
    pub(crate) fn new(
        path: CallPath,
        call: Result<Arc<InFlightCall>, InvalidCall>,
        inbox: Arc<ItemInbox>,
        read: ReadItems<T, E>,
    ) -> Self {
        Self {
            state: State::Planned(Planned {
                path,
                call,
                inbox,
                read,
                resume: None,
            }),
        }
    }

    /// Makes the call resume its stream if it is interrupted and the method has an argument for
    /// that.
    pub(in crate::client) fn resumed_by(mut self, argument: Option<ResumeArgument>) -> Self {
        if let State::Planned(planned) = &mut self.state {
            planned.resume = argument;
        }
        self
    }

    /// Creates a stream that sends nothing and yields these items. It ends after the first error.
    /// Options have no effect on it.
    ///
    /// For mocks of clients in tests, which have to return what the client returns.
    ///
    /// ```
    /// # use rpc_runtime::{CallError, StreamingCall};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let items = [Ok(1), Err(CallError::no_server("Numbers"))];
    /// let mut numbers: StreamingCall<u64> = StreamingCall::ready(items);
    /// assert_eq!(numbers.next().await.unwrap().unwrap(), 1);
    /// assert!(numbers.next().await.unwrap().is_err());
    /// assert!(numbers.next().await.is_none());
    /// # }
    /// ```
    pub fn ready(items: impl IntoIterator<Item = Result<T, CallError<E>>, IntoIter: Send + 'static>) -> Self {
        Self {
            state: State::Ready(Box::new(items.into_iter())),
        }
    }

    /// Sets how long the reader waits for the first item, and for each further one.
    ///
    /// The default is the method's own `timeout`, or else the client's, which is 30 seconds unless
    /// set. In a handler, the stream also ends at the handler's own deadline, unless it is
    /// [`detached`](Self::detached).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.change_plan(|plan| {
            plan.timeout = limit;
            Ok(())
        });
        self
    }

    /// Sets how many items may be on their way or wait for the reader: at least 1, and at most
    /// 1,048,576, which is the default. Once it is set, the limit of bytes does not grow; see
    /// [`credit_bytes`](Self::credit_bytes).
    ///
    /// The method runs ahead of its reader by as many items, unless they have more bytes than
    /// [`credit_bytes`](Self::credit_bytes) allows. Set a small number if each item costs the
    /// method much work that is done in vain if the reader stops early.
    pub fn credit(self, items: u32) -> Self {
        self.change_window(|window| window.items = u64::from(items).clamp(1, MAX_CREDIT));
        self
    }

    /// Sets how many bytes of items may be on their way or wait for the reader. By default, these
    /// are 2 MiB, and grow to up to 8 MiB while the worker has to wait for credit and the reader
    /// for items.
    ///
    /// An item counts its encoded length and 8 bytes. The items may exceed the number by one item.
    /// More bytes make a stream of large items faster, and fewer save memory if many readers are
    /// slow. With fewer than some items have, the worker waits for the reader after each of them.
    pub fn credit_bytes(self, bytes: u32) -> Self {
        self.change_window(|window| window.bytes = u64::from(bytes).max(1));
        self
    }

    /// Detaches the stream from the handler that makes the call, like
    /// [`Call::detached`](crate::Call::detached).
    pub fn detached(mut self) -> Self {
        self.change_plan(|plan| {
            plan.is_detached = true;
            Ok(())
        });
        self
    }

    /// Adds a header to the request, like [`Call::header`](crate::Call::header).
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.change_plan(|plan| Ok(insert_user_header(&mut plan.headers, name, value)?));
        self
    }

    /// Sets the request's priority, like [`Call::priority`](crate::Call::priority).
    pub fn priority(mut self, priority: u8) -> Self {
        self.change_plan(|plan| {
            plan.priority = Some(priority);
            Ok(())
        });
        self
    }

    fn change_window(&self, change: impl FnOnce(&mut Volume)) {
        if let State::Planned(planned) = &self.state {
            planned.inbox.change_window(change);
        }
    }

    /// Changes the plan of a call that has not begun. The call fails with the first error.
    pub(in crate::client) fn change_plan(
        &mut self,
        change: impl FnOnce(&mut CallPlan) -> Result<(), InvalidCall>,
    ) {
        if let State::Planned(Planned { call, .. }) = &mut self.state {
            change_plan(call, change);
        }
    }

    /// Returns the next item, or `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<T, CallError<E>>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, CallError<E>>>> {
        if let State::Planned(_) = self.state
            && let Err(reason) = self.begin()
        {
            return Poll::Ready(Some(Err(CallError::from(reason).widen())));
        }
        let item = match &mut self.state {
            State::Running(running) => ready!(running.poll(cx)),
            State::Ready(items) => items.next(),
            State::Planned(_) | State::Ended => None,
        };
        if !matches!(item, Some(Ok(_))) {
            self.state = State::Ended;
        }
        Poll::Ready(item)
    }

    /// Begins the call, which must be [`Planned`](State::Planned). If it is invalid, ends it and
    /// returns the reason.
    fn begin(&mut self) -> Result<(), InvalidCall> {
        let State::Planned(Planned {
            path,
            call,
            inbox,
            read,
            resume,
        }) = std::mem::replace(&mut self.state, State::Ended)
        else {
            return Ok(());
        };
        let call = call?;
        let plan = call.plan();
        let ends_at = ambient_deadline().filter(|_| !plan.is_detached);
        inbox.set_handler_deadline(ends_at);
        let resumption =
            resume.map(|argument| Resumption::new(argument, path.clone(), plan.clone(), ends_at));
        self.state = State::Running(Box::new(Running {
            codec: plan.codec,
            grant_at: first_grant_at(&inbox),
            backend: path.backend().clone(),
            reply: Some(path.call(call)),
            inbox,
            read,
            outcome: None,
            items: VecDeque::new(),
            array: VecDeque::new(),
            consumed: Volume::default(),
            resumption,
        }));
        Ok(())
    }
}

impl<T, E> Running<T, E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, CallError<E>>>> {
        loop {
            if let Some(item) = self.array.pop_front() {
                return Poll::Ready(Some(Ok(item)));
            }
            if let Some(item) = self.read_next() {
                return Poll::Ready(Some(item));
            }
            ready!(self.poll_resumption(cx));
            let arrived = self.inbox.poll_items(cx, &mut self.items);
            if arrived.is_ready() {
                continue;
            }
            self.grant();
            if self.reply.is_some() {
                ready!(self.poll_reply(cx));
                // Further items may have arrived before the reply.
                continue;
            }
            let error = match self.outcome.take() {
                None => return Poll::Ready(None),
                Some(Ok(reply)) if reply.kind != ReplyKind::Fault => {
                    return Poll::Ready(self.read_end(reply));
                }
                Some(Ok(reply)) => CallError::Fault(reply.read_fault()),
                Some(Err(error)) => error,
            };
            if let Err(error) = self.schedule_next_call(error) {
                return Poll::Ready(Some(Err(error.widen())));
            }
        }
    }

    /// Waits for the reply, which becomes the outcome, or until items have arrived.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(reply) = &mut self.reply else {
            return Poll::Ready(());
        };
        if let Poll::Ready(outcome) = reply.as_mut().poll(cx) {
            self.outcome = Some(outcome);
            self.reply = None;
            return Poll::Ready(());
        }
        // The reply of a method in this process runs it, so it may have sent items.
        let arrived = self.inbox.poll_items(cx, &mut self.items);
        if let (Poll::Pending, Some(resumption)) = (arrived, &mut self.resumption) {
            resumption.record_waiting();
        }
        arrived
    }

    /// Lets [`poll_resumption`](Self::poll_resumption) resume the stream after this error, or
    /// returns the error if it ends the stream.
    fn schedule_next_call(&mut self, error: CallError) -> Result<(), CallError> {
        match &mut self.resumption {
            Some(resumption) => resumption.schedule_next_call(error, &self.inbox),
            None => Err(error),
        }
    }

    /// Waits for the pause after an interruption, and begins the next call. Ready at once if no
    /// call is to begin.
    fn poll_resumption(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(resumption) = &mut self.resumption
            && let Some(call) = ready!(resumption.poll_next_call(cx, &self.inbox))
        {
            self.inbox = call.inbox;
            self.reply = Some(call.reply);
            self.consumed = Volume::default();
            self.grant_at = first_grant_at(&self.inbox);
        }
        Poll::Ready(())
    }

    /// Takes and decodes the next of the items that were taken from the inbox, and grants credit if
    /// that is due. `None` if there is no item.
    fn read_next(&mut self) -> Option<Result<T, CallError<E>>> {
        let items = self.items.front_mut()?;
        let item = items.first()?;
        let limit = self.backend.max_accepted_bytes();
        let read = match item.len() {
            size if size > limit => Err(CallError::BadReply {
                source: format!("an item has {size} bytes, and at most {limit} are accepted").into(),
                executed: Executed::Maybe,
            }),
            _ => (self.read.item)(self.codec, item).map_err(undecodable_item_error),
        };
        self.consumed = self.consumed.plus(Volume::of(item));
        match &mut self.resumption {
            Some(resumption) => resumption.received(items.next()?),
            None => items.drop_first(),
        }
        if items.is_empty() {
            self.items.pop_front();
        }
        if !self.grant_at.allows_more_than(self.consumed) {
            self.grant();
        }
        Some(read)
    }

    /// Lets the worker send more items, if the reader has consumed enough.
    fn grant(&mut self) {
        let Some((grantee, credit)) = self.inbox.grant(self.consumed) else {
            return;
        };
        self.grant_at = credit.minus(self.inbox.window().half());
        match (grantee, &self.backend) {
            (Grantee::InProcess(current), _) => current.raise(credit),
            (Grantee::Worker(key, id), Backend::Broker(caller)) => caller.grant(key, id, credit),
            // A method in this process has its own credit, above.
            (Grantee::Worker(..), Backend::InProcess(_)) => {}
        }
    }

    /// Reads the reply, after all items. Returns the method's error, the first item of an array, or
    /// `None` at the end, and an error if the reply is not the end of these items. The reply is no
    /// fault: [`poll`](Self::poll) has handled that, because it may resume the stream.
    fn read_end(&mut self, reply: Reply) -> Option<Result<T, CallError<E>>> {
        match (reply.kind, reply.headers.get(ITEMS_HEADER)) {
            (ReplyKind::Error | ReplyKind::Fault, _) => (self.read.end)(reply).err().map(Err),
            // A worker of another library, or a layer of the worker, may send an array of all items
            // instead of a stream.
            (ReplyKind::Result, None) => self.begin_array(&reply),
            (ReplyKind::Result, Some(count))
                if count.parse() == Ok(self.consumed.items) && reply.body.is_empty() =>
            {
                None
            }
            // The reply does not belong to these items: a layer of this client returned that of
            // another call, such as a second attempt.
            (ReplyKind::Result, Some(_)) => Some(Err(CallError::BadReply {
                source: "the reply is not the end of the stream, or has another number of items".into(),
                executed: Executed::Maybe,
            })),
        }
    }

    /// Reads all items from one reply, and returns the first. `None` if there is none.
    fn begin_array(&mut self, reply: &Reply) -> Option<Result<T, CallError<E>>> {
        match (self.read.array)(reply.codec, &reply.body) {
            Ok(items) => {
                self.array = items.into();
                self.array.pop_front().map(Ok)
            }
            Err(error) => Some(Err(undecodable_item_error(error))),
        }
    }
}

/// Returns how much the reader consumes before more credit is granted for the first time: half of
/// the window.
fn first_grant_at(inbox: &ItemInbox) -> Volume {
    inbox.window().minus(inbox.window().half())
}

/// Builds the error for an item that cannot be decoded.
fn undecodable_item_error<E>(source: DecodeError) -> CallError<E> {
    CallError::BadReply {
        source: source.into(),
        executed: Executed::Maybe,
    }
}

impl<T, E> Unpin for StreamingCall<T, E> {}

impl<T, E> Stream for StreamingCall<T, E> {
    type Item = Result<T, CallError<E>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl<T, E> fmt::Debug for StreamingCall<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut call = f.debug_struct("StreamingCall");
        match &self.state {
            State::Planned(Planned {
                call: Ok(planned), ..
            }) => call.field("plan", planned.plan()),
            State::Planned(_) => call.field("state", &"not sendable"),
            State::Running(running) => call.field("items", &running.consumed.items),
            State::Ready(_) => call.field("state", &"ready"),
            State::Ended => call.field("state", &"ended"),
        };
        call.finish_non_exhaustive()
    }
}
