//! What the broker sends while calls are made: deliveries, confirms and returned messages.

use anyhow::{Context as _, bail, ensure};

use super::frames::{
    ACK, BODY_FRAME, CORRELATION_ID, DELIVER, HEADER_FRAME, METHOD_FRAME, NACK, REPLY_TO, RETURN, Scanner,
    body_size, method_of, refuse_close,
};

/// Something that has arrived completely.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    Delivery(&'a Delivery),
    /// The broker has this message; if `multiple`, also all before it.
    Confirm {
        tag: u64,
        multiple: bool,
    },
}

/// A delivered message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) tag: u64,
    pub(super) correlation_id: String,
    /// Empty if it has none.
    pub(super) reply_to: String,
    pub(super) body: Vec<u8>,
}

/// Puts frames together. The buffers of a delivery are used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    scanner: Scanner,
    delivery: Delivery,
    /// How much of the delivery's body is still to come.
    missing: u64,
}

impl Assembler {
    /// Returns where received bytes go.
    pub(super) fn scanner(&mut self) -> &mut Scanner {
        &mut self.scanner
    }

    /// Passes on what was completed since the last call.
    ///
    /// # Errors
    ///
    /// Fails if the broker returns or refuses a message, closes the channel or the connection, or
    /// sends another method or a malformed frame, and if `each` fails.
    pub(super) fn complete(
        &mut self,
        mut each: impl FnMut(Incoming<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self {
            scanner,
            delivery,
            missing,
        } = self;
        scanner.complete_frames(|kind, payload| {
            match kind {
                METHOD_FRAME => {
                    if let Some(confirm) = delivery.begin(payload)? {
                        each(confirm)?;
                    }
                    return Ok(());
                }
                HEADER_FRAME => {
                    *missing = body_size(payload)?;
                    delivery.read_header(payload)?;
                }
                BODY_FRAME => {
                    let size = u64::try_from(payload.len())?;
                    *missing = missing.checked_sub(size).context("a body is too long")?;
                    delivery.body.extend_from_slice(payload);
                }
                // A heartbeat.
                _ => return Ok(()),
            }
            match *missing {
                0 => each(Incoming::Delivery(delivery)),
                _ => Ok(()),
            }
        })
    }
}

impl Delivery {
    /// Reads a method. Returns a confirm, or begins a delivery and returns `None`.
    fn begin(&mut self, payload: &[u8]) -> anyhow::Result<Option<Incoming<'static>>> {
        let method = method_of(payload)?;
        refuse_close(method, payload)?;
        let mut arguments = FieldReader(&payload[4..]);
        match method {
            DELIVER => {
                // The consumer tag.
                arguments.short_string()?;
                self.tag = arguments.number()?;
                self.body.clear();
                Ok(None)
            }
            ACK => {
                let tag = arguments.number()?;
                let multiple = arguments.take(1)?[0] & 1 == 1;
                Ok(Some(Incoming::Confirm { tag, multiple }))
            }
            NACK => bail!("the broker refused a message"),
            RETURN => bail!("a message was returned: no queue takes it"),
            other => bail!("the broker sent the method {other:?}"),
        }
    }

    fn read_header(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        // After the class, the weight and the size of the body.
        let mut properties = FieldReader(payload.get(12..).context("a header is cut short")?);
        let flags = properties.flags()?;
        // Properties with higher flags would come before the correlation id. No message here has
        // any. Those with lower flags follow, and are not read.
        ensure!(flags >> 11 == 0, "a message has unknown properties");
        for (flag, text) in [
            (CORRELATION_ID, &mut self.correlation_id),
            (REPLY_TO, &mut self.reply_to),
        ] {
            text.clear();
            if flags & flag != 0 {
                text.push_str(properties.short_string()?);
            }
        }
        Ok(())
    }
}

/// Reads the arguments of a method, or the properties of a header.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn take(&mut self, length: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).context("a frame is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn flags(&mut self) -> anyhow::Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn number(&mut self) -> anyhow::Result<u64> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into()?))
    }

    fn short_string(&mut self) -> anyhow::Result<&'a str> {
        let length = self.take(1)?[0];
        Ok(std::str::from_utf8(self.take(length.into())?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::{Arguments as Written, CHANNEL, Method, Outgoing, method};
    use super::*;

    /// A message is delivered like it is published, with another method.
    fn delivered(tag: u64, message: &Outgoing<'_>) -> Vec<u8> {
        let deliver = Written::default()
            .short_string("consumer")
            .bytes(&tag.to_be_bytes())
            .bytes(&[0])
            .short_string("")
            .short_string(message.queue);
        let mut published = Vec::new();
        message.write(&mut published, 12);
        let method_frame = 8 + u32::from_be_bytes(published[3..7].try_into().unwrap()) as usize;
        [
            method(CHANNEL, DELIVER, &deliver),
            published.split_off(method_frame),
        ]
        .concat()
    }

    fn confirm(method_id: Method, tag: u64, multiple: u8) -> Vec<u8> {
        let arguments = Written::default().bytes(&tag.to_be_bytes()).bytes(&[multiple]);
        method(CHANNEL, method_id, &arguments)
    }

    fn all(assembler: &mut Assembler) -> anyhow::Result<Vec<String>> {
        let mut all = Vec::new();
        assembler.complete(|incoming| {
            all.push(match incoming {
                Incoming::Confirm { tag, multiple } => format!("confirm {tag} {multiple}"),
                Incoming::Delivery(it) => {
                    let body = String::from_utf8_lossy(&it.body);
                    format!("{} {} {} {body}", it.tag, it.correlation_id, it.reply_to)
                }
            });
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn everything_arrives_wherever_it_is_cut() {
        let request = Outgoing {
            correlation_id: "1",
            reply_to: Some("replies"),
            expiration: Some("60000"),
            body: b"hello",
            ..Default::default()
        };
        let reply = Outgoing {
            correlation_id: "2",
            ..Default::default()
        };
        let bytes = [
            delivered(7, &request),
            confirm(ACK, 3, 1),
            delivered(8, &reply),
            confirm(ACK, 4, 0),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let mut assembler = Assembler::default();
            assembler.scanner().push(&bytes[..cut]);
            let mut arrived = all(&mut assembler).unwrap();
            assembler.scanner().push(&bytes[cut..]);
            arrived.extend(all(&mut assembler).unwrap());
            let expected = ["7 1 replies hello", "confirm 3 true", "8 2  ", "confirm 4 false"];
            assert_eq!(arrived, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_message_that_the_broker_does_not_take_is_an_error() {
        for (frame, message) in [
            (confirm(NACK, 1, 0), "refused"),
            (method(CHANNEL, RETURN, &Written::default()), "returned"),
        ] {
            let mut assembler = Assembler::default();
            assembler.scanner().push(&frame);
            let error = all(&mut assembler).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
