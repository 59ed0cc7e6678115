//! How answers leave: each by itself, at once; those of batched requests together, if they go to one caller.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::debt::Debt;
use super::outlet::{Outlet, Sent};
use crate::codec::Codec;
use crate::protocol::{
    BATCH_HEADER, BATCH_TYPE, BatchedAnswer, Batcher, Fault, FaultCode, Load, MAX_BATCH_BYTES,
    MAX_BATCH_CALLS, MAX_PART_BYTES, Message, Properties, Reply, ShortStr, gather, headers_size, write_batch,
};
use crate::service::ReplyTo;
use crate::telemetry::{Event, count};
use crate::transport::{Departure, Outgoing, Published, Receipt, supervised};

/// An answer that leaves by itself.
#[derive(Debug)]
pub(super) struct DueReply {
    pub(super) to: ReplyTo,
    pub(super) reply: Reply,
    /// How many calls of its method are wanted in one message; zero says nothing.
    pub(super) wanted: u16,
    pub(super) worth_until: Option<Instant>,
    pub(super) debt: Debt,
    /// It was sent before, by a channel that was closed.
    pub(super) is_suspect: bool,
    /// With how many others the broker's word on it may be looked after.
    pub(super) in_a_row: usize,
}

/// Answers to batched calls of one caller, which may leave together.
#[derive(Debug)]
pub(super) struct DueReplies {
    pub(super) address: ShortStr,
    pub(super) codec: Codec,
    /// As many as requests in the debt, in the same order.
    pub(super) answers: Vec<BatchedAnswer>,
    /// How large they are.
    pub(super) bytes: usize,
    /// For how long the one that is worth it longest is worth it; nothing where one always is.
    pub(super) worth_until: Option<Instant>,
    pub(super) debt: Debt,
}

/// Where answers are put. No more wait here than requests were delivered.
#[derive(Debug, Clone)]
pub(super) struct Post {
    inbox: UnboundedSender<Due>,
    outlet: Arc<Outlet>,
}

#[derive(Debug)]
enum Due {
    Alone(Box<DueReply>),
    Together(DueReplies),
}

impl Post {
    /// A post, and the task that empties it, which ends with the last of its clones. After a panic it goes on with what comes next; the
    /// requests whose answers it had in hand are given up, and come again.
    pub(super) fn new(outlet: Arc<Outlet>) -> (Self, impl Future<Output = ()>) {
        let (sender, inbox) = unbounded_channel();
        let post = Self {
            inbox: sender,
            outlet: Arc::clone(&outlet),
        };
        let inbox = Arc::new(Mutex::new(inbox));
        let emptying = supervised("replies", move || {
            let task = Task {
                outlet: Arc::clone(&outlet),
                batcher: Batcher::new(),
                under_way: FuturesUnordered::new(),
            };
            task.run(Arc::clone(&inbox))
        });
        (post, emptying)
    }

    /// Has an answer leave by itself, at once where that can be, and pays what is owed for it.
    pub(super) fn post(&self, answer: DueReply) {
        let (outgoing, in_a_row) = (answer.outgoing(), answer.in_a_row);
        let receipt = Arc::new(Underway {
            answer: std::sync::Mutex::new(Some(Box::new(answer))),
            post: self.clone(),
        });
        if self
            .outlet
            .try_send(outgoing, Arc::clone(&receipt) as Arc<dyn Receipt>, in_a_row)
            .is_err()
            && let Some(answer) = receipt.take()
        {
            self.put(Due::Alone(answer));
        }
    }

    /// Has answers leave, together with others if there are some, and pays what is owed for them.
    pub(super) fn post_together(&self, answers: DueReplies) {
        if !answers.answers.is_empty() {
            self.put(Due::Together(answers));
        }
    }

    fn put(&self, due: Due) {
        // The task ends before only where the server was dropped: the requests come again.
        let _ = self.inbox.send(due);
    }
}

/// An answer that was sent by itself.
struct Underway {
    answer: std::sync::Mutex<Option<Box<DueReply>>>,
    post: Post,
}

impl Underway {
    fn take(&self) -> Option<Box<DueReply>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Receipt for Underway {
    fn published(self: Arc<Self>, published: Published) {
        let Some(mut answer) = self.take() else { return };
        match published {
            // Not mandatory: a caller who is gone is no error.
            Published::Routed | Published::Returned => answer.debt.pay(),
            Published::Refused => answer.refused(&self.post.outlet),
            // The handle was closed: the request comes again, elsewhere.
            Published::Failed { source, .. } if source.is_of_ended_handle() => {}
            // Once more, with more patience.
            Published::Failed { .. } | Published::Withdrawn => {
                answer.is_suspect = published.is_of_channel();
                self.post.put(Due::Alone(answer));
            }
        }
    }
}

/// Answers that can leave in one message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lane {
    address: ShortStr,
    codec: Codec,
}

struct Task {
    outlet: Arc<Outlet>,
    batcher: Batcher<Lane, DueReplies>,
    under_way: FuturesUnordered<BoxFuture<'static, Option<Lane>>>,
}

impl Task {
    async fn run(mut self, inbox: Arc<Mutex<UnboundedReceiver<Due>>>) {
        // One task at a time has it.
        let mut inbox = inbox.lock().await;
        let mut gathered = Vec::new();
        let mut is_open = true;
        while is_open || !self.under_way.is_empty() {
            tokio::select! {
                biased;
                Some(done) = self.under_way.next() => if let Some(lane) = done {
                    self.batcher.done(&lane);
                },
                received = inbox.recv_many(&mut gathered, MAX_BATCH_CALLS), if is_open => {
                    is_open = received > 0;
                    if gathered.iter().any(|due| matches!(due, Due::Together(_))) {
                        gather(&mut inbox, &mut gathered).await;
                    }
                }
            }
            for due in gathered.drain(..) {
                match due {
                    Due::Alone(answer) => {
                        let outlet = Arc::clone(&self.outlet);
                        self.under_way.push(Box::pin(async move {
                            answer.send(&outlet).await;
                            None
                        }));
                    }
                    Due::Together(answers) => {
                        let lane = Lane {
                            address: answers.address.clone(),
                            codec: answers.codec,
                        };
                        let load = Load::of_many(answers.bytes, answers.answers.len());
                        self.batcher.push(lane, answers, load);
                    }
                }
            }
            while let Some((lane, answers)) = self.batcher.next() {
                let sending = send_together(Arc::clone(&self.outlet), lane, answers);
                self.under_way.push(Box::pin(sending));
            }
        }
    }
}

async fn send_together(outlet: Arc<Outlet>, lane: Lane, mut due: Vec<DueReplies>) -> Option<Lane> {
    if due.iter().map(|due| due.answers.len()).sum::<usize>() > 1 {
        // Worth it for as long as it is to one of them.
        let worth_until = due.iter().map(|due| due.worth_until);
        let worth_until = worth_until.reduce(|one, other| Some(one?.max(other?))).flatten();
        let outgoing = Outgoing {
            queue: lane.address.clone(),
            mandatory: false,
            message: message(&due, lane.codec),
            departure: Departure::default(),
        };
        match outlet.send(outgoing, worth_until.map(grace), false).await {
            Ok(Sent::Taken) => due.drain(..).for_each(|due| due.debt.pay()),
            Ok(Sent::TooLate) => {
                let answers = due.iter().map(|due| due.answers.len()).sum();
                for _ in 0..answers {
                    count(Event::ReplyLost {
                        reason: "no_connection",
                    });
                }
                outlet.log.given_up();
                due.drain(..).for_each(|due| due.debt.pay());
            }
            // Perhaps not each of them is refused by itself.
            Ok(Sent::Refused(_)) => {}
            // The handle was closed: the requests come again, elsewhere.
            Err(_) => return Some(lane),
        }
    }
    let alone = due.into_iter().flat_map(DueReplies::split);
    join_all(alone.map(async |answer| answer.send(&outlet).await)).await;
    Some(lane)
}

fn message(due: &[DueReplies], codec: Codec) -> Message {
    let answers: Vec<_> = due.iter().flat_map(|due| &due.answers).collect();
    Message {
        properties: Properties {
            kind: Some(ShortStr::from_static(BATCH_TYPE)),
            content_type: Some(ShortStr::from_static(codec.content_type())),
            ..Properties::default()
        },
        body: write_batch(&answers),
    }
}

impl DueReplies {
    /// Of no answer yet.
    pub(super) fn none(address: ShortStr, codec: Codec, debt: Debt) -> Self {
        Self {
            address,
            codec,
            answers: Vec::new(),
            bytes: 0,
            worth_until: Some(Instant::now()),
            debt,
        }
    }

    /// Adds the answer to the request that was added to the debt last.
    pub(super) fn add(&mut self, answer: BatchedAnswer, worth_until: Option<Instant>) {
        self.bytes += answer.body.len() + headers_size(&answer.headers) + OVERHEAD;
        self.worth_until = self
            .worth_until
            .zip(worth_until)
            .map(|(one, other)| one.max(other));
        self.answers.push(answer);
    }

    /// No more goes into a message with these.
    pub(super) fn is_full(&self) -> bool {
        self.answers.len() >= MAX_BATCH_CALLS || self.bytes + MAX_PART_BYTES + OVERHEAD > MAX_BATCH_BYTES
    }

    /// Each answer by itself.
    fn split(self) -> impl Iterator<Item = DueReply> {
        let Self {
            address,
            codec,
            answers,
            worth_until,
            debt,
            ..
        } = self;
        answers
            .into_iter()
            .zip(debt.split())
            .map(move |(answer, debt)| DueReply {
                to: ReplyTo {
                    address: address.clone(),
                    correlation_id: Some(ShortStr::from_uuid(answer.id)),
                    content_type: None,
                },
                reply: Reply {
                    kind: answer.kind,
                    codec,
                    body: answer.body,
                    headers: answer.headers,
                    unknown_type: None,
                },
                wanted: answer.wanted,
                worth_until,
                debt,
                is_suspect: false,
                in_a_row: 1,
            })
    }
}

/// What an id and lengths add to an answer, at most.
const OVERHEAD: usize = 48;

impl DueReply {
    fn outgoing(&self) -> Outgoing {
        outgoing(self.reply.clone(), self.wanted, &self.to)
    }

    /// Sends it, as often as it takes until the broker has it; or in its place, where the broker does not take it, a fault that
    /// says so.
    async fn send(self, outlet: &Outlet) {
        let worth_until = self.worth_until.map(grace);
        match outlet.send(self.outgoing(), worth_until, self.is_suspect).await {
            Ok(Sent::Taken) => return self.debt.pay(),
            Ok(Sent::TooLate) => {
                count(Event::ReplyLost {
                    reason: "no_connection",
                });
                outlet.log.given_up();
                return self.debt.pay();
            }
            Ok(Sent::Refused(None)) => return self.refused(outlet),
            Ok(Sent::Refused(Some(error))) => {
                count(Event::ReplyLost { reason: "unsendable" });
                outlet.log.unsendable(&error);
            }
            // The handle was closed: the request comes again, elsewhere.
            Err(_) => return,
        }
        let message = "the method ran, and the broker does not take its reply: it may be too large for it";
        let fault = Fault::new(FaultCode::ReplyTooLarge, message);
        let fault = outgoing(Reply::fault(self.reply.codec, &fault), self.wanted, &self.to);
        if outlet.send(fault, worth_until, false).await.is_ok() {
            self.debt.pay();
        }
    }

    fn refused(self, outlet: &Outlet) {
        count(Event::ReplyLost { reason: "refused" });
        outlet.log.refused();
        self.debt.pay();
    }
}

fn outgoing(reply: Reply, wanted: u16, to: &ReplyTo) -> Outgoing {
    let mut message = to.message(reply);
    if wanted > 0 {
        let name = ShortStr::from_static(BATCH_HEADER);
        message.properties.headers.insert(name, wanted.to_string());
    }
    Outgoing {
        queue: to.address.clone(),
        mandatory: false,
        message,
        departure: Departure::default(),
    }
}

/// How long a reply may wait for a connection although its request's time is over: not every peer that lets its requests
/// expire in the queue stops waiting for the answer at the same moment.
const GRACE: Duration = Duration::from_secs(5);

/// Until when a reply may wait for a connection, whose request's time is over at this instant.
fn grace(deadline: Instant) -> Instant {
    deadline.max(Instant::now() + GRACE)
}
