//! Sends the items of a method's stream, or collects them for a caller that expects one reply.

use std::future::poll_fn;
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
    Fault, FaultCode, ITEMS_HEADER, ItemWriter, MAX_ITEM_FRAME_BYTES, MAX_ITEMS, MAX_ITEMS_BYTES, Reply,
    ReplyKind, ShortStr, Volume,
};
use crate::telemetry::SentBy;

/// How often a message without items is sent, whether or not items flow. The caller answers it with
/// a grant.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How many messages without items may stay without any grant before the caller counts as gone:
/// those of one minute. The worker may not learn that a caller has crashed, and its stream must not
/// occupy the worker forever.
const MAX_UNANSWERED: u32 = 12;

/// The same for a caller that uses direct reply-to. Such a caller may count as gone sooner, because
/// it gets no further items once it has lost its connection.
const MAX_UNANSWERED_DIRECT: u32 = 8;

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
        send_stream(self, stream, |item, body| self.encode_item(&item, body)).await
    }

    /// Sends the items of a method's stream of `Result`s, like [`send_items`](Self::send_items).
    /// The stream ends with the first error. `result` turns an item of the stream into a `Result`,
    /// and `text` renders an error for a caller that uses plain text.
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
        send_stream(self, stream, |item, body| match result(item) {
            Ok(item) => self.encode_item(&item, body),
            Err(error) => Err(End::With(self.answer_result(Err::<(), E>(error), &text))),
        })
        .await
    }

    /// Appends an encoded item of a stream. Fails with the fault that ends the stream.
    fn encode_item<T: Serialize + 'static>(&self, item: &T, body: &mut Vec<u8>) -> Result<(), End> {
        let limit = item_limit(self.max_reply_bytes());
        let begin = body.len();
        let fault = match self.codec().append_result(item, body) {
            Ok(()) => {
                let size = body.len() - begin;
                if size <= limit {
                    return Ok(());
                }
                let message = format!("an item has {size} bytes, and at most {limit} may be sent");
                Fault::new(FaultCode::ReplyTooLarge, message)
            }
            Err(error) => Fault::new(FaultCode::Unanswerable, Chain(&error).to_string()),
        };
        Err(End::With(Err(fault)))
    }
}

/// Returns how large an item may be if a message may have at most `max_bytes`. An item's length has
/// 32 bits on the wire.
fn item_limit(max_bytes: usize) -> usize {
    max_bytes
        .min(u32::MAX as usize)
        .saturating_sub(MAX_ITEM_FRAME_BYTES)
}

/// How a stream ends.
enum End {
    /// After its last item.
    Regular,
    /// With the method's error or a fault, in place of an item.
    With(Result<Answer, Fault>),
}

/// Sends the items of a stream, or collects them if the caller expects one reply. Returns the
/// answer. `encode` appends an encoded item, or fails with how the stream ends in its place.
async fn send_stream<S: Stream>(
    invocation: &Invocation,
    stream: S,
    encode: impl FnMut(S::Item, &mut Vec<u8>) -> Result<(), End>,
) -> Result<Answer, Fault> {
    let items = EncodedItems {
        stream: pin!(stream),
        encode,
        message: ItemWriter::default(),
        held: None,
        max_bytes: MAX_ITEMS_BYTES.min(item_limit(invocation.max_reply_bytes())),
    };
    match invocation.item_sink() {
        Some(sink) => send(invocation, sink, items).await,
        None => collect(invocation, items).await,
    }
}

/// Sends the items to a caller that has granted credit. Returns the answer that ends the stream.
async fn send<S: Stream>(
    invocation: &Invocation,
    sink: &dyn ItemSink,
    mut stream: EncodedItems<'_, S, impl FnMut(S::Item, &mut Vec<u8>) -> Result<(), End>>,
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
        // Before the stream is polled, so that no items are made that cannot be sent. The permit is
        // not kept meanwhile: a layer may answer while the method goes on in a task of its own, and
        // the end of the stream waits for all permits.
        drop(sink.reserve().await?);
        let left = credit.get().minus(sent);
        let filling = poll_fn(|cx| stream.poll_fill(cx, left));
        let end = keep_alive.during(sent.items, filling).await?;
        let mut items = stream.take_message();
        if !items.is_empty() {
            if !credit.get().allows_more_than(sent) {
                // The items may wait for credit for long.
                items.shrink_to_fit();
            }
            let more_credit = credit.wait_for_more_than(sent);
            keep_alive.during(sent.items, more_credit).await?;
            let permit = sink.reserve().await?;
            let first = sent.items;
            sent = sent.plus(items.volume());
            tally.add_all(items.iter().map(<[u8]>::len));
            sink.send(permit, first, items, credit.get());
            if end.is_none() {
                keep_alive.send_if_due(sent.items).await?;
            }
        }
        match end {
            Some(End::With(answer)) => return answer,
            Some(End::Regular) => {
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

/// Sends messages without items, and notices that the caller is gone: it answers none of them.
struct KeepAlive<'a> {
    sink: &'a dyn ItemSink,
    due_at: Instant,
    /// How many grants had arrived when the last message was due.
    known_grants: u64,
    /// How many of these messages were sent since the last grant.
    unanswered: u32,
}

impl<'a> KeepAlive<'a> {
    fn new(sink: &'a dyn ItemSink) -> Self {
        Self {
            sink,
            due_at: Instant::now() + KEEP_ALIVE,
            known_grants: 0,
            unanswered: 0,
        }
    }

    /// Waits for a future, and sends messages without items meanwhile. `first` is the number of the
    /// next item.
    ///
    /// # Errors
    ///
    /// Returns the fault that ends the stream if the caller is gone.
    async fn during<T>(&mut self, first: u64, waiting: impl Future<Output = T>) -> Result<T, Fault> {
        let mut waiting = pin!(waiting);
        loop {
            if let Ok(output) = timeout_at(self.due_at, &mut waiting).await {
                return Ok(output);
            }
            self.send(first).await?;
        }
    }

    /// Sends a message without items if one is due. [`during`](Self::during) sends none while items
    /// and credit are always at hand, so a caller that granted much credit and then vanished would
    /// not be noticed. `first` is as in `during`.
    async fn send_if_due(&mut self, first: u64) -> Result<(), Fault> {
        if self.due_at <= Instant::now() {
            self.send(first).await?;
        }
        Ok(())
    }

    /// Sends a message without items, once the sink takes one.
    ///
    /// # Errors
    ///
    /// Returns the fault that ends the stream if the caller is gone.
    async fn send(&mut self, first: u64) -> Result<(), Fault> {
        let credit = self.sink.credit();
        let grants = credit.grants();
        if grants != self.known_grants {
            self.known_grants = grants;
            self.unanswered = 0;
        }
        let limit = if self.sink.survives_connection() {
            MAX_UNANSWERED
        } else {
            MAX_UNANSWERED_DIRECT
        };
        if self.unanswered >= limit {
            let silence = KEEP_ALIVE * limit;
            let reason = format!("the caller has granted nothing for {silence:?}");
            return Err(Fault::new(FaultCode::Abandoned, reason));
        }
        let permit = self.sink.reserve().await?;
        self.sink.send(permit, first, ItemWriter::default(), credit.get());
        self.unanswered += 1;
        self.due_at = Instant::now() + KEEP_ALIVE;
        Ok(())
    }
}

/// Returns the reply that ends a stream of `sent` items, with their number.
///
/// If a layer has answered for the method, a result has no number: it is an array of all items, as
/// for a caller that expects one reply. A fault replaces it if items were sent before, or if it is
/// empty.
pub(crate) fn end_of_stream(mut reply: Reply, sent: u64) -> Reply {
    let name = ShortStr::from_static(ITEMS_HEADER);
    let sent_text = sent.to_string();
    // The method sets the number at the end of its stream, so any other result is of a layer.
    let is_layer_result =
        reply.kind == ReplyKind::Result && reply.headers.get(ITEMS_HEADER) != Some(sent_text.as_str());
    if is_layer_result {
        reply.headers.remove(ITEMS_HEADER);
        let has_all_items = sent == 0 && !reply.body.is_empty();
        if has_all_items {
            return reply;
        }
        let reason = "a layer answered for a method that replies with a stream";
        reply = Reply::fault(reply.codec, &Fault::new(FaultCode::Unanswerable, reason));
    }
    reply.headers.insert(name, sent_text);
    reply
}

/// Collects all items into an array, for a caller that expects one reply. Returns the array, or the
/// error or fault that ends the stream.
async fn collect<S: Stream>(
    invocation: &Invocation,
    mut stream: EncodedItems<'_, S, impl FnMut(S::Item, &mut Vec<u8>) -> Result<(), End>>,
) -> Result<Answer, Fault> {
    let limit = invocation.max_reply_bytes();
    let mut tally = invocation.item_tally(SentBy::Method);
    let mut array = Array::new(invocation.codec());
    loop {
        let end = poll_fn(|cx| stream.poll_fill(cx, Volume::MAX)).await;
        let items = stream.take_message();
        tally.add_all(items.iter().map(<[u8]>::len));
        items.iter().for_each(|item| array.push(item));
        // Limits the memory. The whole reply is measured once more before it is sent.
        if array.items_len() > limit {
            let message = format!(
                "the method ran, and its items are larger than the {limit} bytes that may be sent in one reply"
            );
            return Err(Fault::new(FaultCode::ReplyTooLarge, message));
        }
        match end {
            Some(End::With(answer)) => return answer,
            Some(End::Regular) => return Ok(invocation.new_answer(ReplyKind::Result, array.finish())),
            None => yield_now().await,
        }
    }
}

/// The items of a method's stream, encoded, as many at once as a message holds.
struct EncodedItems<'a, S, F> {
    stream: Pin<&'a mut S>,
    encode: F,
    /// The items that were taken for the next message.
    message: ItemWriter,
    /// An item that was taken, and for which `message` has no room.
    held: Option<ItemWriter>,
    /// How many bytes a message holds, unless it has a single item.
    max_bytes: usize,
}

/// How long items are taken for one message. A method may compute each item for long, without
/// returning `Pending`.
const MAX_FILLING: Duration = Duration::from_millis(10);

impl<S: Stream, F: FnMut(S::Item, &mut Vec<u8>) -> Result<(), End>> EncodedItems<'_, S, F> {
    /// Takes items for one message: until it is full, no further item is ready, `left`, the rest of
    /// the credit, is used up, or [`MAX_FILLING`] has passed. Returns the end if it is reached.
    ///
    /// If no item was taken yet, the stream is polled even without credit: it may end, which needs
    /// none.
    fn poll_fill(&mut self, cx: &mut Context<'_>, left: Volume) -> Poll<Option<End>> {
        let Self { message, encode, .. } = self;
        let begun = Instant::now();
        while message.is_empty() || (message.len() < MAX_ITEMS && left.allows_more_than(message.volume())) {
            let item = match self.stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(item)) => item,
                Poll::Ready(None) => return Poll::Ready(Some(End::Regular)),
                Poll::Pending if message.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            };
            if let Err(end) = message.push_with(|body| encode(item, body)) {
                return Poll::Ready(Some(end));
            }
            if message.len() > 1 && message.encoded_len() > self.max_bytes {
                self.held = Some(message.split_last());
                break;
            }
            // The next item is likely to be as large, and would only be moved to the next message.
            if message.encoded_len() + message.last_len() > self.max_bytes {
                break;
            }
            // Only for every fourth item: reading the clock takes a tenth of the time of an item.
            if message.len().is_multiple_of(4) && begun.elapsed() >= MAX_FILLING {
                break;
            }
        }
        Poll::Ready(None)
    }

    /// Returns the items that were taken. The held one, if any, begins the next message.
    fn take_message(&mut self) -> ItemWriter {
        let next = self.held.take();
        let next = next.unwrap_or_else(|| ItemWriter::sized_like(&self.message));
        std::mem::replace(&mut self.message, next)
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

    /// The length of the items and the separators between them, without the array's header and end.
    fn items_len(&self) -> usize {
        self.body.len() - Self::MAX_HEADER
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
    use super::super::item_sink::{Credit, SendPermit};
    use super::*;
    use crate::protocol::{Items, Message, Request};

    fn items(items: u64) -> Volume {
        Volume { items, ..Volume::MAX }
    }

    /// Records what is sent.
    #[derive(Debug)]
    struct Sink {
        credit: Credit,
        sent: Mutex<Vec<Items>>,
        survives_connection: bool,
    }

    impl Sink {
        fn new(credit: u64) -> Arc<Self> {
            Arc::new(Self {
                credit: Credit::new(items(credit)),
                sent: Mutex::default(),
                survives_connection: true,
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

        fn reserve(&self) -> BoxFuture<'_, Result<SendPermit, Fault>> {
            Box::pin(ready(Ok(SendPermit::default())))
        }

        fn survives_connection(&self) -> bool {
            self.survives_connection
        }

        fn send(&self, _: SendPermit, first: u64, items: ItemWriter, credit: Volume) {
            let items = items.finish();
            self.sent.lock().unwrap().push(Items { first, items, credit });
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
    async fn a_stream_that_has_ended_is_not_given_up() {
        let sink = Sink::new(2);
        let invocation = invocation(Codec::Json, Some(&sink));
        // The last item comes when the caller would be given up.
        let last = async {
            sleep(KEEP_ALIVE * (MAX_UNANSWERED + 1)).await;
            7
        };
        let answer = invocation.send_items(stream::once(last)).await.unwrap();
        assert!(!answer.is_error());
        let sent = sink.messages();
        assert_eq!(
            (sent.len(), sent.last()),
            (MAX_UNANSWERED as usize + 1, Some(&(0, 1)))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_cannot_come_back_is_given_up_sooner() {
        let mut sink = Sink::new(2);
        Arc::get_mut(&mut sink).unwrap().survives_connection = false;
        let invocation = invocation(Codec::Json, Some(&sink));
        let begun = Instant::now();
        let failed = invocation.send_items(stream::iter(0..10)).await.unwrap_err();
        assert_eq!(failed.code, FaultCode::Abandoned);
        assert_eq!(begun.elapsed(), KEEP_ALIVE * (MAX_UNANSWERED_DIRECT + 1));
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
        invocation.send_items(stream::iter(0..32_770)).await.unwrap();
        assert_eq!(sink.messages(), [(0, 16_384), (16_384, 16_384), (32_768, 2)]);
        let sink = Sink::new(u64::MAX);
        let invocation = self::invocation(Codec::Json, Some(&sink)).with_max_reply_bytes(usize::MAX);
        let first = MAX_ITEMS_BYTES / 905;
        let large = stream::iter(0..first + 10).map(|_| "x".repeat(900));
        invocation.send_items(large).await.unwrap();
        assert_eq!(sink.messages(), [(0, first), (first as u64, 10)]);
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
            credit: Credit::new(bytes(27)),
            sent: Mutex::default(),
            survives_connection: true,
        });
        let invocation = invocation(Codec::Json, Some(&sink));
        // Each counts 9.
        let mut sending = Box::pin(invocation.send_items(stream::repeat(1).take(10)));
        assert!(timeout(KEEP_ALIVE / 2, &mut sending).await.is_err());
        assert_eq!(sink.messages(), [(0, 3)]);
        sink.credit.raise(bytes(28));
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
