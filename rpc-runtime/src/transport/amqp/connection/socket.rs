//! The TCP socket of a connection.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::super::wire::{self, Wire};
use super::address::{Address, DEFAULT_MAX_FRAME};
use super::lapin_runtime::runtime;
use super::tls::TlsClient;

/// A duplicate of a connection's socket, to shut it down.
///
/// lapin has no timeout for a silent peer: neither in its handshake, nor when it closes, nor while
/// the broker reads nothing. It waits in a thread of its own, which ends once the socket is shut
/// down.
#[derive(Debug)]
pub(super) struct Socket(TcpStream);

impl Socket {
    /// Shuts the socket down in both directions. Unsent data is lost.
    pub(super) fn shut_down(&self) {
        // An error means that the socket is disconnected already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Connects, over TLS if `client` is given. Sets `socket` as soon as the TCP connection is open, so
/// that a caller that gives up can shut it down. `limit` applies only to connecting by TCP.
///
/// Returns lapin's connection, and the wire, which carries the content of our channels past lapin.
pub(super) async fn connect(
    address: &Address,
    client: Option<&TlsClient>,
    properties: ConnectionProperties,
    socket: &OnceLock<Socket>,
    limit: Duration,
) -> lapin::Result<(Connection, Arc<Wire>)> {
    let stream = connect_tcp(address.host_and_port(), limit).await?;
    stream.set_nodelay(true)?;
    let _ = socket.set(Socket(duplicate(&stream)?));
    let (uri, is_encrypted) = (address.uri(), client.is_some());
    match client {
        Some(client) => {
            let (host, _) = address.host_and_port();
            let stream = client.handshake(host, stream).await?;
            open(stream, is_encrypted, uri, properties).await
        }
        None => open(stream, is_encrypted, uri, properties).await,
    }
}

/// Connects to the first of the host's addresses that accepts, within `limit` after their lookup.
async fn connect_tcp(host_and_port: (&str, u16), limit: Duration) -> io::Result<tokio::net::TcpStream> {
    let peers: Vec<_> = lookup_host(host_and_port).await?.collect();
    // Each address gets an equal share of the limit, so that a silent one leaves time for the
    // others.
    let share = limit / u32::try_from(peers.len().max(1)).unwrap_or(u32::MAX);
    let mut last_error = io::Error::other("the host has no address");
    for peer in peers {
        match timeout(share, tokio::net::TcpStream::connect(peer)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last_error = error,
            Err(_) => last_error = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last_error)
}

/// Opens an AMQP connection over a stream.
async fn open<S>(
    stream: S,
    is_encrypted: bool,
    uri: AMQPUri,
    properties: ConnectionProperties,
) -> lapin::Result<(Connection, Arc<Wire>)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let max_frame = uri.query.frame_max.unwrap_or(DEFAULT_MAX_FRAME);
    let (wire, stream) = wire::start(
        stream,
        is_encrypted,
        usize::try_from(max_frame).unwrap_or(usize::MAX),
    );
    let stream = SingleUse::new(stream);
    // lapin must not add TLS: if the address asks for it, the wire's own stream is encrypted.
    let connect = async move |_, _| Ok(AsyncTcpStream::Plain(stream.take()?));
    let connection = Connection::connector(uri, runtime(), connect, properties).await?;
    Ok((connection, wire))
}

/// A stream for lapin. lapin asks for it once, because its own recovery is not enabled.
struct SingleUse<S>(Mutex<Option<S>>);

impl<S> SingleUse<S> {
    fn new(stream: S) -> Self {
        Self(Mutex::new(Some(stream)))
    }

    fn take(&self) -> io::Result<S> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| io::Error::other("the stream was already taken"))
    }
}

#[cfg(unix)]
fn duplicate(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::fd::AsFd;
    stream.as_fd().try_clone_to_owned().map(TcpStream::from)
}

#[cfg(windows)]
fn duplicate(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;
    stream.as_socket().try_clone_to_owned().map(TcpStream::from)
}
