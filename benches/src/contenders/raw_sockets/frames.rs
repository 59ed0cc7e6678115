//! The AMQP 0-9-1 frames that an echo needs: see section 4.2 of the specification.

use anyhow::{Context as _, bail, ensure};

/// The first bytes from a client.
pub(super) const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// The only channel.
pub(super) const CHANNEL: u16 = 1;

/// Class and method ids.
pub(super) type Method = (u16, u16);

pub(super) const START: Method = (10, 10);
pub(super) const START_OK: Method = (10, 11);
pub(super) const TUNE: Method = (10, 30);
pub(super) const TUNE_OK: Method = (10, 31);
pub(super) const OPEN: Method = (10, 40);
pub(super) const OPEN_OK: Method = (10, 41);
const CONNECTION_CLOSE: Method = (10, 50);
pub(super) const CHANNEL_OPEN: Method = (20, 10);
pub(super) const CHANNEL_OPEN_OK: Method = (20, 11);
const CHANNEL_CLOSE: Method = (20, 40);
pub(super) const QUEUE_DECLARE: Method = (50, 10);
pub(super) const QUEUE_DECLARE_OK: Method = (50, 11);
pub(super) const CONSUME: Method = (60, 20);
pub(super) const CONSUME_OK: Method = (60, 21);
const PUBLISH: Method = (60, 40);
const ACK: Method = (60, 80);

const METHOD_FRAME: u8 = 1;
const HEADER_FRAME: u8 = 2;
const BODY_FRAME: u8 = 3;
const FRAME_END: u8 = 0xce;

/// A frame has its kind, channel and size before the payload, and the end mark after it.
const BEFORE: usize = 7;
const AROUND: usize = BEFORE + 1;

/// The arguments of a method.
#[derive(Debug, Default)]
pub(super) struct Arguments(Vec<u8>);

impl Arguments {
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn short_string(self, text: &str) -> Self {
        let length = u8::try_from(text.len()).expect("our own names are short");
        self.bytes(&[length]).bytes(text.as_bytes())
    }

    pub(super) fn long_string(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("our own texts are short");
        self.bytes(&length.to_be_bytes()).bytes(bytes)
    }

    pub(super) fn empty_table(self) -> Self {
        self.bytes(&[0; 4])
    }
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("no payload is that large");
    let mut frame = Vec::with_capacity(payload.len() + AROUND);
    frame.push(kind);
    frame.extend_from_slice(&channel.to_be_bytes());
    frame.extend_from_slice(&size.to_be_bytes());
    frame.extend_from_slice(payload);
    frame.push(FRAME_END);
    frame
}

pub(super) fn method(channel: u16, method: Method, arguments: &Arguments) -> Vec<u8> {
    let (class, method) = method;
    let mut payload = Vec::with_capacity(4 + arguments.0.len());
    payload.extend_from_slice(&class.to_be_bytes());
    payload.extend_from_slice(&method.to_be_bytes());
    payload.extend_from_slice(&arguments.0);
    frame(METHOD_FRAME, channel, &payload)
}

/// Encodes a message to a queue through the default exchange: method, header and body.
pub(super) fn message(queue: &str, reply_to: Option<&str>, body: &[u8], frame_max: usize) -> Vec<u8> {
    let publish = Arguments::default()
        .bytes(&[0, 0])
        .short_string("")
        .short_string(queue)
        .bytes(&[0]);
    let mut frames = method(CHANNEL, PUBLISH, &publish);

    const CORRELATION_ID: u16 = 1 << 10;
    const REPLY_TO: u16 = 1 << 9;
    let flags = CORRELATION_ID | if reply_to.is_some() { REPLY_TO } else { 0 };
    let (class, _) = PUBLISH;
    let size = u64::try_from(body.len()).expect("a body fits into memory");
    // Nothing reads the id. It is there because every call has one.
    let mut header = Arguments::default()
        .bytes(&class.to_be_bytes())
        .bytes(&[0, 0])
        .bytes(&size.to_be_bytes())
        .bytes(&flags.to_be_bytes())
        .short_string("0000000000000000");
    if let Some(queue) = reply_to {
        header = header.short_string(queue);
    }
    frames.extend(frame(HEADER_FRAME, CHANNEL, &header.0));
    for part in body.chunks(frame_max - AROUND) {
        frames.extend(frame(BODY_FRAME, CHANNEL, part));
    }
    frames
}

/// Acknowledges all deliveries up to this one.
pub(super) fn ack_up_to(tag: u64) -> Vec<u8> {
    let up_to = Arguments::default().bytes(&tag.to_be_bytes()).bytes(&[1]);
    method(CHANNEL, ACK, &up_to)
}

/// Finds frames, and the ends of messages, in received bytes.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// The bytes that were not parsed yet.
    unread: Vec<u8>,
    /// How much of the current message's body is still to come.
    missing: u64,
}

impl Scanner {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// Returns the next method with its arguments, or `None` if more bytes are needed.
    pub(super) fn next_method(&mut self) -> anyhow::Result<Option<(Method, Vec<u8>)>> {
        let Some((kind, size)) = peek(&self.unread)? else {
            return Ok(None);
        };
        ensure!(kind == METHOD_FRAME, "a frame of kind {kind} instead of a method");
        let payload: Vec<u8> = self
            .unread
            .drain(..size + AROUND)
            .skip(BEFORE)
            .take(size)
            .collect();
        let method = method_of(&payload)?;
        refuse_close(method, &payload)?;
        Ok(Some((method, payload[4..].to_vec())))
    }

    /// Returns how many messages were completed since the last call.
    pub(super) fn complete_messages(&mut self) -> anyhow::Result<usize> {
        let (mut messages, mut from) = (0, 0);
        while let Some((kind, size)) = peek(&self.unread[from..])? {
            let payload = &self.unread[from + BEFORE..from + BEFORE + size];
            match kind {
                METHOD_FRAME => refuse_close(method_of(payload)?, payload)?,
                HEADER_FRAME => {
                    let size = payload.get(4..12).context("a header is cut short")?;
                    self.missing = u64::from_be_bytes(size.try_into()?);
                    messages += usize::from(self.missing == 0);
                }
                BODY_FRAME => {
                    let size = u64::try_from(size)?;
                    self.missing = self.missing.checked_sub(size).context("a body is too long")?;
                    messages += usize::from(self.missing == 0);
                }
                // A heartbeat.
                _ => {}
            }
            from += size + AROUND;
        }
        self.unread.drain(..from);
        Ok(messages)
    }
}

/// Returns kind and size of the first frame, once it is complete.
fn peek(bytes: &[u8]) -> anyhow::Result<Option<(u8, usize)>> {
    let Some(begin) = bytes.first_chunk::<BEFORE>() else {
        return Ok(None);
    };
    let &[kind, _, _, size @ ..] = begin;
    let size = usize::try_from(u32::from_be_bytes(size))?;
    match bytes.get(BEFORE + size) {
        None => Ok(None),
        Some(&FRAME_END) => Ok(Some((kind, size))),
        Some(other) => bail!("a frame ends with {other:#x}: this is no AMQP 0-9-1"),
    }
}

fn method_of(payload: &[u8]) -> anyhow::Result<Method> {
    let &[a, b, c, d] = payload.first_chunk().context("a method is cut short")?;
    Ok((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// # Errors
///
/// Fails with the broker's reason if the broker closes the channel or the connection.
fn refuse_close(method: Method, payload: &[u8]) -> anyhow::Result<()> {
    if matches!(method, CHANNEL_CLOSE | CONNECTION_CLOSE) {
        let reason = String::from_utf8_lossy(payload.get(7..).unwrap_or_default());
        bail!("the broker closed the connection: {reason}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_is_one_frame() {
        let expected =
            b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x50\x00\x00\x00\x00\x00\x00\x00\x07\x01\xce";
        assert_eq!(ack_up_to(7), expected);
    }

    #[test]
    fn a_message_is_a_method_a_header_and_bodies_that_fit() {
        let frames = message("q", Some("r"), b"hello", AROUND + 3);
        let mut expected = b"\x01\x00\x01\x00\x00\x00\x0a\x00\x3c\x00\x28\x00\x00\x00\x01q\x00\xce".to_vec();
        expected
            .extend(b"\x02\x00\x01\x00\x00\x00\x21\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\x06\x00");
        expected.extend(b"\x100000000000000000\x01r\xce");
        expected.extend(b"\x03\x00\x01\x00\x00\x00\x03hel\xce\x03\x00\x01\x00\x00\x00\x02lo\xce");
        assert_eq!(frames, expected);
    }

    #[test]
    fn messages_are_counted_wherever_they_are_cut() {
        let mut frames = message("q", None, b"hello", AROUND + 3);
        frames.extend(message("q", None, b"", 100));
        for cut in 0..=frames.len() {
            let mut scanner = Scanner::default();
            scanner.push(&frames[..cut]);
            let first = scanner.complete_messages().unwrap();
            scanner.push(&frames[cut..]);
            assert_eq!(first + scanner.complete_messages().unwrap(), 2, "cut at {cut}");
            assert!(scanner.unread.is_empty());
        }
    }

    #[test]
    fn a_close_is_an_error_with_its_reason() {
        let close = Arguments::default()
            .bytes(&[1, 148])
            .short_string("NOT_FOUND")
            .bytes(&[0; 4]);
        let mut scanner = Scanner::default();
        scanner.push(&method(CHANNEL, CHANNEL_CLOSE, &close));
        let error = scanner.complete_messages().unwrap_err().to_string();
        assert!(error.contains("NOT_FOUND"), "{error}");
    }
}
