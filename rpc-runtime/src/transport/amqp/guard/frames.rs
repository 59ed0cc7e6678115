//! Finds the frames of AMQP 0-9-1 in the bytes of a connection as they arrive. Pure: no I/O.
//!
//! A frame has a type, a channel and a size in seven bytes, then a payload, and an end marker. The
//! scanner reports what the front of its input is. It stores no bytes: the caller owns them, and
//! takes as many as the scanner reports.

use super::violation::ProtocolViolation;

/// The length of what precedes a frame's payload: type, channel and size.
pub(in super::super) const PREFIX_LEN: usize = 7;

/// The number of bytes of a frame without its payload.
pub(in super::super) const OVERHEAD: usize = PREFIX_LEN + 1;

pub(in super::super) const FRAME_END: u8 = 0xCE;

/// The first bytes of a TLS alert: its type, and the first byte of its version. A TLS server
/// answers AMQP's protocol header with an alert.
const TLS_ALERT: [u8; 2] = [21, 3];

// The types of frames.

pub(in super::super) const METHOD: u8 = 1;
/// A content header: the properties of a message, among them its headers.
pub(in super::super) const HEADER: u8 = 2;
pub(in super::super) const BODY: u8 = 3;
pub(in super::super) const HEARTBEAT: u8 = 8;

/// What the front of the input is. `len` is how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Piece {
    /// A complete frame with a method.
    Method { len: usize },
    /// A complete frame with a content header.
    Header { len: usize },
    /// A frame with a part of a body, a heartbeat frame, or a part of such a frame.
    Opaque { len: usize },
    /// A part of a frame with a content header that is larger than the maximum.
    LargeHeader { len: usize, is_last: bool },
    /// Too few bytes to say more: a part of a prefix, of a TLS alert, or of a frame with a method
    /// or a content header, which is reported once it is complete.
    Incomplete,
    /// Not a valid frame. All later bytes are unknown too.
    Unknown { len: usize },
}

/// Where the next bytes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// At the start of the connection.
    ConnectionStart,
    /// At the start of a frame.
    FrameStart,
    /// Within a body or heartbeat frame.
    Opaque {
        left: usize,
    },
    LargeHeader {
        left: usize,
    },
    Unknown,
}

/// Finds where frames begin and end.
#[derive(Debug)]
pub(in super::super) struct Scanner {
    max_frame: usize,
    position: Position,
}

impl Scanner {
    /// Makes a scanner for a connection whose frames have at most `max_frame` bytes.
    pub(in super::super) fn new(max_frame: usize) -> Self {
        Self {
            max_frame,
            position: Position::ConnectionStart,
        }
    }

    /// Lowers the maximum size of a frame to this one. Does nothing if it is smaller already.
    pub(in super::super) fn lower_max_frame(&mut self, max_frame: usize) {
        self.max_frame = self.max_frame.min(max_frame);
    }

    /// How many of the next bytes are opaque for certain, whatever they are.
    pub(in super::super) fn opaque_left(&self) -> usize {
        match self.position {
            Position::Opaque { left } => left,
            _ => 0,
        }
    }

    /// Passes `len` [opaque](Self::opaque_left) bytes. There must be as many.
    pub(in super::super) fn skip_opaque(&mut self, len: usize) {
        let left = self.opaque_left().saturating_sub(len);
        self.advance(left, |left| Position::Opaque { left });
    }

    /// Reports what the front of the input is. The next input must begin after it. After
    /// [`Piece::Incomplete`], it must begin with the same bytes, and more.
    ///
    /// # Errors
    ///
    /// [`ProtocolViolation::TooLarge`] for a frame that is larger than the maximum and has no
    /// content header. [`ProtocolViolation::TlsAlert`] for a TLS alert at the start of the
    /// connection.
    pub(in super::super) fn next(&mut self, input: &[u8]) -> Result<Piece, ProtocolViolation> {
        let available = input.len();
        match self.position {
            Position::ConnectionStart if input.starts_with(&TLS_ALERT) => Err(ProtocolViolation::TlsAlert),
            Position::ConnectionStart if input == &TLS_ALERT[..1] => Ok(Piece::Incomplete),
            Position::ConnectionStart | Position::FrameStart => self.begin(input),
            Position::Opaque { left } => {
                let len = left.min(available);
                self.advance(left - len, |left| Position::Opaque { left });
                Ok(Piece::Opaque { len })
            }
            Position::LargeHeader { left } => {
                let len = left.min(available);
                self.advance(left - len, |left| Position::LargeHeader { left });
                Ok(Piece::LargeHeader {
                    len,
                    is_last: len == left,
                })
            }
            Position::Unknown => Ok(Piece::Unknown { len: available }),
        }
    }

    /// Sets the position after a part of a frame. `left` bytes of the frame are still to come.
    fn advance(&mut self, left: usize, position: impl FnOnce(usize) -> Position) {
        self.position = match left {
            0 => Position::FrameStart,
            left => position(left),
        };
    }

    /// Reports the frame that begins here, or its first part, and sets the position after that.
    fn begin(&mut self, input: &[u8]) -> Result<Piece, ProtocolViolation> {
        let kind = match input.first() {
            None => return Ok(Piece::Incomplete),
            Some(&kind @ (METHOD | HEADER | BODY | HEARTBEAT)) => kind,
            Some(_) => return Ok(self.pass_unknown(input)),
        };
        let Some(&[_, _, _, a, b, c, d]) = input.first_chunk::<PREFIX_LEN>() else {
            return Ok(Piece::Incomplete);
        };
        // A `usize` may have 32 bits.
        let size = u64::from(u32::from_be_bytes([a, b, c, d])) + OVERHEAD as u64;
        let max = self.max_frame;
        let is_large = size > max as u64;
        let too_large = ProtocolViolation::TooLarge { size, max };
        let len = usize::try_from(size).map_err(|_| too_large)?;
        match kind {
            HEADER if is_large => self.position = Position::LargeHeader { left: len },
            _ if is_large => return Err(too_large),
            BODY | HEARTBEAT => self.position = Position::Opaque { left: len },
            _ => return Ok(self.whole_frame(kind, len, input)),
        }
        self.next(input)
    }

    /// Reports a method or a content header of `len` bytes once it is complete.
    fn whole_frame(&mut self, kind: u8, len: usize, input: &[u8]) -> Piece {
        let Some(frame) = input.get(..len) else {
            return Piece::Incomplete;
        };
        if frame.last() != Some(&FRAME_END) {
            return self.pass_unknown(input);
        }
        self.position = Position::FrameStart;
        match kind {
            HEADER => Piece::Header { len },
            _ => Piece::Method { len },
        }
    }

    /// Passes everything from here on. lapin reports the error.
    fn pass_unknown(&mut self, input: &[u8]) -> Piece {
        self.position = Position::Unknown;
        Piece::Unknown { len: input.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{frame, frames};
    use super::*;
    use proptest::prelude::*;

    /// All pieces of an input that arrives in parts, as (kind, bytes). Consecutive pieces of the
    /// same kind are joined, unless they are complete frames with a method or a content header.
    fn pieces(input: &[u8], max_frame: usize, parts: &[usize]) -> Vec<(&'static str, usize)> {
        let mut scanner = Scanner::new(max_frame);
        let mut found: Vec<(&'static str, usize)> = Vec::new();
        let (mut seen, mut done) = (0, 0);
        for part in parts.iter().copied().chain([input.len()]) {
            seen = (seen + part).min(input.len());
            while done < seen {
                let (kind, len) = match scanner.next(&input[done..seen]).unwrap() {
                    Piece::Method { len } => ("method", len),
                    Piece::Header { len } => ("header", len),
                    Piece::Opaque { len } => ("opaque", len),
                    Piece::LargeHeader { len, .. } => ("large", len),
                    Piece::Unknown { len } => ("unknown", len),
                    Piece::Incomplete => break,
                };
                done += len;
                match found.last_mut() {
                    Some((last, bytes)) if *last == kind && !["method", "header"].contains(&kind) => {
                        *bytes += len;
                    }
                    _ => found.push((kind, len)),
                }
            }
        }
        found
    }

    #[test]
    fn each_frame_is_recognised_by_its_type() {
        let input = [
            frame(METHOD, 1, b"abcd"),
            frame(HEADER, 1, b"efg"),
            frame(BODY, 1, b"hi"),
            frame(HEARTBEAT, 0, b""),
        ]
        .concat();
        let expected = [("method", 12), ("header", 11), ("opaque", 18)];
        assert_eq!(pieces(&input, 100, &[]), expected);
    }

    #[test]
    fn a_large_header_is_reported_in_parts_and_any_other_large_frame_is_an_error() {
        let large = [frame(HEADER, 1, &[7; 100]), frame(BODY, 1, b"x")].concat();
        let mut scanner = Scanner::new(20);
        assert_eq!(
            scanner.next(&large[..50]),
            Ok(Piece::LargeHeader {
                len: 50,
                is_last: false
            })
        );
        assert_eq!(
            scanner.next(&large[50..]),
            Ok(Piece::LargeHeader {
                len: 58,
                is_last: true
            })
        );
        assert_eq!(scanner.next(&large[108..]), Ok(Piece::Opaque { len: 9 }));
        for kind in [METHOD, BODY, HEARTBEAT] {
            let error = ProtocolViolation::TooLarge { size: 21, max: 20 };
            assert_eq!(Scanner::new(20).next(&frame(kind, 1, &[0; 13])), Err(error));
        }
    }

    #[test]
    fn everything_after_an_invalid_frame_is_unknown() {
        let mut unended = frame(METHOD, 1, b"abcd");
        *unended.last_mut().unwrap() = 0;
        for input in [b"AMQP\0\0\x09\x01".to_vec(), b"\x15\x01\x03".to_vec(), unended] {
            let mut scanner = Scanner::new(100);
            assert_eq!(scanner.next(&input), Ok(Piece::Unknown { len: input.len() }));
            assert_eq!(
                scanner.next(&frame(METHOD, 1, b"")),
                Ok(Piece::Unknown { len: 8 })
            );
        }
    }

    #[test]
    fn a_tls_alert_is_recognised_at_the_start_only() {
        let alert = b"\x15\x03\x03\0\x02\x02\x0a";
        let mut scanner = Scanner::new(100);
        assert_eq!(scanner.next(&alert[..1]), Ok(Piece::Incomplete));
        assert_eq!(scanner.next(alert), Err(ProtocolViolation::TlsAlert));
        let mut scanner = Scanner::new(100);
        assert_eq!(scanner.next(&frame(METHOD, 1, b"")), Ok(Piece::Method { len: 8 }));
        assert_eq!(scanner.next(alert), Ok(Piece::Unknown { len: 7 }));
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_depend_on_the_parts(
            input in frames(),
            parts in prop::collection::vec(0..40_usize, 0..40),
        ) {
            prop_assert_eq!(pieces(&input, 200, &parts), pieces(&input, 200, &[]));
        }
    }
}
