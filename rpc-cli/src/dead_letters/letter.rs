//! A dead letter, and what its properties and headers say. Any peer can have put it there, with any
//! headers.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, SystemTime};

use rpc_runtime::__tools::lapin::types::FieldTable;
use rpc_runtime::__tools::{TakenMessage, body_as_json};
use serde_json::{Value, json};

use super::headers::{self, is_delivery_count, last_death, number, table_json, text};

/// A dead letter that is held.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) id: String,
    pub(crate) message: TakenMessage,
    pub(crate) facts: Facts,
}

impl Letter {
    /// Returns the arguments as JSON, or `None` if they cannot be read.
    pub(crate) fn arguments(&self) -> Option<String> {
        let content_type = self.message.properties.content_type().as_ref();
        body_as_json(content_type.map_or("", |name| name.as_str()), &self.message.body)
    }

    pub(crate) fn headers(&self) -> Value {
        let none = FieldTable::default();
        table_json(self.message.properties.headers().as_ref().unwrap_or(&none))
    }
}

/// What the properties and headers of a dead letter say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    /// The `type` of the message.
    pub(crate) method: Option<String>,
    /// Why it was given up: `error`, a fault's code, or RabbitMQ's reason.
    pub(crate) reason: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) attempts: Option<u64>,
    /// In milliseconds since 1970, like `last_failure`.
    pub(crate) first_failure: Option<u64>,
    pub(crate) last_failure: Option<u64>,
    /// The queue that the job was sent to, or the one in which RabbitMQ dead-lettered it.
    pub(crate) origin: Option<String>,
    /// The RabbitMQ user that sent the job, as the header `rpc-user` tells. The broker does not
    /// check this header, so a sender can forge it.
    pub(crate) user: Option<String>,
    /// The size of the body in bytes.
    pub(crate) size: usize,
}

impl Facts {
    /// Reads the facts, each of which may be missing or wrong.
    pub(crate) fn read(message: &TakenMessage) -> Self {
        let empty = FieldTable::default();
        let headers = message.properties.headers().as_ref().unwrap_or(&empty);
        let death = last_death(headers).unwrap_or(&empty);
        // If a message died several times in one queue for one reason, RabbitMQ gives the time of
        // the first death. That of the last is not known then.
        let died_once = number(death, "count").unwrap_or(1) <= 1;
        let died_at = number(death, "time").filter(|_| died_once);
        let died_at = died_at.and_then(|seconds| seconds.checked_mul(1000));
        Self {
            method: message.properties.kind().as_ref().map(ToString::to_string),
            reason: text(headers, "rpc-reason").or_else(|| text(death, "reason")),
            error: text(headers, "rpc-error"),
            attempts: number(headers, "rpc-attempts"),
            first_failure: number(headers, "rpc-first-failure"),
            last_failure: number(headers, "rpc-last-failure").or(died_at),
            origin: text(headers, "rpc-origin").or_else(|| text(death, "queue")),
            user: text(headers, "rpc-user"),
            size: message.body.len(),
        }
    }

    /// How long ago it failed last: zero for a time in the future, `None` if it is not known.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        let failed = time_at(self.last_failure?)?;
        Some(now.duration_since(failed).unwrap_or_default())
    }

    /// The queue to which the letter is sent again, if `queue` is its request queue. A letter of
    /// the type `rpc.batch` is a whole batch, for example one that no worker could read. It goes to
    /// the queue for batches, because no other one takes batches.
    pub(crate) fn target(&self, queue: &str) -> String {
        if self.method.as_deref() == Some("rpc.batch") {
            format!("{queue}.batch")
        } else {
            queue.to_owned()
        }
    }

    /// Whether the letter came from this queue, directly or through one of the queue's retry
    /// queues, or from the queue for its batches. Also `true` if the letter's origin is not known,
    /// so that letters of other programs can be retried.
    pub(crate) fn is_from(&self, queue: &str) -> bool {
        let Some(origin) = &self.origin else {
            return true;
        };
        let Some(suffix) = origin.strip_prefix(queue) else {
            return false;
        };
        let is_delay = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_retry_queue = suffix.strip_prefix(".retry.").is_some_and(is_delay);
        is_retry_queue || matches!(suffix, "" | ".batch")
    }

    pub(crate) fn json(&self, id: &str) -> Value {
        json!({
            "id": id,
            "method": self.method,
            "reason": self.reason,
            "error": self.error,
            "attempts": self.attempts,
            "first_failure_ms": self.first_failure,
            "last_failure_ms": self.last_failure,
            "origin": self.origin,
            "user": self.user,
            "bytes": self.size,
        })
    }
}

/// The time that is this many milliseconds after the beginning of 1970. `None` if the system has no
/// such time.
pub(crate) fn time_at(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// How often the letter came back, as counted by a quorum queue in `x-delivery-count`. Zero if
/// there is no count, as in a classic queue.
pub(crate) fn return_count(message: &TakenMessage) -> u64 {
    let headers = message.properties.headers().as_ref();
    headers
        .and_then(|headers| number(headers, "x-delivery-count"))
        .unwrap_or(0)
}

/// Whether the letter is among those that came back to a quorum queue. These are delivered before
/// all others, and in the order in which they came back.
pub(crate) fn came_back_to_quorum_queue(message: &TakenMessage) -> bool {
    let headers = message.properties.headers().as_ref();
    let is_counted = headers.is_some_and(|headers| {
        let mut names = headers.inner().keys();
        names.any(|name| is_delivery_count(name.as_str()))
    });
    message.redelivered && is_counted
}

/// Returns the number from which a letter's id is made: the token that its worker gave it, or a
/// hash of its properties, headers and body. Several letters may have the same number.
pub(crate) fn id_number(message: &TakenMessage) -> u64 {
    let headers = message.properties.headers().as_ref();
    let token = headers.and_then(|headers| text(headers, "rpc-copy"));
    let number = token.and_then(|token| parse_token(&token));
    number.unwrap_or_else(|| hash_of(message))
}

/// Reads a token as workers write it: as 16 hexadecimal digits.
fn parse_token(token: &str) -> Option<u64> {
    let is_token = token.len() == 16 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(token, 16).ok().filter(|_| is_token)
}

/// Returns a hash of a letter's properties, headers and body. A letter has the same hash each time:
/// delivery counts are left out, and [`DefaultHasher::new`] has no random keys. Letters with the
/// same hash are told apart by their order.
fn hash_of(message: &TakenMessage) -> u64 {
    let mut hasher = DefaultHasher::new();
    headers::properties_json(&message.properties)
        .to_string()
        .hash(&mut hasher);
    if let Some(headers) = message.properties.headers() {
        for (name, value) in headers.inner() {
            if !is_delivery_count(name.as_str()) {
                (name.as_str(), format!("{value:?}")).hash(&mut hasher);
            }
        }
    }
    message.body.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
pub(crate) mod tests {
    use rpc_runtime::__tools::lapin::BasicProperties;
    use rpc_runtime::__tools::lapin::types::{AMQPValue, FieldArray};

    use super::*;

    /// A message with these headers.
    pub(crate) fn message(headers: &[(&'static str, AMQPValue)], body: &[u8]) -> TakenMessage {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        TakenMessage {
            tag: 1,
            redelivered: false,
            malformed: None,
            properties: BasicProperties::default().with_headers(table),
            body: body.to_vec(),
        }
    }

    pub(crate) fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn a_letter_of_a_worker_tells_why_it_was_given_up() {
        let facts = Facts::read(&message(
            &[
                ("rpc-reason", long("error")),
                ("rpc-error", long("no route")),
                ("rpc-attempts", long("3")),
                ("rpc-first-failure", long("1000")),
                ("rpc-last-failure", long("61000")),
                ("rpc-origin", long("mail")),
            ],
            b"body",
        ));
        assert_eq!((facts.attempts, facts.size), (Some(3), 4));
        let now = time_at(121_000).unwrap();
        assert_eq!(facts.age(now), Some(Duration::from_secs(60)));
        assert_eq!(facts.age(SystemTime::UNIX_EPOCH), Some(Duration::ZERO));
        assert!(facts.is_from("mail") && !facts.is_from("mai") && !facts.is_from("mail.x"));
        assert_eq!(facts.target("mail"), "mail");
    }

    #[test]
    fn a_batch_is_sent_to_the_queue_for_batches_again() {
        for origin in ["mail", "mail.batch"] {
            let mut message = message(&[("rpc-origin", long(origin))], b"");
            message.properties = message.properties.with_type("rpc.batch".into());
            let facts = Facts::read(&message);
            assert!(facts.is_from("mail"));
            assert_eq!(facts.target("mail"), "mail.batch");
        }
    }

    #[test]
    fn a_queue_whose_name_is_only_similar_is_another_one() {
        for origin in ["mails", "mail.x", "mail.retry.eu", "mail.retry.", "mail.batches"] {
            let facts = Facts::read(&message(&[("rpc-origin", long(origin))], b""));
            assert!(!facts.is_from("mail"), "{origin}");
        }
    }

    #[test]
    fn a_letter_of_the_broker_tells_its_reason_and_its_queue() {
        for (count, last_failure) in [(1, Some(60_000)), (2, None)] {
            let mut death = FieldTable::default();
            death.insert("reason".into(), long("rejected"));
            death.insert("queue".into(), long("mail.retry.100"));
            death.insert("time".into(), AMQPValue::Timestamp(60));
            death.insert("count".into(), AMQPValue::LongLongInt(count));
            let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
            let facts = Facts::read(&message(&[("x-death", AMQPValue::FieldArray(deaths))], b""));
            assert_eq!(facts.reason.as_deref(), Some("rejected"));
            assert_eq!(facts.last_failure, last_failure);
            assert!(facts.is_from("mail") && !facts.is_from("orders"));
        }
    }

    #[test]
    fn senseless_headers_are_ignored() {
        let headers = [
            ("rpc-attempts", long("-1")),
            ("rpc-last-failure", AMQPValue::LongLongInt(i64::MAX)),
            ("rpc-reason", AMQPValue::Void),
            ("rpc-copy", long("+00000000000000f")),
            ("x-death", long("often")),
        ];
        let message = message(&headers, b"");
        let facts = Facts::read(&message);
        assert_eq!((facts.attempts, facts.reason.clone()), (None, None));
        assert!(facts.is_from("any"));
        assert!(facts.age(SystemTime::now()).is_none_or(|age| age.is_zero()));
        assert_eq!(id_number(&message), hash_of(&message));
    }

    #[test]
    fn the_number_is_the_token_or_depends_on_everything_but_the_deliveries() {
        let token = [("rpc-copy", long("00000000000000ff"))];
        assert_eq!(id_number(&message(&token, b"")), 255);
        let number = |headers: &[_], body: &[u8]| id_number(&message(headers, body));
        let first = number(&[("a", long("1"))], b"x");
        assert_eq!(
            first,
            number(
                &[("a", long("1")), ("x-delivery-count", AMQPValue::LongInt(3))],
                b"x"
            )
        );
        assert_ne!(first, number(&[("a", long("2"))], b"x"));
        assert_ne!(first, number(&[("a", long("1"))], b"y"));
    }
}
