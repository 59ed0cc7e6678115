//! One connection, from its handshake to its end.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io};

use futures_util::StreamExt;
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::channel::Tasks;
use super::socket::{self, Socket};
use super::{Address, CLOSE_LIMIT, broker_error, tls};
use crate::error::{BrokerError, Cause, TlsFailure};
use crate::host::host_name;
use crate::transport::{Role, caught};

/// How long to look what a peer speaks that did not let us in, for an error that says more.
const SECOND_LOOK_LIMIT: Duration = Duration::from_secs(1);

/// A connection that was made. It may have been lost since.
pub(super) struct OpenConnection {
    connection: Connection,
    wire: Wire,
    state: watch::Sender<ConnectionState>,
    /// Somebody found out that it is lost.
    suspicion: Notify,
}

/// What is known of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionState {
    /// Why the broker reads nothing that is published; nothing while it does.
    pub(super) blocked: Option<Arc<str>>,
    /// Why it is lost; nothing while it is there.
    pub(super) lost: Option<BrokerError>,
}

impl ConnectionState {
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }
}

impl OpenConnection {
    /// Connects, in no more than `limit`, under one of these names.
    pub(super) async fn open(
        address: &Address,
        names: &ConnectionNames,
        role: ConnectionRole,
        limit: Duration,
    ) -> Result<Self, BrokerError> {
        let properties = names.properties(role);
        let wire = Wire::default();
        let tls = address.tls()?;
        let connecting = async {
            match socket::connect(address, tls, properties, &wire.socket, limit).await {
                Ok(connection) => Ok(connection),
                Err(error) => Err(refusal(address, error).await),
            }
        };
        match timeout(limit, connecting).await {
            Ok(connection) => Ok(Self {
                connection: connection?,
                wire,
                state: watch::Sender::default(),
                suspicion: Notify::new(),
            }),
            Err(_) => Err(BrokerError::Unresponsive {
                step: "connecting",
                limit,
            }),
        }
    }

    pub(super) fn lapin(&self) -> &Connection {
        &self.connection
    }

    /// What becomes of the connection from now on.
    pub(super) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Waits until the connection is lost, and says why. Cancel safe.
    pub(super) async fn lost(&self) -> BrokerError {
        lost(self.state()).await
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected()
    }

    /// Has the task that watches the connection look whether it is still there.
    pub(super) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Watches the connection until it is lost, and says why. To be called once, by its one owner.
    pub(super) async fn watch(&self, mut blocked: impl FnMut(Option<&Arc<str>>)) -> BrokerError {
        // The only listener: two would take events from each other.
        let mut events = std::pin::pin!(self.connection.events_listener());
        if self.connection.status().blocked() {
            let reason = Arc::from("the broker gave no reason");
            blocked(Some(&reason));
            self.state.send_modify(|state| state.blocked = Some(reason));
        }
        let reason = loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.suspicion.notified() => None,
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    let reason = Arc::from(reason);
                    blocked(Some(&reason));
                    self.state.send_modify(|state| state.blocked = Some(reason));
                }
                Some(Event::ConnectionUnblocked) => {
                    blocked(None);
                    self.state.send_modify(|state| state.blocked = None);
                }
                // The error of a channel comes here as well.
                Some(Event::Error(error)) if !self.is_open() => break broker_error(error),
                _ if !self.is_open() => break BrokerError::Lost { source: None },
                _ => {}
            }
        };
        self.state.send_modify(|state| state.lost = Some(reason.clone()));
        self.wire.cut();
        reason
    }

    /// Watches the connection in a task of its own, until it is lost, the transport ends, or the handle is dropped.
    pub(super) fn watch_in(self: &Arc<Self>, tasks: &Tasks) -> AbortOnDropHandle<()> {
        let (connection, ending) = (Arc::clone(self), tasks.ending.clone());
        AbortOnDropHandle::new(tasks.spawn(async move {
            let watching = caught("connection", connection.watch(|_| {}));
            if let Some(Err(panicked)) = ending.run_until_cancelled(watching).await {
                connection.abandon(panicked.into());
            }
        }))
    }

    /// Gives the connection up: nobody watches it any more.
    pub(super) fn abandon(&self, reason: BrokerError) {
        self.state.send_modify(|state| {
            state.lost.get_or_insert(reason);
        });
        self.wire.cut();
    }

    /// Closes the connection: politely, within a limit, and else by closing its socket.
    pub(super) async fn close(&self) {
        let closing = self.connection.close(200, "closed by its user".into());
        match timeout(CLOSE_LIMIT, closing).await {
            // lapin's thread closes the socket and ends. Were it closed here before, lapin would take and log that for a failure.
            Ok(Ok(())) => self.wire.leave(),
            // It is closed already.
            Ok(Err(_)) => self.wire.cut(),
            Err(_) => {
                tracing::debug!("the broker did not close a connection in time");
                self.wire.cut();
            }
        }
        self.state.send_modify(|state| {
            state.lost.get_or_insert(BrokerError::Closed);
        });
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionRole {
    Publishing,
    Consuming,
    DirectReplies,
    Declaring,
}

impl ConnectionRole {
    /// What ends the connection's name in RabbitMQ's own tools.
    fn as_str(self) -> &'static str {
        match self {
            Self::Publishing => "rpc publish",
            Self::Consuming => "rpc consume",
            Self::DirectReplies => "rpc direct replies",
            Self::Declaring => "rpc declare",
        }
    }
}

impl From<Role> for ConnectionRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Publishing => Self::Publishing,
            Role::Consuming => Self::Consuming,
        }
    }
}

/// What a handle's connections are called in RabbitMQ's own tools, and what else those show of them.
#[derive(Debug)]
pub(super) struct ConnectionNames {
    /// The application's name.
    name: String,
}

/// The longest name of an application; what is beyond is left out.
const LONGEST_NAME: usize = 200;

impl ConnectionNames {
    /// Of an application; by default it is called as its program is.
    pub(super) fn new(name: Option<&str>) -> Self {
        let name = name.map_or_else(program, str::to_owned);
        Self {
            name: name.chars().take(LONGEST_NAME).collect(),
        }
    }

    fn properties(&self, role: ConnectionRole) -> ConnectionProperties {
        let name = format!("{}: {}", self.name, role.as_str());
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

/// The program's name.
fn program() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(Path::file_stem);
    name.map_or_else(
        || "unknown".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Why there is no connection.
async fn refusal(address: &Address, error: lapin::Error) -> BrokerError {
    let peer = address.host_and_port();
    let looking = async {
        match (error.kind(), address.tls()) {
            (ErrorKind::IOError(error), Ok(Some(client))) => match tls::failure_of(error) {
                None if is_of_peer(error) => tls::refused_later(client, peer).await,
                failure => failure,
            },
            (kind, Ok(None)) if is_no_amqp(kind) => {
                let is_tls = socket::speaks_tls(peer).await.unwrap_or(false);
                is_tls.then_some(TlsFailure::NotPlain)
            }
            _ => None,
        }
    };
    let failure = timeout(SECOND_LOOK_LIMIT, looking).await.unwrap_or(None);
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

/// Whether the peer does not speak as a broker does.
fn is_no_amqp(kind: &ErrorKind) -> bool {
    match kind {
        ErrorKind::ParsingError(_) => true,
        ErrorKind::IOError(error) => is_of_peer(error),
        _ => false,
    }
}

/// Whether there was a connection, and its peer ended it.
fn is_of_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// Waits until a connection is lost, and says why. Cancel safe.
pub(super) async fn lost(mut state: watch::Receiver<ConnectionState>) -> BrokerError {
    let lost = state.wait_for(|state| state.lost.is_some()).await;
    // Nobody watches a connection that was dropped.
    let reason = lost.ok().and_then(|state| state.lost.clone());
    reason.unwrap_or(BrokerError::Lost { source: None })
}

/// The socket of a connection, as soon as there is one. It is closed with the connection, however that ends: also where
/// who makes it gives up.
#[derive(Debug, Default)]
struct Wire {
    socket: OnceLock<Socket>,
    /// The connection was closed, and closes the socket itself.
    is_left: AtomicBool,
}

impl Wire {
    fn cut(&self) {
        if !self.is_left.load(Ordering::Relaxed)
            && let Some(socket) = self.socket.get()
        {
            socket.cut();
        }
    }

    fn leave(&self) {
        self.is_left.store(true, Ordering::Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Tells nothing about it: lapin's holds credentials.
impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_open() {
            "connected"
        } else {
            "not connected"
        })
    }
}
