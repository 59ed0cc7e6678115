//! Finds the frames of AMQP 0-9-1 in the bytes of a connection as they arrive. Pure: no I/O.
//!
//! A frame is a type, a channel and a size in seven bytes, a payload, and an end marker. The
//! scanner tells what the front of its input is, and borrows nothing: the caller has the bytes, and
//! takes as many of them as the scanner says. [`filter`](super::filter) is its only user so far.

use super::violation::ProtocolViolation;

/// What a frame has before its payload: a type, a channel, a size.
pub(super) const HEAD: usize = 7;

/// What a frame has beside its payload.
pub(super) const OVERHEAD: usize = HEAD + 1;

pub(super) const FRAME_END: u8 = 0xCE;

/// The first bytes of an alert of TLS: its type, and the first byte of its version. A TLS server
/// answers the protocol header of AMQP with one.
const TLS_ALERT: [u8; 2] = [21, 3];

/// The types of frames.
pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;

/// What is at the front of the input. `len` bytes of it belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// A whole frame with a method.
    Method { len: usize },
    /// A whole frame with a content header.
    Header { len: usize },
    /// A frame with a part of a body, or what there is of it.
    Body { len: usize },
    /// A heartbeat, or what there is of it.
    Heartbeat { len: usize },
    /// A part of a content header that is larger than a frame may be.
    LargeHeader { len: usize, is_last: bool },
    /// The front of a frame that has to be whole before it can be told what it is.
    Incomplete,
    /// No frame. Nothing is known about all that follows.
    Unknown { len: usize },
}

/// What the next bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// The first frame of the connection.
    Start,
    /// A new frame begins.
    Nothing,
    Body {
        left: usize,
    },
    Heartbeat {
        left: usize,
    },
    LargeHeader {
        left: usize,
    },
    Unknown,
}

/// Where one frame ends and the next begins.
#[derive(Debug)]
pub(super) struct Scanner {
    max: usize,
    within: Within,
}

impl Scanner {
    /// A scanner of a connection whose frames have at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            within: Within::Start,
        }
    }

    /// How many bytes a frame may have.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// From now on a frame may have no more than `max` bytes.
    pub(super) fn limit(&mut self, max: usize) {
        self.max = self.max.min(max);
    }

    /// Tells what the front of the input is. The next input begins behind it.
    ///
    /// # Errors
    ///
    /// [`ProtocolViolation::TooLarge`] for a method or a part of a body that is larger than a frame
    /// may be.
    pub(super) fn next(&mut self, input: &[u8]) -> Result<Piece, ProtocolViolation> {
        let available = input.len();
        match self.within {
            Within::Start if input.starts_with(&TLS_ALERT) => Err(ProtocolViolation::TlsAlert),
            Within::Start if input == &TLS_ALERT[..1] => Ok(Piece::Incomplete),
            Within::Start | Within::Nothing => self.begin(input),
            Within::Body { left } => {
                let len = left.min(available);
                self.go_on(left - len, |left| Within::Body { left });
                Ok(Piece::Body { len })
            }
            Within::Heartbeat { left } => {
                let len = left.min(available);
                self.go_on(left - len, |left| Within::Heartbeat { left });
                Ok(Piece::Heartbeat { len })
            }
            Within::LargeHeader { left } => {
                let len = left.min(available);
                self.go_on(left - len, |left| Within::LargeHeader { left });
                Ok(Piece::LargeHeader {
                    len,
                    is_last: len == left,
                })
            }
            Within::Unknown => Ok(Piece::Unknown { len: available }),
        }
    }

    fn go_on(&mut self, left: usize, within: impl FnOnce(usize) -> Within) {
        self.within = match left {
            0 => Within::Nothing,
            left => within(left),
        };
    }

    fn begin(&mut self, input: &[u8]) -> Result<Piece, ProtocolViolation> {
        let kind = match input.first() {
            None => return Ok(Piece::Incomplete),
            Some(&kind @ (METHOD | HEADER | BODY | HEARTBEAT)) => kind,
            Some(_) => return Ok(self.lose(input)),
        };
        let Some(&[_, _, _, a, b, c, d]) = input.first_chunk::<HEAD>() else {
            return Ok(Piece::Incomplete);
        };
        // A `usize` may have 32 bits.
        let size = u64::from(u32::from_be_bytes([a, b, c, d])) + OVERHEAD as u64;
        let is_large = size > self.max as u64;
        let Ok(len) = usize::try_from(size) else {
            return Err(ProtocolViolation::TooLarge { size, max: self.max });
        };
        match (kind, is_large) {
            (HEADER, true) => self.within = Within::LargeHeader { left: len },
            (_, true) => return Err(ProtocolViolation::TooLarge { size, max: self.max }),
            (BODY, false) => self.within = Within::Body { left: len },
            (HEARTBEAT, false) => self.within = Within::Heartbeat { left: len },
            (_, false) => {
                let Some(frame) = input.get(..len) else {
                    return Ok(Piece::Incomplete);
                };
                self.within = Within::Nothing;
                if frame.last() != Some(&FRAME_END) {
                    return Ok(self.lose(input));
                }
                return Ok(match kind {
                    HEADER => Piece::Header { len },
                    _ => Piece::Method { len },
                });
            }
        }
        self.next(input)
    }

    /// Whoever reads the frames stops at this one.
    fn lose(&mut self, input: &[u8]) -> Piece {
        self.within = Within::Unknown;
        Piece::Unknown { len: input.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{frame, frames};
    use super::*;
    use proptest::prelude::*;

    /// All pieces of an input that arrives in parts, as (kind, bytes); what belongs together is
    /// joined.
    fn pieces(input: &[u8], max: usize, parts: &[usize]) -> Vec<(&'static str, usize)> {
        let mut scanner = Scanner::new(max);
        let mut found: Vec<(&'static str, usize)> = Vec::new();
        let (mut seen, mut done) = (0, 0);
        for part in parts.iter().copied().chain([input.len()]) {
            seen = (seen + part).min(input.len());
            while done < seen {
                let (kind, len) = match scanner.next(&input[done..seen]).unwrap() {
                    Piece::Method { len } => ("method", len),
                    Piece::Header { len } => ("header", len),
                    Piece::Body { len } => ("body", len),
                    Piece::Heartbeat { len } => ("heartbeat", len),
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
    fn each_frame_is_told_by_its_type() {
        let input = [
            frame(METHOD, 1, b"abcd"),
            frame(HEADER, 1, b"efg"),
            frame(BODY, 1, b"hi"),
            frame(HEARTBEAT, 0, b""),
        ]
        .concat();
        let expected = [("method", 12), ("header", 11), ("body", 10), ("heartbeat", 8)];
        assert_eq!(pieces(&input, 100, &[]), expected);
    }

    #[test]
    fn a_header_that_is_too_large_is_told_in_parts_and_another_frame_is_an_error() {
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
        assert_eq!(scanner.next(&large[108..]), Ok(Piece::Body { len: 9 }));
        for kind in [METHOD, BODY, HEARTBEAT] {
            let error = ProtocolViolation::TooLarge { size: 21, max: 20 };
            assert_eq!(Scanner::new(20).next(&frame(kind, 1, &[0; 13])), Err(error));
        }
    }

    #[test]
    fn nothing_is_known_after_what_is_no_frame() {
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
    fn an_alert_of_tls_is_recognised_at_the_start_only() {
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
        fn the_parts_in_which_bytes_arrive_change_nothing(
            input in frames(),
            parts in prop::collection::vec(0..40_usize, 0..40),
        ) {
            prop_assert_eq!(pieces(&input, 200, &parts), pieces(&input, 200, &[]));
        }
    }
}
