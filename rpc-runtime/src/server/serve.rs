//! The way of one request: decide, run, answer, settle.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::debt::{Debt, Owed, Served, Unsettled};
use super::dispatch::{Decision, Dispatcher, NoReplyAddress, Rules, truthful};
use super::outlet::Outlet;
use super::pace::Pace;
use super::post::{DueReply, Post};
use super::runs::{Arrival, Id, Key, Origin, Runs};
use super::service::{Answer, Invocation, Service};
use crate::context::with_ambient_deadline;
use crate::protocol::{Fault, FaultCode, Message, PACKED, Properties, Reply, Request, ShortStr};
use crate::transport::{Control, Delivery};

/// What serving the requests of one queue takes.
pub(super) struct Desk {
    pub(super) queue: String,
    pub(super) dispatcher: Dispatcher,
    pub(super) rules: Rules,
    pub(super) outlet: Arc<Outlet>,
    pub(super) post: Post,
    /// One for each request that may run at once.
    places: Semaphore,
    concurrency: usize,
    runs: Mutex<Runs<Unsettled>>,
    /// Packed requests are served too.
    takes_packed: AtomicBool,
    /// They are not for much longer.
    stops_packed: AtomicBool,
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
            concurrency: concurrency.into(),
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
        let owed = match key(&delivery) {
            Some(key) => {
                let origin = Origin::new(delivery.redelivered, &delivery.message.properties.headers);
                self.take(key, origin, unsettled)
            }
            None => Some(Owed::Apart(unsettled)),
        };
        if let Some(owed) = owed {
            let debt = Debt::of(self, served, owed);
            self.answer(delivery, arrived, debt).await;
        }
    }

    /// Takes on a request, unless it runs here or was answered already.
    pub(super) fn take(&self, key: Key, origin: Origin, unsettled: Unsettled) -> Option<Owed> {
        let arrival = self.runs().arrive(key, origin, unsettled.clone());
        match arrival {
            Arrival::Serve(key) => return Some(Owed::Run(key)),
            Arrival::ServeApart => return Some(Owed::Apart(unsettled)),
            Arrival::Joined => tracing::debug!(queue = self.queue, "a request that runs here came again"),
            Arrival::Answered => {
                tracing::debug!(queue = self.queue, "a request that was answered came again");
                unsettled.settle();
            }
        }
        None
    }

    /// Decides, runs, and has the answer leave.
    async fn answer(&self, delivery: Delivery, arrived: Instant, debt: Debt) {
        // There is one at once, unless requests of a connection that was lost still run.
        let Some(_place) = self.place().await else {
            return;
        };
        let Delivery {
            message, redelivered, ..
        } = delivery;
        let properties = &message.properties;
        let worth_until = properties.expiration.and_then(|time| arrived.checked_add(time));
        let names = Names::of(properties);
        let now = Instant::now();
        let decided = self
            .dispatcher
            .decide(message, redelivered, arrived, now, &self.rules);
        let (reply, wanted, answer_to) = match decided {
            Ok(Decision::Run {
                service,
                invocation,
                pace,
                answer_to,
            }) => {
                let reply = run(service, &invocation).await;
                (reply, self.wanted(pace, now.elapsed()), answer_to)
            }
            Ok(Decision::Refuse {
                reply,
                fault,
                answer_to,
            }) => {
                self.refused(&fault, &names);
                (reply, 0, answer_to)
            }
            Err(no_address) => {
                dropped(&no_address);
                return debt.pay();
            }
        };
        match answer_to {
            Some(to) => self.post.post(DueReply {
                to,
                reply: self.fit(reply),
                wanted,
                worth_until,
                in_a_row: self.answers_in_a_row(&debt),
                debt,
                is_suspect: false,
            }),
            None => debt.pay(),
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

    /// How many calls of a method are wanted in one message, now that its handler took this long; zero says nothing.
    pub(super) fn wanted(&self, pace: Option<&Pace>, took: Duration) -> u16 {
        match pace {
            Some(_) if self.stops_packed.load(Ordering::Relaxed) => 1,
            Some(pace) if self.takes_packed.load(Ordering::Relaxed) => {
                pace.ran(took);
                pace.wanted().unwrap_or(0)
            }
            _ => 0,
        }
    }

    pub(super) fn refused(&self, fault: &Fault, names: &Names) {
        let (queue, code) = (&self.queue, &fault.code);
        let (method, correlation_id) = (names.method(), names.correlation_id());
        tracing::warn!(queue, %code, method, correlation_id, "refused a request");
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

/// Tells of requests that are dropped.
pub(super) fn dropped(NoReplyAddress(address): &NoReplyAddress) {
    tracing::warn!(%address, "dropped a request: its reply_to is not a reply address, see ReplyAddresses");
}

/// What logs call a request by.
pub(super) struct Names {
    pub(super) method: Option<ShortStr>,
    pub(super) correlation_id: Option<ShortStr>,
}

impl Names {
    fn of(properties: &Properties) -> Self {
        Self {
            method: properties.kind.clone(),
            correlation_id: properties.correlation_id.clone(),
        }
    }

    pub(super) fn of_packed(request: &Request) -> Self {
        Self {
            method: request.method.clone(),
            correlation_id: request.correlation_id.clone(),
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
    let id = Id::from(properties.correlation_id.as_ref()?);
    Some(Key::new(properties.reply_to.clone(), id))
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
    use crate::error::BrokerError;
    use crate::protocol::{Message, Properties, ReplyAddresses};
    use crate::status::{Connectivity, StatusBoard};
    use crate::transport::{
        Outgoing, Published, Publisher, Receipt, ReplyLink, ReplyQueue, RequestQueue, Subscription, Transport,
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
        fn try_publish(
            &self,
            outgoing: Outgoing,
            _: Arc<dyn Receipt>,
            _: usize,
        ) -> Result<(), Box<Outgoing>> {
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
        fn settle(&self, _tag: u64) {
            self.note("request settled");
        }

        fn settle_up_to(&self, tag: u64) {
            self.settle(tag);
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
