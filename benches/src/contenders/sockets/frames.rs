//! The AMQP 0-9-1 frames that an echo needs: see section 4.2 of the specification.

use anyhow::{Context as _, bail, ensure};

/// The first bytes from a client.
pub(super) const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// The only channel that is opened. Frames about the connection have channel 0.
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
pub(super) const QOS: Method = (60, 10);
pub(super) const QOS_OK: Method = (60, 11);
pub(super) const CONSUME: Method = (60, 20);
pub(super) const CONSUME_OK: Method = (60, 21);
const PUBLISH: Method = (60, 40);
pub(super) const RETURN: Method = (60, 50);
pub(super) const DELIVER: Method = (60, 60);
pub(super) const ACK: Method = (60, 80);
pub(super) const NACK: Method = (60, 120);
pub(super) const CONFIRM_SELECT: Method = (85, 10);
pub(super) const CONFIRM_SELECT_OK: Method = (85, 11);

pub(super) const METHOD_FRAME: u8 = 1;
pub(super) const HEADER_FRAME: u8 = 2;
pub(super) const BODY_FRAME: u8 = 3;
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
        let mut arguments = self;
        write_short_string(&mut arguments.0, text);
        arguments
    }

    pub(super) fn long_string(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("our own texts are short");
        self.bytes(&length.to_be_bytes()).bytes(bytes)
    }

    pub(super) fn empty_table(self) -> Self {
        self.bytes(&[0; 4])
    }

    /// A table with one signed number. Like a long string, it begins with its length.
    pub(super) fn table_of(self, name: &str, value: i32) -> Self {
        let entry = Self::default()
            .short_string(name)
            .bytes(b"I")
            .bytes(&value.to_be_bytes());
        self.long_string(&entry.0)
    }
}

fn write_short_string(to: &mut Vec<u8>, text: &str) {
    to.push(u8::try_from(text.len()).expect("our own names are short"));
    to.extend_from_slice(text.as_bytes());
}

fn write_method(to: &mut Vec<u8>, (class, method): Method) {
    to.extend_from_slice(&class.to_be_bytes());
    to.extend_from_slice(&method.to_be_bytes());
}

fn write_frame(to: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    to.push(kind);
    to.extend_from_slice(&channel.to_be_bytes());
    let size = to.len()..to.len() + 4;
    to.extend_from_slice(&[0; 4]);
    payload(to);
    let length = u32::try_from(to.len() - size.end).expect("no payload is that large");
    to[size].copy_from_slice(&length.to_be_bytes());
    to.push(FRAME_END);
}

pub(super) fn method(channel: u16, method: Method, arguments: &Arguments) -> Vec<u8> {
    let mut frame = Vec::with_capacity(AROUND + 4 + arguments.0.len());
    write_frame(&mut frame, METHOD_FRAME, channel, |frame| {
        write_method(frame, method);
        frame.extend_from_slice(&arguments.0);
    });
    frame
}

/// The flags of the properties that messages here can have, in the order of the content header.
pub(super) const CORRELATION_ID: u16 = 1 << 10;
pub(super) const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;

/// A message to a queue through the default exchange.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outgoing<'a> {
    pub(super) queue: &'a str,
    pub(super) mandatory: bool,
    pub(super) correlation_id: &'a str,
    pub(super) reply_to: Option<&'a str>,
    /// In milliseconds.
    pub(super) expiration: Option<&'a str>,
    pub(super) body: &'a [u8],
}

impl Outgoing<'_> {
    /// Appends the frames of method, header and body.
    pub(super) fn write(&self, to: &mut Vec<u8>, frame_max: usize) {
        write_frame(to, METHOD_FRAME, CHANNEL, |to| {
            write_method(to, PUBLISH);
            // Reserved.
            to.extend_from_slice(&[0, 0]);
            write_short_string(to, "");
            write_short_string(to, self.queue);
            to.push(u8::from(self.mandatory));
        });
        write_frame(to, HEADER_FRAME, CHANNEL, |to| self.write_header(to));
        for part in self.body.chunks(frame_max - AROUND) {
            write_frame(to, BODY_FRAME, CHANNEL, |to| to.extend_from_slice(part));
        }
    }

    fn write_header(&self, to: &mut Vec<u8>) {
        let (class, _) = PUBLISH;
        let size = u64::try_from(self.body.len()).expect("a body fits into memory");
        let properties = [
            (Some(self.correlation_id), CORRELATION_ID),
            (self.reply_to, REPLY_TO),
            (self.expiration, EXPIRATION),
        ];
        let present = properties
            .iter()
            .filter_map(|(value, flag)| value.map(|value| (value, flag)));
        let flags = present.clone().fold(0, |flags, (_, flag)| flags | flag);
        to.extend_from_slice(&class.to_be_bytes());
        // The weight, which is unused.
        to.extend_from_slice(&[0, 0]);
        to.extend_from_slice(&size.to_be_bytes());
        to.extend_from_slice(&flags.to_be_bytes());
        for (value, _) in present {
            write_short_string(to, value);
        }
    }
}

/// Returns the frame that acknowledges all deliveries up to this one.
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
    ///
    /// # Errors
    ///
    /// Fails if the next frame is no method, or closes the channel or the connection.
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
    ///
    /// # Errors
    ///
    /// Fails if the broker closes the channel or the connection.
    pub(super) fn complete_messages(&mut self) -> anyhow::Result<usize> {
        let (mut messages, mut missing) = (0, self.missing);
        self.complete_frames(|kind, payload| {
            match kind {
                METHOD_FRAME => refuse_close(method_of(payload)?, payload)?,
                HEADER_FRAME => {
                    missing = body_size(payload)?;
                    messages += usize::from(missing == 0);
                }
                BODY_FRAME => {
                    let size = u64::try_from(payload.len())?;
                    missing = missing.checked_sub(size).context("a body is too long")?;
                    messages += usize::from(missing == 0);
                }
                // A heartbeat.
                _ => {}
            }
            Ok(())
        })?;
        self.missing = missing;
        Ok(messages)
    }

    /// Passes on the kind and the payload of each frame that was completed since the last call.
    pub(super) fn complete_frames(
        &mut self,
        mut each: impl FnMut(u8, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut from = 0;
        while let Some((kind, size)) = peek(&self.unread[from..])? {
            each(kind, &self.unread[from + BEFORE..from + BEFORE + size])?;
            from += size + AROUND;
        }
        self.unread.drain(..from);
        Ok(())
    }
}

/// Returns the kind of the first frame and the size of its payload, or `None` if it is not
/// complete.
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

/// Returns the size of the body that follows a header.
pub(super) fn body_size(header: &[u8]) -> anyhow::Result<u64> {
    let size = header.get(4..12).context("a header is cut short")?;
    Ok(u64::from_be_bytes(size.try_into()?))
}

pub(super) fn method_of(payload: &[u8]) -> anyhow::Result<Method> {
    let &[a, b, c, d] = payload.first_chunk().context("a method is cut short")?;
    Ok((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// # Errors
///
/// Fails with the broker's reason if the method closes the channel or the connection.
pub(super) fn refuse_close(method: Method, payload: &[u8]) -> anyhow::Result<()> {
    if matches!(method, CHANNEL_CLOSE | CONNECTION_CLOSE) {
        // The reason follows the ids (4 bytes), the reply code (2) and its own length (1).
        let reason = String::from_utf8_lossy(payload.get(7..).unwrap_or_default());
        bail!("the broker closed the connection: {reason}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Outgoing<'_> = Outgoing {
        queue: "q",
        mandatory: false,
        correlation_id: "0000000000000000",
        reply_to: None,
        expiration: None,
        body: b"hello",
    };

    #[test]
    fn an_ack_is_one_frame() {
        let expected =
            b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x50\x00\x00\x00\x00\x00\x00\x00\x07\x01\xce";
        assert_eq!(ack_up_to(7), expected);
    }

    #[test]
    fn a_message_is_a_method_a_header_and_bodies_that_fit() {
        let mut frames = Vec::new();
        Outgoing {
            reply_to: Some("r"),
            ..HELLO
        }
        .write(&mut frames, AROUND + 3);
        let mut expected = b"\x01\x00\x01\x00\x00\x00\x0a\x00\x3c\x00\x28\x00\x00\x00\x01q\x00\xce".to_vec();
        expected
            .extend(b"\x02\x00\x01\x00\x00\x00\x21\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\x06\x00");
        expected.extend(b"\x100000000000000000\x01r\xce");
        expected.extend(b"\x03\x00\x01\x00\x00\x00\x03hel\xce\x03\x00\x01\x00\x00\x00\x02lo\xce");
        assert_eq!(frames, expected);
    }

    #[test]
    fn messages_are_counted_wherever_they_are_cut() {
        let mut frames = Vec::new();
        HELLO.write(&mut frames, AROUND + 3);
        Outgoing { body: b"", ..HELLO }.write(&mut frames, 100);
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
