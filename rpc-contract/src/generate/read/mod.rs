//! Reads a description into the model.
//!
//! Descriptions come from peers: names and schemas may be anything. What cannot be read is
//! [`Type::Any`], or a named type of any value.

mod enums;
mod named;
mod rust_type;
mod schema;
mod spelled;

use std::collections::BTreeSet;

use super::model::{Argument, Method, Retry, Service, Type, Types};
use crate::{ArgumentDescription, MethodDescription, ServiceDescription};
use named::Reader;
use rust_type::RustType;
use serde_json::Value;

/// AMQP's limit on the `type` of a message, which names the method, in bytes.
const MAX_NAME: usize = 255;

/// Reads a service. Methods that cannot be called by their name are left out.
pub(super) fn service(description: &ServiceDescription) -> Service {
    let mut reader = Reader::new(description);
    let service_has_schemas = has_schemas(description);
    let methods = callable(&description.methods).map(|method| MethodReader {
        method,
        service_has_schemas,
    });
    let mut methods: Vec<_> = methods.map(|method| method.read(&mut reader)).collect();
    // Only the first default method counts.
    let defaults = methods.iter_mut().filter(|method| method.is_default);
    defaults.skip(1).for_each(|method| method.is_default = false);
    Service {
        name: description.name.clone(),
        queue: description.queue.clone(),
        docs: description.docs.clone(),
        methods,
        types: reader.finish(),
        // Cannot fail: the keys of all maps are text.
        description: serde_json::to_string(description).unwrap_or_default(),
    }
}

/// Returns the methods that a request can name: the first of each name, without built-in ones.
fn callable(methods: &[MethodDescription]) -> impl Iterator<Item = &MethodDescription> {
    let mut names = BTreeSet::new();
    methods.iter().filter(move |method| {
        let name = method.name.as_str();
        let is_possible = !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with("rpc.");
        is_possible && names.insert(name)
    })
}

/// Reads the types of arguments, results, errors and items that have no schemas, as Rust spells
/// them.
pub(super) fn spelled_types(rust: &[String]) -> (Vec<Type>, Types) {
    let without_definitions = ServiceDescription::default();
    let mut reader = Reader::new(&without_definitions);
    let types = rust.iter().map(|rust| spelled_type(rust, &mut reader)).collect();
    (types, reader.finish())
}

/// Reads the type of an argument, a result, an error or an item that has no schema.
fn spelled_type(rust: &str, reader: &mut Reader<'_>) -> Type {
    // A parameter of an alias of `Result`, which the alias does not show.
    if rust.ends_with("::Ok") || rust.ends_with("::Err") {
        return Type::Any;
    }
    RustType::parse(rust).map_or(Type::Any, |rust| reader.outermost(&rust))
}

/// Whether any argument, result, error or item has a schema, as with `#[service(schema)]`. If so,
/// an argument without one is written or read by functions of the user, in a form that its type
/// does not show.
pub(super) fn has_schemas(description: &ServiceDescription) -> bool {
    description.methods.iter().any(|method| {
        let mut arguments = method.arguments.iter();
        method.result_schema.is_some()
            || method.error_schema.is_some()
            || method.incoming_schema.is_some()
            || arguments.any(|argument| argument.schema.is_some())
    })
}

struct MethodReader<'a> {
    method: &'a MethodDescription,
    service_has_schemas: bool,
}

impl MethodReader<'_> {
    /// Reads the method, without options that contradict each other.
    fn read(&self, reader: &mut Reader<'_>) -> Method {
        let method = self.method;
        // Whether one worker runs it, and answers.
        let is_call = !method.is_oneway && !method.is_broadcast;
        let is_streaming = method.is_streaming && is_call;
        let is_idempotent = method.is_idempotent && !method.is_broadcast;
        let is_job = method.is_oneway && is_idempotent;
        let incoming = method.incoming.as_deref().filter(|_| is_call);
        let is_resumable = is_streaming && is_idempotent && incoming.is_none();
        let error = method.error.as_deref();
        let arguments = self.arguments(reader);
        let has_argument = |name: &String| arguments.iter().any(|argument| argument.name == *name);
        let resumed_by = method
            .resumed_by
            .clone()
            .filter(|name| is_resumable && has_argument(name));
        Method {
            name: method.name.clone(),
            docs: method.docs.clone(),
            returns: if method.is_oneway {
                Type::Unit
            } else {
                self.ty(&method.returns, method.result_schema.as_ref(), "Result", reader)
            },
            error: error.map(|error| self.ty(error, method.error_schema.as_ref(), "Error", reader)),
            incoming: incoming.map(|item| self.ty(item, method.incoming_schema.as_ref(), "Item", reader)),
            is_default: method.is_default && !method.is_broadcast,
            is_idempotent,
            is_oneway: method.is_oneway,
            is_broadcast: method.is_broadcast,
            is_cancellable: method.is_cancellable,
            is_streaming,
            timeout_ms: method.timeout_ms,
            resumed_by,
            retry: method.retry.filter(|_| is_job).map(|retry| Retry {
                times: retry.times,
                min_delay_ms: retry.min_delay_ms,
                max_delay_ms: retry.max_delay_ms,
            }),
            arguments,
        }
    }

    /// Reads the arguments: the first of each name.
    fn arguments(&self, reader: &mut Reader<'_>) -> Vec<Argument> {
        let mut names = BTreeSet::new();
        let arguments = self.method.arguments.iter();
        let arguments = arguments.filter(|argument| names.insert(argument.name.as_str()));
        arguments
            .map(|argument| self.argument(argument, reader))
            .collect()
    }

    fn argument(&self, argument: &ArgumentDescription, reader: &mut Reader<'_>) -> Argument {
        let ty = match &argument.schema {
            // Functions of the user write or read it, in a form that is not known.
            None if self.service_has_schemas => Type::Any,
            schema => self.ty(&argument.type_name, schema.as_ref(), &argument.name, reader),
        };
        Argument {
            name: argument.name.clone(),
            ty,
            is_optional: argument.is_optional,
            aliases: argument.aliases.clone(),
        }
    }

    /// Reads the type of a `part` of the method, given its spelling in Rust and maybe its schema. A
    /// type that needs a name and has none is named after the method and the part.
    fn ty(&self, rust: &str, schema: Option<&Value>, part: &str, reader: &mut Reader<'_>) -> Type {
        let Some(schema) = schema else {
            return spelled_type(rust, reader);
        };
        let context = format!("{} {part}", self.method.name);
        reader.schema(schema, RustType::parse(rust).as_ref(), &context)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generate::model::{Int, Named, Shape};

    fn read(description: serde_json::Value) -> Service {
        service(&serde_json::from_value(description).unwrap())
    }

    #[test]
    fn methods_that_cannot_be_called_are_left_out() {
        let long = "x".repeat(MAX_NAME + 1);
        let service = read(json!({"name": "S", "methods": [
            {"name": "a", "returns": "u8"}, {"name": ""}, {"name": "rpc.ping"}, {"name": long}, {"name": "a"}, {"name": "b"},
        ]}));
        let names: Vec<_> = service
            .methods
            .iter()
            .map(|method| method.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
        let byte = Int {
            bits: 8,
            is_signed: false,
        };
        assert_eq!(service.methods[0].returns, Type::Int(byte));
    }

    #[test]
    fn arguments_have_different_names() {
        let service = read(json!({"methods": [{"name": "a", "resume": "c", "arguments": [
            {"name": "b", "type": "bool"}, {"name": "b", "type": "u8"},
        ]}]}));
        assert_eq!(service.methods[0].arguments.len(), 1);
        assert_eq!(service.methods[0].arguments[0].ty, Type::Bool);
        assert_eq!(service.methods[0].resumed_by, None);
    }

    #[test]
    fn a_value_without_a_schema_among_schemas_may_be_anything() {
        let service = read(json!({"methods": [
            {"name": "a", "arguments": [{"name": "b", "type": "u8"}], "returns": "u8", "result_schema": {"type": "string"}},
            {"name": "job", "oneway": true, "returns": "()", "error": "Refusal"},
        ], "definitions": {"Refusal": {"type": "object", "properties": {}}}}));
        assert_eq!(service.methods[0].arguments[0].ty, Type::Any);
        assert_eq!(service.methods[0].returns, Type::Text);
        assert_eq!(service.methods[1].returns, Type::Unit);
        // Its name leads to a definition.
        assert!(matches!(service.methods[1].error, Some(Type::Named(_))));
        assert!(matches!(service.types.named()[0].shape, Shape::Struct(_)));

        let refusal = json!({"type": "object", "properties": {}});
        let service = read(json!({"methods": [
            {"name": "job", "oneway": true, "returns": "()", "error": "b::Refusal"},
        ], "definitions": {"Refusal": refusal, "Refusal2": refusal}}));
        // It may be either.
        assert!(matches!(
            service.types.named(),
            [Named {
                shape: Shape::Unknown,
                ..
            }]
        ));
    }

    #[test]
    fn options_do_not_contradict_each_other() {
        let service = read(json!({"methods": [
            {"name": "a", "default": true, "stream": true, "oneway": true, "incoming": "u8", "idempotent": true, "retry": {"times": 1}},
            {"name": "b", "default": true, "broadcast": true, "idempotent": true, "stream": true, "retry": {}},
            {"name": "c", "default": true, "stream": true, "arguments": [{"name": "x", "type": "u8"}], "resume": "x"},
        ]}));
        let [a, b, c] = service.methods.as_slice() else {
            panic!("{service:?}");
        };
        assert!(a.is_default && a.retry.is_some() && !a.is_streaming && a.incoming.is_none());
        assert!(!b.is_default && !b.is_idempotent && !b.is_streaming && b.retry.is_none());
        assert!(!c.is_default && c.is_streaming && c.resumed_by.is_none());
    }

    #[test]
    fn parts_of_an_alias_are_not_known() {
        let service = read(
            json!({"methods": [{"name": "a", "returns": "io::Result<u8>::Ok", "error": "io::Result<u8>::Err"}]}),
        );
        assert_eq!(service.methods[0].returns, Type::Any);
        assert_eq!(service.methods[0].error, Some(Type::Any));
        assert!(service.types.named().is_empty());
    }
}
