//! The stream that lapin reads from and writes to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;

use super::filter::Filter;
use super::ids;
use super::outgoing::{Next, OutgoingFilter};

/// The smallest buffer that is read into directly. Bytes for a smaller buffer are copied.
const MIN_BUFFER: usize = 4096;

/// The most bytes to check before a part of them is written. A socket takes no more at once.
const MAX_CHECKED: usize = 256 * 1024;

/// A connection's stream. It checks everything that the peer sends, and filters what lapin
/// writes.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    filter: Filter,
    outgoing: OutgoingFilter,
    /// The buffer to read into if the reader's own buffer is too small.
    spare: Vec<u8>,
}

impl<S> Guarded<S> {
    /// Guards a connection that asks for frames of at most `max_frame` bytes.
    pub(crate) fn new(stream: S, max_frame: u32) -> Self {
        Self {
            stream,
            filter: Filter::new(usize::try_from(max_frame).unwrap_or(usize::MAX)),
            outgoing: OutgoingFilter::new(),
            spare: Vec::new(),
        }
    }
}

impl<S: tokio::io::AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self {
            stream,
            filter,
            spare,
            ..
        } = self.get_mut();
        loop {
            let taken = filter.take_ready(buffer);
            if taken > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            let held = filter.held();
            let is_direct = buffer.len() >= held + MIN_BUFFER;
            let into = match is_direct {
                true => {
                    let most = buffer.len().min(held + filter.max_frame());
                    &mut buffer[held..most]
                }
                false => {
                    spare.resize(MIN_BUFFER, 0);
                    &mut spare[..]
                }
            };
            let mut into = ReadBuf::new(into);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut into))?;
            let read = into.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            match is_direct {
                true => {
                    let passed = filter.scan(&mut buffer[..held + read])?;
                    if passed > 0 {
                        return Poll::Ready(Ok(passed));
                    }
                }
                false => filter.scan_copied(&spare[..read])?,
            }
        }
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> Guarded<S> {
    /// Writes the pending bytes, which precede any others.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.pending().is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, self.outgoing.pending()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.wrote_pending(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        let bytes = &bytes[..bytes.len().min(MAX_CHECKED)];
        let passable = match this.outgoing.next(bytes) {
            Next::Write(passable) => passable,
            Next::Consumed(consumed) => return Poll::Ready(Ok(consumed)),
        };
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &bytes[..passable]))?;
        this.outgoing.wrote(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let is_long = parts.iter().map(|part| part.len()).sum::<usize>() > MAX_CHECKED;
        if is_long || ids::has_escaped_any() || !self.outgoing.passes(parts.iter().map(|part| &**part)) {
            let first = parts.iter().find(|part| !part.is_empty());
            return self.poll_write(cx, first.map_or(&[], |part| part));
        }
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, parts))?;
        let mut left = written;
        for part in parts {
            let from_part = left.min(part.len());
            this.outgoing.wrote(&part[..from_part]);
            left -= from_part;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
