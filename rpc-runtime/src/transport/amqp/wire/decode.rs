//! Decodes the methods of content that a broker sends. Pure: no I/O.

use lapin::ErrorKind;
use lapin::protocol::channel::AMQPMethod;
use lapin::protocol::{AMQPClass, AMQPError, parse_class};

use super::super::errors::broker_error;
use super::super::guard::{CLOSE, CLOSE_OK, Cursor};
use crate::error::BrokerError;
use crate::protocol::{CONTROL_EXCHANGE, ShortStr};

const RETURN: (u16, u16) = (60, 50);
const DELIVER: (u16, u16) = (60, 60);
const ACK: (u16, u16) = (60, 80);
const NACK: (u16, u16) = (60, 120);

/// A method of a broker, as far as it concerns the content of a channel.
#[derive(Debug)]
pub(super) enum Method {
    /// A message follows.
    Deliver(Deliver),
    /// A published message follows that could not be routed.
    Return {
        routing_key: ShortStr,
    },
    Confirm(Confirm),
    /// The channel is closed, with the broker's reason if it was the broker that closed it.
    Closed(BrokerError),
    /// Any other method. lapin handles it.
    Other,
}

#[derive(Debug)]
pub(super) struct Deliver {
    pub(super) tag: u64,
    pub(super) redelivered: bool,
    /// The routing key of a message that came through the control exchange.
    pub(super) control_key: Option<ShortStr>,
}

/// The broker's confirm of one message or, with `multiple`, of all messages up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Confirm {
    pub(in super::super) tag: u64,
    pub(in super::super) multiple: bool,
    pub(in super::super) is_ack: bool,
}

/// Decodes the payload of a method. Checks only the arguments of deliveries, returns and confirms.
/// `None` if these end too early or are followed by more bytes, or if the payload is too short to
/// name a method: lapin does not accept it either.
pub(super) fn method(payload: &[u8]) -> Option<Method> {
    let mut cursor = Cursor::new(payload);
    let [a, b, c, d] = cursor.chunk()?;
    let number = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let method = match number {
        DELIVER => {
            cursor.short()?; // The consumer tag.
            let tag = u64::from_be_bytes(cursor.chunk()?);
            let [redelivered] = cursor.chunk()?;
            let exchange = cursor.short()?;
            let routing_key = cursor.short()?;
            let is_control = exchange == CONTROL_EXCHANGE.as_bytes();
            Method::Deliver(Deliver {
                tag,
                redelivered: redelivered & 1 != 0,
                control_key: is_control.then(|| text(routing_key)).flatten(),
            })
        }
        RETURN => {
            cursor.take(2)?; // The reason, as a code.
            cursor.short()?; // The same as text.
            cursor.short()?; // The exchange.
            let routing_key = text(cursor.short()?)?;
            Method::Return { routing_key }
        }
        ACK | NACK => {
            let tag = u64::from_be_bytes(cursor.chunk()?);
            let [multiple] = cursor.chunk()?;
            Method::Confirm(Confirm {
                tag,
                multiple: multiple & 1 != 0,
                is_ack: number == ACK,
            })
        }
        CLOSE => return Some(Method::Closed(close_reason(payload))),
        // This side has closed the channel. What it sent has the same fate as on a lost connection.
        CLOSE_OK => return Some(Method::Closed(BrokerError::Lost { source: None })),
        _ => return Some(Method::Other),
    };
    cursor.is_at_end().then_some(method)
}

/// The broker's reason for closing a channel, as lapin reports it. [`BrokerError::Lost`] without a
/// source if the reason cannot be read.
fn close_reason(payload: &[u8]) -> BrokerError {
    let error = match parse_class(payload) {
        Ok((_, AMQPClass::Channel(AMQPMethod::Close(close)))) => {
            AMQPError::from_id(close.reply_code, close.reply_text)
        }
        _ => None,
    };
    match error {
        Some(error) => broker_error(ErrorKind::ProtocolError(error).into()),
        None => BrokerError::Lost { source: None },
    }
}

/// The text of a short string. `None` if it is not UTF-8, which the guard prevents.
pub(super) fn text(bytes: &[u8]) -> Option<ShortStr> {
    ShortStr::new(str::from_utf8(bytes).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::super::guard::samples::{self, deliver, short_string};
    use super::*;

    #[test]
    fn a_delivery_has_its_tag_and_the_key_of_a_control_message() {
        let mut payload = deliver(b"ctag", b"", b"q");
        // The tag follows the consumer tag.
        payload[9..17].copy_from_slice(&7_u64.to_be_bytes());
        payload[17] = 1;
        let Some(Method::Deliver(read)) = method(&payload) else {
            panic!("no delivery");
        };
        assert_eq!((read.tag, read.redelivered, read.control_key), (7, true, None));
        let control = deliver(b"", CONTROL_EXCHANGE.as_bytes(), b"worker");
        let Some(Method::Deliver(read)) = method(&control) else {
            panic!("no delivery");
        };
        assert!(!read.redelivered);
        assert_eq!(read.control_key, Some(ShortStr::from_static("worker")));
    }

    #[test]
    fn a_return_has_its_routing_key() {
        let arguments = [
            &312_u16.to_be_bytes()[..],
            &short_string(b"NO_ROUTE"),
            &short_string(b""),
            &short_string(b"missing"),
        ];
        let payload = samples::method((60, 50), &arguments.concat());
        let Some(Method::Return { routing_key }) = method(&payload) else {
            panic!("no return");
        };
        assert_eq!(routing_key.as_str(), "missing");
    }

    #[test]
    fn confirms_are_positive_or_negative() {
        for (number, is_ack) in [(80, true), (120, false)] {
            for multiple in [false, true] {
                let arguments = [&9_u64.to_be_bytes()[..], &[u8::from(multiple)]].concat();
                let Some(Method::Confirm(read)) = method(&samples::method((60, number), &arguments)) else {
                    panic!("no confirm");
                };
                let tag = 9;
                assert_eq!(
                    read,
                    Confirm {
                        tag,
                        multiple,
                        is_ack
                    }
                );
            }
        }
    }

    #[test]
    fn a_closed_channel_has_the_brokers_reason() {
        let close = |code: u16| {
            let arguments = [&code.to_be_bytes()[..], &short_string(b"NOT_FOUND - no"), &[0; 4]];
            match method(&samples::method((20, 40), &arguments.concat())) {
                Some(Method::Closed(reason)) => reason,
                other => panic!("{other:?}"),
            }
        };
        let reason = close(404);
        assert!(matches!(reason, BrokerError::ChannelClosed { .. }), "{reason:?}");
        assert!(
            crate::error::Chain(&reason)
                .to_string()
                .contains("NOT_FOUND - no")
        );
        // A code that AMQP does not know.
        assert!(matches!(close(1), BrokerError::Lost { .. }));
    }

    #[test]
    fn a_method_that_ends_too_early_is_none() {
        let whole = deliver(b"ctag", b"exchange", b"key");
        for len in 0..whole.len() {
            assert!(method(&whole[..len]).is_none(), "{len} bytes");
        }
        assert!(matches!(method(&[0, 50, 0, 11, 0]), Some(Method::Other)));
    }

    #[test]
    fn a_method_with_bytes_after_its_arguments_is_none() {
        let returned = samples::method((60, 50), b"\x01\x38\x08NO_ROUTE\0\x01q");
        let confirm = samples::method((60, 80), &[0; 9]);
        for whole in [deliver(b"ctag", b"", b"key"), returned, confirm] {
            assert!(method(&whole).is_some(), "{whole:?}");
            assert!(method(&[&whole[..], b"x"].concat()).is_none(), "{whole:?}");
        }
    }
}
