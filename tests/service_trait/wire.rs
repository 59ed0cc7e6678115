//! What is on the wire, to look at.

use std::fmt;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use rpc_runtime::__private::DecodeArguments;
use rpc_runtime::{Answer, Fault, Invocation, Service, ServiceDescriptor};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// A value as it was written, whatever its type: in the notation of JSON, and bytes as `h'00ff'`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written(String);

impl PartialEq<&str> for Written {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
        Ok(Written(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
        Ok(Written(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Written, E> {
        Ok(Written(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Written, E> {
        Ok(Written(value.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(Written(format!("{text:?}")))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Written, E> {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Written(format!("h'{digits}'")))
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Written, A::Error> {
        let mut elements = Vec::new();
        while let Some(Written(element)) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Written(format!("[{}]", elements.join(","))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
        let mut entries = Vec::new();
        while let Some((Written(key), Written(value))) = map.next_entry()? {
            entries.push(format!("{key}:{value}"));
        }
        Ok(Written(format!("{{{}}}", entries.join(","))))
    }
}

/// All arguments of a request at once.
impl<'de> DecodeArguments<'de> for Written {
    fn from_map<A: MapAccess<'de>>(_: &'static [&'static str], map: A) -> Result<Self, A::Error> {
        Self::deserialize(MapAccessDeserializer::new(map))
    }

    fn from_seq<A: SeqAccess<'de>>(_: &'static [&'static str], seq: A) -> Result<Self, A::Error> {
        Self::deserialize(SeqAccessDeserializer::new(seq))
    }
}

/// Serves what `service` serves, and keeps the arguments of the last request.
pub(crate) struct Tap<S> {
    service: S,
    sent: Sent,
}

/// The arguments of the last request that came through a [`Tap`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<Option<Written>>>);

impl<S: Service> Tap<S> {
    pub(crate) fn new(service: S) -> (Self, Sent) {
        let sent = Sent::default();
        let tap = Self {
            service,
            sent: sent.clone(),
        };
        (tap, sent)
    }
}

impl Sent {
    /// What was sent since the last look.
    #[track_caller]
    pub(crate) fn take(&self) -> String {
        let Written(arguments) = self.0.lock().unwrap().take().expect("there was a request");
        arguments
    }
}

impl<S: Service> Service for Tap<S> {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.service.descriptor()
    }

    fn handle<'a>(&'a self, invocation: &'a Invocation) -> BoxFuture<'a, Result<Answer, Fault>> {
        let method = self.descriptor().method(invocation.method()).expect("a method");
        let arguments = invocation.arguments(method).expect("arguments of some kind");
        *self.sent.0.lock().unwrap() = Some(arguments);
        self.service.handle(invocation)
    }
}
