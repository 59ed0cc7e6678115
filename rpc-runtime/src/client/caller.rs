//! The way of one call: from its plan to its reply.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::link::{self, Link, LinkState};
use crate::call::Arguments;
use crate::codec::Codec;
use crate::context::ambient_deadline;
use crate::describe::MethodDescriptor;
use crate::error::{BrokerError, CallError, Executed};
use crate::headers::Headers;
use crate::protocol::{MAX_TIME_TO_LIVE, Message, Reply, ReplyKind, Request, ShortStr};
use crate::transport::{Departure, Outgoing, Published, ReplyQueue, Transport};

/// A call that is ready to be made.
#[derive(Debug, Clone)]
pub(crate) struct CallPlan {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) queue: ShortStr,
    pub(crate) codec: Codec,
    pub(crate) arguments: Arguments,
    pub(crate) timeout: Duration,
    pub(crate) headers: Headers,
    pub(crate) priority: Option<u8>,
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

/// Makes the calls of all clients of one broker handle.
///
/// The link is opened by the first call: a handle that only serves declares no reply queue. It ends with
/// [`close`](Self::close), or with the last of the handle's clones and clients.
#[derive(Debug)]
pub(crate) struct Caller {
    transport: Arc<dyn Transport>,
    options: CallerOptions,
    link: Mutex<Option<watch::Receiver<LinkState>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    _shuts_down: DropGuard,
}

impl Caller {
    pub(crate) fn new(transport: Arc<dyn Transport>, options: CallerOptions) -> Self {
        let shutdown = CancellationToken::new();
        Self {
            transport,
            options,
            link: Mutex::new(None),
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

    /// Makes a call and waits for its reply, within its time.
    pub(crate) async fn call(&self, plan: CallPlan) -> Result<Reply, CallError> {
        let TimeLimit { limit, deadline } = plan.time_limit()?;
        let departure = Departure::default();
        match timeout_at(deadline, self.attempt(plan, deadline, &departure)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let executed = if departure.withdraw() {
                    Executed::No
                } else {
                    Executed::Maybe
                };
                Err(CallError::TimedOut { limit, executed })
            }
        }
    }

    /// Sends the request and waits for the reply. Dropped before the request has left, it withdraws it.
    async fn attempt(
        &self,
        plan: CallPlan,
        deadline: Instant,
        departure: &Departure,
    ) -> Result<Reply, CallError> {
        let size = plan.arguments.0.len();
        if size > self.options.max_sent_bytes {
            return Err(CallError::TooLarge {
                size,
                limit: self.options.max_sent_bytes,
            });
        }
        let link = self.link().await.map_err(not_sent)?;
        let mut ticket = link.pending.enter().map_err(not_sent)?;
        let (oneway, codec, queue) = (plan.method.is_oneway, plan.codec, plan.queue.clone());
        let message = self.request(plan, ticket.id(), &link, deadline).into_message();

        let _withdrawn_if_dropped = WithdrawOnDrop(departure);
        let departure = departure.clone();
        let publishing = link.publisher.publish(Outgoing {
            queue: queue.clone(),
            mandatory: true,
            message,
            departure,
        });
        tokio::select! {
            biased;
            reply = ticket.reply() => return self.read(reply, codec),
            published = publishing => accepted(published, &queue)?,
        }
        if oneway {
            return Ok(Reply {
                kind: ReplyKind::Result,
                codec,
                body: codec.encode(&()).map_err(CallError::Encode)?,
            });
        }
        self.read(ticket.reply().await, codec)
    }

    fn request(&self, plan: CallPlan, id: Uuid, link: &Link, deadline: Instant) -> Request {
        let oneway = plan.method.is_oneway;
        Request {
            method: Some(ShortStr::from_static(plan.method.name)),
            codec: plan.codec,
            correlation_id: Some(ShortStr::from_uuid(id)),
            reply_to: (!oneway).then(|| link.reply_to.clone()),
            // Nobody waits for a one-way request: the time limit is for handing it to the broker.
            time_to_live: (!oneway).then(|| whole_millis(deadline.saturating_duration_since(Instant::now()))),
            persistent: oneway,
            priority: plan.priority,
            app_id: self.options.app_id.clone(),
            user_id: self.options.user_id.clone(),
            headers: plan.headers,
            arguments: plan.arguments.0,
        }
    }

    fn read(&self, reply: Result<Message, BrokerError>, codec: Codec) -> Result<Reply, CallError> {
        let message = reply.map_err(|source| CallError::Broker {
            source,
            executed: Executed::Maybe,
        })?;
        let (size, limit) = (message.body.len(), self.options.max_accepted_bytes);
        if size > limit {
            return Err(unreadable(format!(
                "it has {size} bytes, and at most {limit} are accepted"
            )));
        }
        Reply::from_message(message, codec).map_err(unreadable)
    }

    /// The link, opened by the first who asks, and again after it failed.
    async fn link(&self) -> Result<Arc<Link>, BrokerError> {
        let mut state = self.link_state();
        let settled = state.wait_for(|state| !matches!(state, LinkState::Opening)).await;
        match settled.as_deref() {
            Ok(LinkState::Ready(link)) => Ok(Arc::clone(link)),
            Ok(LinkState::Failed(error)) => Err(error.clone()),
            // The task that opens the link ended with its runtime.
            Ok(LinkState::Opening) | Err(_) => Err(BrokerError::Closed),
        }
    }

    fn link_state(&self) -> watch::Receiver<LinkState> {
        // Replaced in one step, so a panic elsewhere leaves nothing half done behind the lock.
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        match &*link {
            Some(state) if !matches!(*state.borrow(), LinkState::Failed(_)) => state.clone(),
            _ => link.insert(self.open_link()).clone(),
        }
    }

    fn open_link(&self) -> watch::Receiver<LinkState> {
        let (sender, receiver) = watch::channel(LinkState::Opening);
        let transport = Arc::clone(&self.transport);
        self.tasks.spawn(link::run(
            transport,
            self.options.replies,
            sender,
            self.shutdown.clone(),
        ));
        receiver
    }
}

/// Withdraws a request when the call is given up.
struct WithdrawOnDrop<'a>(&'a Departure);

impl Drop for WithdrawOnDrop<'_> {
    fn drop(&mut self) {
        // It has left where it cannot be withdrawn, and so has every request that was answered.
        self.0.withdraw();
    }
}

/// A reply of which cannot even be told whether the method ran.
fn unreadable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CallError {
    CallError::BadReply {
        source: source.into(),
        executed: Executed::Maybe,
    }
}

/// A failure before the request could leave.
fn not_sent(source: BrokerError) -> CallError {
    CallError::Broker {
        source,
        executed: Executed::No,
    }
}

/// What the broker said of the request.
fn accepted(published: Published, queue: &ShortStr) -> Result<(), CallError> {
    match published {
        Published::Routed => Ok(()),
        Published::Returned => Err(CallError::NoServer {
            queue: queue.to_string(),
        }),
        Published::Refused => Err(CallError::Refused {
            queue: queue.to_string(),
        }),
        Published::Failed {
            source,
            written: false,
        } => Err(not_sent(source)),
        Published::Failed {
            source,
            written: true,
        } => Err(CallError::Broker {
            source,
            executed: Executed::Maybe,
        }),
    }
}

/// Rounded up to the wire's whole milliseconds, so that a request does not expire before its caller gives up.
fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(
        u64::try_from(time.as_micros().div_ceil(1000))
            .unwrap_or(u64::MAX)
            .max(1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_to_live_is_rounded_up_and_never_zero() {
        assert_eq!(whole_millis(Duration::ZERO), Duration::from_millis(1));
        assert_eq!(
            whole_millis(Duration::from_micros(1500)),
            Duration::from_millis(2)
        );
        assert_eq!(whole_millis(Duration::from_millis(30)), Duration::from_millis(30));
    }
}
