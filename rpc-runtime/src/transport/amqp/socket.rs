//! The TCP socket under a connection, to be closed when nothing else helps.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::address::{Address, MAX_FRAME};
use super::guard::Guarded;
use super::runtime::runtime;
use super::tls::{self, TlsClient};

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

/// Connects, over TLS where there is a client for it; the socket is left in `socket` as soon as there is one, for who gives up
/// waiting.
pub(super) async fn connect(
    address: &Address,
    client: Option<&TlsClient>,
    properties: ConnectionProperties,
    socket: &OnceLock<Socket>,
    limit: Duration,
) -> lapin::Result<Connection> {
    let mut outcome = Err(io::Error::other("the host has no address"));
    let peers: Vec<_> = lookup_host(address.host_and_port()).await?.collect();
    // One that does not answer leaves the others their share of the time.
    let share = limit / u32::try_from(peers.len().max(1)).unwrap_or(u32::MAX);
    for peer in peers {
        let connecting = timeout(share, tokio::net::TcpStream::connect(peer)).await;
        outcome = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if outcome.is_ok() {
            break;
        }
    }
    let stream = outcome?;
    stream.set_nodelay(true)?;
    let _ = socket.set(Socket(another_handle(&stream)?));
    match client {
        Some(client) => tls::connect(client, address.uri(), stream, properties).await,
        None => hand_over(stream, address.uri(), properties).await,
    }
}

/// Has lapin speak AMQP over a stream, with a guard between them.
pub(super) async fn hand_over<S>(
    stream: S,
    uri: AMQPUri,
    properties: ConnectionProperties,
) -> lapin::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let max_frame = uri.query.frame_max.unwrap_or(MAX_FRAME);
    let stream = Once::new(Guarded::new(stream, max_frame));
    let connect = async move |_, _| Ok(AsyncTcpStream::Plain(stream.take()?));
    Connection::connector(uri, runtime(), connect, properties).await
}

/// A stream for lapin, which asks for one once, as it is not told to recover by itself.
struct Once<S>(Mutex<Option<S>>);

impl<S> Once<S> {
    fn new(stream: S) -> Self {
        Self(Mutex::new(Some(stream)))
    }

    fn take(&self) -> io::Result<S> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| io::Error::other("the connection was given up"))
    }
}

#[cfg(unix)]
fn another_handle(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::fd::AsFd;
    stream.as_fd().try_clone_to_owned().map(TcpStream::from)
}

#[cfg(windows)]
fn another_handle(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;
    stream.as_socket().try_clone_to_owned().map(TcpStream::from)
}

/// Whether a peer answers a greeting in TLS as only TLS does, be it with an alert.
///
/// What it answers to AMQP's first bytes does not tell: where it closes the socket over them, its alert may be lost.
pub(super) async fn speaks_tls(host_and_port: (&str, u16)) -> io::Result<bool> {
    // RFC 5246, 7.4.1.2: a record of 45 bytes with a ClientHello of 41 that asks for TLS 1.2, with nothing random in it (and nothing follows it),
    // no session, one cipher suite and no compression.
    const HELLO: [&[u8]; 3] = [
        b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03",
        &[0; 32],
        b"\x00\x00\x02\xc0\x2f\x01\x00",
    ];
    // The first byte of the version was never another.
    const ALERT: [u8; 2] = [21, 3];
    const HANDSHAKE: [u8; 2] = [22, 3];

    let mut stream = tokio::net::TcpStream::connect(host_and_port).await?;
    stream.write_all(&HELLO.concat()).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    Ok([ALERT, HANDSHAKE].contains(&answer))
}
