//! The answers of one message's requests, until they leave.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use uuid::Uuid;

use super::debt::{Debt, Served};
use super::post::{DueReplies, DueReply};
use super::serve::Desk;
use crate::codec::Codec;
use crate::protocol::{
    BatchedAnswer, MAX_BATCH_CALLS, MAX_PART_BYTES, QUEUE_TIME_HEADER, Reply, ShortStr, headers_size,
    write_millis,
};
use crate::service::{Handled, ReplyTo};

/// How long answers wait for those of the same message that are run after them.
const LONGEST_WAIT: Duration = Duration::from_micros(250);

/// A request that took longer than others of its message.
pub(super) struct Ran {
    pub(super) id: Uuid,
    pub(super) done: Done,
    pub(super) worth_until: Option<Instant>,
    pub(super) debt: Debt,
}

/// The answer to a request of several.
pub(super) struct Done {
    reply: Reply,
    /// How many calls of its method are wanted in one message.
    wanted: u16,
    /// Its method did not run.
    is_refused: bool,
}

impl Done {
    pub(super) fn refused(reply: Reply) -> Self {
        Self {
            reply,
            wanted: 0,
            is_refused: true,
        }
    }

    pub(super) fn handled(handled: Handled, wanted: u16) -> Self {
        Self {
            is_refused: !handled.ran,
            reply: handled.reply,
            wanted,
        }
    }
}

/// The answers of one message's requests.
pub(super) struct Answers<'a> {
    desk: &'a Arc<Desk>,
    served: &'a Served,
    /// Nothing where no answers are wanted.
    address: Option<&'a ShortStr>,
    pub(super) due: DueReplies,
    /// When the last ones left.
    left: Instant,
    /// How often the message was rejected before.
    rejections: u32,
    /// How long messages waited in the queue when the message came.
    queue_time: Duration,
}

impl<'a> Answers<'a> {
    pub(super) fn new(
        desk: &'a Arc<Desk>,
        served: &'a Served,
        codec: Codec,
        address: Option<&'a ShortStr>,
        rejections: u32,
        queue_time: Duration,
    ) -> Self {
        let address = address.filter(|address| !address.as_str().is_empty());
        Self {
            desk,
            served,
            address,
            due: due(desk, served, address, codec),
            left: Instant::now(),
            rejections,
            queue_time,
        }
    }

    /// Adds the answer to the request that was added to the debt last.
    pub(super) fn add(&mut self, id: Uuid, done: Done, worth_until: Option<Instant>) {
        let Done {
            mut reply,
            wanted,
            is_refused,
        } = done;
        let Some(address) = self.address else {
            let debt = self.due.debt.split_last();
            return match is_refused {
                true => self.desk.reject(debt, self.rejections),
                false => debt.pay(),
            };
        };
        write_millis(&mut reply.headers, QUEUE_TIME_HEADER, self.queue_time);
        if reply.body.len() + headers_size(&reply.headers) > MAX_PART_BYTES {
            return self.desk.post.post(DueReply {
                to: ReplyTo {
                    address: address.clone(),
                    correlation_id: Some(ShortStr::from_uuid(id)),
                    content_type: None,
                },
                reply,
                wanted,
                worth_until,
                debt: self.due.debt.split_last(),
                is_suspect: false,
                in_a_row: 1,
            });
        }
        let answer = BatchedAnswer {
            id,
            kind: reply.kind,
            body: reply.body,
            wanted,
            headers: reply.headers,
        };
        self.due.add(answer, worth_until);
        if self.due.is_full() {
            self.leave();
        }
    }

    /// Has those that are there leave, if the last ones left long ago.
    pub(super) fn leave_by(&mut self, now: Instant) {
        if now.saturating_duration_since(self.left) >= LONGEST_WAIT {
            self.leave();
            self.left = now;
        }
    }

    pub(super) fn leave(&mut self) {
        let none = due(self.desk, self.served, self.address, self.due.codec);
        self.desk
            .post
            .post_together(std::mem::replace(&mut self.due, none));
    }

    /// Adds the answers of those that take longer, until all are there.
    pub(super) async fn go_on(&mut self, take_longer: FuturesUnordered<BoxFuture<'_, Option<Ran>>>) {
        // Those that are done at the same time are answered together.
        let mut take_longer = take_longer.ready_chunks(MAX_BATCH_CALLS);
        while let Some(ran) = take_longer.next().await {
            // Where there is nothing, the handle was closed, and the request comes again.
            for Ran {
                id,
                done,
                worth_until,
                debt,
            } in ran.into_iter().flatten()
            {
                self.due.debt.add_all(debt);
                self.add(id, done, worth_until);
            }
            self.leave();
        }
    }
}

fn due(desk: &Arc<Desk>, served: &Served, address: Option<&ShortStr>, codec: Codec) -> DueReplies {
    let address = address.cloned().unwrap_or(ShortStr::from_static(""));
    DueReplies::none(address, codec, Debt::none(&desk.known, served))
}
