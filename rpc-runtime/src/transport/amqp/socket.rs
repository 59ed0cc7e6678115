//! The TCP socket under a connection, to be closed when nothing else helps.

use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::{Connection, ConnectionProperties};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::Address;

/// A handle of its own on a connection's socket.
///
/// lapin waits for a silent peer without a limit: in its handshake, when it closes, and while the broker reads nothing. It
/// does so in a thread of its own, which ends once its socket is closed.
#[derive(Debug)]
pub(super) struct Socket(TcpStream);

impl Socket {
    /// Closes the socket for both sides, at once. What was not sent is lost.
    pub(super) fn cut(&self) {
        // An error means that it was closed before.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Connects; the socket is left in `socket` as soon as there is one, for who gives up waiting.
pub(super) async fn connect(
    address: &Address,
    properties: ConnectionProperties,
    socket: &OnceLock<Socket>,
    limit: Duration,
) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let mut outcome = Err(std::io::Error::other("the host has no address"));
    let peers: Vec<_> = lookup_host(address.host_and_port()).await?.collect();
    // One that does not answer leaves the others their share of the time.
    let share = limit / u32::try_from(peers.len().max(1)).unwrap_or(u32::MAX);
    for peer in peers {
        let connecting = timeout(share, AsyncTcpStream::connect(&runtime, peer)).await;
        outcome = connecting.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        if outcome.is_ok() {
            break;
        }
    }
    let stream = outcome?;
    // Which other variants there are depends on lapin's features.
    #[allow(irrefutable_let_patterns)]
    if let AsyncTcpStream::Plain(stream) = &stream {
        let _ = socket.set(Socket(another_handle(stream.get_ref())?));
    }
    // lapin asks for a stream once, as it is not told to recover by itself.
    let stream = Mutex::new(Some(stream));
    let hand_over = async move |_, _| {
        let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| std::io::Error::other("the connection was given up").into())
    };
    Connection::connector(address.uri(), runtime, hand_over, properties).await
}

#[cfg(unix)]
fn another_handle(stream: &tokio::net::TcpStream) -> std::io::Result<TcpStream> {
    use std::os::fd::AsFd;
    stream.as_fd().try_clone_to_owned().map(TcpStream::from)
}

#[cfg(windows)]
fn another_handle(stream: &tokio::net::TcpStream) -> std::io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;
    stream.as_socket().try_clone_to_owned().map(TcpStream::from)
}
