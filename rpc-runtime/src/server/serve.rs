//! The way of one request: decide, run, answer, settle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::debt::{Debt, KnownRequests, Owed, Served, Unsettled};
use super::outlet::{Outlet, Sent};
use super::post::{DueReply, Post};
use super::queue_delay::{Probes, is_probe, probe_reply};
use crate::protocol::{
    Fault, InvalidName, Message, Properties, QUEUE_TIME_HEADER, RETURNS_HEADER, ShortStr, reserved_header,
    write_millis,
};
use crate::service::{
    Arrival, Decision, Dispatcher, Handled, Id, Key, Names, NoReplyAddress, Origin, Received, Record,
    RequestLog, Rules, Tally, returns, run,
};
use crate::telemetry::{Event, count};
use crate::transport::{Control, Delivery, Departure, Outgoing};

/// How often a request is rejected at the most. Dead letters that come back by themselves would
/// otherwise go round forever.
const MAX_REJECTIONS: u32 = 20;

/// How long the copy of a request that came back waits before it runs. It may end this process at
/// once, and before that the broker is to hear that the request itself is done with: otherwise both
/// would come back, and each time more.
const COPY_PAUSE: Duration = Duration::from_millis(10);

/// How long the answer to another server's probe is worth sending.
const PROBE_REPLY_LIMIT: Duration = Duration::from_secs(1);

/// What serving the requests of one queue takes.
pub(super) struct Desk {
    pub(super) queue: String,
    pub(super) log: RequestLog,
    pub(super) dispatcher: Dispatcher,
    pub(super) rules: Rules,
    pub(super) outlet: Arc<Outlet>,
    pub(super) post: Post,
    /// One for each request that may run at once.
    places: Semaphore,
    concurrency: usize,
    pub(super) known: Arc<KnownRequests>,
    /// Batched requests are served too.
    takes_batches: AtomicBool,
    /// They are not for much longer.
    stops_batched: AtomicBool,
    probes: Arc<Probes>,
}

impl Desk {
    pub(super) fn new(
        queue: String,
        dispatcher: Dispatcher,
        rules: Rules,
        outlet: Arc<Outlet>,
        post: Post,
        concurrency: u16,
        probes: Arc<Probes>,
    ) -> Self {
        Self {
            log: RequestLog::new(queue.as_str()),
            queue,
            dispatcher,
            rules,
            outlet,
            post,
            places: Semaphore::new(concurrency.into()),
            concurrency: concurrency.into(),
            known: Arc::default(),
            takes_batches: AtomicBool::new(false),
            stops_batched: AtomicBool::new(false),
            probes,
        }
    }

    /// Callers are told from now on that they may batch their calls.
    pub(super) fn take_batched(&self) {
        self.takes_batches.store(true, Ordering::Relaxed);
    }

    /// Callers are told from now on to send their calls one by one.
    pub(super) fn stop_batched(&self) {
        self.stops_batched.store(true, Ordering::Relaxed);
    }

    /// Callers are told again that they may batch their calls.
    pub(super) fn resume_batched(&self) {
        self.stops_batched.store(false, Ordering::Relaxed);
    }

    /// A subscription is over: what it delivered comes again, and cannot be settled any more.
    pub(super) fn lose_deliveries(&self, control: &Arc<dyn Control>) {
        self.known
            .lock()
            .lose_deliveries(|delivery| delivery.is_of(control));
    }

    /// Serves the request of a delivery that was received so, or its requests if it came from the queue for
    /// batched ones. They are [`Served`] until the broker has their answers, which may be later than this returns.
    ///
    /// Where one cannot be answered or settled, it comes again, here or elsewhere.
    pub(super) async fn serve(
        self: &Arc<Self>,
        delivery: Delivery,
        is_batched: bool,
        control: Arc<dyn Control>,
        received: Received,
        served: &Served,
    ) {
        if is_probe(&delivery.message.properties) {
            return self.answer_probe(&delivery, &control, received.at).await;
        }
        match delivery.malformed.is_none() && is_batched {
            true => self.serve_batched(delivery, control, received, served).await,
            false => self.serve_alone(delivery, control, received, served).await,
        }
    }

    /// Tells a server that its probe is through the queue. It waits for no place.
    async fn answer_probe(&self, delivery: &Delivery, control: &Arc<dyn Control>, now: Instant) {
        control.settle(delivery.tag);
        let properties = &delivery.message.properties;
        if self.probes.returned(properties.correlation_id.as_ref(), now) {
            return;
        }
        if let Some(reply) = probe_reply(properties)
            && self.rules.check_address(&reply.queue).is_ok()
        {
            // Another probe follows soon.
            let _ = self
                .outlet
                .send(reply, Some(now + PROBE_REPLY_LIMIT), false)
                .await;
        }
    }

    async fn serve_alone(
        self: &Arc<Self>,
        delivery: Delivery,
        control: Arc<dyn Control>,
        received: Received,
        served: &Served,
    ) {
        let properties = &delivery.message.properties;
        let is_dead_lettered = properties.dead_lettered.is_some();
        let is_counted_copy = returns(&properties.headers) > 0;
        self.received(1, delivery.redelivered || is_dead_lettered);
        let unsettled = Unsettled::new(control, delivery.tag, 1, served);
        let owed = match key(&delivery) {
            Some(key) => {
                let origin = Origin::new(delivery.redelivered, is_dead_lettered, &properties.headers);
                self.take(key, origin, unsettled)
            }
            None => Some(Owed::Apart(unsettled)),
        };
        if let Some(owed) = owed {
            let debt = Debt::of(&self.known, served, owed);
            if is_counted_copy {
                tokio::time::sleep(COPY_PAUSE).await;
            }
            self.answer(delivery, received, debt).await;
        }
    }

    /// A message with so many requests came.
    pub(super) fn received(&self, requests: usize, redelivered: bool) {
        count(Event::RequestsReceived {
            queue: &self.queue,
            requests,
            redelivered,
        });
    }

    /// Takes on a request, unless it runs here or was answered already.
    pub(super) fn take(&self, key: Key, origin: Origin, unsettled: Unsettled) -> Option<Owed> {
        let arrival = self.known.lock().arrive(key, origin, unsettled.clone());
        match arrival {
            Arrival::Serve(key) => return Some(Owed::Run(key)),
            Arrival::ServeApart => return Some(Owed::Apart(unsettled)),
            Arrival::Joined => self.log.came_again(false),
            Arrival::Answered => {
                self.log.came_again(true);
                unsettled.settle();
            }
            Arrival::Rejected => {
                self.log.came_again(true);
                unsettled.reject();
            }
        }
        None
    }

    /// Decides, runs, and has the answer leave.
    async fn answer(&self, delivery: Delivery, received: Received, debt: Debt) {
        // There is one at once, unless requests of a connection that was lost still run.
        let Some(_place) = self.place().await else {
            return;
        };
        let Delivery {
            mut message,
            redelivered,
            malformed,
            ..
        } = delivery;
        if malformed.is_none()
            && let Some(returns) = self
                .dispatcher
                .uncounted_returns(&message, redelivered, &self.rules)
        {
            let name = ShortStr::from_static(RETURNS_HEADER);
            message.properties.headers.insert(name, returns.to_string());
            return self.send_on(message, None, debt).await;
        }
        let properties = &message.properties;
        let worth_until = properties.expiration.and_then(|time| received.deadline(time));
        let names = Names::of(properties);
        let rejections = properties.dead_lettered.map_or(0, |dead| dead.rejections);
        let now = Instant::now();
        let decided = match malformed {
            None => self
                .dispatcher
                .decide(message, redelivered, received, now, &self.rules),
            Some(malformed) => Dispatcher::refuse_malformed(message, malformed, redelivered, &self.rules),
        };
        let (mut reply, wanted, answer_to, is_refused) = match decided {
            Ok(Decision::Run {
                service,
                invocation,
                record,
                batches,
                answer_to,
            }) => {
                let in_flight = record.stats.begin();
                let handled = run(service, &self.queue, &self.log, &self.rules, &invocation).await;
                drop(in_flight);
                let wanted = self.ended(record, batches, now.elapsed(), &handled);
                (handled.reply, wanted, answer_to, !handled.ran)
            }

            Ok(Decision::Refuse {
                reply,
                fault,
                answer_to,
                shed,
            }) => {
                self.refused(&fault, &names, shed);
                (reply, 0, answer_to, true)
            }
            Err(no_address) => {
                self.dropped(&no_address);
                return self.reject(debt, rejections);
            }
        };
        write_millis(&mut reply.headers, QUEUE_TIME_HEADER, received.queue_time);
        match answer_to {
            Some(to) => self.post.post(DueReply {
                to,
                reply,
                wanted,
                worth_until,
                in_a_row: self.answers_in_a_row(&debt),
                debt,
                is_suspect: false,
            }),
            None if is_refused => self.reject(debt, rejections),
            None => debt.pay(),
        }
    }

    /// Rejects a request that is refused and has nobody to tell, unless it was rejected so often
    /// that its dead letters must come back here by themselves.
    pub(super) fn reject(&self, debt: Debt, rejections: u32) {
        if rejections >= MAX_REJECTIONS {
            self.log.went_round(rejections);
            return debt.pay();
        }
        self.log.rejected();
        debt.reject();
    }

    /// Sends a request on, as a copy, to the queue where each comes by itself, and settles it here.
    ///
    /// The copy expires at `worth_until`, when its caller stops waiting.
    pub(super) async fn send_on(&self, mut message: Message, worth_until: Option<Instant>, debt: Debt) {
        let Ok(queue) = ShortStr::new(&self.queue) else {
            return;
        };
        debt.send_on();
        let Properties {
            headers,
            reply_to,
            expiration,
            ..
        } = &mut message.properties;
        // RabbitMQ's own say what became of this message, not of the copy.
        headers.retain(|name| reserved_header(name) != Some(InvalidName::Reserved));
        Origin::mark_copy(headers);
        if let Some(until) = worth_until {
            *expiration = Some(until.saturating_duration_since(Instant::now()));
        }
        let is_oneway = reply_to
            .as_ref()
            .is_none_or(|address| address.as_str().is_empty());
        let outgoing = Outgoing {
            queue,
            mandatory: false,
            message,
            departure: Departure::default(),
        };
        match self.outlet.send(outgoing, worth_until, false).await {
            Ok(Sent::Taken | Sent::TooLate) => debt.pay(),
            Ok(Sent::Refused(_)) if is_oneway => {
                self.log.not_sent_on(true);
                debt.reject();
            }
            Ok(Sent::Refused(_)) => {
                self.log.not_sent_on(false);
                debt.pay();
            }
            // The handle was closed: it comes again.
            Err(_) => {}
        }
    }

    /// With how many other answers the broker's word on one may be looked after: until it is, no other request comes for it. So with
    /// none, where as many are served as may half fill the prefetch.
    pub(super) fn answers_in_a_row(&self, debt: &Debt) -> usize {
        match 2 * debt.all_served() > self.concurrency {
            true => 1,
            false => (self.concurrency / 4).clamp(1, 32),
        }
    }

    /// A place among the requests that run at once, if there is one.
    pub(super) fn try_place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// A place among the requests that run at once, when there is one; nothing where the handle was closed.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// A request was handled, and took this long. Answers with how many calls of its method are wanted in one message, if its caller
    /// asks; zero says nothing.
    pub(super) fn ended(&self, record: &Record, batches: bool, took: Duration, handled: &Handled) -> u16 {
        self.ended_among(&mut Tally::default(), record, batches, took, handled)
    }

    /// The same of one of several.
    pub(super) fn ended_among<'a>(
        &self,
        tally: &mut Tally<'a>,
        record: &'a Record,
        batches: bool,
        took: Duration,
        handled: &Handled,
    ) -> u16 {
        // What was refused says nothing of how long the method takes: many a refusal would make it seem to take no time, and have callers
        // send as many calls to this worker as it cannot run.
        if handled.ran {
            tally.add(&record.stats, took, handled.outcome);
            record.pace.ran(took);
        } else {
            count(Event::RequestRefused {
                queue: &self.queue,
                code: handled.outcome.as_str(),
            });
        }
        if !batches {
            return 0;
        }
        if self.stops_batched.load(Ordering::Relaxed) {
            return 1;
        }
        if !self.takes_batches.load(Ordering::Relaxed) {
            return 0;
        }
        record.pace.wanted().unwrap_or(0)
    }

    /// Counts and logs a request that is refused. `shed` is its method if it cannot be answered in time.
    pub(super) fn refused(&self, fault: &Fault, names: &Names, shed: Option<&Record>) {
        if let Some(record) = shed {
            record.stats.shed();
        }
        let (queue, code) = (&self.queue, &fault.code);
        let known = code.known().unwrap_or("other");
        count(Event::RequestRefused { queue, code: known });
        self.log.refused(fault, names);
    }

    /// Tells of requests that are dropped.
    pub(super) fn dropped(&self, no_address: &NoReplyAddress) {
        let (queue, code) = (&self.queue, "reply_address");
        count(Event::RequestRefused { queue, code });
        self.log.dropped(no_address);
    }
}

/// What the request can be recognised by; `None` if by nothing, or if it is malformed and so not run.
///
/// Without a reply address, a correlation id of somebody else's making may be that of many requests:
/// foreign senders give the id of an order to all that belongs to it.
fn key(delivery: &Delivery) -> Option<Key> {
    if delivery.malformed.is_some() {
        return None;
    }
    let properties = &delivery.message.properties;
    let id = Id::from(properties.correlation_id.as_ref()?);
    let is_answered = properties
        .reply_to
        .as_ref()
        .is_some_and(|address| !address.as_str().is_empty());
    let is_unique = is_answered || matches!(id, Id::Uuid(_));
    is_unique.then(|| Key::new(properties.reply_to.clone(), id))
}

#[cfg(test)]
mod tests;
