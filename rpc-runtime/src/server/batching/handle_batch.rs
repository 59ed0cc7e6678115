//! Handles a batch: decides separately what to do with each of its requests, runs them, and
//! collects their replies.

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

use super::batch_size_ask::BatchSizeAsk;
use super::reply_collector::{Deferral, DeferredResponse, ReplyCollector};
use crate::codec::Codec;
use crate::protocol::{
    BatchedCall, Fault, FaultCode, Message, Properties, Reply, Request, ShortStr, content,
    is_rabbitmqs_header, read_batch,
};
use crate::server::outgoing_reply::OutgoingReply;
use crate::server::pending_acks::{PendingAck, PendingAcks, RequestShare, RequestsInProgress};
use crate::server::request_handler::RequestHandler;
use crate::service::{
    CorrelationId, Decision, MethodRecord, Origin, Received, ReplyTo, RequestKey, RequestLabel, RunResult,
    Tally, redelivery_count, set_redelivery_count,
};
use crate::transport::{Control, Delivery};

impl RequestHandler {
    /// Handles the requests of one batch.
    ///
    /// They start one after another. Each runs until it ends or has to wait, perhaps for a permit.
    /// Those that wait continue concurrently after the last one has started. Some requests are
    /// moved to another queue instead of running here.
    pub(in crate::server) async fn handle_batch(
        self: &Arc<Self>,
        delivery: Delivery,
        control: Arc<dyn Control>,
        received: Received,
        in_progress: &RequestsInProgress,
    ) {
        let Delivery {
            message,
            redelivered,
            tag,
            ..
        } = delivery;
        let rejections = message.properties.dead_lettered.map_or(0, |dead| dead.rejections);
        // What is moved to the dead-letter queue if the batch is refused and gets no reply.
        let unread = self.jobs.as_ref().map(|jobs| (jobs, message.clone()));
        let Batch {
            codec,
            properties,
            calls,
        } = match self.read(message) {
            Ok(batch) if !batch.calls.is_empty() => batch,
            // There is nothing to do.
            Ok(_) => return RequestShare::whole(control, tag, in_progress).ack(),
            Err(refusal) => {
                let share = RequestShare::whole(control, tag, in_progress);
                let ack = PendingAck::Untracked(share);
                let acks = PendingAcks::of_one(&self.deduplicator, in_progress, ack);
                return match (refusal, unread) {
                    (Some(refusal), _) => self.reply_sender.send(refusal.reply(received, acks)),
                    (None, Some((jobs, message))) => {
                        let fault = Fault::bad_request(
                            "this message cannot be read as a batch, or replies to its reply_to are not allowed",
                        );
                        let reply = Reply::fault(Codec::Text, &fault);
                        let is_refused = true;
                        self.end_job(jobs, message, &reply, is_refused, acks).await;
                    }
                    (None, None) => self.reject(acks, rejections),
                };
            }
        };
        let is_dead_lettered = properties.dead_lettered.is_some();
        self.count_received(calls.len(), redelivered || is_dead_lettered);
        let share = RequestShare::of_batch(control, tag, calls.len(), in_progress);
        let reply_to = properties.reply_to.as_ref();
        let mut replies = ReplyCollector::new(
            self,
            in_progress,
            codec,
            reply_to,
            rejections,
            received.queue_time,
        );
        let deferred = FuturesUnordered::new();
        let mut moving = Vec::new();
        // Most requests end without waiting. They share one box, one permit and one tally.
        let mut running = empty_box();
        let mut shared_permit = None;
        let mut tally = Tally::default();
        let mut now = Instant::now();
        let expects_replies = expects_reply(reply_to);
        let mut asks = Vec::new();
        for call in calls {
            let id = call.id;
            let mut request = unbatched_request(call, codec, &properties);
            if !expects_replies {
                asks.extend(BatchSizeAsk::take(&mut request));
            }
            let origin = Origin::new(redelivered, is_dead_lettered, &request.headers);
            // The same key as that of a forwarded copy, which is a single request.
            let key = RequestKey::new(request.reply_to.clone(), CorrelationId::Uuid(id));
            let Some(ack) = self.deduplicate(key, origin, share.clone()) else {
                continue;
            };
            let deadline = request.time_to_live.and_then(|time| received.deadline(time));
            let mut job = if expects_replies {
                None
            } else {
                self.message_of_possible_job(&request)
            };
            let delay = job
                .as_mut()
                .and_then(|message| self.prepare_batched_job(message, redelivered));
            if let (Some(jobs), Some(delay)) = (&self.jobs, delay)
                && let Some(message) = job
            {
                let acks = PendingAcks::of_one(&self.deduplicator, in_progress, ack);
                moving.push(if redelivered {
                    self.unbatch_job(jobs, message, delay, acks).boxed()
                } else {
                    self.delay_job(jobs, message, delay, acks).map(drop).boxed()
                });
                continue;
            }
            if redelivered && self.may_forward(&request, deadline) {
                let acks = PendingAcks::of_one(&self.deduplicator, in_progress, ack);
                moving.push(self.forward(request.into_message(), deadline, acks).boxed());
                continue;
            }
            replies.acks().push(ack);
            let Some(permit) = shared_permit.take().or_else(|| self.try_permit()) else {
                let deferral = replies.defer_last(id, deadline, job);
                let waiting = self.run_when_permitted(deferral, request, redelivered, received);
                deferred.push(waiting.boxed());
                continue;
            };
            let label = RequestLabel::of_batched(&request);
            let response = match self.decide_batched(request, redelivered, received, now) {
                Decision::Refuse(refusal) => self.executor.finish_refused(&self.queue, refusal, &label),
                Decision::Cancelled(record) => self.executor.finish_cancelled(&self.queue, record),
                Decision::Run(admitted) => {
                    let record = admitted.record;
                    running.set(async move {
                        let result = self.executor.run(&self.queue, &admitted).await;
                        (result, permit)
                    });
                    match poll_once(&mut running).await {
                        Poll::Ready((result, permit)) => {
                            shared_permit = Some(permit);
                            let took = now.elapsed();
                            now += took;
                            self.executor
                                .finish(&self.queue, &mut tally, record, took, result)
                        }
                        Poll::Pending => {
                            let running = std::mem::replace(&mut running, empty_box());
                            let deferral = replies.defer_last(id, deadline, job);
                            let ending = self.finish_deferred(deferral, running, record, now);
                            deferred.push(ending.boxed());
                            now = Instant::now();
                            continue;
                        }
                    }
                }
            };
            replies.push(id, response, deadline, job);
            replies.send_if_due(now);
        }
        drop(shared_permit);
        // The requests that have ended are counted before the last of their replies are sent, so
        // that the caller finds them in the stats.
        tally.flush();
        replies.send();
        for ask in asks {
            self.answer_batch_size(ask);
        }
        let sending = async {
            replies.send_deferred(deferred).await;
            replies.move_jobs().await;
        };
        let moving = join_all(moving).map(drop);
        match &self.jobs {
            // All jobs of the batch are moved.
            Some(jobs) if redelivered && !expects_replies => {
                tokio::join!(sending, jobs.move_batch(moving));
            }
            _ => {
                tokio::join!(sending, moving);
            }
        }
    }

    /// Waits for the end of a request that did not end at its first poll, and counts it. Always
    /// returns `Some`: it shares a `FuturesUnordered` with
    /// [`run_when_permitted`](Self::run_when_permitted), which returns an `Option`.
    async fn finish_deferred(
        &self,
        deferral: Deferral,
        running: Running<'_>,
        record: &MethodRecord,
        begun: Instant,
    ) -> Option<DeferredResponse> {
        // Counted only now, because most requests of a batch end at their first poll.
        let in_flight = record.stats.begin();
        let (result, _permit) = running.await;
        drop(in_flight);
        let took = begun.elapsed();
        // A tally counts its requests when it is dropped, here at the end of the statement.
        let response = self
            .executor
            .finish(&self.queue, &mut Tally::default(), record, took, result);
        Some(DeferredResponse { deferral, response })
    }

    /// Once a permit is free, decides whether a request runs, and runs it. Returns `None` only if
    /// [`permit`](Self::permit) does.
    async fn run_when_permitted(
        &self,
        deferral: Deferral,
        request: Request,
        redelivered: bool,
        received: Received,
    ) -> Option<DeferredResponse> {
        let _permit = self.permit().await?;
        let label = RequestLabel::of_batched(&request);
        let now = Instant::now();
        let decision = self.decide_batched(request, redelivered, received, now);
        let response = self.executor.execute(&self.queue, decision, &label, now).await;
        Some(DeferredResponse { deferral, response })
    }

    /// Decides whether a request of a batch runs. If it does, its reply may advise a batch size,
    /// whatever its method is.
    fn decide_batched(
        &self,
        request: Request,
        redelivered: bool,
        received: Received,
        now: Instant,
    ) -> Decision<'_> {
        let mut decision = self.executor.decide_request(request, redelivered, received, now);
        if let Decision::Run(admitted) = &mut decision {
            // `false` for methods whose calls this library does not batch. Another caller may
            // have batched them, and must learn too when batches are paused; see
            // `advised_batch_size`.
            admitted.asks_batch_size = true;
        }
        decision
    }

    /// Returns the message of a request that expects no reply, and so may be a job. `None` unless
    /// jobs are served on the queue.
    fn message_of_possible_job(&self, request: &Request) -> Option<Message> {
        self.jobs.is_some().then(|| {
            let mut request = request.clone();
            // A copy that is moved must not ask again.
            request.asks_batch_size = false;
            request.into_message()
        })
    }

    /// Returns how much of its delay is left to a job that is moved to another queue instead of
    /// running with its batch. `None` if it may run now, or is no job. A job of a redelivered batch
    /// is always moved, because it might crash its worker again, with all other requests of the
    /// batch; nothing may be left of its delay then.
    ///
    /// Prepares the message like [`prepare_job`](Self::prepare_job). If the batch was redelivered,
    /// counts that in the headers of a job.
    fn prepare_batched_job(&self, message: &mut Message, redelivered: bool) -> Option<Duration> {
        let delay = self.prepare_job(message);
        if redelivered && self.is_job(message) {
            count_redelivery(message);
            return Some(delay.unwrap_or_default());
        }
        delay
    }

    /// Whether a request of a redelivered batch may be forwarded, so that it is delivered
    /// separately. If it stayed in the batch, another request that crashes its worker would take it
    /// along each time.
    fn may_forward(&self, request: &Request, deadline: Option<Instant>) -> bool {
        let has_time = deadline.is_none_or(|deadline| deadline > Instant::now());
        // Only the user itself can publish a message with its user id.
        has_time
            && request.user_id.is_none()
            && self.executor.dispatcher.is_idempotent(request.method.as_ref())
    }

    /// Reads the requests of a batch.
    ///
    /// # Errors
    ///
    /// Returns the refusal to send if the batch cannot be read. Returns `None` if it gets no
    /// refusal: its sender expects no reply or sent no correlation id, or its `reply_to` is
    /// forbidden.
    fn read(&self, message: Message) -> Result<Batch, Option<Box<BatchRefusal>>> {
        let Message { properties, body } = message;
        if let Some(address) = &properties.reply_to
            && let Err(forbidden) = self.executor.rules.check_reply_address(address)
        {
            self.reply_address_forbidden(&forbidden);
            return Err(None);
        }
        match (content::codec_of(&properties), read_batch(&body)) {
            (Ok(codec), Ok(calls)) => Ok(Batch {
                codec: codec.unwrap_or(Codec::Text),
                properties,
                calls,
            }),
            (Err(error), _) => {
                let fault = Fault::with_reason(FaultCode::UnsupportedContentType, &error);
                Err(self.refuse_batch(&error, fault, error.readable_codec(), properties))
            }
            (Ok(codec), Err(error)) => {
                let fault = Fault::bad_request(format_args!(
                    "this queue takes batches, and this message cannot be read as one: {error}"
                ));
                let codec = codec.unwrap_or(Codec::Text);
                Err(self.refuse_batch(&error, fault, codec, properties))
            }
        }
    }

    /// Logs a batch that cannot be read. Returns the refusal to send, if it can reach its caller.
    fn refuse_batch(
        &self,
        error: &(dyn std::error::Error + 'static),
        fault: Fault,
        codec: Codec,
        properties: Properties,
    ) -> Option<Box<BatchRefusal>> {
        self.executor.log.unreadable_batch(error);
        let address = properties.reply_to.clone()?;
        // A reply without a correlation id would not reach any call.
        let is_answerable = !address.as_str().is_empty() && properties.correlation_id.is_some();
        is_answerable.then(|| {
            Box::new(BatchRefusal {
                to: ReplyTo {
                    address,
                    content_type: content::reply_content_type(&properties),
                    correlation_id: properties.correlation_id,
                },
                codec,
                fault,
                time_to_live: properties.expiration,
            })
        })
    }
}

/// The refusal of a batch that cannot be read.
struct BatchRefusal {
    to: ReplyTo,
    codec: Codec,
    fault: Fault,
    time_to_live: Option<Duration>,
}

impl BatchRefusal {
    fn reply(self, received: Received, acks: PendingAcks) -> OutgoingReply {
        OutgoingReply {
            to: self.to,
            reply: Reply::fault(self.codec, &self.fault),
            batch_size: 0,
            deadline: self.time_to_live.and_then(|time| received.deadline(time)),
            acks,
            may_have_closed_channel: false,
        }
    }
}

/// A running request with its permit.
type Running<'a> = ReusableBoxFuture<'a, (RunResult, SemaphorePermit<'a>)>;

/// A box in which no request runs, and to which one can be added.
fn empty_box<'a>() -> Running<'a> {
    ReusableBoxFuture::new(std::future::pending())
}

async fn poll_once<T>(future: &mut ReusableBoxFuture<'_, T>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(future.poll(cx))).await
}

fn expects_reply(reply_to: Option<&ShortStr>) -> bool {
    reply_to.is_some_and(|address| !address.as_str().is_empty())
}

/// Counts in the job's headers that it was redelivered. Its copy is another message, for which the
/// broker counts no earlier deliveries. Without this count, a job that crashes its workers would
/// come back forever.
fn count_redelivery(job: &mut Message) {
    let headers = &mut job.properties.headers;
    let redeliveries = redelivery_count(headers).saturating_add(1);
    set_redelivery_count(headers, redeliveries);
}

/// The requests of one message.
struct Batch {
    codec: Codec,
    /// The properties of the message, which all its requests share.
    properties: Properties,
    calls: Vec<BatchedCall>,
}

/// Returns a batched request as if it had been sent in a message of its own.
fn unbatched_request(call: BatchedCall, codec: Codec, shared: &Properties) -> Request {
    let BatchedCall {
        id,
        method,
        time_to_live,
        arguments,
        mut headers,
    } = call;
    // RabbitMQ does not write its headers into the body, so any that are there are forged. Those of
    // this library stay.
    headers.retain(|name, _| !is_rabbitmqs_header(name));
    // Of the headers of the message, only RabbitMQ's own count, such as the delivery count.
    for (name, value) in shared.headers.iter() {
        if is_rabbitmqs_header(name)
            && let Ok(name) = ShortStr::new(name)
        {
            headers.insert(name, value.to_owned());
        }
    }
    Request {
        method: Some(method),
        codec,
        correlation_id: Some(ShortStr::from_uuid(id)),
        reply_to: shared
            .reply_to
            .clone()
            .filter(|address| expects_reply(Some(address))),
        time_to_live,
        persistent: shared.persistent,
        priority: shared.priority,
        app_id: shared.app_id.clone(),
        user_id: shared.user_id.clone(),
        headers,
        asks_batch_size: true,
        credit: None,
        sends_items: false,
        dead_lettered: shared.dead_lettered,
        arguments,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use uuid::Uuid;

    use super::*;
    use crate::protocol::Headers;

    #[test]
    fn the_headers_of_rabbitmq_are_not_read_from_the_body() {
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
        let request = unbatched_request(call, Codec::Json, &shared);
        let mut read: Vec<_> = request.headers.iter().collect();
        read.sort_unstable();
        assert_eq!(read, [("tenant", "forged"), ("x-delivery-count", "3")]);
    }

    #[test]
    fn of_the_headers_of_a_batch_only_those_of_rabbitmq_are_read() {
        let headers = |headers: &[(&'static str, &str)]| {
            let mut set = Headers::default();
            for (name, value) in headers {
                set.insert(ShortStr::from_static(name), (*value).to_owned());
            }
            set
        };
        let shared = Properties {
            headers: headers(&[
                ("tenant", "another"),
                ("rpc-resent", ""),
                ("rpc-copy", "7"),
                ("x-acquired-count", "2"),
            ]),
            ..Properties::default()
        };
        let call = BatchedCall {
            id: Uuid::new_v4(),
            method: ShortStr::from_static("read"),
            time_to_live: None,
            arguments: Bytes::new(),
            headers: headers(&[("tenant", "its own"), ("rpc-copy", "1")]),
        };
        let request = unbatched_request(call, Codec::Json, &shared);
        let mut read: Vec<_> = request.headers.iter().collect();
        read.sort_unstable();
        let expected = [
            ("rpc-copy", "1"),
            ("tenant", "its own"),
            ("x-acquired-count", "2"),
        ];
        assert_eq!(read, expected);
    }
}
