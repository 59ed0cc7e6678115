//! Checks the frames that a broker sends, and repairs or replaces invalid ones. Pure: no I/O.

use super::channels::ChannelSet;
use super::content::{self, LargeHeaderReader};
use super::frames::{FRAME_END, HEADER, PREFIX_LEN, Piece, Scanner};
use super::methods::{self, MethodInfo};
use super::violation::ProtocolViolation;
use crate::protocol::Malformed;

/// Checks the bytes that a broker sends, in the reader's own buffer.
///
/// Most bytes stay where they are. The filter stores the front of a method or content header that
/// has not arrived completely. Once a frame has to be replaced, it also stores the replacement and
/// what follows that frame in the same buffer. A replacement may be larger than its frame, so the
/// filter stores at most a frame and a small multiple of a buffer.
#[derive(Debug)]
pub(crate) struct Filter {
    scanner: Scanner,
    /// The channels that the broker has closed. A `channel.close-ok` on one of them answers a
    /// `channel.close` that crossed the broker's own. lapin expects no answer any more.
    closed: ChannelSet,
    large_header: Option<LargeHeader>,
    /// The front of a frame that is incomplete and not checked yet.
    held: Vec<u8>,
    /// Checked bytes that follow those that passed.
    ready: Vec<u8>,
}

#[derive(Debug)]
struct LargeHeader {
    channel: [u8; 2],
    reader: LargeHeaderReader,
}

/// What to do with the front of the input.
enum Step {
    /// This many bytes pass. If they are a method, its strings may have been repaired in place.
    Pass(usize),
    /// This many bytes do not pass. What replaces them, if anything, is in `ready`.
    Remove(usize),
    /// Nothing can be decided before the rest of the frame arrives.
    Hold,
}

impl Filter {
    /// A filter for a connection that asks for frames of at most `max_frame` bytes.
    pub(crate) fn new(max_frame: usize) -> Self {
        Self {
            scanner: Scanner::new(max_frame),
            closed: ChannelSet::default(),
            large_header: None,
            held: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// How many bytes [`scan`](Self::scan) needs at the front of its buffer, before the new ones.
    pub(in super::super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes the bytes that follow those that passed. Methods, content headers and the prefixes of
    /// bodies are whole.
    pub(in super::super) fn take_ready(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ready)
    }

    /// How many of the next bytes pass unchanged, whatever they are: the rest of a heartbeat or of
    /// a frame with a part of a body, with its end marker. They need not be [scanned](Self::scan).
    pub(in super::super) fn unchecked(&self) -> usize {
        // Between scans, nothing is held or ready within such a frame.
        self.scanner.opaque_left()
    }

    /// Passes `len` [unchecked](Self::unchecked) bytes. There must be as many.
    pub(in super::super) fn skip(&mut self, len: usize) {
        self.scanner.skip_opaque(len);
    }

    /// Checks new bytes in place. The buffer has room for the [held](Self::held) bytes at its
    /// front, and then the new bytes. Returns how many bytes at the front of the buffer can be read
    /// now. The [ready](Self::take_ready) bytes follow. None may be ready when this is called.
    ///
    /// # Errors
    ///
    /// Fails if the peer violates the protocol. But what is not a valid frame passes, with all
    /// bytes after it, and lapin reports the error.
    pub(crate) fn scan(&mut self, buffer: &mut [u8]) -> Result<usize, ProtocolViolation> {
        buffer[..self.held.len()].copy_from_slice(&self.held);
        self.held.clear();
        let mut passed = 0;
        while passed < buffer.len() {
            match self.step(&mut buffer[passed..])? {
                Step::Pass(len) => passed += len,
                // All later bytes follow those in `ready`, so they have to go there, too.
                Step::Remove(len) => {
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

    /// Checks a copy of new bytes, and appends what passes or replaces them to the
    /// [ready](Self::take_ready) ones.
    ///
    /// # Errors
    ///
    /// Like [`scan`](Self::scan).
    pub(in super::super) fn scan_copied(&mut self, bytes: &[u8]) -> Result<(), ProtocolViolation> {
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let mut done = 0;
        while done < input.len() {
            match self.step(&mut input[done..])? {
                Step::Pass(len) => {
                    self.ready.extend_from_slice(&input[done..done + len]);
                    done += len;
                }
                Step::Remove(len) => done += len,
                Step::Hold => break,
            }
        }
        input.drain(..done);
        self.held = input;
        Ok(())
    }

    /// Checks the front of the input. Repairs a method in place, and makes a replacement ready.
    fn step(&mut self, input: &mut [u8]) -> Result<Step, ProtocolViolation> {
        Ok(match self.scanner.next(input)? {
            Piece::Opaque { len } | Piece::Unknown { len } => Step::Pass(len),
            Piece::Incomplete => Step::Hold,
            Piece::Method { len } => {
                let channel = u16::from_be_bytes([input[1], input[2]]);
                match methods::repair(&mut input[PREFIX_LEN..len - 1])? {
                    MethodInfo::Nothing => {}
                    MethodInfo::MaxFrame(max) => self.scanner.lower_max_frame(max),
                    MethodInfo::ChannelOpened => self.closed.remove(channel),
                    MethodInfo::ChannelClosed => self.closed.insert(channel),
                    MethodInfo::CloseConfirmed if self.closed.contains(channel) => {
                        return Ok(Step::Remove(len));
                    }
                    MethodInfo::CloseConfirmed => {}
                }
                Step::Pass(len)
            }
            Piece::Header { len } => {
                let payload = &input[PREFIX_LEN..len - 1];
                match content::check(payload) {
                    Ok(()) => Step::Pass(len),
                    Err(malformed) => {
                        self.replace([input[1], input[2]], payload, malformed);
                        Step::Remove(len)
                    }
                }
            }
            Piece::LargeHeader { len, is_last } => {
                // The first piece has at least the frame's prefix.
                let large = self.large_header.get_or_insert_with(|| LargeHeader {
                    channel: [input[1], input[2]],
                    reader: LargeHeaderReader::new(PREFIX_LEN),
                });
                // The last byte is the frame's end marker.
                large.reader.feed(&input[..len - usize::from(is_last)]);
                if is_last && let Some(large) = self.large_header.take() {
                    let payload = large.reader.into_payload();
                    self.replace(large.channel, &payload, Malformed::TooLarge);
                }
                Step::Remove(len)
            }
        })
    }

    /// Makes a frame ready that replaces a malformed content header.
    fn replace(&mut self, channel: [u8; 2], payload: &[u8], malformed: Malformed) {
        let start = self.ready.len();
        self.ready.push(HEADER);
        self.ready.extend_from_slice(&channel);
        // The payload's size, which is set once it is known.
        self.ready.extend_from_slice(&[0; 4]);
        content::append_replacement(payload, malformed, &mut self.ready);
        let size = self.ready.len() - start - PREFIX_LEN;
        let size = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
        self.ready[start + 3..start + PREFIX_LEN].copy_from_slice(&size);
        self.ready.push(FRAME_END);
    }
}
