//! The way of several requests that came in one message: each is decided about, run and answered by itself.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;
use uuid::Uuid;

use super::answers::{Answers, Done, Ran};
use super::debt::{Debt, Owed, Served, Unsettled};
use super::post::DueReply;
use super::serve::Desk;
use crate::codec::Codec;
use crate::protocol::{
    BatchedCall, Fault, FaultCode, InvalidName, Message, Properties, Reply, Request, ShortStr, content,
    read_batch, reserved_header,
};
use crate::service::{
    Decision, Handled, Id, Invocation, Key, Names, Origin, Received, Record, ReplyTo, Service, Tally, run,
};
use crate::transport::{Control, Delivery};

impl Desk {
    /// Serves the requests of one message that was received so; answered, each leaves as soon as it can.
    ///
    /// They are run one after another, each as far as it gets at once. Those that have to wait for something go on beside each other.
    pub(super) async fn serve_batched(
        self: &Arc<Self>,
        delivery: Delivery,
        control: Arc<dyn Control>,
        received: Received,
        served: &Served,
    ) {
        let Delivery {
            message,
            redelivered,
            tag,
            ..
        } = delivery;
        let rejections = message.properties.dead_lettered.map_or(0, |dead| dead.rejections);
        let Opened {
            codec,
            properties,
            calls,
        } = match self.open(message) {
            Ok(opened) if !opened.calls.is_empty() => opened,
            Ok(_) => return Unsettled::new(control, tag, 1, served).settle(),
            Err(None) => {
                let owed = Owed::Apart(Unsettled::new(control, tag, 1, served));
                return self.reject(Debt::of(&self.known, served, owed), rejections);
            }
            Err(Some(refusal)) => {
                let refusal = *refusal;
                let owed = Owed::Apart(Unsettled::new(control, tag, 1, served));
                return self.post.post(DueReply {
                    to: refusal.to,
                    reply: Reply::fault(refusal.codec, &refusal.fault),
                    wanted: 0,
                    worth_until: refusal.time_to_live.and_then(|time| received.deadline(time)),
                    debt: Debt::of(&self.known, served, owed),
                    is_suspect: false,
                    in_a_row: 1,
                });
            }
        };
        self.received(calls.len(), redelivered);
        let unsettled = Unsettled::new(control, tag, calls.len(), served);
        let reply_to = properties.reply_to.as_ref();
        let mut answers = Answers::new(self, served, codec, reply_to, rejections, received.queue_time);
        let take_longer = FuturesUnordered::new();
        let mut sent_on = Vec::new();
        // One box for all that end at once, which are most.
        let mut running = none_runs();
        // The place of those, too.
        let mut place = None;
        let mut now = Instant::now();
        let mut tally = Tally::default();
        for call in calls {
            let id = call.id;
            let request = request(call, codec, &properties);
            let is_dead_lettered = request.dead_lettered.is_some();
            let origin = Origin::new(redelivered, is_dead_lettered, &request.headers);
            let key = Key::new(reply_to.cloned(), Id::Uuid(id));
            let Some(owed) = self.take(key, origin, unsettled.clone()) else {
                continue;
            };
            let worth_until = request.time_to_live.and_then(|time| received.deadline(time));
            if redelivered && self.may_be_sent_on(&request, worth_until) {
                let debt = Debt::of(&self.known, served, owed);
                let request = Request {
                    reply_to: reply_to.cloned(),
                    ..request
                };
                sent_on.push(self.send_on(request.into_message(), worth_until, debt));
                continue;
            }
            answers.due.debt.add(owed);
            let Some(here) = place.take().or_else(|| self.try_place()) else {
                let debt = answers.due.debt.split_last();
                take_longer.push(self.run_in_turn(id, request, redelivered, received, debt).boxed());
                continue;
            };
            let done = match self.decide_batched(request, redelivered, received, now) {
                Err(refusal) => Done::refused(refusal),
                Ok(Runnable {
                    service,
                    invocation,
                    record,
                }) => {
                    running.set(async move {
                        let handled = run(service, &self.queue, &self.log, &self.rules, &invocation).await;
                        (handled, here)
                    });
                    match poll_once(&mut running).await {
                        Poll::Ready((handled, here)) => {
                            place = Some(here);
                            let took = now.elapsed();
                            now += took;
                            let wanted = self.ended_among(&mut tally, record, true, took, &handled);
                            Done::handled(handled, wanted)
                        }
                        Poll::Pending => {
                            let debt = answers.due.debt.split_last();
                            let begun = std::mem::replace(&mut running, none_runs());
                            let ending = self.run_on(id, begun, record, now, worth_until, debt);
                            take_longer.push(ending.boxed());
                            now = Instant::now();
                            continue;
                        }
                    }
                }
            };
            answers.add(id, done, worth_until);
            answers.leave_by(now);
        }
        drop(place);
        // Before its answers leave.
        tally.count();
        answers.leave();
        tokio::join!(answers.go_on(take_longer), join_all(sent_on));
    }

    /// Waits for a request that did not end at once.
    async fn run_on(
        &self,
        id: Uuid,
        running: Running<'_>,
        record: &Record,
        begun: Instant,
        worth_until: Option<Instant>,
        debt: Debt,
    ) -> Option<Ran> {
        // Those that end at once are never seen to run.
        let in_flight = record.stats.begin();
        let (handled, _place) = running.await;
        drop(in_flight);
        let wanted = self.ended(record, true, begun.elapsed(), &handled);
        Some(Ran {
            id,
            done: Done::handled(handled, wanted),
            worth_until,
            debt,
        })
    }

    /// Runs a request of several once fewer run here; nothing where the handle is closed before.
    async fn run_in_turn(
        &self,
        id: Uuid,
        request: Request,
        redelivered: bool,
        received: Received,
        debt: Debt,
    ) -> Option<Ran> {
        let _place = self.place().await?;
        let worth_until = request.time_to_live.and_then(|time| received.deadline(time));
        let now = Instant::now();
        let done = match self.decide_batched(request, redelivered, received, now) {
            Err(refusal) => Done::refused(refusal),
            Ok(Runnable {
                service,
                invocation,
                record,
            }) => {
                let in_flight = record.stats.begin();
                let handled = run(service, &self.queue, &self.log, &self.rules, &invocation).await;
                drop(in_flight);
                let wanted = self.ended(record, true, now.elapsed(), &handled);
                Done::handled(handled, wanted)
            }
        };
        Some(Ran {
            id,
            done,
            worth_until,
            debt,
        })
    }

    /// Decides about a request of several; a reply where it is refused.
    fn decide_batched(
        &self,
        request: Request,
        redelivered: bool,
        received: Received,
        now: Instant,
    ) -> Result<Runnable<'_>, Reply> {
        let names = Names::of_batched(&request);
        let decision = self
            .dispatcher
            .decide_request(request, None, redelivered, received, now, &self.rules);
        match decision {
            Decision::Run {
                service,
                invocation,
                record,
                ..
            } => Ok(Runnable {
                service,
                invocation,
                record,
            }),
            Decision::Refuse {
                reply, fault, shed, ..
            } => {
                self.refused(&fault, &names, shed);
                Err(reply)
            }
        }
    }

    /// Whether a request of a message that came before is to come once more, by itself: it may be one of the others that ended
    /// the worker, and would again.
    fn may_be_sent_on(&self, request: &Request, worth_until: Option<Instant>) -> bool {
        let has_time = worth_until.is_none_or(|until| until > Instant::now());
        // Nobody but the user can send something in the user's name.
        has_time && request.user_id.is_none() && self.dispatcher.may_run_again(request.method.as_ref())
    }

    /// The requests of a message.
    ///
    /// # Errors
    ///
    /// The answer to a message that cannot be read; `None` if it wants none, or must not be answered.
    fn open(&self, message: Message) -> Result<Opened, Option<Box<Refusal>>> {
        let Message { properties, body } = message;
        if let Some(address) = &properties.reply_to
            && let Err(no_address) = self.rules.check_address(address)
        {
            self.dropped(&no_address);
            return Err(None);
        }
        match (content::codec(&properties), read_batch(&body)) {
            (Ok(codec), Ok(calls)) => Ok(Opened {
                codec: codec.unwrap_or(Codec::Text),
                properties,
                calls,
            }),
            (Err(error), _) => {
                let fault = Fault::because(FaultCode::UnsupportedContentType, &error);
                Err(self.unreadable(&error, fault, error.readable_codec(), properties))
            }
            (Ok(codec), Err(error)) => {
                let fault = Fault::bad_request(format_args!(
                    "this queue takes messages of several calls, and this one cannot be read: {error}"
                ));
                let codec = codec.unwrap_or(Codec::Text);
                Err(self.unreadable(&error, fault, codec, properties))
            }
        }
    }

    fn unreadable(
        &self,
        error: &(dyn std::error::Error + 'static),
        fault: Fault,
        codec: Codec,
        properties: Properties,
    ) -> Option<Box<Refusal>> {
        self.log.unreadable(error);
        let address = properties.reply_to.clone()?;
        // Without an id of its own, the answer would be one to nothing.
        let is_answerable = !address.as_str().is_empty() && properties.correlation_id.is_some();
        is_answerable.then(|| {
            Box::new(Refusal {
                to: ReplyTo {
                    address,
                    content_type: content::alias(&properties),
                    correlation_id: properties.correlation_id,
                },
                codec,
                fault,
                time_to_live: properties.expiration,
            })
        })
    }
}

/// The answer to a message that cannot be read.
struct Refusal {
    to: ReplyTo,
    codec: Codec,
    fault: Fault,
    time_to_live: Option<Duration>,
}

/// A request that may be run.
struct Runnable<'a> {
    service: &'a dyn Service,
    invocation: Invocation,
    record: &'a Record,
}

/// A request that runs, in its place.
type Running<'a> = ReusableBoxFuture<'a, (Handled, SemaphorePermit<'a>)>;

/// A box for requests that run.
fn none_runs<'a>() -> Running<'a> {
    ReusableBoxFuture::new(std::future::pending())
}

/// Polls a future once.
async fn poll_once<T>(future: &mut ReusableBoxFuture<'_, T>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(future.poll(cx))).await
}

/// A message's requests.
struct Opened {
    codec: Codec,
    /// Those of the message, which they share.
    properties: Properties,
    calls: Vec<BatchedCall>,
}

/// A request, as if it had come by itself.
fn request(call: BatchedCall, codec: Codec, shared: &Properties) -> Request {
    let BatchedCall {
        id,
        method,
        time_to_live,
        arguments,
        mut headers,
    } = call;
    // What the broker says of a message, it does not say within the body.
    headers.retain(|name| reserved_header(name) != Some(InvalidName::Reserved));
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
        // The message's, for all of them.
        reply_to: None,
        time_to_live,
        persistent: shared.persistent,
        priority: shared.priority,
        app_id: shared.app_id.clone(),
        user_id: shared.user_id.clone(),
        headers,
        batches: true,
        dead_lettered: shared.dead_lettered,
        arguments,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::Headers;

    #[test]
    fn what_the_broker_says_is_not_read_within_a_body() {
        let mut headers = Headers::default();
        for name in ["tenant", "CC", "x-delivery-count", "x-first-death-reason"] {
            headers.insert(ShortStr::from_static(name), "forged".to_owned());
        }
        let mut shared = Properties::default();
        let count = ShortStr::from_static("x-delivery-count");
        shared.headers.insert(count, "3".to_owned());
        let call = BatchedCall {
            id: Uuid::new_v4(),
            method: ShortStr::from_static("read"),
            time_to_live: None,
            arguments: Bytes::new(),
            headers,
        };
        let request = request(call, Codec::Json, &shared);
        let mut read: Vec<_> = request.headers.iter().collect();
        read.sort_unstable();
        assert_eq!(read, [("tenant", "forged"), ("x-delivery-count", "3")]);
    }
}
