//! What a service is, to keep, send and compare.
//!
//! A description may come from a peer, so it may say anything: nothing here, and nothing that reads one, relies on more than the types.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ArgumentDescriptor, MethodDescriptor, ServiceDescriptor};

/// A service: its name, the queue its requests go to by default, and its methods.
///
/// Made of a [`ServiceDescriptor`], or read with serde from what somebody has kept or sent. Reading is forgiving, so that versions of
/// this crate understand each other: what is missing is empty, and what is unknown is skipped. What is empty is not written.
///
/// ```
/// use rpc_runtime::describe::ServiceDescription;
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
    /// The request queue, unless caller and worker choose another.
    pub queue: String,
    /// The trait's documentation; empty where it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub docs: String,
    /// The methods, in the order of the trait.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodDescription>,
    /// The JSON Schemas that others refer to by `#/definitions/NAME`; empty where none are known.
    ///
    /// All schemas of a description are of [draft 7](https://json-schema.org/draft-07), and say what is written as JSON; MessagePack
    /// has the same structure. They say of a value what its reader needs: a field that has a default is not required.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub definitions: BTreeMap<String, Value>,
}

impl ServiceDescription {
    /// A service without methods.
    #[must_use]
    pub fn new(name: impl Into<String>, queue: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            queue: queue.into(),
            ..Self::default()
        }
    }

    /// The method of that name on the wire.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&MethodDescription> {
        self.methods.iter().find(|method| method.name == name)
    }

    /// The method that serves requests which name none.
    #[must_use]
    pub fn default_method(&self) -> Option<&MethodDescription> {
        self.methods.iter().find(|method| method.is_default)
    }
}

impl From<&ServiceDescriptor> for ServiceDescription {
    fn from(service: &ServiceDescriptor) -> Self {
        let description = Self {
            name: service.name.to_owned(),
            queue: service.queue.to_owned(),
            docs: service.docs.to_owned(),
            methods: service.methods.iter().map(MethodDescription::from).collect(),
            definitions: BTreeMap::new(),
        };
        match service.schemas {
            Some(source) => source.complete(description),
            None => description,
        }
    }
}

/// A method of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MethodDescription {
    /// The name on the wire: AMQP's `type` of its requests.
    pub name: String,
    /// The method's documentation; empty where it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub docs: String,
    /// The arguments, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<ArgumentDescription>,
    /// The Rust type of what it returns where it succeeds; empty where that is not known.
    ///
    /// Of an alias of `Result`, the trait does not tell what it stands for: here and in `error`, it is followed by `::Ok` and `::Err`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub returns: String,
    /// The Rust type of its own error, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Serves requests that name no method.
    #[serde(rename = "default", skip_serializing_if = "is_false")]
    pub is_default: bool,
    /// May run more than once: a redelivered request is run again.
    #[serde(rename = "idempotent", skip_serializing_if = "is_false")]
    pub is_idempotent: bool,
    /// Is confirmed by the broker and never answered.
    #[serde(rename = "oneway", skip_serializing_if = "is_false")]
    pub is_oneway: bool,
    /// How long a caller waits, in milliseconds, unless client or call say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The JSON Schema of what it returns where it succeeds, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_schema: Option<Value>,
    /// The JSON Schema of its own error, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_schema: Option<Value>,
}

impl MethodDescription {
    /// A method without arguments that is answered, runs at most once and has the client's time limit.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The argument of that name.
    #[must_use]
    pub fn argument(&self, name: &str) -> Option<&ArgumentDescription> {
        self.arguments.iter().find(|argument| argument.name == name)
    }

    /// How long a caller waits, unless client or call say otherwise.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }

    /// The method as a trait would have it, to be read: `get_email(id: &str) -> Result<String, Error>`.
    #[must_use]
    pub fn signature(&self) -> String {
        let arguments: Vec<_> = self
            .arguments
            .iter()
            .map(ArgumentDescription::declaration)
            .collect();
        let call = format!("{}({})", self.name, arguments.join(", "));
        match (self.returns.as_str(), self.error.as_deref()) {
            ("" | "()", None) => call,
            (returns, None) => format!("{call} -> {returns}"),
            (returns, Some(error)) => match (returns.strip_suffix("::Ok"), error.strip_suffix("::Err")) {
                (Some(alias), Some(of_error)) if alias == of_error => format!("{call} -> {alias}"),
                _ => format!("{call} -> Result<{returns}, {error}>"),
            },
        }
    }
}

impl From<&MethodDescriptor> for MethodDescription {
    fn from(method: &MethodDescriptor) -> Self {
        let details = method
            .argument_details
            .iter()
            .map(Some)
            .chain(std::iter::repeat(None));
        let arguments = method.arguments.iter().zip(details);
        Self {
            name: method.name.to_owned(),
            docs: method.docs.to_owned(),
            arguments: arguments
                .map(|(name, details)| ArgumentDescription::of(name, details))
                .collect(),
            returns: method.returns.to_owned(),
            error: method.error.map(str::to_owned),
            is_default: method.is_default,
            is_idempotent: method.is_idempotent,
            is_oneway: method.is_oneway,
            timeout_ms: method.timeout.map(milliseconds),
            result_schema: None,
            error_schema: None,
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
    /// The Rust type, as the trait has it; empty where that is not known.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub type_name: String,
    /// Whether a caller may leave it out: the worker reads none, or a default.
    #[serde(rename = "optional", skip_serializing_if = "is_false")]
    pub is_optional: bool,
    /// Other names under which a worker reads it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The JSON Schema of its value, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

impl ArgumentDescription {
    /// An argument that every caller has to send, under its one name.
    #[must_use]
    pub fn new(name: impl Into<String>, type_name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            type_name: type_name.into(),
            ..Self::default()
        }
    }

    fn of(name: &str, details: Option<&ArgumentDescriptor>) -> Self {
        let Some(details) = details else {
            return Self::new(name, "");
        };
        Self {
            name: name.to_owned(),
            type_name: details.type_name.to_owned(),
            is_optional: details.is_optional,
            aliases: details.aliases.iter().map(|&alias| alias.to_owned()).collect(),
            schema: None,
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

fn milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::codec::Codec;

    const GET: MethodDescriptor = MethodDescriptor::new("get", &["id", "limit"])
        .argument_details(&[
            ArgumentDescriptor::new("&str").aliases(&["key"]),
            ArgumentDescriptor::new("Option<u32>").optional(),
        ])
        .returns("Vec<User>")
        .error("Error")
        .docs("Gets.")
        .default_method()
        .idempotent()
        .timeout(Duration::from_secs(2));
    const SEEN: MethodDescriptor = MethodDescriptor::new("seen", &["id"]).oneway();
    const STORE: ServiceDescriptor = ServiceDescriptor::new("Store", "store", &[GET, SEEN]);

    #[test]
    fn says_what_the_descriptor_says_and_is_short() {
        let expected = json!({
            "name": "Store",
            "queue": "store",
            "methods": [
                {
                    "name": "get",
                    "docs": "Gets.",
                    "arguments": [
                        {"name": "id", "type": "&str", "aliases": ["key"]},
                        {"name": "limit", "type": "Option<u32>", "optional": true},
                    ],
                    "returns": "Vec<User>",
                    "error": "Error",
                    "default": true,
                    "idempotent": true,
                    "timeout_ms": 2000,
                },
                {"name": "seen", "arguments": [{"name": "id"}], "oneway": true},
            ],
        });
        assert_eq!(serde_json::to_value(STORE.description()).unwrap(), expected);
    }

    #[test]
    fn what_is_missing_is_empty_and_what_is_unknown_is_skipped() {
        let read = |value| serde_json::from_value::<ServiceDescription>(value).unwrap();
        assert_eq!(read(json!({})), ServiceDescription::default());
        let later = json!({
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
        assert_eq!(read(later), expected);
    }

    #[test]
    fn methods_and_arguments_are_found_by_name() {
        let store = STORE.description();
        assert_eq!(store.default_method().unwrap().name, "get");
        assert_eq!(
            store.method("get").unwrap().timeout(),
            Some(Duration::from_secs(2))
        );
        assert!(
            store
                .method("get")
                .unwrap()
                .argument("limit")
                .unwrap()
                .is_optional
        );
        assert!(store.method("put").is_none() && store.method("seen").unwrap().argument("key").is_none());
    }

    #[test]
    fn signatures_are_those_of_the_trait() {
        let store = STORE.description();
        let signatures: Vec<_> = store.methods.iter().map(MethodDescription::signature).collect();
        assert_eq!(
            signatures,
            [
                "get(id: &str, limit: Option<u32>) -> Result<Vec<User>, Error>",
                "seen(id)"
            ]
        );
        let returning = |returns: &str, error: Option<&str>| {
            let mut method = MethodDescription::new("f");
            (method.returns, method.error) = (returns.to_owned(), error.map(str::to_owned));
            method.signature()
        };
        assert_eq!(returning("()", None), "f()");
        assert_eq!(returning("u64", None), "f() -> u64");
        assert_eq!(
            returning("io::Result<u64>::Ok", Some("io::Result<u64>::Err")),
            "f() -> io::Result<u64>"
        );
        assert_eq!(returning("A::Ok", Some("B::Err")), "f() -> Result<A::Ok, B::Err>");
    }

    fn text() -> impl Strategy<Value = String> {
        ".{0,8}"
    }

    /// Values without floats, which are no part of a schema that anybody writes and of which JSON knows not all.
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
        // `null` is what no schema reads as.
        prop::option::of(value.prop_filter("a schema", |value| !value.is_null()))
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
            timeout_ms in any::<Option<u64>>(),
            (result_schema, error_schema) in (schema(), schema()),
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
                timeout_ms,
                result_schema,
                error_schema,
            }
        }
    }

    prop_compose! {
        pub(in crate::describe) fn service()(
            (name, queue, docs) in (text(), text(), text()),
            methods in prop::collection::vec(method(), 0..4),
            definitions in prop::collection::btree_map(text(), schema().prop_map(|schema| schema.unwrap_or(true.into())), 0..3),
        ) -> ServiceDescription {
            ServiceDescription { name, queue, docs, methods, definitions }
        }
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was_written(service in service()) {
            for codec in [Codec::Json, Codec::MessagePack] {
                let written = codec.encode(&service).unwrap();
                let read: ServiceDescription = codec.decode(&written).unwrap();
                prop_assert_eq!(&read, &service);
                for method in &read.methods {
                    let _ = method.signature();
                }
            }
        }
    }
}
