//! The access of calls to the session, which the first call opens.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::control_sender::ControlSender;
use super::destination::Destination;
use super::in_flight_calls::InFlightCalls;
use super::options::CallerOptions;
use super::session::{self, Session, SessionPhase, SessionState};
use super::uploading::ItemPublisher;
use crate::error::BrokerError;
use crate::sync::watch;
use crate::transport::{StatusBoard, Transport, restart_on_panic};

/// How long [`SessionHandle::close`] waits for the session to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Gives the calls of one broker handle access to their session, which the first call opens.
///
/// The session ends with [`close`](Self::close), or when the `SessionHandle` is dropped.
#[derive(Debug)]
pub(super) struct SessionHandle {
    pub(super) options: Arc<CallerOptions>,
    pub(super) in_flight: Arc<InFlightCalls>,
    pub(super) item_publisher: Arc<ItemPublisher>,
    transport: Arc<dyn Transport>,
    state: OnceLock<watch::Receiver<SessionState>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    _shutdown_on_drop: DropGuard,
}

impl SessionHandle {
    pub(super) fn new(transport: Arc<dyn Transport>, options: CallerOptions) -> Self {
        let shutdown = CancellationToken::new();
        Self {
            options: Arc::new(options),
            in_flight: Arc::default(),
            item_publisher: Arc::default(),
            transport,
            state: OnceLock::new(),
            tasks: TaskTracker::new(),
            _shutdown_on_drop: shutdown.clone().drop_guard(),
            shutdown,
        }
    }

    /// Closes the session: calls in flight and later ones fail, workers are told to cancel those in
    /// flight, and the session's tasks end. Stops waiting for the tasks after ten seconds.
    pub(super) async fn close(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("the tasks of the session did not end in time");
        }
    }

    /// Returns the open session without waiting. `None` if there is none, or if it is the one that
    /// was lost.
    pub(super) fn current(&self, lost: Option<&Arc<Session>>) -> Option<Arc<Session>> {
        match &self.state().borrow().phase {
            SessionPhase::Open(session) if is_another(session, lost) => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Waits for an open session other than the one that was lost. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the broker refuses the session, the handle is closed, or its runtime has ended.
    pub(super) async fn wait_open(&self, lost: Option<&Arc<Session>>) -> Result<Arc<Session>, BrokerError> {
        let mut state = self.state().clone();
        let decided = state.wait_for(|state| match &state.phase {
            SessionPhase::Opening => false,
            SessionPhase::Open(session) => is_another(session, lost),
            SessionPhase::Refused(_) | SessionPhase::Closed => true,
        });
        if let Ok(state) = decided.await {
            match &state.phase {
                SessionPhase::Open(session) => return Ok(Arc::clone(session)),
                SessionPhase::Refused(reason) => return Err(reason.clone()),
                SessionPhase::Opening | SessionPhase::Closed => {}
            }
        }
        // The handle is closed, or the session's task has ended with its runtime.
        Err(self.status_board().end_reason_or_closed())
    }

    /// Returns whether the queue of a refused request is missing, according to a check of the last
    /// ten seconds; `false` if that is unknown. A classic queue whose node is down counts as
    /// missing. A queue that exists is full, or will accept requests soon.
    pub(super) async fn is_queue_missing(&self, destination: &Destination) -> bool {
        let exists = destination.queue_check.exists(|| {
            let (transport, queue) = (Arc::clone(&self.transport), destination.queue.clone());
            async move { transport.queue_exists(&queue).await }.boxed()
        });
        exists.await == Some(false)
    }

    /// Returns what prevents replies: why the handle is not ready, or else why the session was lost
    /// or is refused. `None` if nothing is known to prevent them.
    pub(super) fn obstacle(&self) -> Option<BrokerError> {
        self.status_board().status().obstacle().or_else(|| {
            let state = self.state().borrow();
            match &state.phase {
                SessionPhase::Opening => state.loss_reason.clone(),
                SessionPhase::Refused(reason) => Some(reason.clone()),
                SessionPhase::Open(_) | SessionPhase::Closed => None,
            }
        })
    }

    pub(super) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    pub(super) fn status_board(&self) -> &StatusBoard {
        self.transport.status()
    }

    /// Returns the state of the session. The first time, starts the tasks of the session.
    pub(super) fn state(&self) -> &watch::Receiver<SessionState> {
        self.state.get_or_init(|| self.start_tasks())
    }

    /// Starts the task that keeps the session open, and the one that sends control messages. They
    /// run on the handle's own runtime, because that of the first call may end earlier.
    fn start_tasks(&self) -> watch::Receiver<SessionState> {
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
        let (transport, in_flight) = (Arc::clone(&self.transport), Arc::clone(&self.in_flight));
        let shutdown = self.shutdown.clone();
        let sending_control_messages = async move {
            let sender = ControlSender::new(&*transport, &in_flight, &shutdown);
            restart_on_panic("control messages", || sender.run()).await;
        };
        self.tasks
            .spawn_on(sending_control_messages, &self.transport.runtime());
        receiver
    }
}

/// Returns whether the session is not the one that was lost. `lost` is `None` if any will do.
fn is_another(session: &Arc<Session>, lost: Option<&Arc<Session>>) -> bool {
    lost.is_none_or(|lost| !Arc::ptr_eq(session, lost))
}
