//! The items of a stream that have arrived and that its reader has not taken.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::receiver::{BadStream, Received, Receiver};
use crate::client::limiter::Permit;
use crate::client::received_reply::ReceivedReply;
use crate::client::time_limit::TimeLimit;
use crate::codec::Codec;
use crate::describe::Worker;
use crate::protocol::{
    BadReply, Fault, FaultCode, Grant, ItemList, Items, MAX_CREDIT, Reply, ShortStr, Volume,
};
use crate::service::Credit;
use crate::telemetry::{ItemFlow, ItemObservers, ItemTally, SentBy};

/// How much a worker may send ahead of the reader at first, unless the call sets something else.
pub(in crate::client) const DEFAULT_CREDIT: Volume = Volume {
    items: MAX_CREDIT,
    bytes: 2 * 1024 * 1024,
};

/// How many bytes of items the worker may send ahead at most: what it may send doubles whenever
/// both it and the reader had to wait. What the call sets does not grow.
const MAX_CREDIT_BYTES: u64 = 4 * DEFAULT_CREDIT.bytes;

/// How long a worker may send nothing, or its stream fails. It sends a message every few seconds.
pub(in crate::client) const MAX_SILENCE: Duration = Duration::from_secs(16);

/// The items of one stream. The tasks that receive messages add to it, and its reader takes.
///
/// A call that only sends items has an inbox without a reader, which shows whether the worker is
/// still there.
#[derive(Debug)]
pub(crate) struct ItemInbox {
    state: Mutex<State>,
    /// Tells layers and metrics of the items. Locked before the state while items are taken, so
    /// that they get to know the items in order. Never locked by the tasks that receive messages,
    /// which a slow layer must not delay.
    tally: Mutex<ItemTally>,
}

#[derive(Debug)]
struct State {
    receiver: Receiver<ReceivedReply>,
    /// The correlation id of the request that the worker answers. `None` before the stream begins.
    id: Option<Uuid>,
    /// The routing key through which the worker gets credit. `None` before the stream begins, or if
    /// the worker's id is no UUID.
    worker_key: Option<ShortStr>,
    /// The credit of a method in this process that replies with a stream. `None` before it runs, or
    /// if there is a broker.
    credit: Option<Arc<Credit>>,
    /// When the last message arrived that shows that the stream goes on, or when messages could
    /// arrive again.
    heard_at: Instant,
    /// Since when the reader waits for the next item. `None` while it does not. If there is no
    /// reader, since when the call waits for its worker, which begins again with each progress.
    waiting_since: Option<Instant>,
    /// Since when no message can arrive, if the call has no reader. A reader's own wait includes
    /// that time.
    down_since: Option<Instant>,
    /// The deadline of the handler that makes the call, if the call ends with it.
    ends_at: Option<Instant>,
    /// The outcome of the last attempt that layers made. `None` before its end, or if it was
    /// dropped or, before the stream began, failed without a fault.
    outcome: Option<Result<Reply, Fault>>,
    /// The permits of the attempts that may be in flight. Empty once the stream has begun.
    permits: Vec<AttemptPermit>,
    /// How many items the call's streams have had. `None` before the call begins.
    flow: Option<Arc<ItemFlow>>,
    /// Wakes the reader, which waits for items.
    reader: Option<Waker>,
}

/// The permit of an attempt. Layers may make several attempts of a call at the same time.
#[derive(Debug)]
struct AttemptPermit {
    /// The correlation id of its request.
    id: Uuid,
    permit: Weak<Permit>,
    time_limit: TimeLimit,
}

/// What a message of a stream means for its call.
#[derive(Debug)]
pub(in crate::client) enum Arrival {
    /// Nothing: it answers another attempt, or another worker sent it, or nobody knows who did.
    Foreign,
    /// Nothing: it is late, from a run that has ended.
    Late,
    /// The stream goes on.
    Continues {
        /// Whether this is the first message of the stream.
        is_first: bool,
        /// The routing key of the worker, and the grant that answers its message without items.
        /// `None` for any other message, or if the key is not known.
        answer: Option<(ShortStr, Grant)>,
    },
    /// The call ends with this reply.
    Ends(ReceivedReply),
}

/// Who is granted credit.
#[derive(Debug, Clone)]
pub(in crate::client) enum Grantee {
    /// A worker, through the control exchange. Has its routing key and the id of the request.
    Worker(ShortStr, Uuid),
    /// A method in this process.
    InProcess(Arc<Credit>),
}

/// Why a call that waits for items ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Overdue {
    /// The worker has sent nothing for [`MAX_SILENCE`], or an item has been missing as long.
    Silent,
    /// The reader, or a call without one, has waited for too long, or the deadline of the handler
    /// that makes the call has passed.
    TimedOut,
}

impl ItemInbox {
    pub(in crate::client) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                receiver: Receiver::growing(DEFAULT_CREDIT, MAX_CREDIT_BYTES),
                id: None,
                worker_key: None,
                credit: None,
                heard_at: Instant::now(),
                waiting_since: None,
                down_since: None,
                ends_at: None,
                outcome: None,
                permits: Vec::new(),
                flow: None,
                reader: None,
            }),
            tally: Mutex::new(ItemTally::new(SentBy::Method, None, ItemObservers::default())),
        }
    }

    /// Records that the call begins. `flow` counts the items of its streams.
    pub(in crate::client) fn begin(&self, flow: Arc<ItemFlow>) {
        self.tally().set_flow(Arc::clone(&flow));
        self.lock().flow = Some(flow);
    }

    /// Returns what counts the items of the call's streams. `None` before the call begins.
    pub(in crate::client) fn flow(&self) -> Option<Arc<ItemFlow>> {
        // Not that of the tally, which is locked while observers run.
        self.lock().flow.clone()
    }

    /// Begins an attempt, which has passed through the layers that observe the items.
    pub(in crate::client) fn begin_attempt(&self, observers: ItemObservers) {
        self.tally().set_observers(observers);
        self.lock().outcome = None;
    }

    /// Creates the tally of the items that the caller sends, with the current observers.
    pub(in crate::client) fn tally_of_sent(&self) -> ItemTally {
        self.tally().of_other_stream(SentBy::Caller)
    }

    /// Shows layers and metrics the items, in order, that have arrived and that the reader has not
    /// taken. From then on, the stream cannot begin anew. Called when an attempt ends, so that
    /// layers get to know all items before its end.
    pub(in crate::client) fn show_arrived(&self) {
        let mut tally = self.tally();
        let sizes: Vec<_> = {
            let receiver = &mut self.lock().receiver;
            let shown = receiver.ready_before(tally.next_number());
            // Layers must not see the items of two runs either.
            receiver.forbid_new_beginning();
            receiver.ready().skip(shown).map(<[u8]>::len).collect()
        };
        tally.add_all(sizes.into_iter());
    }

    /// How much may be on its way or wait for the reader: before the call begins, what the worker
    /// may send at first.
    pub(in crate::client) fn window(&self) -> Volume {
        self.lock().receiver.window()
    }

    /// Records that the call sends items. They are sent to one run of the method only.
    pub(in crate::client) fn set_sends_items(&self) {
        self.lock().receiver.forbid_new_beginning();
    }

    /// Changes the window before the call begins, and keeps it from growing.
    pub(in crate::client) fn change_window(&self, change: impl FnOnce(&mut Volume)) {
        let mut state = self.lock();
        let mut window = state.receiver.window();
        change(&mut window);
        state.receiver.set_window(window);
    }

    /// Creates an empty inbox for the call that resumes this inbox's stream. The new inbox keeps
    /// the window, the time since which the reader waits, and the handler's deadline.
    pub(super) fn for_next_call(&self) -> Self {
        let before = self.lock();
        let next = Self::new();
        {
            let mut state = next.lock();
            state.receiver.continue_window(&before.receiver);
            (state.waiting_since, state.ends_at) = (before.waiting_since, before.ends_at);
        }
        next
    }

    /// Records that the reader waits for the next item. Returns since when it does.
    pub(super) fn start_waiting(&self) -> Instant {
        *self.lock().waiting_since.get_or_insert_with(Instant::now)
    }

    /// Sets the deadline of the handler that makes the call.
    pub(in crate::client) fn set_handler_deadline(&self, ends_at: Option<Instant>) {
        self.lock().ends_at = ends_at;
    }

    /// Adds the permit of an attempt that begins. It counts towards the adaptive limit until the
    /// stream begins.
    pub(in crate::client) fn add_permit(&self, id: Uuid, permit: &Arc<Permit>, time_limit: TimeLimit) {
        let mut state = self.lock();
        if state.receiver.has_begun() {
            drop(state);
            return permit.stop_counting();
        }
        state.permits.retain(|attempt| attempt.permit.strong_count() > 0);
        state.permits.push(AttemptPermit {
            id,
            permit: Arc::downgrade(permit),
            time_limit,
        });
    }

    /// Tells the permits that the request with this id has begun the stream, after `queued` in the
    /// queue. They stop counting: from now on, all attempts wait for the end of the stream.
    pub(in crate::client) fn record_begun(&self, id: Uuid, queued: Duration) {
        let attempts = std::mem::take(&mut self.lock().permits);
        for attempt in attempts {
            match attempt.permit.upgrade() {
                Some(permit) if attempt.id == id => permit.record_begun(queued, attempt.time_limit),
                Some(permit) => permit.stop_counting(),
                None => {}
            }
        }
    }

    /// Sets the credit of a method in this process, which [`grant`](Self::grant) returns from now
    /// on.
    pub(in crate::client) fn set_credit(&self, credit: Arc<Credit>) {
        self.lock().credit = Some(credit);
    }

    /// Remembers the outcome of an attempt, for layers that make the call again.
    pub(in crate::client) fn set_outcome(&self, outcome: Result<Reply, Fault>) {
        self.lock().outcome = Some(outcome);
    }

    /// Returns the outcome of an earlier attempt of a call whose stream has begun, and cannot begin
    /// again. The fault `interrupted` if none is known.
    pub(in crate::client) fn earlier_outcome(&self) -> Result<Reply, Fault> {
        let outcome = self.lock().outcome.clone();
        outcome.unwrap_or_else(|| {
            let reason = "the stream had begun, so the call was not made again";
            Err(Fault::new(FaultCode::Interrupted, reason))
        })
    }

    /// Whether the stream has begun: a message has arrived, and it was not just a reply that ended
    /// the stream at once. Then the request must not be sent again.
    pub(in crate::client) fn has_begun(&self) -> bool {
        self.lock().receiver.has_begun()
    }

    /// Receives a message of items, or a keep-alive without any, in answer to the request with this
    /// id. `worker` is the header that identifies its sender.
    pub(in crate::client) fn receive(&self, id: Uuid, worker: &str, items: Items) -> Arrival {
        let mut state = self.lock();
        if state.has_begun_with_other(id) {
            return Arrival::Foreign;
        }
        let is_first = !state.receiver.has_begun();
        let is_keep_alive = items.items.is_empty();
        let after_last = items.first.saturating_add(items.items.volume().items);
        let received = state.receiver.receive(worker, items);
        if is_of_other_run(&received) {
            return unread_arrival(received);
        }
        if is_first {
            state.begin(id, Some(worker));
        }
        // A worker goes on although items were lost with the broker, which do not come any more. So
        // a message after such a gap does not show that the stream can go on.
        let has_gap = state.receiver.misses_before(after_last);
        if is_first || !has_gap {
            state.heard_at = Instant::now();
        }
        // The answer shows the worker that its caller is there, and repeats credit that was lost.
        let credit = state.receiver.granted();
        let key = state.worker_key.as_ref().filter(|_| is_keep_alive);
        let answer = key.map(|key| (key.clone(), Grant { id, credit }));
        if !is_keep_alive {
            wake_reader(state);
        }
        arrival(received, is_first, answer)
    }

    /// Receives a message of the worker that is not about the items that it sends, in answer to the
    /// request with this id. `replies_with_items` is whether the method replies with a stream: then
    /// only the first such message counts as a sign of life. No grant answers it.
    pub(in crate::client) fn receive_sign_of_life(
        &self,
        id: Uuid,
        worker: &str,
        replies_with_items: bool,
    ) -> Arrival {
        let mut state = self.lock();
        if state.has_begun_with_other(id) {
            return Arrival::Foreign;
        }
        let is_first = !state.receiver.has_begun();
        if let Some(unread) = state.receiver.receive_header(worker) {
            return unread_arrival(Ok(unread));
        }
        if is_first {
            state.begin(id, Some(worker));
        }
        // Only the worker's messages about its items show that they go on, even empty ones.
        if is_first || !replies_with_items {
            state.heard_at = Instant::now();
        }
        Arrival::Continues {
            is_first,
            answer: None,
        }
    }

    /// Receives a message that cannot be read. It ends the stream if it comes from the run that
    /// sends the stream, or from a later one, or if no run has begun to.
    pub(in crate::client) fn receive_unreadable(
        &self,
        id: Uuid,
        worker: Option<&str>,
        reason: &'static str,
    ) -> Arrival {
        let mut state = self.lock();
        if state.has_begun_with_other(id) {
            return Arrival::Foreign;
        }
        match state.receiver.choose_run(worker) {
            Some(unread) => unread_arrival(Ok(unread)),
            None => Arrival::Ends(Err(BadReply::Stream(reason))),
        }
    }

    /// Receives the reply that ends the stream after `count` items, or at once if `count` is
    /// `None`. See [`Receiver::end`].
    pub(in crate::client) fn end(
        &self,
        id: Uuid,
        worker: Option<&str>,
        count: Option<u64>,
        reply: ReceivedReply,
    ) -> Arrival {
        let mut state = self.lock();
        if state.has_begun_with_other(id) {
            return Arrival::Foreign;
        }
        let had_begun = state.receiver.has_begun();
        let ended = state.receiver.end(worker, count, reply);
        if is_of_other_run(&ended) {
            return unread_arrival(ended);
        }
        state.heard_at = Instant::now();
        // The end may overtake the items.
        let is_first = !had_begun && state.receiver.has_begun();
        if is_first {
            state.begin(id, worker);
        }
        arrival(ended, is_first, None)
    }

    /// Sets whether a call without a reader waits for its worker.
    pub(in crate::client) fn set_waiting(&self, is_waiting: bool) {
        set_since(&mut self.lock().waiting_since, is_waiting);
    }

    /// Sets whether a call without a reader waits because no message can arrive.
    pub(in crate::client) fn set_down(&self, is_down: bool) {
        set_since(&mut self.lock().down_since, is_down);
    }

    /// Records that the method goes on, so that the wait of a call without a reader begins again.
    pub(in crate::client) fn record_progress(&self) {
        if let Some(since) = &mut self.lock().waiting_since {
            *since = Instant::now();
        }
    }

    /// Takes the items, in order, that have arrived, and shows them to layers and metrics. If there
    /// are none, records that the reader waits, and is pending.
    pub(super) fn poll_items(&self, cx: &mut Context<'_>, items: &mut VecDeque<ItemList>) -> Poll<()> {
        let mut tally = self.tally();
        let mut state = self.lock();
        let shown = state.receiver.ready_before(tally.next_number());
        state.receiver.take(items);
        if !items.is_empty() {
            state.waiting_since = None;
            drop(state);
            let sizes = items.iter().flat_map(ItemList::iter).map(<[u8]>::len);
            tally.add_all(sizes.skip(shown));
            return Poll::Ready(());
        }
        state.waiting_since.get_or_insert_with(Instant::now);
        state.receiver.record_wait();
        match &mut state.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Raises the credit, now that the reader has consumed `consumed`. Returns whom to tell, and
    /// the new total. `None` if enough credit is left, or if nobody is known to tell.
    pub(super) fn grant(&self, consumed: Volume) -> Option<(Grantee, Volume)> {
        let mut state = self.lock();
        let granted = state.receiver.grant(consumed)?;
        let grantee = match (&state.credit, &state.worker_key, state.id) {
            (Some(credit), ..) => Grantee::InProcess(Arc::clone(credit)),
            (None, Some(key), Some(id)) => Grantee::Worker(key.clone(), id),
            _ => return None,
        };
        Some((grantee, granted))
    }

    /// Records that messages can arrive again: the time in which none could does not count as
    /// silence of the worker.
    pub(in crate::client) fn record_reconnected(&self) {
        self.lock().heard_at = Instant::now();
    }

    /// Returns when the call may be [overdue](Self::overdue). `limit` is how long the reader waits
    /// for an item, or the call for its worker if there is no reader. `may_be_silent` is whether
    /// the silence of the worker says nothing: no message can arrive at present, or the worker is
    /// in this process.
    pub(in crate::client) fn overdue_at(&self, limit: Duration, may_be_silent: bool) -> Instant {
        let state = self.lock();
        let silent_at = (!may_be_silent).then(|| state.heard_at + MAX_SILENCE);
        let timed_out_at = state.wait_began_at().unwrap_or_else(Instant::now) + limit;
        let others = [silent_at, state.ends_at].into_iter().flatten();
        others.fold(timed_out_at, Instant::min)
    }

    /// Returns why the call is overdue, if it is; see [`overdue_at`](Self::overdue_at).
    pub(in crate::client) fn overdue(&self, limit: Duration, may_be_silent: bool) -> Option<Overdue> {
        let state = self.lock();
        let now = Instant::now();
        let has_waited = state.wait_began_at().is_some_and(|began| began + limit <= now);
        let is_handler_over = state.ends_at.is_some_and(|end| end <= now);
        if has_waited || is_handler_over {
            return Some(Overdue::TimedOut);
        }
        let is_silent = !may_be_silent && state.heard_at + MAX_SILENCE <= now;
        is_silent.then_some(Overdue::Silent)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single step, so a panic leaves no inconsistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tally(&self) -> MutexGuard<'_, ItemTally> {
        // A layer may panic. The items after that one are still counted.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Records who begins the stream: the worker with this header, in answer to the request with
    /// this id.
    fn begin(&mut self, id: Uuid, worker: Option<&str>) {
        self.id = Some(id);
        self.worker_key = worker.and_then(worker_key);
    }

    /// Whether the stream answers a request other than the one with this id.
    fn has_begun_with_other(&self, id: Uuid) -> bool {
        self.id.is_some_and(|begun| begun != id)
    }

    /// Since when the reader waits. Without a reader: since when the call waits for its worker, or
    /// since when no message can arrive, whichever began earlier. `None` if neither is so.
    fn wait_began_at(&self) -> Option<Instant> {
        [self.waiting_since, self.down_since].into_iter().flatten().min()
    }
}

/// Sets since when a state lasts, which is now if it has just begun. `None` if it does not last.
fn set_since(since: &mut Option<Instant>, lasts: bool) {
    *since = lasts.then(|| since.unwrap_or_else(Instant::now));
}

/// Returns the routing key of the worker that a header identifies: its id. `None` if the header is
/// malformed, or the id is no UUID.
pub(in crate::client) fn worker_key(header: &str) -> Option<ShortStr> {
    let worker: Worker = serde_json::from_str(header).ok()?;
    // Other keys reach several workers.
    Uuid::parse_str(&worker.id).ok().map(ShortStr::from_uuid)
}

/// Whether a message is not part of the stream, and so does not change the inbox: it is of another
/// worker, of an earlier run of the method, or of a later run that interrupts the stream. The
/// [`arrival`] of the last still ends the call.
fn is_of_other_run(received: &Result<Received<ReceivedReply>, BadStream>) -> bool {
    matches!(
        received,
        Ok(Received::Foreign | Received::Late | Received::Interrupted)
    )
}

/// Says what a message that was not read means for the call.
fn unread_arrival(received: Result<Received<ReceivedReply>, BadStream>) -> Arrival {
    let (is_first, answer) = (false, None);
    arrival(received, is_first, answer)
}

/// Says what a received message means for the call. `is_first` and `answer` matter only if the
/// stream goes on.
fn arrival(
    received: Result<Received<ReceivedReply>, BadStream>,
    is_first: bool,
    answer: Option<(ShortStr, Grant)>,
) -> Arrival {
    match received {
        Ok(Received::Foreign) => Arrival::Foreign,
        Ok(Received::Late) => Arrival::Late,
        Ok(Received::Interrupted) => {
            let reason = "its worker lost the connection, and began the stream again";
            let fault = Fault::new(FaultCode::Interrupted, reason);
            Arrival::Ends(Ok(Reply::fault(Codec::Json, &fault)))
        }
        Ok(Received::Continues) => Arrival::Continues { is_first, answer },
        Ok(Received::Ends(reply)) => Arrival::Ends(reply),
        Err(BadStream(reason)) => Arrival::Ends(Err(BadReply::Stream(reason))),
    }
}

/// Unlocks the inbox, and then wakes the reader.
fn wake_reader(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::task::noop_waker_ref;

    use super::*;
    use crate::client::limiter::{Limiter, WhenFull};
    use crate::codec::Codec;
    use crate::protocol::ReplyKind;

    const WORKER: &str = r#"{"id":"67e55044-10b1-426f-9247-bb680e5fe0c8"}"#;

    fn items(first: u64, count: usize, credit: u64) -> Items {
        Items {
            first,
            items: (0..count).map(|_| b"1").collect(),
            credit: volume(credit),
        }
    }

    fn volume(items: u64) -> Volume {
        Volume { items, ..Volume::MAX }
    }

    fn inbox(window: u64) -> ItemInbox {
        let inbox = ItemInbox::new();
        inbox.change_window(|changed| *changed = volume(window));
        inbox
    }

    fn grant(inbox: &ItemInbox, items: u64) -> Option<(Grantee, u64)> {
        let consumed = Volume { items, bytes: 0 };
        let (grantee, credit) = inbox.grant(consumed)?;
        Some((grantee, credit.items))
    }

    fn poll(inbox: &ItemInbox) -> usize {
        let mut taken = VecDeque::new();
        let _ = inbox.poll_items(&mut Context::from_waker(noop_waker_ref()), &mut taken);
        taken.iter().map(ItemList::len).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_items_is_answered_with_the_credit() {
        let (inbox, id) = (inbox(4), Uuid::new_v4());
        inbox.receive(id, WORKER, items(0, 4, 4));
        assert_eq!(poll(&inbox), 4);
        let (grantee, credit) = grant(&inbox, 2).unwrap();
        assert!(matches!(grantee, Grantee::Worker(_, of) if of == id));
        assert_eq!((credit, grant(&inbox, 2).is_none()), (6, true));
        // Whether or not the worker knows of all of it.
        for known in [4, 6] {
            let Arrival::Continues { answer, .. } = inbox.receive(id, WORKER, items(4, 0, known)) else {
                panic!("it goes on");
            };
            let (key, answer) = answer.unwrap();
            assert_eq!((answer.id, answer.credit.items), (id, 6));
            assert!(WORKER.contains(key.as_str()));
        }
        assert!(grant(&inbox, 2).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn layers_are_shown_each_item_once_and_before_the_end() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let shown = Arc::<Mutex<Vec<u64>>>::default();
        let mut observers = ItemObservers::default();
        let numbers = Arc::clone(&shown);
        observers.push(move |item| numbers.lock().unwrap().push(item.number()));
        inbox.begin_attempt(observers);
        let is_shown = |items: u64| shown.lock().unwrap().iter().copied().eq(0..items);
        inbox.receive(id, WORKER, items(0, 2, 9));
        inbox.receive(id, WORKER, items(3, 1, 9));
        assert!(is_shown(0), "not by those who receive messages");
        assert_eq!(poll(&inbox), 2);
        assert!(is_shown(2));
        inbox.receive(id, WORKER, items(2, 1, 9));
        // The reply arrives before the reader takes the last items.
        inbox.show_arrived();
        assert!(is_shown(4));
        inbox.receive(id, WORKER, items(4, 1, 9));
        assert_eq!(poll(&inbox), 3);
        inbox.show_arrived();
        assert!(is_shown(5));
    }

    #[test]
    fn an_attempt_that_is_dropped_leaves_no_outcome_of_an_earlier_one() {
        let inbox = ItemInbox::new();
        inbox.begin_attempt(ItemObservers::default());
        let refused = Fault::new(FaultCode::Rejected, "the worker has too much to do");
        inbox.set_outcome(Err(refused.clone()));
        assert_eq!(inbox.earlier_outcome().unwrap_err(), refused);
        inbox.begin_attempt(ItemObservers::default());
        assert_eq!(inbox.earlier_outcome().unwrap_err().code, FaultCode::Interrupted);
    }

    #[tokio::test(start_paused = true)]
    async fn no_credit_is_granted_to_what_is_no_worker() {
        for worker in ["", "x", r#"{"id":"rpc.discovery"}"#] {
            let (inbox, id) = (inbox(1), Uuid::new_v4());
            inbox.receive(id, worker, items(0, 1, 1));
            assert!(grant(&inbox, 1).is_none(), "{worker}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_worker_is_gone_and_a_slow_one_is_not() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let limit = Duration::from_secs(60);
        inbox.receive(id, WORKER, items(0, 1, 9));
        assert_eq!((poll(&inbox), poll(&inbox)), (1, 0));
        for _ in 0..6 {
            tokio::time::advance(MAX_SILENCE - Duration::from_millis(1)).await;
            let waited_too_long = inbox.overdue(limit, false);
            inbox.receive(id, WORKER, items(1, 0, 9));
            if let Some(overdue) = waited_too_long {
                assert_eq!(overdue, Overdue::TimedOut);
                break;
            }
        }
        assert_eq!(inbox.overdue(limit, false), Some(Overdue::TimedOut));
        inbox.receive(id, WORKER, items(1, 1, 9));
        assert_eq!(poll(&inbox), 1);
        // Its reader does not wait, but has heard nothing.
        tokio::time::advance(MAX_SILENCE).await;
        assert_eq!(inbox.overdue(limit, false), Some(Overdue::Silent));
        assert_eq!(inbox.overdue(limit, true), None, "nothing can arrive now");
        inbox.record_reconnected();
        assert_eq!(inbox.overdue(limit, false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_does_not_show_that_the_worker_needs_more_credit() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let mut consumed = Volume::default();
        for _ in 0..3 {
            inbox.receive_sign_of_life(id, WORKER, true);
            // The reader waits.
            assert_eq!(poll(&inbox), 0);
            consumed = consumed.plus(DEFAULT_CREDIT.half());
            let (_, granted) = inbox.grant(consumed).unwrap();
            assert_eq!(granted.minus(consumed), DEFAULT_CREDIT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_shows_that_items_are_taken_and_not_that_they_are_sent() {
        for replies_with_items in [false, true] {
            let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
            let first = inbox.receive_sign_of_life(id, WORKER, replies_with_items);
            assert!(matches!(first, Arrival::Continues { is_first: true, .. }));
            tokio::time::advance(MAX_SILENCE).await;
            let next = inbox.receive_sign_of_life(id, WORKER, replies_with_items);
            assert!(matches!(next, Arrival::Continues { is_first: false, .. }));
            let is_silent = inbox.overdue(2 * MAX_SILENCE, false).is_some();
            assert_eq!(is_silent, replies_with_items);
            let other = inbox.receive_sign_of_life(Uuid::new_v4(), WORKER, replies_with_items);
            assert!(matches!(other, Arrival::Foreign));
            let other = inbox.receive_sign_of_life(id, "another one", replies_with_items);
            assert!(matches!(other, Arrival::Foreign));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_another_stream_does_not_hide_silence() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        inbox.receive(id, WORKER, items(0, 1, 9));
        assert_eq!(poll(&inbox), 1);
        tokio::time::advance(MAX_SILENCE).await;
        let reply = Ok(Reply::new(ReplyKind::Result, Codec::Json, Bytes::new()));
        let end = inbox.end(id, Some("another one"), Some(1), reply);
        assert!(matches!(end, Arrival::Foreign));
        let limit = Duration::from_secs(60);
        assert_eq!(inbox.overdue(limit, false), Some(Overdue::Silent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_misses_an_item_ends_although_its_worker_goes_on() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let limit = Duration::from_secs(60);
        inbox.receive(id, WORKER, items(0, 1, 9));
        for _ in 0..3 {
            assert_eq!(inbox.overdue(limit, false), None);
            tokio::time::advance(MAX_SILENCE / 3).await;
            inbox.receive(id, WORKER, items(2, 0, 9));
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(inbox.overdue(limit, false), Some(Overdue::Silent));
        inbox.receive(id, WORKER, items(1, 1, 9));
        assert_eq!(inbox.overdue(limit, false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_cannot_continue_a_stream() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let first = inbox.receive(id, WORKER, items(0, 1, 9));
        assert!(matches!(
            first,
            Arrival::Continues {
                is_first: true,
                answer: None
            }
        ));
        let other = inbox.receive(Uuid::new_v4(), WORKER, items(1, 1, 9));
        assert!(matches!(other, Arrival::Foreign));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_method_runs_again_is_interrupted() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let run = |run: u64| WORKER.replace('}', &format!(r#","run":{run}}}"#));
        inbox.receive(id, &run(7), items(0, 1, 9));
        assert_eq!(poll(&inbox), 1);
        let late = inbox.receive(id, &run(6), items(1, 1, 9));
        assert!(matches!(late, Arrival::Late));
        let Arrival::Ends(Ok(reply)) = inbox.receive(id, &run(8), items(0, 1, 9)) else {
            panic!("it ends");
        };
        assert_eq!(reply.read_fault().code, FaultCode::Interrupted);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_stop_counting_towards_the_limit_once_one_begins_the_stream() {
        let limiter = Limiter::new("q", 9, WhenFull::Wait, true);
        let limit = Duration::from_secs(60);
        let time_limit = TimeLimit {
            limit,
            deadline: Instant::now() + limit,
        };
        let inbox = ItemInbox::new();
        let [first, second, late] = [(); 3].map(|()| Arc::new(limiter.try_acquire(0).unwrap()));
        let id = Uuid::new_v4();
        inbox.add_permit(id, &first, time_limit);
        inbox.add_permit(Uuid::new_v4(), &second, time_limit);
        assert_eq!(limiter.streaming(), 0);
        inbox.receive(id, WORKER, items(0, 1, 9));
        inbox.record_begun(id, Duration::ZERO);
        assert_eq!(limiter.streaming(), 2);
        inbox.add_permit(Uuid::new_v4(), &late, time_limit);
        assert_eq!(limiter.streaming(), 3);
        drop([first, second, late]);
        assert_eq!(limiter.streaming(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_overtakes_its_items_begins_the_stream() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let reply = || Ok(Reply::new(ReplyKind::Result, Codec::Json, Bytes::new()));
        let end = inbox.end(id, Some(WORKER), Some(1), reply());
        assert!(matches!(end, Arrival::Continues { is_first: true, .. }));
        let again = inbox.end(id, Some(WORKER), Some(1), reply());
        assert!(matches!(again, Arrival::Continues { is_first: false, .. }));
        let other = inbox.receive(Uuid::new_v4(), WORKER, items(0, 1, 9));
        assert!(matches!(other, Arrival::Foreign));
        let last = inbox.receive(id, WORKER, items(0, 1, 9));
        assert!(matches!(last, Arrival::Ends(Ok(_))));
    }

    #[test]
    fn an_unreadable_message_of_an_ended_run_ends_nothing() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let run = |run: u64| WORKER.replace('}', &format!(r#","run":{run}}}"#));
        inbox.receive(id, &run(2), items(0, 1, 9));
        let late = inbox.receive_unreadable(id, Some(&run(1)), "x");
        assert!(matches!(late, Arrival::Late));
    }

    #[test]
    fn layers_do_not_see_the_items_of_two_runs() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let run = |run: u64| WORKER.replace('}', &format!(r#","run":{run}}}"#));
        inbox.receive(id, &run(1), items(0, 1, 9));
        // Another attempt of the call ends.
        inbox.show_arrived();
        let later = inbox.receive(id, &run(2), items(0, 1, 9));
        assert!(matches!(later, Arrival::Ends(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreadable_message_of_its_worker_ends_a_stream() {
        let (inbox, id) = (ItemInbox::new(), Uuid::new_v4());
        let ends = |id, worker| matches!(inbox.receive_unreadable(id, worker, "x"), Arrival::Ends(Err(_)));
        assert!(ends(id, None), "any worker may answer");
        inbox.receive(id, WORKER, items(0, 1, 9));
        assert!(ends(id, Some(WORKER)));
        assert!(!ends(id, Some("another one")) && !ends(id, None) && !ends(Uuid::new_v4(), Some(WORKER)));
    }
}
