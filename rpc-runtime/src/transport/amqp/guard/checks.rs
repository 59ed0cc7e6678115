//! Checks of the guard that hold for any input, for tests and for the fuzzer.

use lapin::protocol::basic::parse_properties;
use lapin::protocol::parse_class;

use super::filter::Filter;
use super::frames::{BODY, FRAME_END, HEADER, HEARTBEAT, METHOD, OVERHEAD, PREFIX_LEN};
use super::violation::ProtocolViolation;
use super::{content, cursor};
use crate::protocol::Property;

/// Passes an input through a filter and returns the output.
///
/// Each number in `parts` chooses the next part: half of the number is its size. The part is
/// scanned in place if the number is even, and copied otherwise. After the last number, each part
/// is half of what is left.
pub(super) fn filter_in_parts(
    input: &[u8],
    max_frame: usize,
    parts: impl IntoIterator<Item = usize>,
) -> Result<Vec<u8>, ProtocolViolation> {
    let mut filter = Filter::new(max_frame);
    let mut output = Vec::new();
    let mut rest = input;
    let mut parts = parts.into_iter();
    while !rest.is_empty() {
        let number = parts.next().unwrap_or(rest.len());
        let (now, later) = rest.split_at((number / 2).clamp(1, rest.len()));
        rest = later;
        if number.is_multiple_of(2) {
            let mut buffer = vec![0; filter.held()];
            buffer.extend_from_slice(now);
            let passed = filter.scan(&mut buffer)?;
            output.extend_from_slice(&buffer[..passed]);
        } else {
            filter.scan_copied(now)?;
        }
        // Only an incomplete frame is held.
        assert!(filter.held() <= max_frame);
        output.extend(filter.take_ready());
    }
    Ok(output)
}

/// The complete and valid frames at the front of these bytes, as type and payload.
fn split_frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let Some(&[kind, _, _, a, b, c, d]) = bytes.first_chunk::<PREFIX_LEN>() {
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(frame) = bytes.get(..size.saturating_add(OVERHEAD)) else {
            break;
        };
        let is_known = matches!(kind, METHOD | HEADER | BODY | HEARTBEAT);
        if !is_known || frame.last() != Some(&FRAME_END) {
            break;
        }
        frames.push((kind, &frame[PREFIX_LEN..PREFIX_LEN + size]));
        bytes = &bytes[size + OVERHEAD..];
    }
    frames
}

/// Whether lapin can read a frame with this type and payload.
pub(super) fn is_readable(kind: u8, payload: &[u8]) -> bool {
    match kind {
        METHOD => parse_class(payload).is_ok_and(|(rest, _)| rest.is_empty()),
        // The class, the weight and the body's size come before the property flags.
        HEADER => payload
            .get(12..)
            .is_some_and(|bytes| parse_properties(bytes).is_ok_and(|(rest, _)| rest.is_empty())),
        _ => true,
    }
}

/// The maximum size of a frame in the checks of any bytes.
const MAX_FRAME: usize = 4096;

/// Passes bytes through the guard as the bytes of a connection, and as the properties and the
/// routing key of a delivery. The first byte only says how the others are split.
///
/// # Panics
///
/// Panics if the guard fails a check.
pub(crate) fn check_any_bytes(data: &[u8]) {
    let Some((&step, data)) = data.split_first() else {
        return;
    };
    let in_halves = filter_in_parts(data, MAX_FRAME, []);
    // Numbers that look random, from the first byte of the input.
    let parts = std::iter::successors(Some(usize::from(step)), |part| Some((part * 7 + 3) % 61));
    assert_eq!(filter_in_parts(data, MAX_FRAME, parts), in_halves);
    check_as_properties(data);
    check_as_routing_key(data);
}

/// Passes bytes through the guard as the property flags and the properties of a content header.
fn check_as_properties(data: &[u8]) {
    let data = &data[..data.len().min(MAX_FRAME - OVERHEAD - 12)];
    let payload = [&[0, 60, 0, 0][..], &[0, 0, 0, 0, 0, 0, 0, 9], data].concat();
    let framed = [
        &[HEADER, 0, 1][..],
        &u32::try_from(payload.len()).unwrap_or_default().to_be_bytes(),
        &payload,
        &[FRAME_END],
    ]
    .concat();
    let Ok(output) = filter_in_parts(&framed, MAX_FRAME, []) else {
        panic!("a content header was an error");
    };
    let [(HEADER, read)] = split_frames(&output)[..] else {
        panic!("the output is not one content header");
    };
    if payload.len() < cursor::FIXED_LEN {
        // Too short for a content header, so what reads next reports the error.
        assert_eq!(output, framed);
    } else {
        assert!(is_readable(HEADER, read));
        assert_eq!(read[..12], payload[..12]);
        match content::check(&payload) {
            Ok(()) => assert_eq!(output, framed),
            Err(_) => {
                let (_, properties) = parse_properties(&read[12..]).unwrap_or_else(|_| unreachable!());
                assert!(super::mark::read(&properties).is_some());
                let flags = u16::from_be_bytes([payload[12], payload[13]]);
                let is_set = |property| flags & cursor::flag(property) != 0;
                assert!(properties.correlation_id().is_none() || is_set(Property::CorrelationId));
                assert!(properties.reply_to().is_none() || is_set(Property::ReplyTo));
            }
        }
    }
}

/// Passes bytes through the guard as the routing key of `basic.deliver`, with the consumer tag `t`.
fn check_as_routing_key(data: &[u8]) {
    let key = &data[..data.len().min(255)];
    let payload = [
        &[0, 60, 0, 60, 1, b't', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0][..],
        &[u8::try_from(key.len()).unwrap_or_default()],
        key,
    ]
    .concat();
    let mut repaired = payload.clone();
    assert!(super::methods::repair(&mut repaired).is_ok());
    assert!(is_readable(METHOD, &repaired));
    assert_eq!(repaired == payload, std::str::from_utf8(key).is_ok());
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::super::channels::{CLOSE, CLOSE_OK, OPEN_OK};
    use super::super::samples::{
        EncodedProperties, content_header, deliver, frame, frames, message, method, mutated, nested,
        short_string, table,
    };
    use super::*;
    use crate::protocol::{MAX_HEADER_DEPTH, Malformed};

    const MAX_FRAME: usize = 2000;

    fn parts() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(0..200_usize, 0..60)
    }

    proptest! {
        #[test]
        fn valid_frames_pass_unchanged_in_any_parts(input in frames(), parts in parts()) {
            prop_assert_eq!(filter_in_parts(&input, MAX_FRAME, parts), Ok(input));
        }

        #[test]
        fn the_output_does_not_depend_on_the_parts(input in mutated(), parts in parts()) {
            prop_assert_eq!(filter_in_parts(&input, MAX_FRAME, parts), filter_in_parts(&input, MAX_FRAME, []));
        }

        /// The frames of a broker, with arbitrary properties and routing keys.
        #[test]
        fn lapin_reads_the_output(
            before in message(),
            properties in prop::collection::vec(any::<u8>(), 0..200),
            flags in any::<u16>(),
            key in prop::collection::vec(any::<u8>(), 0..50),
            after in message(),
        ) {
            let payload = [&content_header(3, &EncodedProperties::default())[..12], &flags.to_be_bytes(), &properties].concat();
            let input = [
                before,
                frame(METHOD, 1, &deliver(b"tag", b"", &key)),
                frame(HEADER, 1, &payload),
                frame(3, 1, b"abc"),
                after,
            ]
            .concat();
            let output = filter_in_parts(&input, MAX_FRAME, []).unwrap();
            prop_assert_eq!(split_frames(&output).len(), split_frames(&input).len());
            for (kind, payload) in split_frames(&output) {
                prop_assert!(is_readable(kind, payload), "{} {:?}", kind, payload);
            }
        }

        #[test]
        fn lapin_reads_mutated_properties_in_the_output(input in mutated()) {
            for (kind, payload) in split_frames(&input) {
                // A shorter payload is not a content header.
                if kind == HEADER && payload.len() >= 14 {
                    let output = filter_in_parts(&frame(HEADER, 1, payload), MAX_FRAME, []).unwrap();
                    prop_assert!(is_readable(HEADER, split_frames(&output)[0].1));
                    if is_readable(HEADER, payload) {
                        prop_assert_eq!(output, frame(HEADER, 1, payload));
                    }
                }
            }
        }

        #[test]
        fn any_bytes_pass_or_are_an_error(data in prop::collection::vec(any::<u8>(), 0..300)) {
            check_any_bytes(&data);
        }
    }

    #[test]
    fn lapin_reads_the_deepest_tables_on_a_small_stack() {
        let mut properties = EncodedProperties::default();
        for kind in [b'F', b'A'] {
            properties.set(Property::Headers, table(&nested(kind, MAX_HEADER_DEPTH, b"")));
            let payload = content_header(0, &properties);
            let output = filter_in_parts(&frame(HEADER, 1, &payload), MAX_FRAME, []).unwrap();
            assert_eq!(output, frame(HEADER, 1, &payload));
            let parsing = thread::Builder::new().stack_size(1024 * 1024);
            let parsed = parsing.spawn(move || is_readable(HEADER, &payload)).unwrap();
            assert!(parsed.join().unwrap());
        }
    }

    #[test]
    fn a_malformed_header_is_replaced_and_other_frames_pass() {
        let mut properties = EncodedProperties::default();
        properties.set(Property::CorrelationId, short_string(b"\xff\xfe"));
        properties.set(Property::ReplyTo, short_string(b"amq.gen-1"));
        let before = frame(METHOD, 3, &deliver(b"tag", b"", b"q"));
        let after = [frame(3, 3, b"abc"), frame(8, 0, b"")].concat();
        let malformed = frame(HEADER, 3, &content_header(3, &properties));
        let input = [&before[..], &malformed, &after].concat().repeat(50);

        let mut expected = EncodedProperties::default();
        let reason = Malformed::NotUtf8(Property::CorrelationId);
        expected.set(Property::Headers, super::super::mark::table(reason, b""));
        expected.set(
            Property::CorrelationId,
            super::super::ids::escape(b"\xff\xfe").unwrap(),
        );
        expected.set(Property::ReplyTo, short_string(b"amq.gen-1"));
        let replaced = frame(HEADER, 3, &content_header(3, &expected));
        let expected = [&before[..], &replaced, &after].concat().repeat(50);
        assert_eq!(filter_in_parts(&input, MAX_FRAME, []), Ok(expected.clone()));
        for part in [2, 3, 20, 21, 500] {
            let parts = std::iter::repeat(part);
            assert_eq!(filter_in_parts(&input, MAX_FRAME, parts), Ok(expected.clone()));
        }
    }

    #[test]
    fn a_header_that_is_larger_than_a_frame_is_replaced() {
        let mut properties = EncodedProperties::default();
        properties.set(Property::ContentType, short_string(b"text/plain"));
        let large = [&short_string(b"a")[..], b"S", &table(&[0; 5000])].concat();
        properties.set(Property::Headers, table(&large));
        properties.set(Property::CorrelationId, short_string(b"7"));
        let after = frame(3, 1, b"abc");
        let input = [&frame(HEADER, 1, &content_header(3, &properties))[..], &after].concat();
        let mark = super::super::mark::table(Malformed::TooLarge, content::REJECTED_TOO_OFTEN);
        properties.set(Property::Headers, mark);
        let expected = [&frame(HEADER, 1, &content_header(3, &properties))[..], &after].concat();
        for part in [2, 3, 40, 41, 10_000] {
            let parts = std::iter::repeat(part);
            assert_eq!(filter_in_parts(&input, 4096, parts), Ok(expected.clone()));
        }
    }

    #[test]
    fn a_close_ok_that_crosses_the_brokers_close_is_left_out() {
        let sent = |channel, id, arguments: &[u8]| frame(METHOD, channel, &method(id, arguments));
        let close = sent(1, CLOSE, &[1, 148, 0, 0, 0, 0, 0]);
        let (close_ok, open_ok) = (sent(1, CLOSE_OK, &[]), sent(1, OPEN_OK, &[0; 4]));
        let other = sent(2, CLOSE_OK, &[]);
        let input = [&close_ok, &close, &other, &close_ok, &open_ok, &close_ok].map(Vec::as_slice);
        let expected = [&close_ok, &close, &other, &open_ok, &close_ok].map(Vec::as_slice);
        for part in [2, 3, 20, 21, 500] {
            let parts = std::iter::repeat(part);
            let output = filter_in_parts(&input.concat(), MAX_FRAME, parts);
            assert_eq!(output, Ok(expected.concat()));
        }
    }

    #[test]
    fn the_broker_can_negotiate_smaller_frames() {
        let tune = [&[0, 10, 0, 30, 7, 255][..], &8192_u32.to_be_bytes(), &[0, 60]].concat();
        let input = [frame(METHOD, 0, &tune), frame(3, 1, &[0; 9000])].concat();
        let error = ProtocolViolation::TooLarge {
            size: 9008,
            max: 8192,
        };
        assert_eq!(filter_in_parts(&input, 131_072, []), Err(error));
    }
}
