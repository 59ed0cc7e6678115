//! The way of one request: decide, run, answer, settle.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::debt::{Debt, Served, Unsettled};
use super::dispatch::{Decision, Dispatcher, NoReplyAddress, ReplyTo, Rules, truthful};
use super::outlet::{Outlet, Sent};
use super::post::{DueReply, Post};
use super::runs::{Arrival, Key, Origin, Runs};
use super::service::{Answer, Invocation, Service};
use crate::context::with_ambient_deadline;
use crate::error::BrokerError;
use crate::protocol::{
    Fault, FaultCode, Message, PACKED, PACKING_HEADER, Properties, Reply, Request, ShortStr,
};
use crate::transport::{Control, Delivery, Departure, Outgoing};

/// How long a reply may wait for a connection although its request's time is over: not every peer that lets its requests
/// expire in the queue stops waiting for the answer at the same moment.
const GRACE: Duration = Duration::from_secs(5);

/// What serving the requests of one queue takes.
pub(super) struct Desk {
    pub(super) queue: String,
    pub(super) dispatcher: Dispatcher,
    pub(super) rules: Rules,
    pub(super) outlet: Arc<Outlet>,
    pub(super) post: Post,
    /// One for each request that may run at once.
    places: Semaphore,
    runs: Mutex<Runs<Unsettled>>,
    /// Packed requests are served too.
    takes_packed: AtomicBool,
    /// They are not for much longer.
    stops_packed: AtomicBool,
}

/// A request that was decided about, and run if that was the decision.
pub(super) struct Done {
    pub(super) reply: Reply,
    /// How many calls of the method are wanted in one message; zero says nothing.
    pub(super) wanted: u16,
}

impl Desk {
    pub(super) fn new(
        queue: String,
        dispatcher: Dispatcher,
        rules: Rules,
        outlet: Arc<Outlet>,
        post: Post,
        concurrency: u16,
    ) -> Self {
        Self {
            queue,
            dispatcher,
            rules,
            outlet,
            post,
            places: Semaphore::new(concurrency.into()),
            runs: Mutex::default(),
            takes_packed: AtomicBool::new(false),
            stops_packed: AtomicBool::new(false),
        }
    }

    /// Callers are told from now on that they may pack their calls.
    pub(super) fn take_packed(&self) {
        self.takes_packed.store(true, Ordering::Relaxed);
    }

    /// Callers are told from now on to send their calls one by one.
    pub(super) fn stop_packed(&self) {
        self.stops_packed.store(true, Ordering::Relaxed);
    }

    /// A subscription is over: what it delivered comes again, and cannot be settled any more.
    pub(super) fn lose_deliveries(&self, control: &Arc<dyn Control>) {
        self.runs().lose_deliveries(|delivery| delivery.is_of(control));
    }

    /// Serves the request, or the requests, of a delivery that arrived at this instant. They are [`Served`] until the broker
    /// has their answers, which may be later than this returns.
    ///
    /// Where one cannot be answered or settled, it comes again, here or elsewhere.
    pub(super) async fn serve(
        self: &Arc<Self>,
        delivery: Delivery,
        control: Arc<dyn Control>,
        arrived: Instant,
        served: &Served,
    ) {
        match is_packed(&delivery.message) {
            true => self.serve_packed(delivery, control, arrived, served).await,
            false => self.serve_alone(delivery, control, arrived, served).await,
        }
    }

    async fn serve_alone(
        self: &Arc<Self>,
        delivery: Delivery,
        control: Arc<dyn Control>,
        arrived: Instant,
        served: &Served,
    ) {
        let unsettled = Unsettled::new(control, delivery.tag, 1);
        let debt = match key(&delivery) {
            Some(key) => {
                let origin = Origin::new(delivery.redelivered, &delivery.message.properties.headers);
                self.take(key, origin, unsettled, served).await
            }
            None => Some(Debt::apart(self, served, unsettled)),
        };
        if let Some(debt) = debt {
            self.answer(delivery, arrived, debt).await;
        }
    }

    /// Takes on a request, unless it runs here or was answered already.
    pub(super) async fn take(
        self: &Arc<Self>,
        key: Key,
        origin: Origin,
        unsettled: Unsettled,
        served: &Served,
    ) -> Option<Debt> {
        let arrival = self.runs().arrive(key, origin, unsettled.clone());
        match arrival {
            Arrival::Serve(key) => return Some(Debt::of_run(self, served, key)),
            Arrival::ServeApart => return Some(Debt::apart(self, served, unsettled)),
            Arrival::Joined => tracing::debug!(queue = self.queue, "a request that runs here came again"),
            Arrival::Answered => {
                tracing::debug!(queue = self.queue, "a request that was answered came again");
                unsettled.settle().await;
            }
        }
        None
    }

    /// Decides, runs, and has the answer leave.
    async fn answer(&self, delivery: Delivery, arrived: Instant, debt: Debt) {
        // There is one at once, unless requests of a connection that was lost still run. Nobody closes the places.
        let Ok(_place) = self.places.acquire().await else {
            return;
        };
        let Delivery {
            message, redelivered, ..
        } = delivery;
        let properties = &message.properties;
        let worth_until = properties.expiration.and_then(|time| arrived.checked_add(time));
        let names = Names::of(properties);
        let now = Instant::now();
        let decision = match self
            .dispatcher
            .decide(message, redelivered, arrived, now, &self.rules)
        {
            Ok(decision) => decision,
            Err(no_address) => {
                dropped(&no_address);
                return debt.pay().await;
            }
        };
        let (Done { reply, wanted }, answer_to) = self.carry_out(decision, &names).await;
        match answer_to {
            Some(to) => self.post.post(DueReply {
                id: None,
                to,
                reply: self.fit(reply),
                wanted,
                worth_until,
                debt,
            }),
            None => debt.pay().await,
        }
    }

    /// Decides about a request of several, and runs it. Nothing where the handle was closed.
    pub(super) async fn run_request(
        &self,
        request: Request,
        redelivered: bool,
        arrived: Instant,
    ) -> Option<Done> {
        let _place = self.places.acquire().await.ok()?;
        let names = Names {
            method: request.method.clone(),
            correlation_id: request.correlation_id.clone(),
        };
        let now = Instant::now();
        let decision = self
            .dispatcher
            .decide_request(request, None, redelivered, arrived, now, &self.rules);
        Some(self.carry_out(decision, &names).await.0)
    }

    /// Does what was decided.
    async fn carry_out(&self, decision: Decision, names: &Names) -> (Done, Option<ReplyTo>) {
        match decision {
            Decision::Run {
                service,
                invocation,
                pace,
                answer_to,
            } => {
                let begun = Instant::now();
                let reply = run(&*service, &invocation).await;
                let wanted = match pace {
                    Some(_) if self.stops_packed.load(Ordering::Relaxed) => 1,
                    Some(pace) if self.takes_packed.load(Ordering::Relaxed) => {
                        pace.ran(begun.elapsed());
                        pace.wanted().unwrap_or(0)
                    }
                    _ => 0,
                };
                (Done { reply, wanted }, answer_to)
            }
            Decision::Refuse {
                reply,
                fault,
                answer_to,
            } => {
                let (queue, code) = (&self.queue, &fault.code);
                let (method, correlation_id) = (names.method(), names.correlation_id());
                tracing::warn!(queue, %code, method, correlation_id, "refused a request");
                (Done { reply, wanted: 0 }, answer_to)
            }
        }
    }

    /// Sends a reply and waits until the broker has it.
    ///
    /// # Errors
    ///
    /// Where the handle was closed first.
    pub(super) async fn send(
        &self,
        reply: Reply,
        wanted: u16,
        to: &ReplyTo,
        worth_until: Option<Instant>,
    ) -> Result<(), BrokerError> {
        let codec = reply.codec;
        let worth_until = worth_until.map(grace);
        let outgoing = |reply: Reply| {
            let mut message = reply.into_message(to.correlation_id.clone());
            if wanted > 0 {
                let name = ShortStr::from_static(PACKING_HEADER);
                message.properties.headers.insert(name, wanted.to_string());
            }
            Outgoing {
                queue: to.address.clone(),
                mandatory: false,
                message,
                departure: Departure::default(),
            }
        };
        match self.outlet.send(outgoing(reply), worth_until).await? {
            Sent::Taken => return Ok(()),
            Sent::TooLate => {
                tracing::warn!("a reply was given up: there is no connection, and its caller is gone");
                return Ok(());
            }
            Sent::Refused(None) => {
                tracing::error!("the broker refused a reply; its caller will time out");
                return Ok(());
            }
            Sent::Refused(Some(error)) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "a reply cannot be sent; its caller gets a fault"
            ),
        }
        let message = "the method ran, and the broker does not take its reply: it may be too large for it";
        let fault = Fault::new(FaultCode::ReplyTooLarge, message);
        let sending = self
            .outlet
            .send(outgoing(Reply::fault(codec, &fault)), worth_until);
        sending.await.map(drop)
    }

    /// The reply, or the fault in its place where it is larger than may be sent.
    pub(super) fn fit(&self, reply: Reply) -> Reply {
        let (size, limit) = (reply.body.len(), self.rules.max_sent_bytes);
        if size <= limit {
            return reply;
        }
        tracing::warn!(size, limit, "a reply is larger than may be sent");
        let message = format!(
            "the method ran, and its reply of {size} bytes is larger than the {limit} that may be sent"
        );
        Reply::fault(reply.codec, &Fault::new(FaultCode::ReplyTooLarge, message))
    }

    pub(super) fn runs(&self) -> MutexGuard<'_, Runs<Unsettled>> {
        // Each change is a single step, so a panic elsewhere leaves nothing half done behind the lock.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when a reply may wait for a connection, whose request's time is over at this instant.
pub(super) fn grace(deadline: Instant) -> Instant {
    deadline.max(Instant::now() + GRACE)
}

/// Tells of requests that are dropped.
pub(super) fn dropped(NoReplyAddress(address): &NoReplyAddress) {
    tracing::warn!(%address, "dropped a request: its reply_to is not a reply address, see ReplyAddresses");
}

/// What logs call a request by.
struct Names {
    method: Option<ShortStr>,
    correlation_id: Option<ShortStr>,
}

impl Names {
    fn of(properties: &Properties) -> Self {
        Self {
            method: properties.kind.clone(),
            correlation_id: properties.correlation_id.clone(),
        }
    }

    fn method(&self) -> Option<&str> {
        self.method.as_ref().map(ShortStr::as_str)
    }

    fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_ref().map(ShortStr::as_str)
    }
}

fn is_packed(message: &Message) -> bool {
    let kind = message.properties.kind.as_ref();
    kind.is_some_and(|kind| kind.as_str() == PACKED)
}

/// What the request can be recognised by.
fn key(delivery: &Delivery) -> Option<Key> {
    let properties = &delivery.message.properties;
    let correlation_id = properties.correlation_id.clone()?;
    Some(Key::new(properties.reply_to.clone(), correlation_id))
}

/// Runs the method; its panic is a fault.
pub(crate) async fn run(service: &dyn Service, invocation: &Invocation) -> Reply {
    // Called in there, so that a panic before its future exists is caught too.
    let handling = with_ambient_deadline(invocation.context().deadline(), async {
        service.handle(invocation).await
    });
    let (method, correlation_id) = (invocation.method(), invocation.context().correlation_id());
    let fault = match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(Ok(Answer(reply))) => return reply,
        Ok(Err(fault)) => {
            let fault = truthful(fault, invocation.context().came_before());
            // Its message may repeat parts of what the caller sent, which does not belong into logs.
            tracing::warn!(code = %fault.code, method, correlation_id, "a request ended with a fault");
            fault
        }
        Err(_) => {
            // The panic's message went to the worker's own panic hook; it is not for the caller to read.
            tracing::error!(method, correlation_id, "a method panicked");
            Fault::new(FaultCode::Panicked, format!("the method {method:?} panicked"))
        }
    };
    Reply::fault(invocation.codec(), &fault)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::protocol::{Message, Properties, ReplyAddresses};
    use crate::status::{Connectivity, StatusBoard};
    use crate::transport::{
        Published, Publisher, Receipt, ReplyLink, ReplyQueue, RequestQueue, Subscription, Transport,
    };

    /// A broker that answers publishes with these words in turn, and notes what it is told, in order.
    #[derive(Debug, Clone)]
    struct Notes {
        words: Arc<Mutex<Vec<Published>>>,
        told: Arc<Mutex<Vec<&'static str>>>,
        board: Arc<StatusBoard>,
    }

    impl Notes {
        fn note(&self, what: &'static str) {
            self.told.lock().unwrap().push(what);
        }
    }

    #[async_trait]
    impl Transport for Notes {
        async fn open_publisher(&self) -> Result<Arc<dyn Publisher>, BrokerError> {
            Ok(Arc::new(self.clone()))
        }

        async fn open_replies(&self, _: ReplyQueue, _: Option<&ShortStr>) -> Result<ReplyLink, BrokerError> {
            Err(BrokerError::Closed)
        }

        async fn declare_requests(&self, _: &RequestQueue) -> Result<(), BrokerError> {
            Err(BrokerError::Closed)
        }

        async fn retire_requests(&self, _: &RequestQueue) -> bool {
            false
        }

        async fn open_requests(&self, _: &RequestQueue, _: u16) -> Result<Subscription, BrokerError> {
            Err(BrokerError::Closed)
        }

        fn status(&self) -> &StatusBoard {
            &self.board
        }

        async fn close(&self) {}
    }

    #[async_trait]
    impl Publisher for Notes {
        fn try_publish(&self, outgoing: Outgoing, _: Arc<dyn Receipt>) -> Result<(), Box<Outgoing>> {
            Err(Box::new(outgoing))
        }

        async fn ready(&self) {}

        async fn publish(&self, _outgoing: Outgoing) -> Published {
            self.note("reply sent");
            // Long enough for whatever would not wait for the confirm.
            tokio::task::yield_now().await;
            self.note("reply confirmed");
            self.words.lock().unwrap().remove(0)
        }

        async fn closed(&self) -> BrokerError {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            BrokerError::Lost { source: None }
        }
    }

    #[async_trait]
    impl Control for Notes {
        async fn settle(&self, _tag: u64) -> Result<(), BrokerError> {
            self.note("request settled");
            Ok(())
        }

        async fn settle_up_to(&self, tag: u64) -> Result<(), BrokerError> {
            self.settle(tag).await
        }

        async fn cancel(&self) -> Result<(), BrokerError> {
            Ok(())
        }

        async fn close(&self) {}

        async fn retire(&self) {}
    }

    /// Serves one request that wants an answer, with a broker that says these words of its replies.
    async fn serve(words: Vec<Published>) -> Vec<&'static str> {
        let notes = Notes {
            words: Arc::new(Mutex::new(words)),
            told: Arc::default(),
            board: Arc::new(StatusBoard::new(&Connectivity::Up)),
        };
        let (outlet, keep) = Outlet::new(Arc::new(notes.clone()));
        let _kept = AbortOnDropHandle::new(tokio::spawn(keep));
        let rules = Rules {
            reply_addresses: ReplyAddresses::default(),
            max_accepted_bytes: 100,
            max_sent_bytes: 100,
            max_deliveries: 20,
        };
        let outlet = Arc::new(outlet);
        let (post, emptying) = Post::new(Arc::clone(&outlet));
        let _emptied = AbortOnDropHandle::new(tokio::spawn(emptying));
        let desk = Arc::new(Desk::new(
            "q".into(),
            Dispatcher::default(),
            rules,
            outlet,
            post,
            1,
        ));
        let properties = Properties {
            reply_to: Some(ShortStr::from_static("amq.gen-1")),
            ..Properties::default()
        };
        let delivery = Delivery {
            message: Message {
                properties,
                ..Message::default()
            },
            redelivered: false,
            tag: 1,
        };
        let served = Served::default();
        desk.serve(delivery, Arc::new(notes.clone()), Instant::now(), &served)
            .await;
        served.ends().await;
        notes.told.lock().unwrap().clone()
    }

    fn failed(source: BrokerError) -> Published {
        Published::Failed {
            source,
            written: true,
        }
    }

    const SENT: [&str; 2] = ["reply sent", "reply confirmed"];

    #[tokio::test(start_paused = true)]
    async fn a_request_is_settled_only_after_its_reply_is_confirmed() {
        for word in [Published::Routed, Published::Refused] {
            assert_eq!(
                serve(vec![word]).await,
                [&SENT[..], &["request settled"]].concat()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_may_be_lost_is_sent_again_before_its_request_is_settled() {
        let words = vec![failed(BrokerError::Lost { source: None }), Published::Routed];
        assert_eq!(
            serve(words).await,
            [&SENT[..], &SENT, &["request settled"]].concat()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_whose_reply_may_be_lost_is_not_settled() {
        assert_eq!(serve(vec![failed(BrokerError::Closed)]).await, SENT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_over_which_channels_are_closed_is_replaced_by_a_fault() {
        let closed = || {
            failed(BrokerError::ChannelClosed {
                source: crate::error::Cause::new("PRECONDITION_FAILED"),
            })
        };
        let words = vec![closed(), closed(), Published::Routed];
        let told = [&SENT[..], &SENT, &SENT, &["request settled"]].concat();
        assert_eq!(serve(words).await, told);
    }
}
