//! Decodes content headers: the properties of a message. Pure: no I/O.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::super::guard::{self, Cursor, property_flag};
use super::decode::text;
use super::encode::{BASIC, PERSISTENT};
use crate::protocol::{
    DEATHS_HEADER, DeadLettered, DeathReason, FIRST_DEATH_REASON_HEADER, Headers, Malformed, Properties,
    Property, ShortStr,
};

/// A content header that was read.
#[derive(Debug, Default)]
pub(super) struct ContentHeader {
    pub(super) body_size: u64,
    pub(super) properties: Properties,
    /// Why the guard has replaced the content header. `None` if it has not.
    pub(super) malformed: Option<Malformed>,
}

/// How many reply addresses a connection remembers, at most.
const MAX_RECENT_ADDRESSES: usize = 64;

/// Reply addresses of recent requests. A caller sends the same one with each request, and it is too
/// long to be kept without an allocation.
#[derive(Debug, Default)]
pub(super) struct RecentAddresses(HashSet<ShortStr, RandomState>);

impl RecentAddresses {
    /// Returns this address, which shares its memory with an equal one if one is remembered.
    /// Otherwise remembers it. `None` if it is too long.
    fn shared(&mut self, address: &str) -> Option<ShortStr> {
        if let Some(known) = self.0.get(address) {
            return Some(known.clone());
        }
        let address = ShortStr::new(address).ok()?;
        if self.0.len() >= MAX_RECENT_ADDRESSES {
            self.0.clear();
        }
        self.0.insert(address.clone());
        Some(address)
    }
}

/// Reads the payload of a content header that passed the guard. `None` if it is too short, or of
/// another class than `basic`.
pub(super) fn content_header(payload: &[u8], addresses: &mut RecentAddresses) -> Option<ContentHeader> {
    let mut cursor = Cursor::new(payload);
    if u16::from_be_bytes(cursor.chunk()?) != BASIC {
        return None;
    }
    // The weight, which is not used.
    cursor.take(2)?;
    let mut read = ContentHeader {
        body_size: u64::from_be_bytes(cursor.chunk()?),
        ..ContentHeader::default()
    };
    let flags = u16::from_be_bytes(cursor.chunk()?);
    let properties = &mut read.properties;
    for property in Property::ALL {
        if flags & property_flag(property) == 0 {
            continue;
        }
        match property {
            Property::Headers => {
                let table = cursor.long()?;
                properties.headers = headers_of(table);
                properties.dead_lettered = dead_lettered(table);
                read.malformed = mark_in(table);
            }
            Property::DeliveryMode => {
                let [mode] = cursor.chunk()?;
                properties.persistent = mode == PERSISTENT;
            }
            Property::Priority => {
                let [priority] = cursor.chunk()?;
                properties.priority = Some(priority);
            }
            Property::Timestamp => {
                cursor.take(8)?;
            }
            Property::MessageId | Property::ClusterId => {
                cursor.short()?;
            }
            Property::ReplyTo => {
                let address = str::from_utf8(cursor.short()?).ok();
                properties.reply_to = address.and_then(|address| addresses.shared(address));
            }
            Property::Expiration => properties.expiration = milliseconds(cursor.short()?),
            Property::ContentType => properties.content_type = text(cursor.short()?),
            Property::ContentEncoding => properties.content_encoding = text(cursor.short()?),
            Property::CorrelationId => properties.correlation_id = text(cursor.short()?),
            Property::Type => properties.kind = text(cursor.short()?),
            Property::UserId => properties.user_id = text(cursor.short()?),
            Property::AppId => properties.app_id = text(cursor.short()?),
        }
    }
    Some(read)
}

/// Parses an expiration. RabbitMQ refuses one that is not a number. If one arrives nevertheless,
/// the request has no deadline.
fn milliseconds(expiration: &[u8]) -> Option<Duration> {
    let text = str::from_utf8(expiration).ok()?;
    text.parse().ok().map(Duration::from_millis)
}

/// A value of a table or an array: its type and its content.
#[derive(Debug, Clone, Copy)]
struct Value<'a> {
    kind: u8,
    content: &'a [u8],
}

/// The entries of a table that passed the guard.
fn entries(table: &[u8]) -> impl Iterator<Item = (&[u8], Value<'_>)> {
    let mut cursor = Cursor::new(table);
    std::iter::from_fn(move || {
        let name = cursor.short()?;
        Some((name, value(&mut cursor)?))
    })
}

/// The elements of an array that passed the guard.
fn elements(array: &[u8]) -> impl Iterator<Item = Value<'_>> {
    let mut cursor = Cursor::new(array);
    std::iter::from_fn(move || value(&mut cursor))
}

fn value<'a>(cursor: &mut Cursor<'a>) -> Option<Value<'a>> {
    let (kind, content) = guard::read_value(cursor)?;
    Some(Value { kind, content })
}

impl<'a> Value<'a> {
    /// The integer. `None` if the value has another type.
    fn as_integer(self) -> Option<i64> {
        let bytes = self.content;
        Some(match self.kind {
            b'b' => i64::from(i8::from_be_bytes(bytes.try_into().ok()?)),
            b'B' => i64::from(u8::from_be_bytes(bytes.try_into().ok()?)),
            b's' | b'U' => i64::from(i16::from_be_bytes(bytes.try_into().ok()?)),
            b'u' => i64::from(u16::from_be_bytes(bytes.try_into().ok()?)),
            b'I' => i64::from(i32::from_be_bytes(bytes.try_into().ok()?)),
            b'i' => i64::from(u32::from_be_bytes(bytes.try_into().ok()?)),
            b'L' | b'l' => i64::from_be_bytes(bytes.try_into().ok()?),
            _ => return None,
        })
    }

    /// The text. `None` if the value has another type, or is not UTF-8.
    fn as_str(self) -> Option<&'a str> {
        match self.kind {
            b'S' => str::from_utf8(self.content).ok(),
            _ => None,
        }
    }

    /// A count, or `u32::MAX` if it is larger. `None` if the value is not a positive integer.
    fn as_count(self) -> Option<u32> {
        let count = self.as_integer()?;
        (count > 0).then(|| u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// The value as text. `None` if it cannot be represented as text. See [`Headers`].
    fn to_text(self) -> Option<Cow<'a, str>> {
        if let Some(text) = self.as_str() {
            return Some(text.into());
        }
        if let Some(integer) = self.as_integer() {
            return Some(integer.to_string().into());
        }
        let bytes = self.content;
        Some(match self.kind {
            b't' => (bytes != [0]).to_string().into(),
            b'f' => f32::from_be_bytes(bytes.try_into().ok()?).to_string().into(),
            b'd' => f64::from_be_bytes(bytes.try_into().ok()?).to_string().into(),
            b'T' => u64::from_be_bytes(bytes.try_into().ok()?).to_string().into(),
            _ => return None,
        })
    }
}

/// The headers that can be represented as text, without any that has the name of the guard's
/// [`mark`](guard::mark).
fn headers_of(table: &[u8]) -> Headers {
    let entries = entries(table).filter(|(name, _)| *name != guard::mark::NAME.as_bytes());
    let headers = entries.filter_map(|(name, value)| {
        let name = ShortStr::new(str::from_utf8(name).ok()?).ok()?;
        Some((name, value.to_text()?.into_owned()))
    });
    headers.collect()
}

/// The reason in the guard's mark. `None` if the table has no mark.
fn mark_in(table: &[u8]) -> Option<Malformed> {
    let mut entries = entries(table);
    let (_, mark) = entries.find(|(name, _)| *name == guard::mark::NAME.as_bytes())?;
    if mark.kind != b'S' {
        return None;
    }
    guard::mark::read_value(mark.content)
}

/// How the message was dead-lettered. `None` if it has neither of the headers that tell it.
fn dead_lettered(table: &[u8]) -> Option<DeadLettered> {
    let (mut deaths, mut first_reason) = (None, None);
    for (name, value) in entries(table) {
        if name == DEATHS_HEADER.as_bytes() {
            deaths = Some(value);
        } else if name == FIRST_DEATH_REASON_HEADER.as_bytes() {
            first_reason = Some(value);
        }
    }
    if deaths.is_none() && first_reason.is_none() {
        return None;
    }
    let mut dead = DeadLettered::default();
    if let Some(Value { kind: b'A', content }) = deaths {
        for death in elements(content).filter(|death| death.kind == b'F') {
            add_death(&mut dead, death.content);
        }
    }
    // The entries of a broker include the first death, but they may be unreadable or missing, so
    // its reason is recorded too. An expiry that was in an entry changes nothing. Any other reason
    // counts as a death only if no entry did, so that no death counts twice.
    if let Some(reason) = first_reason.and_then(Value::as_str).map(DeathReason::from_wire) {
        match reason {
            DeathReason::Expired => dead.has_expired = true,
            reason if dead.non_expiry_deaths == 0 => dead.add(reason, 1, None),
            _ => {}
        }
    }
    Some(dead)
}

/// Adds an entry of `x-death`, unless its reason cannot be read.
fn add_death(dead: &mut DeadLettered, death: &[u8]) {
    // The last of several entries with a name counts, as in other clients.
    let value = |name: &str| {
        let named = entries(death).filter(|(other, _)| *other == name.as_bytes());
        named.last().map(|(_, value)| value)
    };
    let Some(reason) = value("reason").and_then(Value::as_str) else {
        return;
    };
    // A count that cannot be read, such as a negative one, may be forged so that it never reaches
    // the limit, however often the broker increments it. So it is taken as the maximum. An entry
    // without a count is about one death.
    let count = value("count").map_or(1, |count| count.as_count().unwrap_or(u32::MAX));
    let expiration = value("original-expiration")
        .and_then(Value::as_str)
        .and_then(|millis| millis.parse().ok())
        .map(Duration::from_millis);
    dead.add(DeathReason::from_wire(reason), count, expiration);
}

#[cfg(test)]
mod tests {
    use lapin::protocol::basic::parse_properties;
    use lapin::types::{AMQPValue, ShortString};
    use proptest::prelude::*;

    use super::super::super::guard::samples::{
        EncodedProperties, content_header as encoded_header, frame, nested, props, short_string, table,
    };
    use super::super::super::guard::{Filter, HEADER, PREFIX_LEN};
    use super::*;

    #[test]
    fn requests_of_a_caller_share_its_reply_address() {
        let mut addresses = RecentAddresses::default();
        let mut address = |n: usize| {
            let address = format!("rpc.reply.{n:0>60}");
            let shared = addresses.shared(&address).unwrap();
            assert_eq!(shared.as_str(), address);
            (shared, addresses.0.len())
        };
        let (first, second) = (address(1).0, address(1).0);
        assert_eq!(first.as_str().as_ptr(), second.as_str().as_ptr());
        for n in 0..10 * MAX_RECENT_ADDRESSES {
            assert!(address(n).1 <= MAX_RECENT_ADDRESSES);
        }
        assert!(RecentAddresses::default().shared(&"a".repeat(256)).is_none());
    }

    /// What lapin reads as text, as [`Headers`] has it.
    fn text_of(value: &AMQPValue) -> Option<String> {
        Some(match value {
            AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok()?,
            AMQPValue::Boolean(flag) => flag.to_string(),
            AMQPValue::ShortShortInt(number) => number.to_string(),
            AMQPValue::ShortShortUInt(number) => number.to_string(),
            AMQPValue::ShortInt(number) => number.to_string(),
            AMQPValue::ShortUInt(number) => number.to_string(),
            AMQPValue::LongInt(number) => number.to_string(),
            AMQPValue::LongUInt(number) => number.to_string(),
            AMQPValue::LongLongInt(number) => number.to_string(),
            AMQPValue::Float(number) => number.to_string(),
            AMQPValue::Double(number) => number.to_string(),
            AMQPValue::Timestamp(seconds) => seconds.to_string(),
            _ => return None,
        })
    }

    proptest! {
        #[test]
        fn properties_are_read_as_lapin_reads_them(properties in props(), body_size: u64) {
            let payload = encoded_header(body_size, &properties);
            let ours = content_header(&payload, &mut RecentAddresses::default()).unwrap();
            let (rest, lapins) = parse_properties(&payload[12..]).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(ours.body_size, body_size);
            let ours = ours.properties;
            let text = |value: &Option<ShortString>| value.as_ref().map(|value| value.as_str().to_owned());
            for (ours, lapins) in [
                (&ours.content_type, lapins.content_type()),
                (&ours.content_encoding, lapins.content_encoding()),
                (&ours.correlation_id, lapins.correlation_id()),
                (&ours.reply_to, lapins.reply_to()),
                (&ours.kind, lapins.kind()),
                (&ours.user_id, lapins.user_id()),
                (&ours.app_id, lapins.app_id()),
            ] {
                prop_assert_eq!(ours.as_ref().map(ToString::to_string), text(lapins));
            }
            prop_assert_eq!(ours.priority, *lapins.priority());
            prop_assert_eq!(ours.persistent, *lapins.delivery_mode() == Some(PERSISTENT));
            let expiration = text(lapins.expiration()).and_then(|text| text.parse().ok());
            prop_assert_eq!(ours.expiration, expiration.map(Duration::from_millis));
            let lapins = lapins.headers().clone().unwrap_or_default();
            let lapins = lapins.inner().iter();
            let lapins = lapins.filter_map(|(name, value)| Some((name.to_string(), text_of(value)?)));
            prop_assert_eq!(ours.headers.into_iter().collect::<Vec<_>>(), lapins.collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_are_too_odd(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = content_header(&payload, &mut RecentAddresses::default());
        }
    }

    /// The entry of a table, with a value of this type.
    fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
        [&short_string(name.as_bytes())[..], &[kind], value].concat()
    }

    fn text(text: &[u8]) -> Vec<u8> {
        table(text)
    }

    fn read(entries: &[u8]) -> Properties {
        let mut properties = EncodedProperties::default();
        properties.set(Property::Headers, table(entries));
        content_header(&encoded_header(0, &properties), &mut RecentAddresses::default())
            .unwrap()
            .properties
    }

    #[test]
    fn headers_of_other_clients_are_read_as_text_if_possible() {
        let entries = [
            entry("retries", b'I', &3_i32.to_be_bytes()),
            entry("urgent", b't', &[1]),
            entry("x-death", b'F', &table(b"")),
            entry(guard::mark::NAME, b'S', &text(b"a peer's own")),
            entry("raw", b'S', &text(b"\xff")),
        ];
        let headers = read(&entries.concat()).headers;
        let headers: Vec<_> = headers.iter().collect();
        assert_eq!(headers, [("retries", "3"), ("urgent", "true")]);
    }

    /// An `x-death` entry.
    fn death(entries: &[Vec<u8>]) -> Vec<u8> {
        [b"F", &table(&entries.concat())[..]].concat()
    }

    fn read_deaths(kind: u8, content: &[u8]) -> Option<DeadLettered> {
        read(&entry(DEATHS_HEADER, kind, content)).dead_lettered
    }

    fn count(count: i64) -> Vec<u8> {
        entry("count", b'l', &count.to_be_bytes())
    }

    #[test]
    fn dead_letter_headers_are_read() {
        let rejected = death(&[
            entry("reason", b'S', &text(b"rejected")),
            count(2),
            entry("queue", b'S', &text(b"orders")),
            entry("original-expiration", b'S', &text(b"1500")),
        ]);
        let expired = death(&[entry("reason", b'S', &text(b"expired")), count(1)]);
        let expected = DeadLettered {
            has_expired: true,
            non_expiry_deaths: 2,
            rejections: 2,
            original_expiration: Some(Duration::from_millis(1500)),
        };
        let read = read_deaths(b'A', &table(&[expired, rejected].concat()));
        assert_eq!(read, Some(expected));
        assert_eq!(self::read(b"").dead_lettered, None);
    }

    #[test]
    fn the_first_death_reason_is_enough() {
        let read = |kind, value: &[u8]| read(&entry(FIRST_DEATH_REASON_HEADER, kind, value)).dead_lettered;
        assert!(read(b'S', &text(b"expired")).unwrap().has_expired);
        assert_eq!(read(b'S', &text(b"delivery_limit")).unwrap().non_expiry_deaths, 1);
        assert_eq!(read(b'V', b""), Some(DeadLettered::default()));
    }

    #[test]
    fn invalid_dead_letter_headers_still_count() {
        let reason = |reason: &[u8]| entry("reason", b'S', &text(reason));
        let no_count = death(&[reason(b"rejected"), entry("count", b'S', &text(b"many"))]);
        let negative = death(&[reason(b"rejected"), count(-1)]);
        let huge = death(&[reason(b"what"), count(i64::MAX)]);
        let no_reason = death(&[entry("count", b'I', &3_i32.to_be_bytes())]);
        let not_utf8 = death(&[reason(b"\xff")]);
        for (kind, deaths, times) in [
            (b'V', Vec::new(), 0),
            (b'S', text(b"rejected"), 0),
            (b'A', table(&entry("", b'S', &text(b"rejected"))[1..]), 0),
            // The broker may increment a forged count.
            (b'A', table(&no_count), u32::MAX),
            (b'A', table(&negative), u32::MAX),
            (b'A', table(&huge), u32::MAX),
            (b'A', table(&[no_reason, not_utf8].concat()), 0),
        ] {
            let read = read_deaths(kind, &deaths).unwrap_or_else(|| panic!("{deaths:?}"));
            assert_eq!(read.non_expiry_deaths, times, "{deaths:?}");
        }
    }

    #[test]
    fn a_malformed_expiration_is_none() {
        let mut properties = EncodedProperties::default();
        properties.set(Property::Expiration, short_string(b"soon"));
        let read = content_header(&encoded_header(0, &properties), &mut RecentAddresses::default()).unwrap();
        assert_eq!(read.properties.expiration, None);
    }

    /// How often a message with these malformed headers was rejected, as read after the guard has
    /// replaced them.
    fn rejections(entries: &[u8]) -> Option<u32> {
        let mut properties = EncodedProperties::default();
        properties.set(Property::Headers, table(entries));
        let mut filter = Filter::new(1 << 20);
        let passed = filter.scan(&mut frame(HEADER, 1, &encoded_header(7, &properties)));
        assert_eq!(passed, Ok(0));
        let replaced = filter.take_ready();
        let read = content_header(
            &replaced[PREFIX_LEN..replaced.len() - 1],
            &mut RecentAddresses::default(),
        )
        .unwrap();
        assert!(read.malformed.is_some());
        assert_eq!(read.body_size, 7);
        read.properties.dead_lettered.map(|dead| dead.rejections)
    }

    #[test]
    fn the_brokers_count_of_rejections_is_kept_with_a_mark() {
        let deaths =
            |entry: &[u8]| [b"\x07x-deathA", &table(&[b"F", &table(entry)[..]].concat())[..]].concat();
        let rejected_twice = deaths(b"\x06reasonS\0\0\0\x08rejected\x05countl\0\0\0\0\0\0\0\x02");
        let first_reason = b"\x14x-first-death-reasonS\0\0\0\x08rejected";
        let odd_name = [&short_string(b"\xff")[..], b"V"].concat();
        let deep = nested(b'F', 1200, b"");
        for invalid in [&odd_name, &deep] {
            assert_eq!(rejections(invalid), None);
            assert_eq!(rejections(&[&rejected_twice[..], invalid].concat()), Some(2));
            assert_eq!(rejections(&[&invalid[..], &rejected_twice].concat()), Some(2));
            assert_eq!(rejections(&[&first_reason[..], invalid].concat()), Some(1));
            // An entry within another table does not count.
            let within = [&b"\x01aF"[..], &table(&rejected_twice)].concat();
            assert_eq!(rejections(&[&within[..], invalid].concat()), None);
        }
        let too_long = deaths(&[b"\x01xS", &table(&[b'x'; 1024])[..]].concat());
        for unreadable in [
            deaths(&odd_name),
            [b"\x07x-deathA", &table(&nested(b'A', 1200, b""))[..]].concat(),
            [&too_long[..], &odd_name].concat(),
            [&rejected_twice[..], b"\x01aS"].concat(),
        ] {
            assert_eq!(rejections(&unreadable), Some(u32::MAX));
        }
    }
}
