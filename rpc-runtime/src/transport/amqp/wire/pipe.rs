//! Bytes on their way between lapin and the task that owns the socket. Does no I/O.

use std::io;
use std::task::{Context, Poll, Waker};

use super::super::guard::FrameStart;

/// How many bytes may wait in each direction, in addition to the last part that was given.
const MAX_WAITING: usize = 1024 * 1024;

/// The size of the header with which a connection begins: `AMQP` and a version.
const PROTOCOL_HEADER: usize = 8;

/// Bytes on their way between lapin and the driver.
#[derive(Default)]
pub(super) struct Pipe {
    /// For lapin to read.
    incoming: Vec<u8>,
    /// How many bytes of `incoming` were read.
    read: usize,
    /// Written by lapin. The last frame may be incomplete.
    outgoing: Vec<u8>,
    /// Whether lapin's protocol header was taken.
    has_begun: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// `Some` once the connection has ended: with the error, if there is one, until lapin has read
    /// it.
    end: Option<Option<io::Error>>,
    /// Whether lapin neither reads nor writes any more.
    pub(super) is_lapin_done: bool,
    /// How many bytes of lapin may wait. At least a frame, so that the driver can take one.
    max_outgoing: usize,
}

impl Pipe {
    /// A pipe of a connection with frames of at most this many bytes.
    pub(super) fn new(max_frame: usize) -> Self {
        Self {
            max_outgoing: max_frame.max(MAX_WAITING),
            ..Self::default()
        }
    }

    /// Moves lapin's protocol header and whole frames to the end of `frames`. Calls `closed` with
    /// each channel that they close.
    pub(super) fn take_frames(&mut self, frames: &mut Vec<u8>, mut closed: impl FnMut(u16)) {
        let mut whole = 0;
        if !self.has_begun {
            if self.outgoing.len() < PROTOCOL_HEADER {
                return;
            }
            self.has_begun = true;
            whole = PROTOCOL_HEADER;
        }
        loop {
            let rest = &self.outgoing[whole..];
            let mut start = FrameStart::default();
            let taken = start.take(rest);
            let is_whole = start.is_complete() && rest.len() - taken >= start.left();
            if !is_whole {
                break;
            }
            if start.closes_channel() {
                closed(start.channel());
            }
            whole += taken + start.left();
        }
        frames.extend(self.outgoing.drain(..whole));
        if self.outgoing.len() < self.max_outgoing
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }

    /// Gives bytes to lapin.
    pub(super) fn give(&mut self, bytes: &[u8]) {
        // Removes what lapin has read: a slow lapin may never read all that waits.
        self.incoming.drain(..std::mem::take(&mut self.read));
        self.incoming.extend_from_slice(bytes);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Whether so much waits for lapin that nothing more should be read from the socket. The driver
    /// is woken when that changes.
    pub(super) fn is_full(&self) -> bool {
        self.incoming.len() - self.read >= MAX_WAITING
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Ends the connection for lapin, which can still read what waits. The first end counts.
    pub(super) fn end(&mut self, error: Option<io::Error>) {
        self.end.get_or_insert(error);
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let unread = &self.incoming[self.read..];
        let taken = unread.len().min(buffer.len());
        if taken > 0 {
            buffer[..taken].copy_from_slice(&unread[..taken]);
            self.read += taken;
            if self.read == self.incoming.len() {
                self.incoming.clear();
                self.incoming.shrink_to(MAX_WAITING);
                self.read = 0;
            }
            return Poll::Ready(Ok(taken));
        }
        match &mut self.end {
            // The error once, and then the end of the stream.
            Some(error) => Poll::Ready(error.take().map_or(Ok(0), Err)),
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.outgoing.len() >= self.max_outgoing {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.outgoing.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}
