//! Makes the calls of all clients of one broker handle.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::broker_call::BrokerCall;
use super::destination::Destination;
use super::in_flight_call::InFlightCall;
use super::in_flight_calls::InFlightCalls;
use super::options::CallerOptions;
use super::plan::CallPlan;
use super::session::{self, Session, SessionPhase, SessionState};
use super::time_limit::TimeLimit;
use crate::error::{BrokerError, CallError};
use crate::protocol::{Reply, ShortStr};
use crate::sync::watch;
use crate::transport::{StatusBoard, Transport};

/// How long [`Caller::close`] waits for the session to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Makes the calls of all clients of one broker handle.
///
/// The first call opens the session: a handle that only serves declares no reply queue. The session
/// ends with [`close`](Self::close), or with the last of the handle's clones and clients.
#[derive(Debug)]
pub(crate) struct Caller {
    transport: Arc<dyn Transport>,
    options: Arc<CallerOptions>,
    in_flight: Arc<InFlightCalls>,
    session: OnceLock<watch::Receiver<SessionState>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    _shutdown_on_drop: DropGuard,
}

impl Caller {
    pub(crate) fn new(transport: Arc<dyn Transport>, options: CallerOptions) -> Self {
        let shutdown = CancellationToken::new();
        Self {
            transport,
            options: Arc::new(options),
            in_flight: Arc::default(),
            session: OnceLock::new(),
            tasks: TaskTracker::new(),
            _shutdown_on_drop: shutdown.clone().drop_guard(),
            shutdown,
        }
    }

    /// Fails all calls, present and future, and closes the session. Takes at most ten seconds.
    pub(crate) async fn close(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("the reply consumer did not close in time");
        }
    }

    /// Returns the application and the user that requests name.
    pub(crate) fn names(&self) -> (Option<ShortStr>, Option<ShortStr>) {
        let CallerOptions { app_id, user_id, .. } = &*self.options;
        (app_id.clone(), user_id.clone())
    }

    /// Returns how many calls wait for a reply.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Makes a call and waits for its reply, until its deadline.
    // Not an `async fn`, which would hold its arguments twice.
    #[allow(clippy::manual_async_fn)]
    pub(super) fn call(
        self: Arc<Self>,
        call: Arc<InFlightCall>,
        time: TimeLimit,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + 'static {
        async move {
            let limiter = &call.plan().destination.limiter;
            let priority = call.plan().priority.unwrap_or(0);
            let permit = match limiter.try_acquire(priority) {
                Some(permit) => permit,
                None => limiter.acquire(time, priority).await?,
            };
            let outcome = match self.check_size(call.plan()) {
                Ok(()) => {
                    let guard = self.in_flight.insert(&call);
                    BrokerCall::new(&self, guard, time.limit).run(time.deadline).await
                }
                Err(too_large) => Err(too_large),
            };
            if !call.plan().method.is_oneway {
                permit.ended(&outcome, time);
            }
            outcome
        }
    }

    fn check_size(&self, plan: &CallPlan) -> Result<(), CallError> {
        let (size, limit) = (plan.arguments.0.len(), self.options.max_sent_bytes);
        if size > limit {
            return Err(CallError::TooLarge { size, limit });
        }
        Ok(())
    }

    pub(super) fn max_accepted_bytes(&self) -> usize {
        self.options.max_accepted_bytes
    }

    /// Returns the open session, unless it is the one that was lost.
    pub(super) fn open_session(&self, lost: Option<&Arc<Session>>) -> Option<Arc<Session>> {
        match &self.session_state().borrow().phase {
            SessionPhase::Open(session) if is_another(session, lost) => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Waits for an open session other than the one that was lost. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the broker refuses the session, or the handle is closed.
    pub(super) async fn wait_for_session(
        &self,
        lost: Option<&Arc<Session>>,
    ) -> Result<Arc<Session>, BrokerError> {
        let mut state = self.session_state().clone();
        let settled = state.wait_for(|state| match &state.phase {
            SessionPhase::Opening => false,
            SessionPhase::Open(session) => is_another(session, lost),
            SessionPhase::Refused(_) | SessionPhase::Closed => true,
        });
        if let Ok(state) = settled.await {
            match &state.phase {
                SessionPhase::Open(session) => return Ok(Arc::clone(session)),
                SessionPhase::Refused(reason) => return Err(reason.clone()),
                SessionPhase::Opening | SessionPhase::Closed => {}
            }
        }
        // Closed, or the session's task has ended with its runtime.
        Err(self.status().why_over())
    }

    /// Whether a queue that refuses a request does not exist. RabbitMQ 4 refuses requests to a
    /// classic queue whose node is down. Otherwise the queue is full, or will accept requests soon.
    pub(super) async fn is_missing(&self, destination: &Destination) -> bool {
        let exists = destination.queue_check.exists(|| {
            let (transport, queue) = (Arc::clone(&self.transport), destination.queue.clone());
            async move { transport.is_there(&queue).await }.boxed()
        });
        exists.await == Some(false)
    }

    /// Returns what keeps calls from being answered, if it is known.
    pub(super) fn obstacle(&self) -> Option<BrokerError> {
        self.status().status().obstacle().or_else(|| {
            let state = self.session_state().borrow();
            match state.phase {
                SessionPhase::Opening => state.lost.clone(),
                _ => None,
            }
        })
    }

    pub(super) fn status(&self) -> &StatusBoard {
        self.transport.status()
    }

    /// Returns the state of the session. The first call starts the session's task, on the handle's
    /// own runtime.
    pub(super) fn session_state(&self) -> &watch::Receiver<SessionState> {
        self.session.get_or_init(|| {
            let (sender, receiver) = watch::channel(SessionState::opening());
            let running = session::run(
                Arc::clone(&self.transport),
                Arc::clone(&self.options),
                Arc::clone(&self.in_flight),
                sender,
                self.shutdown.clone(),
                self.tasks.clone(),
            );
            self.tasks.spawn_on(running, &self.transport.runtime());
            receiver
        })
    }
}

fn is_another(session: &Arc<Session>, lost: Option<&Arc<Session>>) -> bool {
    lost.is_none_or(|lost| !Arc::ptr_eq(session, lost))
}
