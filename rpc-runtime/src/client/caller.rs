//! The way of one call: from its plan to its reply.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::destination::Destination;
use super::fate::{self, Fate, confirmed, unconfirmed};
use super::limiter::Limiter;
use super::link::{self, Link, LinkState, Phase};
use super::outbox::Parcel;
use super::pending::{Arrived, News, Pending, Ticket};
use crate::call::Arguments;
use crate::codec::Codec;
use crate::context::ambient_deadline;
use crate::describe::MethodDescriptor;
use crate::error::{BrokerError, CallError, Cause, Executed};
use crate::headers::Headers;
use crate::protocol::{MAX_TIME_TO_LIVE, Reply, ReplyKind, ShortStr};
use crate::sync::watch;
use crate::transport::{Backoff, Departure, Published, ReplyQueue, Transport};

/// A call that is ready to be made.
#[derive(Debug, Clone)]
pub(crate) struct CallPlan {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) destination: Arc<Destination>,
    pub(crate) codec: Codec,
    pub(crate) arguments: Arguments,
    pub(crate) timeout: Duration,
    pub(crate) headers: Headers,
    pub(crate) priority: Option<u8>,
    /// Whether it is called again while there is no queue of that name.
    pub(crate) wait_for_server: bool,
    pub(crate) limiter: Arc<Limiter>,
}

/// When a call that begins now has to end.
pub(super) struct TimeLimit {
    pub(super) limit: Duration,
    pub(super) deadline: Instant,
}

impl CallPlan {
    /// The call's own limit, or what is left to the handler that makes it.
    ///
    /// # Errors
    ///
    /// Where there is no time at all.
    pub(super) fn time_limit(&self) -> Result<TimeLimit, CallError> {
        let begun = Instant::now();
        let inherited = ambient_deadline().map(|deadline| deadline.saturating_duration_since(begun));
        // A request can live no longer on the wire, so neither can a call wait for ever.
        let limit = self
            .timeout
            .min(inherited.unwrap_or(MAX_TIME_TO_LIVE))
            .min(MAX_TIME_TO_LIVE);
        match limit.is_zero() {
            true => Err(CallError::TimedOut {
                limit,
                executed: Executed::No,
                source: None,
            }),
            false => Ok(TimeLimit {
                limit,
                deadline: begun + limit,
            }),
        }
    }
}

/// What a broker handle sets for all calls made through it.
#[derive(Debug, Clone)]
pub(crate) struct CallerOptions {
    pub(crate) replies: ReplyQueue,
    pub(crate) max_sent_bytes: usize,
    pub(crate) max_accepted_bytes: usize,
    pub(crate) app_id: Option<ShortStr>,
    pub(crate) user_id: Option<ShortStr>,
}

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

/// How far a call has come, for when its time is up.
#[derive(Debug, Default)]
struct Progress {
    /// The current request's.
    departure: Departure,
    /// An earlier request may have reached a worker.
    was_written: bool,
    /// How often the broker closed a channel over what was sent.
    channels_lost: u32,
    /// The broker knows no such queue.
    is_without_server: Option<ShortStr>,
    /// The broker did not take the last request.
    is_refused: Option<ShortStr>,
    /// How long a request that it did not take rests before it is sent again.
    backoff: Option<Backoff>,
}

/// What an attempt led to.
enum Attempt {
    Ended(Result<Reply, CallError>),
    /// The request is to be sent, by another link if this one is over.
    Again {
        link_is_over: bool,
    },
}

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

    /// How many calls wait for a reply.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Makes a call and waits for its reply, within its time.
    pub(super) async fn call(&self, plan: Box<CallPlan>, time: TimeLimit) -> Result<Reply, CallError> {
        let TimeLimit { limit, deadline } = time;
        let (size, max_size) = (plan.arguments.0.len(), self.options.max_sent_bytes);
        if size > max_size {
            return Err(CallError::TooLarge {
                size,
                limit: max_size,
            });
        }
        let mut ticket = self.pending.enter(plan);
        let mut progress = Progress::default();
        match timeout_at(deadline, self.attempts(&mut ticket, deadline, &mut progress)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                ticket.slot().unanswered();
                Err(self.timed_out(limit, &progress))
            }
        }
    }

    fn timed_out(&self, limit: Duration, progress: &Progress) -> CallError {
        let left = !progress.departure.withdraw();
        if let Some(queue) = &progress.is_refused {
            return refused(queue);
        }
        match (left || progress.was_written, &progress.is_without_server) {
            (true, _) => CallError::TimedOut {
                limit,
                executed: Executed::Maybe,
                source: self.transport.status().status().obstacle(),
            },
            (false, Some(queue)) => no_server(queue),
            (false, None) => CallError::TimedOut {
                limit,
                executed: Executed::No,
                source: self.transport.status().status().obstacle(),
            },
        }
    }

    /// Sends the request as often as its fate has it, and waits for the reply.
    async fn attempts(
        &self,
        ticket: &mut Ticket,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<Reply, CallError> {
        let mut over = None;
        loop {
            ticket.begin();
            let link = self.link(over.as_ref(), progress.was_written).await?;
            match self.attempt(deadline, &link, ticket, progress).await {
                Attempt::Ended(outcome) => return outcome,
                Attempt::Again { link_is_over } => over = link_is_over.then_some(link),
            }
        }
    }

    /// Sends the request and waits for the reply, or for the link to end. Dropped before the request has left, it withdraws
    /// it.
    async fn attempt(
        &self,
        deadline: Instant,
        link: &Link,
        ticket: &mut Ticket,
        progress: &mut Progress,
    ) -> Attempt {
        progress.departure = Departure::default();
        let _withdrawn_if_dropped = WithdrawOnDrop(progress.departure.clone());
        link.outbox.post(Parcel {
            slot: Arc::clone(ticket.slot()),
            deadline,
            is_resent: progress.was_written,
            departure: progress.departure.clone(),
        });
        let (codec, method) = {
            let plan = ticket.slot().plan();
            (plan.codec, plan.method)
        };
        let mut is_confirmed = false;
        loop {
            match ticket.news().await {
                News::Reply(reply) => return Attempt::Ended(self.read(reply, codec)),
                News::Published(Published::Routed) if method.is_oneway => {
                    return Attempt::Ended(nothing(codec));
                }
                News::Published(Published::Routed) => {
                    is_confirmed = true;
                    progress.was_written = true;
                    progress.is_without_server = None;
                    progress.is_refused = None;
                }
                News::Published(published) => {
                    return self.not_routed(published, ticket, progress).await;
                }
                News::Unpacked => {
                    progress.departure = Departure::default();
                    return Attempt::Again { link_is_over: false };
                }
                News::LinkMoved => {}
            }
            let state = self.link_state().borrow();
            if state.phase.is_closed() {
                let left = !progress.departure.withdraw();
                let was_written = left || progress.was_written;
                return Attempt::Ended(Err(lost(BrokerError::Closed, was_written)));
            }
            if !is_confirmed {
                continue;
            }
            match confirmed(method.is_idempotent, link.position, state.position) {
                Fate::Wait => {}
                Fate::Send => return Attempt::Again { link_is_over: true },
                Fate::End => {
                    let reason = state.lost.clone();
                    let reason = reason.unwrap_or(BrokerError::Lost { source: None });
                    return Attempt::Ended(Err(lost(reason, true)));
                }
            }
        }
    }

    /// What becomes of a call whose request is in no queue, as far as is known.
    async fn not_routed(
        &self,
        published: Published,
        ticket: &mut Ticket,
        progress: &mut Progress,
    ) -> Attempt {
        progress.departure = Departure::default();
        let slot = Arc::clone(ticket.slot());
        let plan = slot.plan();
        let queue = &plan.destination.queue;
        match published {
            Published::Returned => {
                let may_wait = plan.wait_for_server || (progress.was_written && plan.method.is_idempotent);
                match progress.was_written {
                    _ if may_wait => {
                        progress.is_without_server = Some(queue.clone());
                        tokio::select! {
                            biased;
                            // To a request that was sent before.
                            reply = ticket.reply() => Attempt::Ended(self.read(reply, plan.codec)),
                            () = tokio::time::sleep(SERVER_PAUSE) => Attempt::Again { link_is_over: false },
                        }
                    }
                    true => Attempt::Ended(Err(lost(queue_is_gone(queue), true))),
                    false => Attempt::Ended(Err(no_server(queue))),
                }
            }
            Published::Refused => {
                progress.was_written = true;
                if fate::refused(plan.method.is_idempotent) == Fate::End {
                    return Attempt::Ended(Err(refused(queue)));
                }
                progress.is_refused = Some(queue.clone());
                let backoff = progress.backoff.get_or_insert_with(Backoff::new);
                tokio::select! {
                    biased;
                    // A queue that failed may have delivered it all the same.
                    reply = ticket.reply() => Attempt::Ended(self.read(reply, plan.codec)),
                    () = backoff.wait() => Attempt::Again { link_is_over: false },
                }
            }
            Published::Failed { source, written } => {
                progress.was_written |= written;
                let is_of_channel = matches!(source, BrokerError::ChannelClosed { .. });
                progress.channels_lost += u32::from(written && is_of_channel);
                let is_final = matches!(source, BrokerError::Closed | BrokerError::Unsendable { .. });
                match unconfirmed(plan.method.is_idempotent, written, progress.channels_lost) {
                    Fate::Send | Fate::Wait if !is_final => Attempt::Again { link_is_over: true },
                    _ => Attempt::Ended(Err(lost(source, progress.was_written))),
                }
            }
            // Nobody but the call itself withdraws its request, and then it is gone; and what was routed is so.
            Published::Withdrawn | Published::Routed => Attempt::Again { link_is_over: false },
        }
    }

    fn read(&self, reply: Arrived, codec: Codec) -> Result<Reply, CallError> {
        let size = match &reply {
            Arrived::Alone(message) => message.body.len(),
            Arrived::Packed(reply) => reply.body.len(),
        };
        let limit = self.options.max_accepted_bytes;
        if size > limit {
            return Err(unreadable(format!(
                "it has {size} bytes, and at most {limit} are accepted"
            )));
        }
        match reply {
            Arrived::Alone(message) => Reply::from_message(*message, codec).map_err(unreadable),
            Arrived::Packed(reply) => Ok(reply),
        }
    }

    /// The link, once it is there; another one than that which is over.
    async fn link(&self, over: Option<&Arc<Link>>, was_written: bool) -> Result<Arc<Link>, CallError> {
        let mut state = self.link_state().clone();
        let settled = state.wait_for(|state| match &state.phase {
            Phase::Opening => false,
            Phase::Ready(link) => over.is_none_or(|over| !Arc::ptr_eq(link, over)),
            Phase::Refused(_) | Phase::Closed => true,
        });
        match settled.await.as_deref() {
            Ok(LinkState {
                phase: Phase::Ready(link),
                ..
            }) => Ok(Arc::clone(link)),
            Ok(LinkState {
                phase: Phase::Refused(reason),
                ..
            }) => Err(lost(reason.clone(), was_written)),
            // The task that keeps the link has ended, with its runtime if not with the handle.
            _ => Err(lost(BrokerError::Closed, was_written)),
        }
    }

    /// The state of the link, which the first who asks has opened.
    fn link_state(&self) -> &watch::Receiver<LinkState> {
        self.link.get_or_init(|| {
            let (sender, receiver) = watch::channel(LinkState::opening());
            self.tasks.spawn(link::run(
                Arc::clone(&self.transport),
                Arc::clone(&self.options),
                Arc::clone(&self.pending),
                sender,
                self.shutdown.clone(),
                self.tasks.clone(),
            ));
            receiver
        })
    }
}

/// Withdraws a request when the call is given up.
struct WithdrawOnDrop(Departure);

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        // It has left where it cannot be withdrawn, and so has every request that was answered.
        self.0.withdraw();
    }
}

/// The answer to a one-way call.
fn nothing(codec: Codec) -> Result<Reply, CallError> {
    Ok(Reply {
        kind: ReplyKind::Result,
        codec,
        body: codec.encode(&()).map_err(CallError::Encode)?,
    })
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
