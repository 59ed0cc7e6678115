//! Sockets with the faults and delays of real ones, which the tests choose.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// A socket that works until a test sets its [`Faults`].
pub(super) struct Socket {
    inner: DuplexStream,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Default)]
pub(super) struct Faults {
    /// The error of each read.
    pub(super) read: Option<io::ErrorKind>,
    /// The result of each write.
    pub(super) write: Option<Result<usize, io::ErrorKind>>,
    /// Runs within the next flush.
    pub(super) on_flush: Option<Box<dyn FnOnce() + Send>>,
    pub(super) never_shuts_down: bool,
    pub(super) was_shut_down: bool,
    /// How often the socket was written to.
    pub(super) writes: usize,
    /// How often the socket was written to since `write` was set.
    faulty_writes: usize,
}

impl Socket {
    pub(super) fn new(inner: DuplexStream) -> (Self, Arc<Mutex<Faults>>) {
        let faults = Arc::<Mutex<Faults>>::default();
        let socket = Self {
            inner,
            faults: Arc::clone(&faults),
        };
        (socket, faults)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let error = self.faults().read;
        match error {
            Some(error) => Poll::Ready(Err(error.into())),
            None => Pin::new(&mut self.inner).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = {
            let mut faults = self.faults();
            let result = faults.write;
            faults.writes += 1;
            faults.faulty_writes += usize::from(result.is_some());
            // It would never return to the runtime.
            assert!(faults.faulty_writes < 1000, "the driver writes again and again");
            result
        };
        match result {
            Some(result) => Poll::Ready(result.map_err(Into::into)),
            None => Pin::new(&mut self.inner).poll_write(cx, bytes),
        }
    }

    // All pieces at once, as a real socket does.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        self.poll_write(cx, &bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let on_flush = self.faults().on_flush.take();
        if let Some(on_flush) = on_flush {
            on_flush();
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let never_shuts_down = self.faults().never_shuts_down;
        if never_shuts_down {
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        self.faults().was_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// How many bytes a [`Tls`] stream takes or returns at once.
const RECORD: usize = 5;

/// A stream that behaves like TLS at its worst: it reads and writes a few bytes at once, has to be
/// polled twice for each step, and sends nothing before it is flushed.
pub(super) struct Tls {
    inner: DuplexStream,
    unsent: Vec<u8>,
    /// Whether the next step is done without a delay.
    is_due: bool,
}

impl Tls {
    pub(super) fn new(inner: DuplexStream) -> Self {
        Self {
            inner,
            unsent: Vec::new(),
            is_due: false,
        }
    }

    /// Is ready each second time.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.is_due = !self.is_due;
        if self.is_due {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut record = [0; RECORD];
        let mut part = ReadBuf::new(&mut record);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        buffer.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_due(cx));
        let taken = bytes.len().min(RECORD);
        self.unsent.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    // All pieces at once, as a real socket does.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        self.poll_write(cx, &bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.unsent.is_empty() {
            ready!(this.poll_due(cx));
            let sent = ready!(Pin::new(&mut this.inner).poll_write(cx, &this.unsent))?;
            this.unsent.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
