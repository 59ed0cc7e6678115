//! A runtime for lapin with our own type of streams. So lapin reads only what the guard has
//! checked, and its own support for TLS is not needed.

use std::fmt;
use std::future::ready;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::{AsyncRead, AsyncWrite};

/// The current tokio runtime, with `S` as the type of streams.
///
/// # Panics
///
/// Panics if called outside of a tokio runtime.
pub(super) fn runtime<S>() -> Runtime<RuntimeParts<Tokio, StreamReactor<S>>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let tokio = Tokio::current();
    let reactor = StreamReactor {
        tokio: tokio.clone(),
        stream: PhantomData,
    };
    Runtime::new(RuntimeParts::new(tokio, reactor))
}

/// Tokio's reactor with another type of streams. It cannot open any: lapin is given a stream that
/// is connected already.
pub(super) struct StreamReactor<S> {
    tokio: Tokio,
    stream: PhantomData<fn() -> S>,
}

impl<S> Clone for StreamReactor<S> {
    fn clone(&self) -> Self {
        Self {
            tokio: self.tokio.clone(),
            stream: PhantomData,
        }
    }
}

impl<S> fmt::Debug for StreamReactor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamReactor")
    }
}

impl<S> Reactor for StreamReactor<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type TcpStream = S;
    type Sleep = <Tokio as Reactor>::Sleep;

    #[allow(refining_impl_trait_reachable, refining_impl_trait_internal)]
    fn register<H: Read + Write + Send + 'static>(&self, _: H) -> io::Result<S> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
