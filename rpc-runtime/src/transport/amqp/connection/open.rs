//! One connection, from its handshake to its end.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io};

use futures_util::StreamExt;
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tokio_util::task::AbortOnDropHandle;

use super::super::errors::broker_error;
use super::super::guard::ProtocolViolation;
use super::super::task_group::TaskGroup;
use super::super::wire::Wire;
use super::address::{Address, DEFAULT_MAX_FRAME};
use super::socket::{self, Socket};
use super::tls;
use crate::error::{BrokerError, Cause, TlsFailure};
use crate::host::host_name;
use crate::transport::{Role, catch_panic};

/// How long the broker may take to close a channel or a connection, or to delete a queue that is no
/// longer used.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait after a close until lapin's thread and the socket have ended. That usually
/// takes milliseconds.
const LAPIN_END_LIMIT: Duration = Duration::from_secs(1);

/// How long to wait for a broker to say why it refuses the client's certificate.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// A connection that was opened. It may have been lost since then.
pub(crate) struct OpenConnection {
    connection: Connection,
    wire: Arc<Wire>,
    socket: SocketGuard,
    state: watch::Sender<ConnectionState>,
    /// Wakes the task that watches the connection, after another task found the connection lost.
    check: Notify,
    /// How many channel numbers lapin cannot use again.
    lost_channel_numbers: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionState {
    /// Why the broker blocks publishing. `None` while it does not.
    pub(crate) blocked: Option<Arc<str>>,
    /// Why the connection is lost. `None` while it is open.
    pub(crate) lost: Option<BrokerError>,
}

impl ConnectionState {
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Records why the connection is lost, unless an earlier reason is recorded. Returns the one
    /// that is kept: later ones are often its consequences.
    fn lose(&mut self, reason: BrokerError) -> BrokerError {
        self.lost.get_or_insert(reason).clone()
    }
}

impl OpenConnection {
    /// Connects within `limit`.
    pub(super) async fn open(
        address: &Address,
        properties: &ClientProperties,
        purpose: ConnectionPurpose,
        limit: Duration,
    ) -> Result<Self, BrokerError> {
        let properties = properties.for_connection(purpose);
        let socket = SocketGuard::default();
        let tls = address.tls()?;
        let connecting = async {
            match socket::connect(address, tls, properties, &socket.socket, limit).await {
                Ok(connected) => Ok(connected),
                Err(error) => Err(connect_error(address, error).await),
            }
        };
        match timeout(limit, connecting).await {
            Ok(connected) => {
                let (connection, wire) = connected?;
                Ok(Self {
                    connection,
                    wire,
                    socket,
                    state: watch::Sender::default(),
                    check: Notify::new(),
                    lost_channel_numbers: AtomicUsize::new(0),
                })
            }
            Err(_) => Err(BrokerError::Unresponsive {
                step: "connecting",
                limit,
            }),
        }
    }

    pub(crate) fn lapin(&self) -> &Connection {
        &self.connection
    }

    /// Carries the content of the connection's channels.
    pub(in super::super) fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// The maximum size of a frame, in bytes, as negotiated.
    pub(in super::super) fn max_frame(&self) -> usize {
        match self.connection.configuration().frame_max() {
            // No limit was negotiated.
            0 => DEFAULT_MAX_FRAME,
            max => max,
        }
        .try_into()
        .unwrap_or(usize::MAX)
    }

    /// The state of the connection, from now on.
    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Waits until the connection is lost and returns why. Cancel safe.
    pub(crate) async fn wait_lost(&self) -> BrokerError {
        wait_lost(self.state()).await
    }

    /// Waits until the broker does not block the connection. Cancel safe.
    ///
    /// # Errors
    ///
    /// Fails if the connection is lost.
    pub(crate) async fn wait_unblocked(&self) -> Result<(), BrokerError> {
        let mut state = self.state();
        let unblocked_or_lost = state.wait_for(|state| state.blocked.is_none() || state.is_lost());
        match unblocked_or_lost.await {
            Ok(state) => state.lost.clone().map_or(Ok(()), Err),
            Err(_) => Err(BrokerError::Lost { source: None }),
        }
    }

    /// Records that lapin cannot use the number of a closed channel again. See
    /// [`Opener::channel`](super::super::opener::Opener::channel).
    pub(crate) fn lose_channel_number(&self) {
        self.lost_channel_numbers.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether lapin has lost most channel numbers. If no channel can be opened then, that loss is
    /// the main reason.
    pub(crate) fn has_lost_most_channel_numbers(&self) -> bool {
        let all = usize::from(self.connection.configuration().channel_max());
        2 * self.lost_channel_numbers.load(Ordering::Relaxed) > all
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.status().connected()
    }

    /// Makes the task that watches the connection check whether it is still open.
    pub(super) fn check(&self) {
        self.check.notify_one();
    }

    /// Watches the connection until it is lost. Then reports the loss, shuts the socket down, and
    /// returns the first reason that is known.
    ///
    /// Calls `report_blocked` with the broker's reason when the broker blocks the connection, and
    /// with `None` when it unblocks the connection. Must be called once, by the owner.
    pub(super) async fn watch(&self, mut report_blocked: impl FnMut(Option<&Arc<str>>)) -> BrokerError {
        // The only listener: two would take events from each other.
        let mut events = std::pin::pin!(self.connection.events_listener());
        let mut set_blocked = |reason: Option<Arc<str>>| {
            report_blocked(reason.as_ref());
            self.state.send_modify(|state| state.blocked = reason);
        };
        if self.connection.status().blocked() {
            set_blocked(Some(Arc::from("no reason is known")));
        }
        let reason = loop {
            let event = tokio::select! {
                event = events.next() => event,
                // Only to check whether the connection is still open.
                () = self.check.notified() => None,
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => set_blocked(Some(Arc::from(reason))),
                Some(Event::ConnectionUnblocked) => set_blocked(None),
                // Errors of channels arrive here as well, while the connection stays open.
                Some(Event::Error(error)) if !self.is_open() => break broker_error(error),
                _ if !self.is_open() => break BrokerError::Lost { source: None },
                _ => {}
            }
        };
        let reason = self.lose(reason);
        self.socket.shut_down();
        reason
    }

    /// Watches the connection in a task, until it is lost, the transport ends, or the returned
    /// handle is dropped. If the task panics, it abandons the connection.
    pub(crate) fn watch_in(self: &Arc<Self>, tasks: &TaskGroup) -> AbortOnDropHandle<()> {
        let (connection, ending) = (Arc::clone(self), tasks.ending.clone());
        AbortOnDropHandle::new(tasks.spawn(async move {
            let watching = catch_panic("connection", connection.watch(|_| {}));
            if let Some(Err(panicked)) = ending.run_until_cancelled(watching).await {
                connection.abandon(panicked.into());
            }
        }))
    }

    /// Gives the connection up, because no task watches it any more, or no channel can be opened:
    /// reports it as lost and shuts its socket down, without `connection.close`.
    pub(crate) fn abandon(&self, reason: BrokerError) {
        self.lose(reason);
        self.socket.shut_down();
    }

    /// Reports the connection as lost. Returns the reason that is kept.
    fn lose(&self, reason: BrokerError) -> BrokerError {
        let mut kept = reason.clone();
        self.state.send_modify(|state| kept = state.lose(reason));
        kept
    }

    /// Closes the connection, and reports it as closed to the tasks that wait for its loss, unless
    /// a loss was reported before. If the close fails or takes too long, shuts the socket down.
    pub(crate) async fn close(&self) {
        let closing = self.connection.close(200, "closed by its user".into());
        match timeout(CLOSE_LIMIT, closing).await {
            // lapin's thread closes the socket and ends. lapin would log a failure if we shut the
            // socket down, or if the runtime ended before that thread.
            Ok(Ok(())) => {
                self.socket.leave_to_lapin();
                let _ = timeout(LAPIN_END_LIMIT, self.wire.wait_ended()).await;
            }
            // The connection is closed already.
            Ok(Err(_)) => self.socket.shut_down(),
            Err(_) => {
                tracing::debug!("the broker did not close a connection in time");
                self.socket.shut_down();
            }
        }
        self.lose(BrokerError::Closed);
    }
}

/// A connection for one subscription. It is closed in the background when this is dropped, or when
/// the transport ends.
#[derive(Debug)]
pub(crate) struct OwnConnection {
    pub(crate) connection: Arc<OpenConnection>,
    _closes_when_dropped: DropGuard,
}

impl OwnConnection {
    /// Starts the tasks that watch the connection and close it.
    pub(crate) fn new(connection: OpenConnection, tasks: &TaskGroup) -> Self {
        let connection = Arc::new(connection);
        let close_token = tasks.ending.child_token();
        let (closing, token) = (Arc::clone(&connection), close_token.clone());
        let watch = connection.watch_in(tasks);
        tasks.spawn(async move {
            token.cancelled().await;
            closing.close().await;
            // Only now, so that a dropped connection is watched until its end.
            drop(watch);
        });
        Self {
            connection,
            _closes_when_dropped: close_token.drop_guard(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionPurpose {
    Publishing,
    Consuming,
    /// For a queue about which the broker did not answer on the shared connection.
    ConsumingOne,
    DirectReplies,
    /// For a queue because of which the broker may have closed a connection.
    Declaring,
    #[cfg(feature = "__tools")]
    DeadLetters,
}

impl ConnectionPurpose {
    /// The end of the connection's name, as RabbitMQ's own tools show it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Publishing => "rpc publish",
            Self::Consuming => "rpc consume",
            Self::ConsumingOne => "rpc consume one queue",
            Self::DirectReplies => "rpc direct replies",
            Self::Declaring => "rpc declare",
            #[cfg(feature = "__tools")]
            Self::DeadLetters => "rpc dead letters",
        }
    }
}

impl From<Role> for ConnectionPurpose {
    fn from(role: Role) -> Self {
        match role {
            Role::Publishing => Self::Publishing,
            Role::Consuming => Self::Consuming,
        }
    }
}

/// The client properties of a handle's connections, as RabbitMQ's own tools show them.
#[derive(Debug)]
pub(super) struct ClientProperties {
    name: String,
}

/// The longest name of an application or a program, in characters. Longer names are truncated.
const MAX_NAME: usize = 200;

impl ClientProperties {
    /// Uses the application's name, or the program's if there is none.
    pub(super) fn new(name: Option<&str>) -> Self {
        let name = name.map_or_else(program_name, str::to_owned);
        Self {
            name: name.chars().take(MAX_NAME).collect(),
        }
    }

    /// The properties of one connection, whose name tells its purpose.
    fn for_connection(&self, purpose: ConnectionPurpose) -> ConnectionProperties {
        let name = format!("{}: {}", self.name, purpose.as_str());
        let mut properties = ConnectionProperties::default().with_connection_name(name.as_str().into());
        for (key, value) in [
            ("product", "rpc-runtime"),
            ("version", env!("CARGO_PKG_VERSION")),
            ("host", host_name()),
            ("pid", &std::process::id().to_string()),
        ] {
            properties = properties.with_client_property(key.into(), value.into());
        }
        properties
    }
}

fn program_name() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(Path::file_stem);
    name.map_or_else(
        || "unknown".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// The error of a connection that could not be made. May connect once more: see [`tls_failure`].
async fn connect_error(address: &Address, error: lapin::Error) -> BrokerError {
    let failure = tls_failure(address, &error).await;
    let (host, source) = (address.to_string(), Cause::new(error));
    match failure {
        Some(failure) => BrokerError::Tls {
            host,
            failure,
            source,
        },
        None => BrokerError::Connect { host, source },
    }
}

/// What failed in TLS. `None` if something else failed. If the broker closed a TLS connection,
/// connects once more to find out why.
async fn tls_failure(address: &Address, error: &lapin::Error) -> Option<TlsFailure> {
    let ErrorKind::IOError(error) = error.kind() else {
        return None;
    };
    let violation = error.get_ref().and_then(|error| error.downcast_ref());
    if violation == Some(&ProtocolViolation::TlsAlert) {
        return Some(TlsFailure::NotPlain);
    }
    let failure = tls::failure_of(error);
    match address.tls() {
        // The broker may have sent a reason that was lost with the connection.
        Ok(Some(client)) if is_closed_by_peer(error) => {
            let asking = client.find_refusal(address.host_and_port());
            timeout(REFUSAL_LIMIT, asking).await.unwrap_or(None).or(failure)
        }
        _ => failure,
    }
}

/// Whether the peer closed a connection that was open.
fn is_closed_by_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// Waits until a connection is lost and returns why. Cancel safe.
pub(crate) async fn wait_lost(mut state: watch::Receiver<ConnectionState>) -> BrokerError {
    let lost = state.wait_for(|state| state.lost.is_some()).await;
    // An error means that the connection was dropped, so nothing watches it.
    let reason = lost.ok().and_then(|state| state.lost.clone());
    reason.unwrap_or(BrokerError::Lost { source: None })
}

/// Shuts a connection's socket down when the connection ends, also if connecting is given up. Does
/// nothing if lapin closes it.
#[derive(Debug, Default)]
struct SocketGuard {
    /// Set as soon as the TCP connection is open.
    socket: OnceLock<Socket>,
    /// Whether lapin has closed the connection, so that it closes the socket itself.
    is_left_to_lapin: AtomicBool,
}

impl SocketGuard {
    fn shut_down(&self) {
        if !self.is_left_to_lapin.load(Ordering::Relaxed)
            && let Some(socket) = self.socket.get()
        {
            socket.shut_down();
        }
    }

    fn leave_to_lapin(&self) {
        self.is_left_to_lapin.store(true, Ordering::Relaxed);
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Shows only whether the connection is open: lapin's own `Debug` shows credentials.
impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_open() {
            "connected"
        } else {
            "not connected"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_of_a_loss_is_kept() {
        let mut state = ConnectionState::default();
        let panicked = BrokerError::Panicked { task: "reading" };
        for later in [panicked, BrokerError::lost(), BrokerError::Closed] {
            let kept = state.lose(later);
            assert!(matches!(kept, BrokerError::Panicked { .. }), "{kept}");
        }
        assert!(matches!(state.lost, Some(BrokerError::Panicked { .. })));
    }
}
