//! The task that owns the socket of a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::super::guard::{FRAME_END, Filter, HEARTBEAT, Next, OutgoingFilter};
use super::demux::Demux;
use super::lapin_stream::LapinStream;
use super::shared::{ContentChannel, Wire};
use crate::transport::catch_panic;

/// How many bytes to read at once, beside a frame that has arrived in part.
const READ_SIZE: usize = 64 * 1024;

/// How many bytes to write at once.
const WRITE_SIZE: usize = 128 * 1024;

/// The largest buffer to keep while it is empty.
const MAX_KEPT: usize = 1024 * 1024;

/// How long the last bytes may take after lapin has closed its end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How often lapin hears that the broker is alive while only content arrives. The shortest
/// heartbeat is a second.
const ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// Starts to drive a connection that asks for frames of at most `max_frame` bytes, in a task of the
/// current runtime. The task ends with the connection. `is_encrypted` is whether the stream is
/// TLS.
pub(in super::super) fn start<S>(stream: S, is_encrypted: bool, max_frame: usize) -> (Arc<Wire>, LapinStream)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let wire = Wire::new(max_frame);
    let driver = Driver {
        stream,
        is_encrypted,
        wire: Arc::clone(&wire),
        filter: Filter::new(max_frame),
        demux: Demux::new(),
        buffer: Vec::new(),
        to_lapin: Vec::new(),
        lapin_fed_at: Instant::now(),
        outgoing: OutgoingFilter::new(),
        from_lapin: Vec::new(),
        out: Vec::new(),
        out_written: 0,
        out_ours: 0,
        ours_before: 0,
        close_limit: None,
        is_flush_due: false,
    };
    // After a panic, the driver is dropped, which ends the connection.
    tokio::spawn(catch_panic("socket", driver));
    (Arc::clone(&wire), LapinStream::new(wire))
}

struct Driver<S> {
    stream: S,
    is_encrypted: bool,
    wire: Arc<Wire>,

    filter: Filter,
    demux: Demux<Arc<ContentChannel>>,
    /// The bytes that were read last.
    buffer: Vec<u8>,
    /// What lapin gets of them.
    to_lapin: Vec<u8>,
    /// When lapin last got something.
    lapin_fed_at: Instant,

    outgoing: OutgoingFilter,
    /// Frames of lapin that have yet to pass the filter. Empty between polls.
    from_lapin: Vec<u8>,
    /// The frames that are being written: ours, then lapin's.
    out: Vec<u8>,
    out_written: usize,
    /// How many bytes of `out` are ours.
    out_ours: usize,
    /// How many bytes of ours were written before `out`.
    ours_before: u64,
    is_flush_due: bool,
    /// Set once lapin has closed its end: when to give up what is left to write.
    close_limit: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.wire.driver_waker.register(cx.waker());
        let ended = ready!(this.drive(cx));
        this.wire.end(ended.err());
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Writes and reads until both have to wait, or the connection ends.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // If lapin was done before this write, its last frames were in it.
            let was_lapin_done = self.close_limit.is_some();
            let written = match self.write(cx) {
                Poll::Ready(Err(error)) => {
                    // Confirms and the broker's reason may have arrived before.
                    while let Poll::Ready(Ok(1..)) = self.read(false, cx) {}
                    return Poll::Ready(Err(error));
                }
                written => written,
            };
            let is_full = self.take_news();
            if let Some(limit) = &mut self.close_limit {
                if limit.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                if written.is_ready() && was_lapin_done {
                    // An error means that the connection is closed already.
                    let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                    return Poll::Ready(Ok(()));
                }
                if written.is_ready() {
                    // lapin may have written its last frames meanwhile.
                    continue;
                }
            }
            if ready!(self.read(is_full, cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes what happened outside of this task: takes over channels, and starts the time limit
    /// once lapin has closed its end. Returns whether reading has to pause until lapin has read.
    fn take_news(&mut self) -> bool {
        let news = self.wire.take_news();
        for content in news.attached {
            self.demux.attach(content.number(), content);
        }
        if news.is_lapin_done && self.close_limit.is_none() {
            self.close_limit = Some(Box::pin(tokio::time::sleep(CLOSE_LIMIT)));
        }
        news.is_full
    }

    /// Writes everything that is to be written.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.out_written < self.out.len() {
                let end = self.out.len().min(self.out_written + WRITE_SIZE);
                let unwritten = &self.out[self.out_written..end];
                let written = match ready!(Pin::new(&mut self.stream).poll_write(cx, unwritten)) {
                    Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                    written => written,
                };
                self.out_written = match &written {
                    Ok(written) => self.out_written + written,
                    // TLS may have sent a part before it failed.
                    Err(_) if self.is_encrypted => end,
                    Err(_) => self.out_written,
                };
                let ours = self.ours_before + self.out_written.min(self.out_ours) as u64;
                self.wire.written.store(ours, Ordering::Release);
                written?;
                self.is_flush_due = true;
            }
            self.take();
            if self.out.is_empty() {
                break;
            }
        }
        if self.is_flush_due {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_flush_due = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what is to be written next.
    fn take(&mut self) {
        self.out.clear();
        self.out.shrink_to(MAX_KEPT);
        self.ours_before = self.wire.take(&mut self.out, &mut self.from_lapin);
        self.out_ours = self.out.len();
        self.out_written = 0;
        let mut rest = &self.from_lapin[..];
        while !rest.is_empty() {
            match self.outgoing.next(rest) {
                Next::Write(len) => {
                    self.outgoing.wrote(&rest[..len]);
                    self.out.extend_from_slice(&rest[..len]);
                    rest = &rest[len..];
                }
                Next::Consumed(len) => {
                    self.out.extend_from_slice(self.outgoing.pending());
                    self.outgoing.wrote_pending(self.outgoing.pending().len());
                    rest = &rest[len..];
                }
            }
        }
        self.from_lapin.clear();
    }

    /// Reads once, unless lapin's pipe is full, and passes on what has arrived. Returns how many
    /// bytes that were: zero at the end of the connection.
    fn read(&mut self, is_full: bool, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if is_full {
            // lapin's next read wakes this task.
            return Poll::Pending;
        }
        // The filter fills the front with the bytes that it has held back.
        let held = self.filter.held();
        self.buffer.resize(held + READ_SIZE, 0);
        let mut into = ReadBuf::new(&mut self.buffer[held..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        let passed = self.filter.scan(&mut self.buffer[..held + read])?;
        self.demux.process(&self.buffer[..passed], &mut self.to_lapin)?;
        // A replaced frame, and the rest of the buffer.
        let rest = self.filter.take_ready();
        self.demux.process(&rest, &mut self.to_lapin)?;
        self.give_to_lapin();
        Poll::Ready(Ok(read))
    }

    fn give_to_lapin(&mut self) {
        // lapin ends a connection on which nothing arrives.
        let is_due = self.demux.has_channels() && self.lapin_fed_at.elapsed() >= ALIVE_INTERVAL;
        if self.to_lapin.is_empty() && is_due {
            self.to_lapin
                .extend_from_slice(&[HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END]);
        }
        if !self.to_lapin.is_empty() {
            self.wire.lock().pipe.give(&self.to_lapin);
            self.to_lapin.clear();
            self.lapin_fed_at = Instant::now();
        }
    }
}

impl<S> Drop for Driver<S> {
    /// If the connection has not ended by itself, the task has panicked or its runtime has ended.
    fn drop(&mut self) {
        let error = io::Error::other("the task of the connection has ended");
        self.wire.end(Some(error));
    }
}

#[cfg(test)]
mod tests;
