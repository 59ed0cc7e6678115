//! Polls the caller's stream, and sends its items.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::item_sender::{ItemMessage, ItemSender};
use super::link::ItemLink;
use crate::client::failures::broker_error;
use crate::client::streaming::{ItemInbox, MAX_SILENCE};
use crate::codec::EncodeError;
use crate::describe::Worker;
use crate::error::{BrokerError, CallError};
use crate::protocol::{
    Fault, FaultCode, INCOMING_SUFFIX, IncomingGrant, MAX_INCOMING_BYTES, MAX_ITEMS, ShortStr,
};
use crate::service::with_ambient_deadline;
use crate::telemetry::ItemTally;
use crate::transport::{Backoff, Published};

/// If no message is sent for this long, one without items is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How many messages may be unconfirmed.
const MAX_UNCONFIRMED: usize = 16;

/// The call fails when the broker has closed the channel on which its items are sent this many
/// times in a row.
const MAX_CLOSED: u32 = 3;

/// The items that one call sends.
pub(in crate::client) struct Upload {
    state: Mutex<State>,
    /// Wakes all attempts of the call when a worker has granted credit.
    changed: Notify,
    /// Where the worker's messages arrive.
    inbox: Arc<ItemInbox>,
    /// Whether the method replies with a stream.
    replies_with_items: bool,
}

struct State {
    /// The caller's stream. `None` once it is being sent, or the call has ended.
    stream: Option<EncodedStream>,
    sender: ItemSender,
    /// The routing key for items to the worker that runs the method, and the id of the request that
    /// the worker got. `None` before the worker's first grant.
    worker: Option<(ShortStr, Uuid)>,
    /// The deadline of the handler that makes the call, if the call ends with it.
    ends_at: Option<Instant>,
    /// The span in which the call was begun. No span once the stream is being sent.
    span: Span,
}

/// After how long no further items are taken for one message. A stream may compute for long before
/// each item, and yet never be pending.
const MAX_FILLING: Duration = Duration::from_millis(10);

type EncodedStream = BoxStream<'static, Result<Bytes, EncodeError>>;

impl Upload {
    pub(in crate::client) fn new(
        stream: EncodedStream,
        inbox: Arc<ItemInbox>,
        replies_with_items: bool,
    ) -> Self {
        inbox.set_sends_items();
        Self {
            state: Mutex::new(State {
                stream: Some(stream),
                sender: ItemSender::default(),
                worker: None,
                ends_at: None,
                span: Span::none(),
            }),
            changed: Notify::new(),
            inbox,
            replies_with_items,
        }
    }

    /// Records the deadline of the handler that makes the call, and the current span. Calls that
    /// the caller's stream itself makes get both.
    pub(in crate::client) fn begin(&self, ends_at: Option<Instant>) {
        let mut state = self.lock();
        state.ends_at = ends_at;
        state.span = Span::current();
    }

    /// Returns a future that makes the call. The caller's stream, unless it is already being sent,
    /// is dropped once the future has ended or is dropped. The upload may live on: a request that
    /// the broker has yet to confirm refers to it.
    pub(in crate::client) fn drop_stream_after<T>(
        self: Arc<Self>,
        call: impl Future<Output = T>,
    ) -> impl Future<Output = T> {
        // Made here, so that the stream is dropped even if the future is never polled.
        let drops_stream = DropsStream(self);
        async move {
            let _drops_stream = drops_stream;
            call.await
        }
    }

    /// Receives a worker's credit for items, in answer to the request with this id. The first grant
    /// decides which worker gets the items. The call's inbox must have let the message pass:
    /// further grants come from the same worker.
    ///
    /// # Errors
    ///
    /// If the worker of the first grant has no UUID as its id, or if the method took items that the
    /// stream has not yielded.
    pub(in crate::client) fn grant(
        &self,
        id: Uuid,
        worker: &str,
        grant: IncomingGrant,
    ) -> Result<(), &'static str> {
        let mut state = self.lock();
        if state.worker.is_none() {
            let key = items_key(worker).ok_or("the worker's id is no UUID")?;
            state.worker = Some((key, id));
        }
        let has_taken_items = state.sender.grant(grant);
        drop(state);
        self.changed.notify_waiters();
        // If the method replies with items, their reader limits how long the call waits.
        if has_taken_items? && !self.replies_with_items {
            self.inbox.record_progress();
        }
        Ok(())
    }

    /// Sends the items, once a worker grants credit for the request with this id. While there is
    /// nothing to send, also after the last item, shows the worker from time to time that the
    /// caller is still there. Returns only if sending fails: the error of the call.
    pub(in crate::client) async fn send_until_failure(
        self: Arc<Self>,
        id: Uuid,
        link: impl ItemLink,
        max_item_bytes: usize,
    ) -> CallError {
        let (worker, stream) = self.wait_for_grant(id).await;
        let (ends_at, span) = {
            let mut state = self.lock();
            // Taken, so that the span does not stay open for as long as the upload exists.
            (state.ends_at, std::mem::replace(&mut state.span, Span::none()))
        };
        let sending = Sending {
            upload: &self,
            link,
            worker,
            max_item_bytes,
            stream: Some(stream),
            tally: self.inbox.tally_of_sent(),
            failing: None,
        };
        with_ambient_deadline(ends_at, sending.run())
            .instrument(span)
            .await
    }

    /// Waits for the first grant of a worker, in answer to the request with this id. Returns the
    /// routing key for the worker's items, and takes the caller's stream. Waits forever if the
    /// grant answers another attempt, or the stream is taken. Cancel safe.
    async fn wait_for_grant(&self, id: Uuid) -> (ShortStr, EncodedStream) {
        loop {
            // Before the state is read, so that no change is missed.
            let changed = self.changed.notified();
            if let State {
                worker: Some((worker, granted_id)),
                stream,
                ..
            } = &mut *self.lock()
                && *granted_id == id
                && let Some(stream) = stream.take()
            {
                return (worker.clone(), stream);
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the stream of a call that has not begun to send it.
struct DropsStream(Arc<Upload>);

impl Drop for DropsStream {
    fn drop(&mut self) {
        let stream = self.0.lock().stream.take();
        // Not under the lock: it is the user's code.
        drop(stream);
    }
}

/// Sends the items of a call whose method has begun.
struct Sending<'a, L> {
    upload: &'a Upload,
    link: L,
    /// The routing key for the items.
    worker: ShortStr,
    /// How many bytes an item may have.
    max_item_bytes: usize,
    /// `None` once it has ended, or is no longer wanted.
    stream: Option<EncodedStream>,
    /// What layers and metrics know of the items.
    tally: ItemTally,
    /// Set if the last message whose outcome is known has not arrived.
    failing: Option<Failing>,
}

/// How to go on after a message has not arrived.
struct Failing {
    /// Since when the broker does not deliver messages, although it can be reached. `None` if the
    /// last failure does not show that.
    undelivered_since: Option<Instant>,
    retry_at: Instant,
    backoff: Backoff,
    /// How many times in a row the broker closed the channel.
    closed: u32,
}

impl<L: ItemLink> Sending<'_, L> {
    /// Sends the items until that fails, or the future is dropped. Returns the error of the call.
    async fn run(mut self) -> CallError {
        let upload = self.upload;
        let mut unconfirmed = FuturesUnordered::new();
        let mut keep_alive_at = Instant::now() + KEEP_ALIVE;
        let mut was_done = false;
        loop {
            // Before the state is read, so that no change is missed.
            let changed = upload.changed.notified();
            let retry_at = self.failing.as_ref().map(|failing| failing.retry_at);
            let may_send = retry_at.is_none_or(|retry_at| retry_at <= Instant::now());
            // Under one lock: a grant of the worker may arrive at any time.
            let (may_pull, is_stream_over, is_done) = {
                let sender = &mut upload.lock().sender;
                while may_send
                    && unconfirmed.len() < MAX_UNCONFIRMED
                    && let Some(message) = sender.next_message()
                {
                    unconfirmed.push(self.send(message));
                    keep_alive_at = Instant::now() + KEEP_ALIVE;
                }
                let may_pull = may_send && unconfirmed.len() < MAX_UNCONFIRMED && sender.may_pull();
                (may_pull, sender.is_stream_over(), sender.is_done())
            };
            if is_stream_over {
                self.stream = None;
            }
            // If the method replies with items, their reader limits how long the call waits.
            if !upload.replies_with_items {
                let waits_for_own_stream = may_pull && self.failing.is_none();
                upload.inbox.set_waiting(!waits_for_own_stream);
            }
            // The items are no longer wanted, so it does not matter whether they arrive. Only signs
            // that the caller is there are still sent.
            if is_done && !was_done {
                was_done = true;
                unconfirmed.clear();
            }
            // While sending pauses after a failure, wakes at the end of the pause.
            let wake_at = retry_at.filter(|_| !may_send).unwrap_or(keep_alive_at);
            tokio::select! {
                biased;
                Some((first, published)) = unconfirmed.next() => match self.record_published(first, published) {
                    Ok(None) => {}
                    Ok(Some(retry_at)) => {
                        unconfirmed.clear();
                        // A message without items is not kept, so another one is sent.
                        keep_alive_at = retry_at;
                    }
                    // The worker wants no more items, so the call needs only its reply.
                    Err(_) if is_done => {}
                    Err(error) => return error,
                },
                () = changed => {}
                filled = poll_fn(|cx| self.poll_fill(cx)), if may_pull => {
                    if let Err(error) = filled {
                        return error;
                    }
                }
                () = sleep_until(wake_at) => {
                    if may_send {
                        keep_alive_at = Instant::now() + KEEP_ALIVE;
                        // A message that is on its way shows as well that the caller is there.
                        if unconfirmed.is_empty() {
                            let message = upload.lock().sender.keep_alive();
                            unconfirmed.push(self.send(message));
                        }
                    }
                }
            }
        }
    }

    /// Sends a message. Returns the number of its first item, and what has become of the message.
    fn send(&self, message: ItemMessage) -> impl Future<Output = (u64, Published)> + use<L> {
        let first = message.first;
        let sending = self.link.send(&self.worker, message);
        sending.map(move |published| (first, published))
    }

    /// Takes items from the caller's stream for the next message. Pending until there is one, or
    /// the stream ends. Takes further ones that are ready, until the message is full,
    /// [`MAX_FILLING`] has passed, or no more may be taken.
    ///
    /// # Errors
    ///
    /// If an item cannot be encoded, or is too large.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Pending;
        };
        let (mut count, mut bytes) = (0, 0);
        let begun = Instant::now();
        while count < MAX_ITEMS && bytes < MAX_INCOMING_BYTES && self.upload.lock().sender.may_pull() {
            match stream.poll_next_unpin(cx) {
                Poll::Ready(Some(item)) => {
                    let item = item.map_err(bad_item_error)?;
                    if item.len() > self.max_item_bytes {
                        let (size, limit) = (item.len(), self.max_item_bytes);
                        let reason = format!("it has {size} bytes, and at most {limit} may be sent");
                        return Poll::Ready(Err(bad_item_error(reason)));
                    }
                    (count, bytes) = (count + 1, bytes + item.len());
                    self.tally.add(item.len());
                    self.upload.lock().sender.push(item);
                    // Not for each item: reading the clock takes a tenth of the time of one.
                    if count.is_multiple_of(4) && begun.elapsed() >= MAX_FILLING {
                        break;
                    }
                }
                Poll::Ready(None) => {
                    self.upload.lock().sender.end();
                    break;
                }
                Poll::Pending if count == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        self.tally.flush();
        Poll::Ready(Ok(()))
    }

    /// Records what has become of the message that begins with the item `first`. Returns when it
    /// and those that follow are sent again. `None` if it has arrived.
    ///
    /// # Errors
    ///
    /// The error that ends the call, unless the worker wants no more items.
    fn record_published(&mut self, first: u64, published: Published) -> Result<Option<Instant>, CallError> {
        let now = Instant::now();
        // A lost connection says nothing about the worker. If its queue is full, it is there.
        let worker_may_be_there = published.is_failed() || matches!(published, Published::Refused);
        let closed_before = self.failing.as_ref().map_or(0, |failing| failing.closed);
        let closed = match published {
            Published::Confirmed => {
                self.failing = None;
                return Ok(None);
            }
            // The exchange does not exist, or the user may not publish to it, or another message
            // was at fault.
            Published::Failed {
                source: source @ BrokerError::ChannelClosed { .. },
                ..
            } => {
                let closed = closed_before + 1;
                if closed >= MAX_CLOSED {
                    return Err(broker_error(source, true));
                }
                // The last attempt has a channel of its own, so that no other call is at fault.
                if closed + 1 == MAX_CLOSED {
                    self.link.separate();
                }
                closed
            }
            Published::Failed { source, .. } if !source.is_waited_out() => {
                return Err(broker_error(source, true));
            }
            Published::Failed { .. } | Published::Returned | Published::Refused | Published::Withdrawn => 0,
        };
        let failing = self.failing.get_or_insert_with(|| Failing {
            undelivered_since: None,
            retry_at: now,
            backoff: Backoff::new(),
            closed: 0,
        });
        failing.closed = closed;
        if worker_may_be_there {
            failing.undelivered_since = None;
        } else if *failing.undelivered_since.get_or_insert(now) + MAX_SILENCE <= now {
            let reason = "the broker does not deliver the items of the call to its worker";
            return Err(CallError::Fault(Fault::new(FaultCode::Interrupted, reason)));
        }
        let retry_at = now + failing.backoff.next_delay();
        failing.retry_at = retry_at;
        self.upload.lock().sender.go_back(first);
        Ok(Some(retry_at))
    }
}

/// Returns the routing key for items to the worker that a header identifies. `None` if the header
/// is malformed, or the worker's id is no UUID.
fn items_key(header: &str) -> Option<ShortStr> {
    let worker: Worker = serde_json::from_str(header).ok()?;
    // Other keys reach several workers.
    let id = Uuid::parse_str(&worker.id).ok()?;
    ShortStr::new(format!("{id}{INCOMING_SUFFIX}")).ok()
}

/// Builds the error for an item that cannot be sent.
fn bad_item_error(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CallError {
    CallError::BadItem {
        source: source.into(),
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::{BoxFuture, ready};
    use futures_util::stream;
    use tokio::time::advance;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::client::streaming::Arrival;
    use crate::error::Cause;
    use crate::protocol::{Asks, Items};

    /// Confirms all messages.
    #[derive(Default)]
    struct Nowhere {
        is_separate: bool,
    }

    impl ItemLink for Nowhere {
        fn send(&self, _: &ShortStr, _: ItemMessage) -> BoxFuture<'static, Published> {
            Box::pin(ready(Published::Confirmed))
        }

        fn separate(&mut self) {
            self.is_separate = true;
        }
    }

    fn upload(items: EncodedStream) -> Upload {
        Upload::new(items, Arc::new(ItemInbox::new()), false)
    }

    fn sending(upload: &Upload) -> Sending<'_, Nowhere> {
        Sending {
            upload,
            link: Nowhere::default(),
            worker: ShortStr::from_static("w.items"),
            max_item_bytes: usize::MAX,
            stream: None,
            tally: upload.inbox.tally_of_sent(),
            failing: None,
        }
    }

    /// For example with a layer that makes a second attempt before the first one has ended.
    #[tokio::test]
    async fn items_are_sent_to_one_run_of_the_method_only() {
        let inbox = Arc::new(ItemInbox::new());
        let _upload = Upload::new(stream::pending().boxed(), Arc::clone(&inbox), true);
        let run = |run: u64| format!(r#"{{"id":"5a3ff4d3-3a4f-4e0e-8c9e-6c8f0c7a2a10","run":{run}}}"#);
        let id = Uuid::new_v4();
        let first = inbox.receive(id, &run(1), Items::keep_alive());
        assert!(matches!(first, Arrival::Continues { is_first: true, .. }));
        let second = inbox.receive(id, &run(2), Items::keep_alive());
        assert!(matches!(second, Arrival::Ends(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_waits_does_not_take_the_news_of_the_other() {
        let upload = Arc::new(upload(stream::iter(0..2).map(|_| Ok(Bytes::new())).boxed()));
        let ids = [Uuid::new_v4(), Uuid::new_v4()];
        let attempts =
            ids.map(|id| Arc::clone(&upload).send_until_failure(id, Nowhere::default(), usize::MAX));
        let _attempts = attempts.map(|attempt| AbortOnDropHandle::new(tokio::spawn(attempt)));
        let worker = r#"{"id":"5a3ff4d3-3a4f-4e0e-8c9e-6c8f0c7a2a10"}"#;
        for credit in 1..=2 {
            let (taken, asks) = (0, Asks::Nothing);
            tokio::time::sleep(Duration::from_millis(1)).await;
            upload
                .grant(ids[1], worker, IncomingGrant { credit, taken, asks })
                .unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            let sent = upload.lock().sender.keep_alive().first;
            assert_eq!(sent, credit);
        }
    }

    /// The item of another call may be what the broker refuses.
    #[tokio::test(start_paused = true)]
    async fn a_channel_that_is_closed_ends_the_call_only_if_it_is_its_own() {
        let closed = || Published::Failed {
            source: BrokerError::ChannelClosed {
                source: Cause::new("PRECONDITION_FAILED"),
            },
            written: true,
        };
        let upload = upload(stream::empty().boxed());
        let mut sending = sending(&upload);
        let lost = || Published::Failed {
            source: BrokerError::Lost { source: None },
            written: true,
        };
        // A lost connection interrupts the row.
        for _ in 0..2 {
            for is_separate in [sending.link.is_separate, true] {
                assert!(sending.record_published(0, closed()).unwrap().is_some());
                assert_eq!(sending.link.is_separate, is_separate);
            }
            assert!(sending.record_published(0, lost()).unwrap().is_some());
        }
        for _ in 0..2 {
            assert!(sending.record_published(0, closed()).unwrap().is_some());
        }
        let ended = sending.record_published(0, closed()).unwrap_err();
        assert!(matches!(ended, CallError::Broker { .. }), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_does_not_end_the_call_and_a_missing_worker_does() {
        let lost = || Published::Failed {
            source: BrokerError::Lost { source: None },
            written: false,
        };
        let upload = upload(stream::empty().boxed());
        let mut sending = sending(&upload);
        assert!(sending.record_published(0, lost()).unwrap().is_some());
        advance(2 * MAX_SILENCE).await;
        for published in [
            Published::Returned,
            lost(),
            Published::Returned,
            Published::Refused,
        ] {
            assert!(sending.record_published(0, published).unwrap().is_some());
            advance(MAX_SILENCE - Duration::from_millis(1)).await;
        }
        for _ in 0..2 {
            let retry_at = sending.record_published(0, Published::Returned).unwrap();
            assert!(retry_at.is_some());
            advance(MAX_SILENCE - Duration::from_millis(1)).await;
        }
        let ended = sending.record_published(0, Published::Returned).unwrap_err();
        assert!(matches!(ended, CallError::Fault(fault) if fault.code == FaultCode::Interrupted));
    }

    /// Refuses the first message of a call, and confirms the others.
    #[derive(Default)]
    struct RefusesFirst(Arc<AtomicUsize>);

    impl ItemLink for RefusesFirst {
        fn send(&self, _: &ShortStr, _: ItemMessage) -> BoxFuture<'static, Published> {
            Box::pin(ready(match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => Published::Refused,
                _ => Published::Confirmed,
            }))
        }
    }

    /// Otherwise the worker hears nothing meanwhile, and the call waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_that_is_refused_is_sent_again_soon() {
        let upload = Arc::new(upload(stream::pending().boxed()));
        let (id, sent) = (Uuid::new_v4(), Arc::<AtomicUsize>::default());
        let sending = Arc::clone(&upload).send_until_failure(id, RefusesFirst(Arc::clone(&sent)), usize::MAX);
        let _sending = AbortOnDropHandle::new(tokio::spawn(sending));
        let grant = IncomingGrant {
            credit: 1,
            taken: 0,
            asks: Asks::Nothing,
        };
        let worker = r#"{"id":"5a3ff4d3-3a4f-4e0e-8c9e-6c8f0c7a2a10"}"#;
        upload.grant(id, worker, grant).unwrap();
        tokio::time::sleep(KEEP_ALIVE + Duration::from_secs(1)).await;
        assert_eq!(sent.load(Ordering::Relaxed), 2);
        tokio::time::sleep(KEEP_ALIVE).await;
        assert_eq!(sent.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_stream_that_is_slow_and_always_ready_leaves_time_for_other_messages() {
        let slow = stream::repeat_with(|| {
            std::thread::sleep(MAX_FILLING / 4);
            Ok(Bytes::new())
        });
        let upload = upload(stream::empty().boxed());
        let mut sending = sending(&upload);
        sending.stream = Some(slow.boxed());
        let grant = IncomingGrant {
            credit: 1024,
            taken: 0,
            asks: Asks::Nothing,
        };
        upload.lock().sender.grant(grant).unwrap();
        poll_fn(|cx| sending.poll_fill(cx)).await.unwrap();
        let pulled = upload.lock().sender.next_message().unwrap().items.len();
        assert!((1..=8).contains(&pulled), "{pulled}");
    }
}
