//! Content headers: the properties of a message.
//!
//! A publisher chooses them, and RabbitMQ passes them on almost as they are: it does not look
//! whether short strings are UTF-8, and does not limit how deep tables are nested. lapin ends the
//! connection over the first, and overflows its stack over the second. What is checked here it
//! reads.

use std::borrow::Cow;

use super::cursor::{Cursor, FIXED, flag};
use super::{ids, mark};
use crate::protocol::{DEATHS_HEADER, FIRST_DEATH_REASON_HEADER, MAX_HEADER_DEPTH, Malformed, Property};

/// Looks whether a content header can be read, and says why not.
pub(super) fn check(payload: &[u8]) -> Result<(), Malformed> {
    let mut found = Ok(());
    walk(payload, |_, _, read| {
        found = read;
        found.is_ok()
    });
    found
}

/// A content header that says the same as a malformed one: the properties of it that can be read,
/// the body's size, and a mark in the place of its headers. A correlation id is [escaped](ids) if
/// it has to be.
///
/// Beside the mark stands what the broker says of queues that gave the message up. If that cannot
/// be read, the message counts as [rejected too often](REJECTED_TOO_OFTEN).
///
/// It has less than 4 KiB, and so fits into any frame.
pub(super) fn replace(payload: &[u8], malformed: Malformed, out: &mut Vec<u8>) {
    let mut kept: Vec<Cow<'_, [u8]>> = Vec::new();
    let mut flags = flag(Property::Headers);
    let mark = mark::table(malformed, &deaths_of(payload, malformed));
    // Headers stand behind these two.
    let mut is_marked = false;
    walk(payload, |property, bytes, read| {
        let is_before = matches!(property, Property::ContentType | Property::ContentEncoding);
        if !is_before && !is_marked {
            kept.push(Cow::Borrowed(&mark));
            is_marked = true;
        }
        let kept_as = match (property, read) {
            (Property::Headers, _) | (_, Err(Malformed::Truncated(_) | Malformed::TrailingBytes)) => None,
            (_, Ok(())) => Some(Cow::Borrowed(bytes)),
            // Behind its size.
            (Property::CorrelationId, Err(_)) => ids::escape(&bytes[1..]).map(Cow::Owned),
            (_, Err(_)) => None,
        };
        if let Some(bytes) = kept_as {
            flags |= flag(property);
            kept.push(bytes);
        }
        true
    });
    if !is_marked {
        kept.push(Cow::Borrowed(&mark));
    }
    // The class, the weight and the body's size. Without them it is no content header at all.
    let fixed = payload.get(..FIXED - 2).unwrap_or_default();
    out.extend_from_slice(fixed);
    out.extend_from_slice(&flags.to_be_bytes());
    for bytes in kept {
        out.extend_from_slice(&bytes);
    }
}

/// The longest that the entries about dead-lettering may be: RabbitMQ adds about 200 bytes for each
/// queue and reason.
const MAX_DEATHS: usize = 1024;

/// An entry of headers by which a message was rejected so often that it is not rejected again:
/// nobody knows how often it was, and it must not go round for ever.
pub(super) const REJECTED_TOO_OFTEN: &[u8] = b"\x07x-deathA\0\0\0\x28F\0\0\0\x23\
    \x06reasonS\0\0\0\x08rejected\
    \x05countl\x7f\xff\xff\xff\xff\xff\xff\xff";

/// The entries of a malformed content header's table that say which queues gave the message up.
fn deaths_of(payload: &[u8], malformed: Malformed) -> Cow<'_, [u8]> {
    const UNKNOWN: Cow<'static, [u8]> = Cow::Borrowed(REJECTED_TOO_OFTEN);
    let flags = payload.get(FIXED - 2..FIXED).unwrap_or_default();
    let flags = flags.try_into().map_or(0, u16::from_be_bytes);
    if flags & flag(Property::Headers) == 0 {
        return Cow::Borrowed(b"");
    }
    // They were left out.
    if malformed == Malformed::TooLarge {
        return UNKNOWN;
    }
    let mut deaths = None;
    walk(payload, |property, bytes, _| {
        if property == Property::Headers {
            // Behind the table's size.
            deaths = bytes.get(4..).and_then(deaths_in);
        }
        true
    });
    deaths.map_or(UNKNOWN, Cow::Owned)
}

/// The entries of a table that say which queues gave the message up. `None` if the table cannot be
/// read, they cannot, or they are too long.
fn deaths_in(table: &[u8]) -> Option<Vec<u8>> {
    let mut deaths = Vec::new();
    let mut cursor = Cursor::new(table);
    while !cursor.is_at_end() {
        let from = cursor.position();
        let name = cursor.short()?;
        value(&mut cursor)?;
        if [DEATHS_HEADER, FIRST_DEATH_REASON_HEADER]
            .map(str::as_bytes)
            .contains(&name)
        {
            deaths.extend_from_slice(&table[from..cursor.position()]);
        }
    }
    let is_readable = deaths.len() <= MAX_DEATHS && check_table(&deaths).is_ok();
    is_readable.then_some(deaths)
}

/// Tells the properties of a content header in their order, each as it stands there and whether it
/// can be read, until it is told to stop. If a property does not end within its frame, it is the
/// last.
fn walk<'a>(payload: &'a [u8], mut each: impl FnMut(Property, &'a [u8], Result<(), Malformed>) -> bool) {
    let Some((fixed, properties)) = payload.split_at_checked(FIXED) else {
        return;
    };
    let flags = u16::from_be_bytes([fixed[FIXED - 2], fixed[FIXED - 1]]);
    let mut cursor = Cursor::new(properties);
    for property in Property::ALL {
        if flags & flag(property) == 0 {
            continue;
        }
        let from = cursor.position();
        let Some(read) = read(property, &mut cursor) else {
            each(property, &[], Err(Malformed::Truncated(property)));
            return;
        };
        if !each(property, &properties[from..cursor.position()], read) {
            return;
        }
    }
    if !cursor.is_at_end() {
        each(Property::ClusterId, &[], Err(Malformed::TrailingBytes));
    }
}

/// Reads a property; `None` if it does not end within its frame.
fn read(property: Property, cursor: &mut Cursor<'_>) -> Option<Result<(), Malformed>> {
    Some(match property {
        Property::Headers => check_table(cursor.long()?),
        Property::DeliveryMode | Property::Priority => cursor.take(1).map(|_| Ok(()))?,
        Property::Timestamp => cursor.take(8).map(|_| Ok(()))?,
        text => match std::str::from_utf8(cursor.short()?) {
            Ok(_) => Ok(()),
            Err(_) => Err(Malformed::NotUtf8(text)),
        },
    })
}

/// A table or an array that is looked through.
#[derive(Clone, Copy, Default)]
struct Open {
    end: usize,
    is_table: bool,
}

/// Looks whether lapin can read the content of a table: all sizes fit, all types are known, all
/// names are UTF-8, and nothing is nested too deep. Does not recurse.
pub(super) fn check_table(table: &[u8]) -> Result<(), Malformed> {
    const INVALID: Malformed = Malformed::InvalidHeaders;
    let mut open = [Open::default(); MAX_HEADER_DEPTH + 1];
    open[0] = Open {
        end: table.len(),
        is_table: true,
    };
    let mut depth = 0;
    let mut at = 0;
    let mut has_deaths = false;
    loop {
        let Open { end, is_table } = open[depth];
        if at == end {
            if depth == 0 {
                return Ok(());
            }
            depth -= 1;
            continue;
        }
        // Nothing in the table or array may reach beyond its end.
        let mut cursor = Cursor::at(table.get(..end).ok_or(INVALID)?, at);
        if is_table {
            let name = cursor.short().ok_or(INVALID)?;
            std::str::from_utf8(name).map_err(|_| Malformed::HeaderName)?;
            // RabbitMQ 3 counts in the first one, and lapin reads the last.
            if depth == 0 && name == DEATHS_HEADER.as_bytes() && std::mem::replace(&mut has_deaths, true) {
                return Err(INVALID);
            }
        }
        let (kind, value) = value(&mut cursor).ok_or(INVALID)?;
        at = cursor.position();
        if matches!(kind, b'F' | b'A') {
            depth += 1;
            *open.get_mut(depth).ok_or(Malformed::DeepHeaders)? = Open {
                end: at,
                is_table: kind == b'F',
            };
            at -= value.len();
        }
    }
}

/// Reads a value of a table or an array: its type, and its content. `None` if it does not end, or
/// its type is not known.
fn value<'a>(cursor: &mut Cursor<'a>) -> Option<(u8, &'a [u8])> {
    let [kind] = cursor.chunk()?;
    let content = match kind {
        b't' | b'b' | b'B' => cursor.take(1),
        b's' | b'U' | b'u' => cursor.take(2),
        b'I' | b'i' | b'f' => cursor.take(4),
        b'D' => cursor.take(5),
        b'L' | b'l' | b'd' | b'T' => cursor.take(8),
        b'V' => cursor.take(0),
        b'S' | b'x' | b'F' | b'A' => cursor.long(),
        _ => None,
    };
    Some((kind, content?))
}

/// Keeps of a content header that is larger than a frame what can be of use: all but its headers.
///
/// RabbitMQ can send one: it splits a body into frames of the size that was agreed with this
/// connection, but the properties came by another, and it adds headers of its own.
#[derive(Debug)]
pub(super) struct Skimmer {
    /// What there is of the payload, with a table of headers that is empty.
    kept: Vec<u8>,
    /// How many bytes to leave out.
    skip: usize,
    /// Whether all before the headers is kept.
    is_located: bool,
}

impl Skimmer {
    /// More than all properties have without their headers.
    const MOST: usize = 4096;

    /// A skimmer for a payload that follows on so many other bytes.
    pub(super) fn after(skip: usize) -> Self {
        Self {
            kept: Vec::new(),
            skip,
            is_located: false,
        }
    }

    /// Takes in what comes next.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            // The headers begin within the first six hundred bytes.
            let step = if self.is_located {
                bytes.len()
            } else {
                bytes.len().min(1)
            };
            let (taken, rest) = bytes.split_at(step);
            let room = Self::MOST - self.kept.len();
            self.kept.extend_from_slice(&taken[..step.min(room)]);
            bytes = if room == 0 { &[] } else { rest };
            if !self.is_located
                && let Some(size) = headers_size(&self.kept)
            {
                self.is_located = true;
                self.skip = size;
                let from = self.kept.len() - 4;
                self.kept[from..].fill(0);
            }
        }
    }

    /// The payload without its headers.
    pub(super) fn into_payload(self) -> Vec<u8> {
        self.kept
    }
}

/// The size of a content header's table, if the payload ends with it.
fn headers_size(payload: &[u8]) -> Option<usize> {
    let (fixed, properties) = payload.split_at_checked(FIXED)?;
    let flags = u16::from_be_bytes([fixed[FIXED - 2], fixed[FIXED - 1]]);
    if flags & flag(Property::Headers) == 0 {
        return None;
    }
    let mut cursor = Cursor::new(properties);
    for property in [Property::ContentType, Property::ContentEncoding] {
        if flags & flag(property) != 0 {
            cursor.short()?;
        }
    }
    let size = u32::from_be_bytes(cursor.chunk()?);
    cursor
        .is_at_end()
        .then(|| usize::try_from(size).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use lapin::protocol::basic::parse_properties;
    use proptest::prelude::*;

    use super::super::super::convert::from_lapin;
    use super::super::samples::{Props, header, nested, props, short, table};
    use super::*;

    fn flaw(properties: &Props) -> Option<Malformed> {
        check(&header(7, properties)).err()
    }

    /// Every property that is a short string, and how to set it.
    const TEXTS: [Property; 10] = [
        Property::ContentType,
        Property::ContentEncoding,
        Property::CorrelationId,
        Property::ReplyTo,
        Property::Expiration,
        Property::MessageId,
        Property::Type,
        Property::UserId,
        Property::AppId,
        Property::ClusterId,
    ];

    #[test]
    fn each_short_string_has_to_be_utf8() {
        for property in TEXTS {
            let mut properties = Props::default();
            properties.set(property, short("käse".as_bytes()));
            assert_eq!(flaw(&properties), None);
            properties.set(property, short(b"\xff\xfe"));
            assert_eq!(flaw(&properties), Some(Malformed::NotUtf8(property)));
            properties.set(property, b"\x09short".to_vec());
            assert_eq!(flaw(&properties), Some(Malformed::Truncated(property)));
        }
    }

    #[test]
    fn deaths_may_stand_only_once() {
        let entry = [&short(DEATHS_HEADER.as_bytes())[..], b"A\0\0\0\0"].concat();
        assert_eq!(check_table(&entry), Ok(()));
        assert_eq!(check_table(&entry.repeat(2)), Err(Malformed::InvalidHeaders));
        assert_eq!(deaths_in(&entry.repeat(2)), None);
    }

    #[test]
    fn names_of_headers_have_to_be_utf8_however_deep() {
        for name in [&b"\xff"[..], b"\xc3"] {
            let entry = [&short(name)[..], b"V"].concat();
            assert_eq!(check_table(&entry), Err(Malformed::HeaderName));
            for within in [b'F', b'A'] {
                let deep = match within {
                    b'F' => nested(b'F', 3, &entry),
                    _ => nested(b'A', 3, &[b"F", &table(&entry)[..]].concat()),
                };
                assert_eq!(check_table(&deep), Err(Malformed::HeaderName));
            }
        }
    }

    #[test]
    fn tables_and_arrays_may_be_nested_up_to_a_limit() {
        for kind in [b'F', b'A'] {
            assert_eq!(check_table(&nested(kind, MAX_HEADER_DEPTH, b"")), Ok(()));
            for levels in [MAX_HEADER_DEPTH + 1, 200, 1200, 20_000] {
                let error = Err(Malformed::DeepHeaders);
                assert_eq!(check_table(&nested(kind, levels, b"")), error, "{levels}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_its_size_is_no_table() {
        for bytes in [
            &b"\x01"[..],
            b"\x01a",
            b"\x01a?",
            b"\x01aI\0\0",
            b"\x01aS\0\0\0\x02x",
            b"\x01aF\0\0\0\x01",
            // The inner value ends behind its table.
            b"\x01aF\0\0\0\x03\x01bI\0\0\0\0",
            b"\x01aA\xff\xff\xff\xff",
        ] {
            assert_eq!(check_table(bytes), Err(Malformed::InvalidHeaders), "{bytes:?}");
        }
    }

    #[test]
    fn bytes_behind_the_properties_are_a_flaw() {
        let mut payload = header(7, &Props::default());
        payload.push(0);
        assert_eq!(check(&payload), Err(Malformed::TrailingBytes));
    }

    #[test]
    fn what_can_be_read_is_kept_beside_a_mark() {
        let mut properties = Props::default();
        properties.set(Property::ContentType, short(b"text/plain"));
        properties.set(Property::Headers, table(b"\x01aV"));
        properties.set(Property::Priority, vec![3]);
        properties.set(Property::CorrelationId, short(b"7"));
        properties.set(Property::MessageId, short(b"\xff"));
        properties.set(Property::Timestamp, vec![0; 8]);
        let malformed = flaw(&properties).unwrap();
        let mut replaced = Vec::new();
        replace(&header(9, &properties), malformed, &mut replaced);

        let mut expected = properties.clone();
        expected.set(Property::Headers, mark::table(malformed, b""));
        expected.unset(Property::MessageId);
        assert_eq!(replaced, header(9, &expected));
        assert_eq!(check(&replaced), Ok(()));
    }

    /// How often a message with these malformed headers was rejected, as the layers above read it.
    fn rejections(entries: &[u8]) -> Option<u32> {
        let mut properties = Props::default();
        properties.set(Property::Headers, table(entries));
        let malformed = flaw(&properties).unwrap();
        let mut replaced = Vec::new();
        replace(&header(9, &properties), malformed, &mut replaced);
        let (rest, read) = parse_properties(&replaced[12..]).unwrap();
        assert!(rest.is_empty());
        assert_eq!(mark::read(&read), Some(malformed));
        let dead = from_lapin(&read, Vec::new()).properties.dead_lettered;
        dead.map(|dead| dead.rejections)
    }

    #[test]
    fn what_the_broker_says_of_rejections_is_kept_beside_a_mark() {
        let deaths =
            |entry: &[u8]| [b"\x07x-deathA", &table(&[b"F", &table(entry)[..]].concat())[..]].concat();
        let rejected_twice = deaths(b"\x06reasonS\0\0\0\x08rejected\x05countl\0\0\0\0\0\0\0\x02");
        let first_reason = b"\x14x-first-death-reasonS\0\0\0\x08rejected";
        let odd_name = [&short(b"\xff")[..], b"V"].concat();
        let deep = nested(b'F', 1200, b"");
        for flaw in [&odd_name, &deep] {
            assert_eq!(rejections(flaw), None);
            assert_eq!(rejections(&[&rejected_twice[..], flaw].concat()), Some(2));
            assert_eq!(rejections(&[&flaw[..], &rejected_twice].concat()), Some(2));
            assert_eq!(rejections(&[&first_reason[..], flaw].concat()), Some(1));
            // A name within another table is none of the message's.
            let within = [&b"\x01aF"[..], &table(&rejected_twice)].concat();
            assert_eq!(rejections(&[&within[..], flaw].concat()), None);
        }
        let too_long = deaths(&[b"\x01xS", &table(&[b'x'; MAX_DEATHS])[..]].concat());
        for unreadable in [
            deaths(&odd_name),
            [b"\x07x-deathA", &table(&nested(b'A', 1200, b""))[..]].concat(),
            [&too_long[..], &odd_name].concat(),
            [&rejected_twice[..], b"\x01aS"].concat(),
        ] {
            assert_eq!(rejections(&unreadable), Some(u32::MAX));
        }
    }

    #[test]
    fn what_stands_before_a_property_that_does_not_end_is_kept() {
        let mut properties = Props::default();
        properties.set(Property::CorrelationId, short(b"7"));
        properties.set(Property::ReplyTo, b"\xffamq.gen-1".to_vec());
        let malformed = Malformed::Truncated(Property::ReplyTo);
        assert_eq!(flaw(&properties), Some(malformed));
        let mut replaced = Vec::new();
        replace(&header(9, &properties), malformed, &mut replaced);
        properties.set(Property::Headers, mark::table(malformed, b""));
        properties.unset(Property::ReplyTo);
        assert_eq!(replaced, header(9, &properties));
    }

    #[test]
    fn an_id_that_is_not_utf8_is_escaped_unless_it_is_too_long() {
        for (id, escaped) in [(&[0xff; 16][..], ids::escape(&[0xff; 16])), (&[0xff; 200], None)] {
            let mut properties = Props::default();
            properties.set(Property::CorrelationId, short(id));
            let malformed = flaw(&properties).unwrap();
            let mut replaced = Vec::new();
            replace(&header(9, &properties), malformed, &mut replaced);
            properties.unset(Property::CorrelationId);
            properties.set(Property::Headers, mark::table(malformed, b""));
            if let Some(escaped) = escaped {
                properties.set(Property::CorrelationId, escaped);
            }
            assert_eq!(replaced, header(9, &properties));
        }
    }

    proptest! {
        #[test]
        fn valid_properties_are_valid(properties in props()) {
            prop_assert_eq!(flaw(&properties), None);
        }

        /// Whatever is in the payload, and in whatever parts it comes, no more than the other
        /// properties is kept.
        #[test]
        fn a_header_that_is_too_large_keeps_all_but_its_table(
            properties in props(),
            size in 5_000_usize..200_000,
            parts in prop::collection::vec(1_usize..3_000, 1..100),
        ) {
            let mut properties = properties;
            let large = [&short(b"large")[..], b"S", &table(&vec![0xff; size])].concat();
            properties.set(Property::Headers, table(&large));
            let payload = header(5, &properties);
            let mut skimmer = Skimmer::after(7);
            skimmer.feed(&[0xaa; 7]);
            let mut rest = &payload[..];
            for part in parts.iter().cycle() {
                let (now, later) = rest.split_at((*part).min(rest.len()));
                skimmer.feed(now);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            properties.set(Property::Headers, table(b""));
            prop_assert_eq!(skimmer.into_payload(), header(5, &properties));
        }

        #[test]
        fn no_large_payload_is_kept_whole(payload in prop::collection::vec(any::<u8>(), FIXED..10_000)) {
            let mut skimmer = Skimmer::after(0);
            skimmer.feed(&payload);
            let kept = skimmer.into_payload();
            prop_assert!(kept.len() <= Skimmer::MOST);
            let mut replaced = Vec::new();
            replace(&kept, Malformed::TooLarge, &mut replaced);
            prop_assert!(replaced.len() < Skimmer::MOST);
            prop_assert_eq!(check(&replaced), Ok(()));
        }
    }
}
