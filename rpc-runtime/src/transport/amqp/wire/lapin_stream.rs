//! The stream that lapin reads from and writes to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{AsyncRead, AsyncWrite};

use super::shared::Wire;

/// lapin's end of a connection.
pub(in super::super) struct LapinStream(Arc<Wire>);

impl LapinStream {
    pub(super) fn new(wire: Arc<Wire>) -> Self {
        Self(wire)
    }

    /// Makes the driver end the connection once everything is written.
    fn close(&self) {
        self.0.lock().pipe.is_lapin_done = true;
        self.0.driver_waker.wake();
    }
}

impl AsyncRead for LapinStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let (was_full, read) = {
            let mut shared = self.0.lock();
            (shared.pipe.is_full(), shared.pipe.poll_read(cx, buffer))
        };
        if was_full {
            self.0.driver_waker.wake();
        }
        read
    }
}

impl AsyncWrite for LapinStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.0.lock().pipe.poll_write(cx, bytes);
        self.0.driver_waker.wake();
        written
    }

    /// The driver flushes what it writes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for LapinStream {
    fn drop(&mut self) {
        self.close();
    }
}
