//! What workers are to be told: which calls were abandoned, and how much of a stream they may send.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::queued_request::time_to_live;
use crate::protocol::{
    CANCEL_TYPE, CREDIT_TYPE, CancelledCall, Grant, MAX_BATCH_CALLS, MAX_GRANTS, Message, Properties,
    ShortStr, Volume, read_grants, write_batch, write_grants,
};
use crate::transport::Outgoing;

/// How many abandoned calls may wait until workers are told. Further ones are not cancelled.
const MAX_ABANDONED: usize = 16 * 1024;

/// How long messages may wait for a connection and for their confirms, and how long a cancellation
/// may then wait in the queue of a worker.
pub(super) const SEND_LIMIT: Duration = Duration::from_secs(5);

/// How long grants are sent again to a worker that no queue is bound for: it may be connecting
/// again.
const RETURNED_LIMIT: Duration = Duration::from_secs(10);

/// The shortest and the longest time until returned grants are sent again.
const RETURNED_DELAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Once a stream that nobody reads was ended, it is not ended again for this long, even if more of
/// its items arrive.
const UNREAD_PAUSE: Duration = Duration::from_secs(3);

/// How many streams that nobody reads are ended within [`UNREAD_PAUSE`]. Further ones go on
/// meanwhile.
const MAX_UNREAD: usize = 1024;

/// What waits until workers are told.
#[derive(Debug, Default)]
pub(super) struct ControlMessages {
    waiting: Mutex<Waiting>,
    call_abandoned: Notify,
    credit_granted: Notify,
}

/// What workers are to cancel: a call whose caller no longer waits, or a stream that nobody reads.
///
/// The request of the call may have been sent. The stream answers a call that this client does not
/// know or no longer knows, or one whose stream comes from another worker.
#[derive(Debug)]
pub(super) struct AbandonedCall {
    /// The routing key of the message: the queue, to tell all its workers, or the id of one worker.
    pub(super) key: ShortStr,
    pub(super) id: Uuid,
    /// The deadline of the call, or a later time. For a stream that nobody reads, the present time.
    pub(super) deadline: Instant,
}

/// A message to the workers of a queue, or to one worker.
#[derive(Debug)]
pub(super) struct ControlMessage {
    pub(super) outgoing: Outgoing,
    /// When the broker first returned the grants to this worker that are sent again here. `None` if
    /// it returned none, or if the message cancels calls.
    returned_since: Option<Instant>,
}

impl ControlMessages {
    /// Adds a call to those that are to be cancelled, unless too many wait or this is paused.
    pub(super) fn cancel(&self, call: AbandonedCall) {
        self.lock().cancel(call);
        self.call_abandoned.notify_one();
    }

    /// Adds a stream that nobody reads to the calls that are to be cancelled: the stream of this
    /// worker that answers the request with this id. Does nothing if it was added within
    /// [`UNREAD_PAUSE`], or [`MAX_UNREAD`] streams were, because a peer can send any number of
    /// items with any ids.
    pub(super) fn end_unread(&self, worker: ShortStr, id: Uuid) {
        let now = Instant::now();
        let may_end = self.lock().unread.admit((worker.clone(), id), now);
        if may_end {
            self.cancel(AbandonedCall {
                key: worker,
                id,
                // Not known. With this one, it comes after the calls of this client.
                deadline: now,
            });
        }
    }

    /// Tells a worker how much of a stream it may send, unless this is paused.
    pub(super) fn grant(&self, worker: ShortStr, grant: Grant) {
        self.lock().grant(worker, grant);
        self.credit_granted.notify_one();
    }

    /// Takes the calls that are to be cancelled, and returns the messages that cancel them. Waits
    /// for a call if there is none.
    pub(super) async fn next_cancellations(&self) -> Vec<ControlMessage> {
        loop {
            let abandoned = self.take_abandoned();
            if !abandoned.is_empty() {
                return cancellations(abandoned, Instant::now());
            }
            self.call_abandoned.notified().await;
        }
    }

    /// Takes the grants that are due, and returns their messages. Waits for a grant if none is due.
    pub(super) async fn next_grants(&self) -> Vec<ControlMessage> {
        loop {
            let due_at = {
                let mut waiting = self.lock();
                let grants = waiting.take_grants(Instant::now());
                if !grants.is_empty() {
                    return grants;
                }
                waiting.grants_due_at()
            };
            let granted = self.credit_granted.notified();
            match due_at {
                Some(due_at) => _ = timeout_at(due_at, granted).await,
                None => granted.await,
            }
        }
    }

    /// Handles a message that the broker has returned: its grants are sent again later, except
    /// those of streams that are over. Gives up after [`RETURNED_LIMIT`].
    pub(super) fn grant_again(&self, message: &ControlMessage, is_over: impl Fn(Uuid) -> bool) {
        self.lock().grant_again(message, is_over, Instant::now());
    }

    /// Takes the calls that wait to be cancelled.
    pub(super) fn take_abandoned(&self) -> Vec<AbandonedCall> {
        std::mem::take(&mut self.lock().abandoned)
    }

    /// Drops what waits, and everything that is added before [`resume`](Self::resume).
    pub(super) fn pause(&self) {
        let mut waiting = self.lock();
        (waiting.abandoned, waiting.granted) = Default::default();
        waiting.is_paused = true;
    }

    pub(super) fn resume(&self) {
        self.lock().is_paused = false;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Waiting {
    abandoned: Vec<AbandonedCall>,
    /// By the routing keys of workers.
    granted: HashMap<ShortStr, Granted, RandomState>,
    unread: UnreadStreams,
    is_paused: bool,
}

/// The streams that were ended recently because nobody reads them, by worker and id.
#[derive(Debug, Default)]
struct UnreadStreams {
    ended: HashSet<(ShortStr, Uuid), RandomState>,
    /// The same, in the order of time.
    order: VecDeque<(Instant, (ShortStr, Uuid))>,
}

impl UnreadStreams {
    /// Returns whether to end a stream, and records that it is ended. Returns `false` if it was
    /// ended recently, or if too many streams were.
    fn admit(&mut self, stream: (ShortStr, Uuid), now: Instant) -> bool {
        while let Some((ended_at, oldest)) = self.order.front()
            && now - *ended_at >= UNREAD_PAUSE
        {
            self.ended.remove(oldest);
            self.order.pop_front();
        }
        let may_end = self.ended.len() < MAX_UNREAD && self.ended.insert(stream.clone());
        if may_end {
            self.order.push_back((now, stream));
        }
        may_end
    }
}

/// The credit of a worker's streams that is still to be sent.
#[derive(Debug, Default)]
struct Granted {
    /// By the ids of requests.
    credits: HashMap<Uuid, Volume, RandomState>,
    /// See [`ControlMessage::returned_since`].
    returned_since: Option<Instant>,
    /// When to send the credit. `None` if it is to be sent at once.
    due_at: Option<Instant>,
}

impl Waiting {
    fn cancel(&mut self, call: AbandonedCall) {
        if !self.is_paused && self.abandoned.len() < MAX_ABANDONED {
            self.abandoned.push(call);
        }
    }

    /// Adds a grant, which is sent at once. A later grant of a stream replaces an earlier one.
    fn grant(&mut self, worker: ShortStr, Grant { id, credit }: Grant) {
        if !self.is_paused {
            let granted = self.granted.entry(worker).or_default();
            granted.credits.insert(id, credit);
            granted.due_at = None;
        }
    }

    /// Takes the grants that are due, and returns their messages.
    fn take_grants(&mut self, now: Instant) -> Vec<ControlMessage> {
        let is_due = |_: &ShortStr, granted: &mut Granted| granted.due_at.is_none_or(|at| at <= now);
        let mut messages = Vec::new();
        let mut due: Vec<_> = self.granted.extract_if(is_due).collect();
        // Sorted here and below, so that the order does not depend on hashes and a simulation can
        // repeat it.
        due.sort_unstable_by(|(worker, _), (other, _)| worker.as_str().cmp(other.as_str()));
        for (worker, granted) in due {
            let grants = granted.credits.into_iter();
            let mut grants: Vec<_> = grants.map(|(id, credit)| Grant { id, credit }).collect();
            grants.sort_unstable_by_key(|grant| grant.id);
            messages.extend(grants.chunks(MAX_GRANTS).map(|grants| {
                let mut outgoing = outgoing(&worker, CREDIT_TYPE, None, write_grants(grants));
                // If the worker has no queue at present, the broker returns the message, and the
                // credit is granted again.
                outgoing.mandatory = true;
                // The id identifies the message if the broker returns it.
                outgoing.message.properties.correlation_id = Some(ShortStr::from_uuid(Uuid::new_v4()));
                ControlMessage {
                    outgoing,
                    returned_since: granted.returned_since,
                }
            }));
        }
        messages
    }

    /// Returns when the grants that [`take_grants`](Self::take_grants) has left are due. `None` if
    /// it has left none.
    fn grants_due_at(&self) -> Option<Instant> {
        self.granted.values().filter_map(|granted| granted.due_at).min()
    }

    /// See [`ControlMessages::grant_again`].
    fn grant_again(&mut self, message: &ControlMessage, is_over: impl Fn(Uuid) -> bool, now: Instant) {
        let returned_since = message.returned_since.unwrap_or(now);
        let returned_for = now - returned_since;
        let mut grants = read_grants(&message.outgoing.message.body).unwrap_or_default();
        grants.retain(|grant| !is_over(grant.id));
        if self.is_paused || grants.is_empty() || returned_for >= RETURNED_LIMIT {
            return;
        }
        let (shortest, longest) = RETURNED_DELAY;
        let worker = message.outgoing.queue.clone();
        // If other grants for the worker wait already, these are sent with them.
        let granted = self.granted.entry(worker).or_insert_with(|| Granted {
            // The delay is the time so far, so that delays double.
            due_at: Some(now + returned_for.clamp(shortest, longest)),
            ..Granted::default()
        });
        granted.returned_since = Some(returned_since);
        for Grant { id, credit } in grants {
            granted.credits.entry(id).or_insert(credit);
        }
    }
}

/// Returns the messages that cancel these calls: one for each routing key, or several if there are
/// many calls.
pub(super) fn cancellations(calls: Vec<AbandonedCall>, now: Instant) -> Vec<ControlMessage> {
    let mut by_key: HashMap<ShortStr, Vec<CancelledCall>> = HashMap::new();
    for AbandonedCall { key, id, deadline } in calls {
        let time_left = time_to_live(deadline, now);
        by_key
            .entry(key)
            .or_default()
            .push(CancelledCall { id, time_left });
    }
    // Streams that nobody reads come last, because a peer can send any number of them: they have no
    // time left. The calls of this client have some, except for streams past their deadlines.
    let mut by_key: Vec<_> = by_key.into_iter().collect();
    let most_time_left = |calls: &[CancelledCall]| calls.iter().map(|call| call.time_left).max();
    by_key.sort_by_cached_key(|(key, calls)| (Reverse(most_time_left(calls)), key.as_str().to_owned()));
    let mut messages = Vec::with_capacity(by_key.len());
    for (key, calls) in by_key {
        messages.extend(calls.chunks(MAX_BATCH_CALLS).map(|calls| ControlMessage {
            outgoing: outgoing(&key, CANCEL_TYPE, Some(SEND_LIMIT), write_batch(calls)),
            returned_since: None,
        }));
    }
    messages
}

/// Returns a message to the control exchange with this routing key.
fn outgoing(key: &ShortStr, kind: &'static str, expiration: Option<Duration>, body: Bytes) -> Outgoing {
    Outgoing {
        queue: key.clone(),
        mandatory: false,
        message: Message {
            properties: Properties {
                kind: Some(ShortStr::from_static(kind)),
                expiration,
                ..Properties::default()
            },
            body,
        },
        send_token: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::read_batch;

    fn call(key: &'static str, id: u128, deadline: Instant) -> AbandonedCall {
        AbandonedCall {
            key: ShortStr::from_static(key),
            id: Uuid::from_u128(id),
            deadline,
        }
    }

    fn grant(id: u128, items: u64) -> Grant {
        Grant {
            id: Uuid::from_u128(id),
            credit: Volume { items, ..Volume::MAX },
        }
    }

    #[test]
    fn calls_of_one_queue_share_a_message() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let calls = vec![call("a", 1, now + second), call("b", 2, now), call("a", 3, now)];
        let mut messages = cancellations(calls, now);
        messages.sort_by_key(|message| message.outgoing.queue.as_str().to_owned());
        let read = |message: &ControlMessage| {
            let calls = read_batch::<CancelledCall>(&message.outgoing.message.body).unwrap();
            let calls = calls.iter().map(|call| (call.id.as_u128(), call.time_left));
            (message.outgoing.queue.to_string(), calls.collect::<Vec<_>>())
        };
        let least = Duration::from_millis(1);
        let [of_a, of_b] = &messages[..] else {
            panic!("{messages:?}");
        };
        assert_eq!(read(of_a), ("a".to_owned(), vec![(1, second), (3, least)]));
        assert_eq!(read(of_b), ("b".to_owned(), vec![(2, least)]));
    }

    /// The grants that are due, by worker.
    fn take(waiting: &mut Waiting, now: Instant) -> (Vec<ControlMessage>, Vec<(String, Vec<Grant>)>) {
        let mut messages = waiting.take_grants(now);
        messages.sort_by_key(|message| message.outgoing.queue.as_str().to_owned());
        let read = messages.iter().map(|message| {
            let mut grants = read_grants(&message.outgoing.message.body).unwrap();
            grants.sort_by_key(|grant| grant.id);
            (message.outgoing.queue.to_string(), grants)
        });
        let read = read.collect();
        (messages, read)
    }

    #[test]
    fn a_later_grant_of_a_stream_replaces_an_earlier_one() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for (worker, id, credit) in [("a", 1, 5), ("a", 2, 6), ("b", 3, 7), ("a", 1, 8)] {
            waiting.grant(ShortStr::from_static(worker), grant(id, credit));
        }
        let (messages, granted) = take(&mut waiting, now);
        let of_a = ("a".to_owned(), vec![grant(1, 8), grant(2, 6)]);
        assert_eq!(granted, [of_a, ("b".to_owned(), vec![grant(3, 7)])]);
        assert!(messages.iter().all(|message| message.outgoing.mandatory));
        waiting.grant(ShortStr::from_static("a"), grant(1, 9));
        waiting.grant_again(&messages[0], |id| id.as_u128() == 7, now);
        let (_, granted) = take(&mut waiting, now);
        assert_eq!(granted, [("a".to_owned(), vec![grant(1, 9), grant(2, 6)])]);
    }

    #[test]
    fn a_returned_grant_is_sent_again_for_some_seconds() {
        let (mut waiting, begun) = (Waiting::default(), Instant::now());
        waiting.grant(ShortStr::from_static("a"), grant(1, 5));
        waiting.grant(ShortStr::from_static("a"), grant(2, 6));
        let (mut now, mut sent) = (begun, 0);
        loop {
            let (messages, granted) = take(&mut waiting, now);
            sent += 1;
            let is_over = |id: Uuid| id.as_u128() == 2;
            if sent > 1 {
                assert_eq!(granted, [("a".to_owned(), vec![grant(1, 5)])]);
            }
            waiting.grant_again(&messages[0], is_over, now);
            let Some(due_at) = waiting.grants_due_at() else {
                break;
            };
            assert!(take(&mut waiting, now).0.is_empty());
            now = due_at;
        }
        assert!((5..20).contains(&sent), "{sent}");
        assert!(now - begun >= RETURNED_LIMIT && waiting.granted.is_empty());
        // The worker asks for more credit, and is there again.
        waiting.grant(ShortStr::from_static("a"), grant(1, 5));
        assert_eq!(take(&mut waiting, now).0[0].returned_since, None);
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let messages = ControlMessages::default();
        let now = Instant::now();
        for id in 0..MAX_ABANDONED as u128 + 5 {
            messages.cancel(call("a", id, now));
        }
        let cancellations = messages.next_cancellations().await;
        assert_eq!(cancellations.len(), MAX_ABANDONED / MAX_BATCH_CALLS);
        let read = |message: &ControlMessage| read_batch::<CancelledCall>(&message.outgoing.message.body);
        assert!(cancellations.iter().all(|message| read(message).is_ok()));
        messages.cancel(call("a", 1, now));
        messages.pause();
        messages.cancel(call("a", 2, now));
        messages.grant(ShortStr::from_static("a"), grant(3, 1));
        messages.resume();
        assert!(messages.take_abandoned().is_empty() && messages.lock().granted.is_empty());
        messages.cancel(call("a", 4, now));
        assert_eq!(messages.take_abandoned().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_reads_is_ended_once_in_some_seconds() {
        let messages = ControlMessages::default();
        let worker = ShortStr::from_static("a");
        let end_all = async || {
            for id in 0..2 * MAX_UNREAD as u128 {
                messages.end_unread(worker.clone(), Uuid::from_u128(id));
            }
            let ended = messages.take_abandoned();
            tokio::time::advance(UNREAD_PAUSE / 2).await;
            ended.iter().filter(|call| call.key == worker).count()
        };
        let ended = [end_all().await, end_all().await, end_all().await];
        assert_eq!(ended, [MAX_UNREAD, 0, MAX_UNREAD]);
        messages.end_unread(ShortStr::from_static("b"), Uuid::from_u128(1));
        assert!(messages.take_abandoned().is_empty(), "there are too many");
        let unread = &messages.lock().unread;
        assert_eq!((unread.ended.len(), unread.order.len()), (MAX_UNREAD, MAX_UNREAD));
    }

    #[test]
    fn calls_that_somebody_made_are_cancelled_before_streams_that_nobody_reads() {
        let now = Instant::now();
        let call = |key: String, deadline| AbandonedCall {
            key: ShortStr::new(key).unwrap(),
            id: Uuid::from_u128(1),
            deadline,
        };
        let unread = (0..20).map(|worker| call(format!("worker {worker}"), now));
        let calls: Vec<_> = unread
            .chain([call("queue".into(), now + Duration::from_secs(1))])
            .collect();
        let messages = cancellations(calls, now);
        assert_eq!(messages.len(), 21);
        assert_eq!(messages[0].outgoing.queue.as_str(), "queue");
    }
}
