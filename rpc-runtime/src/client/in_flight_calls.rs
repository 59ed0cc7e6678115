//! The calls in flight. Those that wait for a reply are found by its correlation id.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tracing::Level;
use uuid::Uuid;

use super::batching::BatchSizeAsks;
use super::control_messages::ControlMessages;
use super::in_flight_call::InFlightCall;
use super::streaming::{Arrival, ItemInbox, worker_key};
use super::uploading::Upload;
use crate::codec::Codec;
use crate::protocol::{
    BadReply, BatchedReply, CREDIT_TYPE, ITEMS_HEADER, ITEMS_TYPE, IncomingGrant, Items, Malformed, Message,
    QueueTime, Reply, ReplyKind, ShortStr, WORKER_HEADER,
};
use crate::telemetry::{Event, LogLimit, Suppressed, count};
use crate::transport::HasLatestSend;

/// The calls in flight of one broker handle, other than broadcasts.
///
/// Each call has a random correlation id, so a reply reaches its own call or none. Late and foreign
/// replies are discarded. A call keeps its id when it sends its request again.
#[derive(Debug, Default)]
pub(super) struct InFlightCalls {
    calls: Mutex<Calls>,
    /// How many calls were inserted so far.
    inserted: AtomicU64,
    /// How many calls in a row were the only one in flight when they began.
    sequential: AtomicU32,
    /// Notifies the send task that requests that it holds back may be sent now: the first reply to
    /// a method says whether its calls may be batched.
    pub(super) first_reply: Notify,
    /// One-way requests that asked workers for a batch size.
    pub(super) batch_size_asks: BatchSizeAsks,
    /// What workers are to be told about calls.
    pub(super) control_messages: ControlMessages,
    log: ReplyLog,
}

/// Limits the rate of logs, because anyone who knows a reply address can send messages to it.
#[derive(Debug)]
struct ReplyLog(LogLimit);

impl Default for ReplyLog {
    fn default() -> Self {
        Self(LogLimit::new("replies"))
    }
}

type Calls = HashMap<u128, Arc<InFlightCall>, BuildHasherDefault<IdentityHasher>>;

/// After this many sequential calls, the next call is expected to be sequential too, and not to be
/// the first of several concurrent calls.
const SEQUENTIAL_CALLS: u32 = 8;

/// How many calls of a batch of replies are looked up before the lock is released. New calls wait
/// for the lock.
const LOOKUPS_PER_LOCK: usize = 32;

/// Why a call ends if a message of its stream lacks the header that identifies the worker.
const NO_SENDER: &str = "a message does not say who sent it";

/// Returns the key of a call that was inserted: its correlation id, by which its reply is looked
/// up. The key of a one-way call is its sequence number, because the same [encoded
/// call](super::encoded_call::EncodedCall) may be sent twice at once, with the same id. No random
/// UUID is that small.
fn key(call: &InFlightCall) -> u128 {
    if call.plan().method.is_oneway() {
        call.sequence().into()
    } else {
        call.id().as_u128()
    }
}

/// Uses the key as its hash, folded to 64 bits. This process chooses the keys: random UUIDs and
/// sequence numbers.
#[derive(Debug, Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys are `u128`");
    }

    fn write_u128(&mut self, id: u128) {
        // Some bits of a UUID are fixed, at different positions in the two halves.
        #[allow(clippy::cast_possible_truncation)]
        let (low, high) = (id as u64, (id >> 64) as u64);
        self.0 = low ^ high;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl InFlightCalls {
    /// Inserts a call, which is in flight until it has its reply or the guard is dropped.
    pub(super) fn insert<'a>(&'a self, call: &'a Arc<InFlightCall>) -> InFlightGuard<'a> {
        call.set_sequence(self.inserted.fetch_add(1, Ordering::Relaxed));
        let in_flight = {
            let mut calls = self.lock();
            calls.insert(key(call), Arc::clone(call));
            calls.len()
        };
        InFlightGuard {
            call,
            is_alone: self.record_insertion(in_flight),
            is_answered: false,
            calls: self,
        }
    }

    /// Counts sequential calls. Returns whether a new call, one of the `in_flight`, is expected to
    /// remain the only one.
    fn record_insertion(&self, in_flight: usize) -> bool {
        let is_alone = in_flight == 1;
        if is_alone {
            return self.sequential.fetch_add(1, Ordering::Relaxed) >= SEQUENTIAL_CALLS;
        }
        // Writing an equal value would only disturb other threads.
        if self.sequential.load(Ordering::Relaxed) > 0 {
            self.sequential.store(0, Ordering::Relaxed);
        }
        false
    }

    /// Hands a reply, or another message of a stream, to the call with this id. Returns `false` if
    /// no call or one-way request with this id can use the message. `batch_size` is how many calls
    /// of the method the worker asks for in one message; zero if it does not say.
    pub(super) fn complete(&self, id: Uuid, message: Message, batch_size: u16) -> bool {
        if let Some(call) = self.remove_answered(id) {
            self.learn_batch_size(&call, batch_size);
            call.deliver_reply(Reply::from_message(message, call.plan().codec));
            return true;
        }
        if let Some(call) = self.streaming_call(id) {
            return self.receive_for_stream(&call, message);
        }
        if is_of_stream(&message) {
            self.end_unread(id, message.properties.headers.get(WORKER_HEADER));
            return false;
        }
        // The answer to a one-way request is nothing but a batch size.
        self.batch_size_asks.answer(id, batch_size)
    }

    /// Hands a message of a stream, or the reply that ends it, to its call. Returns `false` if the
    /// message means nothing to the call.
    fn receive_for_stream(&self, call: &InFlightCall, message: Message) -> bool {
        let Some(inbox) = &call.plan().destination.inbox else {
            return false;
        };
        let queue_time = QueueTime::read(&message.properties.headers);
        let header = message.properties.headers.get(WORKER_HEADER);
        let worker = header.map(str::to_owned);
        let is_of_stream = is_of_stream(&message);
        let kind = message.properties.kind.as_ref().map(ShortStr::as_str);
        let arrival = match (kind, &call.plan().destination.upload) {
            (Some(CREDIT_TYPE), Some(upload)) => {
                receive_grant(call, inbox, upload, worker.as_deref(), &message.body)
            }
            (Some(ITEMS_TYPE), _) => receive_items(call.id(), inbox, worker.as_deref(), &message.body),
            _ => receive_end(call, inbox, worker.as_deref(), message),
        };
        match arrival {
            Arrival::Foreign => {
                // A second worker runs the method, and nobody reads its stream. If this message is
                // its reply, the stream has ended.
                if is_of_stream {
                    self.end_unread(call.id(), worker.as_deref());
                }
                return false;
            }
            Arrival::Late => return false,
            Arrival::Continues { is_first, answer } => {
                if let Some((worker, grant)) = answer {
                    self.control_messages.grant(worker, grant);
                }
                if is_first {
                    inbox.record_begun(call.id(), queue_time.as_duration());
                    call.notify_stream_begun();
                }
            }
            Arrival::Ends(reply) => {
                if self.lock().remove(&key(call)).is_some() {
                    call.deliver_reply(reply);
                }
            }
        }
        true
    }

    /// Tells a worker to end its stream, which nobody reads. `worker` is the header that identifies
    /// the worker. Does nothing if the header is missing or has no valid id.
    fn end_unread(&self, id: Uuid, worker: Option<&str>) {
        if let Some(worker) = worker.and_then(worker_key) {
            self.control_messages.end_unread(worker, id);
        }
    }

    /// Fails the call with this id, because its reply cannot be read. Returns `false` if no call
    /// waits for a reply with this id.
    pub(super) fn fail(&self, id: Uuid, reason: BadReply) -> bool {
        let remove_streaming_call = || {
            let call = self.streaming_call(id)?;
            self.lock().remove(&key(&call))
        };
        let Some(call) = self.remove_answered(id).or_else(remove_streaming_call) else {
            return false;
        };
        self.learn_batch_size(&call, 0);
        call.deliver_reply(Err(reason));
        true
    }

    /// Hands the replies of a batch to their calls. Returns how many replies no call waits for. If
    /// `codec` is `None`, each reply has the codec of its request.
    pub(super) fn complete_all(&self, replies: Vec<BatchedReply>, codec: Option<Codec>) -> usize {
        let mut discarded = 0;
        let mut replies = replies.into_iter();
        let mut found = Vec::with_capacity(LOOKUPS_PER_LOCK.min(replies.len()));
        while replies.len() > 0 {
            {
                let mut calls = self.lock();
                for reply in replies.by_ref().take(LOOKUPS_PER_LOCK) {
                    match remove_answered(&mut calls, reply.id) {
                        Some(call) => found.push((call, reply)),
                        None => discarded += 1,
                    }
                }
            }
            for (call, reply) in found.drain(..) {
                self.learn_batch_size(&call, reply.batch_size);
                call.deliver_reply(Ok(Reply {
                    kind: reply.kind,
                    codec: codec.unwrap_or(call.plan().codec),
                    body: reply.body,
                    headers: reply.headers,
                    unknown_type: None,
                    queue_time: reply.queue_time,
                }));
            }
        }
        discarded
    }

    /// Learns the batch size in a reply; zero means that the worker asks for none. Wakes the send
    /// task if it may now send requests that it holds back.
    fn learn_batch_size(&self, call: &InFlightCall, batch_size: u16) {
        let Some(learned) = call.plan().batch_size() else {
            return;
        };
        let may_release_held = match batch_size {
            0 => learned.stop_holding_back(),
            batch_size => learned.learn(batch_size),
        };
        if may_release_held {
            self.first_reply.notify_one();
        }
    }

    /// Notifies all calls that the session has another epoch, is open again, or is closed. Begins
    /// with the oldest call, so that requests are sent again in the order of their calls.
    pub(super) fn notify_session_changed(&self) {
        let mut calls: Vec<_> = self.lock().values().map(Arc::clone).collect();
        calls.sort_unstable_by_key(|call| call.sequence());
        for call in calls {
            call.notify_session_changed();
        }
    }

    /// Returns the calls whose latest requests were sent and that wait for a reply.
    pub(super) fn sent_calls(&self) -> Vec<Arc<InFlightCall>> {
        let calls = self.lock();
        let sent = calls.values().filter(|call| {
            let expects_reply = !call.plan().method.is_oneway();
            expects_reply && call.latest_send().is_claimed()
        });
        sent.map(Arc::clone).collect()
    }

    /// Logs a malformed reply.
    pub(super) fn log_malformed(&self, malformed: Malformed) {
        if let Some(Suppressed(suppressed)) = self.log.0.admit(Level::DEBUG, "malformed") {
            tracing::debug!(reason = %malformed, suppressed, "a reply is malformed");
        }
    }

    /// Counts and logs replies that no call waits for.
    pub(super) fn record_discarded(&self, replies: usize) {
        count(Event::RepliesDiscarded(replies));
        if let Some(Suppressed(suppressed)) = self.log.0.admit(Level::DEBUG, "discarded") {
            tracing::debug!(
                suppressed,
                "discarded a reply that no call waits for: it is late, or foreign"
            );
        }
    }

    /// Whether the call with this id is in flight. Always `false` for a one-way call, which is not
    /// found by its id.
    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.lock().contains_key(&id.as_u128())
    }

    /// Returns how many calls are in flight.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns the call with this id, if it has a stream in at least one direction.
    fn streaming_call(&self, id: Uuid) -> Option<Arc<InFlightCall>> {
        let calls = self.lock();
        let call = calls.get(&id.as_u128())?;
        call.plan().destination.inbox.is_some().then(|| Arc::clone(call))
    }

    fn remove_answered(&self, id: Uuid) -> Option<Arc<InFlightCall>> {
        remove_answered(&mut self.lock(), id)
    }

    fn remove(&self, call: &InFlightCall) {
        self.lock().remove(&key(call));
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands a message with items to its call.
fn receive_items(id: Uuid, inbox: &ItemInbox, worker: Option<&str>, body: &Bytes) -> Arrival {
    let Some(worker) = worker else {
        return inbox.receive_unreadable(id, None, NO_SENDER);
    };
    match Items::read(body) {
        Ok(items) => inbox.receive(id, worker, items),
        Err(_) => inbox.receive_unreadable(id, Some(worker), "its items are malformed"),
    }
}

/// Hands a call with a stream its reply, which ends the stream once all items have arrived.
fn receive_end(call: &InFlightCall, inbox: &ItemInbox, worker: Option<&str>, message: Message) -> Arrival {
    let header = message.properties.headers.get(ITEMS_HEADER);
    let announced_items = header.and_then(|count| count.parse().ok());
    let reply = Reply::from_message(message, call.plan().codec);
    let is_result = reply.as_ref().is_ok_and(|reply| reply.kind == ReplyKind::Result);
    // A worker that knows no streams from callers runs the method without the items. It does not
    // say who it is.
    if is_result && worker.is_none() && call.plan().destination.upload.is_some() {
        let reason = "the worker has run the method without the items: it receives no stream";
        return inbox.receive_unreadable(call.id(), None, reason);
    }
    // No items come before a result without the header. If the method replies with a stream, the
    // result is an array of all items. A failure without it does not say how many were sent.
    let items_before = announced_items.or(is_result.then_some(0));
    inbox.end(call.id(), worker, items_before, reply)
}

/// Hands a call a worker's credit for the items that the call sends.
fn receive_grant(
    call: &InFlightCall,
    inbox: &ItemInbox,
    upload: &Upload,
    worker: Option<&str>,
    body: &Bytes,
) -> Arrival {
    let id = call.id();
    let Some(worker) = worker else {
        return inbox.receive_unreadable(id, None, NO_SENDER);
    };
    let Ok(grant) = IncomingGrant::read(body) else {
        return inbox.receive_unreadable(id, Some(worker), "its credit is malformed");
    };
    let replies_with_items = call.plan().destination.credit().is_some();
    match inbox.receive_sign_of_life(id, worker, replies_with_items) {
        arrival @ Arrival::Continues { .. } => match upload.grant(id, worker, grant) {
            Ok(()) => arrival,
            Err(reason) => Arrival::Ends(Err(BadReply::Stream(reason))),
        },
        arrival => arrival,
    }
}

/// Removes the call that a reply with this id ends. Returns `None` for any other call, which stays
/// in flight: one with a stream, which must end first, or a one-way call, whose key may be the id
/// of a forged reply.
fn remove_answered(calls: &mut Calls, id: Uuid) -> Option<Arc<InFlightCall>> {
    let ends_with_reply = |call: &InFlightCall| {
        let plan = call.plan();
        !plan.method.is_oneway() && plan.destination.inbox.is_none()
    };
    match calls.entry(id.as_u128()) {
        Entry::Occupied(call) if ends_with_reply(call.get()) => Some(call.remove()),
        _ => None,
    }
}

/// Whether a message is one of a stream, in either direction, and not the reply that ends it.
fn is_of_stream(message: &Message) -> bool {
    let kind = message.properties.kind.as_ref();
    kind.is_some_and(|kind| [ITEMS_TYPE, CREDIT_TYPE].contains(&kind.as_str()))
}

/// Keeps a call in flight until it has its reply or the guard is dropped.
#[derive(Debug)]
pub(super) struct InFlightGuard<'a> {
    pub(super) call: &'a Arc<InFlightCall>,
    /// Whether the call is the only one in flight, and is expected to remain so. Then its request
    /// is sent at once, because no others will share a batch with it.
    pub(super) is_alone: bool,
    /// Whether the call has its reply. Then it was removed from the calls in flight.
    pub(super) is_answered: bool,
    calls: &'a InFlightCalls,
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.calls.remove(self.call);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use tokio::time::sleep;

    use super::super::batching::LearnedBatchSize;
    use super::super::called_method::{CalledMethod, CalledService};
    use super::super::destination::Destination;
    use super::super::in_flight_call::CallEvent;
    use super::super::limiter::{Limiter, WhenFull};
    use super::super::plan::{Arguments, CallPlan};
    use super::super::reply_router::{route_batch, route_malformed};
    use super::*;
    use crate::describe::{MethodDescriptor, ServiceDescriptor};
    use crate::protocol::{Asks, Headers, Properties, Property, ReplyKind, ShortStr, write_batch};
    use crate::transport::{ConfirmListener, Published};

    fn reply(text: &'static str) -> Message {
        Message {
            body: text.into(),
            ..Message::default()
        }
    }

    static STORE: ServiceDescriptor = ServiceDescriptor::new(
        "Store",
        "q",
        &[
            MethodDescriptor::new("read", &[]),
            MethodDescriptor::new("note", &[]).oneway(),
        ],
    );

    /// A call of a client, to a queue that nobody serves.
    pub(in crate::client) fn new_call() -> Arc<InFlightCall> {
        Arc::new(InFlightCall::new(plan_of(&STORE.methods[0])))
    }

    /// Like [`new_call`], but one-way.
    pub(in crate::client) fn new_oneway_call(id: Uuid) -> Arc<InFlightCall> {
        Arc::new(InFlightCall::with_id(id, plan_of(&STORE.methods[1])))
    }

    fn plan_of(method: &'static MethodDescriptor) -> CallPlan {
        let destination = Destination::new(
            ShortStr::from_static("q"),
            CalledService::Static(&STORE),
            true,
            Limiter::new("q", 1, WhenFull::Wait, true),
        );
        CallPlan {
            method: CalledMethod::Static(method),
            method_index: destination.method_index(method.name),
            destination: Arc::new(destination),
            codec: Codec::Json,
            arguments: Arguments(Bytes::new()),
            timeout: Duration::from_secs(1),
            headers: Headers::default(),
            priority: None,
            wait_for_server: false,
            is_detached: false,
        }
    }

    /// Waits for the reply of a call.
    async fn answered(call: &InFlightCall) -> Reply {
        let reply = call.reply(pin!(sleep(Duration::from_secs(1)))).await;
        reply.expect("in time").expect("readable")
    }

    async fn next_event(call: &InFlightCall) -> Option<CallEvent> {
        call.next_event(pin!(sleep(Duration::from_secs(1)))).await
    }

    #[tokio::test(start_paused = true)]
    async fn each_reply_reaches_its_own_call() {
        let calls_in_flight = InFlightCalls::default();
        let calls = [new_call(), new_call()];
        let [mut first, mut second] = [0, 1].map(|n: usize| calls_in_flight.insert(&calls[n]));
        (first.is_answered, second.is_answered) = (true, true);
        assert!(calls_in_flight.complete(calls[1].id(), reply("second"), 0));
        assert!(calls_in_flight.complete(calls[0].id(), reply("first"), 0));
        for (call, text) in calls.iter().zip(["first", "second"]) {
            assert_eq!(answered(call).await.body, text);
        }
    }

    #[test]
    fn a_call_is_alone_once_calls_are_made_one_by_one() {
        let calls_in_flight = InFlightCalls::default();
        let is_alone = || calls_in_flight.insert(&new_call()).is_alone;
        assert!((0..SEQUENTIAL_CALLS).all(|_| !is_alone()));
        assert!((0..2).all(|_| is_alone()));
        let (first, second) = (new_call(), new_call());
        let guards = [&first, &second].map(|call| calls_in_flight.insert(call));
        assert!(!guards[1].is_alone);
        drop(guards);
        assert!(!is_alone());
    }

    #[tokio::test(start_paused = true)]
    async fn the_replies_of_a_batch_reach_their_own_calls() {
        let calls_in_flight = InFlightCalls::default();
        let calls = [new_call(), new_call()];
        let _guards = [0, 1].map(|n: usize| calls_in_flight.insert(&calls[n]));
        let batched = |id, text: &'static str| BatchedReply {
            id,
            kind: ReplyKind::Result,
            body: text.into(),
            batch_size: 7,
            headers: Headers::default(),
            queue_time: QueueTime::default(),
        };
        let replies = vec![
            batched(calls[1].id(), "second"),
            batched(Uuid::new_v4(), "a stranger's"),
            batched(calls[0].id(), "first"),
        ];
        assert_eq!(calls_in_flight.complete_all(replies, Some(Codec::Json)), 1);
        for (call, text) in calls.iter().zip(["first", "second"]) {
            let reply = answered(call).await;
            assert_eq!((&reply.body[..], reply.codec), (text.as_bytes(), Codec::Json));
            assert_eq!(call.plan().batch_size().map(LearnedBatchSize::get), Some(7));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_malformed_reply_fails_its_own_call_alone() {
        let calls_in_flight = InFlightCalls::default();
        let calls = [new_call(), new_call()];
        let _guards = [0, 1].map(|n: usize| calls_in_flight.insert(&calls[n]));
        let malformed = Malformed::NotUtf8(Property::MessageId);
        assert!(calls_in_flight.fail(calls[0].id(), BadReply::Malformed(malformed)));
        assert!(!calls_in_flight.fail(calls[0].id(), BadReply::Malformed(malformed)));
        let reply = calls[0].reply(pin!(sleep(Duration::from_secs(1)))).await;
        assert!(matches!(reply, Some(Err(BadReply::Malformed(_)))), "{reply:?}");
        assert!(calls_in_flight.complete(calls[1].id(), self::reply("other"), 0));
        assert_eq!(answered(&calls[1]).await.body, "other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_malformed_batch_of_replies_fails_the_calls_that_it_answers() {
        let calls_in_flight = InFlightCalls::default();
        let calls = [new_call(), new_call(), new_call()];
        let _guards = [0, 1, 2].map(|n: usize| calls_in_flight.insert(&calls[n]));
        let batched = |id| BatchedReply {
            id,
            kind: ReplyKind::Result,
            body: "1".into(),
            batch_size: 0,
            headers: Headers::default(),
            queue_time: QueueTime::default(),
        };
        let replies = [
            batched(calls[0].id()),
            batched(Uuid::new_v4()),
            batched(calls[1].id()),
        ];
        let malformed = Malformed::DeepHeaders;
        let batch = |body| Message {
            body,
            ..Message::default()
        };
        assert_eq!(
            route_malformed(&calls_in_flight, &batch(write_batch(&replies)), malformed, true),
            1
        );
        assert_eq!(
            route_malformed(&calls_in_flight, &batch("nonsense".into()), malformed, true),
            1
        );
        for call in &calls[..2] {
            let reply = call.reply(pin!(sleep(Duration::from_secs(1)))).await;
            assert!(matches!(reply, Some(Err(BadReply::Malformed(_)))), "{reply:?}");
        }
        assert!(calls_in_flight.complete(calls[2].id(), reply("other"), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_content_type_of_a_batch_is_that_of_each_reply() {
        let content = |content_type, content_encoding| Message {
            properties: Properties {
                content_type,
                content_encoding,
                ..Properties::default()
            },
            ..Message::default()
        };
        let name = |name| Some(ShortStr::from_static(name));
        for (message, codec) in [
            (content(None, None), Some(new_call().plan().codec)),
            (content(name("application/json"), None), Some(Codec::Json)),
            (
                content(name("application/msgpack"), None),
                Some(Codec::MessagePack),
            ),
            (content(name("application/xml"), None), None),
            (content(None, name("gzip")), None),
        ] {
            let calls_in_flight = InFlightCalls::default();
            let call = new_call();
            let _guard = calls_in_flight.insert(&call);
            let reply = BatchedReply {
                id: call.id(),
                kind: ReplyKind::Result,
                body: "1".into(),
                batch_size: 0,
                headers: Headers::default(),
                queue_time: QueueTime::default(),
            };
            let body = write_batch(&[reply]);
            assert_eq!(route_batch(&calls_in_flight, &Message { body, ..message }), 0);
            match call.reply(pin!(sleep(Duration::from_secs(1)))).await.unwrap() {
                Ok(reply) => assert_eq!(Some(reply.codec), codec),
                Err(BadReply::Content(_)) => assert_eq!(codec, None),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_encoded_call_leaves_the_same_call_in_flight() {
        let calls_in_flight = InFlightCalls::default();
        let id = Uuid::new_v4();
        let calls = [new_oneway_call(id), new_oneway_call(id)];
        let [first, _second] = [0, 1].map(|n: usize| calls_in_flight.insert(&calls[n]));
        drop(first);
        assert_eq!(calls_in_flight.len(), 1);
        calls_in_flight.notify_session_changed();
        let event = next_event(&calls[1]).await;
        assert!(matches!(event, Some(CallEvent::StateChanged)), "{event:?}");
    }

    #[test]
    fn late_and_repeated_replies_are_discarded() {
        let calls_in_flight = InFlightCalls::default();
        let answered = new_call();
        let guard = calls_in_flight.insert(&answered);
        assert!(calls_in_flight.complete(answered.id(), reply("once"), 0));
        assert!(!calls_in_flight.complete(answered.id(), reply("twice"), 0));
        drop(guard);
        let given_up = new_call();
        drop(calls_in_flight.insert(&given_up));
        assert!(!calls_in_flight.complete(given_up.id(), reply("late"), 0));
        assert_eq!(calls_in_flight.len(), 0);
    }

    #[test]
    fn a_worker_whose_stream_belongs_to_no_call_is_told() {
        let worker = Uuid::new_v4();
        for (kind, is_told) in [(ITEMS_TYPE, true), (CREDIT_TYPE, true), ("result", false)] {
            let calls_in_flight = InFlightCalls::default();
            let mut message = reply("");
            message.properties.kind = Some(ShortStr::from_static(kind));
            let name = ShortStr::from_static(WORKER_HEADER);
            let header = format!(r#"{{"id":"{worker}"}}"#);
            message.properties.headers.insert(name, header);
            assert!(!calls_in_flight.complete(Uuid::new_v4(), message, 0));
            let told = calls_in_flight.control_messages.take_abandoned();
            assert_eq!(told.len(), usize::from(is_told), "{kind}");
            assert!(told.iter().all(|call| call.key == ShortStr::from_uuid(worker)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_of_a_stream_that_does_not_say_who_sent_it_ends_the_call() {
        let grant = IncomingGrant {
            credit: 1,
            taken: 0,
            asks: Asks::Nothing,
        };
        let items = Bytes::from_static(&[0x92, 0, 0x90]);
        for (kind, body) in [(CREDIT_TYPE, grant.write()), (ITEMS_TYPE, items)] {
            let mut plan = plan_of(&STORE.methods[0]);
            let inbox = Arc::new(ItemInbox::new());
            let upload = Upload::new(stream::pending().boxed(), Arc::clone(&inbox), true);
            plan.destination = Arc::new(plan.destination.with_upload(Arc::new(upload), inbox));
            let call = Arc::new(InFlightCall::new(plan));
            let calls_in_flight = InFlightCalls::default();
            let _guard = calls_in_flight.insert(&call);
            let mut message = reply("");
            message.properties.kind = Some(ShortStr::from_static(kind));
            message.body = body;
            assert!(calls_in_flight.complete(call.id(), message, 0));
            let ended = call.reply(pin!(sleep(Duration::from_secs(1)))).await;
            let error = ended.unwrap().unwrap_err();
            assert!(
                matches!(error, BadReply::Stream(reason) if reason == NO_SENDER),
                "{error:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_is_the_first_event_and_the_confirm_of_an_earlier_request_is_ignored() {
        let calls_in_flight = InFlightCalls::default();
        let call = new_call();
        let _guard = calls_in_flight.insert(&call);
        Arc::clone(&call).published(Published::Returned);
        calls_in_flight.notify_session_changed();
        assert!(call.take_reply_and_forget_events().is_none());
        Arc::clone(&call).published(Published::Confirmed);
        calls_in_flight.complete(call.id(), reply("it"), 0);
        assert!(matches!(next_event(&call).await, Some(CallEvent::Reply(_))));
        assert!(matches!(next_event(&call).await, Some(CallEvent::Confirmed)));
        assert!(next_event(&call).await.is_none(), "its deadline has passed");
    }
}
