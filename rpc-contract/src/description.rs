//! The description of a service.
//!
//! A description may come from a peer, so its content is not trusted. Names may be empty or occur
//! twice, and schemas may be any JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A service: its name, its request queue, and its methods.
///
/// A program that has the trait makes a description with `ServiceDescriptor::description` of
/// rpc-runtime. Others read it with serde. Different versions of this crate understand each other:
/// a missing field is empty, an unknown field is skipped, and an empty field is not written, except
/// for names, the queue and the numbers of a retry.
///
/// ```
/// use rpc_contract::ServiceDescription;
///
/// let json = r#"{"name": "Directory", "queue": "users", "methods": [{"name": "count", "returns": "u64", "idempotent": true}]}"#;
/// let description: ServiceDescription = serde_json::from_str(json)?;
/// assert_eq!(description.method("count").unwrap().signature(), "count() -> u64");
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ServiceDescription {
    /// The trait's name.
    pub name: String,
    /// The request queue. In a description made from the trait, the one that callers and workers
    /// use unless they choose another; in one from a worker, the queue on which it serves the
    /// service.
    pub queue: String,
    /// The trait's documentation. Empty if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub docs: String,
    /// The methods, in the order of the trait.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodDescription>,
    /// The JSON Schemas that other schemas refer to by `#/definitions/NAME`.
    ///
    /// All schemas of a description are [draft 7](https://json-schema.org/draft-07). They describe
    /// the JSON form of a value; MessagePack has the same structure. They state what a reader
    /// requires: a field with a default is not required.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub definitions: BTreeMap<String, Value>,
}

impl ServiceDescription {
    /// Creates a service without methods.
    #[must_use]
    pub fn new(name: impl Into<String>, queue: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            queue: queue.into(),
            ..Self::default()
        }
    }

    /// Returns the first method with this name on the wire.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&MethodDescription> {
        self.methods.iter().find(|method| method.name == name)
    }

    /// Returns the first method that serves requests without a `type`.
    #[must_use]
    pub fn default_method(&self) -> Option<&MethodDescription> {
        self.methods.iter().find(|method| method.is_default)
    }
}

/// A method of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MethodDescription {
    /// The name on the wire: AMQP's `type` of its requests.
    pub name: String,
    /// The method's documentation. Empty if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub docs: String,
    /// The arguments, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<ArgumentDescription>,
    /// The Rust type that it returns if it succeeds. Empty if it is not known.
    ///
    /// If the trait returns an alias of `Result`, the types within it are not known. This field is
    /// then the alias followed by `::Ok`, and `error` is the alias followed by `::Err`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub returns: String,
    /// The Rust type of its error, if it can fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it serves requests without a `type`.
    #[serde(rename = "default", skip_serializing_if = "is_false")]
    pub is_default: bool,
    /// Whether it may run more than once: a redelivered request is run again.
    #[serde(rename = "idempotent", skip_serializing_if = "is_false")]
    pub is_idempotent: bool,
    /// Whether it has no reply: a call ends when the broker has confirmed the request.
    #[serde(rename = "oneway", skip_serializing_if = "is_false")]
    pub is_oneway: bool,
    /// Whether all workers of the queue run it, instead of one of them.
    #[serde(rename = "broadcast", skip_serializing_if = "is_false")]
    pub is_broadcast: bool,
    /// Whether it has the option `cancel`: workers stop it once its caller no longer waits. Calls
    /// that are `idempotent` or have a stream are stopped without it.
    #[serde(rename = "cancel", skip_serializing_if = "is_false")]
    pub is_cancellable: bool,
    /// Whether it replies with a stream of items: `returns` is the type of an item.
    #[serde(rename = "stream", skip_serializing_if = "is_false")]
    pub is_streaming: bool,
    /// How long a caller waits, in milliseconds, unless the call sets another limit. `None` if the
    /// client's limit applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The Rust type of the items that its caller sends while it runs. `None` if it receives no
    /// stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming: Option<String>,
    /// The argument that gets the last item when a caller whose stream was interrupted calls it
    /// again. `None` if the stream is not resumed.
    #[serde(rename = "resume", skip_serializing_if = "Option::is_none")]
    pub resumed_by: Option<String>,
    /// How a failed job is retried. `None` if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryDescription>,
    /// The JSON Schema of `returns`, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_schema: Option<Value>,
    /// The JSON Schema of `error`, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_schema: Option<Value>,
    /// The JSON Schema of `incoming`, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming_schema: Option<Value>,
}

impl MethodDescription {
    /// Creates a method without arguments that replies, runs at most once, and has no timeout of
    /// its own.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Returns the first argument with this name. Aliases do not count.
    #[must_use]
    pub fn argument(&self, name: &str) -> Option<&ArgumentDescription> {
        self.arguments.iter().find(|argument| argument.name == name)
    }

    /// Returns how long a caller waits unless the call sets another limit. Returns `None` if the
    /// client's limit applies.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }

    /// Returns the method's signature for people to read, such as
    /// `get_email(id: &str) -> Result<String, Error>`.
    #[must_use]
    pub fn signature(&self) -> String {
        let arguments: Vec<_> = self
            .arguments
            .iter()
            .map(ArgumentDescription::declaration)
            .chain(self.incoming.iter().map(|item| format!("Incoming<{item}>")))
            .collect();
        let call = format!("{}({})", self.name, arguments.join(", "));
        match self.answer() {
            Some(item) if self.is_streaming => format!("{call} -> impl Stream<Item = {item}>"),
            None if self.is_streaming => format!("{call} -> impl Stream"),
            Some(answer) => format!("{call} -> {answer}"),
            None => call,
        }
    }

    /// Returns the type of the answer or of an item, for people to read. `None` if the method
    /// cannot fail and the type is not known, or is the `()` of an answer.
    fn answer(&self) -> Option<String> {
        let returns = self.returns.as_str();
        let Some(error) = &self.error else {
            let is_nothing = returns.is_empty() || (returns == "()" && !self.is_streaming);
            return (!is_nothing).then(|| returns.to_owned());
        };
        Some(
            match (returns.strip_suffix("::Ok"), error.strip_suffix("::Err")) {
                (Some(alias), Some(alias_of_error)) if alias == alias_of_error => alias.to_owned(),
                // The type of a success is not known.
                _ if returns.is_empty() => format!("Result<_, {error}>"),
                _ => format!("Result<{returns}, {error}>"),
            },
        )
    }
}

/// How a failed job is retried.
///
/// The delays grow by the same factor each time, unless the first is zero: then all are. Each wait
/// is up to a fifth shorter or longer than its delay, then rounded up to a tenth of a second and to
/// two digits, and never zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RetryDescription {
    /// How many times it is retried. If it always fails, it runs once more than this. With zero, it
    /// goes to the dead-letter queue as soon as it has failed.
    pub times: u16,
    /// The delay before the first retry, in milliseconds, also if it is the only one.
    pub min_delay_ms: u64,
    /// The delay before the last retry, in milliseconds.
    pub max_delay_ms: u64,
}

impl RetryDescription {
    /// Describes that a job is retried this often, with these delays in milliseconds.
    #[must_use]
    pub fn new(times: u16, min_delay_ms: u64, max_delay_ms: u64) -> Self {
        Self {
            times,
            min_delay_ms,
            max_delay_ms,
        }
    }
}

/// An argument of a method.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ArgumentDescription {
    /// The name on the wire.
    pub name: String,
    /// The Rust type, as the trait spells it. Empty if it is not known.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub type_name: String,
    /// Whether a caller may leave it out: the worker then reads `None` or a default.
    #[serde(rename = "optional", skip_serializing_if = "is_false")]
    pub is_optional: bool,
    /// Other names that a worker accepts for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The JSON Schema of its value, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

impl ArgumentDescription {
    /// Creates an argument that is required and has one name.
    #[must_use]
    pub fn new(name: impl Into<String>, type_name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            type_name: type_name.into(),
            ..Self::default()
        }
    }

    fn declaration(&self) -> String {
        match self.type_name.as_str() {
            "" => self.name.clone(),
            type_name => format!("{}: {type_name}", self.name),
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_fields_are_empty_and_unknown_ones_are_skipped() {
        let read = |value| serde_json::from_value::<ServiceDescription>(value).unwrap();
        assert_eq!(read(json!({})), ServiceDescription::default());
        let newer = json!({
            "version": 7,
            "name": "Store",
            "queue": "store",
            "methods": [{"name": "get", "streams": [1, {"x": null}], "arguments": [{"name": "id", "unit": "m"}]}],
        });
        let mut expected = ServiceDescription::new("Store", "store");
        expected.methods.push(MethodDescription::new("get"));
        expected.methods[0]
            .arguments
            .push(ArgumentDescription::new("id", ""));
        assert_eq!(read(newer), expected);
    }

    #[test]
    fn methods_and_arguments_are_found_by_name() {
        let mut store = ServiceDescription::new("Store", "store");
        let mut get = MethodDescription::new("get");
        (get.is_default, get.timeout_ms) = (true, Some(2000));
        let mut id = ArgumentDescription::new("id", "&str");
        id.aliases = vec!["key".to_owned()];
        get.arguments.push(id);
        store.methods = vec![MethodDescription::new("seen"), get];
        assert_eq!(store.default_method().unwrap().name, "get");
        let get = store.method("get").unwrap();
        assert_eq!(get.timeout(), Some(Duration::from_secs(2)));
        assert_eq!(get.argument("id").unwrap().type_name, "&str");
        assert!(get.argument("key").is_none() && store.method("put").is_none());
    }

    #[test]
    fn signatures_are_those_of_the_trait() {
        let method = |arguments: &[(&str, &str)], returns: &str, error: Option<&str>| {
            let mut method = MethodDescription::new("f");
            let arguments = arguments.iter();
            let arguments = arguments.map(|&(name, type_name)| ArgumentDescription::new(name, type_name));
            method.arguments = arguments.collect();
            (method.returns, method.error) = (returns.to_owned(), error.map(str::to_owned));
            method.signature()
        };
        assert_eq!(method(&[], "()", None), "f()");
        assert_eq!(method(&[("id", "")], "", None), "f(id)");
        assert_eq!(method(&[], "u64", None), "f() -> u64");
        assert_eq!(
            method(
                &[("id", "&str"), ("limit", "Option<u32>")],
                "Vec<User>",
                Some("Error")
            ),
            "f(id: &str, limit: Option<u32>) -> Result<Vec<User>, Error>"
        );
        assert_eq!(method(&[], "", Some("E")), "f() -> Result<_, E>");
        assert_eq!(
            method(&[], "io::Result<u64>::Ok", Some("io::Result<u64>::Err")),
            "f() -> io::Result<u64>"
        );
        assert_eq!(
            method(&[], "A::Ok", Some("B::Err")),
            "f() -> Result<A::Ok, B::Err>"
        );
        let mut upload = MethodDescription::new("f");
        upload.incoming = Some("Bytes".to_owned());
        assert_eq!(upload.signature(), "f(Incoming<Bytes>)");
        let stream = |returns: &str, error: Option<&str>| {
            let mut method = MethodDescription::new("f");
            (method.returns, method.error) = (returns.to_owned(), error.map(str::to_owned));
            method.is_streaming = true;
            method.signature()
        };
        assert_eq!(stream("u64", None), "f() -> impl Stream<Item = u64>");
        assert_eq!(stream("()", None), "f() -> impl Stream<Item = ()>");
        assert_eq!(
            stream("u64", Some("E")),
            "f() -> impl Stream<Item = Result<u64, E>>"
        );
        assert_eq!(stream("", None), "f() -> impl Stream");
    }

    fn text() -> impl Strategy<Value = String> {
        ".{0,8}"
    }

    /// No schema, or any JSON value but `null`, without floats, which no Rust type's schema needs.
    fn schema() -> impl Strategy<Value = Option<Value>> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(text(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        });
        // `null` is read as no schema.
        prop::option::of(value.prop_filter("not null", |value| !value.is_null()))
    }

    prop_compose! {
        fn argument()(
            (name, type_name, is_optional) in (text(), text(), any::<bool>()),
            aliases in prop::collection::vec(text(), 0..3),
            schema in schema(),
        ) -> ArgumentDescription {
            ArgumentDescription { name, type_name, is_optional, aliases, schema }
        }
    }

    prop_compose! {
        fn method()(
            (name, docs, returns, error) in (text(), text(), text(), prop::option::of(text())),
            arguments in prop::collection::vec(argument(), 0..4),
            (is_default, is_idempotent, is_oneway) in any::<(bool, bool, bool)>(),
            (is_broadcast, is_cancellable, is_streaming) in any::<(bool, bool, bool)>(),
            timeout_ms in any::<Option<u64>>(),
            retry in any::<Option<(u16, u64, u64)>>(),
            (result_schema, error_schema, incoming_schema) in (schema(), schema(), schema()),
            (incoming, resumed_by) in (prop::option::of(text()), prop::option::of(text())),
        ) -> MethodDescription {
            MethodDescription {
                name,
                docs,
                arguments,
                returns,
                error,
                is_default,
                is_idempotent,
                is_oneway,
                is_broadcast,
                is_cancellable,
                is_streaming,
                incoming,
                resumed_by,
                timeout_ms,
                retry: retry.map(|(times, min, max)| RetryDescription::new(times, min, max)),
                result_schema,
                error_schema,
                incoming_schema,
            }
        }
    }

    prop_compose! {
        pub(crate) fn service()(
            (name, queue, docs) in (text(), text(), text()),
            methods in prop::collection::vec(method(), 0..4),
            definitions in prop::collection::btree_map(text(), schema().prop_map(|schema| schema.unwrap_or(true.into())), 0..3),
        ) -> ServiceDescription {
            ServiceDescription { name, queue, docs, methods, definitions }
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(service in service()) {
            let json = serde_json::to_vec(&service).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<ServiceDescription>(&json).unwrap(), &service);
            let message_pack = rmp_serde::to_vec_named(&service).unwrap();
            prop_assert_eq!(&rmp_serde::from_slice::<ServiceDescription>(&message_pack).unwrap(), &service);
            for method in &service.methods {
                let _ = method.signature();
            }
        }
    }
}
