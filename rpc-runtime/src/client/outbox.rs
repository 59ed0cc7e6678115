//! How requests leave: through the link's publisher, each by itself or several in one message.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use tokio::time::{Instant, sleep_until};

use super::destination::Destination;
use super::options::CallerOptions;
use super::pending::Pending;
use super::plan::CallPlan;
use super::slot::Slot;
use crate::codec::Codec;
use crate::error::BrokerError;
use crate::protocol::{
    BATCH_TYPE, BatchedCallRef, Batcher, Headers, Load, MAX_BATCH_CALLS, MAX_PART_BYTES, Message, Properties,
    RESENT_HEADER, Request, ShortStr, gather, write_batch,
};
use crate::telemetry::{Event, count};
use crate::transport::{Departs, Departure, Outgoing, Published, Publisher};

/// A call whose request is to leave.
#[derive(Debug)]
pub(super) struct Parcel {
    /// What to send, and whom to tell what became of it.
    pub(super) slot: Untold,
    pub(super) deadline: Instant,
    /// An earlier request of the call may have reached a worker.
    pub(super) is_resent: bool,
}

impl Parcel {
    fn is_withdrawn(&self) -> bool {
        self.slot.is_withdrawn()
    }
}

/// A request whose call is to be told what became of it. If the request is dropped before, because the task that has it in hand panics, its
/// call is told that.
#[derive(Debug)]
pub(super) struct Untold {
    slot: Arc<Slot>,
    /// Which of the call's requests it is.
    number: u32,
    is_told: bool,
}

impl Untold {
    pub(super) fn new(slot: &Arc<Slot>, number: u32) -> Self {
        Self {
            slot: Arc::clone(slot),
            number,
            is_told: false,
        }
    }

    fn tell(mut self, published: Published) {
        self.is_told = true;
        self.slot.tell_published(published);
    }

    /// The publisher tells the call.
    fn entrust(mut self) {
        self.is_told = true;
    }

    fn departure(&self) -> Departure {
        Departure::of(Arc::clone(&self.slot) as Arc<dyn Departs>, self.number)
    }

    fn leave(&self) -> bool {
        self.departures().leave(self.number)
    }

    fn is_withdrawn(&self) -> bool {
        self.departures().is_withdrawn(self.number)
    }
}

impl Deref for Untold {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        // Nobody waits for a request that was withdrawn.
        if self.is_told || self.is_withdrawn() {
            return;
        }
        let has_left = !self.departures().withdraw(self.number);
        self.slot.tell_published(Published::Failed {
            source: BrokerError::Panicked { task: SENDING },
            written: has_left,
        });
    }
}

/// What the task that empties the outbox is called.
pub(super) const SENDING: &str = "outgoing requests";

/// Where requests are put, to leave by one publisher: those that may leave with others through a task in which they gather, all
/// others by themselves. As many wait here as calls are in flight, which their clients limit.
#[derive(Debug)]
pub(super) struct Outbox {
    way: Arc<Way>,
    inbox: UnboundedSender<Parcel>,
}

/// By which requests leave, and what all of them say.
#[derive(Debug)]
struct Way {
    /// Requests wait in the task: none is to overtake them.
    is_behind: AtomicBool,
    publisher: Arc<dyn Publisher>,
    reply_to: ShortStr,
    options: Arc<CallerOptions>,
}

/// With how many others the broker's word on a request may be looked after: that there is no queue is told a moment later.
const REQUESTS_IN_A_ROW: usize = 32;

impl Outbox {
    /// An outbox, and the task that empties it, which ends with it.
    pub(super) fn new(
        publisher: Arc<dyn Publisher>,
        reply_to: ShortStr,
        options: Arc<CallerOptions>,
        pending: Arc<Pending>,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, inbox) = unbounded_channel();
        let way = Arc::new(Way {
            is_behind: AtomicBool::new(false),
            publisher,
            reply_to,
            options,
        });
        let task = Task {
            way: Arc::clone(&way),
            pending,
            batcher: Batcher::new(),
            waiting: Waiting::default(),
            under_way: FuturesUnordered::new(),
        };
        (Self { way, inbox: sender }, task.run(inbox))
    }

    /// Has a request leave; its call is told what becomes of it. At once, where others are not to be waited for or it
    /// `is_by_itself`.
    pub(super) fn post(&self, parcel: Parcel, is_by_itself: bool) {
        let is_behind = self.way.is_behind.load(Ordering::Relaxed);
        if !is_behind && (is_by_itself || may_leave_alone(&parcel)) {
            let slot = Arc::clone(&parcel.slot.slot);
            let in_a_row = match slot.plan().method.is_oneway {
                // Its call waits for the broker's word, and any other for the reply.
                true => 1,
                false => REQUESTS_IN_A_ROW,
            };
            let outgoing = self.way.outgoing(&parcel);
            if self.way.publisher.try_publish(outgoing, slot, in_a_row).is_ok() {
                sent(&parcel.slot.plan().destination, 1);
                parcel.slot.entrust();
                return;
            }
        }
        if !is_behind {
            self.way.is_behind.store(true, Ordering::Relaxed);
        }
        // Where the task has ended, the call is told as the request is dropped.
        let _ = self.inbox.send(parcel);
    }
}

/// Calls that can leave in one message.
#[derive(Debug, Clone)]
struct Lane {
    destination: Arc<Destination>,
    codec: Codec,
    priority: Option<u8>,
    /// In milliseconds, roughly.
    time_to_live: u32,
}

impl Lane {
    fn properties(&self) -> (Codec, Option<u8>, u32) {
        (self.codec, self.priority, self.time_to_live)
    }
}

impl PartialEq for Lane {
    fn eq(&self, other: &Self) -> bool {
        // Most often it is the very same client.
        let is_same_queue = Arc::ptr_eq(&self.destination, &other.destination)
            || self.destination.batch_queue == other.destination.batch_queue;
        is_same_queue && self.properties() == other.properties()
    }
}

impl Eq for Lane {}

impl Hash for Lane {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.destination.batch_queue.hash(state);
        self.properties().hash(state);
    }
}

/// Calls of methods about which no worker has said anything yet.
#[derive(Debug, Default)]
struct Waiting {
    parcels: Vec<Parcel>,
    /// Until when, where there are some.
    until: Option<Instant>,
}

/// How long calls wait for the first word of a worker, where many are made at once before any was answered: longer than a quick
/// method takes to be answered, and too short to matter to a slow one.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

impl Waiting {
    fn add(&mut self, parcel: Parcel, now: Instant) {
        self.until.get_or_insert(now + LONGEST_WAIT);
        self.parcels.push(parcel);
    }

    fn is_any(&self) -> bool {
        self.until.is_some()
    }

    /// Waits until none need wait any more; for ever, where there are none.
    async fn is_over(&self) {
        match self.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Those that wait, as some of them may leave now. Those that may not, wait no longer for it.
    fn look_again(&mut self) -> Vec<Parcel> {
        std::mem::take(&mut self.parcels)
    }

    fn end(&mut self) -> Vec<Parcel> {
        self.until = None;
        std::mem::take(&mut self.parcels)
    }
}

struct Task {
    way: Arc<Way>,
    pending: Arc<Pending>,
    waiting: Waiting,
    batcher: Batcher<Lane, Parcel>,
    under_way: FuturesUnordered<BoxFuture<'static, Option<Lane>>>,
}

impl Task {
    async fn run(mut self, mut inbox: UnboundedReceiver<Parcel>) {
        let (publisher, pending) = (Arc::clone(&self.way.publisher), Arc::clone(&self.pending));
        let mut received = Vec::new();
        let mut gathered = VecDeque::new();
        let mut most = MAX_BATCH_CALLS;
        let mut is_open = true;
        while is_open || !gathered.is_empty() || !self.under_way.is_empty() || self.waiting.is_any() {
            tokio::select! {
                biased;
                Some(done) = self.under_way.next() => if let Some(lane) = done {
                    self.batcher.done(&lane);
                },
                // What waits here while the broker reads nothing can still be withdrawn.
                () = publisher.ready(), if !gathered.is_empty() || self.batcher.has_ready() => {
                    self.sort(&mut gathered);
                    if gathered.capacity() > 16 * MAX_BATCH_CALLS {
                        // Many came at once; it need not be kept for as many again.
                        gathered.shrink_to(MAX_BATCH_CALLS);
                    }
                    self.send_batched();
                    if gathered.is_empty() && inbox.is_empty() {
                        self.way.is_behind.store(false, Ordering::Relaxed);
                    }
                }
                // Of whatever method it is: calls of others go on to wait.
                () = pending.first_answer.notified(), if self.waiting.is_any() => {
                    gathered.extend(self.waiting.look_again());
                }
                () = self.waiting.is_over() => {
                    let parcels = self.waiting.end();
                    for parcel in &parcels {
                        let plan = parcel.slot.plan();
                        plan.destination.wait_no_more(plan.method_index);
                    }
                    gathered.extend(parcels);
                }
                count = inbox.recv_many(&mut received, MAX_BATCH_CALLS), if is_open => {
                    is_open = count > 0;
                    if received.iter().any(may_leave_with_others) {
                        gather(&mut inbox, &mut received).await;
                    }
                    gathered.extend(received.drain(..));
                    if gathered.len() > most {
                        gathered.retain(|parcel| !parcel.is_withdrawn());
                        most = MAX_BATCH_CALLS.max(2 * gathered.len());
                    }
                }
            }
        }
    }

    /// Sends what leaves by itself, and puts what can leave with others where it belongs. Not all of many at a time: while it waits
    /// to be looked at, a request takes little.
    fn sort(&mut self, gathered: &mut VecDeque<Parcel>) {
        let now = Instant::now();
        let first = gathered.len().min(MAX_BATCH_CALLS);
        // Those that come together are mostly of one lane.
        let mut last: Option<(Lane, Vec<(Parcel, Load)>)> = None;
        for parcel in gathered.drain(..first) {
            let Some((lane, load)) = lane(&parcel, now) else {
                match may_leave_alone(&parcel) {
                    true => self.send_alone(parcel, None),
                    false => self.waiting.add(parcel, now),
                }
                continue;
            };
            match &mut last {
                Some((same, parcels)) if *same == lane => parcels.push((parcel, load)),
                _ => {
                    let begun = (lane, vec![(parcel, load)]);
                    if let Some((lane, parcels)) = last.replace(begun) {
                        self.batcher
                            .push_all(lane, parcels, |parcel| !parcel.is_withdrawn());
                    }
                }
            }
        }
        if let Some((lane, parcels)) = last {
            self.batcher
                .push_all(lane, parcels, |parcel| !parcel.is_withdrawn());
        }
    }

    fn send_alone(&mut self, parcel: Parcel, lane: Option<Lane>) {
        let outgoing = self.way.outgoing(&parcel);
        sent(&parcel.slot.plan().destination, 1);
        let (slot, publisher) = (parcel.slot, Arc::clone(&self.way.publisher));
        self.under_way.push(Box::pin(async move {
            slot.tell(publisher.publish(outgoing).await);
            lane
        }));
    }

    /// Sends what has gathered, as far as it may leave.
    fn send_batched(&mut self) {
        while let Some((lane, mut parcels)) = self.batcher.next() {
            parcels.retain(|parcel| !parcel.is_withdrawn());
            match parcels.len() {
                0 => self.batcher.done(&lane),
                1 => {
                    for parcel in parcels {
                        self.send_alone(parcel, Some(lane.clone()));
                    }
                }
                _ => self.send_together(parcels, lane),
            }
        }
    }

    fn send_together(&mut self, mut parcels: Vec<Parcel>, lane: Lane) {
        parcels.retain(|parcel| parcel.slot.leave());
        let (Some(message), Some(queue)) = (self.way.message(&parcels), lane.destination.batch_queue.clone())
        else {
            self.batcher.done(&lane);
            return;
        };
        sent(&lane.destination, parcels.len());
        let outgoing = Outgoing {
            queue,
            mandatory: true,
            message,
            departure: Departure::default(),
        };
        let slots: Vec<_> = parcels.into_iter().map(|parcel| parcel.slot).collect();
        for slot in &slots {
            slot.batched();
        }
        let publisher = Arc::clone(&self.way.publisher);
        self.under_way.push(Box::pin(async move {
            let published = publisher.publish(outgoing).await;
            for slot in slots {
                slot.tell(published.clone());
            }
            Some(lane)
        }));
    }
}

/// A message with so many calls leaves.
fn sent(destination: &Destination, calls: usize) {
    let queue = destination.queue.as_str();
    count(Event::CallsSent { queue, calls });
}

impl Way {
    /// The message of a call that leaves by itself.
    fn outgoing(&self, parcel: &Parcel) -> Outgoing {
        Outgoing {
            queue: parcel.slot.plan().destination.queue.clone(),
            mandatory: true,
            message: self.request(parcel, Instant::now()).into_message(),
            departure: parcel.slot.departure(),
        }
    }

    fn request(&self, parcel: &Parcel, now: Instant) -> Request {
        let plan = parcel.slot.plan();
        let oneway = plan.method.is_oneway;
        Request {
            method: Some(ShortStr::from_static(plan.method.name)),
            codec: plan.codec,
            correlation_id: Some(ShortStr::from_uuid(parcel.slot.id())),
            reply_to: (!oneway).then(|| self.reply_to.clone()),
            // Nobody waits for a one-way request: the time limit is for handing it to the broker.
            time_to_live: (!oneway).then(|| time_to_live(parcel.deadline, now)),
            persistent: oneway,
            priority: plan.priority,
            app_id: self.options.app_id.clone(),
            user_id: self.options.user_id.clone(),
            headers: headers(parcel).into_owned(),
            batches: !oneway && plan.codec != Codec::Text && plan.destination.asks(plan.method_index),
            dead_lettered: None,
            arguments: plan.arguments.0.clone(),
        }
    }

    /// A message of several calls. It lives no longer than the shortest of them, which are alike: what has expired must not be
    /// run, and how long a message waited in the queue is not known to who takes it out.
    fn message(&self, parcels: &[Parcel]) -> Option<Message> {
        let first = parcels.first()?;
        let plan = first.slot.plan();
        let now = Instant::now();
        let calls: Vec<_> = parcels
            .iter()
            .map(|parcel| BatchedCallRef {
                id: parcel.slot.id(),
                method: parcel.slot.plan().method.name,
                time_to_live: Some(time_to_live(parcel.deadline, now)),
                arguments: &parcel.slot.plan().arguments.0,
                headers: headers(parcel),
            })
            .collect();
        Some(Message {
            properties: Properties {
                kind: Some(ShortStr::from_static(BATCH_TYPE)),
                content_type: Some(ShortStr::from_static(plan.codec.content_type())),
                // A call's own, by which the broker's word on the message is recognised.
                correlation_id: Some(ShortStr::from_uuid(first.slot.id())),
                reply_to: Some(self.reply_to.clone()),
                expiration: calls.iter().filter_map(|call| call.time_to_live).min(),
                priority: plan.priority,
                app_id: self.options.app_id.clone(),
                user_id: self.options.user_id.clone(),
                ..Properties::default()
            },
            body: write_batch(&calls),
        })
    }
}

fn headers(parcel: &Parcel) -> Cow<'_, Headers> {
    let mut headers = Cow::Borrowed(&parcel.slot.plan().headers);
    if parcel.is_resent {
        let name = ShortStr::from_static(RESENT_HEADER);
        headers.to_mut().insert(name, String::new());
    }
    headers
}

fn may_leave_with_others(parcel: &Parcel) -> bool {
    wanted_together(parcel.slot.plan()).is_some()
}

/// Whether a call neither leaves with others nor is to wait until it may.
fn may_leave_alone(parcel: &Parcel) -> bool {
    let plan = parcel.slot.plan();
    wanted_together(plan).is_none()
        && !(is_batchable(plan) && plan.destination.waits_for_word(plan.method_index))
}

/// How many calls like this one are wanted in one message; nothing where it leaves by itself.
fn wanted_together(plan: &CallPlan) -> Option<u16> {
    let wanted = plan.destination.wanted(plan.method_index);
    (wanted > 1 && is_batchable(plan)).then_some(wanted)
}

fn is_batchable(plan: &CallPlan) -> bool {
    !plan.method.is_oneway && plan.codec != Codec::Text && size(plan) <= MAX_PART_BYTES
}

fn size(plan: &CallPlan) -> usize {
    plan.arguments.0.len() + plan.headers.bytes() + 16 * plan.headers.len()
}

/// With what a call can leave, and how much it takes of a message; nothing where it leaves by itself.
fn lane(parcel: &Parcel, now: Instant) -> Option<(Lane, Load)> {
    let plan = parcel.slot.plan();
    let wanted = wanted_together(plan)?;
    let time_to_live = time_to_live(parcel.deadline, now).as_millis();
    let lane = Lane {
        destination: Arc::clone(&plan.destination),
        codec: plan.codec,
        priority: plan.priority,
        time_to_live: roughly(u32::try_from(time_to_live).unwrap_or(u32::MAX)),
    };
    let bytes = size(plan) + plan.method.name.len() + OVERHEAD;
    Some((lane, Load::new(bytes, wanted)))
}

/// What an id, the time and lengths add to a call, at most.
const OVERHEAD: usize = 64;

/// The number's first six binary digits: what is alike by it differs by less than a thirtieth.
fn roughly(number: u32) -> u32 {
    let behind = (u32::BITS - number.leading_zeros()).saturating_sub(6);
    number >> behind << behind
}

/// The time left, rounded up to the wire's whole milliseconds, so that a request does not expire before its caller gives up.
fn time_to_live(deadline: Instant, now: Instant) -> Duration {
    let left = deadline.saturating_duration_since(now);
    Duration::from_millis(
        u64::try_from(left.as_micros().div_ceil(1000))
            .unwrap_or(u64::MAX)
            .max(1),
    )
}

#[cfg(test)]
mod tests;
