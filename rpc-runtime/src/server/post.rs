//! How the answers of packed requests leave: those for one caller together.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use uuid::Uuid;

use super::debt::Debt;
use super::dispatch::ReplyTo;
use super::outlet::{Outlet, Sent};
use super::serve::grace;
use crate::codec::Codec;
use crate::packing::{Load, Packer, gather};
use crate::protocol::{
    MAX_PACKED, MAX_PART_BYTES, Message, PACKED, PackedAnswer, Properties, Reply, ShortStr, pack,
};
use crate::transport::{Departure, Outgoing};

/// An answer that is to leave.
#[derive(Debug)]
pub(super) struct DueReply {
    /// By which it is known among others; nothing where it leaves by itself.
    pub(super) id: Option<Uuid>,
    pub(super) to: ReplyTo,
    pub(super) reply: Reply,
    /// How many calls of its method are wanted in one message; zero says nothing.
    pub(super) wanted: u16,
    pub(super) worth_until: Option<Instant>,
    pub(super) debt: Debt,
}

/// Where answers are put. No more wait here than requests were delivered.
#[derive(Debug, Clone)]
pub(super) struct Post(UnboundedSender<DueReplies>);

/// DueReplies that were ready at the same time.
#[derive(Debug)]
enum DueReplies {
    One(DueReply),
    Some(Vec<DueReply>),
}

impl Post {
    /// A post, and the task that empties it, which ends with the last of its clones.
    pub(super) fn new(outlet: Arc<Outlet>) -> (Self, impl Future<Output = ()>) {
        let (sender, inbox) = unbounded_channel();
        let task = Task {
            outlet,
            packer: Packer::new(),
            under_way: FuturesUnordered::new(),
        };
        (Self(sender), task.run(inbox))
    }

    /// Has answers leave, and pays what is owed for them.
    pub(super) fn post(&self, answer: DueReply) {
        // The task ends before only where the server was dropped: the requests come again.
        let _ = self.0.send(DueReplies::One(answer));
    }

    pub(super) fn post_all(&self, answers: Vec<DueReply>) {
        let _ = self.0.send(DueReplies::Some(answers));
    }
}

/// DueReplies that can leave in one message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lane {
    address: ShortStr,
    codec: Codec,
}

impl DueReplies {
    fn may_leave_with_others(&self) -> bool {
        match self {
            Self::One(answer) => answer.id.is_some(),
            Self::Some(_) => true,
        }
    }
}

struct Task {
    outlet: Arc<Outlet>,
    packer: Packer<Lane, DueReply>,
    under_way: FuturesUnordered<BoxFuture<'static, Option<Lane>>>,
}

impl Task {
    async fn run(mut self, mut inbox: UnboundedReceiver<DueReplies>) {
        let mut gathered = Vec::new();
        let mut is_open = true;
        while is_open || !self.under_way.is_empty() {
            tokio::select! {
                biased;
                Some(done) = self.under_way.next() => if let Some(lane) = done {
                    self.packer.done(&lane);
                },
                received = inbox.recv_many(&mut gathered, MAX_PACKED), if is_open => {
                    is_open = received > 0;
                    if gathered.iter().any(DueReplies::may_leave_with_others) {
                        gather(&mut inbox, &mut gathered).await;
                    }
                }
            }
            for answers in gathered.drain(..) {
                match answers {
                    DueReplies::One(answer) => self.sort(answer),
                    DueReplies::Some(answers) => answers.into_iter().for_each(|answer| self.sort(answer)),
                }
            }
            while let Some((lane, answers)) = self.packer.next() {
                let sending = send_together(Arc::clone(&self.outlet), lane, answers);
                self.under_way.push(Box::pin(sending));
            }
        }
    }

    fn sort(&mut self, answer: DueReply) {
        let size = answer.reply.body.len();
        if answer.id.is_none() || size > MAX_PART_BYTES {
            self.under_way.push(Box::pin(async move {
                answer.send_alone().await;
                None
            }));
            return;
        }
        let lane = Lane {
            address: answer.to.address.clone(),
            codec: answer.reply.codec,
        };
        let load = Load::new(size + OVERHEAD, u16::MAX);
        self.packer.push(lane, answer, load);
    }
}

/// What an id and lengths add to an answer, at most.
const OVERHEAD: usize = 48;

async fn send_together(outlet: Arc<Outlet>, lane: Lane, mut answers: Vec<DueReply>) -> Option<Lane> {
    if answers.len() > 1 {
        let outgoing = Outgoing {
            queue: lane.address.clone(),
            mandatory: false,
            message: message(&answers, lane.codec),
            departure: Departure::default(),
        };
        // Worth it for as long as it is to one of them.
        let worth_until = answers.iter().map(|answer| answer.worth_until);
        let worth_until = worth_until.reduce(|one, other| Some(one?.max(other?))).flatten();
        match outlet.send(outgoing, worth_until.map(grace)).await {
            Ok(Sent::Taken) => {
                for answer in answers.drain(..) {
                    answer.debt.pay().await;
                }
            }
            Ok(Sent::TooLate) => {
                tracing::warn!("replies were given up: there is no connection, and their caller is gone");
                for answer in answers.drain(..) {
                    answer.debt.pay().await;
                }
            }
            // Perhaps not each of them is refused by itself.
            Ok(Sent::Refused(_)) => {}
            // The handle was closed: the requests come again, elsewhere.
            Err(_) => return Some(lane),
        }
    }
    join_all(answers.into_iter().map(DueReply::send_alone)).await;
    Some(lane)
}

fn message(answers: &[DueReply], codec: Codec) -> Message {
    let parts: Vec<_> = answers
        .iter()
        .filter_map(|answer| {
            Some(PackedAnswer {
                id: answer.id?,
                kind: answer.reply.kind,
                body: answer.reply.body.clone(),
                wanted: answer.wanted,
            })
        })
        .collect();
    Message {
        properties: Properties {
            kind: Some(ShortStr::from_static(PACKED)),
            content_type: Some(ShortStr::from_static(codec.content_type())),
            ..Properties::default()
        },
        body: pack(&parts),
    }
}

impl DueReply {
    /// Sends it in a message of its own.
    async fn send_alone(self) {
        let desk = Arc::clone(self.debt.desk());
        let to = ReplyTo {
            correlation_id: self.id.map(ShortStr::from_uuid).or(self.to.correlation_id),
            ..self.to
        };
        let sent = desk.send(self.reply, self.wanted, &to, self.worth_until).await;
        if sent.is_ok() {
            self.debt.pay().await;
        }
    }
}
