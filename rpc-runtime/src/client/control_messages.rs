//! What workers are to be told: which calls were abandoned, and how many items they may send.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::queued_request::time_to_live;
use crate::protocol::{
    CANCEL_TYPE, CREDIT_TYPE, CancelledCall, Grant, MAX_BATCH_CALLS, MAX_GRANTS, Message, Properties,
    ShortStr, Volume, write_batch, write_grants,
};
use crate::transport::{Outgoing, SendToken};

/// How many abandoned calls may wait until workers are told. Further ones are not cancelled.
const MAX_ABANDONED: usize = 16 * 1024;

/// How long messages may wait for a connection and for their confirms.
pub(super) const SEND_LIMIT: Duration = Duration::from_secs(5);

/// What waits until workers are told.
#[derive(Debug, Default)]
pub(super) struct ControlMessages {
    waiting: Mutex<Waiting>,
    call_abandoned: Notify,
    credit_granted: Notify,
}

/// A call whose request was sent, and whose caller no longer waits.
#[derive(Debug)]
pub(super) struct AbandonedCall {
    pub(super) queue: ShortStr,
    pub(super) id: Uuid,
    pub(super) deadline: Instant,
}

impl ControlMessages {
    /// Cancels a call.
    pub(super) fn cancel(&self, call: AbandonedCall) {
        self.lock().cancel(call);
        self.call_abandoned.notify_one();
    }

    /// Tells a worker how many items it may send.
    pub(super) fn grant(&self, worker: ShortStr, grant: Grant) {
        self.lock().grant(worker, grant);
        self.credit_granted.notify_one();
    }

    /// Returns the messages that cancel calls. Waits for one if there is none.
    pub(super) async fn next_cancellations(&self) -> Vec<Outgoing> {
        loop {
            let abandoned = std::mem::take(&mut self.lock().abandoned);
            if !abandoned.is_empty() {
                return cancellations(abandoned, Instant::now());
            }
            self.call_abandoned.notified().await;
        }
    }

    /// Returns the messages that grant credit. Waits for one if there is none.
    pub(super) async fn next_grants(&self) -> Vec<Outgoing> {
        loop {
            let granted = std::mem::take(&mut self.lock().granted);
            if !granted.is_empty() {
                return grants(granted);
            }
            self.credit_granted.notified().await;
        }
    }

    /// Takes the calls that wait to be cancelled.
    pub(super) fn take_abandoned(&self) -> Vec<AbandonedCall> {
        std::mem::take(&mut self.lock().abandoned)
    }

    /// Drops what waits and what follows, until [`resume`](Self::resume).
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
    granted: Granted,
    is_paused: bool,
}

/// The credit of streams, by the routing keys of their workers and the ids of their requests.
type Granted = HashMap<ShortStr, HashMap<Uuid, Volume, RandomState>, RandomState>;

impl Waiting {
    fn cancel(&mut self, call: AbandonedCall) {
        if !self.is_paused && self.abandoned.len() < MAX_ABANDONED {
            self.abandoned.push(call);
        }
    }

    /// A later grant of a stream replaces an earlier one.
    fn grant(&mut self, worker: ShortStr, Grant { id, credit }: Grant) {
        if !self.is_paused {
            self.granted.entry(worker).or_default().insert(id, credit);
        }
    }
}

/// Returns the messages that cancel these calls: one for each queue, or several if there are many
/// calls.
pub(super) fn cancellations(calls: Vec<AbandonedCall>, now: Instant) -> Vec<Outgoing> {
    let mut by_queue: HashMap<ShortStr, Vec<CancelledCall>> = HashMap::new();
    for AbandonedCall { queue, id, deadline } in calls {
        let time_left = time_to_live(deadline, now);
        by_queue
            .entry(queue)
            .or_default()
            .push(CancelledCall { id, time_left });
    }
    let mut messages = Vec::with_capacity(by_queue.len());
    for (queue, calls) in by_queue {
        let bodies = calls.chunks(MAX_BATCH_CALLS).map(write_batch);
        messages.extend(bodies.map(|body| message(&queue, CANCEL_TYPE, Some(SEND_LIMIT), body)));
    }
    messages
}

/// Returns the messages that grant this credit, as [`cancellations`] does.
fn grants(granted: Granted) -> Vec<Outgoing> {
    let mut messages = Vec::with_capacity(granted.len());
    for (worker, credits) in granted {
        let grants: Vec<_> = credits
            .into_iter()
            .map(|(id, credit)| Grant { id, credit })
            .collect();
        let bodies = grants.chunks(MAX_GRANTS).map(write_grants);
        messages.extend(bodies.map(|body| message(&worker, CREDIT_TYPE, None, body)));
    }
    messages
}

fn message(key: &ShortStr, kind: &'static str, expiration: Option<Duration>, body: Bytes) -> Outgoing {
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
        send_token: SendToken::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{read_batch, read_grants};

    fn call(queue: &'static str, id: u128, deadline: Instant) -> AbandonedCall {
        AbandonedCall {
            queue: ShortStr::from_static(queue),
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
        messages.sort_by_key(|message| message.queue.as_str().to_owned());
        let read = |message: &Outgoing| {
            let calls = read_batch::<CancelledCall>(&message.message.body).unwrap();
            let calls = calls.iter().map(|call| (call.id.as_u128(), call.time_left));
            (message.queue.to_string(), calls.collect::<Vec<_>>())
        };
        let least = Duration::from_millis(1);
        let [of_a, of_b] = &messages[..] else {
            panic!("{messages:?}");
        };
        assert_eq!(read(of_a), ("a".to_owned(), vec![(1, second), (3, least)]));
        assert_eq!(read(of_b), ("b".to_owned(), vec![(2, least)]));
    }

    #[tokio::test]
    async fn a_later_grant_of_a_stream_replaces_an_earlier_one() {
        let messages = ControlMessages::default();
        let [a, b] = ["a", "b"].map(ShortStr::from_static);
        for (worker, id, credit) in [(&a, 1, 5), (&a, 2, 6), (&b, 3, 7), (&a, 1, 8)] {
            messages.grant(worker.clone(), grant(id, credit));
        }
        let mut granted = Vec::new();
        for message in messages.next_grants().await {
            let mut grants = read_grants(&message.message.body).unwrap();
            grants.sort_by_key(|grant| grant.id);
            granted.push((message.queue.to_string(), grants));
        }
        granted.sort_by(|(one, _), (other, _)| one.cmp(other));
        let of_a = ("a".to_owned(), vec![grant(1, 8), grant(2, 6)]);
        assert_eq!(granted, [of_a, ("b".to_owned(), vec![grant(3, 7)])]);
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
        let read = |message: &Outgoing| read_batch::<CancelledCall>(&message.message.body);
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
}
