//! The messages of a document.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::parts::{BINDING_VERSION, add_description, reference};
use super::schemas::Schemas;
use crate::{ArgumentDescription, MethodDescription};

pub(super) const CONTENT_TYPE: &str = "application/json";

/// The codes of faults that this version of rpc-runtime knows.
const FAULT_CODES: [&str; 12] = [
    "unknown_method",
    "bad_request",
    "unsupported_content_type",
    "panicked",
    "interrupted",
    "expired",
    "too_large",
    "reply_too_large",
    "unanswerable",
    "unauthorized",
    "rejected",
    "abandoned",
];

/// The names of a method's messages.
pub(super) struct MethodMessages {
    pub(super) request: String,
    /// What its caller sends while it runs, if it receives a stream.
    pub(super) items: Option<String>,
    /// What it may reply with, apart from a fault. Empty if it is one-way.
    pub(super) replies: Vec<String>,
}

/// Collects messages, each under its name.
pub(super) struct Messages<'a> {
    schemas: Schemas<'a>,
    by_name: Map<String, Value>,
    /// The name of the message that a worker's runtime sends instead of a method's reply.
    fault: String,
}

impl<'a> Messages<'a> {
    /// [`Schemas::definitions`] must have been called, so that it has taken its titles first.
    pub(super) fn new(mut schemas: Schemas<'a>) -> Self {
        let fault = schemas.take_name("Fault");
        let by_name = Map::new();
        Self {
            schemas,
            by_name,
            fault,
        }
    }

    pub(super) fn fault(&self) -> &str {
        &self.fault
    }

    /// Adds the messages of a method. Returns their names.
    pub(super) fn add_method(&mut self, method: &MethodDescription) -> MethodMessages {
        let request = self.schemas.take_name(&format!("{} request", method.name));
        let message = self.request(method, &request);
        self.by_name.insert(request.clone(), message);
        let items = method
            .incoming
            .as_deref()
            .map(|item| self.add_items(method, item));
        let mut replies = Vec::new();
        if !method.is_oneway {
            replies.push(self.add_reply(method, "result", &method.returns, method.result_schema.as_ref()));
            if let Some(error) = &method.error {
                replies.push(self.add_reply(method, "error", error, method.error_schema.as_ref()));
            }
        }
        MethodMessages {
            request,
            items,
            replies,
        }
    }

    /// Returns the message with the request of a method.
    fn request(&mut self, method: &MethodDescription, name: &str) -> Value {
        let arguments = method.arguments.iter();
        let properties: Map<_, _> = arguments
            .clone()
            .map(|argument| (argument.name.clone(), self.argument(argument, name)))
            .collect();
        let required: BTreeSet<_> = arguments
            .filter(|argument| !argument.is_optional)
            .map(|argument| &argument.name)
            .collect();
        let mut payload = json!({"type": "object", "title": name, "properties": properties});
        if !required.is_empty() {
            payload["required"] = json!(required);
        }
        let message_trait = if method.is_oneway { "oneway" } else { "call" };
        let mut message = json!({
            "name": name,
            "title": method.signature(),
            "traits": [reference(&["components", "messageTraits", message_trait])],
            "payload": payload,
            "bindings": binding(&method.name),
        });
        add_description(&mut message, &method.docs);
        message
    }

    fn argument(&mut self, argument: &ArgumentDescription, request: &str) -> Value {
        let schema = schema_or_any(argument.schema.as_ref(), &argument.type_name);
        self.schemas
            .value(&schema, &format!("{request} {}", argument.name))
    }

    /// Adds the message with items that the caller of a method sends. Returns its name.
    fn add_items(&mut self, method: &MethodDescription, type_name: &str) -> String {
        let name = self.schemas.take_name(&format!("{} items", method.name));
        let item = schema_or_any(method.incoming_schema.as_ref(), type_name);
        let message = json!({
            "name": name,
            "title": format!("Items for {}", method.name),
            "description": "Each message has several items, as the protocol of rpc-runtime says.",
            "contentType": CONTENT_TYPE,
            "payload": self.schemas.body(&list_of(item), &name),
            "bindings": binding("rpc.items"),
        });
        self.by_name.insert(name.clone(), message);
        name
    }

    /// Adds a message that a method may reply with. Returns its name. `kind` is the message's
    /// property `type`: `result` or `error`.
    fn add_reply(
        &mut self,
        method: &MethodDescription,
        kind: &str,
        type_name: &str,
        schema: Option<&Value>,
    ) -> String {
        let name = self.schemas.take_name(&format!("{} {kind}", method.name));
        let schema = schema_or_any(schema, type_name);
        // A caller that grants no credit gets the items of a stream as one list.
        let schema = match kind {
            "result" if method.is_streaming => list_of(schema),
            _ => schema,
        };
        let message = json!({
            "name": name,
            "title": format!("The {kind} of {}", method.name),
            "traits": [reference(&["components", "messageTraits", "reply"])],
            "payload": self.schemas.body(&schema, &name),
            "bindings": binding(kind),
        });
        self.by_name.insert(name.clone(), message);
        name
    }

    /// Returns all messages: with the fault, if any method has replies.
    pub(super) fn finish(mut self, has_replies: bool) -> Map<String, Value> {
        if has_replies {
            let fault = fault(&self.fault);
            self.by_name.insert(self.fault, fault);
        }
        self.by_name
    }
}

/// Returns the message that a worker's runtime sends instead of a method's reply.
fn fault(name: &str) -> Value {
    json!({
        "name": name,
        "title": "The error reply of the worker's runtime, sent instead of the method's reply",
        "traits": [reference(&["components", "messageTraits", "reply"])],
        "payload": {
            "type": "object",
            "title": name,
            "properties": {
                "code": {"type": "string", "description": "Other codes are possible.", "examples": FAULT_CODES},
                "message": {"type": "string", "description": "For people."},
            },
            "required": ["code", "message"],
        },
        "bindings": binding("fault"),
    })
}

/// Returns AsyncAPI's message traits: what all requests with a reply, all one-way requests and all
/// replies share. AMQP's properties are among the headers: AsyncAPI has no other place for them.
pub(super) fn traits() -> Value {
    let correlation_id = |what: &str| {
        json!({
            "type": "string",
            "maxLength": 255,
            "description": format!("The property `correlation_id`: {what}."),
        })
    };
    let custom = json!({"type": ["string", "number", "boolean"], "description": "The caller's own headers: 4 KiB in all."});
    json!({
        "call": {
            "contentType": CONTENT_TYPE,
            "correlationId": reference(&["components", "correlationIds", "correlation_id"]),
            "headers": {
                "type": "object",
                "properties": {
                    "correlation_id": correlation_id("any text, such as a random UUID"),
                    "reply_to": {
                        "type": "string",
                        "maxLength": 255,
                        "description": "The property `reply_to`: the caller's reply queue, such as `amq.rabbitmq.reply-to`.",
                    },
                },
                "required": ["reply_to"],
                "additionalProperties": custom,
            },
        },
        "oneway": {
            "contentType": CONTENT_TYPE,
            "headers": {"type": "object", "additionalProperties": custom},
        },
        "reply": {
            "contentType": CONTENT_TYPE,
            "correlationId": reference(&["components", "correlationIds", "correlation_id"]),
            "headers": {"type": "object", "properties": {"correlation_id": correlation_id("that of the request")}},
        },
    })
}

/// Returns the `bindings` of a message, which set its property `type`.
fn binding(message_type: &str) -> Value {
    json!({"amqp": {"messageType": message_type, "bindingVersion": BINDING_VERSION}})
}

fn list_of(item: Value) -> Value {
    json!({"type": "array", "items": item})
}

/// Returns the schema of a type. If it is not known, returns one that allows any value, and names
/// the type if its name is known.
fn schema_or_any(schema: Option<&Value>, type_name: &str) -> Value {
    match (schema, type_name) {
        (Some(schema), _) => schema.clone(),
        (None, "") => json!({}),
        (None, type_name) => json!({"description": format!("`{type_name}`, in Rust.")}),
    }
}
