//! Messages as they travel, for tests and for the fuzzer.

use super::super::guard::{BODY, HEADER, METHOD, OVERHEAD, PREFIX_LEN, property_flag};
use super::encode;
use super::outbox::Outbox;
use super::properties::{RecentAddresses, content_header};
use crate::protocol::{Message, Property, ShortStr, body_of};

/// Reads a message: its properties as they are sent, flags first, and its body. `None` if they end
/// too early.
pub(crate) fn received(properties: &[u8], body: &[u8]) -> Option<Message> {
    let fixed = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes()].concat();
    let header = content_header(&[&fixed, properties].concat(), &mut RecentAddresses::default())?;
    Some(Message {
        properties: header.properties,
        body: body_of(body.to_vec()),
    })
}

/// Reads a message that has only headers: a table as it is sent, with its size. `None` if it ends
/// too early.
pub(crate) fn received_headers(table: &[u8]) -> Option<Message> {
    let flags = property_flag(Property::Headers).to_be_bytes();
    received(&[&flags, table].concat(), b"")
}

/// Encodes a message, and reads it again.
///
/// # Panics
///
/// Panics if it cannot be sent.
pub(crate) fn sent_and_received(message: &Message) -> Message {
    const MAX_FRAME: usize = 1 << 20;
    let mut sent = Outbox::default();
    let to = ("", &ShortStr::from_static("q"));
    encode::publish(&mut sent, 1, MAX_FRAME, to, true, message).expect("its properties fit into a frame");
    let (mut properties, mut body) = (Vec::new(), Vec::new());
    let sent = sent.to_vec();
    let mut rest = &sent[..];
    while let Some(&[kind, _, _, a, b, c, d]) = rest.first_chunk::<PREFIX_LEN>() {
        let len = u32::from_be_bytes([a, b, c, d]) as usize + OVERHEAD;
        let payload = &rest[PREFIX_LEN..len - 1];
        match kind {
            METHOD => {}
            // The class, the weight and the size of the body come first.
            HEADER => properties.extend_from_slice(&payload[12..]),
            BODY => body.extend_from_slice(payload),
            _ => panic!("a frame of type {kind}"),
        }
        rest = &rest[len..];
    }
    received(&properties, &body).expect("it is complete")
}
