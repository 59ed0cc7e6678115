//! The protocol's messages ↔ lapin's.

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::guard::mark;
use super::short;
use crate::error::BrokerError;
use crate::headers::Headers;
use crate::protocol::{Message, Properties, ShortStr};

/// AMQP's `delivery_mode` of a message that the broker keeps on disk.
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// The properties of a message on its way out.
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

/// A message that arrived.
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
            headers: properties.headers().as_ref().map(headers).unwrap_or_default(),
        },
        body: Bytes::from(body),
    }
}

/// lapin does not let a longer string in, so none is lost here.
fn text(value: &Option<ShortString>) -> Option<ShortStr> {
    value
        .as_ref()
        .and_then(|value| ShortStr::new(value.as_str()).ok())
}

/// RabbitMQ refuses an expiration that is not a number; should one come all the same, the request has no deadline.
fn milliseconds(expiration: &ShortString) -> Option<Duration> {
    expiration.as_str().parse().ok().map(Duration::from_millis)
}

/// The headers that can be told as text; see [`Headers`].
fn headers(table: &FieldTable) -> Headers {
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

#[cfg(test)]
mod tests {
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
    fn foreign_headers_are_read_as_text_where_they_can_be() {
        let mut table = FieldTable::default();
        table.insert("retries".into(), AMQPValue::LongInt(3));
        table.insert("urgent".into(), AMQPValue::Boolean(true));
        table.insert("x-death".into(), AMQPValue::FieldTable(FieldTable::default()));
        table.insert(mark::NAME.into(), AMQPValue::LongString("a peer's own".into()));
        table.insert("raw".into(), AMQPValue::LongString(vec![0xff].into()));
        let read = headers(&table);
        let read: Vec<_> = read.iter().collect();
        assert_eq!(read, [("retries", "3"), ("urgent", "true")]);
    }

    #[test]
    fn a_malformed_expiration_is_none() {
        let properties = BasicProperties::default().with_expiration("soon".into());
        assert_eq!(from_lapin(&properties, Vec::new()).properties.expiration, None);
    }
}
