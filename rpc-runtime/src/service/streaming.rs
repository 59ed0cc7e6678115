//! Sends the items of a method's stream, or collects them for a caller that expects one reply.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use rmp::encode::write_array_len;
use serde::Serialize;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::invocation::{Answer, Invocation};
use super::item_sink::ItemSink;
use crate::codec::Codec;
use crate::error::Chain;
use crate::protocol::{Fault, FaultCode, Items, MAX_ITEMS, MAX_ITEMS_BYTES, ReplyKind};

/// After how long without items a message without any is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

impl Invocation {
    /// Sends the items of a method's stream. Returns the answer that ends it, or an array of all
    /// items if the caller expects one reply.
    ///
    /// # Errors
    ///
    /// Returns the fault that ends the stream, for example if an item cannot be encoded.
    pub async fn send_items<T: Serialize + 'static>(
        &self,
        stream: impl Stream<Item = T> + Send,
    ) -> Result<Answer, Fault> {
        send_stream(self, stream, |item| self.encode_item(&item)).await
    }

    /// Sends the items of a method's stream of `Result`s, like [`send_items`](Self::send_items). The
    /// stream ends with the first error. `result` returns an item, and `text` renders an error for a
    /// caller that uses plain text.
    ///
    /// # Errors
    ///
    /// Returns the fault that ends the stream, for example if an item cannot be encoded.
    pub async fn send_results<I, T, E>(
        &self,
        stream: impl Stream<Item = I> + Send,
        result: impl Fn(I) -> Result<T, E> + Send,
        text: impl Fn(&E) -> String + Send,
    ) -> Result<Answer, Fault>
    where
        T: Serialize + 'static,
        E: Serialize,
    {
        send_stream(self, stream, |item| match result(item) {
            Ok(item) => self.encode_item(&item),
            Err(error) => ControlFlow::Break(self.answer_result(Err::<(), E>(error), &text)),
        })
        .await
    }

    /// Encodes an item of a stream, or returns the fault that ends the stream.
    fn encode_item<T: Serialize + 'static>(&self, item: &T) -> Encoded {
        let fault = match self.codec().encode_result(item) {
            Ok(encoded) if encoded.len() <= self.max_reply_bytes() => return ControlFlow::Continue(encoded),
            Ok(encoded) => {
                let (size, limit) = (encoded.len(), self.max_reply_bytes());
                let message = format!("an item has {size} bytes, and at most {limit} may be sent");
                Fault::new(FaultCode::ReplyTooLarge, message)
            }
            Err(error) => Fault::new(FaultCode::Unanswerable, Chain(&error).to_string()),
        };
        ControlFlow::Break(Err(fault))
    }
}

/// How long a caller may grant no further credit. Then it counts as gone: a caller that crashed may
/// not be known to be, and its stream must not occupy the worker for ever.
const MAX_PAUSE: Duration = Duration::from_secs(10 * 60);

/// An encoded item, or the answer that ends the stream in its place.
type Encoded = ControlFlow<Result<Answer, Fault>, Bytes>;

/// The end of a stream, with the answer if it is not the regular end.
struct End(Option<Result<Answer, Fault>>);

/// Drives a stream, and returns the answer that ends it.
async fn send_stream<S: Stream>(
    invocation: &Invocation,
    stream: S,
    encode: impl FnMut(S::Item) -> Encoded,
) -> Result<Answer, Fault> {
    let stream = pin!(stream);
    match invocation.item_sink() {
        Some(sink) => send(invocation, sink, stream, encode).await,
        None => collect(invocation, stream, encode).await,
    }
}

/// Sends the items to a caller that has granted credit.
async fn send<S: Stream>(
    invocation: &Invocation,
    sink: &dyn ItemSink,
    mut stream: Pin<&mut S>,
    mut encode: impl FnMut(S::Item) -> Encoded,
) -> Result<Answer, Fault> {
    let credit = sink.credit();
    let mut first = sink.sent();
    if first > 0 {
        let reason = "a layer ran the method again after its stream had begun";
        return Err(Fault::new(FaultCode::Abandoned, reason));
    }
    loop {
        sink.ready().await?;
        let mut items = Vec::new();
        // One item is taken without credit: the stream may end instead, which needs none.
        let left = usize::try_from(credit.get() - first).unwrap_or(usize::MAX);
        let count = left.clamp(1, MAX_ITEMS);
        let filling = poll_fn(|cx| poll_fill(cx, stream.as_mut(), &mut encode, &mut items, count));
        let end = keep_alive(sink, first, filling).await?;
        if !items.is_empty() {
            let granted = keep_alive(sink, first, credit.more_than(first));
            timeout(MAX_PAUSE, granted).await.map_err(|_| {
                let reason = format!("the caller has granted no credit for {MAX_PAUSE:?}");
                Fault::new(FaultCode::Abandoned, reason)
            })??;
            let (count, credit) = (items.len() as u64, credit.get());
            sink.send(Items { first, items, credit });
            first += count;
        }
        match end {
            Some(End(Some(answer))) => return answer,
            Some(End(None)) => return Ok(invocation.new_answer(ReplyKind::Result, Bytes::new())),
            // A stream that is always ready must not keep other tasks from running.
            None => yield_now().await,
        }
    }
}

/// Waits for a future, and sends a message without items every few seconds.
async fn keep_alive<T>(
    sink: &dyn ItemSink,
    first: u64,
    waiting: impl Future<Output = T>,
) -> Result<T, Fault> {
    let mut waiting = pin!(waiting);
    loop {
        if let Ok(output) = timeout(KEEP_ALIVE, &mut waiting).await {
            return Ok(output);
        }
        sink.ready().await?;
        sink.send(Items {
            first,
            items: Vec::new(),
            credit: sink.credit().get(),
        });
    }
}

/// Collects all items into an array, for a caller that expects one reply.
async fn collect<S: Stream>(
    invocation: &Invocation,
    mut stream: Pin<&mut S>,
    mut encode: impl FnMut(S::Item) -> Encoded,
) -> Result<Answer, Fault> {
    let limit = invocation.max_reply_bytes();
    let (mut all, mut bytes) = (Vec::new(), 0);
    loop {
        let mut items = Vec::new();
        let end = poll_fn(|cx| poll_fill(cx, stream.as_mut(), &mut encode, &mut items, MAX_ITEMS)).await;
        bytes += items.iter().map(|item| item.len() + 1).sum::<usize>();
        if bytes > limit {
            let message = format!(
                "the method ran, and its items are larger than the {limit} bytes that may be sent in one reply"
            );
            return Err(Fault::new(FaultCode::ReplyTooLarge, message));
        }
        all.append(&mut items);
        match end {
            Some(End(Some(answer))) => return answer,
            Some(End(None)) => break,
            None => yield_now().await,
        }
    }
    let body = array(invocation.codec(), &all);
    Ok(invocation.new_answer(ReplyKind::Result, body))
}

/// Takes items until there are `count`, or enough for a message, or none is ready after the first.
/// Returns the end if it is reached.
fn poll_fill<S: Stream>(
    cx: &mut Context<'_>,
    mut stream: Pin<&mut S>,
    encode: &mut impl FnMut(S::Item) -> Encoded,
    items: &mut Vec<Bytes>,
    count: usize,
) -> Poll<Option<End>> {
    let mut bytes = 0;
    while items.len() < count && bytes < MAX_ITEMS_BYTES {
        match stream.as_mut().poll_next(cx) {
            Poll::Ready(Some(item)) => match encode(item) {
                ControlFlow::Continue(item) => {
                    bytes += item.len();
                    items.push(item);
                }
                ControlFlow::Break(answer) => return Poll::Ready(Some(End(Some(answer)))),
            },
            Poll::Ready(None) => return Poll::Ready(Some(End(None))),
            Poll::Pending if items.is_empty() => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(None)
}

/// Returns an array of encoded items. In plain text, each is a line.
fn array(codec: Codec, items: &[Bytes]) -> Bytes {
    let mut body = Vec::with_capacity(5 + items.iter().map(|item| item.len() + 1).sum::<usize>());
    match codec {
        Codec::MessagePack => {
            // Writing to a vector does not fail.
            let _ = write_array_len(&mut body, u32::try_from(items.len()).unwrap_or(u32::MAX));
            items.iter().for_each(|item| body.extend_from_slice(item));
        }
        Codec::Json => {
            body.push(b'[');
            push_separated(&mut body, items, b',');
            body.push(b']');
        }
        Codec::Text => push_separated(&mut body, items, b'\n'),
    }
    body.into()
}

fn push_separated(body: &mut Vec<u8>, items: &[Bytes], separator: u8) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            body.push(separator);
        }
        body.extend_from_slice(item);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::future::{BoxFuture, ready};
    use futures_util::{StreamExt, stream};
    use tokio::time::sleep;

    use super::super::admission::Received;
    use super::super::context::Context as RequestContext;
    use super::super::item_sink::Credit;
    use super::*;
    use crate::protocol::{Message, Request};

    /// Records what is sent.
    #[derive(Debug)]
    struct Sink {
        credit: Credit,
        sent: Mutex<Vec<Items>>,
    }

    impl Sink {
        fn new(credit: u64) -> Arc<Self> {
            Arc::new(Self {
                credit: Credit::new(credit),
                sent: Mutex::default(),
            })
        }

        /// The number of the first item of each message, and how many there are.
        fn messages(&self) -> Vec<(u64, usize)> {
            let sent = self.sent.lock().unwrap();
            sent.iter()
                .map(|items| (items.first, items.items.len()))
                .collect()
        }
    }

    impl ItemSink for Sink {
        fn credit(&self) -> &Credit {
            &self.credit
        }

        fn sent(&self) -> u64 {
            self.messages().iter().map(|(_, count)| *count as u64).sum()
        }

        fn ready(&self) -> BoxFuture<'_, Result<(), Fault>> {
            Box::pin(ready(Ok(())))
        }

        fn send(&self, items: Items) {
            self.sent.lock().unwrap().push(items);
        }
    }

    fn invocation(codec: Codec, sink: Option<&Arc<Sink>>) -> Invocation {
        let mut request = Request::from_message(Message::default()).unwrap();
        let received = Received::at(tokio::time::Instant::now());
        let context = RequestContext::new("f", &mut request, received, false);
        let mut invocation = Invocation::new(context, codec, Bytes::new()).with_max_reply_bytes(1000);
        if let Some(sink) = sink {
            invocation.set_item_sink(Arc::clone(sink) as Arc<dyn ItemSink>);
        }
        invocation
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_credit_is_sent() {
        let sink = Sink::new(3);
        let invocation = invocation(Codec::Json, Some(&sink));
        let mut sending = Box::pin(invocation.send_items(stream::iter(0..10)));
        assert!(timeout(KEEP_ALIVE / 2, &mut sending).await.is_err());
        assert_eq!(sink.messages(), [(0, 3)]);
        sink.credit.raise(5);
        sink.credit.raise(4);
        assert!(timeout(KEEP_ALIVE / 2, &mut sending).await.is_err());
        assert_eq!(sink.sent(), 5);
        sink.credit.raise(100);
        let answer = sending.await.unwrap();
        assert!(answer.reply.body.is_empty() && !answer.is_error());
        assert_eq!(sink.sent(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_may_end_without_credit() {
        let sink = Sink::new(2);
        let invocation = invocation(Codec::Json, Some(&sink));
        timeout(KEEP_ALIVE, invocation.send_items(stream::iter(0..2)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(sink.messages(), [(0, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_grants_no_credit_is_given_up() {
        let sink = Sink::new(2);
        let invocation = invocation(Codec::Json, Some(&sink));
        let begun = tokio::time::Instant::now();
        let failed = invocation.send_items(stream::iter(0..10)).await.unwrap_err();
        assert_eq!((failed.code, sink.sent()), (FaultCode::Abandoned, 2));
        assert_eq!(begun.elapsed(), MAX_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_alive() {
        let sink = Sink::new(1);
        let invocation = invocation(Codec::Json, Some(&sink));
        let slow = stream::iter(0..2).then(async |number| {
            sleep(KEEP_ALIVE * 5 / 2).await;
            number
        });
        let mut sending = Box::pin(invocation.send_items(slow));
        assert!(timeout(KEEP_ALIVE * 11 / 2, &mut sending).await.is_err());
        // It waits for the items, and then for credit.
        assert_eq!(sink.messages(), [(0, 0), (0, 0), (0, 1), (1, 0), (1, 0)]);
        sink.credit.raise(2);
        sending.await.unwrap();
        assert_eq!(sink.messages().last(), Some(&(1, 1)));
    }

    #[tokio::test]
    async fn messages_have_a_size() {
        let sink = Sink::new(u64::MAX);
        let invocation = invocation(Codec::Json, Some(&sink));
        invocation.send_items(stream::iter(0..2050)).await.unwrap();
        assert_eq!(sink.messages(), [(0, 1024), (1024, 1024), (2048, 2)]);
        let sink = Sink::new(u64::MAX);
        let invocation = self::invocation(Codec::Json, Some(&sink));
        let large = stream::iter(0..100).map(|_| "x".repeat(900));
        invocation.send_items(large).await.unwrap();
        let messages = sink.messages();
        assert_eq!(messages.len(), 2);
        assert!(messages[0].1 * 902 >= MAX_ITEMS_BYTES && messages[0].1 * 902 < MAX_ITEMS_BYTES + 902);
        let failed = invocation.send_items(stream::iter(["y"])).await.unwrap_err();
        assert_eq!(failed.code, FaultCode::Abandoned, "a layer runs it again");
    }

    #[tokio::test]
    async fn items_before_an_error_are_sent() {
        let sink = Sink::new(10);
        let invocation = invocation(Codec::Json, Some(&sink));
        let items = stream::iter([Ok(1), Ok(2), Err("broken"), Ok(3)]);
        let answer = invocation.send_results(items, |item| item, |error| (*error).to_owned());
        let answer = answer.await.unwrap();
        assert!(answer.is_error());
        assert_eq!(&answer.reply.body[..], br#""broken""#);
        assert_eq!(sink.messages(), [(0, 2)]);
        let sink = Sink::new(10);
        let invocation = self::invocation(Codec::Json, Some(&sink));
        let large = stream::iter(["x".to_owned(), "x".repeat(1000)]);
        let fault = invocation.send_items(large).await.unwrap_err();
        assert_eq!((fault.code, sink.sent()), (FaultCode::ReplyTooLarge, 1));
    }

    #[tokio::test]
    async fn items_are_collected_into_an_array_of_the_codec() {
        for (codec, array) in [
            (Codec::Json, &b"[1,2,3]"[..]),
            (Codec::MessagePack, b"\x93\x01\x02\x03"),
            (Codec::Text, b"1\n2\n3"),
        ] {
            let answer = invocation(codec, None)
                .send_items(stream::iter(1..=3))
                .await
                .unwrap();
            assert_eq!(&answer.reply.body[..], array);
        }
        let invocation = invocation(Codec::Json, None);
        let endless = invocation.send_items(stream::repeat(1));
        assert_eq!(endless.await.unwrap_err().code, FaultCode::ReplyTooLarge);
    }
}
