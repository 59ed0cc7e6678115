//! The task that owns the socket of a connection.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

use super::super::guard::{FRAME_END, Filter, HEARTBEAT, Next, OutgoingFilter};
use super::demux::Demux;
use super::gathering::Gathering;
use super::lapin_stream::LapinStream;
use super::outbox::{MAX_PIECES, Outbox};
use super::shared::{ContentChannel, Wire};
use crate::transport::catch_panic;

/// How many bytes to read at once, beside a frame that has arrived in part.
const READ_SIZE: usize = 64 * 1024;

/// How many bytes to read at once after a large body: what precedes the next one. The rest of that
/// body is read into its own buffer, unless the rest of its frame is shorter than this.
const SHORT_READ_SIZE: usize = 4 * 1024;

/// The smallest body after which reads are short.
const LARGE_BODY: u64 = 16 * 1024;

/// How many bytes to write at once. If this many wait, the driver does not pause for more.
const WRITE_SIZE: usize = 128 * 1024;

/// How long the last bytes may take after lapin has closed its end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How often lapin hears that the broker is alive while only content arrives. The shortest
/// heartbeat is a second.
const ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// Starts to drive a connection that asks for frames of at most `max_frame` bytes, in a task of the
/// current runtime. The task ends with the connection. `is_encrypted` is whether the stream is
/// TLS. Returns the connection, and the stream for lapin.
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
        has_backlog: false,
        to_lapin: Vec::new(),
        lapin_fed_at: Instant::now(),
        outgoing: OutgoingFilter::new(),
        from_lapin: Vec::new(),
        out: Outbox::default(),
        ours_left: 0,
        ours_written: 0,
        close_limit: None,
        is_flush_due: false,
        gathering: Gathering::default(),
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
    /// Whether the last read was full and did not end within a body of ours. More bytes probably
    /// wait then, so the next read is not short.
    has_backlog: bool,
    /// What lapin gets of the bytes that were read.
    to_lapin: Vec<u8>,
    /// When lapin last got something.
    lapin_fed_at: Instant,

    outgoing: OutgoingFilter,
    /// Frames of lapin that have yet to pass the filter. Empty between polls.
    from_lapin: Vec<u8>,
    /// The frames that are being written: ours, then lapin's.
    out: Outbox,
    /// How many bytes of `out` are ours.
    ours_left: usize,
    /// How many bytes of ours were written so far.
    ours_written: u64,
    is_flush_due: bool,
    gathering: Gathering,
    /// Set once lapin has closed its end: when to give up what is left to write.
    close_limit: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.wire.driver_waker.register(cx.waker());
        if this.try_pause() {
            // Wakes this task once the others that are ready have run. It is the runtime that
            // remembers this, not the future.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        let ended = ready!(this.drive(cx));
        this.wire.end(ended.err());
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Begins a pause before the next write, so that frames of other tasks can share the write.
    /// Returns whether the pause has begun. A write that goes on is not delayed.
    fn try_pause(&mut self) -> bool {
        self.out.is_empty() && self.gathering.try_pause(self.wire.waiting(), WRITE_SIZE)
    }

    /// Writes and reads until both have to wait, or the connection ends.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // If lapin was done before this write, its last frames were in it.
            let was_lapin_done = self.close_limit.is_some();
            let written = self.write(cx);
            if let Poll::Ready(Err(error)) = written {
                // Confirms and the broker's reason may have arrived before. They are read in large
                // pieces.
                while let Poll::Ready(Ok(1..)) = self.read(cx) {
                    self.has_backlog = true;
                }
                return Poll::Ready(Err(error));
            }
            let is_pipe_full = self.take_news();
            if let Some(limit) = &mut self.close_limit {
                if limit.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                if written.is_ready() {
                    if !was_lapin_done {
                        // lapin may have written its last frames meanwhile.
                        continue;
                    }
                    // An error means that the connection is closed already.
                    let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                    return Poll::Ready(Ok(()));
                }
            }
            if is_pipe_full {
                // lapin's next read wakes this task.
                return Poll::Pending;
            }
            if ready!(self.read(cx))? == 0 {
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

    /// Writes and flushes everything that is to be written.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.out.is_empty() {
                let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
                let (count, offered) = self.out.pieces(&mut pieces, WRITE_SIZE);
                let stream = Pin::new(&mut self.stream);
                let written = match ready!(stream.poll_write_vectored(cx, &pieces[..count])) {
                    Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                    written => written,
                };
                self.record_written(match &written {
                    Ok(written) => *written,
                    // TLS may have sent a part before it failed.
                    Err(_) if self.is_encrypted => offered,
                    Err(_) => 0,
                });
                written?;
                self.is_flush_due = true;
            }
            self.fill_out();
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

    /// Records that the socket has taken this many bytes, or may have.
    fn record_written(&mut self, len: usize) {
        self.out.advance(len);
        let ours = len.min(self.ours_left);
        self.ours_left -= ours;
        self.ours_written += ours as u64;
        self.wire.written.store(self.ours_written, Ordering::Release);
    }

    /// Takes what is to be written next: our frames, then lapin's as far as they pass the filter.
    fn fill_out(&mut self) {
        self.out.clear();
        self.wire.take(&mut self.out, &mut self.from_lapin);
        self.ours_left = self.out.len();
        let mut rest = &self.from_lapin[..];
        while !rest.is_empty() {
            match self.outgoing.next(rest) {
                Next::Write(len) => {
                    self.outgoing.wrote(&rest[..len]);
                    self.out.end().extend_from_slice(&rest[..len]);
                    rest = &rest[len..];
                }
                Next::Consumed(len) => {
                    self.out.end().extend_from_slice(self.outgoing.pending());
                    self.outgoing.wrote_pending(self.outgoing.pending().len());
                    rest = &rest[len..];
                }
            }
        }
        self.from_lapin.clear();
    }

    /// Reads once, and passes on what has arrived. Returns how many bytes that were: zero at the
    /// end of the connection.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(read) = self.read_body(cx) {
            return read;
        }
        let is_short = self.demux.last_body_size() >= LARGE_BODY && !self.has_backlog;
        let size = if is_short { SHORT_READ_SIZE } else { READ_SIZE };
        // The filter fills the front with the bytes that it has held back.
        let held = self.filter.held();
        if self.buffer.len() < held + size {
            self.buffer.resize(held + size, 0);
        }
        let mut into = ReadBuf::new(&mut self.buffer[held..held + size]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        let passed = self.filter.scan(&mut self.buffer[..held + read])?;
        self.demux.process(&self.buffer[..passed], &mut self.to_lapin)?;
        // If the filter has replaced a frame, these are the replacement and what follows it.
        let rest = self.filter.take_ready();
        self.demux.process(&rest, &mut self.to_lapin)?;
        self.has_backlog = read == size && self.demux.arriving_body().is_none();
        self.give_to_lapin();
        Poll::Ready(Ok(read))
    }

    /// Reads once into the buffer of the body whose frame is arriving. Returns `None` if the next
    /// bytes are something else, or if the rest of the frame is short.
    fn read_body(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        let (body, left) = self.demux.arriving_body()?;
        // The filter skips these bytes, so it has to be at the same position as the demux. It
        // counts the end marker too.
        let is_same_position = self.filter.unchecked() == left + 1;
        if left < SHORT_READ_SIZE || !is_same_position {
            return None;
        }
        body.reserve(left);
        let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut body.limit(left));
        if let Poll::Ready(Ok(len)) = read {
            self.demux.record_body(len);
            self.filter.skip(len);
            self.give_to_lapin();
        }
        Some(read)
    }

    fn give_to_lapin(&mut self) {
        // lapin ends a connection on which nothing arrives, so it gets a heartbeat now and then if
        // only content arrives.
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
