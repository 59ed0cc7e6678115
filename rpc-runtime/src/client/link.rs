//! The link to the broker that all calls of one handle share: one reply address, one consumer, one publisher. Whatever of
//! it is lost is opened again.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::fate::Position;
use super::options::CallerOptions;
use super::outbox::{Outbox, SENDING};
use super::pending::Pending;
use crate::codec::Codec;
use crate::error::{BrokerError, Chain};
use crate::escape::Logged;
use crate::protocol::{
    BATCH_HEADER, BATCH_TYPE, BatchedAnswer, Malformed, Message, ShortStr, content, read_batch,
};
use crate::sync::watch;
use crate::transport::{
    Backoff, Delivery, Panicked, Publisher, ReplyLink, ReplyQueue, Subscription, Transport, caught,
};

/// What calls need: how requests leave, and where their replies go.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) outbox: Outbox,
    pub(super) position: Position,
}

/// The link's state, as calls see it.
#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) phase: Phase,
    /// Where replies come in, or came in last.
    pub(super) position: Position,
    /// What ended the last link.
    pub(super) lost: Option<BrokerError>,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// It is being opened, for as long as that takes.
    Opening,
    Ready(Arc<Link>),
    /// The broker does not let it be opened. It is tried again, but calls need not wait for that.
    Refused(BrokerError),
    /// For good.
    Closed,
}

impl Phase {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl LinkState {
    pub(super) fn opening() -> Self {
        Self {
            phase: Phase::Opening,
            position: Position::default(),
            lost: None,
        }
    }
}

/// Opens the link, hands replies to their calls, opens again what is lost, and closes it at shutdown.
///
/// This task alone owns the reply consumer; calls see the link through `state`. Should the task panic, the link is opened again; should it be
/// dropped with its runtime, calls are told.
pub(super) async fn run(
    transport: Arc<dyn Transport>,
    options: Arc<CallerOptions>,
    pending: Arc<Pending>,
    state: watch::Sender<LinkState>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    let mut keeper = Keeper {
        transport,
        kind: options.replies,
        options,
        pending,
        state,
        inlet: None,
        earlier: None,
        publisher: None,
        sending: None,
        tasks,
        is_over: false,
    };
    shutdown.run_until_cancelled(keeper.keep_through_panics()).await;
    keeper.is_over = true;
    keeper.tell(|state| state.phase = Phase::Closed);
    if let Some(inlet) = keeper.inlet.take() {
        inlet.control.retire().await;
    }
    tracing::debug!("reply link closed");
}

/// The two halves of the link, which can be lost one by one.
struct Keeper {
    transport: Arc<dyn Transport>,
    kind: ReplyQueue,
    options: Arc<CallerOptions>,
    pending: Arc<Pending>,
    state: watch::Sender<LinkState>,
    inlet: Option<Subscription>,
    /// The address that the inlet consumes from, or that the last one did.
    earlier: Option<ShortStr>,
    publisher: Option<Arc<dyn Publisher>>,
    /// The task that empties the outbox.
    sending: Option<JoinHandle<Result<(), Panicked>>>,
    tasks: TaskTracker,
    /// Calls were told, or are about to be.
    is_over: bool,
}

impl Drop for Keeper {
    /// Its runtime has ended: calls that wait in another one are told.
    fn drop(&mut self) {
        if !self.is_over {
            self.transport.status().runtime_ended();
            self.tell(|state| state.phase = Phase::Closed);
        }
    }
}

/// How long replies that waited at the address are handed out before calls are told that it is there again.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);

impl Keeper {
    /// Changes the state, and has the calls in flight look at it.
    fn tell(&self, change: impl FnOnce(&mut LinkState)) {
        self.state.send_modify(change);
        self.pending.link_moved();
    }

    /// Keeps the link for ever. After a panic all of it is opened anew: what it had in hand may be lost.
    async fn keep_through_panics(&mut self) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            let since = Instant::now();
            let Err(panicked) = caught("reply link", self.keep()).await;
            self.state.send_modify(|state| {
                state.phase = Phase::Opening;
                state.lost = Some(panicked.into());
            });
            self.lose_inlet().await;
            self.publisher = None;
            self.sending = None;
            backoff.worked_for(since.elapsed());
            backoff.wait().await;
        }
    }

    async fn keep(&mut self) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            let lost = match self.open().await {
                Ok(()) => {
                    let since = Instant::now();
                    let reason = self.serve().await;
                    tracing::debug!(error = %Logged(Chain(&reason)), "reply link lost");
                    self.state.send_modify(|state| {
                        state.phase = Phase::Opening;
                        state.lost = Some(reason.clone());
                    });
                    backoff.worked_for(since.elapsed());
                    reason
                }
                Err(refused @ (BrokerError::Queue { .. } | BrokerError::TooManyChannels { .. })) => {
                    tracing::warn!(error = %Logged(Chain(&refused)), "no reply link");
                    self.state
                        .send_modify(|state| state.phase = Phase::Refused(refused.clone()));
                    refused
                }
                Err(error) => {
                    tracing::debug!(error = %Logged(Chain(&error)), "no reply link yet");
                    self.state.send_modify(|state| state.phase = Phase::Opening);
                    error
                }
            };
            self.while_routing(backoff.wait_after(&lost)).await;
        }
    }

    /// Opens what is missing, and tells the calls.
    async fn open(&mut self) -> Result<(), BrokerError> {
        if self.inlet.is_none() {
            self.open_inlet().await?;
        }
        if self.publisher.is_none() {
            let transport = Arc::clone(&self.transport);
            let opened = self.while_routing(async move { transport.open_publisher().await });
            self.publisher = Some(opened.await?);
        }
        // Each half may have been lost while the other one was opened.
        if let Some(publisher) = &self.publisher
            && let Some(reason) = publisher.closed().now_or_never()
        {
            self.publisher = None;
            return Err(reason);
        }
        if let (Some(_), Some(reply_to), Some(publisher)) = (&self.inlet, &self.earlier, &self.publisher) {
            let (publisher, options) = (Arc::clone(publisher), Arc::clone(&self.options));
            let (outbox, emptying) =
                Outbox::new(publisher, reply_to.clone(), options, Arc::clone(&self.pending));
            let emptying = caught(SENDING, emptying);
            self.sending = Some(self.tasks.spawn_on(emptying, &self.transport.runtime()));
            self.state.send_modify(|state| {
                state.phase = Phase::Ready(Arc::new(Link {
                    outbox,
                    position: state.position,
                }));
            });
        }
        Ok(())
    }

    async fn open_inlet(&mut self) -> Result<(), BrokerError> {
        let ReplyLink {
            address,
            replies,
            resumed,
            publisher,
        } = self
            .transport
            .open_replies(self.kind, self.earlier.as_ref())
            .await?;
        self.inlet = Some(replies);
        self.earlier = Some(address);
        if publisher.is_some() {
            self.publisher = publisher;
        }
        if let Some(waiting) = resumed {
            // Who is answered already need not be sent again.
            let _ = timeout(CATCH_UP_LIMIT, self.catch_up(waiting)).await;
        }
        self.tell(|state| {
            state.position.consumer += 1;
            state.position.address += u64::from(resumed.is_none());
        });
        Ok(())
    }

    /// Hands out so many replies.
    async fn catch_up(&mut self, waiting: u32) {
        let mut routed = 0;
        while routed < waiting
            && let Some(inlet) = &mut self.inlet
        {
            let next = inlet.deliveries.next().await;
            match route_burst(next, inlet, &self.pending).await {
                Ok(replies) => routed = routed.saturating_add(replies),
                Err(_) => return self.lose_inlet().await,
            }
        }
    }

    /// Hands replies to their calls until a half of the link is lost, and says why.
    async fn serve(&mut self) -> BrokerError {
        let Some(publisher) = self.publisher.clone() else {
            return BrokerError::Lost { source: None };
        };
        let mut closed = pin!(publisher.closed());
        loop {
            let (Some(inlet), Some(sending)) = (&mut self.inlet, &mut self.sending) else {
                return BrokerError::Lost { source: None };
            };
            tokio::select! {
                biased;
                ended = sending => {
                    self.sending = None;
                    return why_ended(ended);
                }
                reason = &mut closed => {
                    self.publisher = None;
                    if self.kind == ReplyQueue::Direct {
                        self.lose_inlet().await;
                    }
                    return reason;
                }
                next = inlet.deliveries.next() => {
                    if let Err(reason) = route_burst(next, inlet, &self.pending).await {
                        self.lose_inlet().await;
                        return reason;
                    }
                }
            }
        }
    }

    /// Waits for something, and hands replies that come meanwhile to their calls.
    async fn while_routing<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        while let Some(inlet) = &mut self.inlet {
            tokio::select! {
                biased;
                done = &mut what => return done,
                next = inlet.deliveries.next() => {
                    if route_burst(next, inlet, &self.pending).await.is_err() {
                        self.lose_inlet().await;
                    }
                }
            }
        }
        what.await
    }

    /// No reply comes in any more. Those on the way to an address that ends with its consumer are lost.
    async fn lose_inlet(&mut self) {
        let Some(inlet) = self.inlet.take() else { return };
        match self.kind {
            ReplyQueue::Resumable => inlet.control.close().await,
            ReplyQueue::Exclusive | ReplyQueue::Direct => {
                self.tell(|state| {
                    state.phase = Phase::Opening;
                    state.position.address += 1;
                });
                inlet.control.retire().await;
            }
        }
        if self.kind == ReplyQueue::Direct {
            self.publisher = None;
        }
    }
}

/// Why requests leave no more. The task ends by itself only with the link's outbox, which the state has.
fn why_ended(sending: Result<Result<(), Panicked>, JoinError>) -> BrokerError {
    match sending {
        Ok(Err(panicked)) => panicked.into(),
        Ok(Ok(())) | Err(_) => BrokerError::Lost { source: None },
    }
}

/// How many replies are settled together at the most.
const BURST: u32 = 256;

/// Hands on a reply and those that are here already, and settles them together. Answers with their number.
///
/// # Errors
///
/// Why no more will come.
async fn route_burst(
    first: Option<Result<Delivery, BrokerError>>,
    inlet: &mut Subscription,
    pending: &Pending,
) -> Result<u32, BrokerError> {
    // The broker cancels a consumer whose queue is gone.
    let ended = || BrokerError::Lost { source: None };
    let mut last = route(pending, first.ok_or_else(ended)??);
    let mut routed = 1;
    while routed < BURST
        && let Some(next) = inlet.deliveries.next().now_or_never()
    {
        last = route(pending, next.ok_or_else(ended)??);
        routed += 1;
    }
    inlet.control.settle_up_to(last);
    Ok(routed)
}

/// Hands a reply to the call that waits for it, or those in it to theirs, and returns its tag.
fn route(pending: &Pending, delivery: Delivery) -> u64 {
    let message = delivery.message;
    // A foreign worker may answer a method of that name with the type of its request.
    let is_batched = message.properties.correlation_id.is_none()
        && message
            .properties
            .kind
            .as_ref()
            .is_some_and(|kind| kind.as_str() == BATCH_TYPE);
    let discarded = match (delivery.malformed, is_batched) {
        (Some(malformed), _) => route_malformed(pending, &message, malformed, is_batched),
        (None, true) => route_batched(pending, &message),
        (None, false) => usize::from(!route_alone(pending, message)),
    };
    if discarded > 0 {
        pending.discarded(discarded);
    }
    delivery.tag
}

fn route_alone(pending: &Pending, message: Message) -> bool {
    let wanted = message
        .properties
        .headers
        .get(BATCH_HEADER)
        .and_then(|wanted| wanted.parse().ok());
    match call_id(&message) {
        Some(id) => pending.complete(id, message, wanted),
        None => false,
    }
}

/// Fails the calls that a malformed reply answers. Returns how many replies nobody waits for.
pub(super) fn route_malformed(
    pending: &Pending,
    message: &Message,
    malformed: Malformed,
    is_batched: bool,
) -> usize {
    pending.malformed(malformed);
    let ids: Vec<_> = match is_batched {
        true => match read_batch::<BatchedAnswer>(&message.body) {
            Ok(answers) => answers.into_iter().map(|answer| answer.id).collect(),
            Err(_) => return 1,
        },
        false => match call_id(message) {
            Some(id) => vec![id],
            None => return 1,
        },
    };
    ids.into_iter().filter(|id| !pending.fail(*id, malformed)).count()
}

/// The id of the call that a reply answers.
fn call_id(message: &Message) -> Option<Uuid> {
    let id = message.properties.correlation_id.as_ref()?;
    Uuid::parse_str(id.as_str()).ok()
}

/// Answers with how many replies nobody waits for; one, where they cannot be read.
fn route_batched(pending: &Pending, message: &Message) -> usize {
    let answers = read_batch::<BatchedAnswer>(&message.body);
    match (content::codec(&message.properties), answers) {
        (Ok(codec), Ok(answers)) => pending.complete_all(answers, codec.unwrap_or(Codec::Text)),
        _ => 1,
    }
}
