//! The properties and headers of a dead letter, and those of its retry. Does no I/O.

use rpc_runtime::__tools::lapin::BasicProperties;
use rpc_runtime::__tools::lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value, json};

/// AMQP's `delivery_mode` of a message that the broker keeps on disk.
const PERSISTENT: u8 = 2;

/// Returns a header's value as text. `None` if it is missing, or is no text, number or boolean.
/// Bytes count as text, and a timestamp as a number, but a decimal does not.
pub(crate) fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match json_of(headers.inner().get(name)?) {
        Value::String(text) => Some(text),
        value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
        _ => None,
    }
}

/// Returns a header's value if it is an integer that is not negative, or the digits of one.
pub(crate) fn number(headers: &FieldTable, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// Returns the entry of `x-death` for the last time that a broker dead-lettered the message.
pub(crate) fn last_death(headers: &FieldTable) -> Option<&FieldTable> {
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else {
        return None;
    };
    // RabbitMQ puts the newest first.
    match deaths.as_slice().first()? {
        AMQPValue::FieldTable(death) => Some(death),
        _ => None,
    }
}

/// Whether a quorum queue adds this header at a delivery, to count the deliveries before it.
pub(crate) fn is_delivery_count(name: &str) -> bool {
    matches!(name, "x-delivery-count" | "x-acquired-count")
}

/// Whether a retry must not have this header: a worker or a broker wrote it about the dead letter,
/// it concerns only the caller's own message, or it makes the broker send copies to other queues.
///
/// A retry keeps `rpc-copy`. If a letter stays although its retry was sent, and is retried again, a
/// worker recognizes the second retry by this header. A retry keeps `rpc-user` too, which a worker
/// believes only beside `rpc-copy`.
fn is_removed(name: &str) -> bool {
    let is_internal = name.starts_with("rpc-") && !matches!(name, "rpc-copy" | "rpc-user");
    let is_of_death = name == "x-death"
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
        || is_delivery_count(name);
    is_internal || is_of_death || matches!(name, "CC" | "BCC")
}

/// Returns the properties of the retry of a dead letter: those of the letter, but persistent and
/// without the headers that [`is_removed`] names. Leaves out the `user_id`, which only that user
/// may send, and the `expiration`, so that the retry is not lost while it waits.
pub(crate) fn retry_properties(dead: &BasicProperties) -> BasicProperties {
    let mut retry = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(headers) = dead.headers() {
        let mut kept = FieldTable::default();
        for (name, value) in headers.inner() {
            if !is_removed(name.as_str()) {
                kept.insert(name.clone(), value.clone());
            }
        }
        retry = retry.with_headers(kept);
    }
    macro_rules! keep {
        ($($property:ident: $with:ident),*) => {$(
            if let Some(value) = dead.$property() {
                retry = retry.$with(value.clone());
            }
        )*};
    }
    keep!(
        content_type: with_content_type,
        content_encoding: with_content_encoding,
        priority: with_priority,
        correlation_id: with_correlation_id,
        reply_to: with_reply_to,
        message_id: with_message_id,
        timestamp: with_timestamp,
        kind: with_type,
        app_id: with_app_id,
        cluster_id: with_cluster_id
    );
    retry
}

/// Returns all properties except the headers as JSON.
pub(crate) fn properties_json(properties: &BasicProperties) -> Value {
    let texts = [
        ("type", properties.kind()),
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("message_id", properties.message_id()),
        ("app_id", properties.app_id()),
        ("user_id", properties.user_id()),
        ("expiration", properties.expiration()),
        ("cluster_id", properties.cluster_id()),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name, json!(text.as_ref()?.as_str()))));
    let numbers = [
        ("priority", properties.priority().map(u64::from)),
        ("delivery_mode", properties.delivery_mode().map(u64::from)),
        ("timestamp", *properties.timestamp()),
    ];
    let numbers = numbers
        .into_iter()
        .filter_map(|(name, number)| Some((name, json!(number?))));
    let all = texts.chain(numbers);
    Value::Object(all.map(|(name, value)| (name.to_owned(), value)).collect())
}

pub(crate) fn table_json(table: &FieldTable) -> Value {
    let entries = table.inner().iter();
    let entries = entries.map(|(name, value)| (name.to_string(), json_of(value)));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// Returns the value of a header as JSON. What is not UTF-8 is replaced. The recursion is bounded,
/// because the runtime limits how deeply values are nested.
fn json_of(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(value) => json!(value),
        AMQPValue::ShortShortUInt(value) => json!(value),
        AMQPValue::ShortInt(value) => json!(value),
        AMQPValue::ShortUInt(value) => json!(value),
        AMQPValue::LongInt(value) => json!(value),
        AMQPValue::LongUInt(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::DecimalValue(value) => json!({"value": value.value, "scale": value.scale}),
        AMQPValue::ShortString(text) => json!(text.as_str()),
        AMQPValue::LongString(text) => json!(String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => json!(String::from_utf8_lossy(bytes.as_slice())),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json_of).collect(),
        AMQPValue::FieldTable(table) => table_json(table),
        AMQPValue::Void => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_the_request_as_it_was_sent() {
        let mut headers = FieldTable::default();
        for name in [
            "rpc-attempts",
            "rpc-given-up",
            "rpc-copy",
            "x-death",
            "x-first-death-queue",
            "x-delivery-count",
            "CC",
            "tenant",
            "x-own",
        ] {
            headers.insert(name.into(), AMQPValue::LongInt(7));
        }
        let dead = BasicProperties::default()
            .with_type("send".into())
            .with_message_id("m".into())
            .with_user_id("alice".into())
            .with_expiration("10".into())
            .with_delivery_mode(1)
            .with_headers(headers);
        let retry = retry_properties(&dead);
        assert_eq!(
            properties_json(&retry),
            json!({"type": "send", "message_id": "m", "delivery_mode": 2})
        );
        let headers = table_json(retry.headers().as_ref().unwrap());
        assert_eq!(headers, json!({"tenant": 7, "x-own": 7, "rpc-copy": 7}));
        assert_eq!(*retry_properties(&BasicProperties::default()).headers(), None);
    }

    #[test]
    fn headers_of_any_type_are_shown() {
        let mut inner = FieldTable::default();
        inner.insert("raw".into(), AMQPValue::LongString(vec![0xff].into()));
        let mut table = FieldTable::default();
        table.insert("void".into(), AMQPValue::Void);
        table.insert("flag".into(), AMQPValue::Boolean(true));
        table.insert(
            "list".into(),
            AMQPValue::FieldArray(vec![AMQPValue::FieldTable(inner)].into()),
        );
        assert_eq!(
            table_json(&table),
            json!({"void": null, "flag": true, "list": [{"raw": "\u{fffd}"}]})
        );
        assert_eq!(text(&table, "flag").as_deref(), Some("true"));
        assert_eq!(text(&table, "list"), None);
        assert!(last_death(&table).is_none());
    }
}
