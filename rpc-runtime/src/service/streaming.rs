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
use tokio::time::{Instant, timeout_at};

use super::invocation::{Answer, Invocation};
use super::item_sink::ItemSink;
use crate::codec::Codec;
use crate::error::Chain;
use crate::protocol::{
    Fault, FaultCode, ITEMS_HEADER, Items, MAX_ITEM_FRAME_BYTES, MAX_ITEM_HEADER_BYTES, MAX_ITEMS,
    MAX_ITEMS_BYTES, Reply, ReplyKind, ShortStr, Volume,
};
use crate::telemetry::SentBy;

/// How often a message without items is sent while a stream waits for an item or for credit. Its
/// caller answers it with a grant.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// After how many such messages without any grant the caller counts as gone: a minute. A caller
/// that crashed may not be known to be, and its stream must not occupy the worker for ever.
const MAX_UNANSWERED: u32 = 12;

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

    /// Sends the items of a method's stream of `Result`s, like [`send_items`](Self::send_items).
    /// The stream ends with the first error. `result` returns an item, and `text` renders an error
    /// for a caller that uses plain text.
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
        let limit = self.max_reply_bytes().saturating_sub(MAX_ITEM_FRAME_BYTES);
        let fault = match self.codec().encode_result(item) {
            Ok(encoded) if encoded.len() <= limit => return ControlFlow::Continue(encoded),
            Ok(encoded) => {
                let size = encoded.len();
                let message = format!("an item has {size} bytes, and at most {limit} may be sent");
                Fault::new(FaultCode::ReplyTooLarge, message)
            }
            Err(error) => Fault::new(FaultCode::Unanswerable, Chain(&error).to_string()),
        };
        ControlFlow::Break(Err(fault))
    }
}

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
    let items = EncodedItems {
        stream: pin!(stream),
        encode,
        held: None,
        max_bytes: MAX_ITEMS_BYTES.min(invocation.max_reply_bytes().saturating_sub(MAX_ITEM_FRAME_BYTES)),
    };
    match invocation.item_sink() {
        Some(sink) => send(invocation, sink, items).await,
        None => collect(invocation, items).await,
    }
}

/// Sends the items to a caller that has granted credit.
async fn send<S: Stream>(
    invocation: &Invocation,
    sink: &dyn ItemSink,
    mut stream: EncodedItems<'_, S, impl FnMut(S::Item) -> Encoded>,
) -> Result<Answer, Fault> {
    let credit = sink.credit();
    let mut sent = Volume::default();
    let mut tally = invocation.item_tally(SentBy::Method);
    if sink.sent() > 0 {
        let reason = "a layer ran the method again after its stream had begun";
        return Err(Fault::new(FaultCode::Abandoned, reason));
    }
    let mut keep_alive = KeepAlive::new(sink);
    loop {
        sink.ready().await?;
        let mut items = Vec::new();
        let left = credit.get().minus(sent);
        let filling = poll_fn(|cx| stream.poll_fill(cx, &mut items, left));
        let end = keep_alive.during(sent.items, filling).await?;
        if !items.is_empty() {
            keep_alive.during(sent.items, credit.more_than(sent)).await?;
            let (first, credit) = (sent.items, credit.get());
            sent = items.iter().map(|item| Volume::of(item)).fold(sent, Volume::plus);
            items.iter().for_each(|item| tally.add(item.len()));
            tally.count();
            sink.send(Items { first, items, credit });
            keep_alive.send_if_due(sent.items).await?;
        }
        match end {
            Some(End(Some(answer))) => return answer,
            Some(End(None)) => {
                let mut answer = invocation.new_answer(ReplyKind::Result, Bytes::new());
                let name = ShortStr::from_static(ITEMS_HEADER);
                answer.reply.headers.insert(name, sent.items.to_string());
                return Ok(answer);
            }
            // A stream that is always ready must not keep other tasks from running.
            None => yield_now().await,
        }
    }
}

/// Sends messages without items, and notices that the caller is gone.
struct KeepAlive<'a> {
    sink: &'a dyn ItemSink,
    due_at: Instant,
    /// How many grants had arrived when the last message was due.
    grants: u64,
    /// How many messages were sent since the last grant.
    unanswered: u32,
}

impl<'a> KeepAlive<'a> {
    fn new(sink: &'a dyn ItemSink) -> Self {
        Self {
            sink,
            due_at: Instant::now() + KEEP_ALIVE,
            grants: 0,
            unanswered: 0,
        }
    }

    /// Waits for a future. `first` is the number of the next item.
    async fn during<T>(&mut self, first: u64, waiting: impl Future<Output = T>) -> Result<T, Fault> {
        let mut waiting = pin!(waiting);
        loop {
            if let Ok(output) = timeout_at(self.due_at, &mut waiting).await {
                return Ok(output);
            }
            self.send(first).await?;
        }
    }

    /// Sends a message also while items flow: a caller that is gone may have granted much credit.
    async fn send_if_due(&mut self, first: u64) -> Result<(), Fault> {
        if self.due_at <= Instant::now() {
            self.send(first).await?;
        }
        Ok(())
    }

    async fn send(&mut self, first: u64) -> Result<(), Fault> {
        let credit = self.sink.credit();
        if std::mem::replace(&mut self.grants, credit.grants()) != self.grants {
            self.unanswered = 0;
        }
        if self.unanswered >= MAX_UNANSWERED {
            let silence = KEEP_ALIVE * MAX_UNANSWERED;
            let reason = format!("the caller has granted nothing for {silence:?}");
            return Err(Fault::new(FaultCode::Abandoned, reason));
        }
        self.sink.ready().await?;
        self.sink.send(Items {
            first,
            items: Vec::new(),
            credit: credit.get(),
        });
        self.unanswered += 1;
        self.due_at = Instant::now() + KEEP_ALIVE;
        Ok(())
    }
}

/// Returns the reply that ends a stream of `sent` items, with their number.
///
/// A layer may have answered for the method. Then a result is an array of all items, as for a
/// caller that expects one reply.
pub(crate) fn end_of_stream(mut reply: Reply, sent: u64) -> Reply {
    let name = ShortStr::from_static(ITEMS_HEADER);
    let sent_text = sent.to_string();
    if reply.kind != ReplyKind::Result {
        reply.headers.insert(name, sent_text);
    } else if reply.headers.get(ITEMS_HEADER) != Some(sent_text.as_str()) {
        reply.headers.remove(ITEMS_HEADER);
        if sent > 0 || reply.body.is_empty() {
            let reason = "a layer answered for a method that replies with a stream";
            reply = Reply::fault(reply.codec, &Fault::new(FaultCode::Unanswerable, reason));
            reply.headers.insert(name, sent_text);
        }
    }
    reply
}

/// Collects all items into an array, for a caller that expects one reply.
async fn collect<S: Stream>(
    invocation: &Invocation,
    mut stream: EncodedItems<'_, S, impl FnMut(S::Item) -> Encoded>,
) -> Result<Answer, Fault> {
    let limit = invocation.max_reply_bytes();
    let mut tally = invocation.item_tally(SentBy::Method);
    let mut array = Array::new(invocation.codec());
    loop {
        let mut items = Vec::new();
        let end = poll_fn(|cx| stream.poll_fill(cx, &mut items, Volume::MAX)).await;
        for item in &items {
            tally.add(item.len());
            array.push(item);
        }
        if array.len() > limit {
            let message = format!(
                "the method ran, and its items are larger than the {limit} bytes that may be sent in one reply"
            );
            return Err(Fault::new(FaultCode::ReplyTooLarge, message));
        }
        match end {
            Some(End(Some(answer))) => return answer,
            Some(End(None)) => return Ok(invocation.new_answer(ReplyKind::Result, array.finish())),
            None => yield_now().await,
        }
    }
}

/// The items of a method's stream, encoded, as many at once as a message holds.
struct EncodedItems<'a, S, F> {
    stream: Pin<&'a mut S>,
    encode: F,
    /// An item that the last message had no room for.
    held: Option<Bytes>,
    /// How many bytes a message holds, unless it has a single item.
    max_bytes: usize,
}

/// How long items are taken for one message. A method may take long for each without waiting.
const MAX_FILLING: Duration = Duration::from_millis(10);

impl<S: Stream, F: FnMut(S::Item) -> Encoded> EncodedItems<'_, S, F> {
    /// Takes items until they fill a message, or none is ready after the first, or `left` is used,
    /// or it has taken long. Returns the end if it is reached.
    ///
    /// One item is taken in any case: the stream may end instead, which needs no credit.
    fn poll_fill(&mut self, cx: &mut Context<'_>, items: &mut Vec<Bytes>, left: Volume) -> Poll<Option<End>> {
        let (mut taken, mut bytes) = (Volume::default(), 0);
        let begun = Instant::now();
        while items.is_empty() || (items.len() < MAX_ITEMS && left.allows_more_than(taken)) {
            let item = match self.poll_next(cx) {
                Poll::Ready(ControlFlow::Continue(item)) => item,
                Poll::Ready(ControlFlow::Break(end)) => return Poll::Ready(Some(end)),
                Poll::Pending if items.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            };
            bytes += item.len() + MAX_ITEM_HEADER_BYTES;
            if !items.is_empty() && bytes > self.max_bytes {
                self.held = Some(item);
                break;
            }
            taken = taken.plus(Volume::of(&item));
            items.push(item);
            // Reading the clock takes a tenth of the time of an item.
            if items.len().is_multiple_of(4) && begun.elapsed() >= MAX_FILLING {
                break;
            }
        }
        Poll::Ready(None)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<ControlFlow<End, Bytes>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(ControlFlow::Continue(held));
        }
        self.stream.as_mut().poll_next(cx).map(|item| match item {
            Some(item) => (self.encode)(item).map_break(|answer| End(Some(answer))),
            None => ControlFlow::Break(End(None)),
        })
    }
}

/// An array of encoded items. In plain text, each is a line.
struct Array {
    codec: Codec,
    /// The items, after [`MAX_HEADER`](Self::MAX_HEADER) bytes.
    body: Vec<u8>,
    count: u32,
}

impl Array {
    /// The number of bytes that the header of a MessagePack array may have.
    const MAX_HEADER: usize = 5;

    fn new(codec: Codec) -> Self {
        Self {
            codec,
            body: vec![0; Self::MAX_HEADER],
            count: 0,
        }
    }

    fn push(&mut self, item: &[u8]) {
        match self.codec {
            Codec::Json if self.count > 0 => self.body.push(b','),
            Codec::Text if self.count > 0 => self.body.push(b'\n'),
            Codec::MessagePack | Codec::Json | Codec::Text => {}
        }
        self.body.extend_from_slice(item);
        self.count = self.count.saturating_add(1);
    }

    /// An upper bound of the length of the array.
    fn len(&self) -> usize {
        self.body.len()
    }

    fn finish(mut self) -> Bytes {
        let mut header = Vec::with_capacity(Self::MAX_HEADER);
        match self.codec {
            Codec::MessagePack => {
                // Writing to a vector does not fail.
                let _ = write_array_len(&mut header, self.count);
            }
            Codec::Json => {
                header.push(b'[');
                self.body.push(b']');
            }
            Codec::Text => {}
        }
        let start = Self::MAX_HEADER - header.len();
        self.body[start..Self::MAX_HEADER].copy_from_slice(&header);
        Bytes::from(self.body).slice(start..)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::future::{BoxFuture, ready};
    use futures_util::{StreamExt, stream};
    use tokio::time::{sleep, timeout};

    use super::super::admission::Received;
    use super::super::context::Context as RequestContext;
    use super::super::item_sink::Credit;
    use super::*;
    use crate::protocol::{Message, Request};

    fn items(items: u64) -> Volume {
        Volume { items, ..Volume::MAX }
    }

    /// Records what is sent.
    #[derive(Debug)]
    struct Sink {
        credit: Credit,
        sent: Mutex<Vec<Items>>,
    }

    impl Sink {
        fn new(credit: u64) -> Arc<Self> {
            Arc::new(Self {
                credit: Credit::new(items(credit)),
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
        sink.credit.raise(items(5));
        sink.credit.raise(items(4));
        assert!(timeout(KEEP_ALIVE / 2, &mut sending).await.is_err());
        assert_eq!(sink.sent(), 5);
        sink.credit.raise(items(100));
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
    async fn a_caller_that_grants_nothing_is_given_up() {
        let limit = KEEP_ALIVE * (MAX_UNANSWERED + 1);
        let often = KEEP_ALIVE * 2 / 5;
        let pause = |delay| {
            stream::unfold(0, move |number| async move {
                sleep(delay).await;
                Some((number, number + 1))
            })
        };
        let streams = [
            stream::iter(0..10).boxed(),
            pause(often).boxed(),
            pause(Duration::MAX).boxed(),
        ];
        for (stream, (credit, sent)) in streams.into_iter().zip([(2, 2), (100, 32), (100, 0)]) {
            let sink = Sink::new(credit);
            let invocation = invocation(Codec::Json, Some(&sink));
            let begun = Instant::now();
            let failed = invocation.send_items(stream).await.unwrap_err();
            assert_eq!((failed.code, sink.sent()), (FaultCode::Abandoned, sent));
            assert_eq!(begun.elapsed(), limit);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_answers_may_wait_for_long() {
        let sink = Sink::new(2);
        let invocation = invocation(Codec::Json, Some(&sink));
        let sending = invocation.send_items(stream::iter(0..10));
        let answering = async {
            for _ in 0..20 {
                sleep(KEEP_ALIVE * (MAX_UNANSWERED - 1)).await;
                sink.credit.raise(items(2));
            }
        };
        tokio::select! {
            ended = sending => panic!("{ended:?}"),
            () = answering => assert_eq!(sink.sent(), 2),
        }
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
        let messages = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 0), (1, 0)];
        assert_eq!(sink.messages(), messages);
        sink.credit.raise(items(2));
        sending.await.unwrap();
        assert_eq!(sink.messages().last(), Some(&(1, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_have_a_size() {
        let sink = Sink::new(u64::MAX);
        let invocation = invocation(Codec::Json, Some(&sink)).with_max_reply_bytes(usize::MAX);
        invocation.send_items(stream::iter(0..8194)).await.unwrap();
        assert_eq!(sink.messages(), [(0, 4096), (4096, 4096), (8192, 2)]);
        let sink = Sink::new(u64::MAX);
        let invocation = self::invocation(Codec::Json, Some(&sink)).with_max_reply_bytes(usize::MAX);
        let large = stream::iter(0..100).map(|_| "x".repeat(900));
        invocation.send_items(large).await.unwrap();
        let messages = sink.messages();
        assert_eq!(messages, [(0, MAX_ITEMS_BYTES / 902), (72, 28)]);
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
        let large = stream::iter(["x".to_owned(), "x".repeat(959)]);
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

    #[tokio::test(start_paused = true)]
    async fn no_more_bytes_than_the_credit_are_sent_but_for_one_item() {
        let bytes = |bytes| Volume { bytes, ..Volume::MAX };
        let sink = Arc::new(Sink {
            credit: Credit::new(bytes(99)),
            sent: Mutex::default(),
        });
        let invocation = invocation(Codec::Json, Some(&sink));
        // Each counts 33.
        let mut sending = Box::pin(invocation.send_items(stream::repeat(1).take(10)));
        assert!(timeout(KEEP_ALIVE / 2, &mut sending).await.is_err());
        assert_eq!(sink.messages(), [(0, 3)]);
        sink.credit.raise(bytes(100));
        assert!(timeout(KEEP_ALIVE / 2, &mut sending).await.is_err());
        assert_eq!(sink.sent(), 4);
        sink.credit.raise(bytes(1000));
        sending.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_item_is_sent_alone() {
        let sink = Sink::new(u64::MAX);
        let invocation = invocation(Codec::Text, Some(&sink)).with_max_reply_bytes(usize::MAX);
        let sizes = [1, MAX_ITEMS_BYTES + 1, MAX_ITEMS_BYTES - 1, 1, 1];
        let items = stream::iter(sizes).map(|size| "x".repeat(size));
        invocation.send_items(items).await.unwrap();
        assert_eq!(sink.messages(), [(0, 1), (1, 1), (2, 1), (3, 2)]);
    }

    #[tokio::test]
    async fn a_result_that_does_not_end_the_stream_is_no_end() {
        let ended = async |count: u64| {
            let invocation = invocation(Codec::Json, Some(&Sink::new(9)));
            invocation.send_items(stream::iter(0..count)).await.unwrap().reply
        };
        let is_end = |reply: &Reply, sent: u64| {
            let count = reply.headers.get(ITEMS_HEADER).map(str::to_owned);
            reply.kind == ReplyKind::Result && count == Some(sent.to_string())
        };
        assert!(is_end(&end_of_stream(ended(3).await, 3), 3));
        assert!(is_end(&end_of_stream(ended(0).await, 0), 0));
        // A layer kept the answer to another request.
        for sent in [0, 2] {
            let fault = end_of_stream(ended(3).await, sent);
            assert_eq!(fault.read_fault().code, FaultCode::Unanswerable);
        }
        // A layer answers with an array.
        let array = Reply::new(ReplyKind::Result, Codec::Json, Bytes::from_static(b"[1]"));
        let array = end_of_stream(array, 0);
        assert_eq!(
            (array.headers.get(ITEMS_HEADER), &array.body[..]),
            (None, &b"[1]"[..])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_no_larger_than_a_reply() {
        let sink = Sink::new(u64::MAX);
        let invocation = invocation(Codec::Json, Some(&sink));
        let items = stream::iter(0..50).map(|_| "x".repeat(98));
        invocation.send_items(items).await.unwrap();
        let sent = sink.sent.lock().unwrap();
        assert_eq!(sent[0].items.len(), 9);
        assert!(sent.iter().all(|items| items.write().len() <= 1000));
    }

    #[tokio::test]
    async fn items_that_take_long_do_not_wait_for_a_full_message() {
        let sink = Sink::new(u64::MAX);
        let invocation = invocation(Codec::Json, Some(&sink));
        let items = stream::iter(0..8).inspect(|_| std::thread::sleep(MAX_FILLING));
        invocation.send_items(items).await.unwrap();
        assert_eq!(sink.messages(), [(0, 4), (4, 4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_grants_too_much_at_once_is_given_up_too() {
        let sink = Sink::new(u64::MAX);
        let invocation = invocation(Codec::Json, Some(&sink));
        let time_passes = async {
            loop {
                tokio::time::advance(KEEP_ALIVE).await;
            }
        };
        let failed = tokio::select! {
            ended = invocation.send_items(stream::repeat(1)) => ended.unwrap_err(),
            () = time_passes => unreachable!("it never ends"),
        };
        assert_eq!(failed.code, FaultCode::Abandoned);
        let sent = sink.sent.lock().unwrap();
        let keep_alives = sent.iter().filter(|items| items.items.is_empty()).count();
        assert_eq!(keep_alives as u64, u64::from(MAX_UNANSWERED));
    }
}
