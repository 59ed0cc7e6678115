//! lapin's runtime, whose streams are ours: that way lapin speaks over TLS without its own support for it.

use std::future::ready;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::compat::Compat;

/// A stream as lapin wants one.
type Stream = Compat<TlsStream<TcpStream>>;

/// The current tokio runtime.
///
/// # Panics
///
/// Outside of one.
pub(super) fn runtime() -> Runtime<RuntimeParts<Tokio, TlsReactor>> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), TlsReactor(tokio)))
}

/// Tokio's, but for the type of its streams. It makes none: lapin is given one that is connected.
#[derive(Debug, Clone)]
pub(super) struct TlsReactor(Tokio);

impl Reactor for TlsReactor {
    type TcpStream = Stream;
    type Sleep = <Tokio as Reactor>::Sleep;

    #[allow(refining_impl_trait_reachable, refining_impl_trait_internal)]
    fn register<H: Read + Write + Send + 'static>(&self, _: H) -> io::Result<Stream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
