//! Converts the protocol's messages to lapin's and back.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::errors::short;
use super::guard::mark;
use crate::error::BrokerError;
use crate::protocol::{
    DEATHS_HEADER, DeadLettered, DeathReason, FIRST_DEATH_REASON_HEADER, Headers, Message, Properties,
    ShortStr, body_of,
};

/// AMQP's `delivery_mode` of a message that the broker keeps on disk.
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// Converts the properties of a message to send.
pub(crate) fn to_lapin(properties: Properties) -> Result<BasicProperties, BrokerError> {
    let Properties {
        kind,
        content_type,
        content_encoding,
        correlation_id,
        reply_to,
        expiration,
        persistent,
        priority,
        app_id,
        user_id,
        headers,
        // Only the broker writes the headers for this.
        dead_lettered: _,
    } = properties;

    let mut out =
        BasicProperties::default().with_delivery_mode(if persistent { PERSISTENT } else { TRANSIENT });
    if let Some(value) = kind {
        out = out.with_type(short(value.as_str())?);
    }
    if let Some(value) = content_type {
        out = out.with_content_type(short(value.as_str())?);
    }
    if let Some(value) = content_encoding {
        out = out.with_content_encoding(short(value.as_str())?);
    }
    if let Some(value) = correlation_id {
        out = out.with_correlation_id(short(value.as_str())?);
    }
    if let Some(value) = reply_to {
        out = out.with_reply_to(short(value.as_str())?);
    }
    if let Some(time) = expiration {
        out = out.with_expiration(short(&time.as_millis().to_string())?);
    }
    if let Some(value) = priority {
        out = out.with_priority(value);
    }
    if let Some(value) = app_id {
        out = out.with_app_id(short(value.as_str())?);
    }
    if let Some(value) = user_id {
        out = out.with_user_id(short(value.as_str())?);
    }
    if !headers.is_empty() {
        let mut table = FieldTable::default();
        for (name, value) in headers.iter() {
            table.insert(short(name)?, AMQPValue::LongString(value.as_bytes().into()));
        }
        out = out.with_headers(table);
    }
    Ok(out)
}

/// Converts a message that arrived.
pub(crate) fn from_lapin(properties: &BasicProperties, body: Vec<u8>) -> Message {
    Message {
        properties: Properties {
            kind: text(properties.kind()),
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            expiration: properties.expiration().as_ref().and_then(milliseconds),
            persistent: *properties.delivery_mode() == Some(PERSISTENT),
            priority: *properties.priority(),
            app_id: text(properties.app_id()),
            user_id: text(properties.user_id()),
            headers: properties.headers().as_ref().map(headers_of).unwrap_or_default(),
            dead_lettered: properties.headers().as_ref().and_then(dead_lettered),
        },
        body: body_of(body),
    }
}

/// A `ShortString` has at most 255 bytes, like a `ShortStr`, so none is lost here.
fn text(value: &Option<ShortString>) -> Option<ShortStr> {
    value
        .as_ref()
        .and_then(|value| ShortStr::new(value.as_str()).ok())
}

/// Parses an expiration. RabbitMQ refuses one that is not a number. If one arrives nevertheless,
/// the request has no deadline.
fn milliseconds(expiration: &ShortString) -> Option<Duration> {
    expiration.as_str().parse().ok().map(Duration::from_millis)
}

/// The headers that can be represented as text, without the guard's [`mark`]. See [`Headers`].
fn headers_of(table: &FieldTable) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in table.inner() {
        if name.as_str() == mark::NAME {
            continue;
        }
        let value = match value {
            AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
                Ok(text) => text.to_owned(),
                Err(_) => continue,
            },
            AMQPValue::ShortString(text) => text.to_string(),
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
            _ => continue,
        };
        if let Ok(name) = ShortStr::new(name.as_str()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// How the message was dead-lettered. `None` if it was not.
fn dead_lettered(table: &FieldTable) -> Option<DeadLettered> {
    let headers = table.inner();
    let (deaths, first_reason) = (headers.get(DEATHS_HEADER), headers.get(FIRST_DEATH_REASON_HEADER));
    if deaths.is_none() && first_reason.is_none() {
        return None;
    }
    let mut dead = DeadLettered::default();
    if let Some(AMQPValue::FieldArray(deaths)) = deaths {
        for death in deaths.as_slice() {
            if let AMQPValue::FieldTable(death) = death {
                add_death(&mut dead, death);
            }
        }
    }
    // The entries include the first reason. It counts only if they cannot be read.
    if let Some(reason) = first_reason.and_then(value_as_str).map(DeathReason::from_wire) {
        match reason {
            DeathReason::Expired => dead.has_expired = true,
            reason if dead.non_expiry_deaths == 0 => dead.add(reason, 1, None),
            _ => {}
        }
    }
    Some(dead)
}

/// Adds an entry of `x-death`.
fn add_death(dead: &mut DeadLettered, death: &FieldTable) {
    let value = |name| death.inner().get(name);
    let Some(reason) = value("reason").and_then(value_as_str) else {
        return;
    };
    // A count that cannot be read, such as a negative one, may be forged. The broker only
    // increments it, so it is taken as the maximum.
    let count = value("count").map_or(1, |count| value_as_count(count).unwrap_or(u32::MAX));
    let expiration = value("original-expiration")
        .and_then(value_as_str)
        .and_then(|millis| millis.parse().ok())
        .map(Duration::from_millis);
    dead.add(DeathReason::from_wire(reason), count, expiration);
}

fn value_as_str(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// A count, or `u32::MAX` if it is larger. `None` if the value is not a positive integer.
fn value_as_count(value: &AMQPValue) -> Option<u32> {
    let count = match value {
        AMQPValue::ShortShortInt(count) => i64::from(*count),
        AMQPValue::ShortShortUInt(count) => i64::from(*count),
        AMQPValue::ShortInt(count) => i64::from(*count),
        AMQPValue::ShortUInt(count) => i64::from(*count),
        AMQPValue::LongInt(count) => i64::from(*count),
        AMQPValue::LongUInt(count) => i64::from(*count),
        AMQPValue::LongLongInt(count) => *count,
        _ => return None,
    };
    (count > 0).then(|| u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn properties_survive_lapin() {
        let mut headers = Headers::default();
        headers.insert(ShortStr::from_static("tenant"), "a".into());
        let properties = Properties {
            kind: Some(ShortStr::from_static("get_email")),
            content_type: Some(ShortStr::from_static("application/json")),
            content_encoding: Some(ShortStr::from_static("utf-8")),
            correlation_id: Some(ShortStr::from_static("7")),
            reply_to: Some(ShortStr::from_static("amq.gen-x")),
            expiration: Some(Duration::from_millis(1500)),
            persistent: true,
            priority: Some(3),
            app_id: Some(ShortStr::from_static("shop")),
            user_id: Some(ShortStr::from_static("guest")),
            headers,
            dead_lettered: None,
        };
        let there = to_lapin(properties.clone()).unwrap();
        assert_eq!(there.expiration().as_ref().unwrap().as_str(), "1500");
        assert_eq!(
            from_lapin(&there, b"x".to_vec()),
            Message {
                properties,
                body: Bytes::from_static(b"x")
            }
        );
    }

    #[test]
    fn headers_of_other_clients_are_read_as_text_if_possible() {
        let mut table = FieldTable::default();
        table.insert("retries".into(), AMQPValue::LongInt(3));
        table.insert("urgent".into(), AMQPValue::Boolean(true));
        table.insert("x-death".into(), AMQPValue::FieldTable(FieldTable::default()));
        table.insert(mark::NAME.into(), AMQPValue::LongString("a peer's own".into()));
        table.insert("raw".into(), AMQPValue::LongString(vec![0xff].into()));
        let read = headers_of(&table);
        let read: Vec<_> = read.iter().collect();
        assert_eq!(read, [("retries", "3"), ("urgent", "true")]);
    }

    fn death(entries: &[(&'static str, AMQPValue)]) -> AMQPValue {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert((*name).into(), value.clone());
        }
        AMQPValue::FieldTable(table)
    }

    fn text(text: &'static str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn read_deaths(deaths: AMQPValue) -> Option<DeadLettered> {
        let mut table = FieldTable::default();
        table.insert(DEATHS_HEADER.into(), deaths);
        dead_lettered(&table)
    }

    #[test]
    fn dead_letter_headers_are_read() {
        let rejected = death(&[
            ("reason", text("rejected")),
            ("count", AMQPValue::LongLongInt(2)),
            ("queue", text("orders")),
            ("original-expiration", text("1500")),
        ]);
        let expired = death(&[("reason", text("expired")), ("count", AMQPValue::LongLongInt(1))]);
        let read = read_deaths(AMQPValue::FieldArray(vec![expired, rejected].into()));
        let expected = DeadLettered {
            has_expired: true,
            non_expiry_deaths: 2,
            rejections: 2,
            original_expiration: Some(Duration::from_millis(1500)),
        };
        assert_eq!(read, Some(expected));
        assert_eq!(dead_lettered(&FieldTable::default()), None);
    }

    #[test]
    fn the_first_death_reason_is_enough() {
        let read = |reason| {
            let mut table = FieldTable::default();
            table.insert(FIRST_DEATH_REASON_HEADER.into(), reason);
            dead_lettered(&table)
        };
        assert!(read(text("expired")).unwrap().has_expired);
        assert_eq!(read(text("delivery_limit")).unwrap().non_expiry_deaths, 1);
        assert_eq!(read(AMQPValue::Void), Some(DeadLettered::default()));
    }

    #[test]
    fn invalid_dead_letter_headers_still_count() {
        let no_count = death(&[("reason", text("rejected")), ("count", text("many"))]);
        let negative = death(&[
            ("reason", text("rejected")),
            ("count", AMQPValue::LongLongInt(-1)),
        ]);
        let huge = death(&[
            ("reason", text("what")),
            ("count", AMQPValue::LongLongInt(i64::MAX)),
        ]);
        let no_reason = death(&[("count", AMQPValue::LongInt(3))]);
        let not_utf8 = death(&[("reason", AMQPValue::LongString(vec![0xff].into()))]);
        for (deaths, times) in [
            (AMQPValue::Void, 0),
            (text("rejected"), 0),
            (AMQPValue::FieldArray(vec![text("rejected")].into()), 0),
            // The broker may increment a forged count.
            (AMQPValue::FieldArray(vec![no_count].into()), u32::MAX),
            (AMQPValue::FieldArray(vec![negative].into()), u32::MAX),
            (AMQPValue::FieldArray(vec![huge].into()), u32::MAX),
            (AMQPValue::FieldArray(vec![no_reason, not_utf8].into()), 0),
        ] {
            let read = read_deaths(deaths.clone()).unwrap_or_else(|| panic!("{deaths:?}"));
            assert_eq!(read.non_expiry_deaths, times, "{deaths:?}");
        }
    }

    #[test]
    fn a_malformed_expiration_is_none() {
        let properties = BasicProperties::default().with_expiration("soon".into());
        assert_eq!(from_lapin(&properties, Vec::new()).properties.expiration, None);
    }
}
