//! The way of several requests that came in one message: each is decided about, run and answered by itself.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use uuid::Uuid;

use super::debt::{Debt, Served, Unsettled};
use super::dispatch::{DELIVERY_COUNT, ReplyTo};
use super::outlet::Sent;
use super::post::DueReply;
use super::runs::{Key, Origin};
use super::serve::{Desk, Done, dropped, grace};
use crate::codec::Codec;
use crate::protocol::{MAX_PACKED, Message, PackedCall, Properties, Request, ShortStr, unpack};
use crate::transport::{Control, Delivery, Departure, Outgoing};

impl Desk {
    /// Serves the requests of one message that arrived at this instant; answered, each leaves as soon as it can.
    pub(super) async fn serve_packed(
        self: &Arc<Self>,
        delivery: Delivery,
        control: Arc<dyn Control>,
        arrived: Instant,
        served: &Served,
    ) {
        let Delivery {
            message,
            redelivered,
            tag,
        } = delivery;
        let Some(Opened {
            codec,
            properties,
            calls,
        }) = self.open(message)
        else {
            Unsettled::new(control, tag, 1).settle().await;
            return;
        };
        let unsettled = Unsettled::new(control, tag, calls.len().max(1));
        if calls.is_empty() {
            unsettled.settle().await;
            return;
        }
        let running = FuturesUnordered::new();
        let mut sent_on = Vec::new();
        for call in calls {
            let id = call.id;
            let request = request(call, codec, &properties);
            let key = Key::new(request.reply_to.clone(), ShortStr::from_uuid(id));
            let origin = Origin::new(redelivered, &request.headers);
            let Some(debt) = self.take(key, origin, unsettled.clone(), served).await else {
                continue;
            };
            let worth_until = request.time_to_live.and_then(|time| arrived.checked_add(time));
            let to = request.reply_to.clone();
            if redelivered && self.may_be_sent_on(&request) {
                sent_on.push(self.send_on(request, worth_until, debt));
                continue;
            }
            running.push(async move {
                let done = self.run_request(request, redelivered, arrived).await;
                (id, to, worth_until, done, debt)
            });
        }
        tokio::join!(self.answer_packed(running), join_all(sent_on));
    }

    /// Has what is done leave, until all is.
    async fn answer_packed(&self, running: FuturesUnordered<impl Future<Output = Ran>>) {
        // Those that are done at the same time are answered together.
        let mut running = running.ready_chunks(MAX_PACKED);
        while let Some(done) = running.next().await {
            let mut answers = Vec::with_capacity(done.len());
            for (id, to, worth_until, done, debt) in done {
                // Dropped, it comes again: the handle was closed.
                let Some(Done { reply, wanted }) = done else {
                    continue;
                };
                match to {
                    Some(address) => answers.push(DueReply {
                        id: Some(id),
                        to: ReplyTo {
                            address,
                            correlation_id: None,
                        },
                        reply: self.fit(reply),
                        wanted,
                        worth_until,
                        debt,
                    }),
                    None => debt.pay().await,
                }
            }
            self.post.post_all(answers);
        }
    }

    /// Whether a request of a message that came before is to come once more, by itself: it may be one of the others that ended
    /// the worker, and would again.
    fn may_be_sent_on(&self, request: &Request) -> bool {
        // Nobody but the user can send something in the user's name.
        request.user_id.is_none() && self.dispatcher.may_run_again(request.method.as_ref())
    }

    /// Sends a request on to the queue where each comes by itself, and settles it here.
    async fn send_on(&self, mut request: Request, worth_until: Option<Instant>, debt: Debt) {
        let Ok(queue) = ShortStr::new(&self.queue) else {
            return;
        };
        debt.send_on();
        request.headers.remove(DELIVERY_COUNT);
        Origin::mark_copy(&mut request.headers);
        let outgoing = Outgoing {
            queue,
            mandatory: false,
            message: request.into_message(),
            departure: Departure::default(),
        };
        match self.outlet.send(outgoing, worth_until.map(grace)).await {
            Ok(Sent::Taken | Sent::TooLate) => debt.pay().await,
            Ok(Sent::Refused(_)) => {
                tracing::error!(
                    queue = self.queue,
                    "the queue refused a request that came before; its caller will time out"
                );
                debt.pay().await;
            }
            // The handle was closed: it comes again.
            Err(_) => {}
        }
    }

    /// The requests of a message; nothing where they cannot be read, or must not be answered.
    fn open(&self, message: Message) -> Option<Opened> {
        let Message { properties, body } = message;
        if let Some(address) = &properties.reply_to
            && let Err(no_address) = self.rules.check_address(address)
        {
            dropped(&no_address);
            return None;
        }
        let content_type = properties.content_type.as_ref().map_or("", ShortStr::as_str);
        match (Codec::from_content_type(content_type), unpack(&body)) {
            (Ok(codec), Ok(calls)) => Some(Opened {
                codec,
                properties,
                calls,
            }),
            (Err(error), _) => self.unreadable(&error),
            (_, Err(error)) => self.unreadable(&error),
        }
    }

    fn unreadable(&self, error: &(dyn std::error::Error + 'static)) -> Option<Opened> {
        tracing::error!(queue = self.queue, error, "dropped a message of packed requests");
        None
    }
}

/// A request that was run: which it is, whom to answer and until when, and what is owed for it.
type Ran = (Uuid, Option<ShortStr>, Option<Instant>, Option<Done>, Debt);

/// A message's requests.
struct Opened {
    codec: Codec,
    /// Those of the message, which they share.
    properties: Properties,
    calls: Vec<PackedCall>,
}

/// A request, as if it had come by itself.
fn request(call: PackedCall, codec: Codec, shared: &Properties) -> Request {
    let PackedCall {
        id,
        method,
        time_to_live,
        arguments,
        mut headers,
    } = call;
    // Those of the message are the broker's own, such as the count of deliveries.
    for (name, value) in shared.headers.iter() {
        if let Ok(name) = ShortStr::new(name) {
            headers.insert(name, value.to_owned());
        }
    }
    Request {
        method: Some(method),
        codec,
        correlation_id: Some(ShortStr::from_uuid(id)),
        reply_to: shared.reply_to.clone(),
        time_to_live,
        persistent: shared.persistent,
        priority: shared.priority,
        app_id: shared.app_id.clone(),
        user_id: shared.user_id.clone(),
        headers,
        packs: true,
        arguments,
    }
}
