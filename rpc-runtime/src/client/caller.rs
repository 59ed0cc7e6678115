//! The way of one call: from its plan to its reply.

use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::destination::Destination;
use super::fate::{self, Fate, confirmed, unconfirmed};
use super::link::{self, Link, LinkState, Phase};
use super::options::CallerOptions;
use super::outbox::{Parcel, Untold};
use super::pending::Pending;
use super::plan::CallPlan;
use super::progress::{Progress, Setback};
use super::slot::{Arrived, News, Slot};
use super::time_limit::TimeLimit;
use crate::codec::Codec;
use crate::error::{BrokerError, CallError, Cause};
use crate::protocol::{Executed, Fault, FaultCode, Reply, ReplyKind, ShortStr};
use crate::sync::watch;
use crate::transport::{Published, Transport};

/// How long closing waits for the link to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// How long a call that [waits for its server](CallPlan::wait_for_server) rests before it looks again.
const SERVER_PAUSE: Duration = Duration::from_millis(100);

/// Makes the calls of all clients of one broker handle.
///
/// The link is opened by the first call: a handle that only serves declares no reply queue. It ends with
/// [`close`](Self::close), or with the last of the handle's clones and clients.
#[derive(Debug)]
pub(crate) struct Caller {
    transport: Arc<dyn Transport>,
    options: Arc<CallerOptions>,
    pending: Arc<Pending>,
    link: OnceLock<watch::Receiver<LinkState>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    _shuts_down: DropGuard,
}

/// What a call that goes on does next.
enum Next {
    /// It waits for more news.
    Wait,
    /// The request is to be sent, by another link if this one is over.
    Send { link_is_over: bool },
    /// The request is in no queue, as far as is known: it is to be found out what that means.
    FindOut(Box<Published>),
}

/// How a call goes on, or its outcome.
type Step = ControlFlow<Result<Reply, CallError>, Next>;

impl Caller {
    pub(crate) fn new(transport: Arc<dyn Transport>, options: CallerOptions) -> Self {
        let shutdown = CancellationToken::new();
        Self {
            transport,
            options: Arc::new(options),
            pending: Arc::default(),
            link: OnceLock::new(),
            tasks: TaskTracker::new(),
            _shuts_down: shutdown.clone().drop_guard(),
            shutdown,
        }
    }

    /// Fails all calls, and all that would come, and closes the link. Takes some seconds at the most.
    pub(crate) async fn close(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("the reply link did not end in time");
        }
    }

    /// The application and the user that requests carry.
    pub(crate) fn names(&self) -> (Option<ShortStr>, Option<ShortStr>) {
        let CallerOptions { app_id, user_id, .. } = &*self.options;
        (app_id.clone(), user_id.clone())
    }

    /// How many calls wait for a reply.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Makes a call and waits for its reply, within its time.
    ///
    /// All that a call seldom needs is in a box of its own, so that it takes no memory in the others.
    // Not an `async fn`, which would keep what it is given twice.
    #[allow(clippy::manual_async_fn)]
    pub(super) fn call(
        self: Arc<Self>,
        slot: Arc<Slot>,
        time: TimeLimit,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + 'static {
        async move {
            let limiter = &slot.plan().destination.limiter;
            let priority = slot.plan().priority.unwrap_or(0);
            let place = match limiter.try_enter(priority) {
                Some(place) => place,
                None => limiter.enter_by(time, priority).await?,
            };
            // In this future, and not in one of its own, which would keep the time limit twice.
            let outcome = 'call: {
                let (size, limit) = (slot.plan().arguments.0.len(), self.options.max_sent_bytes);
                if size > limit {
                    break 'call Err(CallError::TooLarge { size, limit });
                }
                let mut sleep = pin!(sleep_until(time.deadline));
                let mut progress = Progress::new(self.pending.enter(&slot));
                let mut over = None;
                loop {
                    // Before it is looked where the link is, which may move.
                    if let Some(reply) = slot.begin() {
                        break 'call self.read(reply, &progress);
                    }
                    let link = match self.ready_link(over.as_ref()) {
                        Some(link) => link,
                        None => match self
                            .link(over.as_ref(), &mut progress, time.limit, sleep.as_mut())
                            .await
                        {
                            ControlFlow::Continue(link) => link,
                            ControlFlow::Break(outcome) => break 'call outcome,
                        },
                    };
                    let parcel = Parcel {
                        is_resent: progress.was_written,
                        slot: Untold::new(&slot, progress.begin()),
                        deadline: sleep.deadline(),
                    };
                    link.outbox
                        .post(parcel, std::mem::take(&mut progress.ticket.is_by_itself));
                    let mut is_confirmed = false;
                    let link_is_over = loop {
                        let next = {
                            let Some(news) = slot.news(sleep.as_mut()).await else {
                                break 'call Err(self.timed_out(time.limit, &progress));
                            };
                            progress.ticket.is_answered |= matches!(news, News::Reply(_));
                            match self.step(news, &link, slot.plan(), &mut progress, &mut is_confirmed) {
                                Step::Break(outcome) => break 'call outcome,
                                Step::Continue(next) => next,
                            }
                        };
                        let published = match next {
                            Next::Wait => continue,
                            Next::Send { link_is_over } => break link_is_over,
                            Next::FindOut(published) => published,
                        };
                        match self
                            .find_out(published, &mut progress, time.limit, sleep.as_mut())
                            .await
                        {
                            ControlFlow::Break(outcome) => break 'call outcome,
                            ControlFlow::Continue(link_is_over) => break link_is_over,
                        }
                    };
                    over = link_is_over.then_some(link);
                }
            };
            if !slot.plan().method.is_oneway {
                place.ended(&outcome, time);
            }
            outcome
        }
    }

    fn timed_out(&self, limit: Duration, progress: &Progress<'_>) -> CallError {
        let slot = progress.ticket.slot;
        let has_left = progress.withdraw();
        slot.unanswered(has_left);
        let queue = &slot.plan().destination.queue;
        let executed = match (has_left, progress.setback) {
            (_, Some(Setback::Refused)) => return refused(queue),
            (false, Some(Setback::NoServer)) => return no_server(queue),
            (true, _) => Executed::Maybe,
            (false, None) => Executed::No,
        };
        CallError::TimedOut {
            limit,
            executed,
            source: self.obstacle(),
        }
    }

    /// What a piece of news means for a call whose request was sent by this link.
    fn step(
        &self,
        news: News,
        link: &Link,
        plan: &CallPlan,
        progress: &mut Progress<'_>,
        is_confirmed: &mut bool,
    ) -> Step {
        match news {
            News::Reply(reply) => return Step::Break(self.read(reply, progress)),
            News::Routed if plan.method.is_oneway => return Step::Break(nothing(plan.codec)),
            News::Routed => {
                *is_confirmed = true;
                progress.was_written = true;
                progress.setback = None;
            }
            News::NotRouted(published) => return Step::Continue(Next::FindOut(published)),
            News::Unbatched => {
                progress.request = None;
                return Step::Continue(Next::Send { link_is_over: false });
            }
            News::LinkMoved => {}
        }
        let state = self.link_state().borrow();
        if state.phase.is_closed() {
            return Step::Break(Err(lost(self.why_over(), progress.withdraw())));
        }
        if !*is_confirmed {
            return Step::Continue(Next::Wait);
        }
        match confirmed(plan.method.is_idempotent, link.position, state.position) {
            Fate::Wait => Step::Continue(Next::Wait),
            Fate::Send => Step::Continue(Next::Send { link_is_over: true }),
            Fate::End => {
                let reason = state.lost.clone();
                let reason = reason.unwrap_or(BrokerError::Lost { source: None });
                Step::Break(Err(lost(reason, true)))
            }
        }
    }

    /// What becomes of a call whose request is in no queue, as far as is known: whether it is to be sent by another link, or its
    /// outcome.
    fn find_out<'a>(
        &'a self,
        published: Box<Published>,
        progress: &'a mut Progress<'_>,
        limit: Duration,
        time: Pin<&'a mut Sleep>,
    ) -> BoxFuture<'a, ControlFlow<Result<Reply, CallError>, bool>> {
        Box::pin(async move {
            progress.request = None;
            let slot = progress.ticket.slot;
            let plan = slot.plan();
            let queue = &plan.destination.queue;
            let is_idempotent = plan.method.is_idempotent;
            let is_over = match *published {
                Published::Returned if plan.wait_for_server || (progress.was_written && is_idempotent) => {
                    progress.setback = Some(Setback::NoServer);
                    tokio::select! {
                        biased;
                        // To a request that was sent before.
                        reply = slot.reply(time) => {
                            return ControlFlow::Break(self.read_in_time(reply, limit, progress));
                        }
                        () = tokio::time::sleep(SERVER_PAUSE) => false,
                    }
                }
                Published::Returned => {
                    return ControlFlow::Break(Err(match progress.was_written {
                        true => lost(queue_is_gone(queue), true),
                        false => no_server(queue),
                    }));
                }
                Published::Refused => {
                    let is_first = !progress.was_written;
                    progress.was_written = true;
                    if fate::refused(is_idempotent) == Fate::End {
                        return ControlFlow::Break(Err(refused(queue)));
                    }
                    progress.setback = Some(Setback::Refused);
                    tokio::select! {
                        biased;
                        // A queue that failed may have delivered it all the same.
                        reply = slot.reply(time) => {
                            return ControlFlow::Break(self.read_in_time(reply, limit, progress));
                        }
                        is_gone = self.is_gone(&plan.destination), if is_first && !plan.wait_for_server => {
                            if is_gone {
                                return ControlFlow::Break(Err(refused(queue)));
                            }
                            false
                        }
                        () = progress.troubles().backoff.wait(), if !is_first || plan.wait_for_server => false,
                    }
                }
                Published::Failed { source, written } => {
                    let source = self.transport.status().over().unwrap_or(source);
                    progress.was_written |= written;
                    if written && matches!(source, BrokerError::ChannelClosed { .. }) {
                        progress.troubles().channels_lost += 1;
                    }
                    let troubles = progress.troubles.as_ref();
                    let channels_lost = troubles.map_or(0, |troubles| troubles.channels_lost);
                    let is_final =
                        source.is_of_ended_handle() || matches!(source, BrokerError::Unsendable { .. });
                    match unconfirmed(is_idempotent, written, channels_lost) {
                        Fate::Send | Fate::Wait if !is_final => true,
                        _ => return ControlFlow::Break(Err(lost(source, progress.was_written))),
                    }
                }
                // Nobody but the call itself withdraws its request, and then it is gone; and what was routed is so.
                Published::Withdrawn | Published::Routed => false,
            };
            ControlFlow::Continue(is_over)
        })
    }

    /// Whether a queue that refuses a request is not there: RabbitMQ 4 refuses what is sent to a
    /// classic queue whose node is down. Otherwise it is full, or will take requests again soon.
    async fn is_gone(&self, destination: &Destination) -> bool {
        let look = destination.presence.look(|| {
            let (transport, queue) = (Arc::clone(&self.transport), destination.queue.clone());
            async move { transport.is_there(&queue).await }.boxed()
        });
        look.await == Some(false)
    }

    fn read_in_time(
        &self,
        reply: Option<Arrived>,
        limit: Duration,
        progress: &Progress<'_>,
    ) -> Result<Reply, CallError> {
        match reply {
            Some(reply) => self.read(reply, progress),
            None => Err(self.timed_out(limit, progress)),
        }
    }

    fn read(&self, reply: Arrived, progress: &Progress<'_>) -> Result<Reply, CallError> {
        let reply = reply.map_err(unreadable)?;
        let (size, limit) = (reply.body.len(), self.options.max_accepted_bytes);
        match size > limit {
            true => Err(unreadable(format!(
                "it has {size} bytes, and at most {limit} are accepted"
            ))),
            false if progress.is_resent && reply.kind == ReplyKind::Fault => Ok(of_several(reply)),
            false => Ok(reply),
        }
    }

    /// The link, if it is there, and another than that which is over.
    fn ready_link(&self, over: Option<&Arc<Link>>) -> Option<Arc<Link>> {
        match &self.link_state().borrow().phase {
            Phase::Ready(link) if over.is_none_or(|over| !Arc::ptr_eq(link, over)) => Some(Arc::clone(link)),
            _ => None,
        }
    }

    /// The link, once it is there; another one than that which is over. Or the call's outcome, where its time is up before, or the reply to
    /// an earlier request comes.
    fn link<'a>(
        &'a self,
        over: Option<&'a Arc<Link>>,
        progress: &'a mut Progress<'_>,
        limit: Duration,
        time: Pin<&'a mut Sleep>,
    ) -> BoxFuture<'a, ControlFlow<Result<Reply, CallError>, Arc<Link>>> {
        Box::pin(async move {
            let mut state = self.link_state().clone();
            let settled = state.wait_for(|state| match &state.phase {
                Phase::Opening => false,
                Phase::Ready(link) => over.is_none_or(|over| !Arc::ptr_eq(link, over)),
                Phase::Refused(_) | Phase::Closed => true,
            });
            let settled = tokio::select! {
                biased;
                reply = progress.ticket.slot.reply(time) => {
                    progress.ticket.is_answered |= reply.is_some();
                    return ControlFlow::Break(self.read_in_time(reply, limit, progress));
                }
                settled = settled => settled,
            };
            let reason = match settled.as_deref() {
                Ok(LinkState {
                    phase: Phase::Ready(link),
                    ..
                }) => return ControlFlow::Continue(Arc::clone(link)),
                Ok(LinkState {
                    phase: Phase::Refused(reason),
                    ..
                }) => reason.clone(),
                // The task that keeps the link has ended, with its runtime if not with the handle.
                _ => self.why_over(),
            };
            ControlFlow::Break(Err(lost(reason, progress.was_written)))
        })
    }

    /// Why the handle is over.
    fn why_over(&self) -> BrokerError {
        self.transport.status().why_over()
    }

    /// What keeps calls from being answered, as far as it is known.
    fn obstacle(&self) -> Option<BrokerError> {
        let of_transport = self.transport.status().status().obstacle();
        of_transport.or_else(|| {
            let state = self.link_state().borrow();
            match state.phase {
                Phase::Opening => state.lost.clone(),
                _ => None,
            }
        })
    }

    /// The state of the link, which the first who asks has opened: on the handle's own runtime, whoever that is.
    fn link_state(&self) -> &watch::Receiver<LinkState> {
        self.link.get_or_init(|| {
            let (sender, receiver) = watch::channel(LinkState::opening());
            let running = link::run(
                Arc::clone(&self.transport),
                Arc::clone(&self.options),
                Arc::clone(&self.pending),
                sender,
                self.shutdown.clone(),
                self.tasks.clone(),
            );
            self.tasks.spawn_on(running, &self.transport.runtime());
            receiver
        })
    }
}

/// The fault that answers one of several requests of a call. A worker that refuses a request does
/// not know of the others, which may have run or may run yet: its fault must not say that the
/// method did not run.
fn of_several(reply: Reply) -> Reply {
    let fault = reply.read_fault();
    if fault.code.executed() != Executed::No {
        return reply;
    }
    let message =
        format!("the request was sent several times and may have run; one of them was refused: {fault}");
    Reply::fault(
        reply.codec,
        &Fault {
            retry_after: fault.retry_after,
            ..Fault::new(FaultCode::Interrupted, message)
        },
    )
}

/// The answer to a one-way call.
fn nothing(codec: Codec) -> Result<Reply, CallError> {
    let body = codec.encode(&()).map_err(CallError::Encode)?;
    Ok(Reply::new(ReplyKind::Result, codec, body))
}

/// A reply of which cannot even be told whether the method ran.
fn unreadable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CallError {
    CallError::BadReply {
        source: source.into(),
        executed: Executed::Maybe,
    }
}

fn refused(queue: &ShortStr) -> CallError {
    CallError::Refused {
        queue: queue.to_string(),
    }
}

fn no_server(queue: &ShortStr) -> CallError {
    CallError::NoServer {
        queue: queue.to_string(),
    }
}

/// An earlier request found the queue, so its method may have run.
fn queue_is_gone(queue: &ShortStr) -> BrokerError {
    BrokerError::Queue {
        queue: queue.to_string(),
        source: Cause::new("it does not exist any more"),
    }
}

/// The way to the broker was lost.
fn lost(source: BrokerError, was_written: bool) -> CallError {
    let executed = match was_written {
        true => Executed::Maybe,
        false => Executed::No,
    };
    CallError::Broker { source, executed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_one_of_several_requests_does_not_say_that_the_method_did_not_run() {
        let codes = FaultCode::KNOWN.into_iter();
        for code in codes.chain([FaultCode::Other("teapot".into())]) {
            let fault = Fault::new(code.clone(), "no").with_retry_after(Duration::from_millis(70));
            for codec in [Codec::MessagePack, Codec::Json, Codec::Text] {
                let told = of_several(Reply::fault(codec, &fault)).read_fault();
                if code.executed() != Executed::No {
                    assert_eq!(told, fault);
                    continue;
                }
                assert_eq!(told.code, FaultCode::Interrupted, "{code}");
                assert_eq!(told.retry_after, fault.retry_after);
                assert!(told.message.ends_with(&fault.to_string()), "{told}");
            }
        }
    }
}
