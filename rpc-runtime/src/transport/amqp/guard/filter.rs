//! Passes the frames of a connection on, checked and mended. Pure: no I/O.

use super::content::{self, Skimmer};
use super::frames::{FRAME_END, HEAD, HEADER, Piece, Scanner};
use super::methods::{self, Note};
use super::violation::ProtocolViolation;
use crate::protocol::Malformed;

/// Checks what a broker sends, in the buffer of whoever reads it.
///
/// Most bytes stay where they are. Kept here are the front of a frame that has not come whole, and,
/// once a frame has to be replaced, what follows it in the same buffer. That is no more than two
/// frames and one buffer.
#[derive(Debug)]
pub(crate) struct Filter {
    scanner: Scanner,
    skimmer: Option<LargeHeader>,
    /// Not yet looked at: the front of a frame that is not whole.
    held: Vec<u8>,
    /// Looked at, and to be read before anything else. The first `read` bytes of it were.
    ready: Vec<u8>,
    read: usize,
}

#[derive(Debug)]
struct LargeHeader {
    channel: [u8; 2],
    skimmer: Skimmer,
}

/// What becomes of the front of the input.
enum Step {
    /// So many bytes pass.
    Pass(usize),
    /// So many bytes do not. What is to be read instead is ready.
    Replaced(usize),
    /// More has to come.
    Hold,
}

impl Filter {
    /// A filter for a connection that asks for frames of at most `max_frame` bytes.
    pub(crate) fn new(max_frame: usize) -> Self {
        Self {
            scanner: Scanner::new(max_frame),
            skimmer: None,
            held: Vec::new(),
            ready: Vec::new(),
            read: 0,
        }
    }

    /// How many bytes a frame may have.
    pub(super) fn max_frame(&self) -> usize {
        self.scanner.max()
    }

    /// How many bytes [`scan`](Self::scan) needs in front of new ones.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Moves what is ready to be read to the buffer, and returns how much that is.
    pub(super) fn take_ready(&mut self, buffer: &mut [u8]) -> usize {
        let ready = &self.ready[self.read..];
        let taken = ready.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&ready[..taken]);
        self.read += taken;
        if self.read == self.ready.len() {
            self.ready.clear();
            self.read = 0;
        }
        taken
    }

    /// Looks at new bytes in the buffer that they are to be read from, with room for those
    /// [held](Self::held) in front. Returns how many at the front of the buffer can be read now.
    /// Nothing may be ready before.
    ///
    /// # Errors
    ///
    /// If the peer does not speak as a broker does.
    pub(crate) fn scan(&mut self, buffer: &mut [u8]) -> Result<usize, ProtocolViolation> {
        buffer[..self.held.len()].copy_from_slice(&self.held);
        self.held.clear();
        let mut passed = 0;
        while passed < buffer.len() {
            match self.step(&mut buffer[passed..])? {
                Step::Pass(len) => passed += len,
                Step::Replaced(len) => {
                    self.scan_copied(&buffer[passed + len..])?;
                    break;
                }
                Step::Hold => {
                    self.held.extend_from_slice(&buffer[passed..]);
                    break;
                }
            }
        }
        Ok(passed)
    }

    /// Looks at new bytes and makes them ready.
    ///
    /// # Errors
    ///
    /// As [`scan`](Self::scan).
    pub(super) fn scan_copied(&mut self, bytes: &[u8]) -> Result<(), ProtocolViolation> {
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let mut done = 0;
        while done < input.len() {
            match self.step(&mut input[done..])? {
                Step::Pass(len) => {
                    self.ready.extend_from_slice(&input[done..done + len]);
                    done += len;
                }
                Step::Replaced(len) => done += len,
                Step::Hold => break,
            }
        }
        input.drain(..done);
        self.held = input;
        Ok(())
    }

    fn step(&mut self, input: &mut [u8]) -> Result<Step, ProtocolViolation> {
        Ok(match self.scanner.next(input)? {
            Piece::Body { len } | Piece::Heartbeat { len } | Piece::Unknown { len } => Step::Pass(len),
            Piece::Incomplete => Step::Hold,
            Piece::Method { len } => {
                if let Note::MaxFrame(max) = methods::mend(&mut input[HEAD..len - 1])? {
                    self.scanner.limit(max);
                }
                Step::Pass(len)
            }
            Piece::Header { len } => {
                let payload = &input[HEAD..len - 1];
                match content::check(payload) {
                    Ok(()) => Step::Pass(len),
                    Err(malformed) => {
                        self.replace([input[1], input[2]], payload, malformed);
                        Step::Replaced(len)
                    }
                }
            }
            Piece::LargeHeader { len, is_last } => {
                let large = self.skimmer.get_or_insert_with(|| LargeHeader {
                    channel: [input[1], input[2]],
                    skimmer: Skimmer::after(HEAD),
                });
                // The last byte is the frame's end.
                large.skimmer.feed(&input[..len - usize::from(is_last)]);
                if is_last && let Some(large) = self.skimmer.take() {
                    let payload = large.skimmer.into_payload();
                    self.replace(large.channel, &payload, Malformed::TooLarge);
                }
                Step::Replaced(len)
            }
        })
    }

    /// Makes a frame ready that says the same as a malformed content header.
    fn replace(&mut self, [high, low]: [u8; 2], payload: &[u8], malformed: Malformed) {
        let start = self.ready.len();
        self.ready.extend_from_slice(&[HEADER, high, low, 0, 0, 0, 0]);
        content::replace(payload, malformed, &mut self.ready);
        let size = self.ready.len() - start - HEAD;
        let size = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
        self.ready[start + 3..start + HEAD].copy_from_slice(&size);
        self.ready.push(FRAME_END);
    }
}
