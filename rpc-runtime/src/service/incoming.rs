//! The stream of items that a method receives.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use serde::Deserialize;

use super::incoming_error::IncomingError;
use super::incoming_inbox::IncomingInbox;
use super::invocation::Invocation;
use crate::codec::{Codec, DecodeError};
use crate::protocol::{Fault, FaultCode};
use crate::telemetry::{ItemTally, SentBy};

/// The items that a caller sends while a method runs: a stream, and the type of a method's
/// parameter.
///
/// The client's method takes any `Stream<Item = T> + Send + 'static` in its place. The items arrive
/// in order, without gaps or duplicates. [`next`](Self::next) works without a crate for streams.
/// An error is the last item. A stream that breaks off ends with an error, so one that ends without
/// an error is complete.
///
/// ```
/// # use rpc_runtime::{CallError, Incoming, service};
/// # use futures_util::stream;
/// #[service]
/// pub trait Sums {
///     /// Adds numbers.
///     async fn sum(&self, start: u64, numbers: Incoming<u64>) -> Result<u64, String>;
/// }
///
/// struct Adder;
///
/// impl Sums for Adder {
///     async fn sum(&self, start: u64, mut numbers: Incoming<u64>) -> Result<u64, String> {
///         let mut sum = start;
///         while let Some(number) = numbers.next().await {
///             sum += number.map_err(|error| error.to_string())?;
///         }
///         Ok(sum)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), CallError<String>> {
/// let sums = SumsClient::in_process(Adder);
/// let sum = sums.sum(1, stream::iter([2, 3])).await?;
/// assert_eq!(sum, 6);
/// # Ok(())
/// # }
/// ```
///
/// # Slow methods
///
/// The caller's stream is polled for at most 1024 items that the method has not taken, or until
/// they have 4 MiB together. Then it is not polled again before the method has taken some.
///
/// # Dropping it
///
/// A method may drop it before its end. The caller's stream is dropped too, and the caller gets the
/// method's result as usual.
///
/// # Cancel safety
///
/// [`next`](Self::next) is cancel safe: no item is lost.
pub struct Incoming<T> {
    source: Source<T>,
}

enum Source<T> {
    Inbox(Reader<T>),
    /// See [`Incoming::ready`].
    Ready(Box<dyn Iterator<Item = Result<T, IncomingError>> + Send>),
    Ended,
}

/// Reads the items of a call. Dropping it tells the caller that no more are wanted.
struct Reader<T> {
    inbox: Arc<IncomingInbox>,
    codec: Codec,
    decode: fn(Codec, &[u8]) -> Result<T, DecodeError>,
    /// What layers and metrics know of the items.
    tally: ItemTally,
}

impl<T> Reader<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, IncomingError>>> {
        let next = self.inbox.poll_item(cx);
        if let Poll::Ready(Some(Ok(item))) = &next {
            self.tally.add(item.len());
        } else {
            self.tally.flush();
        }
        let decode = |item: Bytes| (self.decode)(self.codec, &item).map_err(IncomingError::Decode);
        next.map(|next| next.map(|received| received.and_then(decode)))
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

impl<T> Incoming<T> {
    /// Creates a stream of these items, which ends after the first error.
    ///
    /// For tests of implementations.
    ///
    /// ```
    /// # use rpc_runtime::{Incoming, IncomingError};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut numbers = Incoming::ready([Ok(1), Err(IncomingError::Interrupted)]);
    /// assert_eq!(numbers.next().await.unwrap().unwrap(), 1);
    /// assert!(numbers.next().await.unwrap().is_err());
    /// assert!(numbers.next().await.is_none());
    /// # }
    /// ```
    pub fn ready(
        items: impl IntoIterator<Item = Result<T, IncomingError>, IntoIter: Send + 'static>,
    ) -> Self {
        Self {
            source: Source::Ready(Box::new(items.into_iter())),
        }
    }

    /// Returns the next item, or `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<T, IncomingError>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, IncomingError>>> {
        let item = match &mut self.source {
            Source::Inbox(reader) => ready!(reader.poll(cx)),
            Source::Ready(items) => items.next(),
            Source::Ended => None,
        };
        if !matches!(item, Some(Ok(_))) {
            self.source = Source::Ended;
        }
        Poll::Ready(item)
    }
}

impl<T> Unpin for Incoming<T> {}

impl<T> Stream for Incoming<T> {
    type Item = Result<T, IncomingError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl<T> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.source {
            Source::Inbox(_) => "open",
            Source::Ready(_) => "ready",
            Source::Ended => "ended",
        };
        f.debug_struct("Incoming")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

impl Invocation {
    /// Returns the stream of items that the caller sends, and lets it send them.
    ///
    /// # Errors
    ///
    /// Returns the fault to send if the request has no such stream, or if a layer runs the method
    /// again: the earlier run got the stream.
    pub fn incoming<T: for<'de> Deserialize<'de> + 'static>(&self) -> Result<Incoming<T>, Fault> {
        let Some(inbox) = self.incoming_inbox() else {
            return Err(Fault::bad_request(
                "the method receives a stream of items, and the request lacks the header rpc-incoming, with which its caller announces them",
            ));
        };
        if !inbox.begin_reading() {
            let reason = "a layer ran the method again, and the items were already read";
            return Err(Fault::new(FaultCode::Abandoned, reason));
        }
        Ok(Incoming {
            source: Source::Inbox(Reader {
                inbox: Arc::clone(inbox),
                codec: self.codec(),
                decode: |codec, item| codec.decode_result(item),
                tally: self.item_tally(SentBy::Caller),
            }),
        })
    }
}
