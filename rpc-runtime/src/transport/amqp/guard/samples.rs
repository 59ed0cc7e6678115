//! Valid and invalid frames for tests.

use proptest::collection::vec;
use proptest::prelude::*;

use super::frames::{BODY, FRAME_END, HEADER, HEARTBEAT, METHOD};
use crate::protocol::Property;

/// A complete frame.
pub(in super::super) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat()
}

/// The payload of a method.
pub(in super::super) fn method((class, method): (u16, u16), arguments: &[u8]) -> Vec<u8> {
    [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat()
}

/// A short string as it is sent.
pub(in super::super) fn short_string(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// A table, an array, a long string or a byte array as it is sent: its size, and its content.
pub(in super::super) fn table(entries: &[u8]) -> Vec<u8> {
    let size = u32::try_from(entries.len()).unwrap().to_be_bytes();
    [&size[..], entries].concat()
}

/// A table's entries with `levels` tables (`F`) or arrays (`A`) nested inside. The innermost holds
/// `innermost`.
pub(in super::super) fn nested(kind: u8, levels: usize, innermost: &[u8]) -> Vec<u8> {
    (1..=levels).rev().fold(innermost.to_vec(), |inner, level| {
        let value = [&[kind][..], &table(&inner)].concat();
        // The values in an array have no names.
        match kind == b'A' && level > 1 {
            true => value,
            false => [short_string(b"a"), value].concat(),
        }
    })
}

/// The payload of `basic.deliver`.
pub(in super::super) fn deliver(consumer_tag: &[u8], exchange: &[u8], routing_key: &[u8]) -> Vec<u8> {
    let strings = [short_string(exchange), short_string(routing_key)].concat();
    [
        &[0, 60, 0, 60],
        &short_string(consumer_tag)[..],
        &[0; 9],
        &strings,
    ]
    .concat()
}

/// Properties as they are sent.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct EncodedProperties([Option<Vec<u8>>; 14]);

impl EncodedProperties {
    pub(in super::super) fn set(&mut self, property: Property, bytes: Vec<u8>) {
        self.0[property as usize] = Some(bytes);
    }

    pub(in super::super) fn unset(&mut self, property: Property) {
        self.0[property as usize] = None;
    }
}

/// The payload of a content header.
pub(in super::super) fn content_header(
    body_size: u64,
    EncodedProperties(properties): &EncodedProperties,
) -> Vec<u8> {
    let mut flags = 0_u16;
    for (n, property) in properties.iter().enumerate() {
        if property.is_some() {
            flags |= 1 << (15 - n);
        }
    }
    let mut payload = [&[0, 60, 0, 0][..], &body_size.to_be_bytes(), &flags.to_be_bytes()].concat();
    payload.extend(properties.iter().flatten().flatten());
    payload
}

/// Generates a short string as it is sent.
fn name() -> impl Strategy<Value = Vec<u8>> {
    "[a-z0-9é.-]{0,40}".prop_map(|name| short_string(name.as_bytes()))
}

/// Generates the entries of a table, nested a few levels deep. Each value begins with the letter of
/// its type; these are all types that the guard knows (see `read_value` in `content.rs`).
fn table_entries() -> impl Strategy<Value = Vec<u8>> {
    // Numbers and the like, grouped by the length of their values.
    let fixed = |types: &'static [u8], length: usize| {
        (prop::sample::select(types), vec(any::<u8>(), length))
            .prop_map(|(kind, value)| [&[kind], &value[..]].concat())
    };
    // Long strings and byte arrays.
    let long = (prop::sample::select(&b"Sx"[..]), vec(any::<u8>(), 0..30))
        .prop_map(|(kind, value)| [&[kind], &table(&value)[..]].concat());
    let leaf = prop_oneof![
        fixed(b"tbB", 1),
        fixed(b"sUu", 2),
        fixed(b"Iif", 4),
        fixed(b"D", 5),
        fixed(b"LldT", 8),
        fixed(b"V", 0),
        long,
    ];
    // At most four levels, some twenty values in all, and at most three in each array or table.
    let value = leaf.prop_recursive(4, 20, 4, |inner| {
        let array = vec(inner.clone(), 0..4).prop_map(|values| [b"A", &table(&values.concat())[..]].concat());
        let nested_table = vec(
            (name(), inner).prop_map(|(name, value)| [name, value].concat()),
            0..4,
        )
        .prop_map(|entries| [b"F", &table(&entries.concat())[..]].concat());
        prop_oneof![array, nested_table]
    });
    vec(
        (name(), value).prop_map(|(name, value)| [name, value].concat()),
        0..5,
    )
    .prop_map(|entries| entries.concat())
}

/// Generates valid properties.
pub(in super::super) fn props() -> impl Strategy<Value = EncodedProperties> {
    let all: Vec<BoxedStrategy<Option<Vec<u8>>>> = Property::ALL
        .into_iter()
        .map(|property| {
            let value = match property {
                Property::Headers => table_entries().prop_map(|entries| table(&entries)).boxed(),
                Property::DeliveryMode | Property::Priority => vec(any::<u8>(), 1).boxed(),
                Property::Timestamp => vec(any::<u8>(), 8).boxed(),
                _ => name().boxed(),
            };
            prop::option::of(value).boxed()
        })
        .collect();
    all.prop_map(|all| {
        let mut properties = EncodedProperties::default();
        for (property, bytes) in Property::ALL.into_iter().zip(all) {
            if let Some(bytes) = bytes {
                properties.set(property, bytes);
            }
        }
        properties
    })
}

/// Generates a message as a broker delivers it: two frames or more.
pub(in super::super) fn message() -> impl Strategy<Value = Vec<u8>> {
    (1..5_u16, "[a-zé]{0,20}", props(), vec(any::<u8>(), 0..300)).prop_map(
        |(channel, key, properties, body)| {
            let deliver = frame(METHOD, channel, &deliver(b"ctag", b"", key.as_bytes()));
            let header = frame(HEADER, channel, &content_header(body.len() as u64, &properties));
            let bodies = body.chunks(100).map(|part| frame(BODY, channel, part));
            [deliver, header]
                .into_iter()
                .chain(bodies)
                .collect::<Vec<_>>()
                .concat()
        },
    )
}

/// Generates valid frames.
pub(in super::super) fn frames() -> impl Strategy<Value = Vec<u8>> {
    let other = prop_oneof![
        Just(frame(HEARTBEAT, 0, b"")),
        // basic.ack
        Just(frame(METHOD, 1, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0])),
    ];
    vec(prop_oneof![3 => message(), 1 => other], 0..6).prop_map(|frames| frames.concat())
}

/// Generates frames with some bytes changed.
pub(in super::super) fn mutated() -> impl Strategy<Value = Vec<u8>> {
    (frames(), vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}
